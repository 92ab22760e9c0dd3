"""TLS 1.3 straight to the gateway: what the handshake grants, and what happens without one."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest

from notification import telemetry
from tests.flow.world import World, authority, until


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World("tls")
    await world.start()
    yield world
    await world.close()


def failures() -> float:
    return telemetry.TLS_FAILURES._value.get()


async def test_tls_1_3_and_http_1_1(world: World) -> None:
    context = authority().client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with world.client(ssl=context) as app:
        await app.read("resumed")
        tls = app.socket.transport.get_extra_info("ssl_object")
        assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")


async def test_tls_1_2_is_refused(world: World) -> None:
    before = failures()
    context = authority().client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match=r".*"):  # an alert, or a reset if that is faster
        await asyncio.open_connection("127.0.0.1", world.port, ssl=context)
    await until(lambda: failures() == before + 1, 10)


async def test_plain_http_ends_without_a_word(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    before = failures()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"GET /ws/connect HTTP/1.1\r\nHost: h\r\n\r\n")
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert b"HTTP" not in answer  # a TLS alert, or nothing
    await until(lambda: failures() == before + 1 and world.gateway._listener.doors() == 0, 10)
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    async with world.client() as app:
        await app.read("resumed")


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_slow_handshake_ends(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.picows_listener.AUTH_DEADLINE_MS", 300)
    world = World("tls")
    await world.start()
    try:
        with socket.create_connection(("127.0.0.1", world.port)) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(sock, first)
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionResetError):  # as good as a plain end
                    assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        await until(lambda: world.gateway._listener.doors() == 0, 10)
    finally:
        await world.close()


async def test_a_stop_ends_handshakes_under_way(world: World) -> None:
    with socket.create_connection(("127.0.0.1", world.port)):
        await until(lambda: world.gateway._listener.doors() == 1, 10)
        await world.gateway._listener.close()
        await world.gateway._listener.end()
        await until(lambda: world.gateway._listener.doors() == 0, 10)
