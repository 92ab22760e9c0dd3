"""One contract, two buses: the memory twin and NATS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from devstack.servers import Servers
from notification.bus import Bus, NatsBus
from notification.errors import BusTimeout, NoResponders, Unavailable
from notification.limits import BUS_READ_BYTES_MAX
from notification.settings import Settings
from tests.proxy import Proxy
from tests.twins.bus import Hub, MemoryBus

Connect = Callable[[], Awaitable[Bus]]


@pytest.fixture(params=["twin", pytest.param("nats", marks=pytest.mark.stack)])
def url(request: pytest.FixtureRequest) -> str:
    """Where NATS is; empty for the twin."""
    if request.param == "twin":
        return ""
    embedded: tuple[Settings, Servers] = request.getfixturevalue("embedded")
    return embedded[0].nats_url


@pytest.fixture
async def connect(url: str) -> AsyncIterator[Connect]:
    """Makes buses of one server; closes them afterwards."""
    buses: list[Bus] = []
    if not url:
        hub = Hub()

        async def make() -> Bus:
            buses.append(MemoryBus(hub))
            return buses[-1]
    else:

        async def make() -> Bus:
            buses.append(await NatsBus.connect(url, "contract"))
            return buses[-1]

    yield make
    for bus in buses:
        await bus.close()


class Inbox:
    """A handler that keeps what it got."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.answer = answer
        self._more = asyncio.Event()

    async def __call__(self, subject: str, payload: bytes) -> bytes | None:
        self.got.append((subject, payload))
        self._more.set()
        return self.answer

    async def count(self, wanted: int) -> None:
        async with asyncio.timeout(20):
            while len(self.got) < wanted:
                self._more.clear()
                await self._more.wait()


async def settled(bus: Bus) -> None:
    """What was subscribed or published before has reached the server."""
    echo = Inbox(b"done")
    await bus.serve("settled", echo)
    await bus.request("settled", b"", 3)


async def test_publish_reaches_every_subscriber_in_order(connect: Connect) -> None:
    one, two, sender = await connect(), await connect(), await connect()
    inboxes = Inbox(), Inbox()
    await one.serve("a.b", inboxes[0])
    await two.serve("a.*", inboxes[1])
    await settled(one)
    await settled(two)
    for number in range(20):
        await sender.publish("a.b", b"%d" % number)
    await sender.publish("a.b.c", b"deeper")
    for inbox in inboxes:
        await inbox.count(20)
        assert inbox.got == [("a.b", b"%d" % number) for number in range(20)]


async def test_a_queue_group_shares_the_work(connect: Connect) -> None:
    members = [await connect() for _ in range(2)]
    inboxes = [Inbox(b"ok") for _ in members]
    for bus, inbox in zip(members, inboxes, strict=True):
        await bus.serve("work", inbox, queue="workers")
        await settled(bus)
    sender = await connect()
    for _ in range(40):
        assert await sender.request("work", b"", 3) == b"ok"
    assert sum(len(inbox.got) for inbox in inboxes) == 40
    assert all(inbox.got for inbox in inboxes)


async def test_request_carries_bytes_both_ways(connect: Connect) -> None:
    server, client = await connect(), await connect()
    await server.serve("echo", Inbox(bytes(range(256))))
    await settled(server)
    assert await client.request("echo", b"\x00\xff", 3) == bytes(range(256))


async def test_nobody_listens(connect: Connect) -> None:
    client = await connect()
    with pytest.raises(NoResponders):
        await client.request("nobody", b"", 3)


async def test_no_answer_in_time(connect: Connect) -> None:
    server, client = await connect(), await connect()
    await server.serve("mute", Inbox(None))
    await settled(server)
    with pytest.raises(BusTimeout):
        await client.request("mute", b"", 0.2)


