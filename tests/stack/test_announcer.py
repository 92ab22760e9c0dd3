"""Audiences on the bus: what role dispatch publishes, and what role inbox answers to gateway processes about it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import NoReturn

import pytest

from notification import batch, frames
from notification.ids import TENANT
from notification.limits import BUS_BATCH_BYTES_MAX, ENTITLED_USERS_COUNT_MAX, PAYLOAD_BYTES_MAX
from notification.messages import (
    AudienceFillReply,
    AudienceFillRequest,
    EntitledReply,
    EntitledRequest,
    Failure,
    RecallRequest,
)
from notification.names import audience_subjects
from notification.settings import Settings
from tests.stack.inboxes import World, open_world
from tests.twins.bus import MemoryBus
from worker.announcer import Announcer
from worker.clock import DatabaseClock
from worker.operations import Operations
from worker.store import StoredNotification, encode_body

pytestmark = pytest.mark.stack

VIP = "segment:vip"


@pytest.fixture
async def world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_world(servers, tenant) as made:
        yield made


@pytest.fixture
async def operations(servers: Settings, tenant: str) -> AsyncIterator[Operations]:
    made = await Operations.connect(servers)
    await made.segments.create(tenant, "vip")
    await made.segments.add(tenant, "vip", ["ann", "bob"])
    yield made
    await made.close()


class Gateway:
    """Hears what is published for the tenant."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, list[batch.Item]]] = asyncio.Queue()

    async def handle(self, subject: str, message: bytes) -> None:
        assert len(message) <= BUS_BATCH_BYTES_MAX
        self.heard.put_nowait((subject.rpartition(".")[2], batch.unpack(message)[1]))

    async def next(self) -> tuple[str, list[batch.Item]]:
        return await asyncio.wait_for(self.heard.get(), 30)


@pytest.fixture
async def gateway(world: World) -> Gateway:
    made = Gateway()
    await world.gateway.serve(audience_subjects(world.tenant), made.handle)
    return made


def announcer(world: World) -> Announcer:
    return Announcer(MemoryBus(world.hub), world.lab.pools["dispatch"], DatabaseClock())


async def sent(
    world: World, audience: str = TENANT, kind: str = "service", priority: int = 0
) -> StoredNotification:
    [one] = await world.lab.store(world.tenant, audience, priority, type=kind)
    return one


async def test_each_is_published_once_in_order_with_whether_it_is_everybodys(
    world: World, operations: Operations, gateway: Gateway
) -> None:
    notifications = [
        await sent(world, TENANT, "system_alert"), await sent(world, TENANT, "service"),
        await sent(world, VIP, "system_alert"),
    ]  # fmt: skip
    low = await sent(world, priority=2)
    made = announcer(world)
    for one in (*notifications, low):
        made.put(one)
    await made.publish()
    priority, items = await gateway.next()
    assert priority == "high"
    assert [(item.kind, item.lane, item.attempt, item.seq, item.prev) for item in items] == [
        (batch.AUDIENCE, 3, batch.EVERYONE, 1, 0), (batch.AUDIENCE, 3, 0, 2, 1), (batch.AUDIENCE, 3, 0, 3, 2)
    ]  # fmt: skip
    first, one = items[0], notifications[0]
    assert (first.tag, first.id, first.expiry_ms, first.body) == (
        world.tenant.encode(), one.id.bytes, one.expiry_ms, encode_body(one)
    )  # fmt: skip
    priority, [item] = await gateway.next()
    assert (priority, item.lane, item.seq) == ("low", 5, 1)
    await made.publish()
    assert gateway.heard.empty()


async def test_many_at_once_come_in_batches_that_the_bus_takes(world: World, gateway: Gateway) -> None:
    payload = b'{"title":"T","body":"' + b"x" * (PAYLOAD_BYTES_MAX - 30) + b'"}'
    made = announcer(world)
    count = BUS_BATCH_BYTES_MAX // PAYLOAD_BYTES_MAX + 10
    for one in await world.lab.store(world.tenant, [TENANT] * count, payload=payload):
        made.put(one)
    await made.publish()
    parts = [(await gateway.next())[1], (await gateway.next())[1]]
    assert [item.seq for part in parts for item in part] == list(range(1, count + 1))
    assert gateway.heard.empty()


