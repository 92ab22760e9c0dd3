"""The storing transaction, the partitions and row-level security on a real PostgreSQL."""

import asyncio
import datetime
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from notification.codes import Lane
from notification.errors import CryptoError
from notification.frames import Notification, decode_server
from notification.ids import new_uuid7
from notification.limits import ACK_DUE_MS, PARTITION_DAYS_AHEAD, PARTITION_DAYS_BEHIND
from notification.settings import Settings
from worker import crypto, migrate
from worker.admission import Admitted, Reason
from worker.database import (
    KEY_ROLES,
    PLATFORM,
    ROLES,
    Pool,
    connect_pool,
    database_ms,
    keys_dsn,
    tenant_transaction,
)
from worker.keys import KeyRing, master_key, new_tenant_key
from worker.log import Partition, Record
from worker.partitions import Partitions, day_of, make_ahead
from worker.positions import Fenced, Move, Position
from worker.store import Outcome, Rejected, Store, encode_body

pytestmark = pytest.mark.stack


class Bench:
    """A store with two tenants of its own and a partition of its own."""

    def __init__(self, settings: Settings, owner: Any, pool: Pool, keys_pool: Pool) -> None:
        self.settings, self.owner, self.pool = settings, owner, pool
        self.ring = KeyRing(master_key(settings), pool, keys_pool)
        self.store = Store(pool, self.ring, Partitions(pool))
        self.tenant, self.other = f"t_{secrets.token_hex(5)}", f"t_{secrets.token_hex(5)}"
        self.partition = Partition(f"topic_{secrets.token_hex(5)}", 0)
        self.position = 0
        self.buried: list[Rejected] = []

    async def bury(self, rejected: Sequence[Rejected]) -> None:
        self.buried += rejected

    def event(self, user: str = "u1", **changes: Any) -> Admitted:
        now_ms = time.time_ns() // 1_000_000
        values: dict[str, Any] = {
            "record": Record(*self.partition, 0, None, b"", 0, None),
            "tenant": self.tenant, "user": user, "id": new_uuid7(), "type": "service", "priority": 0,
            "payload": b'{"title":"Canary","body":"B"}', "body_hash": b"h" * 32, "sent_ms": now_ms,
            "ttl_s": 600, "collapse_key": None, "not_before_ms": None,
        }  # fmt: skip
        return Admitted(**(values | changes))

    async def put(self, *events: Admitted) -> Outcome:
        count = max(1, len(events))
        outcome = await self.store.store(
            events, [Move(self.partition, self.position, self.position + count)], self.bury
        )
        self.position += count
        return outcome

    async def rows(self, table: str = "notifications", tenant: str = "") -> list[asyncpg.Record]:
        return await self.owner.fetch(f"SELECT * FROM {table} WHERE tenant_id = $1", tenant or self.tenant)


@pytest.fixture
async def bench(servers: Settings) -> AsyncIterator[Bench]:
    owner = await asyncpg.connect(servers.postgres_dsn)
    pool, keys_pool = await connect_pool(servers, "dispatch"), await connect_pool(servers, "dispatch", keys=True)
    bench = Bench(servers, owner, pool, keys_pool)
    for tenant in (bench.tenant, bench.other):
        await owner.execute(
            "INSERT INTO tenants (tenant_id, tenant_name, wrapped_key) VALUES ($1, 'T', $2)",
            tenant,
            new_tenant_key(master_key(servers), tenant),
        )
    await bench.store.begin({bench.partition: Position(0, None)})
    try:
        yield bench
    finally:
        for one in (pool, keys_pool):
            await one.close()
        await owner.close()


