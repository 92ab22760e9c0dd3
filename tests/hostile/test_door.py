"""Clients that never become a connection: slow, noisy, forged, many. What they hear, and who is served."""

import asyncio
import random
import socket
import struct
import time

import jwt
import pytest

from notification import limits
from notification.codes import Refusals
from tests.flow.world import SECRET, mint
from tests.hostile.clients import DEADLINE_S, HELD_BYTES_MAX, Hostile, each, hostile, request
from tests.hostile.neighbours import neighbours
from tests.hostile.victim import Victim

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

CLIENTS = 50
SILENT = 1_000
BIG = "x" * limits.HEADER_BYTES_MAX
TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(200)

HEADS = {
    "headers over 16 KB": (request(Cookie=BIG), Refusals.HEADERS_TOO_LARGE),
    "one line over 16 KB": (b"GET /ws/connect?x=" + BIG.encode(), Refusals.HEADERS_TOO_LARGE),
    "101 headers": (request(**{f"X{n}": "1" for n in range(101)}), Refusals.HEADERS_TOO_LARGE),
    "a foreign origin": (
        request(Authorization=f"Bearer {mint()}", Origin="https://evil.example"), Refusals.FORBIDDEN_ORIGIN,
    ),
    "a null origin": (request(Authorization=f"Bearer {mint()}", Origin="null"), Refusals.FORBIDDEN_ORIGIN),
    "a suspended tenant": (request(Authorization=f"Bearer {mint(tenant='evil')}"), Refusals.SUSPENDED),
    "TLS": (TLS_HELLO, Refusals.MALFORMED),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\n", Refusals.MALFORMED),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusals.MALFORMED),
    "zeros": (bytes(100_000), Refusals.MALFORMED),
    "smuggling": (request(Content_Length="5", Transfer_Encoding="chunked") + b"GET / ", Refusals.MALFORMED),
    "two hosts": (request().replace(b"Upgrade:", b"Host: b\r\nUpgrade:", 1), Refusals.MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
async def test_the_expected_answer(victim: Victim, head: str) -> None:
    data, expected = HEADS[head]
    async with neighbours(victim), hostile(victim, CLIENTS) as clients:
        before = victim.rss_bytes()

        async def knock(client: Hostile) -> bytes:
            await client.send(data)
            return await client.read_to_end()

        answers = set(await each(knock(client) for client in clients))
        assert victim.rss_bytes() - before < CLIENTS * HELD_BYTES_MAX
    (answer,) = answers
    assert answer.startswith(b"HTTP/1.1 %d " % expected.status)
    assert answer.endswith(expected.body)


async def test_those_that_take_their_time(victim: Victim) -> None:
    """A thousand say nothing. Fifty send most of a request, so that there is something to hold, then a byte now and
    then for ever. All are dropped in time, without an answer."""
    began = time.monotonic()
    async with neighbours(victim), hostile(victim, CLIENTS) as slow, hostile(victim, SILENT) as silent:
        before = victim.rss_bytes()
        await each(client.send(request(Cookie=BIG[:12_000])[:-4]) for client in slow)

        async def drip(client: Hostile) -> float:
            while await client.send(b"x"):  # noqa: ASYNC110 - it sends, and is slow
                await asyncio.sleep(0.5)
            return time.monotonic() - began

        dripping = asyncio.create_task(each(drip(client) for client in slow))
        await asyncio.sleep(1)
        assert victim.rss_bytes() - before < CLIENTS * HELD_BYTES_MAX
        assert set(await each(client.status() for client in silent)) == {0}
        async with asyncio.timeout(DEADLINE_S):
            lasted = await dripping
    assert min(lasted) >= limits.AUTH_DEADLINE_MS / 1_000 - 0.5  # nobody was thrown out for anything else


async def test_comings_and_goings(victim: Victim) -> None:
    """Connects that are reset at once, in the middle of the request, or behind it."""
    now = struct.pack("ii", 1, 0)
    chance = random.Random(1)
    good = request(Authorization=f"Bearer {mint('bob')}", Origin="https://app.example")

    async def come_and_go() -> None:
        for _ in range(20):
            async with hostile(victim) as (client,):
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                await client.send(good[: chance.choice((0, 100, len(good)))])
                await asyncio.sleep(chance.choice((0, 0.01)))

    async with neighbours(victim):
        await each(come_and_go() for _ in range(25))


def forged(number: int) -> str:
    """A token that nobody signed, each another one."""
    if number % 10 == 1:
        return jwt.encode({"sub": str(number)}, None, algorithm="none")
    if number % 10 == 2:
        return f"{mint(jti=str(number))}x"
    return mint(key=SECRET[::-1], jti=str(number))


def knock(port: int, token: str) -> int:
    """The status that a token gets; blocking, because ten thousand of them are quicker so."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as sock:
        sock.sendall(request(Authorization=f"Bearer {token}"))
        answer = b""
        while piece := sock.recv(4_096):
            answer += piece
    return int(answer.split(b" ", 2)[1])


async def test_forged_tokens(victim: Victim) -> None:
    """Ten thousand, and nothing is kept of them."""
    count = 10_000 if victim.settings.gateway_carrier == "engine" else 1_000

    def forge(first: int) -> set[int]:
        return {knock(victim.port, forged(number)) for number in range(first, count, 4)}

    async with neighbours(victim):
        before = victim.rss_bytes()
        statuses = await each(asyncio.to_thread(forge, first) for first in range(4))
        assert victim.rss_bytes() - before < CLIENTS * HELD_BYTES_MAX
    assert set.union(*statuses) == {Refusals.UNAUTHENTICATED.status}


async def test_issuers_that_nobody_knows(victim: Victim) -> None:
    """A thousand at once: not one question to the inbox for each, but at most one a second."""
    async with neighbours(victim), hostile(victim, SILENT) as clients:
        asked, began = victim.edge_requests, time.monotonic()

        async def ask(number: int, client: Hostile) -> int:
            await client.send(request(Authorization=f"Bearer {mint(iss=f'nobody{number}')}"))
            return await client.status()

        statuses = set(await each(ask(number, client) for number, client in enumerate(clients)))
        assert victim.edge_requests - asked <= time.monotonic() - began + 2
    # Who comes before the inbox has answered may come again.
    assert {Refusals.UNAUTHENTICATED.status} <= statuses
    assert statuses <= {Refusals.UNAUTHENTICATED.status, Refusals.TENANT_UNKNOWN_YET.status}
