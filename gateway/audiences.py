"""What goes to a tenant's audiences: one message a process, fanned out here to the connections that may have it.

Per tenant with connections here there is a subscription, and per audience lane what this process is up to. An item
that does not follow is a gap of the process: role inbox is asked once for all connections. Whoever lacks something
of its own (it resumes, its window was full) is nudged, and its fill brings it; so nothing here is the only copy.
"""

import asyncio
import functools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec
import structlog

from gateway._fast.carrier import Connection
from gateway._fast.fanout import Crowd, Fanout
from gateway.clock import DatabaseClock, now_ms
from notification import batch, telemetry
from notification.batch import AUDIENCE, CONTROL, EVERYONE, HEADS, Item
from notification.bus import Bus, Served
from notification.codes import LANE_COUNT, Lane
from notification.errors import BadBatch, BusError, Unavailable
from notification.limits import (
    AUDIENCE_FANOUT_CONNECTIONS_MAX,
    AUDIENCE_FANOUT_ITEMS_MAX,
    AUDIENCE_HELD_BYTES_MAX,
    AUDIENCE_HELD_ITEMS_MAX,
    AUDIENCE_IDLE_MS,
    AUDIENCE_OVERTAKEN_MS,
    AUDIENCE_QUESTIONS_IN_FLIGHT_MAX,
    AUDIENCE_TRIES_COUNT_MAX,
    ENTITLED_USERS_COUNT_MAX,
    FILL_RETRY_MS,
    FILL_RETRY_MS_MAX,
    INBOX_DEADLINE_MS,
)
from notification.messages import (
    AudienceFillReply,
    AudienceFillRequest,
    EntitledReply,
    EntitledRequest,
    decode_reply,
    encode,
)
from notification.names import INBOX_AUDIENCE, INBOX_AUDIENCE_FILL, audience_subjects

_log = structlog.get_logger("audiences")