async def test_one_subject_is_handled_one_after_the_other(connect: Connect) -> None:
    server, client = await connect(), await connect()
    running, most = 0, 0

    async def slow(subject: str, payload: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return b""

    await server.serve("one", slow)
    await server.serve("many", slow, concurrent=True)
    await settled(server)
    await asyncio.gather(*(client.request("one", b"", 3) for _ in range(5)))
    assert most == 1
    await asyncio.gather(*(client.request("many", b"", 3) for _ in range(5)))
    assert most > 1


async def test_what_is_stopped_hears_no_more(connect: Connect) -> None:
    server, client = await connect(), await connect()
    stopped, other = Inbox(b"ok"), Inbox(b"ok")
    serving = await server.serve("news.*", stopped)
    await server.serve("news.late", other)
    await settled(server)
    await client.publish("news.early", b"1")
    await stopped.count(1)
    await serving.stop()
    await settled(server)
    with pytest.raises(NoResponders):
        await client.request("news.early", b"2", 3)
    assert await client.request("news.late", b"3", 3) == b"ok"
    assert (len(stopped.got), len(other.got)) == (1, 1)


async def test_stopping_on_a_closed_bus_is_nothing(connect: Connect) -> None:
    bus = await connect()
    serving = await bus.serve("gone", Inbox(None))
    await bus.close()
    await serving.stop()


async def test_a_closed_bus(connect: Connect) -> None:
    server, client = await connect(), await connect()
    inbox = Inbox(b"")
    await server.serve("gone", inbox)
    await settled(server)
    await client.request("gone", b"", 3)
    await server.close()
    with pytest.raises(NoResponders):
        await client.request("gone", b"", 3)
    with pytest.raises(Unavailable):
        await server.request("gone", b"", 3)
    await server.publish("gone", b"")  # dropped, counted, no error
    assert len(inbox.got) == 1


async def test_who_asks_is_told_that_the_twin_is_back() -> None:
    hub = Hub()
    bus = MemoryBus(hub)
    told: list[bool] = []
    bus.returned = lambda: told.append(hub.up)
    hub.up = True
    assert bus.connected
    hub.up = False
    assert (told, bus.connected) == ([], False)
    hub.up = True
    assert (told, bus.connected) == ([True], True)
    await bus.close()
    assert not bus.connected


@pytest.mark.stack
async def test_who_asks_is_told_that_nats_is_back(embedded: tuple[Settings, Servers]) -> None:
    proxy = Proxy(int(embedded[0].nats_url.rpartition(":")[2]))
    await proxy.open()
    bus = await NatsBus.connect(f"nats://127.0.0.1:{proxy.port}", "contract")
    back = asyncio.Event()
    bus.returned = back.set
    await settled(bus)
    assert (back.is_set(), bus.connected) == (False, True)
    proxy.drop()
    async with asyncio.timeout(30):
        await back.wait()
    assert bus.connected
    await bus.close()
    assert not bus.connected
    await proxy.close()


@pytest.mark.stack
async def test_nats_reads_whole_batches(embedded: tuple[Settings, Servers]) -> None:
    """nats-py has no option for it: this holds its own name for the size of a read."""
    bus = await NatsBus.connect(embedded[0].nats_url, "contract")
    reader = bus._client._transport._io_reader  # type: ignore[union-attr]
    assert reader._limit == BUS_READ_BYTES_MAX
    await bus.close()


@pytest.mark.stack
async def test_a_bus_that_the_server_complains_about_comes_again(embedded: tuple[Settings, Servers]) -> None:
    """nats-py would close for good: deaf, and nobody told."""
    bus, other = [await NatsBus.connect(embedded[0].nats_url, name) for name in ("complained", "other")]
    try:
        inbox = Inbox(b"here")
        await bus.serve("complained", inbox)
        await settled(bus)
        transport = bus._client._transport
        assert transport is not None
        transport.write(b"GARBLED\r\n")
        await transport.drain()
        async with asyncio.timeout(30):
            while bus._client.stats["reconnects"] == 0:  # noqa: ASYNC110 - nats-py has no event for it
                await asyncio.sleep(0.05)
        await settled(bus)
        assert await other.request("complained", b"", 10) == b"here"
    finally:
        await bus.close()
        await other.close()
