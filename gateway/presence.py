"""Who is connected where, in Redis: entries of this process, its lease, the marker of the presence store.

The gateway's memory is the truth; Redis may lose everything at any time and is rewritten.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from gateway._fast.carrier import Connection
from gateway._fast.registry import Registry
from gateway.clock import now_ms, unix_ms
from gateway.pipeline import Pipeline, PipelineError, Told
from notification.errors import Unavailable
from notification.limits import (
    DEVICES_PER_USER_MAX,
    LEASE_MS,
    LEASE_RENEW_MS,
    PIPELINE_COMMANDS_MAX,
    PRESENCE_RECOUNTS_COUNT_MAX,
    PRESENCE_WRITE_MS_MAX,
    RECONNECTING_MS,
)
from notification.names import PRESENCE_BORN, lease_key, presence_key
from notification.presence import Entry, PresenceState, decode, encode

_log = structlog.get_logger("presence")

# KEYS[1] the user's hash; ARGV: device, epoch, entry, how many devices a user may have, why. Who connects now
# is the newest, whatever the clocks of hosts say: its epoch goes above the one held. What is kept (written anew)
# gives way to a connection elsewhere that is newer; what broke off gives way to anything newer.
# The reply: how many of the user's devices are online, the epoch it has now (0: not written), what was held.
# The hash stays small whoever comes with ever new devices: one too many is counted but not kept, and beyond as many
# entries nobody more is waited for.
PUT: Final = """\
local held = redis.call('HGET', KEYS[1], ARGV[1])
local epoch, entry, why = tonumber(ARGV[2]), ARGV[3], ARGV[5]
local gateway, at, state = string.match(held or '', '^(%S+ )(%d+) (%S+) ')
at = at and #at < 16 and tonumber(at)
local most = tonumber(ARGV[4])
local ours = gateway == string.match(entry, '^%S+ ')
if at and at >= epoch and not (ours and at == epoch and why ~= 'connect') then
  if why == 'connect' or why == 'keep' and (ours or at == epoch or state ~= 'ONLINE') then
    epoch = at + 1
    entry = string.gsub(entry, ' %d+ ', string.format(' %.0f ', epoch), 1)
  else
    epoch = 0
  end
end
if epoch > 0 and why == 'break' and redis.call('HLEN', KEYS[1]) > most then
  redis.call('HDEL', KEYS[1], ARGV[1])
elseif epoch > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], entry)
end
local count = redis.call('HLEN', KEYS[1])
if count > most then
  count = 0
  for _, entry in ipairs(redis.call('HVALS', KEYS[1])) do
    if string.find(entry, ' ONLINE ', 1, true) then count = count + 1 end
  end
  if count > most and not held and why ~= 'break' then redis.call('HDEL', KEYS[1], ARGV[1]) end
