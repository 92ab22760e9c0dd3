"""Presence of two gateway processes over one store, twin and real: clocks that differ, crashes, outages."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from gateway._fast.connection import Connection
from gateway._fast.registry import Registry
from gateway.pipeline import Pipeline
from gateway.presence import Presence
from gateway.replacement import Replacement
from notification.limits import DEVICES_PER_USER_MAX, LEASE_MS, RECONNECTING_MS
from notification.names import lease_key, presence_key
from notification.presence import decode
from tests.twins.bus import Hub, MemoryBus

AHEAD, BEHIND = 1_795_468_853_000, 1_795_468_850_000  # what two clocks say at about the same time
DEADLINE_S = 30


@dataclass
class FakeSession:
    device: str
    connection_epoch: int
    tag: bytes


@dataclass(eq=False)
class FakeConnection:
    session: FakeSession
    closed: list[int] = field(default_factory=list)

    def is_open(self) -> bool:
        return not self.closed

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)


class Process:
    def __init__(self, name: str, hub: Hub, pipeline: Pipeline, tag: str) -> None:
        self.name = name
        self.tag = tag
        self.registry: Registry[Any] = Registry()
        self.presence = Presence(pipeline, self.registry, name)
        self.bus = MemoryBus(hub)
        self.replacement = Replacement(self.bus, self.registry, self.presence)
        self.settled: list[int] = []
        self.presence.settled = lambda _, devices: self.settled.append(devices)

    def open(self, epoch: int, device: str = "phone") -> FakeConnection:
        """Registered, and not in presence yet."""
        connection = FakeConnection(FakeSession(device, epoch, self.tag.encode()))
        self.registry.add(self.tag.encode(), connection)
        return connection

    def connect(self, epoch: int, device: str = "phone") -> FakeConnection:
        connection = self.open(epoch, device)
        self.presence.online(cast(Connection, connection))
        return connection

    def lose(self, connection: FakeConnection) -> None:
        """The socket broke."""
        connection.closed.append(1006)
        self.registry.remove(self.tag.encode(), connection)
        self.presence.reconnecting(cast(Connection, connection))


class World:
    """Two processes; `two` has the clock that is behind."""

    def __init__(self, pipeline: Pipeline) -> None:
        hub = Hub()
        self.pipeline = pipeline
        self.tag = f"acme:{secrets.token_hex(8)}"
        self.one = Process("g-1-A", hub, pipeline, self.tag)
        self.two = Process("g-2-B", hub, pipeline, self.tag)

    async def entry(self, device: str = "phone") -> str:
        """Gateway, epoch and state, once everything pushed was answered."""
        await self.pipeline.settled()
        held = await self.pipeline.call("HGET", presence_key(self.tag), device)
        entry = decode(held.decode()) if held else None
        return f"{entry.gateway_id} {entry.epoch} {entry.state}" if entry else ""

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                await self.pipeline.settled()
                await asyncio.sleep(0.01)

    async def until_entry(self, wanted: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while await self.entry() != wanted:  # noqa: ASYNC110 - the condition is in a server
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(pipeline: Pipeline) -> World:
    made = World(pipeline)
    for process in (made.one, made.two):
        await process.replacement.start(process.name)
    return made


async def test_a_device_that_comes_back_where_the_clock_is_behind_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = world.one.connect(AHEAD)
    await world.until(lambda: world.one.settled)
    world.one.lose(broken)
    back = world.two.connect(BEHIND)
    await world.until(lambda: world.two.settled)
    assert await world.entry() == f"g-2-B {AHEAD + 1} ONLINE"
    assert back.session.connection_epoch == AHEAD + 1
    monkeypatch.setattr("gateway.presence.now_ms", lambda: 10**12 + RECONNECTING_MS)
    world.one.presence.tick()
    assert await world.entry() == f"g-2-B {AHEAD + 1} ONLINE"
    world.two.presence.offline(cast(Connection, back))
    assert await world.entry() == ""


async def test_the_later_connection_replaces_one_whose_clock_is_ahead(world: World) -> None:
    older = world.one.connect(AHEAD)
    await world.until(lambda: world.one.settled)
    newer = world.two.connect(BEHIND)
    await world.until(lambda: older.closed)
    assert (older.closed, newer.closed) == ([4409], [])
    assert await world.entry() == f"g-2-B {AHEAD + 1} ONLINE"


async def test_a_crashed_process_whose_clock_was_ahead_closes_nobody(world: World) -> None:
    await world.pipeline.call("HSET", presence_key(world.tag), "phone", f"g-0-dead {AHEAD} ONLINE {AHEAD}")
    connection = world.two.connect(BEHIND)
    await world.until(lambda: world.two.settled)
    assert connection.closed == []
    assert await world.entry() == f"g-2-B {AHEAD + 1} ONLINE"


async def test_a_connection_that_ended_before_its_epoch_was_known_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.pipeline.call("HSET", presence_key(world.tag), "phone", f"g-0-dead {AHEAD} RECONNECTING 1")
    world.two.lose(world.two.connect(BEHIND))
    await world.until_entry(f"g-2-B {AHEAD + 1} RECONNECTING")
    monkeypatch.setattr("gateway.presence.now_ms", lambda: 10**12 + RECONNECTING_MS)
    world.two.presence.tick()
    assert await world.entry() == ""


async def test_a_write_that_came_late_gives_the_living_connection_its_entry_back(world: World) -> None:
    """A connect waited for Redis while the device moved on: the older process writes over the newer one's entry."""
    newer = world.one.connect(AHEAD)
    await world.until(lambda: world.one.settled)
    late = world.two.open(BEHIND)
    late.closed.append(1006)
    world.two.presence.online(cast(Connection, late))
    await world.until_entry(f"g-1-A {AHEAD + 2} ONLINE")
    assert newer.closed == []
    assert newer.session.connection_epoch == AHEAD + 2


