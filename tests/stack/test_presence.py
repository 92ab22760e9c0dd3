"""The contract of worker.presence.PresenceReader, over Redis and over its memory twin."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Protocol

import pytest
from redis.asyncio import Redis

from notification.limits import GATEWAY_DEAD_MS, PRESENCE_REBUILD_MS
from notification.names import PRESENCE_BORN, lease_key, presence_key
from notification.presence import Entry, PresenceState
from notification.settings import Settings
from tests.twins.presence import MemoryPresence
from worker.presence import Beats, PresenceReader, RedisPresence

pytestmark = pytest.mark.stack
OLD_MS = PRESENCE_REBUILD_MS + 60_000


class World(Protocol):
    """What gateways do, whatever the reader reads."""

    beats: Beats
    now_s: float

    @property
    def reader(self) -> PresenceReader: ...

    async def entry(
        self, tag: str, device: str, gateway: str, state: PresenceState = PresenceState.ONLINE
    ) -> None: ...
    async def lease(self, gateway: str) -> None: ...
    async def marker(self, age_ms: int | None) -> None: ...
    async def break_off(self) -> None: ...
    async def devices(self, tag: str) -> set[str]: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.beats = Beats(lambda: self.now_s)
        self.reader: MemoryPresence = MemoryPresence(self.beats)

    async def entry(self, tag: str, device: str, gateway: str, state: PresenceState = PresenceState.ONLINE) -> None:
        self.reader.entries.setdefault(tag, {})[device] = Entry(gateway, 1, state, 1)

    async def lease(self, gateway: str) -> None:
        self.reader.leases.add(gateway)

    async def marker(self, age_ms: int | None) -> None:
        self.reader.settled = age_ms is not None and age_ms > PRESENCE_REBUILD_MS

    async def break_off(self) -> None:
        self.reader.readable = False

    async def devices(self, tag: str) -> set[str]:
        return set(self.reader.entries.get(tag, {}))


class RedisWorld:
    def __init__(self, redis: "Redis") -> None:
        self.now_s = 100.0
        self.beats = Beats(lambda: self.now_s)
        self._redis = redis
        self.reader: RedisPresence = RedisPresence(redis, self.beats, lambda: self.now_s)

    async def entry(self, tag: str, device: str, gateway: str, state: PresenceState = PresenceState.ONLINE) -> None:
        await self._redis.hset(presence_key(tag), device, Entry(gateway, 1, state, 1).encode())

    async def lease(self, gateway: str) -> None:
        await self._redis.set(lease_key(gateway), "1")

    async def marker(self, age_ms: int | None) -> None:
        if age_ms is None:
            await self._redis.delete(PRESENCE_BORN)
        else:
            await self._redis.set(PRESENCE_BORN, int(time.time() * 1000) - age_ms)

    async def break_off(self) -> None:
        self.reader = RedisPresence(Redis(port=1, socket_connect_timeout=0.5), self.beats, lambda: self.now_s)

    async def devices(self, tag: str) -> set[str]:
        fields = await self._redis.hgetall(presence_key(tag))
        return {field.decode() if isinstance(field, bytes) else field for field in fields}


@pytest.fixture(params=["memory", "redis"])
async def world(request: pytest.FixtureRequest, servers: Settings) -> AsyncIterator[World]:
    if request.param == "memory":
        made: World = MemoryWorld()
        await made.marker(OLD_MS)
        yield made
        return
    redis = Redis.from_url(servers.redis_url.rpartition("/")[0] + "/1")
    await redis.flushdb()
    made = RedisWorld(redis)
    await made.marker(OLD_MS)
    yield made
    await redis.flushdb()
    await redis.aclose()


async def test_owners_are_the_gateways_of_online_devices_with_a_lease(world: World) -> None:
    await world.entry("t:a", "phone", "g1")
    await world.entry("t:a", "laptop", "g2")
    await world.entry("t:a", "tablet", "g1")
    for gateway in ("g1", "g2"):
        await world.lease(gateway)
    located = await world.reader.locate(["t:a", "t:nobody"])
    assert not located.unknown
    assert sorted(located.targets("t:a")) == ["g1", "g2"]
    assert located.targets("t:nobody") == ()


async def test_a_reconnecting_device_is_no_target(world: World) -> None:
    await world.entry("t:a", "phone", "g1", PresenceState.RECONNECTING)
    await world.lease("g1")
    assert (await world.reader.locate(["t:a"])).targets("t:a") == ()
    assert await world.devices("t:a") == {"phone"}


async def test_without_lease_and_beat_an_entry_counts_for_nothing_and_is_removed_in_time(world: World) -> None:
    await world.entry("t:a", "phone", "dead")
    await world.entry("t:a", "laptop", "g1")
    await world.lease("g1")
    assert (await world.reader.locate(["t:a"])).targets("t:a") == ("g1",)
    assert await world.devices("t:a") == {"phone", "laptop"}, "nobody has listened long enough to call it dead"
    world.now_s += GATEWAY_DEAD_MS / 1000
    assert (await world.reader.locate(["t:a"])).targets("t:a") == ("g1",)
    for _ in range(100):
        if await world.devices("t:a") == {"laptop"}:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the dead gateway's entry is still there")


async def test_a_beat_keeps_a_gateway_alive_without_its_lease(world: World) -> None:
    await world.entry("t:a", "phone", "g1")
    world.beats.beat("g1")
    assert (await world.reader.locate(["t:a"])).targets("t:a") == ("g1",)
    world.now_s += GATEWAY_DEAD_MS / 1000
    assert (await world.reader.locate(["t:a"])).targets("t:a") == ()


@pytest.mark.parametrize("age_ms", [None, 0, PRESENCE_REBUILD_MS // 2])
async def test_unknown_while_the_marker_is_missing_or_young_asks_every_live_gateway(
    world: World, age_ms: int | None
) -> None:
    await world.entry("t:a", "phone", "g1")
    await world.lease("g1")
    world.beats.beat("g2")
    world.beats.beat("g3")
    await world.marker(age_ms)
    located = await world.reader.locate(["t:a"])
    assert located.unknown
    assert located.targets("t:a") == ("g2", "g3")


async def test_unknown_while_the_store_is_unreadable(world: World) -> None:
    world.beats.beat("g2")
    await world.break_off()
    located = await world.reader.locate(["t:a"])
    assert located.unknown
    assert located.targets("t:a") == ("g2",)
