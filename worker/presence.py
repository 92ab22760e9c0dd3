"""Where are a user's devices connected? Read from Redis, checked against leases and beats.

An entry counts while its gateway lives: its lease exists, or it beat on the bus within GATEWAY_DEAD_MS. Presence
is *unknown* while Redis is unreadable or the marker names.PRESENCE_BORN is missing or younger than
PRESENCE_REBUILD_MS: then every live gateway is asked instead of parking anything.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec
import structlog
from redis.asyncio import Redis, RedisCluster

from notification import messages, telemetry
from notification.bus import Bus
from notification.limits import GATEWAY_DEAD_MS, LEASE_RENEW_MS, PRESENCE_REBUILD_MS
from notification.names import PRESENCE_BORN, STATUS_SUBJECT, lease_key, presence_key
from notification.presence import Entry, PresenceState, decode
from worker.outage import origin
from worker.redis_client import REDIS_AWAY

_log = structlog.get_logger("presence")

# Delete a field only if it still is what was read: a newer connection's entry must survive.
_DELETE_SAME: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
"""
# All of a batch in one answer, which is parsed as a whole: a pipeline's answers are looked at one by one.
_READ: Final = """
local found = {redis.call('GET', KEYS[1])}
for at = 2, #KEYS do found[at] = redis.call('HGETALL', KEYS[at]) end
return found
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Located:
    """`owners`: tag -> gateway ids that hold an ONLINE connection of the user (absent or empty: none).

    `unknown`: presence says nothing now; `owners` is empty, all `gateways` (live by their beats) are asked.
    """

    unknown: bool
    owners: dict[str, tuple[str, ...]]
    gateways: tuple[str, ...]

    def targets(self, tag: str) -> tuple[str, ...]:
        """The gateways to send to."""
        return self.gateways if self.unknown else self.owners.get(tag, ())


class PresenceReader(Protocol):
    """Look up presence; tags are names.user_tag."""

    async def locate(self, tags: Sequence[str]) -> Located:
        """The owners of each tag. Raises nothing of the network: what cannot be read is unknown."""


class Beats:
    """Which gateway processes live, by the beats they publish each BEAT_MS."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._last_s: dict[str, float] = {}
        self._started_s = now_s()

    async def listen(self, bus: Bus) -> None:
        """Subscribe to the beats."""
        await bus.serve(STATUS_SUBJECT, self._on_beat)

    async def _on_beat(self, _subject: str, data: bytes) -> None:
        try:
            beat = messages.decode_beat(data)
        except msgspec.DecodeError:
            telemetry.BUS_BAD.inc()
            return
        self.beat(beat.gateway_id)

    def beat(self, gateway_id: str) -> None:
        """Note that this gateway lives."""
        self._last_s[gateway_id] = self._now_s()

    def gone(self, gateway_id: str) -> None:
        """Nobody answers on its subject: silent until it beats again."""
        self._last_s.pop(gateway_id, None)

    def lives(self, gateway_id: str) -> bool:
        """Whether it beat within GATEWAY_DEAD_MS."""
        last_s = self._last_s.get(gateway_id)
        return last_s is not None and self._now_s() - last_s < GATEWAY_DEAD_MS / 1000

    def live(self) -> tuple[str, ...]:
        """All that live, sorted; forgets the dead."""
        self._last_s = {gateway: last for gateway, last in self._last_s.items() if self.lives(gateway)}
        return tuple(sorted(self._last_s))

    @property
    def settled(self) -> bool:
        """Whether we have listened long enough for every living gateway to have been heard."""
        return self._now_s() - self._started_s >= GATEWAY_DEAD_MS / 1000


