"""The event log: Kafka behind one small interface; tests/twins/log.py is its twin under the same contract tests.

The log never decides where to read: a partition it is assigned is *unplaced* and yields nothing until its reader
has called `place` with the position from PostgreSQL. Kafka's own commits follow, for lag tools and one check.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, MessageSizeTooLargeError

from notification import names
from notification.errors import Unavailable
from notification.limits import (
    BUS_MESSAGE_BYTES_MAX,
    DEAD_LETTER_DEADLINE_MS,
    INTAKE_BATCH_RECORDS_MAX,
    KAFKA_COMMIT_DEADLINE_MS,
    KAFKA_FETCH_WAIT_MS,
    KAFKA_REBALANCE_DEADLINE_MS,
    KAFKA_REQUEST_DEADLINE_MS,
    KAFKA_SESSION_MS,
    LANE_WEIGHTS,
    STARTUP_DEADLINE_S,
)
from worker import outage
from worker.kafka_clients import start_producer, stop_client
from worker.topic_ids import topic_ids

_log = structlog.get_logger("log")
_LOG_APPEND_TIME: Final = 1  # ConsumerRecord.timestamp_type: the broker's clock, not the producer's
_DEAD_LETTER_BYTES_MAX: Final = 2 * BUS_MESSAGE_BYTES_MAX  # Kafka's 1 MB per record, and our headers


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class Record(NamedTuple):
    """A record as it was read. `timestamp_ms` as Kafka has it; `broker_ms` is None unless the broker stamped it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    broker_ms: int | None

    @property
    def place(self) -> Partition:
        return Partition(self.topic, self.partition)


class Bounds(NamedTuple):
    """What a broker says of a partition: offsets first <= offset < end; `committed` is the group's commit, if any.

    `end` may be too low: the embedded broker counts the last batch as one record. EventLog.holds knows better.
    `topic_id` is another one once the topic was deleted and made anew; None: the broker has no ids.
    """

    first: int
    end: int
    committed: int | None
    topic_id: uuid.UUID | None


