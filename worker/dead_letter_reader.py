"""Reading dead letters: the topic as far as it goes now, without a consumer group, so that nobody's place moves.

A letter is called PARTITION-OFFSET, its place in the dead-letter topic: one name as long as Kafka keeps it.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from typing import Final, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from notification import names
from notification.errors import InvalidInput
from notification.limits import KAFKA_REQUEST_DEADLINE_MS
from worker.dead_letters import opened, owner_of
from worker.kafka_clients import stop_client
from worker.log import LogAway, Record

_NAME: Final = re.compile(r"(\d{1,9})-(\d{1,18})", re.ASCII)


class LetterName(NamedTuple):
    """Where a letter lies."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}-{self.offset}"

    @classmethod
    def parse(cls, text: str, field: str) -> Self:
        """Raises InvalidInput naming `field`."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise InvalidInput(field, "must be PARTITION-OFFSET, such as 0-17, as `herald dlq list` prints it")
        return cls(int(found[1]), int(found[2]))


class Letter(NamedTuple):
    """A record of the dead-letter topic, with the headers of worker/dead_letters.py; sealed until `opened`."""

    name: LetterName
    buried_ms: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]

    def header(self, name: str) -> str:
        """Its text; "" where there is none."""
        return self.headers.get(name, "")

    def number(self, name: str) -> int | None:
        """A header that is a number; None where it is not: anybody may write to a topic."""
        text = self.header(name)
        return int(text) if len(text) <= 18 and text.isascii() and text.isdigit() else None

    @property
    def owner(self) -> str | None:
        """Whose key seals it: a tenant's, database.PLATFORM's, or None: no worker sealed it."""
        return owner_of(self.headers)

    def opened(self, key: bytes) -> Self:
        """With the key and value of the record that it was. Raises CryptoError."""
        return self._replace(**opened(self.headers, self.value or b"", key)._asdict())

    def record(self, now_ms: int) -> Record:
        """The record that it was, as it would come again now."""
        partition, offset = self.number("partition") or 0, self.number("offset") or 0
        return Record(self.header("topic"), partition, offset, self.key, self.value, now_ms, now_ms)


async def read(servers: str, wanted: Collection[LetterName] = ()) -> AsyncGenerator[Letter]:
    """Every letter that is there now (of `wanted` only, unless that is empty), in order within a partition.

    Raises LogAway.
    """
    consumer = AIOKafkaConsumer(
        names.TOPIC_DEAD,
        bootstrap_servers=servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=KAFKA_REQUEST_DEADLINE_MS,
    )
    try:
        async with asyncio.timeout(2 * KAFKA_REQUEST_DEADLINE_MS / 1000):
            await consumer.start()
            left = await _place(consumer, wanted)
        missing = set(wanted)
        async for record in _until(consumer, left):
            letter = _letter(record)
            if not wanted or letter.name in missing:
                yield letter
                missing.discard(letter.name)
            if wanted and not missing:
                break
    except (KafkaError, TimeoutError) as error:
        raise LogAway(f"Kafka does not give its dead letters: {type(error).__name__}") from error
    finally:
        await stop_client(consumer)


async def _place(consumer: AIOKafkaConsumer, wanted: Collection[LetterName]) -> dict[TopicPartition, int]:
    """Go to the first letter wanted of each partition. Returns the ends of the partitions that may have some."""
    tps = list(consumer.assignment())
    firsts = await consumer.beginning_offsets(tps)
    ends = await consumer.end_offsets(tps)
    left: dict[TopicPartition, int] = {}
    for tp in tps:
        offsets = [name.offset for name in wanted if name.partition == tp.partition]
        if firsts[tp] < ends[tp] and (offsets or not wanted):
            # An end may be too low (see log.Bounds): what lies behind it is found from the last batch on.
            consumer.seek(tp, max(firsts[tp], min([*offsets, ends[tp] - 1]) if wanted else firsts[tp]))
            left[tp] = ends[tp]
    return left


async def _until(consumer: AIOKafkaConsumer, left: dict[TopicPartition, int]) -> AsyncIterator[ConsumerRecord]:
    """The records up to these ends, and whatever the last fetch brought behind them. Raises TimeoutError."""
    heard_s = time.monotonic()
    while left:
        batches = await consumer.getmany(*left, timeout_ms=KAFKA_REQUEST_DEADLINE_MS)
        for tp, records in batches.items():
            for record in records:
                yield record
            if await consumer.position(tp) >= left[tp]:
                del left[tp]
            heard_s = time.monotonic()
        if time.monotonic() - heard_s > 2 * KAFKA_REQUEST_DEADLINE_MS / 1000:
            raise TimeoutError


def _letter(record: ConsumerRecord) -> Letter:
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
    return Letter(LetterName(record.partition, record.offset), record.timestamp, record.key, record.value, headers)