class RedisPresence:
    """PresenceReader over Redis: one round trip, a second for leases not in the cache."""

    def __init__(self, redis: "Redis", beats: Beats, now_s: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._beats = beats
        self._now_s = now_s
        self._lease_until_s: dict[str, float] = {}
        self._readable = True
        self._cleanups: set[asyncio.Task[None]] = set()

    async def locate(self, tags: Sequence[str]) -> Located:
        wanted = list(dict.fromkeys(tags))
        try:
            born, entries = await self._read(wanted)
            live = await self._living({entry.gateway_id for _tag, _device, entry in entries})
        except Exception as error:  # Redis is away, or what it says answers no question of ours
            if self._readable:
                _log.warning("presence_unreadable", error=origin(error))
            self._readable = False
            return Located(True, {}, self._beats.live())
        self._readable = True
        if born is None or time.time() * 1000 - born < PRESENCE_REBUILD_MS:
            return Located(True, {}, self._beats.live())
        self._clean(entry for entry in entries if self._dead(entry[2].gateway_id, live))
        return Located(False, _owners(entries, live), self._beats.live())

    async def close(self) -> None:
        """Let running clean-ups end."""
        if self._cleanups:
            await asyncio.wait(self._cleanups)

    async def _read(self, tags: Sequence[str]) -> tuple[int | None, list[tuple[str, str, Entry]]]:
        """The marker (Unix ms, None = missing) and every entry as (tag, device, entry)."""
        marker, hashes = await self._read_raw([presence_key(tag) for tag in tags])
        entries = []
        for tag, fields in zip(tags, hashes, strict=True):
            for device, value in fields:
                if (entry := decode(_text(value))) is not None:
                    entries.append((tag, _text(device), entry))
        text = _text(marker or b"")
        return (int(text) if text.isascii() and text.isdigit() else None), entries

    async def _read_raw(self, keys: Sequence[str]) -> tuple[bytes | None, list[Iterable[tuple[bytes, bytes]]]]:
        """The marker, and the fields and values of each hash."""
        marker: bytes | None
        if isinstance(self._redis, RedisCluster):  # the keys lie in many slots
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.get(PRESENCE_BORN)
            for key in keys:
                pipeline.hgetall(key)
            marker, *hashes = await pipeline.execute()
            return marker, [fields.items() for fields in hashes]
        reply: Any = self._redis.eval(_READ, 1 + len(keys), PRESENCE_BORN, *keys)
        marker, *flat = await reply
        return marker or None, [zip(one[::2], one[1::2], strict=True) for one in flat]

    async def _living(self, gateways: set[str]) -> set[str]:
        now_s = self._now_s()
        cached = {gateway for gateway in gateways if self._lease_until_s.get(gateway, 0.0) > now_s}
        asked = sorted(gateways - cached)
        if not asked:
            return cached
        pipeline = self._redis.pipeline(transaction=False)
        for gateway in asked:
            pipeline.get(lease_key(gateway))
        leases = await pipeline.execute()
        self._lease_until_s = {gateway: until for gateway, until in self._lease_until_s.items() if until > now_s}
        for gateway, lease in zip(asked, leases, strict=True):
            if lease is not None:
                self._lease_until_s[gateway] = now_s + LEASE_RENEW_MS / 1000
                cached.add(gateway)
            elif self._beats.lives(gateway):
                cached.add(gateway)
        return cached

    def _dead(self, gateway: str, live: set[str]) -> bool:
        return gateway not in live and self._beats.settled

    def _clean(self, dead: Iterable[tuple[str, str, Entry]]) -> None:
        """Delete entries of dead gateways, off the sending path."""
        entries = list(dead)
        if entries and not self._cleanups:
            task = asyncio.create_task(self._delete(entries))
            self._cleanups.add(task)
            task.add_done_callback(self._cleanups.discard)

    async def _delete(self, entries: list[tuple[str, str, Entry]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for tag, device, entry in entries:
            pipeline.eval(_DELETE_SAME, 1, presence_key(tag), device, entry.encode())
        try:
            await pipeline.execute()
        except REDIS_AWAY as error:
            _log.warning("presence_cleanup_failed", error=type(error).__name__)


def _owners(entries: Iterable[tuple[str, str, Entry]], live: set[str]) -> dict[str, tuple[str, ...]]:
    owners: dict[str, dict[str, None]] = {}
    for tag, _device, entry in entries:
        if entry.state is PresenceState.ONLINE and entry.gateway_id in live:
            owners.setdefault(tag, {})[entry.gateway_id] = None
    return {tag: tuple(gateways) for tag, gateways in owners.items()}


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
