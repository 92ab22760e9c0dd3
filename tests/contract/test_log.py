"""What every EventLog promises: the same tests over Kafka and over its memory twin."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError

from devstack.ports import free_ports
from devstack.servers import Server
from devstack.topics import create_topics
from notification import names
from notification.limits import STARTUP_DEADLINE_S
from notification.settings import Settings
from tests.conftest import kafka_kind
from tests.twins.log import MemoryBroker, MemoryLog
from worker.log import Bounds, DeadLetter, EventLog, KafkaLog, LogAway, Partition, Record

HIGH, MEDIUM, LOW = (Partition(topic, 0) for topic in names.TOPICS)


class World(Protocol):
    """A broker, and logs over it."""

    def log(self) -> EventLog: ...
    async def produce(self, partition: Partition, *values: bytes | None, key: bytes | None = None) -> None: ...
    async def produce_batch(self, partition: Partition, *values: bytes) -> None: ...
    async def make_anew(self, topic: str) -> None: ...
    async def dead(self) -> list[DeadLetter]: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.broker = MemoryBroker(counts_batches=True)

    def log(self) -> EventLog:
        return MemoryLog(self.broker)

    async def produce(self, partition: Partition, *values: bytes | None, key: bytes | None = None) -> None:
        for value in values:
            self.broker.produce(partition.topic, value, key, partition.partition)

    async def produce_batch(self, partition: Partition, *values: bytes) -> None:
        self.broker.produce_batch(partition.topic, values, b"k", partition.partition)

    async def make_anew(self, topic: str) -> None:
        self.broker.make_anew(topic)

    async def dead(self) -> list[DeadLetter]:
        return self.broker.dead


class KafkaWorld:
    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.group = f"g{secrets.token_hex(4)}"

    def log(self) -> EventLog:
        return KafkaLog(self.servers, self.group)

    async def produce(self, partition: Partition, *values: bytes | None, key: bytes | None = None) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.servers, acks="all") as producer:
            for value in values:
                await producer.send_and_wait(partition.topic, value, key, partition=partition.partition)

    async def produce_batch(self, partition: Partition, *values: bytes) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.servers, acks="all") as producer:
            batch = producer.create_batch()
            for value in values:
                assert batch.append(key=b"k", value=value, timestamp=None) is not None
            batch.close()
            await (await producer.send_batch(batch, partition.topic, partition=partition.partition))

    async def make_anew(self, topic: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        try:
            await admin.delete_topics([topic])
            async with asyncio.timeout(30):
                while topic in await admin.list_topics():  # noqa: ASYNC110 - Kafka has no event for it
                    await asyncio.sleep(0.1)
            await admin.create_topics([NewTopic(topic, 2, 1)])
        finally:
            await admin.close()

    async def dead(self) -> list[DeadLetter]:
        async with AIOKafkaConsumer(
            names.TOPIC_DEAD, bootstrap_servers=self.servers, auto_offset_reset="earliest"
        ) as consumer:
            batches = await consumer.getmany(timeout_ms=2000)
        return [DeadLetter(r.key, r.value, list(r.headers)) for batch in batches.values() for r in batch]


class Kafka:
    """A broker of this module's own."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(kafka_port=free_ports(1)[0], kafka_partitions=2, data_dir=str(folder))
        self.server: Server = kafka_kind()(self.settings)

    async def start(self) -> None:
        await self.server.start()
        await create_topics(self.settings)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    broker = Kafka(tmp_path_factory.mktemp("kafka"))
    asyncio.run(broker.start())
    yield broker.settings.kafka_servers
    asyncio.run(broker.server.stop())


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.stack)])
def world(request: Any) -> World:
    return MemoryWorld() if request.param == "memory" else KafkaWorld(request.getfixturevalue("kafka"))


@pytest.fixture
async def log(world: World) -> AsyncIterator[EventLog]:
    log = world.log()
    await log.start()
    await _until_assigned(log)
    try:
        yield log
    finally:
        await log.close()


async def _until_assigned(log: EventLog) -> None:
    async with asyncio.timeout(30):
        while len(log.unplaced()) < 6:
            await log.poll(1, 100)


async def place_at_end(log: EventLog) -> dict[Partition, Bounds]:
    bounds = await log.bounds(log.unplaced() | log.placed())
    log.place({partition: bound.end for partition, bound in bounds.items()})
    return bounds


async def poll(log: EventLog, count: int, at_once: int = 100) -> list[Record]:
    """Poll until `count` records are there."""
    records: list[Record] = []
    async with asyncio.timeout(10):
        while len(records) < count:
            records += await log.poll(at_once, 100)
    return records


async def test_nothing_is_read_before_it_is_placed(world: World, log: EventLog) -> None:
    await world.produce(HIGH, b"1")
    assert await log.poll(10, 300) == []
    assert log.placed() == set()
    assert HIGH in log.unplaced()


