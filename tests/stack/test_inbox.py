"""Role inbox on real PostgreSQL: fills, marks, pages, the edge snapshot, and its server on the memory bus."""

import asyncio
import dataclasses
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from notification import batch, frames, messages
from notification.codes import LANE_COUNT, LANE_NAMES
from notification.frames import Counters, Cursor
from notification.ids import new_uuid7
from notification.limits import (
    FILL_BYTES_MAX,
    FILL_ITEMS_MAX,
    INBOX_IN_FLIGHT_MAX,
    OWED_ITEMS_MAX,
    PAYLOAD_BYTES_MAX,
)
from notification.messages import (
    LANES_UNKNOWN,
    EdgeReply,
    EdgeRequest,
    Failure,
    FillReply,
    FillRequest,
    InboxReply,
    InboxRequest,
    PageReply,
    PageRequest,
    StateReply,
    StateRequest,
)
from notification.names import INBOX_EDGE, INBOX_PAGE, INBOX_RESUME, INBOX_STATE, gateway_subject, user_tag
from notification.settings import Settings
from tests.stack.lab import Lab, open_lab
from tests.twins.bus import Hub, MemoryBus
from tests.twins.presence import MemoryPresence
from worker.clock import DatabaseClock
from worker.edge import Edge
from worker.inbox import Inbox
from worker.presence import Beats
from worker.store import StoredNotification

pytestmark = pytest.mark.stack
SUBJECTS = {FillRequest: INBOX_RESUME, StateRequest: INBOX_STATE, PageRequest: INBOX_PAGE, EdgeRequest: INBOX_EDGE}


class World:
    """The role on a memory bus, and a gateway that asks it."""

    def __init__(self, lab: Lab, tenant: str) -> None:
        self.lab = lab
        self.tenant = tenant
        self.hub = Hub()
        self.presence = MemoryPresence(Beats())
        self.gateway = MemoryBus(self.hub)
        pool = lab.pools["inbox"]
        self.inbox = Inbox(
            MemoryBus(self.hub), pool, lab.inbox_ring, Edge(lab.master, pool), self.presence, DatabaseClock()
        )

    async def ask(self, request: InboxRequest) -> InboxReply:
        answer = await self.gateway.request(SUBJECTS[type(request)], messages.encode(request), 5.0)
        return messages.decode_reply(answer)

    async def fill(self, user: str = "ann", **fields: Any) -> FillReply:
        """By default the first request of a connection without a cursor."""
        values = {"first": True, "cursor": None, "at": list(LANES_UNKNOWN), "limit": FILL_ITEMS_MAX} | fields
        reply = await self.ask(FillRequest(self.tenant, user, **values))
        assert isinstance(reply, FillReply), reply
        return reply

    async def resume(self, cursor: dict[str, int], user: str = "ann", epoch: int | None = None) -> FillReply:
        return await self.fill(user, cursor=Cursor(await self.epoch() if epoch is None else epoch, cursor))

    async def mark(self, to: str, *sent: StoredNotification, user: str = "ann") -> Counters:
        reply = await self.ask(StateRequest(self.tenant, user, "phone", [one.id.bytes for one in sent], to))
        assert isinstance(reply, StateReply), reply
        return reply.counters

    async def page(self, before: str = "", limit: int = 50, user: str = "ann") -> frames.PageFrame:
        raw = uuid.UUID(before).bytes if before else b""
        reply = await self.ask(PageRequest(self.tenant, user, raw, limit))
        assert isinstance(reply, PageReply), reply
        frame = frames.decode_server(reply.frame)
        assert isinstance(frame, frames.PageFrame)
        return frame

    async def epoch(self) -> int:
        epoch: int = await self.lab.owner.fetchval("SELECT epoch FROM log_state")
        return epoch

    async def several(self, count: int, priority: int = 0, **fields: Any) -> list[StoredNotification]:
        """Notifications of ann's lane, seq ascending."""
        return [one for _ in range(count) for one in await self.lab.store(self.tenant, priority=priority, **fields)]


@pytest.fixture
async def world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_lab(servers) as lab:
        made = World(lab, tenant)
        await made.inbox.start()
        yield made


