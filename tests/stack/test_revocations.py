"""Revocations from the operator to the gateways' snapshot, on real PostgreSQL."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from notification.errors import InvalidInput
from notification.limits import JTI_BYTES_MAX
from notification.messages import JTI, TENANT, USER, EdgeReply, EdgeRequest, Revocation
from notification.names import EDGE_CHANGED
from notification.settings import Settings
from tests.stack.lab import Lab, open_lab
from tests.twins.bus import Hub, MemoryBus
from worker.database import role_user
from worker.edge import Edge
from worker.edge_hint import EdgeHint
from worker.operations import Operations

pytestmark = pytest.mark.stack


@pytest.fixture
async def operations(servers: Settings) -> AsyncIterator[Operations]:
    made = await Operations.connect(servers)
    yield made
    await made.close()


@pytest.fixture
async def lab(servers: Settings) -> AsyncIterator[Lab]:
    async with open_lab(servers) as lab:
        yield lab


@pytest.fixture
def edge(lab: Lab) -> Edge:
    return Edge(lab.master, lab.pools["inbox"], lambda issuers: None)


async def read(edge: Edge, tenant: str, after: int = 0) -> tuple[list[Revocation], int]:
    """A tenant's revocations, page by page, and the version they reach."""
    found: list[Revocation] = []
    more = True
    while more:
        reply: EdgeReply = await edge.snapshot(EdgeRequest(0, after))
        found += [one for one in reply.revocations if one.tenant == tenant]
        after, more = reply.revocations_version, reply.more
    return found, after


async def test_a_revocation_reaches_the_snapshot_once(operations: Operations, edge: Edge, tenant: str) -> None:
    _, before = await read(edge, tenant)
    made = await operations.revoke(tenant, JTI, "t1", 60)
    found, after = await read(edge, tenant, before)
    assert found == [Revocation(tenant, JTI, "t1", int(made.not_before.timestamp()), found[0].expires_s)]
    assert 0 <= found[0].expires_s - made.expires_at.timestamp() < 1
    assert await read(edge, tenant, after) == ([], after)


@pytest.mark.parametrize(("kind", "value"), [(USER, "ann|x"), (TENANT, "")])
async def test_what_is_issued_when_it_returns_is_good_and_all_before_is_not(
    operations: Operations, edge: Edge, tenant: str, kind: str, value: str
) -> None:
    _, before = await read(edge, tenant)
    early_s = int(time.time())  # the servers run on this machine: one clock
    await operations.revoke(tenant, kind, value)
    late_s = int(time.time())
    [found], _ = await read(edge, tenant, before)
    assert (found.kind, found.value) == (kind, value)
    assert early_s < found.not_before_s <= late_s


async def test_again_moves_it_forward_and_gateways_hear_it(operations: Operations, edge: Edge, tenant: str) -> None:
    first = await operations.revoke(tenant, USER, "ann", 3_600)
    _, before = await read(edge, tenant)
    again = await operations.revoke(tenant, USER, "ann", 60)
    assert again.not_before > first.not_before
    assert again.expires_at == first.expires_at, "never shorter than promised"
    found, _ = await read(edge, tenant, before)
    assert [one.value for one in found] == ["ann"]


async def test_long_lists_come_in_pages(
    operations: Operations, edge: Edge, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.edge.REVOCATIONS_REPLY_COUNT_MAX", 2)
    _, before = await read(edge, tenant)
    for number in range(5):
        await operations.revoke(tenant, JTI, f"t{number}", 60)
    reply = await edge.snapshot(EdgeRequest(0, before))
    assert ([one.value for one in reply.revocations], reply.more) == (["t0", "t1"], True)
    found, _ = await read(edge, tenant, before)
    assert [one.value for one in found] == [f"t{number}" for number in range(5)]


async def test_expired_ones_are_not_told_and_go(operations: Operations, edge: Edge, lab: Lab, tenant: str) -> None:
    await operations.revoke(tenant, JTI, "old", 60)
    await lab.owner.execute(
        "UPDATE revocations SET expires_at = now() - interval '1 s' WHERE tenant_id = $1", tenant
    )
    assert (await read(edge, tenant))[0] == []
    await operations.revoke(tenant, JTI, "new", 60)
    rows = await lab.rows("SELECT value FROM revocations WHERE tenant_id = $1", tenant)
    assert rows == [{"value": "new"}]


async def test_a_tenant_has_so_many_and_then_all_of_it_can_be_revoked(
    operations: Operations, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.operations.REVOCATIONS_COUNT_MAX", 2)
    for jti in ("t1", "t2", "t2"):
        await operations.revoke(tenant, JTI, jti, 60)
    with pytest.raises(InvalidInput, match="has 2 revocations; revoke all of its tokens instead"):
        await operations.revoke(tenant, JTI, "t3", 60)
    await operations.revoke(tenant, JTI, "t1", 60)
    await operations.revoke(tenant, TENANT, "", 60)


@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [(JTI, "", "jti"), (JTI, "x" * (JTI_BYTES_MAX + 1), "jti"), (JTI, "a\0b", "jti"), (JTI, "\ud800", "jti"),
     (USER, "a b", "user"), (USER, "", "user"), (TENANT, "x", "kind"), ("device", "x", "kind")],
)  # fmt: skip
async def test_what_cannot_be_revoked(
    operations: Operations, tenant: str, kind: str, value: str, field: str
) -> None:
    with pytest.raises(InvalidInput, match=field):
        await operations.revoke(tenant, kind, value)


async def test_a_tenant_that_does_not_exist(operations: Operations) -> None:
    with pytest.raises(InvalidInput, match="nobody does not exist"):
        await operations.revoke("nobody", TENANT, "")


async def until(event: asyncio.Event) -> None:
    async with asyncio.timeout(30):
        await event.wait()
    event.clear()


async def test_gateways_are_told_of_every_change_also_after_the_connection_broke(
    operations: Operations, lab: Lab, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.edge_hint.EDGE_HINT_CHECK_MS", 10**9)  # LISTEN stays the connection's last query
    hub = Hub()
    heard = asyncio.Event()

    async def hear(subject: str, payload: bytes) -> None:
        heard.set()

    await MemoryBus(hub).serve(EDGE_CHANGED, hear)
    async with following(EdgeHint(lab.pools["inbox"], MemoryBus(hub))):
        await told_of_every_change(heard, operations, lab, tenant)


@contextlib.asynccontextmanager
async def following(hint: EdgeHint) -> AsyncIterator[None]:
    running = asyncio.create_task(hint.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def told_of_every_change(heard: asyncio.Event, operations: Operations, lab: Lab, tenant: str) -> None:
    await until(heard)  # it listens
    await operations.revoke(tenant, JTI, "t1", 60)
    await until(heard)
    await operations.create_tenant(tenant + "-more", "More", [], [])
    await until(heard)
    ended = await lab.owner.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1 AND query LIKE 'LISTEN%'",
        role_user("inbox"),
    )
    assert ended >= 1  # a whole system that runs beside has one too
    await until(heard)  # it listens again
    await operations.revoke(tenant, JTI, "t2", 60)
    await until(heard)
