"""What connections are owed, from real PostgreSQL: alone, together with others, and against a naive model."""

import asyncio
import dataclasses
import random
import secrets
import uuid
from collections.abc import AsyncIterator

import msgspec
import pytest

from devstack.secrets import make_issuer_key
from devstack.tenants import create_tenant
from notification import frames
from notification.codes import LANE_COUNT, LANE_NAMES
from notification.frames import Counters, Cursor
from notification.ids import new_uuid7
from notification.limits import (
    FILL_BYTES_MAX,
    FILL_ITEMS_MAX,
    FILLS_COUNT_MAX,
    OWED_ITEMS_MAX,
    PAYLOAD_BYTES_MAX,
)
from notification.messages import LANES_UNKNOWN, Failure, FillReply, FillRequest, FillsRequest, StateRequest
from notification.settings import Settings
from tests.stack.inboxes import World, ids, open_world, question
from worker.store import StoredNotification, encode_body

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_world(servers, tenant) as made:
        yield made


# --- fill -------------------------------------------------------------------
async def test_a_new_user_is_owed_nothing(world: World) -> None:
    reply = await world.fill("nobody")
    assert reply == FillReply(
        await world.epoch("nobody"), True, [], [0] * LANE_COUNT, False, Counters(0, 0), reply.database_ms
    )
    assert abs(reply.database_ms - await world.lab.now_ms()) < 5_000


async def test_without_a_cursor_everything_live_is_owed_high_first_and_in_order(world: World) -> None:
    low = await world.several(2, priority=2)
    high = await world.several(2, priority=0)
    reply = await world.fill()
    assert ids(reply) == [one.id.bytes for one in (*high, *low)]
    assert [(item.lane, item.seq, item.prev) for item in reply.items] == [
        (0, 1, 0),
        (0, 2, 1),
        (2, 1, 0),
        (2, 2, 1),
    ]
    assert reply.at == [2, 0, 2, 0, 0, 0]
    assert (reply.recovered, reply.more, reply.counters.unread) == (True, False, 4)
    frame = frames.decode_server(reply.items[0].body)
    assert isinstance(frame, frames.Notification)
    assert (frame.id, frame.seq, bytes(frame.p)) == (str(high[0].id), 1, high[0].payload)


async def test_a_cursor_is_owed_what_came_after_it_also_if_another_device_acked_it(world: World) -> None:
    sent = await world.several(4)
    await world.lab.change(world.tenant, sent[2].id, "status = 'DELIVERED', rank = 3, due_at = NULL")
    reply = await world.resume({"direct.high": 2})
    assert ids(reply) == [one.id.bytes for one in sent[2:]]
    assert reply.recovered
    assert (await world.resume({"direct.high": 4})).items == []


@pytest.mark.parametrize(
    "gone",
    ["status = 'EXPIRED', rank = 2", "status = 'CANCELLED', rank = 2", "expiry = now()", "archived_at = now()",
     "status = 'READ', rank = 4, read_at = now()", "not_before = now() + interval '1 hour'"],
)  # fmt: skip
async def test_what_is_over_fills_as_nothing_and_at_passes_it(world: World, gone: str) -> None:
    sent = await world.several(3)
    await world.lab.change(world.tenant, sent[2].id, gone)
    reply = await world.fill()
    assert ids(reply) == [one.id.bytes for one in sent[:2]]
    assert reply.at[0] == 3


async def test_a_parked_row_is_owed_and_stays_parked_until_its_ack(world: World) -> None:
    [sent] = await world.several(1)
    await world.lab.change(world.tenant, sent.id, "status = 'PARKED', rank = 1")
    assert len((await world.fill()).items) == 1
    assert (await world.lab.row(world.tenant, sent.id))["status"] == "PARKED"


@pytest.mark.parametrize(("epoch_step", "seq"), [(1, 1), (-1, 1), (0, 3)], ids=["later", "earlier", "ahead"])
async def test_a_cursor_that_cannot_be_honoured_is_told_so_and_gets_a_snapshot(
    world: World, epoch_step: int, seq: int
) -> None:
    sent = await world.several(2)
    reply = await world.resume({"direct.high": seq}, epoch=await world.epoch() + epoch_step)
    assert not reply.recovered
    assert ids(reply) == [one.id.bytes for one in sent]


async def test_a_cursor_of_another_user_or_tenant_cannot_be_honoured(world: World) -> None:
    """Although its numbers could be ours: nobody may skip what is owed."""
    sent = await world.several(2)
    for epoch in (await world.epoch("bob"), await world.epoch("ann", "another")):
        reply = await world.resume({"direct.high": 1}, epoch=epoch)
        assert not reply.recovered
        assert ids(reply) == [one.id.bytes for one in sent]
        assert reply.epoch == await world.epoch()


async def test_who_is_owed_too_much_is_told_so(world: World) -> None:
    await world.lab.store_many(world.tenant, "ann", OWED_ITEMS_MAX + 1)
    assert (await world.resume({})).recovered is False
    assert (await world.resume({"direct.high": 1})).recovered is True


