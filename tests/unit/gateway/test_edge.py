"""The edge snapshot over the memory bus: first poll, versions, refreshes on demand, an inbox that is away."""

import asyncio
import time
from collections.abc import AsyncIterator

import jwt
import pytest

from gateway.edge import Edge
from gateway.tokens import Identity
from notification import messages, names
from notification.codes import Refusals
from notification.limits import EDGE_REFRESH_MS_MIN
from notification.messages import EdgeKey, EdgeReply, EdgeRequest, EdgeTenant
from tests.twins.bus import Hub, MemoryBus

SECRET = b"0123456789abcdef0123456789abcdef"


class Inbox:
    """Role inbox, as far as the edge snapshot goes."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.bus = MemoryBus(self.hub)
        self.version = 1
        self.names = ["acme"]
        self.asked: list[int] = []

    async def answer(self, subject: str, payload: bytes) -> bytes:
        request = messages.decode_request(payload)
        assert isinstance(request, EdgeRequest)
        self.asked.append(request.have)
        tenants = [
            EdgeTenant(name, "active", [], [EdgeKey(f"iss:{name}", "herald", "", "HS256", SECRET)])
            for name in self.names
        ]
        return messages.encode(EdgeReply(self.version, 7, None if request.have == self.version else tenants))

    async def start(self) -> None:
        await self.bus.serve(names.INBOX_EDGE, self.answer)

    def add(self, name: str) -> None:
        self.names.append(name)
        self.version += 1


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    inbox = Inbox()
    yield inbox
    await inbox.bus.close()


@pytest.fixture
async def edge(inbox: Inbox) -> AsyncIterator[Edge]:
    edge = Edge(MemoryBus(inbox.hub), lambda: None)
    edge.start()
    yield edge
    await edge.close()


async def until_known(edge: Edge) -> None:
    async with asyncio.timeout(2):
        while not edge.known:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.01)


def token(tenant: str) -> str:
    expiry_s = int(time.time()) + 60
    claims = {"iss": f"iss:{tenant}", "aud": "herald", "tid": tenant, "sub": "u", "jti": "1", "exp": expiry_s}
    return jwt.encode(claims, SECRET, algorithm="HS256")


async def test_the_first_snapshot_comes_as_soon_as_there_is_an_inbox(inbox: Inbox, edge: Edge) -> None:
    await asyncio.sleep(0.05)
    assert not edge.known
    assert edge.verify(token("acme")) is Refusals.TENANT_UNKNOWN_YET
    await inbox.start()
    await until_known(edge)
    assert edge.epoch == 7
    assert isinstance(edge.verify(token("acme")), Identity)
    assert inbox.asked == [-1]


async def test_revocation_is_asked_each_time_a_token_holds(inbox: Inbox) -> None:
    revoked: set[str] = set()
    asked: list[str] = []

    def is_revoked(identity: Identity) -> bool:
        asked.append(identity.jti)
        return identity.jti in revoked

    await inbox.start()
    edge = Edge(MemoryBus(inbox.hub), lambda: None, is_revoked)
    edge.start()
    try:
        await until_known(edge)
        text = token("acme")
        assert isinstance(edge.verify(text), Identity)
        assert isinstance(edge.verify(text), Identity)
        revoked.add("1")
        assert edge.verify(text) is Refusals.UNAUTHENTICATED
        assert edge.verify(text + "x") is Refusals.UNAUTHENTICATED
        assert asked == ["1", "1", "1"]
    finally:
        await edge.close()


async def test_a_refresh_is_shared_and_not_too_frequent(inbox: Inbox, edge: Edge) -> None:
    await inbox.start()
    await until_known(edge)
    started = time.monotonic()
    inbox.add("fresh")
    waiting = [edge.refresh() for _ in range(50)]
    assert await asyncio.gather(*waiting) == [True] * 50
    assert isinstance(edge.verify(token("fresh")), Identity)
    assert await edge.refresh()
    assert inbox.asked == [-1, 1, 2]
    assert time.monotonic() - started > 2 * EDGE_REFRESH_MS_MIN / 1_000 - 0.2


async def test_the_last_copy_serves_while_the_inbox_is_away(inbox: Inbox, edge: Edge) -> None:
    await inbox.start()
    await until_known(edge)
    await inbox.bus.close()
    assert await edge.refresh() is False
    assert isinstance(edge.verify(token("acme")), Identity)
    assert edge.verify(token("fresh")) is Refusals.TENANT_UNKNOWN_YET


async def test_nobody_waits_for_an_edge_that_closed(inbox: Inbox, edge: Edge) -> None:
    refresh = edge.refresh()
    await edge.close()
    assert await refresh is False
