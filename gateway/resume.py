"""The fill pump: whatever a connection owes comes from role inbox, for a resume, a gap, or a window that was full.

welcome -> what is owed -> resumed. While the inbox is away the welcome says "pending" and the pump asks again.
A Job exists only while something is owed; `connection.state` holds it.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import msgspec
import structlog

from gateway._fast.carrier import Connection
from gateway._fast.session import RESUMING
from gateway.clock import DatabaseClock, now_ms
from gateway.edge import Edge
from gateway.presence import Presence
from notification import telemetry
from notification.bus import Bus
from notification.codes import LANE_BY_NAME, LANE_COUNT, LANE_NAMES, Closes
from notification.errors import BusError, Unavailable
from notification.frames import Counters, Cursor, ErrorFrame, Resumed, Welcome, encode
from notification.limits import (
    DEVICES_PER_USER_MAX,
    FILL_ITEMS_MAX,
    FILL_RETRY_MS,
    FILL_RETRY_MS_MAX,
    FILLS_IN_FLIGHT_MAX,
    HEARTBEAT_MS,
    HELD_BYTES_MAX,
    INBOX_DEADLINE_MS,
    UNACKED_PER_CONNECTION_MAX,
    WRITE_BUFFER_BYTES_MAX,
)
from notification.messages import FillReply, FillRequest
from notification.messages import decode_reply as decode
from notification.messages import encode as encode_request
from notification.names import INBOX_RESUME

_log = structlog.get_logger("resume")

_HALF_WINDOW: Final = UNACKED_PER_CONNECTION_MAX // 2
_MORE: Final = 0  # ask again now
_DONE: Final = 1
_WAIT: Final = 2  # the window is full or the socket is: acks or writable() go on
_RETRY: Final = 3  # no answer, or no progress: ask again later


class Job:
    """What one connection still owes. `first`: no reply yet; `recovered`: what `resumed` will say; `held`: frames
    of the client that came before its welcome."""

    __slots__ = (
        "connection", "cursor", "first", "held", "held_bytes", "queued", "recovered", "resumed", "retry_ms",
        "since_ms", "welcomed",
    )  # fmt: skip

    def __init__(self, connection: Connection, cursor: Cursor | None, live: bool, since_ms: int) -> None:
        self.connection = connection
        self.cursor = cursor
        self.first = not live
        self.welcomed = live
        self.resumed = live
        self.recovered = True
        self.queued = False
        self.retry_ms = FILL_RETRY_MS
        self.held: list[bytes] = []
        self.held_bytes = 0
        self.since_ms = since_ms


class Resume:
    """At most FILLS_IN_FLIGHT_MAX jobs run at once; the others wait in order."""

    def __init__(self, bus: Bus, edge: Edge, presence: Presence, clock: DatabaseClock) -> None:
        self._bus = bus
        self._edge = edge
        self._presence = presence
        self._clock = clock
        self._waiting: deque[Job] = deque()
        self._unwelcomed: deque[Job] = deque()  # in order of since_ms
        self._later: list[tuple[int, int, Job]] = []  # heap by (due_ms, number)
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        # Called with a connection's held frames once its welcome is queued.
        self.release: Callable[[Connection, list[bytes]], None] = _nobody

    def hold(self, connection: Connection, text: bytes) -> bool:
        """Keep a client's frame until its welcome; False: it has it already. Too many bytes close 4429."""
        job = connection.state
        if not isinstance(job, Job) or job.welcomed:
            return False
        job.held_bytes += len(text)
        if job.held_bytes > HELD_BYTES_MAX:
            job.held.clear()
            connection.close(Closes.TOO_FAST.code, Closes.TOO_FAST.reason)
        else:
            job.held.append(text)
        return True

    def look(self, connection: Connection) -> None:
        """Presence could not show this connection for a while: fetch what was parked meanwhile."""
        if connection.state is None and connection.is_open():
            job = Job(connection, None, live=True, since_ms=now_ms())
            connection.state = job
            self._enqueue(job)

    def begin(self, connection: Connection, cursor: Cursor | None) -> None:
        """A connection was authenticated: everything up to `resumed` follows from here."""
        job = Job(connection, cursor, live=False, since_ms=now_ms())
        connection.state = job
        self._unwelcomed.append(job)
        self._enqueue(job)

    def nudge(self, connection: Connection) -> None:
        """Something changed (an item did not fit, acks came, the socket drained): fill if that is possible now."""
        job = connection.state
        if connection.session.window_free() < _HALF_WINDOW:
            return
        if isinstance(job, Job):
            if not job.queued:
                self._enqueue(job)
        elif connection.session.wanted() and connection.is_open():
            job = Job(connection, None, live=True, since_ms=now_ms())
            connection.state = job
            self._enqueue(job)

    def tick(self) -> None:
        """Start what waited for its retry; welcome whom the inbox keeps waiting. Call each wheel tick."""
        now = now_ms()
        while self._later and self._later[0][0] <= now:
            self._start(heapq.heappop(self._later)[2])
        while self._unwelcomed and (self._unwelcomed[0].welcomed or not self._unwelcomed[0].connection.is_open()):
            self._unwelcomed.popleft()
        while self._unwelcomed and now - self._unwelcomed[0].since_ms >= INBOX_DEADLINE_MS:
            job = self._unwelcomed.popleft()
            if not job.welcomed and job.connection.is_open():
                self._welcome_pending(job)
                job.connection.flush()

    async def close(self) -> None:
        """Stop asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- scheduling ---------------------------------------------------------
    def _enqueue(self, job: Job) -> None:
        job.queued = True
        self._start(job)

    def _start(self, job: Job) -> None:
        if len(self._tasks) >= FILLS_IN_FLIGHT_MAX:
            self._waiting.append(job)
            return
        task = asyncio.get_running_loop().create_task(self._work(job))
        self._tasks.add(task)
        task.add_done_callback(self._worked)

    def _worked(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("fill_failed", error=type(error).__name__, exc_info=error)
        if self._waiting and not task.cancelled():
            self._start(self._waiting.popleft())

    async def _work(self, job: Job) -> None:
        connection = job.connection
        if job.first and not await self._admitted(job):
            return
        outcome = _MORE
        while outcome == _MORE and connection.is_open():
            outcome = await self._step(job)
        if not connection.is_open():
            connection.state = None
        elif outcome == _RETRY:
            delay_ms = job.retry_ms * random.uniform(0.5, 1.5)  # noqa: S311 jitter
            job.retry_ms = min(job.retry_ms * 2, FILL_RETRY_MS_MAX)
            self._number += 1
            heapq.heappush(self._later, (now_ms() + int(delay_ms), self._number, job))
        elif outcome == _WAIT:
            job.queued = False
            self.nudge(connection)  # the acks may have come while we wrote
        else:
            connection.state = None
            self.nudge(connection)

    async def _admitted(self, job: Job) -> bool:
        """Connect = write presence, then read the log: what is parked after the write finds us."""
        connection = job.connection
        devices = await self._presence.settled(connection)
        if devices > DEVICES_PER_USER_MAX and connection.is_open():
            connection.session.send(encode(ErrorFrame("too_many_devices", retry_ms=INBOX_DEADLINE_MS)))
            connection.close(Closes.TOO_FAST.code, Closes.TOO_FAST.reason)
        return connection.is_open()

    # --- one request --------------------------------------------------------
    async def _step(self, job: Job) -> int:
        session = job.connection.session
        free = session.window_free()
        if free == 0:
            return _WAIT
        before = session.at()
        reply = await self._ask(job, min(free, FILL_ITEMS_MAX))
        if not job.connection.is_open():
            return _DONE
        if reply is None:
            if not job.welcomed:
                self._welcome_pending(job)
                job.connection.flush()
            return _RETRY
        job.retry_ms = FILL_RETRY_MS
        self._clock.observe(reply.database_ms, now_ms())
        if job.first:
            self._first(job, reply)
        complete = self._write(job, reply)
        if complete and not reply.more:
            session.begin_live()
            if not session.wanted():
                self._resumed(job, reply.counters)
                job.connection.flush()
                return _DONE
        job.connection.flush()
        if not complete:
            return _WAIT
        return _MORE if reply.more or session.at() != before else _RETRY

    async def _ask(self, job: Job, limit: int) -> FillReply | None:
        session = job.connection.session
        request = FillRequest(
            session.tenant, session.user, job.first, self._cursor(job) if job.first else None, session.at(), limit
        )
        try:
            answer = await self._bus.request(INBOX_RESUME, encode_request(request), INBOX_DEADLINE_MS / 1_000)
            reply = decode(answer)
        except (BusError, Unavailable, msgspec.DecodeError) as error:
            telemetry.FILLS.labels(type(error).__name__).inc()
            return None
        if not isinstance(reply, FillReply):
            telemetry.FILLS.labels("busy").inc()
            return None
        telemetry.FILLS.labels("filled").inc()
        return reply

    def _cursor(self, job: Job) -> Cursor | None:
        """The client's cursor, moved on by what it got live while its resume was pending."""
        if job.cursor is None or job.connection.session.phase == RESUMING:
            return job.cursor
        at = job.connection.session.at()
        return Cursor(job.cursor.epoch, {LANE_NAMES[lane]: seq for lane, seq in enumerate(at) if seq >= 0})

    def _first(self, job: Job, reply: FillReply) -> None:
        """The first answer settles where the lanes start and what `recovered` says."""
        session = job.connection.session
        job.first = False
        job.recovered = reply.recovered
        if not reply.recovered:
            for lane in range(LANE_COUNT):
                session.set_at(lane, -1)  # the client drops what it held; the snapshot is all it has
        elif job.cursor is not None:
            for name, seq in job.cursor.at.items():
                session.advance(LANE_BY_NAME[name], seq)
        job.cursor = None
        self._welcome(job, reply.epoch, reply.recovered)

    def _write(self, job: Job, reply: FillReply) -> bool:
        """Queue the items; False when window or socket filled up before all were written."""
        connection = job.connection
        session = connection.session
        now = now_ms()
        written = 0
        complete = True
        for item in reply.items:
            if self._clock.expired(item.expiry_ms, now):
                continue
            if not session.fill(item.lane, item.seq, item.prev, item.id, item.body):
                complete = False
                break
            written += 1
            if session.pending() > WRITE_BUFFER_BYTES_MAX:
                connection.flush()
        telemetry.FRAMES_WRITTEN.inc(written)
        if complete:
            for lane, seq in enumerate(reply.at):
                session.advance(lane, max(seq, 0))
        return complete and connection.is_open()

    # --- frames -------------------------------------------------------------
    def _welcome(self, job: Job, epoch: int, recovered: bool | Literal["pending"]) -> None:
        if job.welcomed:
            return
        job.welcomed = True
        connection = job.connection
        session = connection.session
        welcome = Welcome(session.session_id, session.client_id, HEARTBEAT_MS // 1_000, epoch, recovered)
        session.send(encode(welcome))
        telemetry.CONNECT_SECONDS.observe((now_ms() - connection.opened_ms) / 1_000)
        held, job.held = job.held, []
        if held:
            self.release(connection, held)

    def _welcome_pending(self, job: Job) -> None:
        """The inbox is away. A cursor of the current log lets live items flow where nothing is missing."""
        self._welcome(job, self._edge.epoch, "pending")
        if job.cursor is not None and job.cursor.epoch == self._edge.epoch:
            for name, seq in job.cursor.at.items():
                job.connection.session.set_at(LANE_BY_NAME[name], seq)
            job.connection.session.begin_live()

    def _resumed(self, job: Job, counters: Counters) -> None:
        if job.resumed:
            return
        job.resumed = True
        at = {LANE_NAMES[lane]: seq for lane, seq in enumerate(job.connection.session.at()) if seq >= 0}
        # Behind everything that is owed.
        job.connection.session.send(encode(Resumed(at, counters, job.recovered)), last=True)


def welcomed(connection: Connection) -> bool:
    """Has the connection its welcome? Nothing else may come before it."""
    state = connection.state
    return not isinstance(state, Job) or state.welcomed


def _nobody(connection: Connection, held: list[bytes]) -> None:
    """Until somebody takes held frames."""