async def test_a_batch_becomes_rows_with_a_chain_per_lane(bench: Bench) -> None:
    first, second = bench.event(), bench.event()
    low, other_user = bench.event(priority=2), bench.event("u2")
    outcome = await bench.put(first, second, low, other_user)
    third = bench.event()
    outcome_2 = await bench.put(third)
    got = [(n.id, n.user, n.lane, n.prev, n.seq) for n in outcome.ready + outcome_2.ready]
    assert got == [
        (first.id, "u1", Lane.DIRECT_HIGH, 0, 1),
        (second.id, "u1", Lane.DIRECT_HIGH, 1, 2),
        (low.id, "u1", Lane.DIRECT_LOW, 0, 1),
        (other_user.id, "u2", Lane.DIRECT_HIGH, 0, 1),
        (third.id, "u1", Lane.DIRECT_HIGH, 2, 3),
    ]
    rows = {row["notification_id"]: row for row in await bench.rows()}
    assert len(rows) == 5
    row = rows[first.id]
    assert (row["status"], row["rank"], row["status_code"], row["attempt"]) == ("ACCEPTED", 0, 100, 0)
    assert row["action"] == "notify"
    assert row["expiry"] - row["sent_at"] == datetime.timedelta(seconds=row["ttl"])
    assert round(row["sent_at"].timestamp() * 1000) == first.sent_ms
    due_in_s = row["due_at"].timestamp() - time.time()
    assert ACK_DUE_MS / 1000 - 3 < due_in_s <= ACK_DUE_MS / 1000 + 0.5
    assert (rows[third.id]["rev"], row["rev"]) == (2, 1)
    history = await bench.rows("notification_history")
    assert sorted(h["notification_id"] for h in history) == sorted(rows)
    assert {(h["status"], h["status_code"]) for h in history} == {("ACCEPTED", 100)}
    assert {(s["entity_id"], s["rev"]) for s in await bench.rows("user_state")} == {("u1", 2), ("u2", 1)}


async def test_the_frame_of_a_stored_notification(bench: Bench) -> None:
    (stored,) = (await bench.put(bench.event(priority=1, collapse_key="c"))).ready
    frame = decode_server(encode_body(stored))
    assert isinstance(frame, Notification)
    assert (frame.lane, frame.seq, frame.priority, frame.type) == ("direct.medium", 1, "medium", "service")
    assert (frame.id, frame.collapse) == (str(stored.id), "c")
    assert bytes(frame.p) == stored.payload
    assert frame.expires_at - frame.sent_at == 600_000


async def test_the_same_event_again_is_left_out(bench: Bench) -> None:
    event = bench.event()
    outcome = await bench.put(event, event)
    assert (len(outcome.ready), outcome.duplicates) == (1, 1)
    outcome = await bench.put(event)
    assert (outcome.ready, outcome.duplicates, bench.buried) == ([], 1, [])
    assert len(await bench.rows()) == 1
    assert len(await bench.rows("notification_history")) == 1
    assert [head["seq"] for head in await bench.rows("lane_heads")] == [1]


async def test_an_id_with_another_body_is_a_dead_letter(bench: Bench) -> None:
    event = bench.event()
    changed = event._replace(body_hash=b"x" * 32)
    outcome = await bench.put(event, changed)
    assert (len(outcome.ready), outcome.rejected) == (1, 1)
    await bench.put(changed, bench.event())
    assert [(r.event, r.rejection.reason) for r in bench.buried] == [(changed, Reason.ID_REUSED)] * 2
    assert len(await bench.rows()) == 2


async def test_the_same_id_for_another_user_or_tenant_is_another_notification(bench: Bench) -> None:
    event = bench.event()
    others = [event._replace(user="u2"), event._replace(tenant=bench.other)]
    assert len((await bench.put(event, *others)).ready) == 3


async def test_unknown_and_suspended_tenants_are_dead_letters_and_obeyed_at_once(bench: Bench) -> None:
    unknown = bench.event(tenant="t_nobody")
    await bench.put(unknown, bench.event())
    await bench.owner.execute("UPDATE tenants SET status = 'suspended' WHERE tenant_id = $1", bench.tenant)
    suspended = bench.event()
    await bench.put(suspended, bench.event(tenant=bench.other))
    await bench.owner.execute("UPDATE tenants SET status = 'active' WHERE tenant_id = $1", bench.tenant)
    assert len((await bench.put(bench.event())).ready) == 1
    assert [(r.event, r.rejection.reason) for r in bench.buried] == [
        (unknown, Reason.UNKNOWN_TENANT),
        (suspended, Reason.TENANT_SUSPENDED),
    ]
    assert len(await bench.rows()) == 2
    keys = await asyncpg.connect(keys_dsn(bench.settings))
    try:
        assert await keys.fetchval("SELECT count(*) FROM user_keys WHERE tenant_id = 't_nobody'") == 0
    finally:
        await keys.close()