async def test_the_heads_are_told_for_a_while(
    world: World, operations: Operations, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.announcer.AUDIENCE_HEADS_COUNT", 2)
    made = announcer(world)
    await made.tell_heads()
    assert gateway.heard.empty(), "nobody had one"
    for audience, priority in ((TENANT, 1), (VIP, 1), (VIP, 2)):
        made.put(await sent(world, audience, priority=priority))
    await sent(world, TENANT, priority=2)  # another worker's
    for _ in range(2):
        await made.tell_heads()
        _priority, [item] = await gateway.next()
        assert (item.kind, item.tag.decode()) == (batch.HEADS, world.tenant)
        assert batch.unpack_heads(item.body) == (0, 2, 2)
    await made.tell_heads()
    assert gateway.heard.empty()


async def test_an_outage_uses_up_none_of_the_heads(
    world: World, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.announcer.AUDIENCE_HEADS_COUNT", 1)
    made = announcer(world)
    world.hub.up = False
    made.put(await sent(world))
    await made.publish()
    await made.tell_heads()
    world.hub.up = True
    with monkeypatch.context() as broken:
        broken.setattr("worker.announcer.heads_of", None)
        with pytest.raises(TypeError):
            await made.tell_heads()
    assert gateway.heard.empty()
    await made.tell_heads()
    assert (await gateway.next())[1][0].kind == batch.HEADS


async def test_the_loops_publish_what_comes_and_tell_the_heads_whatever_breaks(
    world: World, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = announcer(world)
    first, second = await sent(world), await sent(world)
    running = [asyncio.create_task(loop) for loop in (made.run(), made.run_heads())]
    broken: set[str] = set()

    def breaking(name: str) -> Callable[..., NoReturn]:
        def fail(*_: object) -> NoReturn:
            broken.add(name)
            raise ValueError(name)

        return fail

    try:
        with monkeypatch.context() as patch:
            patch.setattr("worker.announcer.heads_of", breaking("heads"))
            patch.setattr("worker.announcer.audience_item", breaking("publish"))
            made.put(first)
            async with asyncio.timeout(30):
                while broken != {"heads", "publish"}:  # noqa: ASYNC110 - by the loops' own time
                    await asyncio.sleep(0.01)
        assert gateway.heard.empty()
        made.put(second)
        kinds = [(await gateway.next())[1][0].kind]
        while not {batch.AUDIENCE, batch.HEADS} <= set(kinds):
            kinds.append((await gateway.next())[1][0].kind)
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


# --- who may have it --------------------------------------------------------
async def entitled(world: World, one: StoredNotification, *users: str, tenant: str = "") -> str:
    reply = await world.ask(EntitledRequest(tenant or world.tenant, one.lane, one.seq, list(users)))
    assert isinstance(reply, EntitledReply), reply
    bits = "".join(f"{byte:08b}" for byte in reply.bits)
    assert len(bits) == (len(users) + 7) // 8 * 8
    return bits


async def test_who_may_have_it_is_one_bit_each(world: World, operations: Operations) -> None:
    crowd = [f"u{number}" for number in range(7)]
    everybodys, members = await sent(world), await sent(world, VIP)
    await operations.segments.add(world.tenant, "vip", ["eve"])
    await operations.segments.remove(world.tenant, "vip", ["bob"])
    assert await entitled(world, everybodys, *crowd, "ann", "eve") == "1" * 9 + "0" * 7
    assert await entitled(world, members, *crowd, "ann", "eve", "bob", "ann") == "0000000101100000"
    assert await entitled(world, members) == ""
    await operations.set_preference(world.tenant, "ann", False, kind="service")
    alert = await sent(world, TENANT, "system_alert")
    assert [await entitled(world, one, "ann", "bob") for one in (everybodys, members, alert)] == [
        "01000000", "01000000", "11000000",
    ]  # fmt: skip


async def test_a_recalled_or_expired_one_is_still_somebodys_and_an_unknown_one_nobodys(
    world: World, operations: Operations
) -> None:
    one = await sent(world, VIP)
    await world.ask(RecallRequest(world.tenant, one.id.bytes))
    await world.lab.change(world.tenant, one.id, "expiry = now()")
    assert await entitled(world, one, "ann", "eve") == "10000000"
    [direct] = await world.lab.store(world.tenant)
    reply = await world.ask(EntitledRequest(world.tenant, 3, one.seq + 1, ["ann"]))
    assert reply == EntitledReply(b"\0")
    assert await entitled(world, one, "ann", tenant="demo") == "00000000"
    for request in (
        EntitledRequest(world.tenant, direct.lane, direct.seq, ["ann"]),
        EntitledRequest(world.tenant, 6, 1, ["ann"]),
        EntitledRequest(world.tenant, 3, -1, ["ann"]),
        EntitledRequest(world.tenant, 3, 1, ["ann"] * (ENTITLED_USERS_COUNT_MAX + 1)),
        EntitledRequest(f"demo,{world.tenant}", 3, 1, ["ann"]),
        AudienceFillRequest(world.tenant, 2, 0),
        AudienceFillRequest(world.tenant, 3, -1),
    ):
        assert await world.ask(request) == Failure("bad_frame")


async def test_as_many_users_as_a_question_may_name(world: World, operations: Operations) -> None:
    one = await sent(world, VIP)
    crowd = [f"{'x' * 120}{number:07}" for number in range(ENTITLED_USERS_COUNT_MAX - 1)]
    assert await entitled(world, one, *crowd, "ann") == "0" * (ENTITLED_USERS_COUNT_MAX - 1) + "1"


# --- what a process missed --------------------------------------------------
async def missed(world: World, after: int, lane: int = 3) -> AudienceFillReply:
    reply = await world.ask(AudienceFillRequest(world.tenant, lane, after))
    assert isinstance(reply, AudienceFillReply), reply
    assert abs(reply.database_ms - await world.lab.now_ms()) < 60_000
    return reply


async def test_what_lies_after_a_seq_whoever_it_is_for(
    world: World, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await missed(world, 0)).at == 0
    notifications = [
        await sent(world, audience, kind)
        for audience, kind in (
            (TENANT, "system_alert"), (VIP, "service"), (TENANT, "service"), (VIP, "system_alert"),
            (TENANT, "service"),
        )
    ]  # fmt: skip
    reply = await missed(world, 0)
    assert [(item.lane, item.seq, item.id, item.body) for item in reply.items] == [
        (3, one.seq, one.id.bytes, encode_body(one)) for one in notifications
    ]
    assert (reply.everyone, reply.at, reply.more) == ([True, False, False, False, False], 5, False)
    await world.ask(RecallRequest(world.tenant, notifications[3].id.bytes))
    await world.lab.change(world.tenant, notifications[4].id, "expiry = now()")
    reply = await missed(world, 1)
    assert ([item.seq for item in reply.items], reply.at) == ([2, 3], 5)
    monkeypatch.setattr("worker.audience_questions.FILL_ITEMS_MAX", 2)
    part = await missed(world, 0)
    assert ([item.seq for item in part.items], part.everyone, part.at, part.more) == (
        [1, 2],
        [True, False],
        2,
        True,
    )
    monkeypatch.setattr("worker.audience_questions.FILL_BYTES_MAX", len(encode_body(notifications[0])) + 10)
    part = await missed(world, 0)
    assert ([item.seq for item in part.items], part.at, part.more) == ([1], 1, True)
    assert (await missed(world, 0, lane=4)).items == []


async def test_a_recall_is_told_to_every_gateway_process(
    world: World, operations: Operations, gateway: Gateway
) -> None:
    for audience, kind, everyone in ((TENANT, "system_alert", batch.EVERYONE), (VIP, "service", 0)):
        one = await sent(world, audience, kind)
        await world.ask(RecallRequest(world.tenant, one.id.bytes))
        _priority, [item] = await gateway.next()
        assert (item.kind, item.lane, item.seq, item.attempt) == (batch.CONTROL, 3, one.seq, everyone)
        assert (item.id, item.tag.decode()) == (one.id.bytes, world.tenant)
        assert frames.decode_server(item.body) == frames.StateFrame([str(one.id)], "recalled", 0, 0)
