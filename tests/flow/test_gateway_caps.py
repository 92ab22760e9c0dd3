"""Who a client is (PROXY protocol, X-Forwarded-For), and how much one address or one tenant may hold."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from gateway.caps import Caps
from notification import telemetry
from notification.codes import Refusal, Refusals
from tests.flow.test_gateway_door import head
from tests.flow.world import World, mint, until

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n"
V1_IPV6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n"
V2 = SIGNATURE + b"\x21\x11\x00\x0f" + bytes([192, 0, 2, 7, 198, 51, 100, 1]) + b"\x30\x39\x01\xbb" + b"\x04\0\0"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
WorldOf = Callable[..., Any]


@pytest.fixture
async def world_of(carrier: str) -> AsyncIterator[WorldOf]:
    """Starts a world with settings of its own."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(proxied: bool = False, trusted: str = "", address: int = 0, tenant: int = 0) -> World:
            networks = [ip_network(trusted)] if trusted else []
            world = World(carrier, Caps(address, tenant, networks), proxied)
            await world.start()
            stack.push_async_callback(world.close)
            return world

        yield start


class Client:
    """A socket behind a proxy: what the proxy says comes before TLS."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sock = socket.create_connection(("127.0.0.1", world.port))
        self._sock.setblocking(False)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def reads(self) -> bytes:
        """Everything until the server ends it, bare."""
        data = b""
        with self._sock, contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while piece := await asyncio.get_running_loop().sock_recv(self._sock, 65_536):
                    data += piece
        return data

    async def secure(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Streams over the socket, through TLS if that is how the gateway listens."""
        name = "127.0.0.1" if self._world.ssl else None
        return await asyncio.open_connection(sock=self._sock, ssl=self._world.ssl, server_hostname=name)


async def status_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    writer.write(request)
    async with asyncio.timeout(10):
        return int((await reader.readuntil(b"\r\n")).split()[1])


def peers(world: World) -> list[str]:
    return [connection.peer for connection in world.gateway.registry.connections()]


def refused(refusal: Refusal) -> float:
    return telemetry.REFUSALS.labels(refusal.code)._value.get()


def good(**headers: str) -> bytes:
    return head(Authorization=f"Bearer {mint()}", **headers)


# --- the PROXY protocol -----------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "address"),
    [(V1, "192.0.2.7"), (V1_IPV6, "2001:db8::7"), (V2, "192.0.2.7"), (LOCAL, "127.0.0.1"),
     (b"PROXY UNKNOWN\r\n", "127.0.0.1")],
)  # fmt: skip
async def test_the_client_is_whom_the_proxy_names(world_of: WorldOf, header: bytes, address: str) -> None:
    world = await world_of(proxied=True, trusted="127.0.0.0/8")
    client = Client(world)
    await client.send(header)
    reader, writer = await client.secure()
    assert await status_of(reader, writer, good()) == 101
    await until(lambda: peers(world) == [address], 10)
    writer.close()


async def test_a_header_may_come_byte_by_byte(world_of: WorldOf) -> None:
    world = await world_of(proxied=True, trusted="127.0.0.0/8")
    for header in (V1, V2):
        client = Client(world)
        for byte in header:
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        reader, writer = await client.secure()
        assert await status_of(reader, writer, good()) == 101
        writer.close()


async def test_header_and_request_in_one_write(world_of: WorldOf, carrier: str) -> None:
    world = await world_of(proxied=True, trusted="127.0.0.0/8")
    client = Client(world)
    if carrier == "tls":
        await client.send(V2)
        reader, writer = await client.secure()
        assert await status_of(reader, writer, good()) == 101
    else:
        reader, writer = await client.secure()
        assert await status_of(reader, writer, V2 + good()) == 101
    writer.close()


