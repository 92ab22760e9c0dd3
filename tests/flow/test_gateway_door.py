"""The door over raw sockets: HTTP refusals with fixed bodies, health and metrics, hostile and slow clients."""

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from gateway.caps import Caps
from notification import limits, telemetry
from notification.codes import REFUSALS, Refusal, Refusals
from notification.frames import Cursor, cursor_to_text
from notification.messages import JTI
from tests.auth_service import asking_nobody
from tests.flow.world import EPOCH, World, mint, until

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    world = World(carrier)
    await world.start()
    yield world
    await world.close()


def head(
    method: str = "GET", target: str = "/ws/connect", version: str = "HTTP/1.1", without: str = "", **headers: str
) -> bytes:
    """A request head; a header `sec_websocket_key` replaces the good one."""
    values = {
        "Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }  # fmt: skip
    values = {name: value for name, value in values.items() if name.lower() != without}
    for name, value in headers.items():
        name = name.replace("_", "-")
        values = {known: v for known, v in values.items() if known.lower() != name.lower()} | {name: value}
    lines = "".join(f"{name}: {value}\r\n" for name, value in values.items())
    return f"{method} {target} {version}\r\n{lines}\r\n".encode()


async def exchange(world: World, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, read the whole answer until the server ends it."""
    reader, writer = await world.open()
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            answer = await reader.read()
    finally:
        writer.close()
    top, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = top.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


BIG = "x" * limits.HEADER_BYTES_MAX


@pytest.mark.parametrize(
    ("request_bytes", "refusal"),
    [
        (head("POST"), Refusals.METHOD),
        (head("HEAD"), Refusals.METHOD),
        (head("GET", "/health").replace(b"GET", b"DELETE"), Refusals.METHOD),
        (head(target="/"), Refusals.NOT_FOUND),
        (head(target="/ws/connect/"), Refusals.NOT_FOUND),
        (head(target="http://h/ws/connect"), Refusals.MALFORMED),
        (head(version="HTTP/1.0"), Refusals.MALFORMED),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", Refusals.MALFORMED),
        (b"GET /ws/connect\r\n\r\n", Refusals.MALFORMED),
        (head().replace(b"Host:", b"Ho st:"), Refusals.MALFORMED),
        (head().replace(b"Host: ", b"Host: \x01"), Refusals.MALFORMED),
        (head().replace(b"Upgrade: websocket", b"Upgrade: websocket\r\n folded: 1"), Refusals.MALFORMED),
        (head(without="host"), Refusals.MALFORMED),
        (head(without="upgrade"), Refusals.UPGRADE_REQUIRED),
        (head(without="connection"), Refusals.UPGRADE_REQUIRED),
        (head(Sec_WebSocket_Version="8"), Refusals.UPGRADE_REQUIRED),
        (head(without="sec-websocket-key"), Refusals.MALFORMED),
        (head(Sec_WebSocket_Key="short"), Refusals.MALFORMED),
        (head(Content_Length="5"), Refusals.MALFORMED),
        (head(Transfer_Encoding="chunked"), Refusals.MALFORMED),
        (head(Sec_WebSocket_Protocol="chat"), Refusals.MALFORMED),
        (head(Sec_WebSocket_Protocol="herald.v1, bearer.a, bearer.b"), Refusals.MALFORMED),
        (head(target="/ws/connect?device=a.b"), Refusals.MALFORMED),
        (head(target="/ws/connect?device=a&device=b"), Refusals.MALFORMED),
        (head(target="/ws/connect?cursor=%7B%7D"), Refusals.MALFORMED),
        (head(target="/ws/connect?device=%ff"), Refusals.MALFORMED),
        (head(Authorization="Basic dTpw"), Refusals.UNAUTHENTICATED),
        (head(Authorization="Bearer"), Refusals.UNAUTHENTICATED),
        (head(Authorization="Bearer a.b.c"), Refusals.UNAUTHENTICATED),
        (head(Authorization="Bearer " + "a" * 9_000), Refusals.UNAUTHENTICATED),
        (head(Cookie=BIG), Refusals.HEADERS_TOO_LARGE),
        (b"GET /ws/connect HTTP/1.1\r\nX: " + BIG.encode(), Refusals.HEADERS_TOO_LARGE),
        (head(**{f"X_{n}": "1" for n in range(limits.HEADERS_COUNT_MAX)}), Refusals.HEADERS_TOO_LARGE),
    ],
)
async def test_refusals(world: World, request_bytes: bytes, refusal: Refusal) -> None:
    assert_refused(await exchange(world, request_bytes), refusal)


def assert_refused(answer: tuple[int, dict[str, str], bytes], refusal: Refusal) -> None:
    """Exactly the answer of the table: so nothing of the request is in it, and nothing of the server."""
    status, headers, body = answer
    assert (status, body) == (refusal.status, refusal.body)
    fixed = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    assert headers == fixed | dict(refusal.headers)


# Made when they are asked for: a token lives ten minutes.
PROVOKED: dict[Refusal, Callable[[], bytes]] = {
    Refusals.MALFORMED: lambda: b"GET <script> HTTP/1.1\r\nHost: secret\r\n\r\n",
    Refusals.UNAUTHENTICATED: lambda: head(Authorization="Bearer secret"),
    Refusals.FORBIDDEN_ORIGIN: lambda: head(Authorization=f"Bearer {mint()}", Origin="https://secret.example"),
    Refusals.SUSPENDED: lambda: head(Authorization=f"Bearer {mint(tenant='evil')}"),
    Refusals.NOT_FOUND: lambda: head(target="/secret"),
    Refusals.METHOD: lambda: head("PUT"),
    Refusals.UPGRADE_REQUIRED: lambda: head(without="upgrade"),
    Refusals.TOO_MANY: lambda: head(Authorization=f"Bearer {mint()}"),
    Refusals.HEADERS_TOO_LARGE: lambda: head(Cookie=BIG),
    Refusals.OVERLOADED: lambda: b"",
    Refusals.DRAINING: lambda: head(Authorization=f"Bearer {mint()}"),
    Refusals.TENANT_UNKNOWN_YET: lambda: head(Authorization=f"Bearer {mint()}"),
    Refusals.REVOKED: lambda: head(Authorization=f"Bearer {mint(jti='secret')}"),
    Refusals.KEY_UNKNOWN_YET: lambda: head(Authorization=f"Bearer {mint(kid='secret')}"),
    Refusals.AUTH_UNAVAILABLE: lambda: head(Authorization="Bearer secret"),
}


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code)
async def test_every_refusal_is_provoked_and_counted(carrier: str, refusal: Refusal) -> None:
    if (carrier, refusal) == ("tls", Refusals.OVERLOADED):
        return  # a reset before the handshake: test_overload_is_a_plain_503_before_parsing
    introspection = asking_nobody() if refusal is Refusals.AUTH_UNAVAILABLE else None
    world = World(carrier, Caps(per_tenant=1), introspection=introspection)
    if refusal is Refusals.TOO_MANY:
        world.gateway._caps.joined("acme")
    if refusal is Refusals.REVOKED:
        await world.revoke(JTI, "secret")
    if refusal is Refusals.KEY_UNKNOWN_YET:
        acme = world.tenants[0]
        world.tenants[0] = msgspec.structs.replace(acme, jwks_issuers=[acme.keys[0].issuer])
    await world.start(inbox=refusal is not Refusals.TENANT_UNKNOWN_YET)
    try:
        world.gateway._listener.draining = refusal is Refusals.DRAINING
        if refusal is Refusals.OVERLOADED:
            world.gateway._listener.limit_sockets(0)
        counter = telemetry.REFUSALS.labels(refusal.code)
        before = counter._value.get()
        assert_refused(await exchange(world, PROVOKED[refusal]()), refusal)
        assert counter._value.get() == before + 1
    finally:
        await world.close()


async def test_a_request_may_come_in_pieces(world: World) -> None:
    reader, writer = await world.open()
    request = head(Authorization=f"Bearer {mint()}")
    for first in range(0, len(request), 37):
        writer.write(request[first : first + 37])
        await asyncio.sleep(0.001)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer
    writer.close()


@pytest.mark.parametrize("connection", ["keep-alive, Upgrade", "upgrade", "Keep-Alive,UPGRADE"])
async def test_firefox_is_a_browser_too(world: World, connection: str) -> None:
    reader, writer = await world.open()
    writer.write(head(Connection=connection, Authorization=f"Bearer {mint()}"))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.close()


async def test_frames_sent_with_the_request_are_heard(world: World) -> None:
    """A client may write before it has read our 101."""
    reader, writer = await world.open()
    ping = b"\x89\x83\x00\x00\x00\x00abc"
    padding = "p" * 3_000  # the request alone is larger than one read buffer
    text = json.dumps({"t": "auth", "token": mint()}).encode()
    auth = b"\x81\xfe" + len(text).to_bytes(2, "big") + b"\x00\x00\x00\x00" + text
    writer.write(head(Cookie=padding) + ping + auth)
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(20):
        assert await reader.readexactly(5) == b"\x8a\x03abc"
        assert b'"welcome"' in await reader.read(4_096)
    writer.close()


async def test_a_token_in_the_url_is_not_looked_at(world: World) -> None:
    reader, writer = await world.open()
    writer.write(head(target=f"/ws/connect?token={mint()}&access_token={mint()}"))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    await asyncio.sleep(0.1)
    assert len(world.gateway.registry) == 0  # still waiting for its auth frame
    writer.close()


async def test_a_cursor_in_the_query(world: World) -> None:
    world.log.add("ann")
    text = cursor_to_text(Cursor(EPOCH, {"direct.high": 1}))
    reader, writer = await world.open()
    writer.write(head(target=f"/ws/connect?cursor={text}", Authorization=f"Bearer {mint()}"))
    await reader.readuntil(b'"resumed"')
    assert world.log.requests[0].cursor == Cursor(EPOCH, {"direct.high": 1})
    writer.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for before the world, which reads the deadline when it is made."""
    monkeypatch.setattr("gateway.engine_listener.AUTH_DEADLINE_MS", 300)
    monkeypatch.setattr("gateway.picows_listener.AUTH_DEADLINE_MS", 300)


async def test_a_client_that_says_nothing_is_dropped(impatient: None, world: World) -> None:
    reader, writer = await world.open()
    writer.write(b"GET /ws/connect HTTP/1.1\r\n")
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):  # a reset is as good as a plain end
            assert await reader.read() == b""
    await until(lambda: world.gateway._listener.doors() == 0)
    writer.close()


async def test_doors_are_counted_down(world: World) -> None:
    for request in (head("POST"), head(target="/health"), head(Authorization="Bearer x")):
        await exchange(world, request)
    async with world.client() as app:
        await app.read("resumed")
        await until(lambda: world.gateway._listener.doors() == 0)
        assert world.gateway.connections.count() == 1
    await until(lambda: world.gateway.connections.count() == 0)


async def test_overload_is_a_plain_503_before_parsing(world: World) -> None:
    world.gateway._listener.limit_sockets(1)
    async with world.client():
        if world.ssl is not None:  # no handshake only to say no
            with pytest.raises(ConnectionError):
                await exchange(world, b"garbage")
            return
        status, headers, body = await exchange(world, b"garbage")
        assert (status, body) == (503, Refusals.OVERLOADED.body)
        assert headers["Retry-After"] == "1"


async def test_health(world: World) -> None:
    async with world.client():
        status, headers, body = await exchange(world, b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    health = json.loads(body)
    assert (health["status"], health["draining"], health["connections"]) == ("ok", False, 1)


async def test_metrics(world: World) -> None:
    await exchange(world, head("POST"))
    async with world.client() as app:
        await app.read("resumed")
        status, headers, body = await exchange(world, b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    values = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in body.decode().splitlines()}
    assert float(values["herald_connections"]) >= 1
    assert float(values['herald_refusals_total{code="method"}']) >= 1


async def test_metrics_are_not_for_strangers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.gateway._health, "_readers", [ipaddress.ip_network("10.0.0.0/8")])
    request = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"
    status, _, body = await exchange(world, request)
    assert (status, body) == (404, Refusals.NOT_FOUND.body)
    monkeypatch.setattr(world.gateway._health, "_readers", [ipaddress.ip_network("127.0.0.1")])
    answers = await asyncio.gather(*(exchange(world, request) for _ in range(5)))
    assert [answer[0] for answer in answers] == [200] * 5
