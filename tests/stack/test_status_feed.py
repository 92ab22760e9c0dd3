"""worker/status_feed.py on real PostgreSQL and Kafka, read by a foreign consumer."""

import asyncio
import contextlib
import datetime
import secrets
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from devstack.ports import free_ports
from notification.codes import Status, StatusCode
from notification.ids import new_uuid7
from notification.messages import AckReceipt, RecallRequest, ReceiptsEntry, StateRequest
from notification.settings import Settings
from tests.contract.valkeys import until
from tests.stack.lab import Lab, open_lab, open_redis
from tests.stack.route import WAIT_S
from tests.stack.statuses import Change, StatusReader, by_user
from worker import status_feed, status_topic
from worker.log import LogAway
from worker.marks import mark
from worker.partitions import Partitions
from worker.positions import Fenced
from worker.recall import recall
from worker.receipts import Receipts, Received
from worker.status_feed import StatusFeed
from worker.status_topic import StateChange, StatusTopic
from worker.store import StoredNotification
from worker.transitions import DatabaseJournal, Transition

pytestmark = pytest.mark.stack

_POSITION = "SELECT history_id FROM status_position"


class World:
    """A feed that is driven turn by turn, over a connection of its own."""

    def __init__(self, lab: Lab, tenant: str, connection: Any) -> None:
        self.lab, self.tenant, self.connection = lab, tenant, connection
        self.topic = StatusTopic(lab.settings.kafka_servers)
        self.feed = StatusFeed(lab.pools["dispatch"], self.topic)

    async def position(self) -> int:
        position: int = await self.lab.owner.fetchval(_POSITION)
        return position

    async def newest(self) -> int:
        newest: int = await self.lab.owner.fetchval("SELECT coalesce(max(history_id), 0) FROM notification_history")
        return newest

    async def told(self, upto: int | None = None) -> None:
        """Turns until all is told that was written when this began."""
        goal = await self.newest() if upto is None else upto
        async with asyncio.timeout(WAIT_S):
            while await self.position() < goal:
                await self.feed.turn(self.connection)

    async def written(self) -> list[Change]:
        """The tenant's history in the shape of the topic, oldest first."""
        return await self.lab.rows(
            "SELECT history_id, notification_id::text AS id, tenant_id, entity_id AS user_id, status, status_code, "
            "floor(extract(epoch FROM timestamp) * 1000)::bigint AS at FROM notification_history "
            "WHERE tenant_id = $1 ORDER BY history_id", self.tenant,
        )  # fmt: skip

    async def move(self, one: StoredNotification, status: Status, code: StatusCode) -> None:
        await DatabaseJournal(self.lab.pools["dispatch"]).record([Transition(one, status, code, 1, 5_000)])

    async def delivered(self, one: StoredNotification) -> None:
        ack = AckReceipt(one.tenant, one.user, "phone", one.lane, one.seq, one.id.bytes, 1)
        pool = self.lab.pools["receipts"]
        async with open_redis(self.lab.settings) as redis:
            entry = ReceiptsEntry(f"g-{new_uuid7()}", 1, [ack], [])
            await Receipts(redis, pool, Partitions(pool), "test").store([Received(b"1-1", entry)])


@pytest.fixture
async def world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_lab(servers) as lab, lab.pools["dispatch"].acquire() as connection:
        made = World(lab, tenant, connection)
        try:
            await made.told()  # what other tests have written
            yield made
        finally:
            await made.topic.close()


@pytest.fixture
async def reader(world: World) -> AsyncIterator[StatusReader]:
    async with StatusReader(world.lab.settings, world.tenant) as made:
        yield made


def number_of(changes: Sequence[Change]) -> set[int]:
    return {change["history_id"] for change in changes}


