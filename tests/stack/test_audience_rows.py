"""Notifications to audiences on real PostgreSQL: one row each, and what every user sees of it."""

import dataclasses
import itertools
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from devstack.secrets import make_issuer_key
from devstack.tenants import create_tenant
from notification import frames
from notification.codes import LANE_COUNT
from notification.ids import TENANT, new_uuid7
from notification.messages import AckReceipt, RecallReply, RecallRequest, ReceiptsEntry, StateRequest
from notification.settings import Settings
from tests.stack.inboxes import World, ids, open_world
from tests.stack.lab import event, open_redis
from worker import recall
from worker.admission import Reason
from worker.operations import Operations
from worker.partitions import Partitions
from worker.receipts import Receipts, Received
from worker.scheduler import Scheduler
from worker.store import Outcome, StoredNotification
from worker.sweeper import Sweeper
from worker.transitions import DatabaseJournal

pytestmark = pytest.mark.stack

VIP = "segment:vip"


@pytest.fixture
async def world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_world(servers, tenant) as made:
        yield made


@pytest.fixture
async def operations(servers: Settings) -> AsyncIterator[Operations]:
    made = await Operations.connect(servers)
    yield made
    await made.close()


async def vip(world: World, operations: Operations, *users: str) -> None:
    await operations.segments.create(world.tenant, "vip")
    await operations.segments.add(world.tenant, "vip", users)


async def sent(world: World, audience: str = TENANT, **fields: Any) -> StoredNotification:
    [one] = await world.lab.store(world.tenant, audience, **fields)
    return one


async def acked(world: World, servers: Settings, user: str, *notifications: StoredNotification) -> None:
    acks = [AckReceipt(one.tenant, user, "phone", one.lane, one.seq, one.id.bytes, 1) for one in notifications]
    pool = world.lab.pools["receipts"]
    async with open_redis(servers) as redis:
        entry = ReceiptsEntry(f"g-{new_uuid7()}", 1, acks, [])
        await Receipts(redis, pool, Partitions(pool), "test").store([Received(b"1-1", entry)])


async def states(world: World, ident: uuid.UUID) -> dict[str, str]:
    rows = await world.lab.rows(
        "SELECT entity_id, status FROM audience_state WHERE tenant_id = $1 AND notification_id = $2",
        world.tenant, ident,
    )  # fmt: skip
    return {row["entity_id"]: row["status"] for row in rows}


async def history(world: World, ident: uuid.UUID) -> list[tuple[str, str]]:
    rows = await world.lab.rows(
        "SELECT entity_id, status FROM notification_history WHERE tenant_id = $1 AND notification_id = $2 "
        "ORDER BY history_id", world.tenant, ident,
    )  # fmt: skip
    return [(row["entity_id"], row["status"]) for row in rows]


async def shown(world: World, user: str) -> tuple[set[str], int]:
    """The ids of a page, and the unread ones as page and fill count them."""
    page, fill = await world.page(user=user), await world.fill(user)
    assert page.counters == fill.counters
    found = [frames.decode_server(bytes(item.n)) for item in page.items]
    idents = [item.id for item in found if isinstance(item, frames.Notification)]
    assert idents == sorted(set(idents), reverse=True)
    return set(idents), page.counters.unread


def named(*notifications: StoredNotification) -> set[str]:
    return {str(one.id) for one in notifications}


async def test_one_row_is_everybodys_of_the_tenant_whenever_they_come(world: World) -> None:
    await world.lab.store(world.tenant, "ann")
    one = await sent(world, priority=1)
    rows = await world.lab.rows(
        "SELECT entity_id, lane, seq, prev, status FROM notifications "
        "WHERE tenant_id = $1 AND lane > 2", world.tenant,
    )  # fmt: skip
    assert rows == [{"entity_id": "tenant", "lane": 4, "seq": 1, "prev": 0, "status": "ACCEPTED"}]
    ann, stranger = await world.fill("ann"), await world.fill("never seen before".replace(" ", "-"))
    assert [item.lane for item in ann.items] == [0, 4]
    assert (ids(stranger), stranger.at, stranger.counters.unread) == ([one.id.bytes], [0, 0, 0, 0, 1, 0], 1)
    frame = frames.decode_server(stranger.items[0].body)
    assert isinstance(frame, frames.Notification)
    assert (frame.lane, frame.priority, bytes(frame.p)) == ("audience.medium", "medium", one.payload)
    resumed = await world.resume({"audience.medium": 1, "direct.high": 1}, "ann")
    assert (resumed.recovered, resumed.items) == (True, [])
    assert not (await world.resume({"audience.medium": 2}, "ann")).recovered
    assert await states(world, one.id) == {}, "nothing is written per user before an ack"