async def test_records_come_from_the_place_on_and_in_order(world: World, log: EventLog) -> None:
    end = (await place_at_end(log))[HIGH].end
    await world.produce(HIGH, b"1", b"2", None, b"3", key=b"k")
    records = await poll(log, 4)
    assert [(r.offset, r.key, r.value) for r in records] == [
        (end, b"k", b"1"),
        (end + 1, b"k", b"2"),
        (end + 2, b"k", None),
        (end + 3, b"k", b"3"),
    ]
    assert {r.place for r in records} == {HIGH}
    log.place({HIGH: end + 2})
    assert [r.offset for r in await poll(log, 2)] == [end + 2, end + 3]


async def test_what_is_displaced_is_read_again_once_placed(world: World, log: EventLog) -> None:
    end = (await place_at_end(log))[LOW].end
    await world.produce(LOW, b"1", b"2")
    await poll(log, 2)
    log.displace()
    assert log.placed() == set()
    assert await log.poll(10, 100) == []
    log.place({LOW: end})
    assert [r.value for r in await poll(log, 2)] == [b"1", b"2"]


async def test_a_batch_is_bounded_and_high_comes_first(world: World, log: EventLog) -> None:
    bounds = await log.bounds(log.unplaced())
    for partition in (LOW, MEDIUM, HIGH):
        await world.produce(partition, *[b"x"] * 20)
    log.place({partition: bound.end for partition, bound in bounds.items()})
    await asyncio.sleep(1)  # Kafka's consumer fetches ahead: each partition's 20 in one answer
    first = await log.poll(10, 100)
    assert len(first) == 10
    assert [r.topic for r in first] == [HIGH.topic] * 7 + [MEDIUM.topic] * 2 + [LOW.topic]
    rest = await poll(log, 50, at_once=10)
    offsets: dict[Partition, list[int]] = {}
    for record in [*first, *rest]:
        offsets.setdefault(record.place, []).append(record.offset)
    assert all(numbers == sorted(set(numbers)) and len(numbers) == 20 for numbers in offsets.values())


async def test_bounds_and_commits(world: World, log: EventLog) -> None:
    before = await log.bounds([HIGH, LOW])
    await world.produce(HIGH, b"1", b"2")
    await log.commit({HIGH: before[HIGH].end + 1})
    after = await log.bounds([HIGH, LOW])
    assert after[HIGH] == Bounds(
        before[HIGH].first, before[HIGH].end + 2, before[HIGH].end + 1, before[HIGH].topic_id
    )
    assert after[LOW] == before[LOW]
    await log.commit({HIGH: before[HIGH].end})  # back: PostgreSQL's position is what counts
    assert (await log.bounds([HIGH]))[HIGH].committed == before[HIGH].end


async def test_a_topic_made_anew_has_another_id(world: World, log: EventLog) -> None:
    before = await log.bounds([HIGH, MEDIUM, LOW])
    assert len({bounds.topic_id for bounds in before.values()} - {None}) == 3
    await world.make_anew(LOW.topic)
    async with asyncio.timeout(30):
        while (after := await bounds_of(log, LOW)).topic_id == before[LOW].topic_id:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.1)
    assert after.topic_id is not None
    assert (await log.bounds([HIGH]))[HIGH].topic_id == before[HIGH].topic_id


async def bounds_of(log: EventLog, partition: Partition) -> Bounds:
    """Also while its topic is away."""
    while True:
        try:
            return (await log.bounds([partition]))[partition]
        except LogAway:
            await asyncio.sleep(0.1)


async def test_what_a_log_holds_is_read_from_it(world: World, log: EventLog) -> None:
    """Whatever the broker's end is: the embedded one counts a batch as one record."""
    first = (await place_at_end(log))[MEDIUM].end
    for count in (3, 5):
        await world.produce_batch(MEDIUM, *[b"x"] * count)
    records = await poll(log, 8)
    first = records[0].offset
    assert [r.offset for r in records] == list(range(first, first + 8))
    assert (await log.bounds([MEDIUM]))[MEDIUM].end <= first + 8
    for offset in (first, first + 2, first + 3, first + 7):
        assert await log.holds({MEDIUM: offset}) == {MEDIUM}
    for offset in (first + 8, first + 100):
        assert await log.holds({MEDIUM: offset}) == set()
    await world.produce(MEDIUM, b"next")  # our place in the log is where it was
    assert [r.offset for r in await poll(log, 1)] == [first + 8]
    assert await log.holds({MEDIUM: first + 8, LOW: 10_000}) == {MEDIUM}


async def test_an_empty_log_holds_nothing_and_says_so_at_once(world: World, log: EventLog) -> None:
    empty = Partition(LOW.topic, 1)
    began_s = time.monotonic()
    assert await log.holds({empty: 4}) == set()
    assert time.monotonic() - began_s < 2


