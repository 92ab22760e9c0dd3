"""Against the whole running system: `herald revoke` is obeyed by every gateway process, live connections included;
an issuer's published keys let its users in."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from devstack.children import environment
from notification.names import presence_key, user_tag
from notification.presence import decode
from notification.settings import Settings
from tests.conftest import Mint
from tests.stack.lab import open_redis
from tests.unit.herald.documented import documented, same_shape
from tests.unit.worker.key_sets import RSA, jwk, key_set

pytestmark = pytest.mark.stack

WAIT_S = 30.0
CONNECTIONS_MAX = 40  # the kernel spreads connects over two processes: one alone gets all with odds of 1 in 2^39


def herald(settings: Settings, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "herald", *arguments], env=environment(settings), cwd=Path(__file__).parents[2],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


async def opened(settings: Settings, token: str) -> ClientConnection:
    socket = await connect(
        f"ws://127.0.0.1:{settings.gateway_port}/ws/connect", compression=None, open_timeout=WAIT_S,
        additional_headers={"Authorization": f"Bearer {token}"},
    )  # fmt: skip
    async with asyncio.timeout(WAIT_S):
        assert json.loads(await socket.recv())["t"] == "welcome"
    return socket


async def admitted(settings: Settings, token: str) -> ClientConnection:
    """Once the gateways know the tenant."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await opened(settings, token)
            except InvalidStatus as error:
                if error.response.status_code not in (401, 503):
                    raise
                await asyncio.sleep(0.2)


async def gateways(settings: Settings, tenant: str, user: str) -> set[str]:
    async with open_redis(settings) as redis:
        entries = await redis.hvals(presence_key(user_tag(tenant, user)))
    return {entry.gateway_id for text in entries if (entry := decode(text.decode())) is not None}


async def spread(
    settings: Settings, tenant: str, mint: Mint, stack: contextlib.AsyncExitStack
) -> list[ClientConnection]:
    """One connection of a user of its own after the other, until both gateway processes hold some."""
    sockets: list[ClientConnection] = []
    holding: set[str] = set()
    while len(holding) < 2 and len(sockets) < CONNECTIONS_MAX:
        user = f"u{len(sockets)}"
        sockets.append(await admitted(settings, mint(tenant, user, jti=user)))
        stack.push_async_callback(sockets[-1].close)
        holding |= await gateways(settings, tenant, user)
    assert len(holding) == 2
    return sockets


async def closed(socket: ClientConnection) -> int | None:
    async with asyncio.timeout(WAIT_S):
        await socket.wait_closed()
    return socket.close_code


async def test_every_process_closes_and_refuses(system: Settings, tenant: str, mint: Mint) -> None:
    async with contextlib.AsyncExitStack() as stack:
        sockets = await spread(system, tenant, mint, stack)
        first, second, others = sockets[0], sockets[-1], sockets[1:-1]

        row = json.loads(
            await asyncio.to_thread(herald, system, "revoke", "--tenant", tenant, "--jti", "u0", "--json")
        )
        assert same_shape(row, documented("cli-revoke"))
        assert await closed(first) == 4403

        last = f"u{len(sockets) - 1}"
        said = await asyncio.to_thread(herald, system, "revoke", "--tenant", tenant, "--user", last)
        assert said.startswith(f"all tokens of user {last} of tenant {tenant} revoked until 20")
        assert said.endswith("Z; gateways know within 5 seconds\n")
        assert await closed(second) == 4403

        await asyncio.to_thread(herald, system, "revoke", "--tenant", tenant, "--all", "--expires-in", "600")
        assert [await closed(socket) for socket in others] == [4403] * len(others)

        token = await asyncio.to_thread(herald, system, "token", "--tenant", tenant, "--user", "u0")
        stack.push_async_callback((await opened(system, token.strip())).close)


@pytest.fixture
def published() -> Iterator[str]:
    """The URL of a key set with RSA as k1."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = key_set(jwk(RSA, kid="k1", use="sig"))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
        server.shutdown()


async def test_published_keys_let_users_in(system: Settings, tenant: str, published: str) -> None:
    name, issuer = f"{tenant}-idp", f"https://{tenant}.example"
    row = json.loads(
        await asyncio.to_thread(
            herald, system, "tenant", "create", name, "--issuer", issuer, "--jwks-url", published, "--json"
        )
    )
    assert same_shape(row, documented("cli-tenant-create"))
    assert (row["jwks_url"], row["algorithm"]) == (published, None)
    claims = {"iss": issuer, "aud": "herald", "sub": "ann", "tid": name, "jti": "1", "exp": int(time.time()) + 600}
    socket = await admitted(system, jwt.encode(claims, RSA, algorithm="RS256", headers={"kid": "k1"}))
    await socket.close()