@pytest.mark.parametrize("start", [b"PROXY TCP4 x\r\n", SIGNATURE + b"\x31\x11\0\0", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_header_is_refused(world_of: WorldOf, carrier: str, start: bytes) -> None:
    world = await world_of(proxied=True, trusted="127.0.0.0/8")
    before = refused(Refusals.MALFORMED)
    client = Client(world)
    await client.send(start)
    answer = await client.reads()
    assert answer.endswith(Refusals.MALFORMED.body) if carrier != "tls" else answer == b""
    assert refused(Refusals.MALFORMED) == before + 1
    await until(lambda: world.gateway._listener.doors() == 0, 10)


@pytest.mark.parametrize("start", [V1, V2, b""])
async def test_strangers_cannot_say_who_they_are(world_of: WorldOf, carrier: str, start: bytes) -> None:
    world = await world_of(proxied=True, trusted="10.0.0.0/8")
    before = refused(Refusals.MALFORMED)
    client = Client(world)
    with contextlib.suppress(ConnectionError):
        await client.send(start + good())
    answer = await client.reads()
    assert answer.endswith(Refusals.MALFORMED.body) if carrier != "tls" else answer == b""
    assert refused(Refusals.MALFORMED) == before + 1


@pytest.mark.parametrize("start", [V1, V2])
async def test_a_header_that_nobody_asked_for_is_malformed(world_of: WorldOf, carrier: str, start: bytes) -> None:
    if carrier == "tls":
        return  # before TLS it is no TLS: test_gateway_tls.py
    world = await world_of(trusted="127.0.0.0/8")
    client = Client(world)
    await client.send(start + good())
    assert (await client.reads()).endswith(Refusals.MALFORMED.body)


async def test_a_header_has_the_deadline_of_the_request(world_of: WorldOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.engine_listener.AUTH_DEADLINE_MS", 300)
    monkeypatch.setattr("gateway.picows_listener.AUTH_DEADLINE_MS", 300)
    world = await world_of(proxied=True, trusted="127.0.0.0/8")
    client = Client(world)
    await client.send(V1[:20])
    assert await client.reads() == b""
    await until(lambda: world.gateway._listener.doors() == 0, 10)


async def test_a_client_that_leaves_before_its_header_is_forgotten(world_of: WorldOf) -> None:
    world = await world_of(proxied=True, trusted="127.0.0.0/8")
    client = Client(world)
    await client.send(V1[:20])
    await until(lambda: world.gateway._listener.doors() == 1, 10)
    client._sock.close()
    await until(lambda: world.gateway._listener.doors() == 0, 10)


# --- X-Forwarded-For --------------------------------------------------------------
@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ("127.0.0.0/8", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.0/8", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.0/8", "203.0.113.9, 127.0.0.2", "203.0.113.9"),
        ("127.0.0.0/8", "[2001:db8::1]:99", "2001:db8::1"),
        ("127.0.0.0/8", "unknown", "127.0.0.1"),
        ("10.0.0.0/8", "203.0.113.9", "127.0.0.1"),
        ("", "203.0.113.9", "127.0.0.1"),
    ],
)
async def test_x_forwarded_for_of_trusted_proxies_only(
    world_of: WorldOf, trusted: str, forwarded: str, address: str
) -> None:
    world = await world_of(trusted=trusted)
    reader, writer = await world.open()
    assert await status_of(reader, writer, good(X_Forwarded_For=forwarded)) == 101
    await until(lambda: peers(world) == [address], 10)
    writer.close()


# --- caps -------------------------------------------------------------------------
async def test_an_address_has_its_share(world_of: WorldOf) -> None:
    world = await world_of(address=2)
    before = refused(Refusals.TOO_MANY)
    async with world.client("ann", "a"), world.client("ann", "b"):
        with pytest.raises(InvalidStatus) as caught:
            async with world.client("bob"):
                pass
        response = caught.value.response
        assert (response.status_code, response.body) == (429, Refusals.TOO_MANY.body)
        assert response.headers["Retry-After"] == "5"
        assert refused(Refusals.TOO_MANY) == before + 1
    await until(lambda: len(world.gateway._caps.peers) == 0, 10)
    async with world.client("bob") as app:
        await app.read("resumed")


async def test_twice_its_share_is_not_even_answered(world_of: WorldOf, carrier: str) -> None:
    world = await world_of(address=2)
    before = refused(Refusals.TOO_MANY)
    flood = [Client(world) for _ in range(8)]
    answers = await asyncio.gather(*(client.reads() for client in flood[4:]))
    assert answers == [b""] * 4
    assert refused(Refusals.TOO_MANY) >= before + 4
    assert len(world.gateway._caps.peers) == 1
    for client in flood:
        client._sock.close()
    await until(lambda: len(world.gateway._caps.peers) == 0, 10)


async def test_a_trusted_proxy_itself_is_not_counted_but_its_clients_are(world_of: WorldOf) -> None:
    world = await world_of(trusted="127.0.0.0/8", address=1)
    async with world.client("ann", "a"), world.client("ann", "b"):
        opened = []
        for address, status in (("192.0.2.1", 101), ("192.0.2.2", 101), ("192.0.2.1", 429)):
            reader, writer = await world.open()
            assert await status_of(reader, writer, good(X_Forwarded_For=address)) == status
            opened.append(writer)
        for writer in opened:
            writer.close()
    await until(lambda: len(world.gateway._caps.peers) == 0, 10)


async def test_clients_behind_a_proxy_have_their_shares(world_of: WorldOf) -> None:
    world = await world_of(proxied=True, trusted="127.0.0.0/8", address=1)
    first, second = Client(world), Client(world)
    await first.send(V1)
    reader, writer = await first.secure()
    assert await status_of(reader, writer, good()) == 101
    await second.send(V2)
    reader, other = await second.secure()
    assert await status_of(reader, other, good()) == 429
    third = Client(world)
    await third.send(V1_IPV6)
    reader, more = await third.secure()
    assert await status_of(reader, more, good()) == 101
    for each in (writer, other, more):
        each.close()
    await until(lambda: len(world.gateway._caps.peers) == 0, 10)


async def test_a_tenant_has_its_share(world_of: WorldOf) -> None:
    world = await world_of(tenant=1)
    before = refused(Refusals.TOO_MANY)
    async with world.client("ann") as app:
        await app.read("resumed")
        with pytest.raises(InvalidStatus) as caught:
            async with world.client("bob"):
                pass
        assert caught.value.response.status_code == 429
        told = {"t": "error", "code": "too_many_connections", "retry_ms": 5_000}
        async with world.client(headers={}, subprotocols=["herald.v1", f"bearer.{mint('bob')}"], raw=True) as other:
            assert await other.next() == told
            assert await other.closed() == 4429
        async with world.client(headers={}, raw=True) as other:
            await other.say(t="auth", token=mint("bob"))
            assert await other.next() == told
            assert await other.closed() == 4429
        assert refused(Refusals.TOO_MANY) == before + 3
        await app.say(t="reauth", token=mint("ann"))  # who is in already stays
        await app.say(t="ping")
        await app.read("pong")
    await until(lambda: not world.gateway._caps.full("acme"), 10)
    async with world.client("bob") as app:
        await app.read("resumed")


async def test_a_client_that_is_refused_costs_its_address_nothing(world_of: WorldOf) -> None:
    world = await world_of(address=1)
    for _ in range(3):
        client = Client(world)
        await client.send(b"\x16\x03\x01junk")
        await client.reads()
        await until(lambda: len(world.gateway._caps.peers) == 0, 10)
    async with world.client() as app:
        await app.read("resumed")
