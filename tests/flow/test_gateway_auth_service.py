"""Tokens that an AuthService judges, at every way in: in, out, or come again."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from websockets.exceptions import InvalidStatus

from gateway.clock import now_ms
from notification.messages import JTI, USER
from tests.auth_service import SECRET, Server, active, asking, asking_nobody, serving
from tests.flow.world import ORIGIN, App, World, mint, until

GOOD = "opaque-good-token"
LATER = (503, b'{"error":"auth_unavailable"}\n', "1")
NEVER = (401, b'{"error":"token"}\n', None)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        server.tokens[GOOD] = active(jti="t1")
        yield server


@pytest.fixture
async def world(carrier: str, server: Server) -> AsyncIterator[World]:
    world = World(carrier, introspection=asking(server.url))
    await world.start()
    yield world
    await world.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def refused(world: World, token: str) -> tuple[int, bytes | None, str | None]:
    with pytest.raises(InvalidStatus) as refusal:
        async with world.client(headers=bearer(token), open_timeout=30):
            pass
    response = refusal.value.response
    return response.status_code, response.body, response.headers.get("Retry-After")


async def owed(app: App) -> None:
    """The connection is a whole one."""
    await app.read("welcome", 30)
    await app.read("resumed", 30)


async def test_the_token_in_the_header(world: World, server: Server) -> None:
    async with world.client(headers=bearer(GOOD), raw=True, device="phone") as app:
        await owed(app)
        assert "phone" in world.presence("ann")
    assert await refused(world, "opaque-bad-token") == NEVER
    assert server.asked == [GOOD, "opaque-bad-token"]


async def test_the_token_in_the_subprotocol(world: World) -> None:
    for token, page in ((GOOD, ORIGIN), ("bad", ORIGIN), (GOOD, "https://evil.example")):
        protocols = ["herald.v1", f"bearer.{token}"]
        async with world.client(headers={}, subprotocols=protocols, origin=page, raw=True) as app:
            assert app.socket.subprotocol == "herald.v1"
            if (token, page) == (GOOD, ORIGIN):
                await owed(app)
                continue
            code = "token" if token == "bad" else "origin"
            assert await app.next(30) == {"t": "error", "code": code}
            assert await app.closed(30) == (4401 if token == "bad" else 4403)


async def test_the_token_in_the_auth_frame(world: World, server: Server) -> None:
    async with world.client(headers={}, raw=True) as app:
        server.gate.clear()
        await app.say(t="auth", token=GOOD, device="phone")
        await until(lambda: server.asked, 30)
        server.gate.set()
        await owed(app)
        assert "phone" in world.presence("ann")
    async with world.client(headers={}, raw=True) as app:
        await app.say(t="auth", token="bad")
        assert await app.next(30) == {"t": "error", "code": "token"}
        assert await app.closed(30) == 4401


async def test_a_client_that_leaves_while_its_token_is_asked_about(world: World, server: Server) -> None:
    server.gate.clear()
    async with world.client(headers={}, raw=True) as app:
        await app.say(t="auth", token=GOOD)
        await until(lambda: server.asked, 30)
    await until(lambda: world.gateway.connections.count() == 0, 30)
    server.gate.set()
    async with world.client(headers=bearer(GOOD), raw=True) as app:
        await owed(app)


async def test_one_address_holds_few_of_the_doors(world: World, server: Server) -> None:
    """One token that is no good, on many connections: they share its question, and count each."""
    server.gate.clear()
    listener = world.gateway._listener
    waiting = [asyncio.create_task(refused(world, "forged")) for _ in range(16)]
    await until(lambda: listener.held == 16, 30)
    assert await refused(world, "forged") == (429, b'{"error":"too_many_connections"}\n', "5")
    assert await refused(world, "another") == (429, b'{"error":"too_many_connections"}\n', "5")
    async with world.client(headers={}, raw=True) as app:
        await app.say(t="auth", token="forged")
        assert await app.next(30) == {"t": "error", "code": "too_many_connections", "retry_ms": 5_000}
        assert await app.closed(30) == 4429
    assert listener.held == 16
    good = world.client(headers=bearer(GOOD), raw=True, local_addr=("127.0.0.2", 0), open_timeout=30)
    neighbour = asyncio.create_task(good.__aenter__())
    await until(lambda: (listener.held, server.asked) == (17, ["forged", GOOD]), 30)
    server.gate.set()
    assert await asyncio.gather(*waiting) == [NEVER] * 16
    await owed(await neighbour)
    await good.__aexit__(None, None, None)
    assert await refused(world, "later") == NEVER


async def test_reauth(world: World, server: Server) -> None:
    server.tokens["next"] = active(exp=int(time.time()) + 7_000)
    server.tokens["bob"] = active("bob")
    async with world.client(headers=bearer(GOOD), raw=True, device="phone") as app:
        await owed(app)
        [connection] = world.gateway.registry.connections()
        before_ms = connection.session.token_expiry_ms
        server.gate.clear()
        await app.say(t="reauth", token="next")
        await until(lambda: server.asked[-1] == "next", 30)
        await app.say(t="reauth", token="bob")  # one question at a time
        assert await app.next(30) == {"t": "error", "code": "busy", "retry_ms": 1_000}
        server.gate.set()
        await until(lambda: connection.session.token_expiry_ms > before_ms + 6_000_000, 30)
        await app.say(t="reauth", token="bob")
        assert await app.next(30) == {"t": "error", "code": "device_mismatch"}
        await app.say(t="reauth", token="bad")
        assert await app.next(30) == {"t": "error", "code": "token"}
        await app.say(t="ping")
        await app.read("pong", 30)


async def test_a_jwt_is_verified_here(world: World, server: Server) -> None:
    async with world.client(raw=True) as app:
        await owed(app)
    assert await refused(world, mint(key=b"f" * 32)) == NEVER
    assert server.asked == []


async def test_all_tokens_are_asked_about_if_set_so(carrier: str, server: Server) -> None:
    world = World(carrier, introspection=asking(server.url, everything=True))
    await world.start()
    try:
        forged, genuine = mint(key=b"f" * 32), mint()
        server.tokens[forged] = active()  # a key that only the AuthService has
        async with world.client(headers=bearer(forged), raw=True) as app:
            await owed(app)
        assert await refused(world, genuine) == NEVER
        assert server.asked == [forged, genuine]
    finally:
        await world.close()


async def test_active_is_not_enough(world: World, server: Server) -> None:
    server.tokens |= {
        "of-another-tenant": active(tid="evil"),
        "suspended": active(tenant="evil"),
        "without-jti": active(jti=None),
        "of-nobody-here": active(iss="https://elsewhere.example"),
    }
    assert await refused(world, "of-another-tenant") == NEVER
    assert await refused(world, "suspended") == (403, b'{"error":"suspended"}\n', None)
    assert await refused(world, "without-jti") == NEVER
    assert await refused(world, "of-nobody-here") == NEVER


async def test_a_new_tenant_is_looked_for(world: World, server: Server) -> None:
    world.tenants.append(World.tenant("shop"))
    world.version += 1  # and no hint of it
    server.tokens["shop"] = active("ann", "shop")
    async with world.client(headers=bearer("shop"), raw=True, open_timeout=30) as app:
        await owed(app)


async def test_before_the_first_snapshot_nobody_is_asked(carrier: str, server: Server) -> None:
    world = World(carrier, introspection=asking(server.url))
    await world.start(inbox=False)
    assert await refused(world, GOOD) == (503, b'{"error":"tenant_not_yet_known"}\n', "1")
    assert server.asked == []
    await world.close()


async def test_revocation_closes_a_connection_and_counts_at_the_door(world: World) -> None:
    async with world.client(headers=bearer(GOOD), raw=True) as app:
        await owed(app)
        await world.revoke(JTI, "t1")
        assert await app.closed(30) == 4403
    assert await refused(world, GOOD) == (401, b'{"error":"revoked"}\n', None)


async def test_a_token_that_is_revoked_while_it_is_asked_about(world: World, server: Server) -> None:
    server.gate.clear()
    async with world.client(headers={}, raw=True) as app:
        await app.say(t="auth", token=GOOD)
        await until(lambda: server.asked, 30)
        await world.revoke(USER, "ann")
        await until(lambda: world.gateway.edge._revocations_version == 1, 30)
        server.gate.set()
        assert await app.next(30) == {"t": "error", "code": "revoked"}
        assert await app.closed(30) == 4403


async def test_it_lives_as_long_as_the_answer_says(world: World, server: Server) -> None:
    server.tokens["short"] = active(exp=int(time.time()) + 300)
    async with world.client(headers=bearer("short"), raw=True) as app:
        await owed(app)
        [connection] = world.gateway.registry.connections()
        assert 0 < connection.session.token_expiry_ms - now_ms() <= 300_000


async def test_a_service_that_is_away_lets_nobody_in(carrier: str) -> None:
    world = World(carrier, introspection=asking_nobody())
    await world.start()
    try:
        for _ in range(8):  # the breaker opens on the way
            assert await refused(world, GOOD) == LATER
        protocols = ["herald.v1", f"bearer.{GOOD}"]
        async with world.client(headers={}, subprotocols=protocols, origin=ORIGIN, raw=True) as app:
            assert await app.next(30) == {"t": "error", "code": "auth_unavailable", "retry_ms": 1_000}
            assert await app.closed(30) == 1012
        async with world.client(device="phone", raw=True) as app:  # who has a JWT is not concerned
            await owed(app)
            await app.say(t="reauth", token=GOOD)
            assert await app.next(30) == {"t": "error", "code": "auth_unavailable"}
            await app.say(t="ping")
            await app.read("pong", 30)
    finally:
        await world.close()


async def test_a_gateway_that_drains_admits_nobody_on_a_late_answer(world: World, server: Server) -> None:
    server.gate.clear()
    late = asyncio.create_task(refused(world, GOOD))
    await until(lambda: server.asked, 30)
    world.gateway.connections.draining = world.gateway._listener.draining = True
    server.gate.set()
    assert await late == (503, b'{"error":"draining"}\n', "1")


async def test_doors_that_wait_are_bounded(world: World, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.listener.DOORS_HELD_MAX", 1)
    server.gate.clear()
    first = asyncio.create_task(refused(world, "bad"))
    await until(lambda: server.asked, 30)
    assert await refused(world, "worse") == LATER
    server.gate.set()
    assert await first == NEVER
    assert world.gateway._listener.held == 0


async def test_no_log_line_names_a_token(world: World, server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    server.tokens["opaque-odd-token"] = {"active": True, "sub": "opaque-claim"}
    for token in ("opaque-bad-token", "opaque-odd-token"):
        assert await refused(world, token) == NEVER
    async with world.client(headers=bearer(GOOD), raw=True) as app:
        await owed(app)

    async def junk(request: web.Request) -> web.StreamResponse:
        return web.Response(text=server.asked[-1])

    server.handler = junk
    assert await refused(world, "opaque-third-token") == LATER
    out, err = capfd.readouterr()
    assert "auth_service_answer_bad" in out + err  # this is where lines go
    for secret in ("opaque-bad", "opaque-odd", "opaque-third", "opaque-claim", SECRET.decode()):
        assert secret not in out + err


def test_without_an_auth_service_no_client_of_one_is_loaded() -> None:
    code = "import sys, gateway.process; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert "gateway.introspection" in loaded
    assert "gateway.auth_service" not in loaded
