"""worker/dead_letter_reader.py on a real Kafka, which other tests write to as well: ours carry a marker."""

import secrets
from collections.abc import AsyncIterator, Iterable

import pytest
from aiokafka import AIOKafkaProducer

from devstack.ports import free_ports
from notification import names
from notification.settings import Settings
from worker.dead_letter_reader import Letter, LetterName, read
from worker.log import LogAway

pytestmark = pytest.mark.stack


async def bury(settings: Settings, values: Iterable[bytes]) -> list[LetterName]:
    """Letters as one batch: the embedded broker then says that the topic ends behind the first of them."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_servers, acks="all") as producer:
        batch = producer.create_batch()
        count = 0
        for value in values:
            assert batch.append(key=b"k", value=value, timestamp=None, headers=[("reason", b"schema")]) is not None
            count += 1
        batch.close()
        first = await (await producer.send_batch(batch, names.TOPIC_DEAD, partition=0))
    return [LetterName(0, first.offset + number) for number in range(count)]


async def collect(letters: AsyncIterator[Letter]) -> list[Letter]:
    return [letter async for letter in letters]


async def test_all_letters_are_read_in_their_order(servers: Settings) -> None:
    marker = secrets.token_bytes(8)
    values = [marker + bytes([number]) for number in range(7)]
    buried = await bury(servers, values[:3]) + await bury(servers, values[3:])
    for _ in range(2):  # reading takes nothing away
        ours = [one for one in await collect(read(servers.kafka_servers)) if (one.value or b"").startswith(marker)]
        assert [one.value for one in ours] == values
        assert [one.name for one in ours] == buried
        assert {(one.key, one.header("reason"), one.header("topic")) for one in ours} == {(b"k", "schema", "")}


async def test_letters_are_found_by_their_names(servers: Settings) -> None:
    buried = await bury(servers, [b"%d" % number for number in range(5)])
    last = await bury(servers, [b"5", b"6", b"7"])
    wanted = {buried[1], buried[4], last[2]}
    found = await collect(read(servers.kafka_servers, wanted))
    assert [(one.name, one.value) for one in found] == [(buried[1], b"1"), (buried[4], b"4"), (last[2], b"7")]
    assert [one.value for one in await collect(read(servers.kafka_servers, {last[1]}))] == [b"6"]
    missing = {LetterName(0, last[2].offset + 1_000_000), LetterName(7, 0)}
    assert await collect(read(servers.kafka_servers, missing)) == []
    assert [one.name for one in await collect(read(servers.kafka_servers, missing | {last[0]}))] == [last[0]]


async def test_a_kafka_that_is_away_is_said() -> None:
    with pytest.raises(LogAway):
        await collect(read(f"127.0.0.1:{free_ports(1)[0]}"))