async def test_a_segments_is_for_the_members_of_the_moment_it_is_stored(
    world: World, operations: Operations
) -> None:
    await vip(world, operations, "ann", "bob")
    before = await sent(world, VIP)
    await operations.segments.remove(world.tenant, "vip", ["bob"])
    await operations.segments.add(world.tenant, "vip", ["eve"])
    after = await sent(world, VIP)
    await operations.segments.delete(world.tenant, "vip")
    own = {"ann": [before, after], "bob": [before], "eve": [after], "zoe": []}
    for user, notifications in own.items():
        reply = await world.fill(user)
        assert ids(reply) == [one.id.bytes for one in notifications], user
        assert (reply.counters.unread, reply.at) == (len(notifications), [0, 0, 0, 2, 0, 0]), user
        assert await shown(world, user) == (named(*notifications), len(notifications))
    assert after.prev == before.seq


async def test_another_tenant_sees_nothing_of_it(world: World, operations: Operations, servers: Settings) -> None:
    other = f"{world.tenant}-o"
    make_issuer_key(servers, other)
    await create_tenant(servers, other)
    await vip(world, operations, "ann")
    await operations.segments.create(other, "vip")
    await operations.segments.add(other, "vip", ["ann"])
    notifications = [await sent(world, audience) for audience in (TENANT, VIP)]
    mine, world.tenant = world.tenant, other
    assert await shown(world, "ann") == (set(), 0)
    assert (await world.mark("read", *notifications)).rev == 0
    await acked(world, servers, "ann", *[msgspec.structs.replace(one, tenant=other) for one in notifications])
    world.tenant = mine
    assert [await states(world, one.id) for one in notifications] == [{}, {}]
    assert (await shown(world, "ann"))[1] == 2


async def test_a_segment_that_does_not_exist_is_a_dead_letter_and_a_copy_never_is(
    world: World, operations: Operations
) -> None:
    now_ms = await world.lab.now_ms()
    to_vip = event(world.tenant, VIP, now_ms)
    batch = [to_vip, event(world.tenant, TENANT, now_ms), event(world.tenant, "ann", now_ms)]
    outcome, rejected = await world.lab.store_events(batch)
    assert [(one.event, one.rejection.reason) for one in rejected] == [(to_vip, Reason.UNKNOWN_SEGMENT)]
    assert [one.user for one in outcome.ready] == [TENANT, "ann"]
    await vip(world, operations, "ann")
    outcome, rejected = await world.lab.store_events([to_vip])
    assert ([one.user for one in outcome.ready], rejected) == ([VIP], [])
    await operations.segments.delete(world.tenant, "vip")
    assert await world.lab.store_events([to_vip]) == (Outcome([], 1, 0), [])
    other = to_vip._replace(body_hash=b"o" * 32)
    [reused] = (await world.lab.store_events([other]))[1]
    assert reused.rejection.reason is Reason.ID_REUSED


