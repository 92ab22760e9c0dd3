"""The fill pump: whatever a connection owes comes from role inbox, for a resume, a gap, or a window that was full.

welcome -> what is owed -> resumed. While the inbox is away the welcome says "pending" and the pump asks again.
A Job exists only while something is owed; `connection.state` holds it.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec
import structlog

from gateway._fast.carrier import Connection
from gateway._fast.session import RESUMING
from gateway.clock import DatabaseClock, now_ms
from gateway.edge import Edge
from notification import telemetry
from notification.bus import Bus
from notification.codes import LANE_BY_NAME, LANE_COUNT, LANE_NAMES, Closes
from notification.errors import BusError, Unavailable
from notification.frames import Counters, Cursor, ErrorFrame, Resumed, Welcome, encode, user_epoch
from notification.limits import (
    DEVICES_PER_USER_MAX,
    FILL_ITEMS_MAX,
    FILL_RETRY_MS,
    FILL_RETRY_MS_MAX,
    FILLS_COUNT_MAX,
    FILLS_IN_FLIGHT_MAX,
    FILLS_TICK_MS,
    HEARTBEAT_MS,
    HELD_BYTES_MAX,
    INBOX_DEADLINE_MS,
    PRESENCE_WRITE_MS_MAX,
    UNACKED_PER_CONNECTION_MAX,
    WRITE_BUFFER_BYTES_MAX,
)
from notification.messages import LANES_UNKNOWN, Failure, FillReply, FillRequest, FillsReply, FillsRequest
from notification.messages import decode_reply as decode
from notification.messages import encode as encode_request
from notification.names import INBOX_RESUME, client_id

_log = structlog.get_logger("resume")

_HALF_WINDOW: Final = UNACKED_PER_CONNECTION_MAX // 2


class Job:
    """What one connection still owes. `asks`: its presence is settled and it may ask; `first`: no reply yet;
    `recovered`: what `resumed` will say; `held`: frames of the client that came before its welcome; `asked_at`:
    what its last question said it has; `counters`: of `resumed`, once it only waits for the socket to drain."""

    __slots__ = (
        "asked_at", "asks", "connection", "counters", "cursor", "first", "held", "held_bytes", "queued",
        "recovered", "resumed", "retry_ms", "since_ms", "welcomed",
    )  # fmt: skip

    def __init__(self, connection: Connection, cursor: Cursor | None, live: bool, since_ms: int) -> None:
        self.connection = connection
        self.cursor = cursor
        self.asks = live
        self.first = not live
        self.welcomed = live
        self.resumed = live
        self.recovered = True
        self.queued = True
        self.retry_ms = FILL_RETRY_MS
        self.held: list[bytes] | None = None
        self.held_bytes = 0
        self.since_ms = since_ms
        self.asked_at: list[int] = LANES_UNKNOWN
        self.counters: Counters | None = None


class Resume:
    """Questions of FILLS_TICK_MS go out together, at most FILLS_COUNT_MAX in a request and FILLS_IN_FLIGHT_MAX
    requests at once; the others wait in order. No connection has a task, timer or future of its own."""

    def __init__(self, bus: Bus, edge: Edge, clock: DatabaseClock) -> None:
        self._bus = bus
        self._edge = edge
        self._clock = clock
        self._waiting: deque[Job] = deque()
        self._armed = False
        self._unsettled: deque[Job] = deque()  # in order of since_ms, as is the next
        self._unwelcomed: deque[Job] = deque()
        self._later: list[tuple[int, int, Job]] = []  # heap by (due_ms, number)
        self._number = 0
        self._requests: set[asyncio.Task[None]] = set()
        self.connect_seconds = telemetry.Seconds(telemetry.CONNECT_SECONDS)
        # Called with a connection's held frames once its welcome is queued.
        self.release: Callable[[Connection, list[bytes]], None] = _nobody

    def hold(self, connection: Connection, text: bytes) -> bool:
        """Keep a client's frame until its welcome; False: it has it already. Too many bytes close 4429."""
        job = connection.state
        if not isinstance(job, Job) or job.welcomed:
            return False
        job.held_bytes += len(text)
        if job.held_bytes > HELD_BYTES_MAX:
            job.held = None
            connection.close(Closes.TOO_FAST.code, Closes.TOO_FAST.reason)
        elif job.held is None:
            job.held = [text]
        else:
            job.held.append(text)
        return True

    def look(self, connection: Connection) -> None:
        """Presence could not show this connection for a while: fetch what was parked meanwhile."""
        if connection.state is None and connection.is_open():
            self._ask_live(connection)

    def begin(self, connection: Connection, cursor: Cursor | None) -> None:
        """A connection was authenticated: everything up to `resumed` follows, once settled() was called."""
        connection.state = job = Job(connection, cursor, False, now_ms())
        self._unsettled.append(job)
        self._unwelcomed.append(job)

    def settled(self, connection: Connection, devices: int) -> None:
        """Connect = write presence, then read the log: what is parked after the write finds us.

        Redis holds the entry, or is away (workers then treat presence as unknown and ask every gateway). `devices`:
        how many the user has online, 0 = unknown.
        """
        job = connection.state
        if not isinstance(job, Job) or job.asks:
            return
        job.asks = True
        if devices > DEVICES_PER_USER_MAX and connection.is_open():
            connection.session.send(encode(ErrorFrame("too_many_devices", retry_ms=INBOX_DEADLINE_MS)))
            connection.close(Closes.TOO_FAST.code, Closes.TOO_FAST.reason)
        else:
            self._enqueue(job)

    def nudge(self, connection: Connection) -> None:
        """Something changed (an item did not fit, acks came, the socket drained): fill if that is possible now."""
        job = connection.state
        if isinstance(job, Job) and job.counters is not None:
            self._drained(job)
            return
        if connection.session.window_free() < _HALF_WINDOW:
            return
        if isinstance(job, Job):
            if not job.queued:
                self._enqueue(job)
        elif connection.session.wanted() and connection.is_open():
            self._ask_live(connection)

    def tick(self) -> None:
        """Ask again whose time has come; welcome whom the inbox, and settle whom Redis keeps waiting. Call each
        wheel tick."""
        now = now_ms()
        while self._later and self._later[0][0] <= now:
            self._enqueue(heapq.heappop(self._later)[2])
        waiting = self._unsettled
        while waiting and (waiting[0].asks or now - waiting[0].since_ms >= PRESENCE_WRITE_MS_MAX):
            self.settled(waiting.popleft().connection, 0)
        waiting = self._unwelcomed
        while waiting and (
            waiting[0].welcomed
            or not waiting[0].connection.is_open()
            or now - waiting[0].since_ms >= INBOX_DEADLINE_MS
        ):
            job = waiting.popleft()
            if not job.welcomed and job.connection.is_open():
                self._welcome_pending(job)
                job.connection.flush()

    async def close(self) -> None:
        """Give up what is in flight."""
        self._waiting.clear()
        for request in self._requests:
            request.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)

    # --- scheduling ---------------------------------------------------------
    def _ask_live(self, connection: Connection) -> None:
        connection.state = job = Job(connection, None, True, now_ms())
        self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        job.queued = True
        self._waiting.append(job)
        if not self._armed and len(self._requests) < FILLS_IN_FLIGHT_MAX:
            self._armed = True
            asyncio.get_running_loop().call_later(FILLS_TICK_MS / 1_000, self._pump)

    def _pump(self) -> None:
        """Send what waits. Requests that must wait themselves go when one in flight is answered."""
        self._armed = False
        while self._waiting and len(self._requests) < FILLS_IN_FLIGHT_MAX:
            jobs: list[Job] = []
            fills: list[FillRequest] = []
            while self._waiting and len(jobs) < FILLS_COUNT_MAX:
                job = self._waiting.popleft()
                fill = self._question(job)
                if fill is not None:
                    jobs.append(job)
                    fills.append(fill)
            if jobs:
                request = asyncio.get_running_loop().create_task(self._request(jobs, fills))
                self._requests.add(request)
                request.add_done_callback(self._requested)

    def _requested(self, request: "asyncio.Task[None]") -> None:
        self._requests.discard(request)
        if request.cancelled():
            return
        if (error := request.exception()) is not None:
            _log.error("fill_failed", error=type(error).__name__, exc_info=error)
        if not self._armed:
            self._pump()

    async def _request(self, jobs: list[Job], fills: list[FillRequest]) -> None:
        replies = await self._ask(fills)
        telemetry.FILL_REQUESTS.inc()
        for job, reply in zip(jobs, replies, strict=True):
            try:
                self._answered(job, reply if isinstance(reply, FillReply) else None)
            except Exception as error:  # a fault of ours is this connection's: the others have their answers
                _log.error("fill_failed", error=type(error).__name__, exc_info=error)
                job.connection.close(Closes.INTERNAL.code, Closes.INTERNAL.reason)

    async def _ask(self, fills: list[FillRequest]) -> Sequence[FillReply | Failure | None]:
        """An answer per question; None where none came."""
        nothing = [None] * len(fills)
        try:
            answer = await self._bus.request(
                INBOX_RESUME, encode_request(FillsRequest(fills)), INBOX_DEADLINE_MS / 1_000
            )
            reply = decode(answer)
        except (BusError, Unavailable, msgspec.DecodeError) as error:
            telemetry.FILLS.labels(type(error).__name__).inc(len(fills))
            return nothing
        if not isinstance(reply, FillsReply) or len(reply.replies) != len(fills):
            telemetry.FILLS.labels("busy").inc(len(fills))
            return nothing
        refused = sum(isinstance(one, Failure) for one in reply.replies)
        telemetry.FILLS.labels("filled").inc(len(fills) - refused)
        if refused:
            telemetry.FILLS.labels("busy").inc(refused)
        return reply.replies

    # --- one job ------------------------------------------------------------
    def _question(self, job: Job) -> FillRequest | None:
        """What the job asks now; None: it is over, or waits for acks."""
        connection = job.connection
        session = connection.session
        if not connection.is_open():
            self._over(job)
            return None
        free = session.window_free()
        if free == 0:
            self._wait(job)
            return None
        job.asked_at = session.at()
        cursor = self._cursor(job) if job.cursor is not None and job.first else None
        return FillRequest(session.tenant, session.user, job.first, cursor, job.asked_at, min(free, FILL_ITEMS_MAX))

    def _answered(self, job: Job, reply: FillReply | None) -> None:
        connection = job.connection
        session = connection.session
        if not connection.is_open():
            self._over(job)
            return
        if reply is None:
            if not job.welcomed:
                self._welcome_pending(job)
                connection.flush()
            self._retry(job)
            return
        job.retry_ms = FILL_RETRY_MS
        self._clock.observe(reply.database_ms, now_ms())
        if any(at < asked for at, asked in zip(session.at(), job.asked_at, strict=True)):
            self._enqueue(job)  # what waited for the socket went back to the log: the answer begins behind it
            return
        if job.first:
            self._first(job, reply)
        complete = self._write(job, reply)
        over = False
        if complete and not reply.more:
            session.begin_live()
            over = not session.wanted()
            if over and not self._resumed(job, reply.counters):
                return
        connection.flush()
        if over or not connection.is_open():
            self._over(job)
        elif not complete:
            self._wait(job)
        elif reply.more or session.at() != job.asked_at:
            self._enqueue(job)
        else:
            self._retry(job)

    def _over(self, job: Job) -> None:
        """Nothing is owed any more, or nobody is there to have it."""
        connection = job.connection
        if connection.state is job:
            connection.state = None
            if connection.session.wanted():
                self.nudge(connection)

    def _wait(self, job: Job) -> None:
        """The window is full or the socket is: acks or writable() go on."""
        job.queued = False
        self.nudge(job.connection)  # the acks may have come while we wrote

    def _retry(self, job: Job) -> None:
        """No answer, or no progress: ask again later."""
        delay_ms = job.retry_ms * random.uniform(0.5, 1.5)  # noqa: S311 jitter
        job.retry_ms = min(job.retry_ms * 2, FILL_RETRY_MS_MAX)
        self._number += 1
        heapq.heappush(self._later, (now_ms() + int(delay_ms), self._number, job))

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
        if written:
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
        welcome = Welcome(
            session.session_id,
            client_id(session.tag.decode(), session.device),
            HEARTBEAT_MS // 1_000,
            epoch,
            recovered,
        )
        session.send(encode(welcome))
        self.connect_seconds.observe_ms(now_ms() - connection.opened_ms)
        held, job.held = job.held, None
        if held is not None:
            self.release(connection, held)

    def _welcome_pending(self, job: Job) -> None:
        """The inbox is away. A cursor of the current log lets live items flow where nothing is missing."""
        session = job.connection.session
        epoch = user_epoch(self._edge.epoch, session.tenant, session.user)
        self._welcome(job, epoch, "pending")
        if job.cursor is not None and job.cursor.epoch == epoch:
            for name, seq in job.cursor.at.items():
                session.set_at(LANE_BY_NAME[name], seq)
            session.begin_live()

    def _resumed(self, job: Job, counters: Counters) -> bool:
        """Say so once the socket took everything owed (the rest may go back to the log). False: it is full."""
        if job.resumed:
            return True
        session = job.connection.session
        if session.unacked():
            job.connection.flush()
            if session.pending():
                job.counters = counters
                job.queued = False
                return False
        job.resumed = True
        at = {name: seq for name, seq in zip(LANE_NAMES, session.at(), strict=True) if seq >= 0}
        session.send(encode(Resumed(at, counters, job.recovered)), last=True)
        return True

    def _drained(self, job: Job) -> None:
        """The socket was full, with `resumed` to come: has it taken everything, or is something owed again?"""
        counters, session = job.counters, job.connection.session
        if session.wanted():
            job.counters = None
            self._enqueue(job)
        elif counters is not None and not session.pending():
            job.counters = None
            if self._resumed(job, counters):
                job.connection.flush()
                self._over(job)


def welcomed(connection: Connection) -> bool:
    """Has the connection its welcome? Nothing else may come before it."""
    state = connection.state
    return not isinstance(state, Job) or state.welcomed


def _nobody(connection: Connection, held: list[bytes]) -> None:
    """Until somebody takes held frames."""
