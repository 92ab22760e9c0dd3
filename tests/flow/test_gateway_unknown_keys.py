"""Tokens with a key that is new to the gateway: come again while the keys are fetched, then in or out."""

from collections.abc import AsyncIterator

import pytest
from websockets.exceptions import InvalidStatus

from notification import names
from notification.messages import EdgeKey, EdgeTenant
from tests.flow.world import ORIGIN, SECRET, World, mint, until

ISSUER = "https://id.example"


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    world = World(carrier)
    world.tenants.append(EdgeTenant("shop", "active", [ORIGIN], [key("k1")], [ISSUER]))
    await world.start()
    yield world
    await world.close()


def key(kid: str) -> EdgeKey:
    return EdgeKey(ISSUER, "herald", kid, "HS256", SECRET)


def token(kid: str) -> str:
    return mint(tenant="shop", iss=ISSUER, kid=kid)


async def refused(world: World, text: str) -> tuple[int, bytes | None, str | None]:
    with pytest.raises(InvalidStatus) as refusal:
        async with world.client(headers={"Authorization": f"Bearer {text}"}):
            pass
    response = refusal.value.response
    return response.status_code, response.body, response.headers.get("Retry-After")


LATER = (503, b'{"error":"key_not_yet_known"}\n', "1")
NEVER = (401, b'{"error":"token"}\n', None)


async def test_a_rotated_key_gets_in_once_it_was_fetched(world: World) -> None:
    assert await refused(world, token("k2")) == LATER
    await until(lambda: ISSUER in world.missed, 30)
    assert await refused(world, token("k2")) == LATER
    world.tenants[-1] = EdgeTenant("shop", "active", [ORIGIN], [key("k1"), key("k2")], [ISSUER])
    world.version += 1
    await world.inbox_bus().publish(names.EDGE_CHANGED, b"")
    await until(lambda: world.gateway.edge._version == world.version, 30)
    async with world.client(headers={"Authorization": f"Bearer {token('k2')}"}) as app:
        await app.read("resumed")


async def test_a_forged_kid_is_refused_after_the_fetch(world: World) -> None:
    assert await refused(world, token("forged")) == LATER
    world.fetched.append(ISSUER)
    await world.inbox_bus().publish(names.EDGE_CHANGED, b"")
    await until(lambda: not world.gateway.edge._unknown.asked(0), 30)
    asked = len(world.missed)
    for number in range(5):
        assert await refused(world, token(f"forged{number}")) == NEVER
    assert len(world.missed) == asked
    async with world.client(headers={"Authorization": f"Bearer {token('k1')}"}) as app:
        await app.read("resumed")


async def test_a_browser_is_told_when_to_try_again(world: World) -> None:
    protocols = ["herald.v1", f"bearer.{token('k2')}"]
    async with world.client(headers={}, subprotocols=protocols, origin=ORIGIN, raw=True) as app:
        assert await app.next() == {"t": "error", "code": "key_not_yet_known", "retry_ms": 1_000}
        assert await app.closed(30) == 1012


async def test_reauth_with_a_new_key_is_tried_again(world: World) -> None:
    async with world.client(headers={"Authorization": f"Bearer {token('k1')}"}, device="phone") as app:
        await app.read("resumed")
        await app.say(t="reauth", token=token("k2"))
        assert await app.next() == {"t": "error", "code": "key_not_yet_known"}
        await app.say(t="ping")
        await app.read("pong")
