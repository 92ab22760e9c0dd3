"""Connecting to a gateway: every way to authenticate, every refusal, replacement, the end."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from notification import limits
from notification.names import lease_key
from notification.presence import PresenceState, decode
from tests.flow.world import EPOCH, ORIGIN, World, mint, until


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    world = World(carrier)
    await world.start()
    yield world
    await world.close()


async def test_a_token_in_the_header(world: World) -> None:
    async with world.client(device="phone") as app:
        assert app.socket.subprotocol == "herald.v1"
        assert app.welcome["epoch"] == EPOCH
        assert app.welcome["recovered"] is True
        assert app.welcome["heartbeat_s"] == limits.HEARTBEAT_MS // 1_000
        assert app.welcome["client_id"].startswith("acme.")
        assert app.welcome["client_id"].endswith(".phone")
        resumed = await app.read("resumed")
        assert resumed["recovered"] is True
        await until(lambda: "phone" in world.presence("ann"))


async def test_a_token_in_the_subprotocol(world: World) -> None:
    protocols: Any = ["herald.v1", f"bearer.{mint()}"]
    async with world.client(headers={}, subprotocols=protocols, origin=ORIGIN) as app:
        assert app.socket.subprotocol == "herald.v1"
        await app.read("resumed")


async def test_an_auth_frame_with_device_and_cursor(world: World) -> None:
    world.log.add("ann")
    second = world.log.add("ann")
    async with world.client(headers={}, raw=True) as app:
        await app.say(t="auth", token=mint(), device="tablet", cursor={"epoch": EPOCH, "at": {"direct.high": 1}})
        welcome = await app.read("welcome")
        assert welcome["client_id"].endswith(".tablet")
        assert (await app.read("n"))["seq"] == second.seq
        assert (await app.read("resumed"))["at"]["direct.high"] == 2


async def test_a_client_without_subprotocol(world: World) -> None:
    async with world.client(subprotocols=None) as app:
        assert app.socket.subprotocol is None
        await app.read("resumed")


async def test_a_device_claim_beats_the_query(world: World) -> None:
    headers = {"Authorization": f"Bearer {mint(did='claimed')}"}
    async with world.client(device="asked", headers=headers) as app:
        assert app.welcome["client_id"].endswith(".claimed")


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"exp": 1_000}, 401),
        ({"aud": "other"}, 401),
        ({"tid": "evil"}, 401),
        ({"jti": None}, 401),
        ({"sub": "a b"}, 401),
        ({"did": "a.b"}, 401),
        ({"iss": "nobody"}, 401),
        ({"nbf": int(time.time()) + 3_600}, 401),
        ({"key": b"x" * 32}, 401),
        ({"algorithm": "HS384", "key": b"k" * 48}, 401),
        ({"tenant": "evil"}, 403),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
async def test_a_bad_token_in_the_header_is_a_status(world: World, claims: dict[str, Any], status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with world.client(headers={"Authorization": f"Bearer {mint(**claims)}"}):
            pass
    response = refused.value.response
    assert response.status_code == status
    assert json.loads(response.body or b"")["error"] in ("token", "suspended")
    assert b"ann" not in (response.body or b"")


async def test_a_foreign_origin_is_refused(world: World) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with world.client(origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403


async def test_a_bad_token_in_the_subprotocol_is_told_in_a_frame(world: World) -> None:
    protocols: Any = ["herald.v1", f"bearer.{mint(exp=1_000)}"]
    async with world.client(headers={}, subprotocols=protocols, raw=True) as app:
        assert await app.next() == {"t": "error", "code": "token"}
        assert await app.closed() == 4401


async def test_a_foreign_origin_in_a_browser_is_told_in_a_frame(world: World) -> None:
    protocols: Any = ["herald.v1", f"bearer.{mint()}"]
    async with world.client(headers={}, subprotocols=protocols, raw=True, origin="https://evil.example") as app:
        assert (await app.next())["code"] == "origin"
        assert await app.closed() == 4403


async def test_origin_counts_for_an_auth_frame(world: World) -> None:
    async with world.client(headers={}, raw=True, origin="https://evil.example") as app:
        await app.say(t="auth", token=mint())
        assert (await app.next())["code"] == "origin"
        assert await app.closed() == 4403


async def test_a_bad_token_in_an_auth_frame(world: World) -> None:
    async with world.client(headers={}, raw=True) as app:
        await app.say(t="auth", token=mint(key=b"y" * 32))
        assert (await app.next())["code"] == "token"
        assert await app.closed() == 4401


@pytest.fixture
def short_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.timers.AUTH_DEADLINE_MS", 300)


async def test_no_auth_in_time(short_auth: None, world: World) -> None:
    async with world.client(headers={}, raw=True) as app:
        started = time.monotonic()
        assert await app.closed() == 4408
        assert time.monotonic() - started < 4


async def test_before_auth_only_auth_is_heard(world: World) -> None:
    async with world.client(headers={}, raw=True) as app:
        for _ in range(3):
            await app.say(t="ping")
        assert [(await app.next())["code"] for _ in range(3)] == ["bad_frame"] * 3
        assert await app.closed() == 4400


async def test_a_tenant_made_after_the_snapshot_gets_in(world: World) -> None:
    await asyncio.sleep(0.2)
    world.tenants.append(world.tenant("fresh"))
    world.version += 1
    async with world.client(headers={"Authorization": f"Bearer {mint(tenant='fresh')}"}, open_timeout=5) as app:
        await app.read("resumed")


async def test_a_tenant_made_after_the_snapshot_gets_in_by_auth_frame(world: World) -> None:
    world.tenants.append(world.tenant("fresh"))
    world.version += 1
    async with world.client(headers={}, raw=True) as app:
        await app.say(t="auth", token=mint(tenant="fresh"))
        await app.read("welcome")


async def test_no_snapshot_yet_is_503(carrier: str) -> None:
    world = World(carrier)
    await world.start(inbox=False)
    try:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(
                world.url(), ssl=world.ssl, additional_headers={"Authorization": f"Bearer {mint()}"}
            ):
                pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "1"
        await world.start_inbox()
        await until(lambda: world.gateway.edge.known)
        async with world.client() as app:
            await app.read("resumed")
    finally:
        await world.close()


async def test_a_suspended_tenant_is_closed(world: World) -> None:
    async with world.client() as app:
        await app.read("resumed")
        world.tenants = [world.tenant("acme", status="suspended")]
        world.version += 1
        world.gateway.edge.refresh()
        assert await app.closed() == 4403


async def test_the_same_device_replaces_its_older_connection(world: World) -> None:
    async with world.client(device="phone") as old:
        await old.read("resumed")
        async with world.client(device="phone") as new:
            assert await old.closed() == 4409
            await new.read("resumed")
            await asyncio.sleep(0.1)
            entry = decode(world.presence("ann")["phone"])
            assert entry is not None
            assert entry.state is PresenceState.ONLINE
            assert await world.send("ann", world.log.add("ann")) == [0]
            assert await new.seqs(1) == [1]


async def test_too_many_devices(world: World) -> None:
    key = "presence:{acme:YW5u}"
    world.store.hashes[key.encode()] = {b"d%d" % n: b"g-0-X 1 ONLINE 1" for n in range(limits.DEVICES_PER_USER_MAX)}
    world.store.run(("SET", lease_key("g-0-X"), "1"))
    async with world.client(raw=True, device="one-more") as app:
        assert (await app.next())["code"] == "too_many_devices"
        assert await app.closed() == 4429


async def test_goodbye_is_offline_and_a_broken_socket_is_reconnecting(world: World) -> None:
    async with world.client(device="phone") as app:
        await app.read("resumed")
    await until(lambda: world.presence("ann") == {})
    async with world.client(device="phone") as app:
        await app.read("resumed")
        app.socket.transport.abort()
        await until(lambda: "RECONNECTING" in world.presence("ann").get("phone", ""))
    async with world.client(device="phone") as app:
        await app.read("resumed")
        assert "ONLINE" in world.presence("ann")["phone"]


async def test_opens_and_closes_are_receipts(world: World) -> None:
    async with world.client(device="phone") as app:
        session = app.welcome["session"]
    await until(lambda: sum(len(entry.connections) for entry in world.receipts()) == 2)
    receipts = [receipt for entry in world.receipts() for receipt in entry.connections]
    assert [(receipt.event, receipt.connection_id, receipt.code) for receipt in receipts] == [
        ("open", session, 0), ("close", session, 1000),
    ]  # fmt: skip
    numbers = [entry.number for entry in world.receipts()]
    assert numbers == list(range(1, len(numbers) + 1))
