"""Notifications to audiences over the whole running system: one event, one row, and everybody it is for has it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest

from devstack.secrets import make_issuer_key
from devstack.tenants import create_tenant
from notification import batch, names
from notification.ids import new_uuid7
from notification.settings import Settings
from tests.conftest import Mint
from tests.stack.lab import Lab, open_lab
from tests.stack.route import WAIT_S, App, Upstream
from worker.operations import Operations

pytestmark = pytest.mark.stack

MEMBERS = [f"m{number:04}" for number in range(1_500)]
CONNECTIONS_MAX = 40  # the kernel spreads connects over two processes: one alone gets all with odds of 1 in 2^39
_GATEWAYS = "SELECT count(DISTINCT gateway_id) FROM connections WHERE tenant_id = $1"
_STATES = "SELECT entity_id, status FROM audience_state WHERE tenant_id = $1 AND notification_id = $2"
_HISTORY = "SELECT entity_id, status FROM notification_history WHERE tenant_id = $1 AND notification_id = $2"


@pytest.fixture
async def upstream(system: Settings) -> AsyncIterator[Upstream]:
    async with Upstream(system) as producer:
        yield producer


@pytest.fixture
async def lab(system: Settings, tenant: str) -> AsyncIterator[Lab]:
    async with open_lab(system) as made:
        yield made


@pytest.fixture
async def vip(system: Settings, tenant: str) -> None:
    """Segment vip, of MEMBERS."""
    operations = await Operations.connect(system)
    await operations.segments.create(tenant, "vip")
    await operations.segments.add(tenant, "vip", MEMBERS)
    await operations.close()


@pytest.fixture
async def closing() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as stack:
        yield stack


async def send(upstream: Upstream, tenant: str, **fields: Any) -> str:
    """One event of priority high to an audience."""
    event = {
        "id": str(new_uuid7()), "tenant_id": tenant, "type": "service", "payload": {"title": "T", "body": "B"},
    } | fields  # fmt: skip
    await upstream.send_raw("high", names.audience_record_key(tenant), json.dumps(event).encode())
    return str(event["id"])


async def opened(
    system: Settings, mint: Mint, closing: contextlib.AsyncExitStack, tenant: str, user: str, device: str = "phone"
) -> App:
    app = await App(system, mint(tenant, user), device).open()
    closing.push_async_callback(app.aclose)
    return app


async def until(lab: Lab, statement: str, *values: Any, holds: Any) -> None:
    """Wait until the rows are what `holds` accepts."""
    rows: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                rows = await lab.rows(statement, *values)
                if holds(rows):
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{rows} after {WAIT_S} s") from None


async def spread(
    system: Settings, mint: Mint, closing: contextlib.AsyncExitStack, tenant: str, lab: Lab, users: list[str]
) -> dict[str, App]:
    """Connections of these users, one after the other, until both gateway processes hold some."""
    apps: dict[str, App] = {}
    for user in users[:CONNECTIONS_MAX]:
        apps[user] = await opened(system, mint, closing, tenant, user)
        count = len(apps)
        await until(
            lab,
            "SELECT 1 FROM connections WHERE tenant_id = $1",
            tenant,
            holds=lambda rows, n=count: len(rows) >= n,
        )
        if count >= 4 and await lab.owner.fetchval(_GATEWAYS, tenant) >= 2:
            return apps
    raise AssertionError("one process has all connections")


async def test_a_segments_goes_live_to_its_members_on_every_process_and_to_nobody_else(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream, lab: Lab, vip: None,
    closing: contextlib.AsyncExitStack,
) -> None:  # fmt: skip
    other = f"{tenant}-o"
    make_issuer_key(system, other)
    await create_tenant(system, other)
    apps = await spread(system, mint, closing, tenant, lab, MEMBERS)
    stranger = await opened(system, mint, closing, tenant, "stranger")
    foreign = await opened(system, mint, closing, other, MEMBERS[0])
    bus = await nats.connect(system.nats_url)
    closing.push_async_callback(bus.close)
    heard = await bus.subscribe(names.audience_subjects(tenant))
    await bus.flush()
    ident = await send(upstream, tenant, segment_id="vip")
    for app in apps.values():
        frame = await app.notification()
        assert (frame["id"], frame["lane"], frame["seq"]) == (ident, "audience.high", 1)
    # After it in time: so it would have come before.
    for app, of, user in ((stranger, tenant, "stranger"), (foreign, other, MEMBERS[0])):
        after = await upstream.send(of, user, "direct")
        assert (await app.notification())["id"] == after
    async with asyncio.timeout(WAIT_S):
        while (item := batch.unpack((await heard.next_msg(WAIT_S)).data)[1][0]).kind != batch.AUDIENCE:
            pass
    assert (item.seq, item.attempt) == (1, 0), "one message, whoever many they are"
    assert len(await lab.rows("SELECT 1 FROM notifications WHERE tenant_id = $1 AND lane > 2", tenant)) == 1
    await until(
        lab, _STATES, tenant, ident,
        holds=lambda rows: {row["entity_id"]: row["status"] for row in rows} == dict.fromkeys(apps, "DELIVERED"),
    )  # fmt: skip
    written = {(row["entity_id"], row["status"]) for row in await lab.rows(_HISTORY, tenant, ident)}
    assert written == {("segment:vip", "ACCEPTED"), *((user, "DELIVERED") for user in apps)}
    late = await opened(system, mint, closing, tenant, MEMBERS[-1])
    assert [frame["id"] for frame in late.owed] == [ident]
    assert late.resumed["at"]["audience.high"] == 1


async def test_a_tenant_wide_one_is_everybodys_and_each_reads_it_alone(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream, lab: Lab, closing: contextlib.AsyncExitStack
) -> None:
    ann, anns, bob = [
        await opened(system, mint, closing, tenant, user, device)
        for user, device in (("ann", "phone"), ("ann", "laptop"), ("bob", "phone"))
    ]
    first = await send(upstream, tenant, audience="tenant", type="system_alert")
    for app in (ann, anns, bob):
        assert (await app.notification())["id"] == first
    await ann.send({"t": "state", "ids": [first], "to": "read"})
    for app in (ann, anns):
        frame = await app.frame("state")
        assert (frame["ids"], frame["to"], frame["unread"]) == ([first], "read", 0)
    second = await send(upstream, tenant, audience="tenant")
    for app in (ann, anns, bob):
        while (ident := (await app.notification())["id"]) != second:
            assert ident == first, "what was not acknowledged yet may come again"
    late = await opened(system, mint, closing, tenant, "late")
    assert [frame["id"] for frame in late.owed] == [first, second]
    again = await opened(system, mint, closing, tenant, "ann", "tablet")
    assert [frame["id"] for frame in again.owed] == [second]
    await until(
        lab, _STATES, tenant, first,
        holds=lambda rows: {row["entity_id"]: row["status"] for row in rows}
        == {"ann": "READ", "bob": "DELIVERED", "late": "DELIVERED"},
    )  # fmt: skip


async def test_one_that_expired_is_shown_to_nobody_any_more(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream, lab: Lab, closing: contextlib.AsyncExitStack
) -> None:
    ident = await send(upstream, tenant, audience="tenant", ttl=1)
    await until(
        lab, "SELECT status FROM notifications WHERE tenant_id = $1 AND lane > 2", tenant,
        holds=lambda rows: [row["status"] for row in rows] == ["EXPIRED"],
    )  # fmt: skip
    late = await opened(system, mint, closing, tenant, "late")
    assert (late.owed, late.resumed["at"]["audience.high"]) == ([], 1)
    assert {row["status"] for row in await lab.rows(_HISTORY, tenant, ident)} == {"ACCEPTED", "EXPIRED"}
