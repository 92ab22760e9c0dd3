"""The memory twin of worker/log.py: a broker in a dictionary, and the EventLog of one group member over it."""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Iterable, Mapping

from notification import names
from notification.limits import LANE_WEIGHTS
from worker.log import Bounds, DeadLetter, LogAway, Partition, Record


@dataclasses.dataclass
class MemoryBroker:
    """What a Kafka would hold. `stamps`: whether it puts its own time on records, as Apache Kafka does."""

    partition_count: int = 2
    stamps: bool = True
    away: bool = False
    records: dict[Partition, list[Record]] = dataclasses.field(default_factory=dict)
    dead: list[DeadLetter] = dataclasses.field(default_factory=list)
    commits: dict[Partition, int] = dataclasses.field(default_factory=dict)
    last_batches: dict[Partition, int] = dataclasses.field(default_factory=dict)
    topic_ids: dict[str, uuid.UUID] = dataclasses.field(default_factory=dict)
    has_ids: bool = True
    counts_batches: bool = False  # say, as Tansu does, that a partition ends where its last batch begins, plus one

    @property
    def partitions(self) -> set[Partition]:
        return {Partition(topic, number) for topic in names.TOPICS for number in range(self.partition_count)}

    def produce(self, topic: str, value: bytes | None, key: bytes | None = None, partition: int = 0) -> Record:
        records = self.records.setdefault(Partition(topic, partition), [])
        now_ms = time.time_ns() // 1_000_000
        record = Record(topic, partition, len(records), key, value, now_ms, now_ms if self.stamps else None)
        records.append(record)
        self.last_batches[record.place] = record.offset
        return record

    def produce_batch(self, topic: str, values: Iterable[bytes], key: bytes | None, partition: int = 0) -> None:
        """Several records as one batch."""
        base = len(self.records.get(Partition(topic, partition), []))
        for value in values:
            self.produce(topic, value, key, partition)
        self.last_batches[Partition(topic, partition)] = base

    def end(self, partition: Partition) -> int:
        """What this broker says is the end."""
        if self.counts_batches and partition in self.last_batches:
            return self.last_batches[partition] + 1
        return len(self.records.get(partition, []))

    def topic_id(self, topic: str) -> uuid.UUID | None:
        return self.topic_ids.setdefault(topic, uuid.uuid4()) if self.has_ids else None

    def make_anew(self, topic: str) -> None:
        """Delete a topic and create it again: its records and commits are gone."""
        self.topic_ids.pop(topic, None)
        for held in (self.last_batches, self.records, self.commits):
            for partition in [partition for partition in held if partition.topic == topic]:
                del held[partition]

    def forget(self) -> None:
        """Be a new broker: no records, no commits."""
        for topic in names.TOPICS:
            self.make_anew(topic)

    def require(self) -> None:
        if self.away:
            raise LogAway("Kafka: away")


class MemoryLog:
    """EventLog over a MemoryBroker; it alone has all partitions."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._offsets: dict[Partition, int] = {}

    async def start(self) -> None:
        self._broker.require()

    def unplaced(self) -> set[Partition]:
        return self._broker.partitions - self._offsets.keys()

    def placed(self) -> set[Partition]:
        return set(self._offsets)

    async def bounds(self, partitions: Iterable[Partition]) -> dict[Partition, Bounds]:
        self._broker.require()
        broker = self._broker
        return {p: Bounds(0, broker.end(p), broker.commits.get(p), broker.topic_id(p.topic)) for p in partitions}

    async def holds(self, offsets: Mapping[Partition, int]) -> set[Partition]:
        self._broker.require()
        return {p for p, offset in offsets.items() if offset < len(self._broker.records.get(p, []))}

    def place(self, offsets: Mapping[Partition, int]) -> None:
        self._offsets.update({p: offset for p, offset in offsets.items() if p in self._broker.partitions})

    def displace(self) -> None:
        self._offsets.clear()

    async def poll(self, records_max: int, timeout_ms: int) -> list[Record]:
        self._broker.require()
        records: list[Record] = []
        shares = [max(1, records_max * weight // sum(LANE_WEIGHTS)) for weight in LANE_WEIGHTS]
        for share in (shares, [records_max] * len(shares)):
            for topic, most in zip(names.TOPICS, share, strict=True):
                records += self._take(topic, min(most, records_max - len(records)))
        if not records:
            await asyncio.sleep(min(timeout_ms, 10) / 1000)
        return records

    def _take(self, topic: str, most: int) -> list[Record]:
        taken: list[Record] = []
        for partition in sorted(p for p in self._offsets if p.topic == topic):
            offset = self._offsets[partition]
            found = self._broker.records.get(partition, [])[offset : offset + most - len(taken)]
            self._offsets[partition] = offset + len(found)
            taken += found
        return taken

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        if not self._broker.away:
            self._broker.commits.update(offsets)

    async def bury(self, letters: Iterable[DeadLetter]) -> None:
        self._broker.require()
        self._broker.dead += letters

    async def close(self) -> None:
        self._offsets.clear()
