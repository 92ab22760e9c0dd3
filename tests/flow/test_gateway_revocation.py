"""Revoked tokens: refused at every way in, and closed where they are connected."""

import time
from collections.abc import AsyncIterator

import pytest
from websockets.exceptions import InvalidStatus

from notification.messages import JTI, TENANT, USER
from tests.flow.world import ORIGIN, World, mint, until


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    world = World(carrier)
    await world.start()
    yield world
    await world.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def learnt(world: World) -> None:
    await until(lambda: world.gateway.edge._revocations_version == len(world.revoked), 30)


async def refused(world: World, token: str) -> tuple[int, bytes]:
    with pytest.raises(InvalidStatus) as refusal:
        async with world.client(headers=bearer(token)):
            pass
    response = refusal.value.response
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert response.body is not None
    return response.status_code, bytes(response.body)


@pytest.mark.parametrize(("kind", "value"), [(JTI, "t1"), (USER, "ann"), (TENANT, "")])
async def test_live_connections_are_closed_and_new_ones_refused(world: World, kind: str, value: str) -> None:
    token = mint("ann", jti="t1")
    async with world.client(device="phone", headers=bearer(token)) as app:
        await app.read("resumed")
        await world.revoke(kind, value)
        assert await app.closed(30) == 4403
        assert app.socket.close_reason == "revoked or suspended"
    assert await refused(world, token) == (401, b'{"error":"revoked"}\n')
    await until(lambda: "phone" not in world.presence("ann"), 30)


@pytest.mark.parametrize(("kind", "value"), [(JTI, "t1"), (USER, "ann")])
async def test_others_stay(world: World, kind: str, value: str) -> None:
    async with world.client("bob", headers=bearer(mint("bob", jti="t2"))) as bob:
        await bob.read("resumed")
        async with world.client("ann", headers=bearer(mint("ann", jti="t1"))) as ann:
            await ann.read("resumed")
            await world.revoke(kind, value)
            assert await ann.closed(30) == 4403
        await bob.say(t="ping")
        await bob.read("pong")


@pytest.mark.parametrize(("kind", "value"), [(USER, "ann"), (TENANT, "")])
async def test_a_token_issued_afterwards_is_good_and_stays(world: World, kind: str, value: str) -> None:
    now_s = int(time.time())
    async with world.client(headers=bearer(mint("ann", iat=now_s))) as app:
        await app.read("resumed")
        await world.revoke(kind, value, not_before_s=now_s)
        await learnt(world)
        assert await refused(world, mint("ann", iat=now_s - 1)) == (401, b'{"error":"revoked"}\n')
        assert await refused(world, mint("ann", iat=None)) == (401, b'{"error":"revoked"}\n')
        async with world.client(headers=bearer(mint("ann", iat=now_s))) as fresh:
            await fresh.read("resumed")
        await app.say(t="ping")
        await app.read("pong")


async def test_a_browser_is_told_in_a_frame(world: World) -> None:
    await world.revoke(JTI, "t1")
    await learnt(world)
    token = mint(jti="t1")
    protocols = ["herald.v1", f"bearer.{token}"]
    async with world.client(headers={}, subprotocols=protocols, origin=ORIGIN, raw=True) as app:
        assert await app.next() == {"t": "error", "code": "revoked"}
        assert await app.closed(30) == 4403
    async with world.client(headers={}, raw=True) as app:
        await app.say(t="auth", token=token)
        assert await app.next() == {"t": "error", "code": "revoked"}
        assert await app.closed(30) == 4403


async def test_reauth_with_a_revoked_token_closes(world: World) -> None:
    await world.revoke(JTI, "t1")
    await learnt(world)
    async with world.client(device="phone") as app:
        await app.read("resumed")
        await app.say(t="reauth", token=mint(jti="t1"))
        assert await app.next() == {"t": "error", "code": "revoked"}
        assert await app.closed(30) == 4403


async def test_after_reauth_the_new_token_counts(world: World) -> None:
    async with world.client(device="phone", headers=bearer(mint(jti="old"))) as app:
        await app.read("resumed")
        await app.say(t="reauth", token=mint(jti="new"))
        await app.say(t="ping")
        await app.read("pong")
        await world.revoke(JTI, "old")
        await learnt(world)
        await app.say(t="ping")
        await app.read("pong")
        await world.revoke(JTI, "new")
        assert await app.closed(30) == 4403
