"""A device comes back with its cursor, over the whole system: it gets exactly what it is owed.

Fills alone are in test_fill.py, one resume and a cursor of another log in test_route.py, a flushed Redis in
test_outage.py.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from devstack.secrets import make_issuer_key
from devstack.tenants import create_tenant
from notification.limits import OWED_ITEMS_MAX
from notification.names import presence_key, user_tag
from notification.settings import Settings
from tests.conftest import Mint
from tests.stack.lab import Lab, open_lab, open_redis
from tests.stack.route import WAIT_S, App, Upstream, status_becomes

pytestmark = pytest.mark.stack

_TEN_MINUTES_AGO = """
UPDATE notifications SET sent_at = sent_at - interval '10 minutes', expiry = expiry - interval '10 minutes',
    due_at = due_at - interval '10 minutes' WHERE tenant_id = $1
"""
_GATEWAYS = "SELECT count(DISTINCT gateway_id) FROM connections WHERE tenant_id = $1 AND entity_id = $2"


@pytest.fixture
async def upstream(system: Settings) -> AsyncIterator[Upstream]:
    async with Upstream(system) as producer:
        yield producer


@pytest.fixture
async def lab(system: Settings, tenant: str) -> AsyncIterator[Lab]:
    async with open_lab(system) as made:
        yield made


async def parked(system: Settings, upstream: Upstream, tenant: str, user: str, *priorities: str) -> list[str]:
    """One notification of each priority for a user who is away."""
    sent = [await upstream.send(tenant, user, priority, priority=priority) for priority in priorities]
    await asyncio.gather(*(status_becomes(system, tenant, ident, "PARKED") for ident in sent))
    return sent


async def owed(app: App) -> list[str]:
    """Resume by cursor; the ids that came before `resumed`."""
    await app.open(cursor=True)
    await app.aclose()
    return ids(app.owed)


def ids(frames: list[dict[str, Any]]) -> list[str]:
    """In order, each once: what is unacked may be sent again at any time."""
    return list(dict.fromkeys(frame["id"] for frame in frames))


async def test_before_the_first_notification(system: Settings, tenant: str, mint: Mint, upstream: Upstream) -> None:
    app = await App(system, mint(tenant, "ann"), "phone").open()
    await app.aclose()
    assert await owed(app) == []
    sent = await parked(system, upstream, tenant, "ann", "medium")
    assert await owed(app) == sent
    assert app.welcome["recovered"] is True


async def test_again_and_again_on_every_gateway_process(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream, lab: Lab
) -> None:
    sent = await parked(system, upstream, tenant, "bob", "high", "low")
    app = App(system, mint(tenant, "bob"), "phone")
    await app.open()
    await app.aclose()
    assert sorted(ids(app.owed)) == sorted(sent)
    await asyncio.gather(*(status_becomes(system, tenant, ident, "DELIVERED") for ident in sent))
    async with asyncio.timeout(2 * WAIT_S):
        while await lab.owner.fetchval(_GATEWAYS, tenant, "bob") < system.gateway_processes:
            for _ in range(10):
                assert await owed(app) == []
                assert app.welcome["recovered"] is True


async def test_a_cursor_ahead_of_the_log_gets_a_snapshot(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    sent = await parked(system, upstream, tenant, "cy", "high")
    app = await App(system, mint(tenant, "cy"), "phone").open(ack=False)
    await app.aclose()
    app.at["direct.high"] = 99
    assert await owed(app) == sent
    assert app.welcome["recovered"] is False
    assert app.resumed["recovered"] is False
    assert app.resumed["at"]["direct.high"] == 1


async def test_a_recalled_one_amid_a_lane_fills_as_nothing(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream, lab: Lab
) -> None:
    app = await App(system, mint(tenant, "di"), "phone").open()
    await app.aclose()
    first, gone, last = await parked(system, upstream, tenant, "di", "high", "high", "high")
    await lab.owner.execute(
        "UPDATE notifications SET recalled_at = now(), status = 'CANCELLED', rank = 2, due_at = NULL "
        "WHERE tenant_id = $1 AND notification_id = $2", tenant, gone,
    )  # fmt: skip
    assert await owed(app) == [first, last]
    assert app.welcome["recovered"] is True
    assert app.resumed["at"]["direct.high"] == 3


async def test_a_low_one_that_a_high_one_overtook_still_comes(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    """The device was cut off with the HIGH one in hand and the LOW ones, stored before it, not."""
    low = await parked(system, upstream, tenant, "flo", "low", "low", "low")
    high = await parked(system, upstream, tenant, "flo", "high")
    app = await App(system, mint(tenant, "flo"), "phone").open(ack=False)
    assert ids(app.owed) == high + low
    await app.ack(app.owed[0])
    await app.aclose()
    await status_becomes(system, tenant, high[0], "DELIVERED")
    app.at = {"direct.high": 1, "direct.low": 1}
    async with contextlib.aclosing(await app.open(cursor=True)):
        lows = [frame for frame in app.owed if frame["lane"] == "direct.low" and frame["seq"] > 1]
        assert ids(lows) == low[1:]
        assert high[0] not in ids(app.owed)
        assert app.welcome["recovered"] is True


async def test_a_cursor_of_another_user_or_tenant_gets_a_snapshot(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    """An app that mixes up its accounts: the other one's numbers would be good here, and skip what is owed."""
    other = f"{tenant}o"
    make_issuer_key(system, other)
    await create_tenant(system, other)
    sent = await parked(system, upstream, tenant, "gil", "high", "high", "low")
    for its_tenant, user in ((tenant, "hal"), (other, "gil")):
        await parked(system, upstream, its_tenant, user, "high", "high")
        theirs = await App(system, mint(its_tenant, user), "phone").open()
        await theirs.aclose()
        assert theirs.at["direct.high"] == 2
        app = App(system, mint(tenant, "gil"), "phone")
        app.epoch, app.at = theirs.epoch, dict(theirs.at)
        await app.open(cursor=True, ack=False)
        await app.aclose()
        assert (app.welcome["recovered"], app.resumed["recovered"]) == (False, False)
        assert ids(app.owed) == sent
        assert await owed(app) == [], "its own cursor counts from then on"
        assert app.welcome["recovered"] is True


