"""One connection per device, across two processes that share a presence store and a bus."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from gateway._fast.carrier import Connection
from gateway._fast.registry import Registry
from gateway.presence import Presence
from gateway.replacement import EPOCH_MAX, Replacement, replace
from notification.names import presence_key, replaced_subject
from tests.twins.bus import Hub, MemoryBus
from tests.twins.pipeline import MemoryPipeline, Store

TAG = b"acme:YW5u"


@dataclass
class FakeSession:
    device: str
    connection_epoch: int
    tag: bytes = TAG


@dataclass(eq=False)
class FakeConnection:
    session: FakeSession
    closed: list[int] = field(default_factory=list)

    def is_open(self) -> bool:
        return not self.closed

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)


class Process:
    def __init__(self, name: str, bus: MemoryBus, store: Store) -> None:
        self.name = name
        self.registry: Registry[Any] = Registry()
        self.presence = Presence(MemoryPipeline(store), self.registry, name)
        self.replacement = Replacement(bus, self.registry, self.presence)

    def connect(self, device: str, epoch: int) -> FakeConnection:
        connection = FakeConnection(FakeSession(device, epoch))
        self.registry.add(TAG, connection)
        self.presence.online(cast(Connection, connection))
        return connection


@pytest.fixture
async def processes() -> tuple[Process, Process, Store]:
    hub, store = Hub(), Store()
    made = []
    for name in ("g-0-A", "g-1-B"):
        process = Process(name, MemoryBus(hub), store)
        await process.replacement.start(name)
        made.append(process)
    return made[0], made[1], store


async def settle(*processes: Process) -> None:
    for process in processes:
        await process.replacement.close()
    for _ in range(5):
        await asyncio.sleep(0)


def entry(store: Store) -> bytes:
    return store.hashes[presence_key(TAG.decode()).encode()][b"phone"]


async def test_the_newer_connection_closes_the_older_on_another_process(
    processes: tuple[Process, Process, Store],
) -> None:
    one, two, store = processes
    older, other_device = one.connect("phone", 100), one.connect("tablet", 100)
    newer = two.connect("phone", 200)
    await settle(one, two)
    assert older.closed == [4409]
    assert (newer.closed, other_device.closed) == ([], [])
    assert one.registry.find(TAG) == (other_device,)
    assert entry(store).startswith(b"g-1-B 200 ONLINE")


async def test_whoever_kept_on_beside_a_newer_connection_closes_itself(
    processes: tuple[Process, Process, Store],
) -> None:
    one, two, store = processes
    newer = one.connect("phone", 200)
    older = FakeConnection(FakeSession("phone", 100))
    two.registry.add(TAG, older)
    two.presence.keep(cast(Connection, older))
    await settle(one, two)
    assert older.closed == [4409]
    assert newer.closed == []
    assert len(two.registry) == 0
    assert entry(store).startswith(b"g-0-A 200 ONLINE")


async def test_a_device_that_broke_off_is_no_rival(processes: tuple[Process, Process, Store]) -> None:
    one, two, _ = processes
    broken = one.connect("phone", 100)
    one.registry.remove(TAG, broken)
    one.presence.reconnecting(cast(Connection, broken))
    newer = two.connect("phone", 200)
    await settle(one, two)
    assert (broken.closed, newer.closed) == ([], [])


async def test_a_late_notice_spares_the_newest(processes: tuple[Process, Process, Store]) -> None:
    one, _, _ = processes
    newest = one.connect("phone", 300)
    assert replace(one.registry, TAG, "phone", 200) == 0
    assert newest.closed == []
    assert replace(one.registry, TAG, "phone", EPOCH_MAX) == 300
    assert newest.closed == [4409]


async def test_a_notice_nobody_understands_is_counted(processes: tuple[Process, Process, Store]) -> None:
    one, _, _ = processes
    connection = one.connect("phone", 100)
    await one.replacement._bus.publish(replaced_subject("g-0-A"), b"\xff")
    await settle(one)
    assert connection.closed == []