async def test_long_answers_come_in_parts_that_fit_a_bus_message(world: World) -> None:
    payload = b'{"title":"T","body":"' + b"x" * (PAYLOAD_BYTES_MAX - 30) + b'"}'
    sent = await world.lab.store_many(world.tenant, "ann", FILL_ITEMS_MAX + 20, payload=payload)
    first = await world.fill()
    assert first.more
    assert sum(len(item.body) for item in first.items) <= FILL_BYTES_MAX
    assert first.at == [len(first.items), -1, -1, -1, -1, -1]
    got = ids(first)
    at = first.at
    more = True
    while more:
        part = await world.fill(first=False, at=at)
        got, at, more = got + ids(part), part.at, part.more
    assert got == [one.id.bytes for one in sent]
    assert at == [len(sent), 0, 0, 0, 0, 0]


async def test_no_room_means_no_items_and_no_progress(world: World) -> None:
    await world.several(1)
    reply = await world.fill(first=False, at=[0] * LANE_COUNT, limit=0)
    assert (reply.items, reply.at, reply.more) == ([], [0] * LANE_COUNT, True)


async def test_a_fill_shows_one_moment_while_others_write(world: World) -> None:
    """Whatever is stored meanwhile: the items are exactly those up to `at`."""

    async def write() -> None:
        for _ in range(30):
            await world.lab.store(world.tenant, priority=0)
            await world.lab.store(world.tenant, priority=1)

    writing = asyncio.create_task(write())
    while not writing.done():
        reply = await world.fill()
        if not reply.more:
            for lane in (0, 1):
                assert [item.seq for item in reply.items if item.lane == lane] == list(range(1, reply.at[lane] + 1))
            assert reply.counters.unread == len(reply.items)
    await writing


async def test_tenants_and_users_do_not_meet(world: World) -> None:
    await world.lab.store(world.tenant, "bob")
    assert (await world.fill("ann")).items == []
    [reply] = await world.fills(question(f"demo,{world.tenant}", "bob"))
    assert reply == Failure("bad_frame")


# --- fills together ---------------------------------------------------------
async def test_questions_together_are_answered_as_they_are_alone(world: World, servers: Settings) -> None:
    """Users of two tenants, with entries and without, with cursors of every kind; one of them asks nonsense."""
    other = f"t_{secrets.token_hex(5)}"
    make_issuer_key(servers, other)
    await create_tenant(servers, other)
    for tenant, user, count in ((world.tenant, "ann", 3), (world.tenant, "bob", 2), (other, "ann", 1)):
        for priority in (0, 2):
            await world.lab.store_many(tenant, user, count, priority=priority)
    await world.lab.store_many(world.tenant, "crowd", OWED_ITEMS_MAX + 1)
    epoch, bobs, crowds = [await world.epoch(user) for user in ("ann", "bob", "crowd")]
    requests = [
        question(world.tenant, "ann"),
        question(world.tenant, "ann", Cursor(epoch, {"direct.high": 1})),
        question(world.tenant, "nobody"),
        question(other, "ann", Cursor(await world.epoch("ann", other), {"direct.high": 1, "direct.low": 1})),
        question(world.tenant, "bob", Cursor(bobs, {"direct.high": 9})),
        question(world.tenant, "bob", Cursor(bobs + 1, {})),
        question(world.tenant, "crowd", Cursor(crowds, {})),
        question(world.tenant, "crowd", Cursor(crowds, {"direct.high": 1})),
        FillRequest(world.tenant, "bob", False, None, [1, 0, 2, 0, 0, 0], 1),
        FillRequest(world.tenant, "bob", False, None, [0] * LANE_COUNT, 0),
    ]
    alone = [await world.fills(request) for request in requests]
    assert [reply.recovered for [reply] in alone if isinstance(reply, FillReply)] == [
        True, True, True, True, False, False, False, True, True, True,
    ]  # fmt: skip
    bad = [
        question("no such,tenant", "ann"),
        question(world.tenant, "ann", Cursor(epoch, {"no.such": 1})),
        FillRequest(world.tenant, "ann", False, None, [2**63] * LANE_COUNT, 1),
    ]
    together = await world.fills(*requests[:4], *bad, *requests[4:])
    assert together[4:7] == [Failure("bad_frame")] * 3
    for [one], other_one in zip(alone, together[:4] + together[7:], strict=True):
        assert isinstance(one, FillReply)
        assert isinstance(other_one, FillReply)
        assert msgspec.structs.replace(other_one, database_ms=0) == msgspec.structs.replace(one, database_ms=0)


