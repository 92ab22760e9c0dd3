"""The edge snapshot over the memory bus: first poll, versions, refreshes on demand, an inbox that is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import jwt
import pytest

from gateway.edge import Change, Edge
from gateway.tokens import Identity
from notification import messages, names
from notification.codes import Refusals
from notification.limits import EDGE_REFRESH_MS_MIN
from notification.messages import JTI, EdgeKey, EdgeReply, EdgeRequest, EdgeTenant, Revocation
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
        self.asked_after: list[int] = []
        self.epoch = 7
        self.revoked: list[Revocation] = []
        self.page = 100
        self.tenants_page = 100
        self.between: Callable[[], None] | None = None  # called at each page of tenants but the first
        self.changes: list[Change] = []  # as the gateway was told

    async def answer(self, subject: str, payload: bytes) -> bytes:
        request = messages.decode_request(payload)
        assert isinstance(request, EdgeRequest)
        self.asked.append(request.have)
        tenants = [
            EdgeTenant(name, "active", [], [EdgeKey(f"iss:{name}", "herald", "", "HS256", SECRET)])
            for name in self.names
        ]
        self.asked_after.append(request.revocations_have)
        tenants = [tenant for tenant in tenants if tenant.tenant > request.after_tenant]
        cut = self.tenants_page
        if self.between is not None and request.after_tenant:
            self.between()
        after = self.revoked[request.revocations_have :]
        more = len(after) > self.page
        reached = request.revocations_have + self.page if more else len(self.revoked)
        return messages.encode(
            EdgeReply(
                self.version, self.epoch, None if request.have == self.version else tenants[:cut],
                after[: self.page], reached, more, tenants_more=len(tenants) > cut,
            )
        )  # fmt: skip

    async def start(self) -> None:
        await self.bus.serve(names.INBOX_EDGE, self.answer)

    def revoke(self, *jtis: str) -> None:
        self.revoked += [Revocation("acme", JTI, jti, 0, 2**40) for jti in jtis]

    async def hint(self) -> None:
        await self.bus.publish(names.EDGE_CHANGED, b"")

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
    edge = Edge(MemoryBus(inbox.hub), inbox.changes.append)
    await edge.start()
    yield edge
    await edge.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.01)


async def until_known(edge: Edge) -> None:
    await until(lambda: edge.known)


def token(tenant: str, jti: str = "1") -> str:
    expiry_s = int(time.time()) + 60
    claims = {"iss": f"iss:{tenant}", "aud": "herald", "tid": tenant, "sub": "u", "jti": jti, "exp": expiry_s}
    return jwt.encode(claims, SECRET, algorithm="HS256")


async def test_the_first_snapshot_comes_as_soon_as_there_is_an_inbox(inbox: Inbox, edge: Edge) -> None:
    await asyncio.sleep(0.05)
    assert not edge.known
    assert edge.of("192.0.2.1").verify(token("acme")) is Refusals.TENANT_UNKNOWN_YET
    await inbox.start()
    await until_known(edge)
    assert edge.epoch == 7
    assert isinstance(edge.of("192.0.2.1").verify(token("acme")), Identity)
    assert inbox.asked == [-1]


async def test_revocation_is_asked_of_a_remembered_token_too(inbox: Inbox, edge: Edge) -> None:
    await inbox.start()
    await until_known(edge)
    text = token("acme")
    assert isinstance(edge.of("192.0.2.1").verify(text), Identity)
    assert isinstance(edge.of("192.0.2.1").verify(text), Identity)
    inbox.revoke("1")
    assert await edge.refresh()
    assert edge.of("192.0.2.1").verify(text) is Refusals.REVOKED


async def test_a_refresh_is_shared_and_not_too_frequent(inbox: Inbox, edge: Edge) -> None:
    await inbox.start()
    await until_known(edge)
    started = time.monotonic()
    inbox.add("fresh")
    waiting = [edge.refresh() for _ in range(50)]
    assert await asyncio.gather(*waiting) == [True] * 50
    assert isinstance(edge.of("192.0.2.1").verify(token("fresh")), Identity)
    assert await edge.refresh()
    assert inbox.asked == [-1, 1, 2]
    assert time.monotonic() - started > 2 * EDGE_REFRESH_MS_MIN / 1_000 - 0.2


async def test_the_last_copy_serves_while_the_inbox_is_away(inbox: Inbox, edge: Edge) -> None:
    await inbox.start()
    await until_known(edge)
    await inbox.bus.close()
    assert await edge.refresh() is False
    assert isinstance(edge.of("192.0.2.1").verify(token("acme")), Identity)
    assert edge.of("192.0.2.1").verify(token("fresh")) is Refusals.TENANT_UNKNOWN_YET


async def test_nobody_waits_for_an_edge_that_closed(inbox: Inbox, edge: Edge) -> None:
    refresh = edge.refresh()
    await edge.close()
    assert await refresh is False


async def test_a_revoked_token_is_refused_from_the_first_snapshot_on(inbox: Inbox, edge: Edge) -> None:
    inbox.revoke("1")
    await inbox.start()
    await until_known(edge)
    assert edge.of("192.0.2.1").verify(token("acme")) is Refusals.REVOKED
    assert isinstance(edge.of("192.0.2.1").verify(token("acme", "2")), Identity)


async def test_nobody_is_let_in_before_all_revocations_are_here(inbox: Inbox, edge: Edge) -> None:
    inbox.page = 2
    inbox.revoke("a", "b", "c", "d", "1")
    await inbox.start()
    await until_known(edge)
    assert inbox.asked_after == [0, 2, 4]
    assert edge.of("192.0.2.1").verify(token("acme")) is Refusals.REVOKED


async def test_a_hint_is_followed_at_once_and_brings_the_change_alone(inbox: Inbox, edge: Edge) -> None:
    await inbox.start()
    await until_known(edge)
    inbox.changes.clear()
    inbox.revoke("1")
    await inbox.hint()
    await inbox.hint()
    await until(lambda: edge.of("192.0.2.1").verify(token("acme")) is Refusals.REVOKED)
    assert inbox.changes == [Change(False, inbox.revoked)]
    assert inbox.asked == [-1, 1]
    inbox.revoke("2")
    await inbox.hint()
    await until(lambda: edge.of("192.0.2.1").verify(token("acme", "2")) is Refusals.REVOKED)
    assert inbox.asked_after == [0, 0, 1]


async def test_without_a_hint_the_poll_finds_it(inbox: Inbox, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.edge.EDGE_POLL_MS", 50)
    await inbox.start()
    await until_known(edge)
    inbox.revoke("1")
    await until(lambda: edge.of("192.0.2.1").verify(token("acme")) is Refusals.REVOKED)


async def test_an_inbox_that_was_away_is_asked_again_soon(
    inbox: Inbox, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.edge.EDGE_POLL_MS", 10**9)
    await inbox.start()
    await until_known(edge)
    inbox.hub.up = False
    assert await edge.refresh() is False
    inbox.revoke("1")
    inbox.hub.up = True
    await until(lambda: edge.of("192.0.2.1").verify(token("acme")) is Refusals.REVOKED)


@pytest.mark.parametrize("epoch", [7, 8])
async def test_a_database_that_went_back_in_time_is_read_anew(inbox: Inbox, edge: Edge, epoch: int) -> None:
    """Its revocations count from a lower number; those it lost still count here."""
    inbox.revoke("1", "2", "3")
    await inbox.start()
    await until_known(edge)
    inbox.revoked = inbox.revoked[:1]
    inbox.revoke("4")
    if epoch != inbox.epoch:
        inbox.epoch = epoch
        inbox.revoke("5")
    assert await edge.refresh()
    for jti in ("1", "2", "3", "4"):
        assert edge.of("192.0.2.1").verify(token("acme", jti)) is Refusals.REVOKED, jti
    assert inbox.asked_after == [0, 3, 0]


async def test_tenants_come_in_pages_and_count_once_all_are_here(inbox: Inbox, edge: Edge) -> None:
    inbox.tenants_page = 2
    inbox.names = ["a", "b", "c", "d", "e"]
    known: list[bool] = []
    inbox.between = lambda: known.append(edge.known)
    await inbox.start()
    await until_known(edge)
    assert known == [False, False]
    assert inbox.asked == [-1, -1, -1]
    assert [isinstance(edge.of("192.0.2.1").verify(token(name)), Identity) for name in inbox.names] == [True] * 5
    assert inbox.changes == [Change(True, [])]


async def test_revocations_come_while_tenants_are_paged(inbox: Inbox, edge: Edge) -> None:
    inbox.names = ["acme", "b", "c"]
    await inbox.start()
    await until_known(edge)
    inbox.tenants_page = 1
    inbox.add("d")
    seen: list[object] = []

    def revoke() -> None:
        seen.append(edge.of("192.0.2.1").verify(token("acme", str(len(seen)))))
        inbox.revoke(str(len(seen)))

    inbox.between = revoke
    assert await edge.refresh()
    assert seen[1:] == [Refusals.REVOKED, Refusals.REVOKED]  # by the page before, and before the last one was here
    assert isinstance(edge.of("192.0.2.1").verify(token("d")), Identity)


async def test_tenants_that_never_stop_changing_do_not_keep_a_process_out(inbox: Inbox, edge: Edge) -> None:
    inbox.tenants_page = 1
    inbox.names = ["a", "b", "c"]

    def change() -> None:
        inbox.version += 1

    inbox.between = change
    await inbox.start()
    await until_known(edge)
    assert isinstance(edge.of("192.0.2.1").verify(token("c")), Identity)
    inbox.between = None
    assert await edge.refresh()  # not taken for the newest
    asked = len(inbox.asked)
    assert await edge.refresh()
    assert inbox.asked[asked:] == [inbox.version]
