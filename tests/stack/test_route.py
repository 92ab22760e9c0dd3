"""The whole route on real servers: Kafka to a client of the `websockets` library and its ack back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from websockets.exceptions import InvalidStatus

from devstack.secrets import make_issuer_key
from devstack.tenants import create_tenant
from notification.settings import Settings
from tests.conftest import Mint
from tests.stack.route import App, Upstream, history_holds, status_becomes

pytestmark = pytest.mark.stack


@pytest.fixture
async def upstream(system: Settings) -> AsyncIterator[Upstream]:
    async with Upstream(system) as producer:
        yield producer


async def test_a_notification_reaches_the_client_and_its_ack_the_database(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    async with contextlib.aclosing(await App(system, mint(tenant, "ann"), "phone").open()) as app:
        assert app.welcome["recovered"] is True
        ident = await upstream.send(tenant, "ann", "Hello", ttl=600)
        frame = await app.notification()
        assert frame["id"] == ident
        assert (frame["lane"], frame["seq"], frame["priority"]) == ("direct.high", 1, "high")
        assert frame["p"] == {"title": "Hello", "body": "b"}
        assert frame["expires_at"] - frame["sent_at"] == 600_000
    await history_holds(system, tenant, ident, "ACCEPTED", "DISPATCHED", "DELIVERED")
    await status_becomes(system, tenant, ident, "DELIVERED")


async def test_an_absent_user_finds_it_on_the_next_connect(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    ident = await upstream.send(tenant, "bob|x@y", "While away", priority="low")
    await status_becomes(system, tenant, ident, "PARKED")
    async with contextlib.aclosing(await App(system, mint(tenant, "bob|x@y"), "phone").open()) as app:
        assert [frame["id"] for frame in app.owed] == [ident]
        assert app.resumed["counters"]["unread"] == 1
    await history_holds(system, tenant, ident, "PARKED", "DELIVERED")


async def test_both_devices_get_it_and_reading_reaches_both(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    token = mint(tenant, "cy")
    async with (
        contextlib.aclosing(await App(system, token, "phone").open()) as phone,
        contextlib.aclosing(await App(system, token, "laptop").open()) as laptop,
    ):
        ident = await upstream.send(tenant, "cy", "Both")
        assert (await phone.notification())["id"] == ident
        assert (await laptop.notification())["id"] == ident
        await phone.send({"t": "state", "ids": [ident], "to": "read"})
        for app in (phone, laptop):
            state = await app.frame("state")
            assert (state["ids"], state["to"], state["unread"]) == ([ident], "read", 0)
    await history_holds(system, tenant, ident, "DISPATCHED", "READ")
    await status_becomes(system, tenant, ident, "READ")


async def test_resume_by_cursor_brings_exactly_what_the_device_missed(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    token = mint(tenant, "di")
    phone = await App(system, token, "phone").open()
    first = await upstream.send(tenant, "di", "1")
    assert (await phone.notification())["id"] == first
    await phone.aclose()
    async with contextlib.aclosing(await App(system, token, "laptop").open()) as laptop:
        missed = [
            await upstream.send(tenant, "di", str(n), priority=p) for n, p in ((2, "high"), (3, "low"), (4, "high"))
        ]
        for _ in missed:
            await laptop.notification()  # DELIVERED by this device; the phone is owed them all the same
        await asyncio.gather(*(status_becomes(system, tenant, ident, "DELIVERED") for ident in missed))
    await phone.open(cursor=True)
    assert phone.welcome["recovered"] is True
    assert sorted(frame["id"] for frame in phone.owed) == sorted(missed)
    assert phone.resumed["at"]["direct.high"] == 3
    await phone.aclose()
    await phone.open(cursor=True)
    assert phone.owed == []
    await phone.aclose()


async def test_a_cursor_of_another_log_is_answered_with_a_snapshot(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    ident = await upstream.send(tenant, "ed", "kept")
    await status_becomes(system, tenant, ident, "PARKED")
    app = App(system, mint(tenant, "ed"), "phone")
    app.epoch, app.at = 987_654, {"direct.high": 1}
    await app.open(cursor=True)
    assert app.welcome["recovered"] is False
    assert [frame["id"] for frame in app.owed] == [ident]
    await app.aclose()


async def test_more_than_a_window_flows_as_acks_free_it(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    sent = [await upstream.send(tenant, "flo", str(n)) for n in range(400)]
    await status_becomes(system, tenant, sent[-1], "PARKED")
    async with contextlib.aclosing(await App(system, mint(tenant, "flo"), "phone").open()) as app:
        assert [frame["id"] for frame in app.owed] == sent
        assert [frame["seq"] for frame in app.owed] == list(range(1, 401))


async def test_a_burst_keeps_the_order_of_its_lane(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    async with contextlib.aclosing(await App(system, mint(tenant, "gus"), "phone").open()) as app:
        sent = [await upstream.send(tenant, "gus", str(n)) for n in range(600)]
        received: list[str] = []
        while len(received) < len(sent):
            ident = (await app.notification())["id"]
            if ident not in received:  # on a busy machine an ack may take longer than the first retry
                received.append(ident)
        assert received == sent


async def test_without_an_ack_it_is_sent_again(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    async with contextlib.aclosing(await App(system, mint(tenant, "hal"), "phone").open()) as app:
        ident = await upstream.send(tenant, "hal", "again")
        first = await app.notification(ack=False)
        second = await app.notification()
        assert first == second
        assert first["id"] == ident
    await history_holds(system, tenant, ident, "DISPATCHED", "DISPATCHED", "DELIVERED")


async def test_a_lost_ack_is_asked_for_again_although_the_cursor_covers_it(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream
) -> None:
    app = await App(system, mint(tenant, "lou"), "phone").open()
    ident = await upstream.send(tenant, "lou", "kept, ack lost")
    assert (await app.notification(ack=False))["id"] == ident
    await app.aclose()
    await app.open(cursor=True)
    assert app.owed == []
    assert (await app.notification())["id"] == ident
    await app.aclose()
    await status_becomes(system, tenant, ident, "DELIVERED")


async def test_an_expired_one_is_never_shown(system: Settings, tenant: str, mint: Mint, upstream: Upstream) -> None:
    ident = await upstream.send(tenant, "ida", "brief", ttl=1)
    await status_becomes(system, tenant, ident, "EXPIRED")
    async with contextlib.aclosing(await App(system, mint(tenant, "ida"), "phone").open()) as app:
        assert app.owed == []
        assert app.resumed["counters"]["unread"] == 0


@pytest.mark.parametrize(
    "claims",
    [{"exp": 1}, {"aud": "other"}, {"iss": "herald:demo"}, {"jti": None}, {"sub": "with space"}, {"tid": "demo"}],
    ids=lambda claims: next(iter(claims)),
)
async def test_a_bad_token_is_refused_before_the_upgrade(
    system: Settings, tenant: str, mint: Mint, claims: dict[str, object]
) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        await App(system, mint(tenant, "joe", **claims), "phone").open()
    assert refusal.value.response.status_code == 401
    assert refusal.value.response.body == b'{"error":"token"}\n'


async def test_tenants_do_not_meet(system: Settings, tenant: str, mint: Mint, upstream: Upstream) -> None:
    """The same user name in another tenant sees nothing of it."""
    other = tenant + "b"
    make_issuer_key(system, other)
    await create_tenant(system, other)
    async with (
        contextlib.aclosing(await App(system, mint(tenant, "kim"), "phone").open()) as mine,
        contextlib.aclosing(await App(system, mint(other, "kim"), "phone").open()) as foreign,
    ):
        ident = await upstream.send(tenant, "kim", "private")
        assert (await mine.notification())["id"] == ident
        theirs = await upstream.send(other, "kim", "other")
        assert (await foreign.notification())["id"] == theirs