async def test_dead_letters_come_before_the_position(bench: Bench) -> None:
    async def kafka_away(rejected: Sequence[Rejected]) -> None:
        assert await bench.store.positions([bench.partition]) == {bench.partition: Position(0, None)}
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await bench.store.store(
            [bench.event(tenant="t_nobody"), bench.event()], [Move(bench.partition, 0, 2)], kafka_away
        )
    assert await bench.store.positions([bench.partition]) == {bench.partition: Position(0, None)}
    assert await bench.rows() == []


async def test_a_worker_that_lost_its_position_stores_nothing(bench: Bench) -> None:
    await bench.put(bench.event())
    for expected in (0, 2):
        with pytest.raises(Fenced):
            await bench.store.store([bench.event()], [Move(bench.partition, expected, expected + 1)], bench.bury)
    with pytest.raises(Fenced):
        await bench.store.move([Move(Partition("unknown", 1), 0, 1)])
    assert len(await bench.rows()) == 1
    assert [head["seq"] for head in await bench.rows("lane_heads")] == [1]


async def test_a_position_is_of_a_log(bench: Bench) -> None:
    place, old, new = bench.partition, uuid.uuid4(), uuid.uuid4()
    await bench.put(bench.event())
    await bench.store.move_to_logs([Move(place, 1, 1)], {place: old})
    await bench.store.begin({place: Position(7, new)})  # it has one
    assert await bench.store.positions([place]) == {place: Position(1, old)}
    with pytest.raises(Fenced):
        await bench.store.move_to_logs([Move(place, 0, 0)], {place: new})
    assert await bench.store.positions([place]) == {place: Position(1, old)}
    await bench.store.move_to_logs([Move(place, 1, 0)], {place: new})
    await bench.store.move([Move(place, 0, 3)])
    assert await bench.store.positions([place]) == {place: Position(3, new)}


async def test_of_two_workers_with_one_position_one_stores(bench: Bench) -> None:
    async def once(event: Admitted) -> str:
        try:
            await bench.store.store([event], [Move(bench.partition, 0, 1)], bench.bury)
        except Fenced:
            return "fenced"
        return "stored"

    assert sorted(await asyncio.gather(*(once(bench.event()) for _ in range(4)))) == ["fenced"] * 3 + ["stored"]
    assert len(await bench.rows()) == 1


async def test_workers_with_the_same_users_keep_every_chain_whole(bench: Bench) -> None:
    places = [Partition(bench.partition.topic, number) for number in range(1, 5)]
    await bench.store.begin(dict.fromkeys(places, Position(0, None)))
    users = [f"u{n}" for n in range(6)]
    shared = bench.event("u0")

    async def work(place: Partition) -> None:
        for batch in range(8):
            events = [bench.event(user, priority=(batch + n) % 3) for n, user in enumerate(users * 2)]
            turned = events[::-1] if place.partition % 2 else events
            await bench.store.store([*turned, shared], [Move(place, batch, batch + 1)], bench.bury)

    await asyncio.gather(*(work(place) for place in places))
    rows = await bench.rows()
    assert len(rows) == 4 * 8 * 12 + 1
    lanes: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for row in rows:
        lanes.setdefault((row["entity_id"], row["lane"]), []).append((row["prev"], row["seq"]))
    for chain in lanes.values():
        assert sorted(chain) == [(n, n + 1) for n in range(len(chain))]
    heads = {(head["entity_id"], head["lane"]): head["seq"] for head in await bench.rows("lane_heads")}
    assert heads == {lane: len(chain) for lane, chain in lanes.items()}
    assert {state["rev"] for state in await bench.rows("user_state")} == {32}


async def test_what_has_expired_is_stored_and_not_handed_on(bench: Bench) -> None:
    now_ms = time.time_ns() // 1_000_000
    outcome = await bench.put(bench.event(sent_ms=now_ms - 60_000, ttl_s=30), bench.event())
    assert [n.seq for n in outcome.ready] == [2]
    row = next(row for row in await bench.rows() if row["seq"] == 1)
    assert (row["status"], row["rank"], row["status_code"], row["due_at"]) == ("EXPIRED", 2, 400, None)
    assert ("EXPIRED", 400) in {(h["status"], h["status_code"]) for h in await bench.rows("notification_history")}


async def test_not_before_waits_for_its_time(bench: Bench) -> None:
    later_ms = time.time_ns() // 1_000_000 + 60_000
    outcome = await bench.put(bench.event(not_before_ms=later_ms), bench.event(not_before_ms=later_ms - 120_000))
    assert [n.seq for n in outcome.ready] == [2]
    row = next(row for row in await bench.rows() if row["seq"] == 1)
    assert round(row["due_at"].timestamp() * 1000) == round(row["not_before"].timestamp() * 1000) == later_ms
    assert (row["status"], row["rank"]) == ("ACCEPTED", 0)