async def test_all_that_becomes_of_notifications_is_told_once_and_in_order(
    world: World, reader: StatusReader
) -> None:
    lab, tenant = world.lab, world.tenant
    read, recalled = await lab.store(tenant, ["ann", "bob|x@y"])
    [replaced] = await lab.store(tenant, "ann", collapse_key="k")
    await world.move(replaced, Status.PARKED, StatusCode.PARKED_OFFLINE)
    [late] = await lab.store(tenant, "ann", collapse_key="k")
    await world.move(late, Status.EXPIRED, StatusCode.EXPIRED_TTL)
    for _ in range(2):
        await world.move(read, Status.DISPATCHED, StatusCode.SENT)
    await world.delivered(read)
    await mark(lab.pools["inbox"], StateRequest(tenant, "ann", "phone", [read.id.bytes], "read"))
    await recall(lab.pools["inbox"], RecallRequest(tenant, recalled.id.bytes, "bob|x@y"))
    written = await world.written()
    assert {row["status"] for row in written} == set(Status) - {Status.DEAD}
    await world.told()
    changes = await reader.until(lambda changes: len(changes) >= len(written))
    assert sorted(changes, key=lambda change: change["history_id"]) == written
    assert all(numbers == sorted(numbers) for numbers in by_user(changes).values())
    of_read = [change["status"] for change in changes if change["id"] == str(read.id)]
    assert of_read == ["ACCEPTED", "DISPATCHED", "DISPATCHED", "DELIVERED", "READ"]


async def test_a_change_that_commits_late_is_not_passed(world: World, reader: StatusReader) -> None:
    ids = [new_uuid7() for _ in range(3)]
    before = await world.position()
    other = await asyncpg.connect(world.lab.settings.postgres_dsn)
    third = await asyncpg.connect(world.lab.settings.postgres_dsn)
    try:
        for connection in (other, third):
            await connection.execute("SELECT set_config('herald.tenants', $1, false)", world.tenant)
        early, lost = other.transaction(), third.transaction()
        await early.start()
        await _write(other, world.tenant, ids[0])
        await lost.start()
        await _write(third, world.tenant, ids[1])
        await _write(world.lab.owner, world.tenant, ids[2])  # commits at once, with the highest number
        newest = await world.newest()
        for _ in range(3):
            assert await world.feed.turn(world.connection) == 0
        assert await world.position() == before
        await lost.rollback()
        assert await world.feed.turn(world.connection) == 0
        assert await world.position() == before
        await early.commit()
        await world.told(newest)
    finally:
        await other.close()
        await third.close()
    changes = await reader.until(lambda changes: len(changes) >= 2)
    assert [change["id"] for change in changes] == [str(ids[0]), str(ids[2])]


async def test_the_newest_transaction_of_all_is_waited_for(world: World, reader: StatusReader) -> None:
    before = await world.position()
    async with world.lab.owner.transaction():
        await _write(world.lab.owner, world.tenant, ident := new_uuid7())
        for _ in range(3):
            assert await world.feed.turn(world.connection) == 0
        assert await world.position() == before
    await world.told()
    assert [change["id"] for change in await reader.until(bool)] == [str(ident)]


async def _write(connection: Any, tenant: str, ident: uuid.UUID) -> None:
    await connection.execute(
        "INSERT INTO notification_history (day, tenant_id, notification_id, entity_id, status, status_code) "
        "VALUES ((now() AT TIME ZONE 'UTC')::date, $1, $2, 'ann', 'ACCEPTED', 100)", tenant, ident,
    )  # fmt: skip


class _Killed(Exception):
    pass


class _Dying:
    """The real topic of a process that dies between Kafka's ack and PostgreSQL."""

    def __init__(self, topic: StatusTopic) -> None:
        self._topic = topic

    async def publish(self, changes: Sequence[StateChange]) -> None:
        await self._topic.publish(changes)
        raise _Killed

    async def close(self) -> None:
        await self._topic.close()


async def test_a_reader_that_dies_before_it_notes_its_position_is_repeated(
    world: World, reader: StatusReader
) -> None:
    await world.lab.store(world.tenant, [f"user{number}" for number in range(20)])
    numbers = number_of(await world.written())
    before = await world.position()
    dying = StatusFeed(world.lab.pools["dispatch"], _Dying(world.topic))
    with pytest.raises(_Killed):
        await dying.turn(world.connection)
    assert await world.position() == before
    await world.told()
    changes = await reader.until(lambda changes: len(changes) >= 2 * len(numbers))
    assert number_of(changes) == numbers
    assert len(changes) == 2 * len(numbers)