async def test_what_does_not_fit_one_answer_is_told_to_follow(world: World) -> None:
    """All items of an answer share its bounds; nobody is left out for good, and nothing comes twice."""
    payload = b'{"title":"T","body":"' + b"x" * (PAYLOAD_BYTES_MAX - 30) + b'"}'
    users = [f"user-{number}" for number in range(6)]
    sent = {
        user: [one.id.bytes for one in await world.lab.store_many(world.tenant, user, 60, payload=payload)]
        for user in users
    }
    got: dict[str, list[bytes]] = {user: [] for user in users}
    asking = [question(world.tenant, user) for user in users]
    rounds = 0
    while asking:
        replies = await world.fills(*asking)
        rounds += 1
        following = []
        size_bytes = 0
        for request, reply in zip(asking, replies, strict=True):
            assert isinstance(reply, FillReply)
            got[request.user] += ids(reply)
            size_bytes += sum(len(item.body) for item in reply.items)
            if reply.more:
                following.append(FillRequest(world.tenant, request.user, False, None, reply.at, FILL_ITEMS_MAX))
        assert size_bytes <= FILL_BYTES_MAX
        assert any(reply.items for reply in replies if isinstance(reply, FillReply))
        asking = following
    assert got == sent
    assert rounds >= 2


async def test_one_question_that_breaks_something_does_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.several(2)
    await world.lab.store(world.tenant, "cursed")

    def broken(notification: StoredNotification) -> bytes:
        if notification.user == "cursed":
            raise RuntimeError("a fault of ours")
        return encode_body(notification)

    monkeypatch.setattr("worker.fill.encode_body", broken)
    ann, cursed, nobody = await world.fills(
        question(world.tenant, "ann"), question(world.tenant, "cursed"), question(world.tenant, "nobody")
    )
    assert cursed == Failure("busy")
    assert isinstance(ann, FillReply)
    assert isinstance(nobody, FillReply)
    assert (len(ann.items), nobody.items) == (2, [])


async def test_a_request_has_a_bounded_number_of_questions(world: World) -> None:
    one = question(world.tenant, "nobody")
    assert len(await world.fills(*[one] * FILLS_COUNT_MAX)) == FILLS_COUNT_MAX
    assert await world.ask(FillsRequest([one] * (FILLS_COUNT_MAX + 1))) == Failure("bad_frame")
    assert await world.fills() == []


# --- against a model --------------------------------------------------------
@dataclasses.dataclass
class Entry:
    """What a naive model knows of one stored notification."""

    id: uuid.UUID
    lane: int
    seq: int
    over: bool = False
    read: bool = False
    archived: bool = False


def owed(entries: list[Entry], at: list[int]) -> list[bytes]:
    live = [e for e in entries if not (e.over or e.read or e.archived) and e.seq > at[e.lane]]
    return [entry.id.bytes for entry in sorted(live, key=lambda entry: (entry.lane, entry.seq))]


def heads(entries: list[Entry]) -> list[int]:
    return [max((entry.seq for entry in entries if entry.lane == lane), default=0) for lane in range(LANE_COUNT)]


@pytest.mark.parametrize("seed", range(8))
async def test_a_fill_is_what_a_naive_model_owes(world: World, seed: int) -> None:
    """Random stores, ends, marks and cursors; every fill read to its end in parts of random size."""
    dice = random.Random(seed)
    entries: list[Entry] = []
    for _ in range(25):
        step = dice.choice(["store", "store", "store", "end", "read", "unread", "archived", "unarchived", "fill"])
        if step == "store" or not entries:
            for one in await world.lab.store_many(
                world.tenant, "ann", dice.randint(1, 4), priority=dice.randint(0, 2)
            ):
                entries.append(Entry(one.id, one.lane, one.seq))
        elif step == "end":
            entry = dice.choice(entries)
            entry.over = True
            gone = dice.choice(["expiry = now()", "status = 'CANCELLED', rank = 2, due_at = NULL"])
            await world.lab.change(world.tenant, entry.id, gone)
        elif step == "fill":
            await check_fills(world, entries, dice)
        else:
            entry = dice.choice([e for e in entries if not e.over] or [Entry(new_uuid7(), 0, 0)])
            if step in ("read", "unread"):
                entry.read = step == "read"
            else:
                entry.archived = step == "archived"
            await world.ask(StateRequest(world.tenant, "ann", "d", [entry.id.bytes], step))
    await check_fills(world, entries, dice)


async def check_fills(world: World, entries: list[Entry], dice: random.Random) -> None:
    top = heads(entries)
    have = [dice.randint(0, head) for head in top]
    cursor = {LANE_NAMES[lane]: seq for lane, seq in enumerate(have) if seq or dice.random() < 0.5}
    for claim, at in ((None, list(LANES_UNKNOWN)), (cursor, have)):
        first = await (world.fill(limit=dice.randint(0, 5)) if claim is None else world.resume(claim))
        got, reached, more = ids(first), first.at, first.more
        while more:
            part = await world.fill(first=False, at=reached, limit=dice.randint(1, 5))
            got, reached, more = got + ids(part), part.at, part.more
        assert first.recovered
        assert got == owed(entries, at)
        assert reached == top
        assert first.counters.unread == len(owed(entries, [0] * LANE_COUNT))
