"""The intake loop over the memory log and a store in a list; the real ones are in tests/stack/test_intake.py."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import asyncpg
import pytest

from notification import names, telemetry
from notification.errors import CryptoError
from notification.ids import new_uuid7
from notification.limits import CRASHES_MAX, INTAKE_BATCH_RECORDS_MAX
from tests.twins.log import MemoryBroker, MemoryLog
from tests.unit.worker.letter_keys import FixedKeys
from worker.admission import Admitted, Reason
from worker.intake import Intake
from worker.log import Partition
from worker.positions import Fenced, Move, Position
from worker.store import Bury, Outcome, Store

HIGH = Partition(names.TOPICS[0], 0)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class ListStore:
    """A Store in memory. `faults` are raised by the next calls; a collapse_key of "poison" always breaks it."""

    def __init__(self) -> None:
        self.places: dict[Partition, int] = {}
        self.topic_ids: dict[Partition, uuid.UUID | None] = {}
        self.stored: list[Admitted] = []
        self.batches: list[int] = []
        self.faults: list[Exception] = []
        self.epochs = 0
        self.poisoned = 0

    def _fail(self) -> None:
        if self.faults:
            raise self.faults.pop(0)

    async def positions(self, partitions: Iterable[Partition]) -> dict[Partition, Position]:
        self._fail()
        return {p: Position(self.places[p], self.topic_ids[p]) for p in partitions if p in self.places}

    async def begin(self, positions: Mapping[Partition, Position]) -> None:
        for partition, (next_offset, topic_id) in positions.items():
            if partition not in self.places:
                self.places[partition], self.topic_ids[partition] = next_offset, topic_id

    async def move(self, moves: Sequence[Move]) -> None:
        for partition, expected, next_offset in moves:
            if self.places.get(partition) != expected:
                raise Fenced("moved")
            self.places[partition] = next_offset

    async def move_to_logs(self, moves: Sequence[Move], topic_ids: Mapping[Partition, uuid.UUID | None]) -> None:
        await self.move(moves)
        self.topic_ids |= topic_ids

    async def raise_epoch(self) -> int:
        self.epochs += 1
        return self.epochs

    async def store(self, events: Sequence[Admitted], moves: Sequence[Move], bury: Bury) -> Outcome:
        self._fail()
        if any(event.collapse_key == "poison" for event in events):
            self.poisoned += 1
            raise KeyError("Canary")
        await bury([])
        await self.move(moves)
        ids = {event.id for event in self.stored}
        self.stored += [event for event in events if event.id not in ids]
        self.batches.append(len(events))
        return Outcome([], 0, 0)


class Loop:
    """A running intake and what it reads and writes."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.store = ListStore()

    def send(self, count: int = 1, **changes: Any) -> None:
        for _ in range(count):
            event = {
                "id": str(new_uuid7()), "tenant_id": "acme", "user_id": "u", "type": "service",
                "payload": {"title": "T", "body": "B"},
            } | changes  # fmt: skip
            self.broker.produce(HIGH.topic, json.dumps(event).encode(), b"acme:u")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Intake]:
        intake = Intake(MemoryLog(self.broker), cast(Store, self.store), FixedKeys(), lambda stored: None, now_ms)
        await intake.start()
        task = asyncio.create_task(intake.run())
        try:
            yield intake
        finally:
            await intake.stop()
            await task

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - the loop under test has no event for this
                await asyncio.sleep(0.01)


@pytest.fixture
def loop_() -> Loop:
    return Loop()


async def test_batches_are_bounded_and_commits_follow(loop_: Loop) -> None:
    loop_.send(2 * INTAKE_BATCH_RECORDS_MAX + 1)
    async with loop_.running():
        await loop_.until(lambda: loop_.broker.commits.get(HIGH) == 2 * INTAKE_BATCH_RECORDS_MAX + 1)
    assert len(loop_.store.stored) == 2 * INTAKE_BATCH_RECORDS_MAX + 1
    assert max(loop_.store.batches) <= INTAKE_BATCH_RECORDS_MAX
    assert loop_.store.places[HIGH] == 2 * INTAKE_BATCH_RECORDS_MAX + 1


