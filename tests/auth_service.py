"""An AuthService of a test: a real HTTP server that knows tokens, and can misbehave."""

import asyncio
import contextlib
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

from devstack.ports import free_ports
from gateway.auth_service import AuthService
from gateway.introspection import Introspection

CLIENT, SECRET = "herald gateway", b"s3cret/%:of the gateway"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """`tokens`: what it says of each; others are inactive. `handler` may be replaced; `asked` has every token in
    order, `requests` what came with it. With `gate` cleared, answers wait."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.requests: list[web.Request] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.handler: Handler = self.good
        self.url = ""

    async def good(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        return web.json_response(self.tokens.get(str(form["token"]), {"active": False}))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        self.asked.append(str(form["token"]))
        self.requests.append(request)
        await self.gate.wait()
        return await self.handler(request)


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Server]:
    """A server on loopback."""
    server = Server()
    runner = web.ServerRunner(web.Server(server.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    [(_, bound)] = runner.addresses
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{bound}/introspect"
    try:
        yield server
    finally:
        server.gate.set()
        await runner.cleanup()


def active(user: str = "ann", tenant: str = "acme", **claims: Any) -> dict[str, Any]:
    """The answer about a good token; a claim of None is left out."""
    values = {
        "active": True, "iss": f"herald:{tenant}", "aud": "herald", "sub": user, "tid": tenant,
        "exp": int(time.time()) + 600, "jti": str(uuid.uuid4()), "scope": "notifications", "client_id": "app",
    } | claims  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def asking(url: str, everything: bool = False) -> Introspection:
    """What a gateway makes of its settings, but patient with a busy machine."""
    return Introspection(AuthService(url, CLIENT, SECRET, 30_000), everything)


def asking_nobody() -> Introspection:
    """The AuthService is down."""
    return asking(f"http://127.0.0.1:{free_ports(1)[0]}/introspect")