async def test_a_dead_letter_is_there_unchanged_once_buried(world: World, log: EventLog) -> None:
    marker = secrets.token_bytes(8)
    letters = [
        DeadLetter(marker, b"\x00\xff not JSON", [("reason", b"schema"), ("detail", "größe: x".encode())]),
        DeadLetter(None, marker, [("reason", b"not_json")]),
        DeadLetter(marker, None, []),
    ]
    await log.bury(letters)
    found = [letter for letter in await world.dead() if marker in (letter.key, letter.value)]
    assert found == letters


@pytest.mark.stack
async def test_a_kafka_that_is_away_is_said(tmp_path: Path) -> None:
    kafka = Kafka(tmp_path)
    await kafka.start()
    log = KafkaLog(kafka.settings.kafka_servers, "g")
    await log.start()
    while not log.unplaced():
        await log.poll(1, 100)
    await kafka.server.stop()
    try:
        with pytest.raises(LogAway):
            await log.bounds([HIGH])
        with pytest.raises(LogAway):
            await log.holds({HIGH: 0})
        with pytest.raises(LogAway):
            await log.bury([DeadLetter(None, b"x", [])])
        await log.commit({HIGH: 0})
    finally:
        await log.close()


async def test_a_kafka_that_stays_down_at_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert STARTUP_DEADLINE_S >= 10
    monkeypatch.setattr("worker.log.STARTUP_DEADLINE_S", 1)
    servers = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(Exception, match=f"Kafka at {servers} did not answer within 1 s"):
        await KafkaLog(servers, "g").start()


@pytest.mark.stack
async def test_a_consumer_whose_fetching_ended_is_replaced(kafka: str) -> None:
    """aiokafka ends it at an answer of a partition that it did not ask for; polls say nothing of it."""
    world = KafkaWorld(kafka)
    log = KafkaLog(kafka, world.group)
    await log.start()
    try:
        await _until_assigned(log)
        await place_at_end(log)
        consumer = log._consumer
        assert consumer is not None
        fetching = consumer._fetcher.error_future
        fetching.cancel()
        await asyncio.wait({fetching})
        await _until_assigned(log)
        assert log._consumer is not consumer
        await place_at_end(log)
        await world.produce(HIGH, b"1")
        assert [r.value for r in await poll(log, 1)] == [b"1"]
    finally:
        await log.close()


@pytest.mark.stack
async def test_a_consumer_whose_coordination_ended_is_replaced(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka gives its group up for good on an error that it does not know, and says so at each poll."""

    async def getmany(*partitions: Any, **options: Any) -> None:
        raise KafkaError("Unexpected error during coordination")

    world = KafkaWorld(kafka)
    log = KafkaLog(kafka, world.group)
    await log.start()
    try:
        await _until_assigned(log)
        await place_at_end(log)
        consumer = log._consumer
        assert consumer is not None
        monkeypatch.setattr(consumer, "getmany", getmany)
        with pytest.raises(LogAway):
            await poll(log, 1)
        await _until_assigned(log)
        assert log._consumer is not consumer
        await place_at_end(log)
        await world.produce(HIGH, b"1")
        assert [r.value for r in await poll(log, 1)] == [b"1"]
    finally:
        await log.close()


@pytest.mark.stack
async def test_a_consumer_whose_replacement_fails_is_replaced_by_the_next_try(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Kafka restarts meanwhile: the stopped one would name its partitions for ever."""
    log = KafkaLog(kafka, KafkaWorld(kafka).group)
    await log.start()
    start = log._start_consumer
    failures = [KafkaConnectionError("down")]

    async def start_later() -> AIOKafkaConsumer:
        if failures:
            raise failures.pop()
        return await start()

    try:
        await _until_assigned(log)
        await place_at_end(log)
        consumer = log._consumer
        assert consumer is not None
        monkeypatch.setattr(log, "_start_consumer", start_later)
        fetching = consumer._fetcher.error_future
        fetching.cancel()
        await asyncio.wait({fetching})
        with pytest.raises(LogAway):
            await poll(log, 1)
        assert (log.placed(), log.unplaced()) == (set(), set())
        await _until_assigned(log)
        assert log._consumer is not consumer
    finally:
        await log.close()


@pytest.mark.stack
async def test_a_dead_letter_producer_that_ended_is_replaced(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(*_: Any, **__: Any) -> None:
        raise KafkaError("Unexpected error during batch delivery")

    world = KafkaWorld(kafka)
    log = KafkaLog(kafka, world.group)
    await log.start()
    letter = DeadLetter(secrets.token_bytes(8), b"v", [])
    try:
        monkeypatch.setattr(log._producer, "send", send)
        with pytest.raises(LogAway):
            await log.bury([letter])
        await log.bury([letter])
    finally:
        await log.close()
    assert letter.key in {dead.key for dead in await world.dead()}