@pytest.mark.parametrize("fault", [OSError("down"), TimeoutError(), Fenced("moved"), RuntimeError("ours")])
async def test_any_fault_pauses_and_loses_nothing(loop_: Loop, fault: Exception) -> None:
    async with loop_.running():
        loop_.send(3)
        await loop_.until(lambda: len(loop_.store.stored) == 3)
        loop_.store.faults += [fault] * 3
        loop_.send(3)
        await loop_.until(lambda: len(loop_.store.stored) == 6)
    assert loop_.broker.dead == []


async def test_kafka_away_pauses_and_loses_nothing(loop_: Loop) -> None:
    async with loop_.running():
        loop_.broker.away = True
        loop_.send(3)
        await asyncio.sleep(0.3)
        assert loop_.store.stored == []
        loop_.broker.away = False
        await loop_.until(lambda: len(loop_.store.stored) == 3)


async def test_a_record_that_breaks_the_storing_is_given_up_and_the_others_flow(loop_: Loop) -> None:
    loop_.send(2)
    loop_.send(collapse_key="poison")
    loop_.send(2)
    async with loop_.running():
        await loop_.until(lambda: loop_.store.places.get(HIGH) == 5)
    assert len(loop_.store.stored) == 4
    (letter,) = loop_.broker.dead
    assert dict(letter.headers)["reason"] == Reason.CRASHES.encode()
    assert dict(letter.headers)["offset"] == b"2"
    assert loop_.store.poisoned == 1 + CRASHES_MAX


async def test_a_dead_letter_waits_for_the_store(loop_: Loop) -> None:
    """While PostgreSQL is away a bad record is not dead-lettered again and again."""
    loop_.store.faults += [OSError("down")] * 3
    loop_.broker.produce(HIGH.topic, b"not JSON")
    async with loop_.running():
        await loop_.until(lambda: loop_.store.places.get(HIGH) == 1)
    assert len(loop_.broker.dead) == 1


@pytest.mark.parametrize("has_ids", [True, False])
async def test_a_log_that_forgot_is_read_from_its_beginning(loop_: Loop, has_ids: bool) -> None:
    loop_.broker.has_ids = has_ids
    loop_.send(5)
    async with loop_.running():
        await loop_.until(lambda: len(loop_.store.stored) == 5)
    loop_.broker.forget()
    loop_.send(2)
    async with loop_.running():
        await loop_.until(lambda: len(loop_.store.stored) == 7)
    assert loop_.store.places[HIGH] == 2
    assert loop_.store.epochs == 0


