"""Role inbox on real PostgreSQL: fills, marks, pages, the edge snapshot, and its server on the memory bus."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from notification import batch, frames, messages
from notification.ids import new_uuid7
from notification.limits import (
    INBOX_COMMANDS_IN_FLIGHT_MAX,
    INBOX_IN_FLIGHT_MAX,
)
from notification.messages import (
    EdgeReply,
    EdgeRequest,
    Failure,
    FillReply,
    FillsReply,
    FillsRequest,
    PageRequest,
    StateReply,
    StateRequest,
)
from notification.names import INBOX_PAGE, INBOX_RESUME, gateway_subject, user_tag
from notification.settings import Settings
from tests.stack.inboxes import World, open_world, question

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_world(servers, tenant) as made:
        yield made


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
        _database_ms, [item] = batch.unpack(await asyncio.wait_for(heard.get(), 20))
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


async def test_what_changes_nothing_is_told_to_who_asked_alone(world: World) -> None:
    [sent] = await world.several(1)
    heard: list[bytes] = []

    async def gateway(_subject: str, message: bytes) -> None:
        heard.append(message)

    await world.gateway.serve(gateway_subject("g1", "high"), gateway)
    world.presence.online(user_tag(world.tenant, "ann"), "g1", device="phone")
    for ident, found in ((new_uuid7(), []), (sent.id, [sent.id.bytes])):
        request = StateRequest(world.tenant, "ann", "phone", [ident.bytes], "unread")
        assert await world.ask(request) == StateReply((await world.fill()).counters, found, told=False)
    assert heard == []


@pytest.mark.parametrize(("status", "code"), [("COLLAPSED", 420), ("CANCELLED", 411)])
async def test_no_mark_brings_back_what_was_replaced_or_not_wanted(world: World, status: str, code: int) -> None:
    """A device may have it: that it was read there is kept."""
    [sent] = await world.several(1)
    gone = f"status = '{status}', rank = 2, status_code = {code}, due_at = NULL"
    await world.lab.change(world.tenant, sent.id, gone)
    for to in ("read", "unread", "read"):
        assert (await world.mark(to, sent)).unread == 0
        assert (await world.page()).items == []
    row = await world.lab.row(world.tenant, sent.id)
    assert (row["status"], row["rank"], row["status_code"]) == (status, 2, code)
    assert row["read_at"] is not None


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
    again = await world.ask(EdgeRequest(reply.version, reply.revocations_version))
    assert again == EdgeReply(reply.version, reply.epoch, None, [], reply.revocations_version)
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
    async with asyncio.timeout(20):
        assert await world.ask(request) == Failure("busy")
    assert isinstance(await world.fill(), FillReply)


async def test_what_clients_ask_for_leaves_places_for_fills_and_the_edge(world: World) -> None:
    page = messages.encode(PageRequest(world.tenant, "ann", b"", 1))
    pages = [asyncio.create_task(world.inbox.handle(INBOX_PAGE, page)) for _ in range(INBOX_IN_FLIGHT_MAX)]
    fill = asyncio.create_task(
        world.inbox.handle(INBOX_RESUME, messages.encode(FillsRequest([question(world.tenant, "ann")])))
    )
    replies = [messages.decode_reply(answer) for answer in await asyncio.gather(*pages)]
    busy = [reply for reply in replies if reply == Failure("busy")]
    assert len(busy) >= INBOX_IN_FLIGHT_MAX - INBOX_COMMANDS_IN_FLIGHT_MAX
    assert len(busy) < len(replies)
    assert isinstance(messages.decode_reply(await fill), FillsReply)


async def test_above_its_bound_it_is_busy_and_below_it_answers_all(world: World) -> None:
    request = FillsRequest([question(world.tenant, "ann")])
    replies = await asyncio.gather(*(world.ask(request) for _ in range(INBOX_IN_FLIGHT_MAX + 10)))
    busy = [reply for reply in replies if reply == Failure("busy")]
    assert 1 <= len(busy) <= 10
    assert isinstance(await world.ask(request), FillsReply)
