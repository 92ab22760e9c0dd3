"""Fetching key sets from real servers on this machine, well-behaved ones and others."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from notification.limits import JWKS_BYTES_MAX
from tests.unit.worker.key_sets import RSA, jwk, key_set
from worker.jwks_client import FetchFailed, JwksClient

GOOD = key_set(jwk(RSA, kid="k1"))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Issuer:
    """An HTTP server; `requests` are the paths it was asked for."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.handler: Handler = self.good
        self.port = 0

    async def good(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=GOOD)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path)
        return await self.handler(request)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    runner = web.ServerRunner(web.Server(issuer.answer), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    [(_, issuer.port)] = runner.addresses
    yield issuer
    await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[JwksClient]:
    client = JwksClient(plain_loopback=True)
    yield client
    await client.close()


async def fails(client: JwksClient, url: str) -> str:
    with pytest.raises(FetchFailed) as failure:
        await client.fetch(url)
    return str(failure.value)


async def test_keys_come(issuer: Issuer, client: JwksClient) -> None:
    assert [key.kid for key in await client.fetch(issuer.url)] == ["k1"]


@pytest.mark.parametrize("status", [204, 404, 500])
async def test_another_status_is_a_failure(issuer: Issuer, client: JwksClient, status: int) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    issuer.handler = refuse
    assert await fails(client, issuer.url) == f"HTTP status {status}"


@pytest.mark.parametrize("place", ["/other", "http://127.0.0.2:1/", "file:///etc/passwd"])
async def test_redirects_are_not_followed(issuer: Issuer, client: JwksClient, place: str) -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": place})

    issuer.handler = elsewhere
    assert await fails(client, issuer.url) == "HTTP status 302"
    assert issuer.requests == ["/jwks"]


async def test_a_body_without_end_is_cut_off(issuer: Issuer, client: JwksClient) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(64 * JWKS_BYTES_MAX // 4_096):
            await response.write(b" " * 4_096)
        return response

    issuer.handler = flood
    assert await fails(client, issuer.url) == f"more than {JWKS_BYTES_MAX} bytes"


async def test_a_compressed_body_is_not_unpacked(issuer: Issuer, client: JwksClient) -> None:
    async def packed(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=gzip.compress(GOOD), headers={"Content-Encoding": "gzip"})

    issuer.handler = packed
    assert "jwks: must be a JSON object" in await fails(client, issuer.url)


async def test_a_server_that_does_not_answer(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.jwks_client.JWKS_DEADLINE_MS", 200)
    client = JwksClient(plain_loopback=True)

    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(600)
        return web.Response()

    issuer.handler = silent
    try:
        assert "Timeout" in await fails(client, issuer.url)
    finally:
        await client.close()


async def test_nobody_there(issuer: Issuer, client: JwksClient) -> None:
    assert "Connect" in await fails(client, "http://127.0.0.1:1/jwks")


async def test_plain_http_needs_the_setting_at_each_fetch(issuer: Issuer) -> None:
    client = JwksClient(plain_loopback=False)
    try:
        assert "must be https" in await fails(client, issuer.url)
    finally:
        await client.close()
    assert issuer.requests == []


async def test_a_server_without_a_good_certificate(issuer: Issuer, client: JwksClient) -> None:
    """Plain HTTP where TLS is expected; a certificate nobody trusts ends the same way."""
    assert await fails(client, issuer.url.replace("http://", "https://"))
    assert issuer.requests == []