async def test_a_log_that_forgets_while_we_read_is_noticed(loop_: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.intake.LOG_CHECK_MS", 50)
    async with loop_.running():
        loop_.send(5)
        await loop_.until(lambda: len(loop_.store.stored) == 5)
        loop_.broker.forget()
        loop_.send(2)
        await loop_.until(lambda: len(loop_.store.stored) == 7)


async def test_positions_behind_kafkas_commits_raise_the_epoch_once(loop_: Loop) -> None:
    loop_.send(5)
    async with loop_.running():
        await loop_.until(lambda: loop_.broker.commits.get(HIGH) == 5)
    loop_.store.places[HIGH] = 2
    del loop_.store.stored[2:]
    for _ in range(2):
        async with loop_.running():
            await loop_.until(lambda: len(loop_.store.stored) == 5)
    assert loop_.store.epochs == 1


FAULTS_OF_OURS = [
    CryptoError("a seal does not open"),
    asyncpg.InsufficientPrivilegeError("denied"),
    asyncpg.UndefinedTableError("gone"),
]


@pytest.mark.parametrize("fault", FAULTS_OF_OURS)
async def test_a_misconfiguration_gives_no_record_up(loop_: Loop, fault: Exception) -> None:
    async with loop_.running():
        loop_.send(3)
        await loop_.until(lambda: len(loop_.store.stored) == 3)
        loop_.store.faults += [fault] * (2 * CRASHES_MAX + 2)
        loop_.send(3)
        await loop_.until(lambda: len(loop_.store.stored) == 6)
    assert loop_.broker.dead == []
    assert loop_.store.faults == []


async def test_an_end_that_counts_batches_is_no_new_log(loop_: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.intake.LOG_CHECK_MS", 20)
    asked = []
    holds = MemoryLog.holds

    async def counted(log: MemoryLog, offsets: Any) -> set[Partition]:
        asked.append(offsets)
        return await holds(log, offsets)

    monkeypatch.setattr(MemoryLog, "holds", counted)
    restarts = telemetry.LOG_RESTARTED._value.get()
    loop_.broker.counts_batches = True
    loop_.broker.produce_batch(HIGH.topic, [b"not JSON"] * 5, b"k")
    for _ in range(2):  # while it runs, and when it is placed
        async with loop_.running():
            await loop_.until(lambda: loop_.store.places.get(HIGH) == 5)
            await asyncio.sleep(0.5)
    assert len(loop_.broker.dead) == 5
    assert loop_.store.places[HIGH] == 5
    assert loop_.store.epochs == 0
    assert telemetry.LOG_RESTARTED._value.get() == restarts
    assert 1 <= len(asked) <= 4  # not at every check


async def test_a_topic_made_anew_that_outgrew_the_position_is_read_from_its_beginning(
    loop_: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.intake.LOG_CHECK_MS", 50)
    async with loop_.running():
        loop_.send(5)
        await loop_.until(lambda: loop_.broker.commits.get(HIGH) == 5)
        loop_.broker.make_anew(HIGH.topic)
        loop_.send(12)  # while a worker runs: it reads the last seven first
        await loop_.until(lambda: len(loop_.store.stored) == 17)
    loop_.broker.make_anew(HIGH.topic)
    loop_.send(20)  # while none runs
    async with loop_.running():
        await loop_.until(lambda: len(loop_.store.stored) == 37)
        await loop_.until(lambda: loop_.broker.commits.get(HIGH) == 20)
    assert loop_.store.places[HIGH] == 20
    assert loop_.store.topic_ids[HIGH] == loop_.broker.topic_id(HIGH.topic)
    assert loop_.store.epochs == 0


async def test_a_position_of_no_log_is_of_the_log_that_is_there(
    loop_: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that tells no ids, and one day does."""
    monkeypatch.setattr("worker.intake.LOG_CHECK_MS", 50)
    loop_.broker.has_ids = False
    loop_.send(5)
    async with loop_.running():
        await loop_.until(lambda: len(loop_.store.stored) == 5)
    assert loop_.store.topic_ids[HIGH] is None
    loop_.broker.has_ids = True
    restarts = telemetry.LOG_RESTARTED._value.get()
    async with loop_.running():
        await loop_.until(lambda: loop_.store.topic_ids[HIGH] == loop_.broker.topic_id(HIGH.topic))
        loop_.send(1)
        await loop_.until(lambda: len(loop_.store.stored) == 6)
    assert telemetry.LOG_RESTARTED._value.get() == restarts


@pytest.mark.parametrize("has_ids", [True, False])
async def test_a_new_log_that_has_outgrown_forgotten_positions_is_read_from_its_beginning(
    loop_: Loop, monkeypatch: pytest.MonkeyPatch, has_ids: bool
) -> None:
    """Whoever starts a Kafka that forgets deletes the positions first."""
    loop_.broker.has_ids = has_ids
    monkeypatch.setattr("worker.intake.LOG_CHECK_MS", 50)
    async with loop_.running():
        loop_.send(5)
        await loop_.until(lambda: len(loop_.store.stored) == 5)
        loop_.broker.forget()
        loop_.store.places.clear()
        loop_.send(12)
        await loop_.until(lambda: len(loop_.store.stored) == 17)
        loop_.broker.forget()
        loop_.store.places.clear()
        loop_.send(12)  # as long as the one before: nothing to fetch, nothing to be fenced at
        await loop_.until(lambda: len(loop_.store.stored) == 29)
    assert loop_.store.places[HIGH] == 12
    assert loop_.broker.dead == []
