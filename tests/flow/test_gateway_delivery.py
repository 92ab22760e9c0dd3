"""From a worker's batch to a client and its ack back: resume, gaps, windows, devices, commands."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from notification import batch, limits, messages, names
from notification.codes import Lane, ReceiptCode
from notification.frames import Cursor, user_epoch
from notification.ids import new_uuid7
from tests.flow.world import EPOCH, LOG_EPOCH, World, now_ms, until


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    world = World(carrier)
    await world.start()
    yield world
    await world.close()


async def test_live_delivery_and_ack(world: World) -> None:
    async with world.client(device="phone") as app:
        await app.read("resumed")
        entry = world.log.add("ann")
        assert await world.send("ann", entry) == [ReceiptCode.WRITTEN]
        frame = await app.read("n")
        assert frame["seq"] == 1
        await app.ack(frame)
        await until(lambda: world.acked())
        (ack,) = [ack for receipt in world.receipts() for ack in receipt.acks]
        assert (ack.tenant, ack.user, ack.device, ack.lane, ack.seq, ack.id) == (
            "acme", "ann", "phone", Lane.DIRECT_HIGH, 1, entry.id,
        )  # fmt: skip
        assert abs(ack.at_ms - now_ms()) < 2_000


async def test_live_copies_of_receipts(world: World) -> None:
    copies = []

    async def watch(subject: str, payload: bytes) -> None:
        copies.append(messages.decode_receipts(payload))

    await world.bus().serve(names.ack_subject(world.gateway.gateway_id), watch)
    async with world.client() as app:
        await app.read("resumed")
        await until(lambda: copies)
    assert copies[0].connections[0].event == "open"


async def test_nobody_here(world: World) -> None:
    assert await world.send("bob", world.log.add("bob")) == [ReceiptCode.NO_CONNECTION]


async def test_batches_of_one_turn_share_a_write(world: World) -> None:
    """And none waits for a further one: the second is there, or it is not."""
    handle = world.gateway._inbound.handle
    tag = names.user_tag("acme", "ann").encode()
    async with world.client() as app:
        await app.read("resumed")
        [connection] = world.gateway.registry.connections()
        pending = []
        entries = [world.log.add("ann") for _ in range(2)]
        for one in entries:
            item = batch.Item(
                batch.NOTIFICATION, one.lane, 1, one.seq, one.prev, one.expiry_ms, one.id, tag, one.body
            )
            reply = await handle("s", batch.pack([item], now_ms()))
            assert reply is not None
            assert batch.unpack_reply(reply, 1) == [ReceiptCode.WRITTEN]
            pending.append(connection.session.pending())
        assert 0 < pending[0] < pending[1]
        await asyncio.sleep(0)
        assert connection.session.pending() == 0
        assert [(await app.read("n"))["seq"] for _ in range(2)] == [1, 2]


async def test_a_batch_that_does_not_decode_gets_no_answer(world: World) -> None:
    handle = world.gateway._inbound.handle
    good = batch.pack([], now_ms())
    assert await handle("s", good) == batch.pack_reply([])
    assert await handle("s", good[:-1]) is None
    assert await handle("s", b"HB" + bytes(18)) is None


async def test_what_is_owed_comes_before_resumed_in_lane_order(world: World) -> None:
    for lane in (Lane.DIRECT_LOW, Lane.DIRECT_HIGH, Lane.DIRECT_LOW):
        world.log.add("ann", lane)
    async with world.client() as app:
        frames = [await app.read("n") for _ in range(3)]
        assert [(frame["lane"], frame["seq"]) for frame in frames] == [
            ("direct.high", 1), ("direct.low", 1), ("direct.low", 2),
        ]  # fmt: skip
        resumed = await app.read("resumed")
        assert (resumed["at"]["direct.high"], resumed["at"]["direct.low"]) == (1, 2)
        assert resumed["counters"] == {"unread": 3, "rev": 1}


async def test_a_cursor_gets_what_came_after_it(world: World) -> None:
    for _ in range(5):
        world.log.add("ann")
    async with world.client(cursor=Cursor(EPOCH, {"direct.high": 3})) as app:
        assert await app.seqs(2) == [4, 5]
        assert (await app.read("resumed"))["recovered"] is True


@pytest.mark.parametrize("cursor", [Cursor(EPOCH + 1, {"direct.high": 1}), Cursor(EPOCH, {"direct.high": 99})])
async def test_a_cursor_that_cannot_be_honoured(world: World, cursor: Cursor) -> None:
    for _ in range(3):
        world.log.add("ann")
    async with world.client(cursor=cursor) as app:
        assert app.welcome["recovered"] is False
        assert await app.seqs(3) == [1, 2, 3]
        resumed = await app.read("resumed")
        assert resumed["recovered"] is False
        assert resumed["at"]["direct.high"] == 3


async def test_a_gap_is_filled_and_other_lanes_flow_meanwhile(world: World) -> None:
    async with world.client() as app:
        await app.read("resumed")
        first, second, third = (world.log.add("ann") for _ in range(3))
        low = world.log.add("ann", Lane.DIRECT_LOW)
        assert await world.send("ann", first, third, low) == [
            ReceiptCode.WRITTEN, ReceiptCode.FULL, ReceiptCode.WRITTEN,
        ]  # fmt: skip
        got = [await app.read("n") for _ in range(4)]
        assert [frame["seq"] for frame in got if frame["lane"] == "direct.high"] == [1, 2, 3]
        assert await world.send("ann", second) == [ReceiptCode.WRITTEN]
        assert (await app.read("n"))["seq"] == 2  # a retry of something unacked is written again
        await app.silent()


async def test_an_item_that_is_had_and_acked_is_not_written_again(world: World) -> None:
    async with world.client() as app:
        await app.read("resumed")
        entry = world.log.add("ann")
        await world.send("ann", entry)
        await app.ack(await app.read("n"))
        await until(lambda: world.acked())
        assert await world.send("ann", entry, attempt=1) == [ReceiptCode.WRITTEN]
        await app.silent()


async def test_items_that_arrive_while_resuming_follow_in_order(world: World) -> None:
    world.log.add("ann")
    release = asyncio.Event()
    fill = world._answer

    async def slow(subject: str, payload: bytes) -> bytes:
        answer = await fill(subject, payload)
        if subject == names.INBOX_RESUME and not release.is_set():
            await release.wait()
        return answer

    assert world.inbox is not None
    world._answer = slow  # type: ignore[method-assign]
    await world.stop_inbox()
    await world.start_inbox()
    async with world.client(raw=True) as app:
        await until(lambda: world.log.requests)
        live = world.log.add("ann")
        assert await world.send("ann", live) == [ReceiptCode.FULL]
        release.set()
        await app.read("welcome")
        assert await app.seqs(2) == [1, 2]
        await app.read("resumed")


async def test_the_window_is_full_at_256_and_acks_open_it(world: World) -> None:
    total = limits.UNACKED_PER_CONNECTION_MAX + 100
    for _ in range(total):
        world.log.add("ann")
    async with world.client() as app:
        frames = [await app.read("n") for _ in range(limits.UNACKED_PER_CONNECTION_MAX)]
        await app.silent()
        live = world.log.add("ann")
        assert await world.send("ann", live) == [ReceiptCode.FULL]
        await app.say(t="ack", upto=frames[99]["id"])
        await app.silent()  # under half the window is free
        await app.say(t="ack", upto=frames[-1]["id"])
        assert await app.seqs(101) == list(range(257, 358))
        assert (await app.read("resumed"))["at"]["direct.high"] == total + 1
    await until(lambda: len(world.acked()) == limits.UNACKED_PER_CONNECTION_MAX)


async def test_a_live_window_that_was_full_catches_up(world: World) -> None:
    async with world.client() as app:
        await app.read("resumed")
        entries = [world.log.add("ann") for _ in range(300)]
        codes = await world.send("ann", *entries)
        assert codes.count(ReceiptCode.WRITTEN) == limits.UNACKED_PER_CONNECTION_MAX
        assert codes[-1] == ReceiptCode.FULL
        frames = [await app.read("n") for _ in range(limits.UNACKED_PER_CONNECTION_MAX)]
        await app.silent()
        await app.ack(*frames[:200])
        assert await app.seqs(44) == list(range(257, 301))


async def test_only_what_was_written_here_can_be_acked(world: World) -> None:
    async with world.client() as app:
        await app.read("resumed")
        await app.say(t="ack", ids=[str(new_uuid7())])
        await app.say(t="ack", upto=str(new_uuid7()))
        await app.say(t="ping")
        await app.read("pong")
    assert world.acked() == []


async def test_two_devices_both_get_it_and_ack_for_themselves(world: World) -> None:
    async with world.client(device="phone") as phone, world.client(device="laptop") as laptop:
        await phone.read("resumed")
        await laptop.read("resumed")
        await world.send("ann", world.log.add("ann"))
        await phone.ack(await phone.read("n"))
        await laptop.ack(await laptop.read("n"))
        await until(lambda: len(world.acked()) == 2)
    devices = {ack.device for receipt in world.receipts() for ack in receipt.acks}
    assert devices == {"phone", "laptop"}


async def test_expired_items_are_not_written(world: World) -> None:
    async with world.client() as app:
        await app.read("resumed")
        late = world.log.add("ann", expiry_ms=now_ms() - 1)
        fresh = world.log.add("ann", expiry_ms=now_ms() + 60_000)
        assert await world.send("ann", late) == [ReceiptCode.EXPIRED]
        await world.send("ann", fresh)
        assert await app.seqs(1) == [2]  # the gap is filled with nothing


async def test_expiry_is_judged_by_the_database_clock(world: World) -> None:
    async with world.client() as app:
        await app.read("resumed")
        ahead_ms = now_ms() + 3_600_000  # a database an hour ahead of this machine
        entry = world.log.add("ann", expiry_ms=ahead_ms + 10_000)
        tag = names.user_tag("acme", "ann").encode()
        item = batch.Item(batch.NOTIFICATION, 0, 0, 1, 0, ahead_ms - 1, entry.id, tag, entry.body)
        assert await world.send_items([item], ahead_ms) == [ReceiptCode.EXPIRED]


async def test_control_frames_reach_every_device_without_ack(world: World) -> None:
    async with world.client(device="a") as one, world.client(device="b") as two:
        await one.read("resumed")
        await two.read("resumed")
        tag = names.user_tag("acme", "ann").encode()
        body = b'{"t":"state","ids":[],"to":"read","rev":3,"unread":0}'
        item = batch.Item(batch.CONTROL, 0, 0, 0, 0, 0, bytes(16), tag, body)
        assert await world.send_items([item]) == [ReceiptCode.WRITTEN]
        for app in (one, two):
            assert (await app.read("state"))["rev"] == 3


async def test_commands(world: World) -> None:
    async with world.client(device="phone") as app:
        await app.read("resumed")
        ident = new_uuid7()
        await app.say(t="state", ids=[str(ident)], to="read")
        await app.say(t="page", limit=10)
        await app.read("page")
        await until(lambda: world.log.states)
        (request,) = world.log.states
        assert (request.tenant, request.user, request.device) == ("acme", "ann", "phone")
        assert (request.ids, request.to) == ([ident.bytes], "read")


@pytest.mark.parametrize(
    "frame",
    [
        {"t": "nope"},
        {"t": "ack"},
        {"t": "ack", "ids": ["x"]},
        {"t": "ack", "ids": [], "upto": "x"},
        {"t": "state", "ids": [], "to": "read"},
        {"t": "state", "ids": ["x"], "to": "read"},
        {"t": "state", "ids": ["x"], "to": "eaten"},
        {"t": "page", "limit": 0},
        {"t": "page", "limit": 101},
        {"t": "ping", "more": 1},
        {"t": "auth", "token": "again"},
    ],
    ids=str,
)
async def test_bad_frames(world: World, frame: dict[str, object]) -> None:
    async with world.client() as app:
        await app.read("resumed")
        for _ in range(limits.BAD_FRAMES_MAX):
            await app.say(**frame)
        codes = [(await app.next())["code"] for _ in range(limits.BAD_FRAMES_MAX)]
        assert codes == ["bad_frame"] * limits.BAD_FRAMES_MAX
        assert await app.closed() == 4400


async def test_an_inbox_that_is_away_makes_resume_pending(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.resume.FILL_RETRY_MS", 200)
    await world.stop_inbox()
    for _ in range(3):
        world.log.add("ann")
    async with world.client(cursor=Cursor(EPOCH, {"direct.high": 1}), device="old") as app:
        assert app.welcome["recovered"] == "pending"
        live = world.log.add("ann", Lane.DIRECT_MEDIUM)
        assert await world.send("ann", live) == [ReceiptCode.FULL]  # no cursor for that lane
        await world.start_inbox()
        got = [await app.read("n", 5) for _ in range(3)]
        assert sorted((frame["lane"], frame["seq"]) for frame in got) == [
            ("direct.high", 2), ("direct.high", 3), ("direct.medium", 1),
        ]  # fmt: skip
        resumed = await app.read("resumed")
        assert resumed["recovered"] is True


async def test_live_items_flow_while_resume_is_pending(world: World) -> None:
    world.log.add("ann")
    world.log.busy = True
    async with world.client(cursor=Cursor(EPOCH, {"direct.high": 1})) as app:
        assert app.welcome["recovered"] == "pending"
        assert await world.send("ann", world.log.add("ann")) == [ReceiptCode.WRITTEN]
        assert await app.seqs(1) == [2]
        world.log.busy = False
        assert (await app.read("resumed", 5))["at"]["direct.high"] == 2


async def test_a_cursor_of_another_user_moves_nothing_while_resume_is_pending(world: World) -> None:
    first = world.log.add("ann")
    world.log.busy = True
    bobs = Cursor(user_epoch(LOG_EPOCH, "acme", "bob"), {"direct.high": 1})
    async with world.client(cursor=bobs) as app:
        assert (app.welcome["recovered"], app.welcome["epoch"]) == ("pending", EPOCH)
        second = world.log.add("ann")
        assert await world.send("ann", second) == [ReceiptCode.FULL]  # the first one comes first
        world.log.busy = False
        assert await app.seqs(2) == [first.seq, second.seq]
        assert (await app.read("resumed", 5))["recovered"] is False


async def test_a_mark_that_changes_nothing_is_answered_to_who_asked(world: World) -> None:
    known = new_uuid7()
    async with world.client() as app:
        await app.read("resumed")
        for world.log.unchanged in ([], [known.bytes]):
            await app.say(t="state", ids=[str(known)], to="seen")
            found = [str(known)] if world.log.unchanged else []
            assert await app.read("state") == {"t": "state", "ids": found, "to": "seen", "rev": 2, "unread": 0}


async def test_a_silent_inbox_is_pending_within_its_deadline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.resume.INBOX_DEADLINE_MS", 300)

    async def hang(subject: str, payload: bytes) -> bytes:
        await asyncio.sleep(3)
        return b""

    await world.stop_inbox()
    await world.bus().serve(names.INBOX_RESUME, hang, concurrent=True)
    started = time.monotonic()
    async with world.client() as app:
        assert app.welcome["recovered"] == "pending"
        assert time.monotonic() - started < 1.9  # what the deadline would be without the patch: 2


async def test_commands_are_busy_without_inbox(world: World) -> None:
    async with world.client() as app:
        await app.read("resumed")
        await world.stop_inbox()
        await app.say(t="page")
        assert await app.next() == {"t": "error", "code": "busy", "retry_ms": 1_000}


async def test_one_connection_has_few_commands_under_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.commands.INBOX_DEADLINE_MS", 60_000)
    ident = str(new_uuid7())
    async with world.client(device="phone") as phone, world.client(device="laptop") as laptop:
        await phone.read("resumed", 30)
        await laptop.read("resumed", 30)
        world.log.gate.clear()
        await phone.say(t="page")
        await phone.say(t="state", ids=[ident], to="read")
        await until(lambda: world.log.commands == 2, 30)
        for frame in ({"t": "page"}, {"t": "state", "ids": [ident], "to": "seen"}):
            await phone.say(**frame)
            assert await phone.read("error", 30) == {"t": "error", "code": "busy", "retry_ms": 1_000}
        await laptop.say(t="page")  # another connection of the same user has its own
        await until(lambda: world.log.commands == 3, 30)
        world.log.gate.set()
        await phone.read("page", 30)
        await laptop.read("page", 30)
        await until(lambda: not world.gateway._commands._asking, 30)
        assert [state.to for state in world.log.states] == ["read"]
        await phone.say(t="page")
        await phone.read("page", 30)


async def test_receipts_survive_a_redis_outage_in_order(world: World) -> None:
    async with world.client() as app:
        await app.read("resumed")
        await until(lambda: world.receipts())
        world.store.up = False
        for _ in range(3):
            await world.send("ann", world.log.add("ann"))
            await app.ack(await app.read("n"))
            await asyncio.sleep(0.02)
        assert world.acked() == []
        world.store.up = True
        await until(lambda: world.gateway._pipeline.queued == 0)
        numbers = [receipt.number for receipt in world.receipts()]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(world.acked()) == 3


async def test_a_flushed_redis_is_rewritten(world: World) -> None:
    async with world.client(device="phone") as app:
        await app.read("resumed")
        world.store.flush()
        await until(lambda: "phone" in world.presence("ann"), limits.PRESENCE_REBUILD_MS / 1_000)
        assert names.PRESENCE_BORN.encode() in world.store.strings


async def test_a_slow_reader_waits_in_the_log(world: World) -> None:
    async with world.client(max_queue=1) as app:
        await app.read("resumed")
        entries = [world.log.add("ann", size=limits.PAYLOAD_BYTES_MAX - 100) for _ in range(2_000)]
        written, frames = 0, []
        for first in range(0, 2_000, 100):
            part = entries[first : first + 100]
            codes = await world.send("ann", *part)
            written += codes.count(ReceiptCode.WRITTEN)
            connection = world.gateway.registry.connections()[0]
            assert connection.session.pending() <= limits.WRITE_BUFFER_BYTES_MAX * 2
        assert written <= limits.UNACKED_PER_CONNECTION_MAX
        while len(frames) < 2_000:
            frame = await app.next()
            assert frame["seq"] == len(frames) + 1
            frames.append(frame)
            if len(frames) % 50 == 0:
                await app.say(t="ack", upto=frame["id"])


async def test_what_was_parked_while_presence_was_away_follows(world: World) -> None:
    """A worker that found no entry has parked it; the entry is back, and nobody would send it again."""
    async with world.client("ann", device="phone") as phone:
        await phone.read("resumed")
        world.log.add("ann")
        await phone.silent()
        world.store.flush()
        assert (await phone.read("n", limits.PRESENCE_REBUILD_MS / 1_000))["seq"] == 1


@contextlib.asynccontextmanager
async def slow_inbox(world: World) -> AsyncIterator[asyncio.Event]:
    """An inbox that answers fills once the event is set."""
    go = asyncio.Event()

    async def answer(subject: str, payload: bytes) -> bytes:
        await go.wait()
        return await world._answer(subject, payload)

    await world.stop_inbox()
    await world.bus().serve(names.INBOX_RESUME, answer)
    try:
        yield go
    finally:
        go.set()


async def test_nothing_comes_before_the_welcome(world: World) -> None:
    """Frames that a client sends at once are answered, after its welcome."""
    async with slow_inbox(world) as go, world.client("ann", device="phone", raw=True) as phone:
        await phone.say(t="ping")
        await phone.say(t="page", limit=0)
        await phone.silent()
        go.set()
        assert [(await phone.next())["t"] for _ in range(3)] == ["welcome", "pong", "error"]
        await phone.read("resumed")


async def test_too_much_before_the_welcome_closes(world: World) -> None:
    async with slow_inbox(world), world.client("ann", device="phone", raw=True) as phone:
        for _ in range(3):
            await phone.say(t="ack", ids=["x" * 15_000])
        assert await phone.closed() == 4429