async def test_acks_and_marks_are_each_users_own(world: World, operations: Operations, servers: Settings) -> None:
    await vip(world, operations, "ann", "bob")
    everybodys, members = await sent(world), await sent(world, VIP)
    for _ in range(2):
        await acked(world, servers, "ann", everybodys, members)
        await acked(world, servers, "zoe", everybodys, members)
    assert await states(world, everybodys.id) == {"ann": "DELIVERED", "zoe": "DELIVERED"}
    assert await states(world, members.id) == {"ann": "DELIVERED"}, "zoe is no member"
    assert await history(world, members.id) == [(VIP, "ACCEPTED"), ("ann", "DELIVERED")]
    first = await world.mark("read", everybodys, user="bob")
    assert (await world.mark("read", everybodys, user="bob")) == first
    await acked(world, servers, "bob", everybodys)
    assert (await states(world, everybodys.id))["bob"] == "READ", "a late ack takes nothing back"
    assert [await shown(world, user) for user in ("bob", "ann", "zoe")] == [
        (named(members, everybodys), 1), (named(members, everybodys), 2), (named(everybodys), 1),
    ]  # fmt: skip
    assert ids(await world.fill("bob")) == [members.id.bytes]
    [item] = [item for item in (await world.page(user="bob")).items if item.read]
    assert (item.seen, item.archived) == (True, False)
    counted = [
        (await world.mark(to, everybodys, user="bob")) for to in ("unread", "archived", "unarchived", "seen")
    ]
    assert [one.unread for one in counted] == [2, 1, 2, 2]
    assert [one.rev for one in counted] == [first.rev + 1, first.rev + 2, first.rev + 3, first.rev + 3]
    await world.mark("read", members, user="zoe")
    assert "zoe" not in await states(world, members.id), "nobody marks what is not theirs"
    [row] = await operations.notification_status(world.tenant, everybodys.id)
    assert (row.user, row.status, row.delivered_users, row.read_users) == (TENANT, "ACCEPTED", 3, 1)
    assert [entry.status for entry in row.history] == ["ACCEPTED"]


async def test_a_type_or_topic_that_is_turned_off_is_not_shown_until_it_is_on(
    world: World, operations: Operations
) -> None:
    offer = await sent(world, type="promotional", topic="order-news")
    digest = await sent(world, type="service", topic="digest")
    alert = await sent(world, type="system_alert", topic="digest")
    all_of_them = (named(alert, digest, offer), 3)
    assert await shown(world, "ann") == all_of_them
    rev = (await world.fill()).counters.rev
    await operations.set_preference(world.tenant, "ann", False, kind="promotional")
    assert (await shown(world, "ann"))[0] == named(alert, digest)
    await operations.set_preference(world.tenant, "ann", False, topic="digest")
    assert (await shown(world, "ann"))[0] == named(alert)
    assert (await world.fill()).at[3] == 3
    await operations.set_preference(world.tenant, "ann", True, topic="order-news")
    assert (await shown(world, "ann"))[0] == named(alert, offer)
    assert await shown(world, "bob") == all_of_them
    assert (await world.fill()).counters.rev == rev + 3


async def test_of_one_collapse_key_the_newest_is_left_for_everybody(
    world: World, operations: Operations, servers: Settings
) -> None:
    await vip(world, operations, "ann")
    old = await sent(world, collapse_key="k")
    await acked(world, servers, "ann", old)
    other = await sent(world, VIP, collapse_key="k")
    batch = await world.lab.store(world.tenant, [TENANT, TENANT], collapse_key="k")
    assert [one.seq for one in batch] == [4]
    assert await shown(world, "ann") == (named(batch[0], other), 2)
    assert await history(world, old.id) == [(TENANT, "ACCEPTED"), ("ann", "DELIVERED"), (TENANT, "COLLAPSED")]


async def test_a_recall_takes_it_from_everybody(world: World, operations: Operations) -> None:
    await vip(world, operations, "ann")
    for audience in (TENANT, VIP):
        one = await sent(world, audience)
        before = (await world.fill()).counters
        reply = await world.ask(RecallRequest(world.tenant, one.id.bytes))
        assert reply == RecallReply(1, known=True, more=False)
        assert await shown(world, "ann") == (set(), 0)
        assert (await world.fill()).counters.rev == before.rev + 1
        assert await world.ask(RecallRequest(world.tenant, one.id.bytes)) == RecallReply(0, known=True, more=False)
        assert await history(world, one.id) == [(audience, "ACCEPTED"), (audience, "CANCELLED")]
        await world.mark("read", one)
        assert await shown(world, "ann") == (set(), 0)