end
return string.format('%d %.0f %s', count, epoch, held or '')
"""

# KEYS[1] the user's hash; ARGV: device, "gateway_id epoch ". Removes the entry only if it is still that one.
REMOVE: Final = """\
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.sub(held, 1, #ARGV[2]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
"""


CONNECT: Final = "connect"
KEEP: Final = "keep"
BREAK: Final = "break"


class _Away(NamedTuple):
    """A device whose connection broke; its entry says RECONNECTING until `due_ms` (monotonic)."""

    due_ms: int
    tag: str
    device: str
    epoch: int
    since_ms: int


class Presence:
    """The entries of one gateway process.

    `settled` hears of each connection whose entry Redis holds now, and of how many devices the user has online
    there; 0 when Redis is away: then workers treat presence as unknown and ask every gateway.
    `shown` hears of each connection whose entry had been missing and was written anew; `rival` of a connection
    whose device is online at another process: (connection, the entry there).
    """

    def __init__(self, pipeline: Pipeline, registry: Registry[Connection], gateway_id: str) -> None:
        self._pipeline = pipeline
        self._registry = registry
        self._gateway_id = gateway_id
        self._away: deque[_Away] = deque()  # in order of due_ms: the delay is the same for all
        self._gone: deque[tuple[str, str, int]] = deque(maxlen=PIPELINE_COMMANDS_MAX)  # removals Redis missed
        self._born: bytes | None = None
        self._stale = False  # a write was skipped while Redis was away
        self._recounts: set[asyncio.Task[None]] = set()
        self.settled: Callable[[Connection, int], None] = _nobody_waits
        self.shown: Callable[[Connection], None] = _nobody_looks
        self.rival: Callable[[Connection, Entry], None] = _nobody_cares

    def online(self, connection: Connection) -> None:
        """Write a new connection's entry, above any that is held, and raise its epoch accordingly; `settled` is
        called within PRESENCE_WRITE_MS_MAX unless Redis stalls."""
        if not self._write(connection, CONNECT):
            self.settled(connection, 0)

    def keep(self, connection: Connection) -> None:
        """Write the entry anew: it may be lost, or another's. A newer connection elsewhere is a rival."""
        if not self._write(connection, KEEP):
            self.settled(connection, 0)

    def _write(self, connection: Connection, why: str, final: bool = False) -> bool:
        session = connection.session
        return self._put(
            session.tag.decode("ascii"), session.device, session.connection_epoch, PresenceState.ONLINE,
            session.connection_epoch, why, functools.partial(self._told, connection, final),
        )  # fmt: skip

    def _told(self, connection: Connection, final: bool, reply: bytes) -> None:
        count, epoch, held = reply.split(b" ", 2)
        session = connection.session
        raised = int(epoch) > session.connection_epoch
        if raised:
            session.connection_epoch = int(epoch)
        rival = self._rival_of(connection, held) if held else None
        if raised and not connection.is_open():  # its end went out under the lower epoch, and changed nothing
            self.reconnecting(connection, rival)
        elif rival is not None:
            rival(epoch)
        if int(count) <= DEVICES_PER_USER_MAX or final or len(self._recounts) >= PRESENCE_RECOUNTS_COUNT_MAX:
            self.settled(connection, int(count))
            return
        task = asyncio.get_running_loop().create_task(self._recount(connection, int(count)))
        self._recounts.add(task)
        task.add_done_callback(self._recounts.discard)

    async def _recount(self, connection: Connection, count: int) -> None:
        """More devices than a user may have: entries of processes that crashed do not count, and go."""
        tag = connection.session.tag.decode("ascii")
        try:
            async with asyncio.timeout(PRESENCE_WRITE_MS_MAX / 1_000):
                dead = await self._dead(tag)
        except (Unavailable, TimeoutError, PipelineError):
            dead = []
        for device, entry in dead:
            self._remove(tag, device, entry.epoch, entry.gateway_id)
        if not (dead and connection.is_open() and self._write(connection, CONNECT, final=True)):
            self.settled(connection, count)

    async def _dead(self, tag: str) -> list[tuple[str, Entry]]:
        """The user's entries whose process has no lease: it crashed, or will write them anew once it has one."""
        fields = await self._pipeline.call("HGETALL", presence_key(tag))
        found = []
        for device, value in zip(fields[::2], fields[1::2], strict=True):
            entry = decode(value.decode("ascii", "replace"))
            if entry is not None and entry.gateway_id != self._gateway_id:
                found.append((device.decode("ascii", "replace"), entry))
        gateways = {entry.gateway_id for _, entry in found}
        leases = await asyncio.gather(*(self._pipeline.call("GET", lease_key(gateway)) for gateway in gateways))
        gone = {gateway for gateway, lease in zip(gateways, leases, strict=True) if lease is None}
        return [(device, entry) for device, entry in found if entry.gateway_id in gone]

    async def close(self) -> None:
        """Let the last recounts end."""
        await asyncio.gather(*self._recounts, return_exceptions=True)

    def _rival_of(self, connection: Connection, held: bytes) -> Told | None:
        entry = decode(held.decode("ascii", "replace"))
        if entry is None or entry.gateway_id == self._gateway_id or entry.state is not PresenceState.ONLINE:
            return None
        return lambda _: self.rival(connection, entry)

    def reconnecting(self, connection: Connection, told: Told | None = None) -> None:
        """The socket broke, or we sent the client away: it should be back within RECONNECTING_MS."""
        session = connection.session
        away = _Away(
            now_ms() + RECONNECTING_MS, session.tag.decode("ascii"), session.device, session.connection_epoch,
            unix_ms(),
        )  # fmt: skip
        self._away.append(away)
        self._put(away.tag, away.device, away.epoch, PresenceState.RECONNECTING, away.since_ms, BREAK, told)

    def offline(self, connection: Connection) -> None:
        """The client said goodbye."""
        session = connection.session
        self._remove(session.tag.decode("ascii"), session.device, session.connection_epoch)

    def tick(self) -> None:
        """Remove who did not come back. Call about once a second."""
        now = now_ms()
        while self._away and self._away[0].due_ms <= now:
            away = self._away.popleft()
            self._remove(away.tag, away.device, away.epoch)

    async def renew(self) -> None:
        """Renew the lease; rewrite every entry when the store was lost or missed a write, or the lease had run out
        (others may have taken us for dead, and our entries away)."""
        try:
            async with asyncio.timeout(LEASE_RENEW_MS / 1_000):
                lease = await self._pipeline.call("SET", lease_key(self._gateway_id), "1", "PX", LEASE_MS, "GET")
                self._stale = self._stale or lease is None
                born = await self._pipeline.call("SET", PRESENCE_BORN, now := str(unix_ms()), "NX", "GET")
        except (Unavailable, TimeoutError, PipelineError):
            self._stale = True
            return
        if born is None or born != self._born or self._stale:  # None: there was no marker, this one is ours
            self._born = now.encode("ascii") if born is None else born
            self._rewrite()

    def _rewrite(self) -> None:
        self._stale = False
        while self._gone and not self._stale:
            self._remove(*self._gone.popleft())
        connections = self._registry.connections()
        for connection in connections:
            self.keep(connection)
            self.shown(connection)
        for away in self._away:
            self._put(away.tag, away.device, away.epoch, PresenceState.RECONNECTING, away.since_ms, BREAK)
        if connections or self._away:
            _log.info("presence_rewritten", entries=len(connections) + len(self._away))

    def _put(
        self, tag: str, device: str, epoch: int, state: PresenceState, since_ms: int, why: str,
        told: Told | None = None,
    ) -> bool:  # fmt: skip
        """False: Redis is away; the entry is written when it is back."""
        entry = encode(self._gateway_id, epoch, state, since_ms)
        if self._pipeline.connected and self._pipeline.push(
            "EVAL", PUT, 1, presence_key(tag), device, epoch, entry, DEVICES_PER_USER_MAX, why, told=told
        ):
            return True
        self._stale = True
        return False

    def _remove(self, tag: str, device: str, epoch: int, gateway_id: str = "") -> None:
        """Remove the entry, unless it has changed; `gateway_id`: of another process, which is dead."""
        held = f"{gateway_id or self._gateway_id} {epoch} "
        if self._pipeline.connected and self._pipeline.push("EVAL", REMOVE, 1, presence_key(tag), device, held):
            return
        if not gateway_id:
            self._stale = True
            self._gone.append((tag, device, epoch))


def _nobody_cares(connection: Connection, entry: Entry) -> None:
    """Until somebody is told of rivals."""


def _nobody_waits(connection: Connection, devices: int) -> None:
    """Until somebody waits for entries."""


def _nobody_looks(connection: Connection) -> None:
    """Until somebody is told who was missing."""