def ids(reply: FillReply) -> list[bytes]:
    return [item.id for item in reply.items]


# --- fill -------------------------------------------------------------------
async def test_a_new_user_is_owed_nothing(world: World) -> None:
    reply = await world.fill("nobody")
    assert reply == FillReply(
        await world.epoch(), True, [], [0] * LANE_COUNT, False, Counters(0, 0), reply.database_ms
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
    reply = await world.ask(FillRequest(f"demo,{world.tenant}", "bob", True, None, list(LANES_UNKNOWN), 10))
    assert reply == Failure("bad_frame")


# --- marks ------------------------------------------------------------------
async def test_reading_ends_it_everywhere_and_tells_every_gateway(world: World) -> None:
    sent = await world.several(2)
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def gateway(_subject: str, message: bytes) -> None:
        heard.put_nowait(message)

    for name in ("g1", "g2"):
        await world.gateway.serve(gateway_subject(name, "high"), gateway)
        world.presence.online(user_tag(world.tenant, "ann"), name, device=name)
    before = (await world.fill()).counters
    after = await world.mark("read", sent[0])
    assert (after.unread, after.rev) == (1, before.rev + 1)
    row = await world.lab.row(world.tenant, sent[0].id)
    assert (row["status"], row["rank"], row["status_code"], row["due_at"], row["rev"]) == (
        "READ",
        4,
        600,
        None,
        after.rev,
    )
    assert await world.lab.history(world.tenant, sent[0].id) == ["ACCEPTED", "READ"]
    for _ in range(2):
        _database_ms, [item] = batch.unpack(await asyncio.wait_for(heard.get(), 2))
        assert (item.kind, item.tag.decode()) == (batch.CONTROL, user_tag(world.tenant, "ann"))
        assert frames.decode_server(item.body) == frames.StateFrame([str(sent[0].id)], "read", after.rev, 1)


async def test_marks_are_reversible_and_repeating_one_changes_nothing(world: World) -> None:
    [sent] = await world.several(1)
    first = await world.mark("read", sent)
    assert await world.mark("read", sent) == first
    unread = await world.mark("unread", sent)
    assert (unread.unread, unread.rev) == (1, first.rev + 1)
    assert (await world.mark("archived", sent)).unread == 0
    assert (await world.mark("unarchived", sent)).unread == 1
    await world.mark("seen", sent)
    row = await world.lab.row(world.tenant, sent.id)
    assert row["seen_at"] is not None
    assert (row["read_at"], row["archived_at"], row["status"]) == (None, None, "READ")
    assert await world.lab.history(world.tenant, sent.id) == ["ACCEPTED", "READ"]


async def test_an_archived_one_is_not_sent_again(world: World) -> None:
    [sent] = await world.several(1)
    await world.mark("archived", sent)
    assert (await world.lab.row(world.tenant, sent.id))["due_at"] is None


async def test_nobody_marks_what_is_not_theirs(world: World) -> None:
    [sent] = await world.several(1)
    await world.lab.store(world.tenant, "bob")
    before = (await world.fill("bob")).counters
    assert await world.mark("read", sent, user="bob") == before
    assert (await world.lab.row(world.tenant, sent.id))["status"] == "ACCEPTED"


async def test_ids_that_no_notification_can_have_are_passed_over(world: World) -> None:
    [sent] = await world.several(1)
    nobodys = [bytes(16), b"\xff" * 16, uuid.uuid4().bytes, uuid.UUID("ffffffff-ffff-7fff-bfff-ffffffffffff").bytes]
    reply = await world.ask(StateRequest(world.tenant, "ann", "phone", [*nobodys, sent.id.bytes], "read"))
    assert isinstance(reply, StateReply)
    assert reply.counters.unread == 0
    assert (await world.lab.row(world.tenant, sent.id))["status"] == "READ"
    reply = await world.ask(StateRequest(world.tenant, "ann", "phone", nobodys, "read"))
    assert isinstance(reply, StateReply)


@pytest.mark.parametrize(("ids_", "to"), [([b"short"], "read"), ([], "deleted")])
async def test_a_bad_state_request_is_refused(world: World, ids_: list[bytes], to: str) -> None:
    assert await world.ask(StateRequest(world.tenant, "ann", "d", ids_, to)) == Failure("bad_frame")


# --- pages ------------------------------------------------------------------
async def test_pages_go_from_the_newest_to_the_oldest(world: World) -> None:
    now_ms = await world.lab.now_ms()
    sent = await world.lab.store_many(world.tenant, "ann", 5, first_id_ms=now_ms - 1_000)
    await world.mark("read", sent[3])
    await world.lab.change(world.tenant, sent[1].id, "status = 'EXPIRED', rank = 2")
    first = await world.page(limit=2)
    assert [frames.decode_server(bytes(item.n)).id for item in first.items] == [str(sent[4].id), str(sent[3].id)]  # type: ignore[union-attr]
    assert [item.read for item in first.items] == [False, True]
    assert first.counters.unread == 3
    assert first.next == str(sent[3].id)
    second = await world.page(before=first.next, limit=2)
    assert [frames.decode_server(bytes(item.n)).id for item in second.items] == [str(sent[2].id), str(sent[0].id)]  # type: ignore[union-attr]
    assert second.next is None


async def test_a_page_may_begin_anywhere(world: World) -> None:
    [sent] = await world.several(1)
    for place, found in (("ffffffff-ffff-7fff-bfff-ffffffffffff", 1), (str(uuid.UUID(int=1)), 0)):
        assert len((await world.page(before=place)).items) == found
    reply = await world.ask(PageRequest(world.tenant, "ann", sent.id.bytes[:9], 1))
    assert reply == Failure("bad_frame")


# --- the edge snapshot ------------------------------------------------------
async def test_the_edge_snapshot_has_every_tenants_keys_and_is_skipped_when_known(
    world: World, servers: Settings
) -> None:
    reply = await world.ask(EdgeRequest(-1))
    assert isinstance(reply, EdgeReply)
    assert reply.tenants is not None
    [mine] = [tenant for tenant in reply.tenants if tenant.tenant == world.tenant]
    [key] = mine.keys
    assert (mine.status, key.issuer, key.algorithm) == ("active", f"herald:{world.tenant}", "HS256")
    assert key.key == servers.secret(f"issuer_{world.tenant}.key")
    again = await world.ask(EdgeRequest(reply.version))
    assert again == EdgeReply(reply.version, reply.epoch, None)
    await world.lab.owner.execute("UPDATE tenants SET status = 'suspended' WHERE tenant_id = $1", world.tenant)
    changed = await world.ask(EdgeRequest(reply.version))
    assert isinstance(changed, EdgeReply)
    assert changed.version > reply.version
    assert [t.status for t in changed.tenants or [] if t.tenant == world.tenant] == ["suspended"]


# --- the server -------------------------------------------------------------
async def test_garbage_is_refused_and_a_request_on_the_wrong_subject_too(world: World) -> None:
    assert messages.decode_reply(await world.inbox.handle(INBOX_RESUME, b"\xc1")) == Failure("bad_frame")
    wrong = messages.encode(EdgeRequest(0))
    assert messages.decode_reply(await world.inbox.handle(INBOX_RESUME, wrong)) == Failure("bad_frame")


async def test_what_nobody_foresaw_is_answered_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("worker.inbox.mark", broken)
    request = StateRequest(world.tenant, "ann", "phone", [new_uuid7().bytes], "read")
    async with asyncio.timeout(1):
        assert await world.ask(request) == Failure("busy")
    assert isinstance(await world.fill(), FillReply)


async def test_above_its_bound_it_is_busy_and_below_it_answers_all(world: World) -> None:
    request = FillRequest(world.tenant, "ann", True, None, list(LANES_UNKNOWN), 1)
    replies = await asyncio.gather(*(world.ask(request) for _ in range(INBOX_IN_FLIGHT_MAX + 10)))
    busy = [reply for reply in replies if reply == Failure("busy")]
    assert 1 <= len(busy) <= 10
    assert isinstance(await world.ask(request), FillReply)


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
