"""Presence entries over the memory pipeline: outages, lost stores, devices that come back or do not."""

from dataclasses import dataclass
from typing import Any, cast

import pytest

from gateway._fast.connection import Connection
from gateway._fast.registry import Registry
from gateway.presence import Presence
from notification.limits import RECONNECTING_MS
from notification.names import PRESENCE_BORN, lease_key, presence_key
from notification.presence import decode
from tests.twins.pipeline import MemoryPipeline, Store

KEY = presence_key("acme:YW5u").encode()


@dataclass
class FakeSession:
    device: str
    connection_epoch: int
    tag: bytes = b"acme:YW5u"


@dataclass
class FakeConnection:
    session: FakeSession
    open: bool = True

    def is_open(self) -> bool:
        return self.open


def connection(device: str = "phone", epoch: int = 100) -> Connection:
    return cast(Connection, FakeConnection(FakeSession(device, epoch)))


class Process:
    """One gateway's presence over a shared store."""

    def __init__(self, store: Store, name: str = "g-0-A") -> None:
        self.registry: Registry[Any] = Registry()
        self.presence = Presence(MemoryPipeline(store), self.registry, name)
        self.settled: list[tuple[str, int]] = []
        self.presence.settled = lambda connection, devices: self.settled.append(
            (connection.session.device, devices)
        )

    def connect(self, connection: Connection) -> Connection:
        self.registry.add(b"acme:YW5u", connection)
        self.presence.online(connection)
        return connection

    def lose(self, connection: Connection) -> None:
        self.registry.remove(b"acme:YW5u", connection)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def process(store: Store) -> Process:
    return Process(store)


def state(store: Store, device: bytes = b"phone") -> str:
    entry = decode(store.hashes.get(KEY, {}).get(device, b"").decode())
    return f"{entry.gateway_id} {entry.epoch} {entry.state}" if entry else ""


async def test_lease_and_marker(store: Store, process: Process) -> None:
    await process.presence.renew()
    assert lease_key("g-0-A").encode() in store.strings
    born = store.strings[PRESENCE_BORN.encode()]
    await process.presence.renew()
    assert store.strings[PRESENCE_BORN.encode()] == born


async def test_clean_and_unclean_ends(store: Store, process: Process) -> None:
    phone, tablet = process.connect(connection()), process.connect(connection("tablet"))
    assert state(store) == "g-0-A 100 ONLINE"
    process.presence.offline(phone)
    process.presence.reconnecting(tablet)
    assert state(store) == ""
    assert state(store, b"tablet") == "g-0-A 100 RECONNECTING"


async def test_who_does_not_come_back_is_offline(
    store: Store, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.presence.reconnecting(connection())
    process.presence.reconnecting(connection("tablet"))
    process.connect(connection("tablet", 101))
    now = [10**9]
    monkeypatch.setattr("gateway.presence.now_ms", lambda: now[0])
    process.presence.tick()
    assert state(store) == ""
    assert state(store, b"tablet") == "g-0-A 101 ONLINE"
    now[0] += RECONNECTING_MS
    process.presence.tick()
    assert state(store, b"tablet") == "g-0-A 101 ONLINE"


async def test_a_device_that_moved_keeps_its_new_entry(store: Store, process: Process) -> None:
    old = process.connect(connection())
    Process(store, "g-1-B").connect(connection(epoch=101))
    process.presence.reconnecting(old)
    process.presence.offline(old)
    assert state(store) == "g-1-B 101 ONLINE"


async def test_a_store_that_lost_everything_is_rewritten(store: Store, process: Process) -> None:
    await process.presence.renew()
    process.connect(connection())
    gone = process.connect(connection("tablet"))
    process.lose(gone)
    process.presence.reconnecting(gone)
    store.flush()
    await process.presence.renew()
    assert state(store) == "g-0-A 100 ONLINE"
    assert state(store, b"tablet") == "g-0-A 100 RECONNECTING"


async def test_a_marker_that_another_gateway_wrote_anew_means_rewriting(store: Store, process: Process) -> None:
    await process.presence.renew()
    process.connect(connection())
    store.flush()
    store.run(("SET", PRESENCE_BORN, "5"))
    await process.presence.renew()
    assert state(store) == "g-0-A 100 ONLINE"
    assert store.strings[PRESENCE_BORN.encode()][0] == b"5"


async def test_what_redis_missed_while_it_was_away(store: Store, process: Process) -> None:
    await process.presence.renew()
    phone = process.connect(connection())
    store.up = False
    process.lose(phone)
    process.presence.offline(phone)
    process.connect(connection("tablet"))
    assert process.settled[-1] == ("tablet", 0)
    await process.presence.renew()
    assert state(store) == "g-0-A 100 ONLINE"
    store.up = True
    await process.presence.renew()
    assert state(store) == ""
    assert state(store, b"tablet") == "g-0-A 100 ONLINE"


async def test_whose_entry_is_written_hears_of_the_users_devices(process: Process) -> None:
    process.connect(connection())
    process.connect(connection("tablet"))
    assert process.settled == [("phone", 1), ("tablet", 2)]
