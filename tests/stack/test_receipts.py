"""Role receipts on real Redis and PostgreSQL."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from notification import messages
from notification.codes import Status
from notification.ids import new_ulid, new_uuid7
from notification.messages import AckReceipt, ConnectionReceipt, ReceiptsEntry
from notification.names import RECEIPTS_FIELD, RECEIPTS_GROUP, RECEIPTS_STREAM
from notification.settings import Settings
from tests.stack.lab import Lab, open_lab, open_redis
from worker import receipts as receipts_module
from worker.partitions import Partitions
from worker.receipts import Receipts
from worker.store import StoredNotification

pytestmark = pytest.mark.stack


class World:
    def __init__(self, lab: Lab, redis: "Redis") -> None:
        self.lab = lab
        self.redis = redis
        self.gateway = f"test-0-{new_ulid()}"
        self.number = 0

    def role(self, consumer: str = "c1") -> Receipts:
        return Receipts(self.redis, self.lab.pools["receipts"], Partitions(self.lab.pools["receipts"]), consumer)

    async def add(
        self, *acks: AckReceipt, connections: tuple[ConnectionReceipt, ...] = (), number: int | None = None
    ) -> None:
        self.number = self.number + 1 if number is None else number
        entry = ReceiptsEntry(self.gateway, self.number, list(acks), list(connections))
        await self.add_raw(messages.encode(entry))

    async def add_raw(self, data: bytes) -> None:
        await self.redis.xadd(RECEIPTS_STREAM, {RECEIPTS_FIELD: data})

    async def left(self) -> tuple[int, int]:
        """Entries in the stream, and pending ones."""
        pending = await self.redis.xpending(RECEIPTS_STREAM, RECEIPTS_GROUP)
        return await self.redis.xlen(RECEIPTS_STREAM), pending["pending"]

    async def audit(self, event: str) -> list[str]:
        rows = await self.lab.rows(
            "SELECT detail::text FROM audit_events "
            "WHERE tenant_id = '*' AND event = $1 AND at > now() - '1 min'::interval",
            event,
        )
        return [row["detail"] for row in rows if self.gateway in row["detail"] or event == "receipts_poison"]


@pytest.fixture
async def world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_lab(servers) as lab, open_redis(servers) as redis:
        await redis.delete(RECEIPTS_STREAM)
        yield World(lab, redis)
        await redis.delete(RECEIPTS_STREAM)


def ack(sent: StoredNotification, user: str = "ann", device: str = "phone") -> AckReceipt:
    return AckReceipt(sent.tenant, user, device, sent.lane, sent.seq, sent.id.bytes, sent.sent_ms)


async def drain(role: Receipts) -> None:
    """Store everything there is."""
    await role.start()
    while await role.step():
        pass


async def test_an_ack_delivers_and_ends_the_retries(world: World, tenant: str) -> None:
    [sent] = await world.lab.store(tenant)
    await world.add(ack(sent))
    await drain(world.role())
    row = await world.lab.row(tenant, sent.id)
    assert (row["status"], row["rank"], row["status_code"], row["due_at"]) == ("DELIVERED", 3, 500, None)
    assert await world.lab.history(tenant, sent.id) == ["ACCEPTED", "DELIVERED"]
    assert await world.left() == (0, 0)


async def test_storing_an_entry_again_changes_nothing(world: World, tenant: str) -> None:
    [sent] = await world.lab.store(tenant)
    opened = ConnectionReceipt("open", "c-1", tenant, "ann", "phone", 0, sent.sent_ms)
    closed = ConnectionReceipt("close", "c-1", tenant, "ann", "phone", 1000, sent.sent_ms + 5)
    for _ in range(2):
        await world.add(ack(sent), ack(sent, device="laptop"), connections=(opened, closed), number=1)
        await drain(world.role())
    assert await world.lab.history(tenant, sent.id) == ["ACCEPTED", "DELIVERED"]
    rows = await world.lab.rows("SELECT status, close_code FROM connections WHERE tenant_id = $1", tenant)
    assert rows == [{"status": "closed", "close_code": 1000}]


@pytest.mark.parametrize(("status", "rank"), [("EXPIRED", 2), ("CANCELLED", 2), ("PARKED", 1)])
async def test_an_ack_of_a_sent_id_beats_a_terminal_state(
    world: World, tenant: str, status: str, rank: int
) -> None:
    [sent] = await world.lab.store(tenant)
    await world.lab.change(tenant, sent.id, f"status = '{status}', rank = {rank}")
    await world.add(ack(sent))
    await drain(world.role())
    assert (await world.lab.row(tenant, sent.id))["status"] == Status.DELIVERED


async def test_an_ack_never_takes_back_read(world: World, tenant: str) -> None:
    [sent] = await world.lab.store(tenant)
    await world.lab.change(tenant, sent.id, "status = 'READ', rank = 4")
    await world.add(ack(sent))
    await drain(world.role())
    assert (await world.lab.row(tenant, sent.id))["status"] == Status.READ


async def test_an_ack_of_another_user_or_tenant_is_nobodys(world: World, tenant: str) -> None:
    [sent] = await world.lab.store(tenant)
    foreign = AckReceipt("demo", "ann", "phone", 0, 1, sent.id.bytes, 1)
    injected = AckReceipt(f"x,{tenant}", "ann", "phone", 0, 1, sent.id.bytes, 1)
    await world.add(ack(sent, user="bob"), foreign, injected, AckReceipt(tenant, "ann", "d", 0, 1, b"short", 1))
    await drain(world.role())
    assert (await world.lab.row(tenant, sent.id))["status"] == Status.ACCEPTED
    assert await world.left() == (0, 0)


async def test_a_close_whose_open_was_lost_still_leaves_a_row(world: World, tenant: str) -> None:
    now_ms = await world.lab.now_ms()
    await world.add(connections=(ConnectionReceipt("close", "c-2", tenant, "ann", "phone", 1006, now_ms),))
    await drain(world.role())
    rows = await world.lab.rows("SELECT connection_id, status FROM connections WHERE tenant_id = $1", tenant)
    assert rows == [{"connection_id": "c-2", "status": "closed"}]


async def test_a_skipped_number_is_audited_once(world: World, tenant: str) -> None:
    for number in (1, 2, 5):
        await world.add(number=number)
    await drain(world.role())
    await world.add(number=6)
    await drain(world.role())
    [gap] = await world.audit("receipts_gap")
    assert '"from": 3' in gap
    assert '"to": 4' in gap
    await world.add(number=4)
    await drain(world.role())
    assert len(await world.audit("receipts_gap_late")) == 1


ENTRY = messages.encode(ReceiptsEntry("bad gateway", 1, [], []))


@pytest.mark.parametrize("data", [b"", b"\xc1junk", ENTRY, ENTRY.replace(b"bad", b"\xff\xfe\xff")])
async def test_poison_is_noted_and_holds_up_nothing(world: World, tenant: str, data: bytes) -> None:
    [sent] = await world.lab.store(tenant)
    before = len(await world.audit("receipts_poison"))
    await world.add_raw(data)
    await world.add(ack(sent))
    await drain(world.role())
    assert (await world.lab.row(tenant, sent.id))["status"] == Status.DELIVERED
    assert len(await world.audit("receipts_poison")) == before + 1
    assert await world.left() == (0, 0)


async def test_what_postgresql_refuses_by_itself_is_poison_and_the_rest_is_stored(
    world: World, tenant: str
) -> None:
    [sent] = await world.lab.store(tenant)
    now_ms = await world.lab.now_ms()
    await world.add(connections=(ConnectionReceipt("close", "c-3", tenant, "ann", "phone", 2**40, now_ms),))
    await world.add(ack(sent))
    await drain(world.role())
    assert (await world.lab.row(tenant, sent.id))["status"] == Status.DELIVERED
    assert await world.left() == (0, 0)


async def test_a_batch_that_was_read_but_not_stored_is_stored_by_the_next_start(world: World, tenant: str) -> None:
    [sent] = await world.lab.store(tenant)
    await world.add(ack(sent))
    dead = world.role("same")
    await dead.start()
    await world.redis.xreadgroup(RECEIPTS_GROUP, "same", {RECEIPTS_STREAM: ">"})
    assert await world.left() == (1, 1)
    await drain(world.role("same"))
    assert (await world.lab.row(tenant, sent.id))["status"] == Status.DELIVERED


async def test_entries_of_a_dead_consumer_are_taken_over(
    world: World, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts_module, "RECEIPTS_CLAIM_IDLE_MS", 50)
    [sent] = await world.lab.store(tenant)
    await world.role("dead").start()
    await world.add(ack(sent))
    await world.redis.xreadgroup(RECEIPTS_GROUP, "dead", {RECEIPTS_STREAM: ">"})
    await asyncio.sleep(0.1)
    await drain(world.role("alive"))
    assert (await world.lab.row(tenant, sent.id))["status"] == Status.DELIVERED
    assert await world.left() == (0, 0)


async def test_it_survives_a_flushed_redis(world: World, tenant: str) -> None:
    [sent] = await world.lab.store(tenant)
    role = world.role()
    await role.start()
    stop = asyncio.Event()
    running = asyncio.create_task(role.run(stop))
    await world.redis.delete(RECEIPTS_STREAM)
    await world.add(ack(sent))
    for _ in range(500):
        if (await world.lab.row(tenant, sent.id))["status"] == Status.DELIVERED:
            break
        await asyncio.sleep(0.02)
    stop.set()
    await running
    assert (await world.lab.row(tenant, sent.id))["status"] == Status.DELIVERED


async def test_an_ack_of_a_day_without_rows_is_ignored(world: World, tenant: str) -> None:
    old = uuid.UUID(bytes=new_uuid7(1_000).bytes)
    await world.add(AckReceipt(tenant, "ann", "phone", 0, 1, old.bytes, 1))
    await drain(world.role())
    assert await world.left() == (0, 0)


async def test_acks_of_ids_that_no_notification_can_have_do_not_hold_up_the_others(
    world: World, tenant: str
) -> None:
    [sent] = await world.lab.store(tenant)
    before = len(await world.audit("receipts_poison"))
    beyond = [b"\xff" * 16, new_uuid7(2**48 - 1).bytes, uuid.uuid4().bytes]
    await world.add(*(AckReceipt(tenant, "ann", "phone", 0, 1, ident, 1) for ident in beyond), ack(sent))
    await drain(world.role())
    assert (await world.lab.row(tenant, sent.id))["status"] == Status.DELIVERED
    assert len(await world.audit("receipts_poison")) == before
