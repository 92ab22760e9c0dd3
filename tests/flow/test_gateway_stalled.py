"""A full socket: what waits longer than a moment goes back to the log, and only what lives comes from there."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway._fast.carrier import Connection
from notification.codes import Lane, ReceiptCode
from notification.frames import Cursor
from notification.limits import UNSENT_MS_MAX, WRITE_BUFFER_BYTES_MAX
from notification.messages import FillItem
from tests.flow.world import EPOCH, App, World, until

FILLER_BYTES = 4_000
UPDATES = 100


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    world = World(carrier)
    await world.start()
    yield world
    await world.close()


@contextlib.asynccontextmanager
async def deaf(world: World, cursor: Cursor | None = None) -> AsyncIterator[App]:
    """A client that takes next to nothing out of a small socket until it is read."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", world.port))
        host = "127.0.0.1" if world.ssl else None
        async with world.client(cursor=cursor, sock=sock, max_queue=1, server_hostname=host) as app:
            yield app


def connection_of(world: World) -> Connection:
    (connection,) = world.gateway.registry.connections()
    return connection


async def fill_up(world: World) -> list[FillItem]:
    """Notifications until some wait in the gateway."""
    session = connection_of(world).session
    sent: list[FillItem] = []
    async with asyncio.timeout(30):
        while session.pending() < 3 * FILLER_BYTES:
            sent.append(world.log.add("ann", size=FILLER_BYTES))
            assert await world.send("ann", sent[-1]) == [ReceiptCode.WRITTEN]
    assert session.pending() < WRITE_BUFFER_BYTES_MAX
    return sent


async def too_long() -> None:
    """Longer than a frame may wait."""
    await asyncio.sleep(UNSENT_MS_MAX / 1_000 + 0.1)


async def read_to(app: App, last: str) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = []
    while not got or got[-1].get("id", got[-1]["t"]) != last:
        got.append(await app.next())
        if got[-1]["t"] == "n":
            await app.ack(got[-1])
    return got


def text(item: FillItem) -> str:
    raw = item.id.hex()
    return f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"


async def test_of_a_hundred_updates_one_is_written_and_nothing_that_expired(world: World) -> None:
    async with deaf(world) as app:
        await app.read("resumed")
        sent = await fill_up(world)
        brief = world.log.add("ann", Lane.DIRECT_LOW)
        updates = [world.log.add("ann") for _ in range(UPDATES)]
        assert set(await world.send("ann", brief, *updates)) == {ReceiptCode.WRITTEN}
        session = connection_of(world).session
        assert session.pending() < WRITE_BUFFER_BYTES_MAX, "all of them wait in the gateway"
        await too_long()
        for gone in (brief, *updates[:-1]):  # expired, collapsed
            world.log.entries["ann"].remove(gone)
        got = await read_to(app, text(updates[-1]))
        assert [frame["id"] for frame in got] == [text(one) for one in (*sent, updates[-1])]
        await until(lambda: session.unacked() == 0)
        live = world.log.add("ann")
        assert await world.send("ann", live) == [ReceiptCode.WRITTEN]
        assert (await app.read("n"))["id"] == text(live)


async def test_what_waits_for_a_moment_only_comes_too_and_once(world: World) -> None:
    async with deaf(world) as app:
        await app.read("resumed")
        sent = await fill_up(world)
        assert [frame["id"] for frame in await read_to(app, text(sent[-1]))] == [text(one) for one in sent]
        await until(lambda: connection_of(world).session.unacked() == 0)


async def test_resumed_comes_behind_what_went_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.resume.FILL_RETRY_MS", 200)
    first = world.log.add("ann")
    world.log.busy = True
    async with deaf(world, Cursor(EPOCH, {"direct.high": first.seq})) as app:
        assert app.welcome["recovered"] == "pending"
        sent = await fill_up(world)
        lows = [world.log.add("ann", Lane.DIRECT_LOW) for _ in range(3)]
        connection = connection_of(world)
        world.log.busy = False
        await until(lambda: getattr(connection.state, "counters", None) is not None)
        await too_long()
        world.log.entries["ann"].remove(lows[0])
        got = await read_to(app, "resumed")
        assert [frame["id"] for frame in got[:-1]] == [text(one) for one in (*sent, *lows[1:])]
        assert got[-1]["at"]["direct.high"] == sent[-1].seq
        assert got[-1]["at"]["direct.low"] == lows[-1].seq
        await until(lambda: connection.state is None)
