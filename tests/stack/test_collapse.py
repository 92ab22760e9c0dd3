"""Collapse keys on real PostgreSQL: of one key only the newest waits."""

import uuid
from collections.abc import AsyncIterator

import pytest

from notification.codes import Status, StatusCode
from notification.settings import Settings
from tests.stack.inboxes import World, ids, open_world
from worker.release import release
from worker.scheduler import Scheduler
from worker.store import StoredNotification
from worker.sweeper import Sweeper
from worker.transitions import DatabaseJournal, Transition

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_world(servers, tenant) as made:
        yield made


async def one(
    world: World, key: str | None = "order-7", user: str = "ann", priority: int = 0
) -> StoredNotification:
    [stored] = await world.lab.store(world.tenant, user, priority=priority, collapse_key=key)
    return stored


async def collapsed(world: World, ident: uuid.UUID) -> bool:
    row = await world.lab.row(world.tenant, ident)
    if row["status"] != "COLLAPSED":
        return False
    assert (row["rank"], row["status_code"], row["due_at"]) == (2, 420, None)
    assert (await world.lab.history(world.tenant, ident))[-1] == "COLLAPSED"
    return True


async def test_only_the_newest_waits_for_an_absent_client(world: World) -> None:
    journal = DatabaseJournal(world.lab.pools["dispatch"])
    sent = []
    for _ in range(5):
        sent.append(await one(world))
        await journal.record([Transition(sent[-1], Status.PARKED, StatusCode.PARKED_OFFLINE, 0, 10_000)])
    assert [await collapsed(world, stored.id) for stored in sent] == [True] * 4 + [False]
    assert await world.lab.history(world.tenant, sent[0].id) == ["ACCEPTED", "PARKED", "COLLAPSED"]
    reply = await world.fill()
    assert (ids(reply), reply.counters.unread, reply.at[0]) == ([sent[4].id.bytes], 1, sent[4].seq)
    assert reply.items[0].prev == sent[3].seq
    resumed = await world.resume({"direct.high": sent[1].seq})
    assert (resumed.recovered, ids(resumed)) == (True, [sent[4].id.bytes])
    assert len((await world.page()).items) == 1


async def test_of_one_batch_the_last_is_left(world: World) -> None:
    old = await one(world)
    batch = await world.lab.store(world.tenant, ["ann", "bob", "ann", "ann"], collapse_key="order-7")
    assert [(stored.user, stored.seq) for stored in batch] == [("bob", 1), ("ann", 4)]
    assert await collapsed(world, old.id)
    reply = await world.fill()
    assert (ids(reply), reply.counters.unread, reply.at[0]) == ([batch[1].id.bytes], 1, 4)
    rows = await world.lab.rows(
        "SELECT status, status_code FROM notification_history WHERE tenant_id = $1 AND entity_id = 'ann' "
        "ORDER BY history_id", world.tenant,
    )  # fmt: skip
    assert [row["status_code"] for row in rows] == [100, 420, 420, 420, 100]


async def test_a_key_is_of_one_user_and_of_all_priorities(world: World) -> None:
    low, bobs = await one(world, priority=2), await one(world, user="bob")
    other, none = await one(world, key="order-8"), await one(world, key=None)
    high = await one(world, priority=0)
    assert await collapsed(world, low.id)
    for stored, user in ((bobs, "bob"), (other, "ann"), (none, "ann"), (high, "ann")):
        assert (await world.lab.row(world.tenant, stored.id, user))["status"] == "ACCEPTED"
    assert {item.id for item in (await world.fill()).items} == {other.id.bytes, none.id.bytes, high.id.bytes}


@pytest.mark.parametrize("ended", ["DELIVERED', rank = 3", "READ', rank = 4", "EXPIRED', rank = 2"])
async def test_what_has_come_to_an_end_stays_as_it_is(world: World, ended: str) -> None:
    first = await one(world)
    await world.lab.change(world.tenant, first.id, f"status = '{ended}, due_at = NULL")
    await one(world)
    assert (await world.lab.row(world.tenant, first.id))["status"] == ended.partition("'")[0]


async def test_it_is_not_sent_back_to_flight_and_a_late_ack_counts(world: World) -> None:
    first = await one(world)
    second = await one(world)
    pool = world.lab.pools["dispatch"]
    journal, scheduler = DatabaseJournal(pool), Scheduler()
    await journal.record([Transition(first, Status.DISPATCHED, StatusCode.SENT, 1, 5_000)])
    await journal.record([Transition(first, Status.PARKED, StatusCode.PARKED_OFFLINE, 1, 5_000)])
    row = await world.lab.row(world.tenant, first.id)
    assert (row["status"], row["due_at"]) == ("COLLAPSED", None)
    await world.lab.only_due(world.tenant)
    await world.lab.change(world.tenant, second.id, "due_at = now()")
    await Sweeper(pool, world.lab.dispatch_ring, scheduler, journal).sweep()
    jobs = await scheduler.take(1_000)
    assert [job.notification.id for job in jobs if job.notification.tenant == world.tenant] == [second.id]


async def test_a_scheduled_one_takes_part_when_its_time_has_come(world: World) -> None:
    later_ms = await world.lab.now_ms() + 60_000
    await world.lab.store(world.tenant, ["ann", "ann"], collapse_key="order-7", not_before_ms=later_ms)
    waiting = await one(world)
    scheduled = await world.lab.rows(
        "SELECT * FROM notifications WHERE tenant_id = $1 AND not_before IS NOT NULL ORDER BY seq", world.tenant
    )
    assert [row["status"] for row in scheduled] == ["ACCEPTED", "ACCEPTED"], "nothing replaces it before"
    rows = await world.lab.owner.fetch(
        "SELECT * FROM notifications WHERE tenant_id = $1 AND not_before IS NOT NULL ORDER BY seq", world.tenant
    )
    [released] = await release(world.lab.pools["dispatch"], rows)
    assert released["notification_id"] == scheduled[1]["notification_id"]
    assert await collapsed(world, waiting.id)
    assert await collapsed(world, scheduled[0]["notification_id"])
    assert ids(await world.fill()) == [released["notification_id"].bytes]


async def test_what_a_user_does_not_want_replaces_nothing(world: World) -> None:
    first = await one(world)
    await world.lab.owner.execute(
        "UPDATE user_state SET preferences = $2 WHERE tenant_id = $1",
        world.tenant,
        '{"types":{"promotional":false}}',
    )
    assert await world.lab.store(world.tenant, "ann", type="promotional", collapse_key="order-7") == []
    assert (await world.lab.row(world.tenant, first.id))["status"] == "ACCEPTED"