async def test_due_never_lies_after_expiry(bench: Bench) -> None:
    await bench.put(bench.event(ttl_s=1))
    (row,) = await bench.rows()
    assert row["due_at"] == row["expiry"]


async def test_a_payload_rests_sealed_and_opens_only_in_its_place(bench: Bench) -> None:
    first, second, foreign = bench.event(), bench.event(), bench.event("u2")
    await bench.put(first, second, foreign)
    rows = {row["notification_id"]: row for row in await bench.rows()}
    for row in rows.values():
        assert b"Canary" not in b"".join(value for value in row.values() if isinstance(value, bytes))
    keys = await bench.ring.user_keys([(bench.tenant, "u1"), (bench.tenant, "u2")], create=False)

    def opened(row: asyncpg.Record, sealed: bytes) -> bytes:
        aad = crypto.payload_aad(row["tenant_id"], row["entity_id"], row["notification_id"], row["key_version"])
        return crypto.open_seal(keys[row["tenant_id"], row["entity_id"]].key, sealed, aad)

    assert opened(rows[first.id], rows[first.id]["payload"]) == first.payload
    for swapped in (second, foreign):
        with pytest.raises(CryptoError):
            opened(rows[first.id], rows[swapped.id]["payload"])


async def test_two_rings_agree_on_a_users_key(bench: Bench) -> None:
    pairs = [(bench.tenant, f"u{n}") for n in range(20)] + [("t_nobody", "u1")]
    rings = [KeyRing(master_key(bench.settings), bench.pool, bench.ring._keys_pool) for _ in range(4)]
    answers = await asyncio.gather(*(ring.user_keys(pairs, create=True) for ring in rings))
    again = await bench.ring.user_keys(pairs, create=False)
    assert all(answer == again for answer in answers)
    assert len({key.key for key in again.values()}) == 20
    assert await bench.ring.user_keys([(bench.tenant, "nobody")], create=False) == {}


async def test_another_master_key_opens_nothing(bench: Bench) -> None:
    ring = KeyRing(crypto.new_key(), bench.pool, bench.ring._keys_pool)
    with pytest.raises(CryptoError):
        await ring.user_keys([(bench.tenant, "u1")], create=True)


async def test_partitions_are_there_for_the_days_around_now(bench: Bench) -> None:
    async with bench.pool.acquire() as connection:
        assert await make_ahead(connection) in (0, 4)  # four tables' day more if midnight has passed since setup
        assert await make_ahead(connection) == 0
        today = datetime.datetime.fromtimestamp(await database_ms(connection) / 1000, datetime.UTC).date()
    for offset in range(-PARTITION_DAYS_BEHIND, PARTITION_DAYS_AHEAD + 1):
        name = f"notifications_{today + datetime.timedelta(days=offset):%Y%m%d}"
        assert await bench.owner.fetchval("SELECT to_regclass($1) IS NOT NULL", name)


async def test_a_late_record_gets_its_partition_even_after_it_was_dropped(bench: Bench) -> None:
    long_ago_ms = time.time_ns() // 1_000_000 - 40 * 86_400_000
    late = bench.event(id=new_uuid7(long_ago_ms), sent_ms=long_ago_ms, ttl_s=90 * 86_400)
    assert len((await bench.put(late)).ready) == 1
    suffix = f"{day_of(late.id):%Y%m%d}"
    assert await bench.owner.fetchval(f"SELECT count(*) FROM notifications_{suffix}") == 1
    await bench.owner.execute(f"DROP TABLE notifications_{suffix}")
    assert len((await bench.put(late)).ready) == 1


async def test_workers_make_the_same_partition_at_the_same_time(bench: Bench) -> None:
    day = datetime.date(2031, 1, 1)
    await asyncio.gather(*(Partitions(bench.pool).ensure([day]) for _ in range(6)))
    count = await bench.owner.fetchval(
        "SELECT count(*) FROM pg_inherits WHERE inhrelid::regclass::text LIKE '%20310101'"
    )
    assert count == 5


