"""Token introspection against real servers on this machine, well-behaved ones and others."""

import asyncio
import base64
import gzip
import json
import ssl
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from devstack.ports import free_ports
from gateway.auth_service import AuthService
from gateway.introspection import Away, BadAnswer
from notification.limits import AUTH_SERVICE_ANSWER_BYTES_MAX
from tests.auth_service import CLIENT, SECRET, Server, active, serving
from tests.certificates import Authority

PATIENT_MS = 30_000
TOKEN = "opaque-secret-token"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
async def service(server: Server) -> AsyncIterator[AuthService]:
    service = AuthService(server.url, CLIENT, SECRET, PATIENT_MS)
    yield service
    await service.close()


async def test_the_request_is_that_of_rfc_7662(server: Server, service: AuthService) -> None:
    server.tokens[TOKEN] = answer = active()
    assert json.loads(await service.ask(TOKEN)) == answer
    [request] = server.requests
    assert (request.method, request.path_qs) == ("POST", "/introspect")
    assert dict(await request.post()) == {"token": TOKEN, "token_type_hint": "access_token"}
    assert request.headers["Accept"] == "application/json"
    scheme, _, login = request.headers["Authorization"].partition(" ")
    user, _, password = base64.b64decode(login).decode().partition(":")
    assert scheme == "Basic"
    assert urllib.parse.unquote_plus(user) == CLIENT
    assert urllib.parse.unquote_to_bytes(password.replace("+", " ")) == SECRET


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_service_that_cannot_answer_is_away(server: Server, service: AuthService, status: int) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=TOKEN)

    server.handler = refuse
    with pytest.raises(Away, match=rf"^HTTP status {status}$"):
        await service.ask(TOKEN)


@pytest.mark.parametrize("status", [204, 301, 307, 400, 401, 403, 404])
async def test_no_other_status_is_an_answer(server: Server, service: AuthService, status: int) -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": server.url})

    server.handler = elsewhere
    with pytest.raises(BadAnswer, match=rf"^HTTP status {status}$"):
        await service.ask(TOKEN)
    assert len(server.asked) == 1  # a redirect is not followed


async def test_a_huge_answer_is_not_read_to_its_end(server: Server, service: AuthService) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65_536)
            sent += 65_536

    server.handler = endless
    with pytest.raises(BadAnswer, match=f"more than {AUTH_SERVICE_ANSWER_BYTES_MAX} bytes"):
        await service.ask(TOKEN)
    assert sent < 64 * 1_024 * 1_024


async def test_a_compressed_answer_stays_so(server: Server, service: AuthService) -> None:
    async def squeezed(request: web.Request) -> web.StreamResponse:
        body = gzip.compress(b" " * 10_000_000)
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    server.handler = squeezed
    assert len(await service.ask(TOKEN)) < AUTH_SERVICE_ANSWER_BYTES_MAX


async def test_a_slow_one_is_away(server: Server) -> None:
    service = AuthService(server.url, CLIENT, SECRET, deadline_ms=100)
    server.gate.clear()
    with pytest.raises(Away, match=r"^TimeoutError$"):
        await service.ask(TOKEN)
    await service.close()


async def test_an_answer_that_drips_is_too_slow_as_well(server: Server) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    server.handler = drip
    service = AuthService(server.url, CLIENT, SECRET, deadline_ms=300)
    with pytest.raises(Away, match=r"^TimeoutError$"):
        await service.ask(TOKEN)
    await service.close()


async def test_a_dead_one_is_away() -> None:
    service = AuthService(f"http://127.0.0.1:{free_ports(1)[0]}/introspect", CLIENT, SECRET, PATIENT_MS)
    with pytest.raises(Away, match=r"^ClientConnectorError$"):
        await service.ask(TOKEN)
    await service.close()


async def answering(raw: bytes, requests: int = 1) -> asyncio.Server:
    """A server that reads a request and writes bytes, then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(requests):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"access_token")
            writer.write(raw)
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"SSH-2.0-nonsense\r\n\r\n", BadAnswer),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", BadAnswer),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"active"', Away),
        (b"", Away),
    ],
    ids=["no HTTP", "long header", "cut off", "hung up"],
)
async def test_what_is_no_answer(raw: bytes, error: type[Exception]) -> None:
    async with await answering(raw) as server:
        service = AuthService(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", CLIENT, SECRET, PATIENT_MS)
        with pytest.raises(error) as failure:
            await service.ask(TOKEN)
        assert TOKEN not in str(failure.value)
        await service.close()


async def test_a_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    """Each connection serves one request, though it promised to stay."""
    body = b'{"active":false}'
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with await answering(head + body) as server:
        service = AuthService(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", CLIENT, SECRET, PATIENT_MS)
        for _ in range(5):
            assert await service.ask(TOKEN) == body
        await service.close()


async def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue())
    async with serving(context) as server:
        stranger = AuthService(server.url, CLIENT, SECRET, PATIENT_MS)
        with pytest.raises(Away, match=r"^ClientConnectorCertificateError$"):
            await stranger.ask(TOKEN)
        await stranger.close()
        assert server.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        service = AuthService(server.url, CLIENT, SECRET, PATIENT_MS)
        assert json.loads(await service.ask(TOKEN)) == {"active": False}
        await service.close()