async def test_one_id_of_a_user_and_of_audiences_is_acked_and_recalled_for_each(
    world: World, operations: Operations, servers: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await vip(world, operations, "zed")
    ident = new_uuid7()
    stored = await world.lab.store(world.tenant, (TENANT, VIP, "zed"), ids=itertools.repeat(ident))
    direct = [one for one in stored if one.user == "zed"]
    await acked(world, servers, "zed", *direct, *(one for one in stored if one not in direct))
    assert (await world.lab.row(world.tenant, ident, "zed"))["status"] == "DELIVERED"
    assert (await states(world, ident))["zed"] == "DELIVERED"
    monkeypatch.setattr(recall, "RECALL_USERS_COUNT_MAX", 2)  # of whom two audiences are one
    reply = await world.ask(RecallRequest(world.tenant, ident.bytes))
    assert reply == RecallReply(3, known=True, more=True)
    assert await shown(world, "zed") == (set(), 0)


async def test_the_sweeper_announces_it_and_its_time_begins_and_ends_by_it(world: World) -> None:
    due = await world.lab.now_ms() + 60_000
    ident = new_uuid7()
    assert await world.lab.store(world.tenant, TENANT, not_before_ms=due, ids=iter([ident])) == []
    now = await sent(world)
    await world.lab.only_due(world.tenant)
    assert (now.seq, await shown(world, "ann")) == (2, (named(now), 1))
    pool, scheduler = world.lab.pools["dispatch"], Scheduler()
    announced: list[StoredNotification] = []
    sweeper = Sweeper(pool, world.lab.dispatch_ring, scheduler, DatabaseJournal(pool), announced.append)
    await world.lab.change(world.tenant, now.id, "due_at = now()")
    assert await sweeper.sweep() == 1
    assert announced == [now], "once more, in place of a retry"
    row = await world.lab.row(world.tenant, now.id, TENANT)
    assert (row["status"], row["due_at"]) == ("ACCEPTED", row["expiry"])
    await world.lab.change(world.tenant, ident, "not_before = now(), due_at = now()")
    assert await sweeper.sweep() == 1
    assert [(one.id, one.seq, one.payload) for one in announced[1:]] == [(ident, 3, now.payload)]
    row = await world.lab.row(world.tenant, ident, TENANT)
    assert (row["seq"], row["prev"], row["not_before"], row["due_at"]) == (3, 2, None, row["expiry"])
    assert (await world.fill()).at[3] == 3
    assert (await shown(world, "ann"))[0] == {str(now.id), str(ident)}
    await world.lab.change(world.tenant, now.id, "expiry = now(), due_at = now()")
    assert await sweeper.sweep() == 1
    assert (await world.lab.row(world.tenant, now.id, TENANT))["status"] == "EXPIRED"
    assert await shown(world, "ann") == ({str(ident)}, 1)
    assert (len(scheduler), len(announced)) == (0, 2)


async def test_long_answers_come_in_parts_direct_lanes_first(world: World, operations: Operations) -> None:
    await vip(world, operations, "ann")
    direct = await world.lab.store_many(world.tenant, "ann", 5, priority=2)
    notifications = [await sent(world, audience) for audience in (TENANT, VIP, TENANT, VIP)]
    got: list[bytes] = []
    at, more = [0] * LANE_COUNT, True
    while more:
        part = await world.fill(first=False, at=at, limit=2)
        got, at, more = got + ids(part), part.at, part.more
        assert len(part.items) <= 2
    assert got == [one.id.bytes for one in (*direct, *notifications)]
    assert at == [0, 0, 5, 4, 0, 0]


async def test_who_is_owed_too_much_of_both_is_told_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.fill.OWED_ITEMS_MAX", 4)
    await world.lab.store_many(world.tenant, "ann", 3)
    for _ in range(2):
        await sent(world)
    assert (await world.resume({})).recovered is False
    assert (await world.resume({"audience.high": 1})).recovered is True


# --- against a model --------------------------------------------------------
USERS = ("ann", "bob", "eve")
STEPS = (
    "send", "send", "send", "join", "leave", "prefer", "recall", "read", "unread", "archived", "unarchived", "seen",
    "ack",
)  # fmt: skip


@dataclasses.dataclass
class Entry:
    """What a naive model knows of one row; `users` None: everybody."""

    id: uuid.UUID
    lane: int
    seq: int
    type: str
    users: frozenset[str] | None
    over: bool = False
    read: set[str] = dataclasses.field(default_factory=set)
    archived: set[str] = dataclasses.field(default_factory=set)

    def is_for(self, user: str, off: set[tuple[str, str]]) -> bool:
        unwanted = self.lane > 2 and (user, self.type) in off
        return (self.users is None or user in self.users) and not self.over and not unwanted

    def is_unread(self, user: str, off: set[tuple[str, str]]) -> bool:
        return self.is_for(user, off) and user not in self.read | self.archived


@pytest.mark.parametrize("seed", range(4))
async def test_counters_fills_and_pages_are_those_of_a_naive_model(
    world: World, operations: Operations, servers: Settings, seed: int
) -> None:
    """Direct ones and both kinds of audience, members who come and go, preferences, marks, acks and recalls."""
    dice = random.Random(seed)
    entries: list[Entry] = []
    members: set[str] = set()
    off: set[tuple[str, str]] = set()
    revs = dict.fromkeys(USERS, 0)
    await operations.segments.create(world.tenant, "vip")
    for _ in range(30):
        user = dice.choice(USERS)
        step = dice.choice(STEPS)
        if step == "send" or not entries:
            audience, kind = dice.choice([TENANT, VIP, VIP, user]), dice.choice(["service", "promotional"])
            users = {TENANT: None, VIP: frozenset(members)}.get(audience, frozenset({user}))
            [one] = [*await world.lab.store(world.tenant, audience, dice.randint(0, 2), type=kind), None][:1]
            if one is not None:
                entries.append(Entry(one.id, one.lane, one.seq, kind, users))
        elif step in ("join", "leave"):
            change = operations.segments.add if step == "join" else operations.segments.remove
            await change(world.tenant, "vip", [user])
            members = members | {user} if step == "join" else members - {user}
        elif step == "prefer":
            kind, wanted = dice.choice(["service", "promotional"]), dice.random() < 0.5
            await operations.set_preference(world.tenant, user, wanted, kind=kind)
            off = off - {(user, kind)} if wanted else off | {(user, kind)}
        else:
            entry = dice.choice(entries)
            mine = entry.users is None or user in entry.users
            if step == "recall":
                await world.ask(RecallRequest(world.tenant, entry.id.bytes))
                entry.over = True
            elif step == "ack":
                await world_ack(world, servers, user, entry)
            else:
                await world.ask(StateRequest(world.tenant, user, "d", [entry.id.bytes], step))
                flags = entry.archived if step.endswith("archived") else entry.read
                if mine and step in ("read", "archived"):
                    flags.add(user)
                elif mine and step in ("unread", "unarchived"):
                    flags.discard(user)
        user = dice.choice(USERS)
        revs[user] = await check(world, user, entries, off, revs[user])
    for user in USERS:
        await check(world, user, entries, off, revs[user])


async def world_ack(world: World, servers: Settings, user: str, entry: Entry) -> None:
    acks = [AckReceipt(world.tenant, user, "phone", entry.lane, entry.seq, entry.id.bytes, 1)]
    pool = world.lab.pools["receipts"]
    async with open_redis(servers) as redis:
        receipts = Receipts(redis, pool, Partitions(pool), "test")
        await receipts.store([Received(b"1-1", ReceiptsEntry(f"g-{new_uuid7()}", 1, acks, []))])


async def check(world: World, user: str, entries: list[Entry], off: set[tuple[str, str]], rev: int) -> int:
    """Returns the counters' rev, which never falls."""
    unread = [entry for entry in entries if entry.is_unread(user, off)]
    first = await world.fill(user, limit=2)
    got, at, more = ids(first), first.at, first.more
    while more:
        part = await world.fill(user, first=False, at=at, limit=3)
        got, at, more = got + ids(part), part.at, part.more
    assert got == [entry.id.bytes for entry in sorted(unread, key=lambda entry: (entry.lane, entry.seq))]
    page_ids, count = await shown(world, user)
    assert page_ids == {str(entry.id) for entry in entries if entry.is_for(user, off)}
    assert (count, first.counters.unread) == (len(unread), len(unread))
    assert first.counters.rev >= rev
    return first.counters.rev
