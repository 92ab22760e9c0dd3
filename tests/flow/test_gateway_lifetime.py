"""What time does to a connection: pings, expiry, reauth, signs of life, drain."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from websockets.exceptions import InvalidStatus

from notification import limits, messages, names
from notification.codes import ReceiptCode
from notification.frames import Cursor
from tests.flow.world import EPOCH, World, mint, until


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    world = World(carrier)
    await world.start()
    yield world
    await world.close()


@pytest.fixture
def fast_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.timers.HEARTBEAT_MS", 500)


async def test_clients_are_pinged(fast_heartbeat: None, world: World) -> None:
    told: list[messages.HealthPing] = []

    async def hear(subject: str, payload: bytes) -> None:
        told.append(msgspec.msgpack.decode(payload, type=messages.HealthPing))

    await world.bus().serve(names.health_subject(world.gateway.gateway_id), hear)
    async with world.client(device="phone") as app:
        await app.read("resumed")
        (connection,) = world.gateway.registry.connections()
        await until(lambda: told, 30)
        (client, rtt_ms), *_ = told[0].clients
        assert (told[0].gateway_id, client) == (world.gateway.gateway_id, app.welcome["client_id"])
        assert rtt_ms >= 0
        await app.silent(1.2)  # pings and pongs go on, nobody is closed
        assert connection.is_open()


async def test_a_client_that_does_not_pong_is_dropped(fast_heartbeat: None, world: World) -> None:
    async with world.client(device="phone") as app:
        await app.read("resumed")
        (connection,) = world.gateway.registry.connections()
        app.socket.transport.pause_reading()  # it does not see our ping
        await until(lambda: connection.session.pong_due_ms() > 0)
        world.gateway._timers.expire(connection, connection.session.pong_due_ms() - 1)
        assert connection.is_open()
        world.gateway._timers.expire(connection, connection.session.pong_due_ms())
        await until(lambda: "RECONNECTING" in world.presence("ann").get("phone", ""))
        assert world.gateway.connections.count() == 0
        app.socket.transport.abort()


async def test_a_token_that_ends_closes_within_a_second(world: World) -> None:
    ends = int(time.time()) + 2
    async with world.client(headers={"Authorization": f"Bearer {mint(exp=ends)}"}) as app:
        await app.read("resumed")
        assert await app.closed() == 4401
        assert -0.1 <= time.time() - ends <= 1


async def test_reauth_extends_the_connection(world: World) -> None:
    ends = int(time.time()) + 2
    async with world.client(device="phone", headers={"Authorization": f"Bearer {mint(exp=ends)}"}) as app:
        await app.read("resumed")
        await app.say(t="reauth", token=mint())
        await app.silent(ends - time.time() + 1.2)
        await app.say(t="ping")
        await app.read("pong")


@pytest.mark.parametrize(
    ("token", "code"),
    [(lambda: mint("bob"), "device_mismatch"), (lambda: mint(did="other"), "device_mismatch"),
     (lambda: mint(exp=1_000), "token")],
)  # fmt: skip
async def test_reauth_cannot_change_who_it_is(world: World, token: object, code: str) -> None:
    assert callable(token)
    async with world.client(device="phone") as app:
        await app.read("resumed")
        await app.say(t="reauth", token=token())
        assert await app.next() == {"t": "error", "code": code}
        await app.say(t="ping")
        await app.read("pong")


async def test_signs_of_life(world: World) -> None:
    beats = []

    async def watch(subject: str, payload: bytes) -> None:
        beats.append(messages.decode_beat(payload))

    await world.bus().serve(names.STATUS_SUBJECT, watch)
    async with world.client():
        await until(lambda: any(beat.connections == 1 for beat in beats))
    lease = names.lease_key(world.gateway.gateway_id).encode()
    assert world.store.strings[lease][0] == b"1"


async def test_drain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.process.DRAIN_WINDOW_MS", 1_000)
    async with world.client("ann", "phone") as ann, world.client("bob", "laptop") as bob:
        await ann.read("resumed")
        await bob.read("resumed")
        await world.send("ann", world.log.add("ann"))
        frame = await ann.read("n")
        draining = asyncio.create_task(world.gateway.drain())
        await asyncio.sleep(0.1)
        with pytest.raises(InvalidStatus) as refused:
            async with world.client("carl"):
                pass
        assert refused.value.response.status_code == 503
        assert (await world.gateway._health.health("127.0.0.1"))[0] == 503
        assert await world.send("nobody", world.log.add("nobody")) == [ReceiptCode.STALE]
        await ann.ack(frame)
        delays = [(await app.read("goaway"))["delay_ms"] for app in (ann, bob)]
        assert len(set(delays)) == 2
        assert {await ann.closed(), await bob.closed()} == {1012}
        await draining
    assert len(world.acked()) == 1
    for user, device in (("ann", "phone"), ("bob", "laptop")):
        assert "RECONNECTING" in world.presence(user)[device]
    closes = [r for entry in world.receipts() for r in entry.connections if r.event == "close"]
    assert sorted((receipt.user, receipt.code) for receipt in closes) == [("ann", 1012), ("bob", 1012)]
    with pytest.raises(OSError, match=r"refused|failed"):
        await asyncio.open_connection("127.0.0.1", world.port)


async def test_a_new_log_sends_all_clients_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.process.NEW_LOG_WINDOW_MS", 1_000)
    async with world.client("ann", "phone") as ann, world.client("bob", "laptop") as bob:
        for app in (ann, bob):
            await app.read("resumed")
        world.log.epoch += 1
        await world.inbox_bus().publish(names.EDGE_CHANGED, b"")
        assert len({(await app.read("goaway"))["delay_ms"] for app in (ann, bob)}) == 2
        assert {await ann.closed(), await bob.closed()} == {1012}
    async with world.client("ann", "phone", cursor=Cursor(EPOCH, {"direct.high": 1})) as ann:
        assert (await ann.read("resumed"))["recovered"] is False
        # Who came under the new log stays.
        await world.inbox_bus().publish(names.EDGE_CHANGED, b"")
        await world.send("ann", world.log.add("ann"))
        await ann.read("n")


async def test_drain_does_not_wait_for_a_dead_client(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.process.DRAIN_WINDOW_MS", 500)
    async with world.client() as app:
        await app.read("resumed")
        app.socket.transport.pause_reading()
        started = time.monotonic()
        await world.gateway.drain()
        assert time.monotonic() - started < (limits.CLOSE_DEADLINE_MS + 2_000) / 1_000
        assert world.gateway.connections.count() == 0
        app.socket.transport.abort()


async def test_drain_of_an_empty_process_is_quick(world: World) -> None:
    started = time.monotonic()
    await world.gateway.drain()
    assert time.monotonic() - started < 4