async def test_every_table_with_a_tenant_is_under_forced_row_level_security(bench: Bench) -> None:
    for dsn in (bench.settings.postgres_dsn, keys_dsn(bench.settings)):
        connection = await asyncpg.connect(dsn)
        try:
            tables = await connection.fetch(
                "SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity FROM pg_class c "
                "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped "
                "WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace"
            )
        finally:
            await connection.close()
        assert tables
        assert [
            row["relname"] for row in tables if not (row["relrowsecurity"] and row["relforcerowsecurity"])
        ] == []


async def test_a_transaction_sees_its_tenants_and_no_others(bench: Bench) -> None:
    await bench.put(bench.event(), bench.event(tenant=bench.other))
    tables = ["notifications", "notification_history", "lane_heads", "user_state", "tenants"]
    for seen in ([], [bench.tenant], [bench.tenant, bench.other], [PLATFORM]):
        async with tenant_transaction(bench.pool, seen) as connection:
            for table in tables:
                rows = await connection.fetch(f"SELECT DISTINCT tenant_id FROM {table}")
                assert {row["tenant_id"] for row in rows} == set(seen) - {PLATFORM}, table
    async with bench.pool.acquire() as connection:  # the setting ends with its transaction
        for table in tables:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_nothing_is_written_for_a_tenant_out_of_sight(bench: Bench) -> None:
    await bench.put(bench.event())
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with tenant_transaction(bench.pool, [bench.other]) as connection:
            await connection.execute("INSERT INTO user_state VALUES ($1, 'x', 1)", bench.tenant)
    async with tenant_transaction(bench.pool, [bench.other]) as connection:
        assert await connection.execute("UPDATE notifications SET status = 'READ'") == "UPDATE 0"


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_owns_nothing_and_cannot_go_around(bench: Bench, role: str) -> None:
    pool = await connect_pool(bench.settings, role)
    try:
        async with pool.acquire() as connection:
            rights = "rolsuper, rolbypassrls, rolcreaterole, rolcreatedb"
            row = await connection.fetchrow(f"SELECT oid, {rights} FROM pg_roles WHERE rolname = current_user")
            assert row is not None
            assert not any(tuple(row)[1:])
            assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relowner = $1", row["oid"]) == 0
            today = day_of(new_uuid7())
            for statement in (
                f"SELECT * FROM notifications_{today:%Y%m%d}",
                "ALTER TABLE notifications NO FORCE ROW LEVEL SECURITY",
                "CREATE TABLE mine ()",
                "DELETE FROM notifications",
                "TRUNCATE notification_history",
                "UPDATE notification_history SET status = 'READ'",
                "SELECT * FROM schema_migrations",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
    finally:
        await pool.close()


@pytest.mark.parametrize("role", sorted(set(ROLES) - set(KEY_ROLES)))
async def test_a_role_without_need_does_not_reach_the_keys(bench: Bench, role: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connect_pool(bench.settings, role, keys=True)


async def test_the_epoch_rises_past_every_earlier_one(bench: Bench) -> None:
    before = await bench.owner.fetchval("SELECT epoch FROM log_state")
    first, second = await bench.store.raise_epoch(), await bench.store.raise_epoch()
    assert before < first < second
    assert second >= time.time() - 5


async def test_migrating_again_changes_nothing_and_two_at_once_wait(servers: Settings, bench: Bench) -> None:
    said: list[str] = []
    await asyncio.gather(migrate.migrate(servers, said.append), migrate.migrate(servers, said.append))
    assert said == []
    assert await bench.owner.fetchval("SELECT count(*) FROM schema_migrations") == len(
        list(migrate._files("migrations"))
    )


async def test_a_changed_migration_is_refused(servers: Settings, bench: Bench) -> None:
    checksum = await bench.owner.fetchval("SELECT checksum FROM schema_migrations WHERE version = 1")
    await bench.owner.execute("UPDATE schema_migrations SET checksum = 'other' WHERE version = 1")
    try:
        with pytest.raises(migrate.SettingsError, match="was changed after it ran"):
            await migrate.migrate(servers)
    finally:
        await bench.owner.execute("UPDATE schema_migrations SET checksum = $1 WHERE version = 1", checksum)


def test_ids_are_what_partitions_go_by() -> None:
    late = uuid.UUID(str(new_uuid7(1_767_225_599_999)))
    assert day_of(late) == datetime.date(2025, 12, 31)
    assert day_of(new_uuid7(1_767_225_600_000)) == datetime.date(2026, 1, 1)
