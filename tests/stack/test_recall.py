"""worker/recall.py on real PostgreSQL: what is taken back is sent no more and hidden, whatever comes later."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from notification import batch, frames
from notification.codes import Status, StatusCode
from notification.ids import new_uuid7
from notification.messages import AckReceipt, Failure, RecallReply, RecallRequest, ReceiptsEntry
from notification.names import gateway_subject, user_tag
from notification.settings import Settings
from tests.stack.inboxes import World, open_world
from tests.stack.lab import open_redis
from worker import operations
from worker.partitions import Partitions
from worker.receipts import Receipts, Received
from worker.release import release
from worker.scheduler import Scheduler
from worker.store import StoredNotification
from worker.sweeper import Sweeper
from worker.transitions import DatabaseJournal, Postponement, Transition

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_world(servers, tenant) as made:
        yield made


async def recalled(world: World, sent: StoredNotification, user: str = "") -> RecallReply:
    reply = await world.ask(RecallRequest(world.tenant, sent.id.bytes, user))
    assert isinstance(reply, RecallReply), reply
    return reply


async def shown(world: World, user: str = "ann") -> tuple[int, int, int]:
    """How many are owed, on a page, and counted as unread."""
    fill, page = await world.fill(user), await world.page(user=user)
    assert fill.counters == page.counters
    return len(fill.items), len(page.items), fill.counters.unread


async def delivered(world: World, servers: Settings, *sent: StoredNotification) -> None:
    """The ack of a device, as role receipts stores it."""
    acks = [AckReceipt(one.tenant, one.user, "phone", one.lane, one.seq, one.id.bytes, 1) for one in sent]
    pool = world.lab.pools["receipts"]
    async with open_redis(servers) as redis:
        entry = ReceiptsEntry(f"g-{new_uuid7()}", 1, acks, [])
        await Receipts(redis, pool, Partitions(pool), "test").store([Received(b"1-1", entry)])


async def test_before_its_delivery_it_is_cancelled_and_owed_to_nobody(world: World) -> None:
    first, second = await world.several(2)
    before = await world.fill()
    assert await recalled(world, second) == RecallReply(1, known=True, more=False)
    row = await world.lab.row(world.tenant, second.id)
    assert (row["status"], row["rank"], row["status_code"], row["due_at"]) == ("CANCELLED", 2, 410, None)
    assert row["recalled_at"] is not None
    assert await world.lab.history(world.tenant, second.id) == ["ACCEPTED", "CANCELLED"]
    after = await world.fill()
    assert [item.id for item in after.items] == [first.id.bytes]
    assert after.at == before.at, "its place in the lane is passed as nothing"
    assert (after.counters.unread, after.counters.rev) == (1, before.counters.rev + 1)
    assert row["rev"] == after.counters.rev
    resumed = await world.resume({"direct.high": first.seq})
    assert (resumed.recovered, resumed.items, resumed.at[0]) == (True, [], second.seq)


async def test_after_its_delivery_devices_are_told_and_it_is_gone_everywhere(
    world: World, servers: Settings
) -> None:
    [sent] = await world.several(1)
    await delivered(world, servers, sent)
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def gateway(_subject: str, message: bytes) -> None:
        heard.put_nowait(message)

    for name in ("g1", "g2"):
        await world.gateway.serve(gateway_subject(name, "high"), gateway)
        world.presence.online(user_tag(world.tenant, "ann"), name, device=name)
    assert await shown(world) == (1, 1, 1)
    await recalled(world, sent)
    assert await shown(world) == (0, 0, 0)
    row = await world.lab.row(world.tenant, sent.id)
    assert (row["status"], row["rank"], row["status_code"]) == ("DELIVERED", 3, 500), "what happened stays true"
    assert await world.lab.history(world.tenant, sent.id) == ["ACCEPTED", "DELIVERED", "CANCELLED"]
    for _ in range(2):
        _database_ms, [item] = batch.unpack(await asyncio.wait_for(heard.get(), 30))
        assert (item.kind, item.tag.decode()) == (batch.CONTROL, user_tag(world.tenant, "ann"))
        assert frames.decode_server(item.body) == frames.StateFrame([str(sent.id)], "recalled", row["rev"], 0)


async def test_a_late_ack_is_noted_and_shows_nothing(world: World, servers: Settings) -> None:
    [sent] = await world.several(1)
    await recalled(world, sent)
    await delivered(world, servers, sent)
    assert (await world.lab.row(world.tenant, sent.id))["status"] == "DELIVERED"
    assert await world.lab.history(world.tenant, sent.id) == ["ACCEPTED", "CANCELLED", "DELIVERED"]
    assert await shown(world) == (0, 0, 0)
    assert (await world.resume({"direct.high": 0})).items == []


async def test_no_mark_brings_it_back(world: World) -> None:
    [sent] = await world.several(1)
    await world.mark("archived", sent)
    await recalled(world, sent)
    for to in ("unarchived", "read", "unread"):
        await world.mark(to, sent)
        assert await shown(world) == (0, 0, 0)


async def test_a_second_recall_changes_nothing(world: World) -> None:
    [sent] = await world.several(1)
    await recalled(world, sent)
    row = await world.lab.row(world.tenant, sent.id)
    assert await recalled(world, sent) == RecallReply(0, known=True, more=False)
    again = await world.lab.row(world.tenant, sent.id)
    assert {**again, "due_in_ms": None} == {**row, "due_in_ms": None}
    assert await world.lab.history(world.tenant, sent.id) == ["ACCEPTED", "CANCELLED"]
    assert (await world.fill()).counters.rev == row["rev"]


async def test_nobody_recalls_another_tenants(world: World) -> None:
    [sent] = await world.several(1)
    assert await world.ask(RecallRequest("demo", sent.id.bytes)) == RecallReply(0, known=False, more=False)
    assert await recalled(world, sent, user="bob") == RecallReply(0, known=False, more=False)
    assert await shown(world) == (1, 1, 1)


async def test_it_is_neither_swept_nor_sent_back_to_flight(world: World) -> None:
    queued, scheduled = await world.several(2)
    await world.lab.change(world.tenant, queued.id, "status = 'PARKED', rank = 1, due_at = now()")
    await world.lab.change(world.tenant, scheduled.id, "not_before = now(), due_at = now()")
    for one in (queued, scheduled):
        await recalled(world, one)
        assert (await world.lab.row(world.tenant, one.id))["due_at"] is None
    await world.lab.only_due(world.tenant)
    pool = world.lab.pools["dispatch"]
    journal, scheduler = DatabaseJournal(pool), Scheduler()
    await Sweeper(pool, world.lab.dispatch_ring, scheduler, journal).sweep()
    jobs = await scheduler.take(1_000) if len(scheduler) else []
    assert [job for job in jobs if job.notification.tenant == world.tenant] == []
    # What dispatch had in its hands when the recall came.
    await journal.record([Transition(queued, Status.DISPATCHED, StatusCode.SENT, 1, 5_000)])
    await journal.record([Transition(queued, Status.PARKED, StatusCode.PARKED_OFFLINE, 1, 5_000)])
    await journal.record([Postponement(queued, 1_000)])
    claimed = await world.lab.owner.fetch(
        "SELECT * FROM notifications WHERE tenant_id = $1 AND notification_id = $2", world.tenant, scheduled.id
    )
    assert await release(pool, claimed) == []
    for one in (queued, scheduled):
        row = await world.lab.row(world.tenant, one.id)
        assert (row["status"], row["due_at"]) == ("CANCELLED", None)
    assert await shown(world) == (0, 0, 0)


async def test_from_many_users_in_parts_and_from_one_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.recall.RECALL_USERS_COUNT_MAX", 3)
    ident = new_uuid7(await world.lab.now_ms())
    users = [f"u{number}" for number in range(7)]
    await world.lab.store(world.tenant, users, ids=iter([ident] * 7))
    assert await operations.recall(world.gateway, world.tenant, ident, "u3") == (1, True)
    assert await shown(world, "u3") == (0, 0, 0)
    assert await shown(world, "u4") == (1, 1, 1)
    assert await operations.recall(world.gateway, world.tenant, ident) == (6, True)
    assert [await shown(world, user) for user in users] == [(0, 0, 0)] * 7
    assert await operations.recall(world.gateway, world.tenant, ident) == (0, True)
    assert await operations.recall(world.gateway, world.tenant, new_uuid7()) == (0, False)


@pytest.mark.parametrize("ident", [b"short", bytes(16)])
async def test_an_id_that_no_notification_can_have_is_refused(world: World, ident: bytes) -> None:
    assert await world.ask(RecallRequest(world.tenant, ident)) == Failure("bad_frame")