async def test_after_ten_minutes(system: Settings, tenant: str, mint: Mint, upstream: Upstream, lab: Lab) -> None:
    """As they leave it: its presence is gone, its token is over, what had five minutes to live is too."""
    app = await App(system, mint(tenant, "ivy"), "phone").open()
    before = await upstream.send(tenant, "ivy", "before")
    assert (await app.notification())["id"] == before
    await status_becomes(system, tenant, before, "DELIVERED")
    app.socket.transport.abort()
    brief = await upstream.send(tenant, "ivy", "brief", ttl=300)
    sent = await parked(system, upstream, tenant, "ivy", "high", "medium", "high")
    await status_becomes(system, tenant, brief, "PARKED")
    await lab.owner.execute(_TEN_MINUTES_AGO, tenant)
    async with open_redis(system) as redis:
        await redis.delete(presence_key(user_tag(tenant, "ivy")))
    await status_becomes(system, tenant, brief, "EXPIRED")
    over = App(system, mint(tenant, "ivy", exp=int(time.time()) - 60), "phone")
    with pytest.raises(InvalidStatus):
        await over.open()
    app.renew(mint(tenant, "ivy"))
    assert await owed(app) == [sent[0], sent[2], sent[1]]
    assert app.welcome["recovered"] is True
    assert app.resumed["at"]["direct.high"] == 4
    assert app.resumed["counters"]["unread"] == 4, "all but the brief one; DELIVERED is not read"


async def test_a_thousand_owed_with_gaps_and_one_more(system: Settings, tenant: str, mint: Mint, lab: Lab) -> None:
    """Every fifth one expired meanwhile: a thousand are left, of the second user one more."""
    stored = OWED_ITEMS_MAX * 5 // 4
    for user, expired, recovered in (("jo", stored // 5, True), ("kim", stored // 5 - 1, False)):
        app = await App(system, mint(tenant, user), "phone").open()
        await app.aclose()
        sent = await lab.store_many(tenant, user, stored)
        gone = [one.id for one in sent[4::5]][:expired]
        await lab.owner.execute(
            "UPDATE notifications SET expiry = now() WHERE tenant_id = $1 AND notification_id = ANY($2)",
            tenant,
            gone,
        )
        assert await owed(app) == [str(one.id) for one in sent if one.id not in set(gone)]
        assert app.welcome["recovered"] is recovered
        assert app.resumed["at"]["direct.high"] == stored
