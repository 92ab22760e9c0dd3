"""Intake: Kafka to PostgreSQL. Poll, admit, store, hand on; the position moves in the storing transaction.

There is one answer to every fault that is not the record's own (PostgreSQL or Kafka away, another worker owns
the partition, a key or a right is missing): give the batch up, wait, take the positions from PostgreSQL again and
read on from there. Nothing is lost because only a committed transaction moves a position; what is read twice is
left out by the store.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import asyncpg
import structlog

from notification import telemetry
from notification.errors import HeraldError, Unavailable
from notification.limits import (
    CRASHES_MAX,
    DATABASE_TURN_DEADLINE_S,
    INTAKE_BATCH_RECORDS_MAX,
    INTAKE_POLL_MS,
    LOG_CHECK_MS,
)
from worker import dead_letters, outage
from worker.admission import Admitted, Reason, Rejection, admit
from worker.database import is_away
from worker.dead_letters import Dead, LetterKeys
from worker.log import Bounds, EventLog, Partition, Record
from worker.positions import Fenced, Move, Position
from worker.store import Rejected, Store, StoredNotification

_log = structlog.get_logger("intake")

# Takes what has been stored, in Kafka order; what it cannot take waits in PostgreSQL for its due_at.
OnStored = Callable[[list[StoredNotification]], None]
# What a record itself can cause while it is handled. Anything else (keys that do not open, a right or a table that
# is missing) would hit every record, and giving them all up would lose what is good.
_OF_RECORD = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    ValueError,  # with UnicodeError
    TypeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
# The database's time in Unix ms, for records that the broker does not stamp.
NowMs = Callable[[], int]


class Intake:
    """The loop of role dispatch that reads the log. One per process."""

    def __init__(
        self, log: EventLog, store: Store, letter_keys: LetterKeys, on_stored: OnStored, now_ms: NowMs
    ) -> None:
        self._log = log
        self._letter_keys = letter_keys
        self._store = store
        self._on_stored = on_stored
        self._now_ms = now_ms
        self._expected: dict[Partition, int] = {}
        # (end, expected) of partitions whose log reaches farther than the broker says.
        self._verified: dict[Partition, tuple[int, int]] = {}
        self._check_at_s = 0.0
        self._paused = False
        self._stop = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Join Kafka's consumer group. Raises Unavailable when Kafka stays away."""
        await self._log.start()

    async def stop(self) -> None:
        """Drain: the batch being stored is finished, then the group is left. run() returns."""
        self._stop.set()
        await self._idle.wait()
        await self._log.close()

    async def run(self) -> None:
        """Read until stop() is called."""
        self._idle.clear()
        try:
            await self._run()
        finally:
            self._idle.set()

    async def _run(self) -> None:
        backoff = outage.Backoff()
        while not self._stop.is_set():
            try:
                await self.step()
            except Exception as error:  # every fault pauses; _pause says it, and nothing is lost
                self._pause(error)
            else:
                backoff.reset()
                if self._paused and self._log.placed():
                    self._paused = False
                    _log.info("intake_resumed")
                continue
            await _wait(self._stop, backoff.next_s())

    def _pause(self, error: BaseException) -> None:
        if isinstance(error, Fenced):
            telemetry.FENCED.inc()
        if not _is_outage(error):
            _log.error("intake_failed", error=outage.origin(error))
        elif not self._paused:
            _log.warning("intake_paused", error=type(error).__name__, reason=_reason(error))
        self._paused = True
        self._log.displace()

    async def step(self) -> int:
        """Place what is unplaced, then one batch; returns its number of records. Raises what run() waits out."""
        unplaced = self._log.unplaced()
        async with asyncio.timeout(DATABASE_TURN_DEADLINE_S):
            if unplaced:
                await self._place(unplaced)
            elif time.monotonic() >= self._check_at_s:
                await self._check()
        records = await self._log.poll(INTAKE_BATCH_RECORDS_MAX, INTAKE_POLL_MS)
        if records:
            await self._take_all(records)
        return len(records)

    async def _take_all(self, records: Sequence[Record]) -> None:
        """The batch at once; where something in it breaks the storing, record by record."""
        try:
            await self._take(records)
        except Exception as error:  # narrowed at once: a fault of some record, or it goes on up
            if not _is_of_record(error):
                raise
            _log.error("batch_failed", error=outage.origin(error), records=len(records))
            for record in records:
                await self._take_alone(record)

    async def _take_alone(self, record: Record) -> None:
        """One record; given up after CRASHES_MAX tries, so that the log flows on."""
        for _ in range(CRASHES_MAX):
            try:
                await self._take([record])
            except Exception as error:  # see _take_all
                if not _is_of_record(error):
                    raise
                _log.error(
                    "record_failed", error=outage.origin(error), **record.place._asdict(), offset=record.offset
                )
            else:
                return
        moves = self._moves([record])
        detail = f"record: broke the storing {CRASHES_MAX} times; this is a fault of Herald"
        await dead_letters.bury(self._log, self._letter_keys, [Dead(record, Rejection(Reason.CRASHES, detail))])
        await self._store.move(moves)
        self._expected.update({move.partition: move.next_offset for move in moves})

    async def _take(self, records: Sequence[Record]) -> None:
        moves = self._moves(records)
        now_ms = self._now_ms()
        admitted: list[Admitted] = []
        dead: list[Dead] = []
        for record in records:
            verdict = admit(record, now_ms)
            if isinstance(verdict, Admitted):
                admitted.append(verdict)
            else:
                dead.append(Dead(record, verdict))

        async def bury(rejected: Sequence[Rejected]) -> None:
            late = [Dead(event.record, rejection) for event, rejection in rejected]
            letters = sorted([*dead, *late], key=lambda one: one.record[:3])
            await dead_letters.bury(self._log, self._letter_keys, letters)

        async with asyncio.timeout(DATABASE_TURN_DEADLINE_S):
            outcome = await self._store.store(admitted, moves, bury)
        self._expected.update({move.partition: move.next_offset for move in moves})
        self._on_stored(outcome.ready)
        await self._log.commit({move.partition: move.next_offset for move in moves})

    def _moves(self, records: Sequence[Record]) -> list[Move]:
        """How far each partition's position moves. Records of one partition come in order."""
        firsts: dict[Partition, Record] = {}
        lasts: dict[Partition, Record] = {}
        for record in records:
            firsts.setdefault(record.place, record)
            lasts[record.place] = record
        moves = []
        for partition, first in firsts.items():
            expected = self._expected[partition]
            if first.offset < expected:
                self._say_new_log(partition, expected)
            elif first.offset > expected:
                _log.warning("records_gone", **partition._asdict(), expected=expected, found=first.offset)
            moves.append(Move(partition, expected, lasts[partition].offset + 1))
        return moves

    async def _place(self, partitions: set[Partition]) -> None:
        """Read these partitions from PostgreSQL's positions on."""
        bounds = await self._log.bounds(partitions)
        positions = await self._store.positions(partitions)
        new = {p: Position(bounds[p].first, bounds[p].topic_id) for p in partitions - positions.keys()}
        if new:
            await self._store.begin(new)
            positions |= await self._store.positions(new)
            if partitions - positions.keys():
                raise Fenced("positions were deleted while they were taken")
        self._verified.clear()
        offsets = {p: position.next_offset for p, position in positions.items()}
        new_logs = {p for p in partitions if _is_new_log(bounds[p], positions[p])}
        await self._heed_commits(bounds, {p: offsets[p] for p in partitions - new_logs})
        new_logs |= await self._too_short(bounds, {p: offsets[p] for p in partitions - new_logs})
        if new_logs:
            await self._begin_anew(new_logs, bounds, offsets)
        unnamed = {p for p in partitions - new_logs if positions[p].topic_id is None and bounds[p].topic_id}
        if unnamed:
            stays = [Move(p, offsets[p], offsets[p]) for p in unnamed]
            await self._store.move_to_logs(stays, {p: bounds[p].topic_id for p in unnamed})
        self._expected.update(offsets)
        self._log.place(offsets)
        self._check_at_s = time.monotonic() + LOG_CHECK_MS / 1000
        _log.info("partitions_placed", count=len(partitions))

    async def _heed_commits(self, bounds: Mapping[Partition, Bounds], offsets: Mapping[Partition, int]) -> None:
        """Kafka's commits follow the positions: where they are ahead, PostgreSQL went back in time."""
        ahead = {
            p: committed
            for p, offset in offsets.items()
            if (committed := bounds[p].committed) is not None and offset < committed
        }
        went_back = ahead.keys() - await self._too_short(bounds, ahead)
        if went_back:
            epoch = await self._store.raise_epoch()
            _log.error("database_went_back", partitions=len(went_back), epoch=epoch)
            # Or each rebalance would find the same again.
            await self._log.commit({partition: offsets[partition] for partition in went_back})

    async def _begin_anew(
        self, partitions: set[Partition], bounds: Mapping[Partition, Bounds], offsets: dict[Partition, int]
    ) -> None:
        """Logs that are not those of our positions: read from their beginning, never their end. Sets `offsets`."""
        for partition in partitions:
            self._say_new_log(partition, offsets[partition])
        moves = [Move(p, offsets[p], bounds[p].first) for p in partitions]
        await self._store.move_to_logs(moves, {p: bounds[p].topic_id for p in partitions})
        offsets.update({p: bounds[p].first for p in partitions})
        # A commit of the old log would look as if PostgreSQL had gone back.
        await self._log.commit({p: offsets[p] for p in partitions})

    async def _check(self) -> None:
        """A topic may be made anew, a broker exchanged for an empty one while we run: a fetch says nothing of it.

        What was stored of the new log meanwhile is read again, and left out. Positions may be moved or deleted
        while nothing comes: what would be fenced then is placed anew now.
        """
        self._check_at_s = time.monotonic() + LOG_CHECK_MS / 1000
        placed = self._log.placed()
        if not placed:
            return
        expected = {partition: self._expected[partition] for partition in placed}
        bounds = await self._log.bounds(placed)
        positions = await self._store.positions(placed)
        if (
            {p: position.next_offset for p, position in positions.items()} != expected
            or any(_is_new_log(bounds[p], position) for p, position in positions.items())
            or await self._too_short(bounds, expected)
        ):
            self._log.displace()

    async def _too_short(
        self, bounds: Mapping[Partition, Bounds], positions: Mapping[Partition, int]
    ) -> set[Partition]:
        """The partitions that hold less than what was read before these positions: their log is another one.

        That the broker says so is a suspicion only (see Bounds): the log itself is read then.
        """
        suspects = {
            p: position
            for p, position in positions.items()
            if bounds[p].end < position and self._verified.get(p) != (bounds[p].end, position)
        }
        if not suspects:
            return set()
        held = await self._log.holds({p: position - 1 for p, position in suspects.items()})
        self._verified.update({p: (bounds[p].end, suspects[p]) for p in held})
        return suspects.keys() - held

    def _say_new_log(self, partition: Partition, position: int) -> None:
        telemetry.LOG_RESTARTED.inc()
        _log.error("log_restarted", **partition._asdict(), position=position)


def _is_new_log(bounds: Bounds, position: Position) -> bool:
    """The topic was deleted and made anew, or Kafka is another one: however far the new log reaches by now."""
    return None not in (bounds.topic_id, position.topic_id) and bounds.topic_id != position.topic_id


def _is_outage(error: BaseException) -> bool:
    """A server is away, or another worker has the partition: nothing is wrong with the records."""
    return isinstance(error, Unavailable | Fenced) or is_away(error)


def _is_of_record(error: BaseException) -> bool:
    """A fault that the record can have caused: it counts towards giving the record up."""
    return isinstance(error, _OF_RECORD) and not _is_outage(error)


def _reason(error: BaseException) -> str:
    """The text of our own errors; a server's may quote values."""
    return str(error) if isinstance(error, HeraldError) else ""


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, or less when told to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:  # the wait is over, and nobody said stop
        return