async def test_a_backlog_is_told_batch_by_batch_in_order(
    world: World, reader: StatusReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_feed, "STATUS_BATCH_RECORDS_MAX", 10)
    now = datetime.datetime.now(datetime.UTC)
    for hours in (0, 20, 1, 23):  # rows of two days' partitions, in turns
        ago_ms = int((now - datetime.timedelta(hours=hours)).timestamp() * 1000)
        await world.lab.store_many(world.tenant, "ann", 7, ago_ms)
    numbers = sorted(number_of(await world.written()))
    assert [await world.feed.turn(world.connection) for _ in range(4)] == [10, 10, 8, 0]
    changes = await reader.until(lambda changes: len(changes) >= len(numbers))
    assert [change["history_id"] for change in changes] == numbers


async def test_a_position_that_another_process_moved_is_given_up(world: World) -> None:
    await world.lab.store(world.tenant)

    class Moved(_Dying):
        async def publish(self, changes: Sequence[StateChange]) -> None:
            assert changes
            await world.lab.owner.execute("UPDATE status_position SET history_id = $1", await world.newest())

    with pytest.raises(Fenced):
        await StatusFeed(world.lab.pools["dispatch"], Moved(world.topic)).turn(world.connection)
    assert await world.position() == await world.newest()


@contextlib.asynccontextmanager
async def running(world: World, topic: StatusTopic) -> AsyncIterator[asyncio.Task[None]]:
    """A feed as in a process of its own."""
    stop = asyncio.Event()
    task = asyncio.create_task(StatusFeed(world.lab.pools["dispatch"], topic).run(stop))
    try:
        yield task
    finally:
        stop.set()
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait({task})


async def test_one_process_tells_at_a_time_and_another_takes_over(
    world: World, reader: StatusReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_feed, "STATUS_TAKEOVER_MS", 20)
    servers = world.lab.settings.kafka_servers
    count = 0

    async def store_some() -> None:
        nonlocal count
        await world.lab.store(world.tenant, [f"user{number}" for number in range(10)])
        count += 10
        await reader.until(lambda changes: len(changes) >= count)

    async with running(world, StatusTopic(servers)) as first:
        await store_some()
        async with running(world, StatusTopic(servers)):
            await store_some()
            first.cancel()  # dies: its session goes, and its lock with it
            await asyncio.wait({first})
            await store_some()
    assert len(reader.changes) == len(number_of(reader.changes)) == count


async def test_while_kafka_is_away_it_waits(world: World, reader: StatusReader) -> None:
    await world.lab.store(world.tenant, ["ann", "bob"])
    before = await world.position()
    away = StatusTopic(f"127.0.0.1:{free_ports(1)[0]}")
    with structlog.testing.capture_logs() as logged:
        async with running(world, away):
            await until(lambda: [entry["event"] for entry in logged].count("status_paused") >= 2)  # it tries again
    assert await world.position() == before
    async with running(world, world.topic):
        changes = await reader.until(lambda changes: len(changes) >= 2)
    assert {change["user_id"] for change in changes} == {"ann", "bob"}


@pytest.mark.kafka
async def test_while_the_topic_is_missing_it_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded broker makes a topic for whoever writes to one."""
    monkeypatch.setattr(status_topic, "STATUS_PUBLISH_DEADLINE_MS", 1_000)
    monkeypatch.setattr(status_topic, "TOPIC_STATUS", topic := f"status-{secrets.token_hex(4)}")
    await world.lab.store(world.tenant, ["ann", "bob"])
    before = await world.position()
    with pytest.raises(LogAway):
        await world.feed.turn(world.connection)
    assert await world.position() == before
    await _make(world.lab.settings, topic)
    async with running(world, world.topic), StatusReader(world.lab.settings, world.tenant, topic) as reader:
        changes = await reader.until(lambda changes: len(number_of(changes)) >= 2)
    assert {change["user_id"] for change in changes} == {"ann", "bob"}


async def _make(settings: Settings, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 2, 1)])
    finally:
        await admin.close()