_FIRST: Final = Lane.AUDIENCE_HIGH
_SEQ_MAX: Final = 2**63 - 1  # as a session's lane can hold
_NOBODY: Final = bytes(AUDIENCE_FANOUT_CONNECTIONS_MAX // 8)
_UNKNOWN: Final = -1

# An item and whose it is: a bit per connection of the fan-out; None = everyone's, b"" = nobody's.
_Judged = tuple[Item, bytes | None]
_Reply = TypeVar("_Reply", EntitledReply, AudienceFillReply)
_Result = TypeVar("_Result")


class _Lane:
    """`head`: the seq up to which every connection here has had its chance; `target`: the highest one heard of;
    `told`: `head` when HEADS came last, a second ago; `items`: what waits to be fanned out; `look`: the bus was
    away, and something may have been missed."""

    __slots__ = ("head", "items", "look", "number", "target", "told", "working")

    def __init__(self, number: int) -> None:
        self.number = number
        self.head = self.target = self.told = _UNKNOWN
        self.items: deque[Item] = deque()
        self.look = False
        self.working = False


class _Tenant:
    __slots__ = ("crowd", "lanes", "name", "served", "tag")

    def __init__(self, name: str) -> None:
        self.name = name
        self.tag = name.encode("ascii")
        self.crowd: Crowd[Connection] = Crowd()
        self.lanes = [_Lane(number) for number in range(_FIRST, LANE_COUNT)]
        self.served: asyncio.Task[Served]


class Audiences:
    """One task per lane while something is to be done there; no object per connection."""

    def __init__(
        self, bus: Bus, clock: DatabaseClock, nudge: Callable[[Connection], None],
        welcomed: Callable[[Connection], bool],
    ) -> None:  # fmt: skip
        self._bus = bus
        self._clock = clock
        self._fanout = Fanout(nudge, welcomed)
        self._tenants: dict[str, _Tenant] = {}
        self._idle: dict[str, int] = {}  # tenants without connections and since when, the longest first
        self._held_bytes = 0
        # A priority's questions wait for those of no other.
        self._asking = [asyncio.Semaphore(AUDIENCE_QUESTIONS_IN_FLIGHT_MAX) for _ in range(_FIRST, LANE_COUNT)]
        self._tasks: set[asyncio.Task[Any]] = set()

    def join(self, connection: Connection) -> None:
        """A connection was authenticated. What is stored before it asks role inbox is that answer's."""
        name = connection.session.tenant
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant(name)
            tenant.served = self._spawn(
                self._bus.serve(audience_subjects(name), functools.partial(self._handle, tenant))
            )
        elif self._idle:
            self._idle.pop(name, None)
        tenant.crowd.join(connection)

    def leave(self, connection: Connection) -> None:
        """... and has ended."""
        name = connection.session.tenant
        tenant = self._tenants[name]
        tenant.crowd.leave(connection)
        if not len(tenant.crowd):
            self._idle[name] = now_ms()

    def tick(self) -> None:
        """Listen no more for tenants that nobody came back for. Call each wheel tick."""
        now = now_ms()
        while self._idle:
            name, since_ms = next(iter(self._idle.items()))
            if now - since_ms < AUDIENCE_IDLE_MS:
                break
            del self._idle[name]
            self._spawn(_stop(self._tenants.pop(name).served))

    def look(self) -> None:
        """The bus was away: what was published meanwhile may be missing everywhere."""
        for tenant in self._tenants.values():
            for lane in tenant.lanes:
                lane.look = True
                self._work(tenant, lane)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, _Result]) -> "asyncio.Task[_Result]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("audience_failed", error=type(error).__name__, exc_info=error)

    # --- from the bus -------------------------------------------------------
    async def _handle(self, tenant: _Tenant, subject: str, message: bytes) -> None:
        try:
            database_ms, items = batch.unpack(message)
        except BadBatch:
            telemetry.BUS_BAD.inc()
            return
        self._clock.observe(database_ms, now_ms())
        refused = sum(not self._take(tenant, item) for item in items)
        if refused:
            telemetry.BUS_BAD.inc(refused)

    def _take(self, tenant: _Tenant, item: Item) -> bool:
        """Queue an item; False: it does not belong here."""
        if item.tag != tenant.tag:
            return False
        if item.kind == HEADS:
            return self._told(tenant, item.body)
        if item.kind not in (AUDIENCE, CONTROL) or not _FIRST <= item.lane < LANE_COUNT:
            return False
        if max(item.seq, item.prev) > _SEQ_MAX:
            return False
        lane = tenant.lanes[item.lane - _FIRST]
        if item.kind == AUDIENCE:
            telemetry.AUDIENCE_ITEMS.inc()
            if item.seq <= lane.head:
                return True
            lane.target = max(lane.target, item.seq)
        if len(lane.items) < AUDIENCE_HELD_ITEMS_MAX and self._held_bytes < AUDIENCE_HELD_BYTES_MAX:
            lane.items.append(item)
            self._held_bytes += item.size_bytes
        self._work(tenant, lane)  # what was not taken is a gap before the next, or before `target`
        return True

    def _told(self, tenant: _Tenant, body: bytes) -> bool:
        """How far the lanes are."""
        try:
            heads = batch.unpack_heads(body)
        except BadBatch:
            return False
        if max(heads) > _SEQ_MAX:
            return False
        for lane, seq in zip(tenant.lanes, heads, strict=True):
            if seq < lane.told and not lane.working:
                lane.head = _UNKNOWN  # PostgreSQL went back in time: begin anew
                lane.target = seq
                self._work(tenant, lane)
            elif seq > lane.head:
                lane.target = max(lane.target, seq)
                self._work(tenant, lane)
            lane.told = lane.head
        return True

    # --- one lane -----------------------------------------------------------
    def _work(self, tenant: _Tenant, lane: _Lane) -> None:
        if not lane.working:
            lane.working = True
            self._spawn(self._run(tenant, lane))

    async def _run(self, tenant: _Tenant, lane: _Lane) -> None:
        """Until nothing waits and the head is where it was said to be."""
        waited = False
        try:
            while lane.items or lane.look or lane.target > lane.head:
                if not len(tenant.crowd):
                    self._skip(lane)
                elif run := self._next(lane):
                    await self._deliver(tenant, lane, run)
                elif lane.head == _UNKNOWN:
                    await self._begin(tenant, lane)
                elif lane.items or lane.look or waited:
                    await self._refill(tenant, lane)
                elif lane.target > lane.head:
                    waited = True  # the item may have been overtaken by what was said of it
                    await asyncio.sleep(AUDIENCE_OVERTAKEN_MS / 1_000)
        finally:
            lane.working = False

    def _skip(self, lane: _Lane) -> None:
        """Nobody is here. Who comes asks role inbox first, which has all this."""
        lane.head = max(lane.head, lane.target)
        lane.look = False
        while lane.items:
            self._held_bytes -= lane.items.popleft().size_bytes

    def _next(self, lane: _Lane) -> list[Item]:
        """The items that follow the head; none where the first one leaves a gap."""
        run: list[Item] = []
        head = lane.head
        while lane.items and len(run) < AUDIENCE_FANOUT_ITEMS_MAX:
            item = lane.items[0]
            if item.kind == AUDIENCE and item.prev > head:
                break
            self._held_bytes -= item.size_bytes
            lane.items.popleft()
            if item.kind == CONTROL:
                run.append(item)
            elif item.seq > head:
                run.append(item)
                head = item.seq
        return run

    async def _begin(self, tenant: _Tenant, lane: _Lane) -> None:
        """Nothing is known of the lane yet: whoever lacks something asks for itself."""
        if lane.items:
            lane.head = lane.items[0].prev
        elif lane.look:
            await self._find_head(tenant, lane)
        else:
            await self._past(tenant, lane, lane.target, lane.target)

    async def _find_head(self, tenant: _Tenant, lane: _Lane) -> None:
        """Ask role inbox how far the lane is: nobody may ever speak of it again."""
        lane.look = False  # set anew if the bus goes away meanwhile
        request = AudienceFillRequest(tenant.name, lane.number, _SEQ_MAX)
        reply = await self._ask(lane, INBOX_AUDIENCE_FILL, request, AudienceFillReply)
        if reply is None:
            lane.look = True
            await asyncio.sleep(FILL_RETRY_MS / 1_000)
            return
        self._clock.observe(reply.database_ms, now_ms())
        await self._past(tenant, lane, reply.at, reply.at)

    async def _refill(self, tenant: _Tenant, lane: _Lane) -> None:
        """Ask role inbox for what follows the head."""
        gap = lane.items[0].prev if lane.items else _UNKNOWN
        target = lane.target
        reply = await self._ask(
            lane, INBOX_AUDIENCE_FILL, AudienceFillRequest(tenant.name, lane.number, lane.head), AudienceFillReply
        )
        if reply is None or len(reply.items) != len(reply.everyone):
            await asyncio.sleep(FILL_RETRY_MS / 1_000)
            return
        telemetry.AUDIENCE_GAPS.inc()
        lane.look = False
        self._clock.observe(reply.database_ms, now_ms())
        run: list[Item] = []
        head = lane.head
        for one, everyone in zip(reply.items, reply.everyone, strict=True):
            # What lies between two of them is no more: each follows the one before.
            attempt = EVERYONE if everyone else 0
            run.append(
                Item(AUDIENCE, lane.number, attempt, one.seq, head, one.expiry_ms, one.id, tenant.tag, one.body)
            )
            head = one.seq
        for start in range(0, len(run), AUDIENCE_FANOUT_ITEMS_MAX):
            await self._deliver(tenant, lane, run[start : start + AUDIENCE_FANOUT_ITEMS_MAX])
        if reply.at > lane.head:
            await self._past(tenant, lane, lane.head, reply.at)
        if not reply.more:
            lane.head = max(lane.head, gap)  # the store knows of nothing there
            if lane.target == target:
                lane.target = lane.head

    async def _past(self, tenant: _Tenant, lane: _Lane, prev: int, seq: int) -> None:
        """The lane is at `seq`: whoever has all up to `prev` lacks nothing."""
        item = Item(AUDIENCE, lane.number, EVERYONE, seq, prev, 0, bytes(16), tenant.tag, b"")
        await self._fan_out([(item, b"")], tenant.crowd.connections())
        lane.head = seq

    async def _deliver(self, tenant: _Tenant, lane: _Lane, run: list[Item]) -> None:
        """Items that follow the head, to whoever is here now and may have them."""
        connections = tenant.crowd.connections()
        await self._fan_out(await self._judge(tenant, lane, run, connections), connections)
        lane.head = max(lane.head, *(item.seq for item in run if item.kind == AUDIENCE), _UNKNOWN)

    # --- who may have it ----------------------------------------------------
    async def _judge(
        self, tenant: _Tenant, lane: _Lane, run: list[Item], connections: list[Connection]
    ) -> list[_Judged]:
        """Each item with whose it is."""
        if all(item.attempt == EVERYONE for item in run):
            return [(item, None) for item in run]
        crowds: list[list[str]] = []
        for start in range(0, len(connections), ENTITLED_USERS_COUNT_MAX):
            chosen = connections[start : start + ENTITLED_USERS_COUNT_MAX]
            crowds.append([connection.session.user for connection in chosen])
            await asyncio.sleep(0)
        return list(await asyncio.gather(*(self._entitled(tenant, lane, item, crowds) for item in run)))

    async def _entitled(self, tenant: _Tenant, lane: _Lane, item: Item, crowds: list[list[str]]) -> _Judged:
        if item.attempt == EVERYONE:
            return item, None
        replies = await asyncio.gather(
            *(
                self._ask(
                    lane, INBOX_AUDIENCE, EntitledRequest(tenant.name, item.lane, item.seq, users), EntitledReply
                )
                for users in crowds
            )
        )
        bits = b""
        for users, reply in zip(crowds, replies, strict=True):
            if reply is None or len(reply.bits) != (len(users) + 7) // 8:
                # No answer: nobody has what precedes it, as far as this process knows, so each one wants it.
                return item._replace(prev=item.seq), b""
            bits += reply.bits
        return item, bits

    async def _ask(
        self, lane: _Lane, subject: str, request: EntitledRequest | AudienceFillRequest, kind: type[_Reply]
    ) -> _Reply | None:
        """The answer of role inbox; None when it was asked AUDIENCE_TRIES_COUNT_MAX times in vain."""
        delay_ms = FILL_RETRY_MS
        for tried in range(AUDIENCE_TRIES_COUNT_MAX):
            if tried:
                await asyncio.sleep(delay_ms / 1_000 * random.uniform(0.5, 1.5))  # noqa: S311 jitter
                delay_ms = min(delay_ms * 2, FILL_RETRY_MS_MAX)
            async with self._asking[lane.number - _FIRST]:
                try:
                    reply = decode_reply(
                        await self._bus.request(subject, encode(request), INBOX_DEADLINE_MS / 1_000)
                    )
                except (BusError, Unavailable, msgspec.DecodeError) as error:
                    telemetry.AUDIENCE_QUESTIONS.labels(type(error).__name__).inc()
                    continue
            if isinstance(reply, kind):
                telemetry.AUDIENCE_QUESTIONS.labels("answered").inc()
                return reply
            telemetry.AUDIENCE_QUESTIONS.labels("busy").inc()
        return None

    # --- the fan-out --------------------------------------------------------
    async def _fan_out(self, run: list[_Judged], connections: list[Connection]) -> None:
        """One write per connection for all items; a turn of the loop for each AUDIENCE_FANOUT_CONNECTIONS_MAX."""
        frames = passed = 0
        for start in range(0, len(connections), AUDIENCE_FANOUT_CONNECTIONS_MAX):
            if start:
                await asyncio.sleep(0)
            stop = min(start + AUDIENCE_FANOUT_CONNECTIONS_MAX, len(connections))
            now = now_ms()
            for item, whose in run:
                bits = None if whose is None else whose[start // 8 : (stop + 7) // 8] or _NOBODY
                if item.kind == CONTROL:
                    self._fanout.send(connections, start, stop, item.body, bits)
                    continue
                if self._clock.expired(item.expiry_ms, now):
                    bits = _NOBODY
                written, past = self._fanout.offer(
                    connections, start, stop, item.lane, item.seq, item.prev, item.id, item.body, bits
                )
                frames += written
                passed += past
            self._fanout.flush()
        telemetry.FRAMES_WRITTEN.inc(frames)
        telemetry.AUDIENCE_FRAMES.inc(frames)
        telemetry.AUDIENCE_PASSED.inc(passed)


async def _stop(served: "asyncio.Task[Served]") -> None:
    await (await served).stop()