class DeadLetter(NamedTuple):
    """A record for the dead-letter topic."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class LogAway(Unavailable):
    """Kafka cannot be reached, or does not know what we ask about."""


class TooLarge(Unavailable):
    """The broker refuses a dead letter for its size, now and for ever."""


class EventLog(Protocol):
    """Records of the group's share of the event topics. Whatever needs Kafka raises LogAway while it is away."""

    async def start(self) -> None:
        """Join the group. Raises Unavailable when Kafka does not answer within STARTUP_DEADLINE_S."""

    def unplaced(self) -> set[Partition]:
        """The assigned partitions that wait for `place`."""

    def placed(self) -> set[Partition]:
        """The assigned partitions that are read."""

    async def bounds(self, partitions: Iterable[Partition]) -> dict[Partition, Bounds]:
        """What each of these partitions holds. Raises LogAway, also for a topic that is gone."""

    async def holds(self, offsets: Mapping[Partition, int]) -> set[Partition]:
        """The partitions that have a record at this offset, or a later one: read, whatever `bounds` says.

        Raises LogAway. What is read elsewhere is not disturbed.
        """

    def place(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets on; one that was lost meanwhile is left out."""

    def displace(self) -> None:
        """Make every assigned partition unplaced: what was read since must be read again."""

    async def poll(self, records_max: int, timeout_ms: int) -> list[Record]:
        """Up to `records_max` records of placed partitions, in order within a partition; none: nothing came.

        High topics come first, with LANE_WEIGHTS' shares while all of them have records.
        """

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tell Kafka where we stand. Best effort: positions are PostgreSQL's."""

    async def bury(self, letters: Iterable[DeadLetter]) -> None:
        """Put letters on the dead-letter topic; returns when all in-sync replicas have them.

        Raises TooLarge when the broker refuses one for its size.
        """

    async def close(self) -> None:
        """Leave the group."""


class KafkaLog:
    """EventLog over aiokafka."""

    def __init__(
        self,
        servers: str,
        group: str = names.CONSUMER_GROUP,
        fetch_wait_ms: int = KAFKA_FETCH_WAIT_MS,
        member: str = "",
    ) -> None:
        """`member`: a name that survives a restart (KIP-345); the next one takes over without a rebalance."""
        self._servers = servers
        self._group = group
        self._fetch_wait_ms = fetch_wait_ms
        self._member = member or None
        self._placed: set[Partition] = set()
        self._consumer: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None
        self._broken = False  # the consumer has said that it will not work again

    async def start(self) -> None:
        server = f"Kafka at {self._servers}"
        # The producer first: it needs no group, so a server that is down is found before we join one.
        self._producer = await outage.until_up(self._start_producer, server, (KafkaError,), STARTUP_DEADLINE_S)
        self._consumer = await outage.until_up(self._start_consumer, server, (KafkaError,), STARTUP_DEADLINE_S)

    def _start_producer(self) -> Awaitable[AIOKafkaProducer]:
        return start_producer(self._servers, _DEAD_LETTER_BYTES_MAX, DEAD_LETTER_DEADLINE_MS)

    async def _start_consumer(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            group_id=self._group,
            group_instance_id=self._member,
            enable_auto_commit=False,
            # Where an offset is out of range: never skip what is there; the store leaves out what it has.
            auto_offset_reset="earliest",
            session_timeout_ms=KAFKA_SESSION_MS,
            heartbeat_interval_ms=KAFKA_SESSION_MS // 3,
            rebalance_timeout_ms=KAFKA_REBALANCE_DEADLINE_MS,
            request_timeout_ms=KAFKA_REQUEST_DEADLINE_MS,
            metadata_max_age_ms=KAFKA_REQUEST_DEADLINE_MS,
            max_poll_records=INTAKE_BATCH_RECORDS_MAX,
            fetch_max_wait_ms=self._fetch_wait_ms,
        )
        consumer.subscribe(names.TOPICS, listener=_Rebalance(self._placed))
        try:
            await consumer.start()
        except BaseException:  # a cancelled start as well: it would stay in the group
            await stop_client(consumer)
            raise
        return consumer

    def unplaced(self) -> set[Partition]:
        return self._assigned() - self._placed

    def placed(self) -> set[Partition]:
        return self._assigned() & self._placed

    def _assigned(self) -> set[Partition]:
        assert self._consumer is not None
        return set() if self._broken else {Partition(*tp) for tp in self._consumer.assignment()}

    async def bounds(self, partitions: Iterable[Partition]) -> dict[Partition, Bounds]:
        assert self._consumer is not None
        assert self._producer is not None
        tps = [TopicPartition(*partition) for partition in partitions]
        try:
            # aiokafka waits without end for a partition that does not exist.
            async with asyncio.timeout(KAFKA_REQUEST_DEADLINE_MS / 1000):
                # Ids first: with an id that is older than the offsets, the next look finds the new one.
                ids = await topic_ids(self._producer.client, {tp.topic for tp in tps})
                firsts = await self._consumer.beginning_offsets(tps)
                ends = await self._consumer.end_offsets(tps)
                commits = [await self._consumer.committed(tp) for tp in tps]
        except (KafkaError, TimeoutError) as error:
            raise LogAway(f"Kafka does not tell what its partitions hold: {type(error).__name__}") from error
        return {
            Partition(*tp): Bounds(firsts[tp], ends[tp], commit, ids.get(tp.topic))
            for tp, commit in zip(tps, commits, strict=True)
        }

    async def holds(self, offsets: Mapping[Partition, int]) -> set[Partition]:
        wanted = {TopicPartition(*partition): offset for partition, offset in offsets.items()}
        # Of no group, and not the one we read with: that one's place and what it has fetched stay as they are.
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=KAFKA_REQUEST_DEADLINE_MS,
            fetch_max_wait_ms=self._fetch_wait_ms,
        )
        try:
            async with asyncio.timeout(KAFKA_REQUEST_DEADLINE_MS / 1000):
                await consumer.start()
                consumer.assign(list(wanted))
                firsts = await consumer.beginning_offsets(list(wanted))
                ends = await consumer.end_offsets(list(wanted))
            # The end is where the last record or, embedded, the last batch begins, plus one: read from there.
            filled = {tp: min(offset, ends[tp] - 1) for tp, offset in wanted.items() if firsts[tp] < ends[tp]}
            for tp, offset in filled.items():
                consumer.seek(tp, offset)
            lasts = await _last_offsets(consumer, set(filled))
        except (KafkaError, TimeoutError) as error:
            raise LogAway(f"Kafka does not tell what its partitions hold: {type(error).__name__}") from error
        finally:
            await stop_client(consumer)
        return {Partition(*tp) for tp, last in lasts.items() if last >= wanted[tp]}

    def place(self, offsets: Mapping[Partition, int]) -> None:
        assert self._consumer is not None
        for partition, offset in offsets.items():
            try:
                self._consumer.seek(TopicPartition(*partition), offset)
            except IllegalStateError:  # taken away since: its new owner places it
                continue
            self._placed.add(partition)

    def displace(self) -> None:
        self._placed.clear()

    async def poll(self, records_max: int, timeout_ms: int) -> list[Record]:
        if self._broken or self._has_ended():
            await self._renew()
        placed = self.placed()
        if not placed:  # getmany() of no partitions means all of them
            await asyncio.sleep(timeout_ms / 1000)
            return []
        try:
            records = await self._poll_shares(placed, records_max)
            if not records:
                # During a rebalance aiokafka waits for its end, however long.
                async with asyncio.timeout(2 * timeout_ms / 1000):
                    records = await self._get(placed, records_max, timeout_ms)
        except TimeoutError:
            return []
        except KafkaError as error:
            # What aiokafka raises when its coordination with the group has ended for good; any other type is of one
            # fetch, and a new consumer would only disturb the group.
            self._broken = type(error) is KafkaError
            raise LogAway(f"Kafka: {type(error).__name__}") from error
        return records

    def _has_ended(self) -> bool:
        """aiokafka ends its fetching for good at an answer it can make no sense of, and tells nobody who polls."""
        assert self._consumer is not None
        return bool(self._consumer._fetcher.error_future.done())

    async def _renew(self) -> None:
        """A consumer whose coordination has ended stays dead: take a new one."""
        assert self._consumer is not None
        _log.warning("consumer_renewed")
        self._broken = True  # until there is one: the stopped one still names its partitions
        try:
            await stop_client(self._consumer)
            async with asyncio.timeout((KAFKA_SESSION_MS + KAFKA_REBALANCE_DEADLINE_MS) / 1000):
                self._consumer = await self._start_consumer()
        except (KafkaError, TimeoutError) as error:
            raise LogAway(f"Kafka: {type(error).__name__}") from error
        self._broken = False

    async def _poll_shares(self, placed: set[Partition], records_max: int) -> list[Record]:
        """What has been fetched already: each priority its share, then the rest of the room, high first."""
        by_priority = [{p for p in placed if p.topic == topic} for topic in names.TOPICS]
        shares = [max(1, records_max * weight // sum(LANE_WEIGHTS)) for weight in LANE_WEIGHTS]
        records: list[Record] = []
        for share in (shares, [records_max] * len(shares)):
            for partitions, most in zip(by_priority, share, strict=True):
                room = min(most, records_max - len(records))
                if partitions and room > 0:
                    records += await self._get(partitions, room, 0)
        return records

    async def _get(self, partitions: set[Partition], records_max: int, timeout_ms: int) -> list[Record]:
        assert self._consumer is not None
        tps = [TopicPartition(*partition) for partition in partitions]
        if self._consumer.assignment().isdisjoint(tps):
            return []
        batches = await self._consumer.getmany(*tps, timeout_ms=timeout_ms, max_records=records_max)
        return [_record(record) for batch in batches.values() for record in batch]

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        assert self._consumer is not None
        commits = {TopicPartition(*partition): offset for partition, offset in offsets.items()}
        try:
            # aiokafka tries for as long as Kafka is away.
            async with asyncio.timeout(KAFKA_COMMIT_DEADLINE_MS / 1000):
                await self._consumer.commit(commits)
        except (KafkaError, TimeoutError) as error:  # a rebalance, or Kafka is away: the next commit says it again
            _log.info("commit_failed", error=type(error).__name__)

    async def bury(self, letters: Iterable[DeadLetter]) -> None:
        assert self._producer is not None
        try:
            async with asyncio.timeout(DEAD_LETTER_DEADLINE_MS / 1000):
                acks = [
                    await self._producer.send(names.TOPIC_DEAD, letter.value, letter.key, headers=letter.headers)
                    for letter in letters
                ]
                await asyncio.gather(*acks)
        except MessageSizeTooLargeError as error:
            raise TooLarge("the dead-letter topic takes no record of that size") from error
        except (KafkaError, TimeoutError) as error:
            if isinstance(error, KafkaError) and not error.retriable:
                await self._renew_producer()
            raise LogAway(f"Kafka did not take a dead letter: {type(error).__name__}") from error

    async def _renew_producer(self) -> None:
        """An idempotent producer may have come to an end that it does not leave: take a new one."""
        assert self._producer is not None
        _log.warning("producer_renewed")
        try:
            async with asyncio.timeout(KAFKA_REQUEST_DEADLINE_MS / 1000):
                producer = await self._start_producer()
        except (KafkaError, TimeoutError) as error:
            raise LogAway(f"Kafka: {type(error).__name__}") from error
        ended, self._producer = self._producer, producer
        await stop_client(ended)

    async def close(self) -> None:
        for part in (self._consumer, self._producer):
            if part is not None:
                await stop_client(part)
        self._consumer = self._producer = None


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Every rebalance unplaces all: whoever held a partition meanwhile has moved its position."""

    def __init__(self, placed: set[Partition]) -> None:
        self._placed = placed

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._placed.clear()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._placed.clear()
        _log.info("partitions_assigned", count=len(assigned))


async def _last_offsets(consumer: AIOKafkaConsumer, partitions: set[TopicPartition]) -> dict[TopicPartition, int]:
    """The last offset of the first fetch of each partition; one that gives no record in time is left out."""
    lasts: dict[TopicPartition, int] = {}
    deadline_s = time.monotonic() + KAFKA_REQUEST_DEADLINE_MS / 1000
    while (left := partitions - lasts.keys()) and (wait_s := deadline_s - time.monotonic()) > 0:
        batches = await consumer.getmany(*left, timeout_ms=int(wait_s * 1000))
        lasts |= {tp: records[-1].offset for tp, records in batches.items() if records}
    return lasts


def _record(record: ConsumerRecord) -> Record:
    stamped = record.timestamp_type == _LOG_APPEND_TIME
    return Record(
        record.topic,
        record.partition,
        record.offset,
        record.key,
        record.value,
        record.timestamp,
        record.timestamp if stamped else None,
    )