async def hold(world: World, gateway: str, lives: bool) -> None:
    """As many entries of another process as a user may have."""
    if lives:
        await world.pipeline.call("SET", lease_key(gateway), "1", "PX", 60_000)
    for number in range(DEVICES_PER_USER_MAX):
        await world.pipeline.call(
            "HSET", presence_key(world.tag), f"tab-{number}", f"{gateway} {BEHIND} ONLINE {BEHIND}"
        )


async def test_entries_of_a_crashed_process_lock_nobody_out(world: World) -> None:
    await hold(world, "g-0-dead", lives=False)
    world.two.connect(BEHIND)
    await world.until(lambda: world.two.settled)
    assert world.two.settled == [1]
    assert await world.entry() == f"g-2-B {BEHIND} ONLINE"
    assert await world.entry("tab-0") == ""


async def test_entries_of_a_living_process_count(world: World) -> None:
    gateway = f"g-3-{secrets.token_hex(4)}"
    await hold(world, gateway, lives=True)
    world.two.connect(BEHIND)
    await world.until(lambda: world.two.settled)
    assert world.two.settled == [DEVICES_PER_USER_MAX + 1]
    assert await world.entry() == ""
    assert await world.entry("tab-0") == f"{gateway} {BEHIND} ONLINE"


async def test_a_process_whose_lease_ran_out_writes_its_entries_anew(world: World) -> None:
    """It stood still for a while, was taken for dead, and somebody removed what it had written."""
    await world.one.presence.renew()
    world.one.connect(AHEAD)
    await world.until(lambda: world.one.settled)
    await world.pipeline.call("DEL", presence_key(world.tag))
    await world.one.presence.renew()
    assert await world.entry() == ""
    await world.pipeline.call("DEL", lease_key(world.one.name))
    await world.one.presence.renew()
    assert await world.entry() == f"g-1-A {AHEAD} ONLINE"
    assert 0 < await world.pipeline.call("PTTL", lease_key(world.one.name)) <= LEASE_MS
