"""Intake from a real Kafka into a real PostgreSQL, with faults: nothing is lost, nothing stops the log."""

import asyncio
import contextlib
import dataclasses
import json
import secrets
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import confluent_kafka
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from devstack.ports import free_ports
from devstack.servers import Server
from devstack.topics import create_topics
from notification import names, telemetry
from notification.ids import new_uuid7
from notification.limits import LOG_CHECK_MS, PAYLOAD_BYTES_MAX
from notification.settings import Settings
from tests.conftest import kafka_kind
from tests.proxy import Proxy, cut_when
from worker.admission import Reason
from worker.database import PLATFORM, connect_pool, replace_dsn
from worker.dead_letter_reader import Letter, read
from worker.intake import Intake
from worker.keys import KeyRing, letter_keys, master_key, new_tenant_key
from worker.log import KafkaLog, Partition
from worker.migrate import migrate
from worker.operations import Operations
from worker.partitions import Partitions
from worker.positions import forget_positions
from worker.store import Store, StoredNotification

pytestmark = pytest.mark.stack

TENANT = "acme"
WAIT_S = 40.0


def an_event(user: str = "u1", **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "id": str(new_uuid7()), "tenant_id": TENANT, "user_id": user, "type": "service",
        "payload": {"title": "Canary", "body": "Body"},
    }  # fmt: skip
    return values | changes


class Site:
    """A Kafka and a database of this test's own, the database behind a proxy."""

    def __init__(self, servers: Settings, folder: Path) -> None:
        name = f"intake_{secrets.token_hex(4)}"
        self.direct = replace_dsn(servers.postgres_dsn, database=name)
        self.proxy = Proxy(urllib.parse.urlsplit(servers.postgres_dsn).port or 5432)
        self.folder = folder
        self.secrets_dir = str(servers.secrets_path)
        self.settings = Settings()
        self.kafka: Server | None = None
        self.ready: list[StoredNotification] = []

    async def open(self) -> None:
        await self.proxy.open()
        proxied = urllib.parse.urlsplit(self.direct)
        behind = proxied._replace(netloc=f"postgres@127.0.0.1:{self.proxy.port}").geturl()
        self.settings = Settings(
            kafka_port=free_ports(1)[0], kafka_partitions=2, postgres=behind,
            secrets_dir=self.secrets_dir, data_dir=str(self.folder),
        )  # fmt: skip
        await asyncio.gather(self.start_kafka(), migrate(self.settings))
        await self.sql(
            "INSERT INTO tenants (tenant_id, tenant_name, wrapped_key) VALUES ($1, 'Acme', $2)",
            TENANT,
            new_tenant_key(master_key(self.settings), TENANT),
        )

    async def start_kafka(self) -> None:
        self.kafka = kafka_kind()(self.settings)
        await self.kafka.start()
        await create_topics(self.settings)

    @property
    def forgets(self) -> bool:
        return kafka_kind().forgets

    @property
    def direct_settings(self) -> Settings:
        """Around the proxy."""
        return dataclasses.replace(self.settings, postgres=self.direct)

    async def stop_kafka(self) -> None:
        assert self.kafka is not None
        await self.kafka.stop()

    async def close(self) -> None:
        await self.stop_kafka()
        await self.proxy.close()

    async def sql(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """Around the proxy, as the owner."""
        connection = await asyncpg.connect(self.direct)
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()

    async def count(self) -> int:
        return (await self.sql("SELECT count(*) AS n FROM notifications"))[0]["n"]

    @contextlib.asynccontextmanager
    async def worker(self, master: bytes | None = None) -> AsyncIterator[Intake]:
        """A running intake; leaving drains it."""
        master = master or master_key(self.settings)
        pool = await connect_pool(self.settings, "dispatch")
        keys_pool = await connect_pool(self.settings, "dispatch", keys=True)
        ring = KeyRing(master, pool, keys_pool)
        store = Store(pool, ring, Partitions(pool))
        log = KafkaLog(self.settings.kafka_servers)
        intake = Intake(log, store, ring, self.ready.extend, lambda: time.time_ns() // 1_000_000)
        await intake.start()
        task = asyncio.create_task(intake.run())
        try:
            yield intake
        finally:
            await intake.stop()
            await task
            for one in (pool, keys_pool):
                one.terminate()

    async def produce(
        self, *events: Any, topic: int = 0, partition: int = 0, key: bytes | str | None = "own"
    ) -> None:
        """Events as dicts, or raw bytes; the key is the event's own unless given."""
        async with AIOKafkaProducer(bootstrap_servers=self.settings.kafka_servers, acks="all") as producer:
            for event in events:
                value = json.dumps(event).encode() if isinstance(event, dict) else event
                own = f"{event['tenant_id']}:{event['user_id']}".encode() if isinstance(event, dict) else None
                used = own if isinstance(key, str) else key
                if value is None and used is None:
                    await asyncio.to_thread(self.produce_nothing, names.TOPICS[topic], partition)
                else:
                    await producer.send_and_wait(names.TOPICS[topic], value, used, partition=partition)

    def produce_nothing(self, topic: str, partition: int) -> None:
        """A record without key and value, which aiokafka's producer refuses to send."""
        producer = confluent_kafka.Producer({"bootstrap.servers": self.settings.kafka_servers})
        producer.produce(topic, partition=partition)
        assert producer.flush(10) == 0

    async def dead(self, count: int) -> list[Letter]:
        """The letters of the dead-letter topic, opened, once there are `count`."""
        found: list[Letter] = []
        async with asyncio.timeout(WAIT_S):
            while len(found) < count:
                found = [letter async for letter in read(self.settings.kafka_servers)]
        for letter in found:
            for secret in (b"Canary", b"JSON", TENANT.encode()):
                assert secret not in (letter.key or b"") + (letter.value or b"")
        operations = await Operations.connect(self.direct_settings)
        try:
            acme = await operations.letter_key(TENANT)
            assert await operations.letter_key("nobody") is None
        finally:
            await operations.close()
        assert acme is not None
        keys = letter_keys(master_key(self.settings), {}) | {TENANT: acme}
        assert all(letter.owner in keys for letter in found)
        return [letter.opened(keys[letter.owner or ""]) for letter in found]


async def until(condition: Callable[[], Coroutine[Any, Any, bool]], wait_s: float = WAIT_S) -> None:
    end_s = time.monotonic() + wait_s
    while not await condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def shared(servers: Settings) -> Settings:
    return servers


@pytest.fixture
async def site(shared: Settings, tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(shared, tmp_path)
    await site.open()
    try:
        yield site
    finally:
        await site.close()


async def test_every_bad_record_is_a_dead_letter_and_the_next_one_flows(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    reused = an_event()
    big = an_event(payload={"title": "Canary", "body": "x" * PAYLOAD_BYTES_MAX})
    stale = an_event(id=str(new_uuid7(time.time_ns() // 1_000_000 - 25 * 3_600_000)))
    stranger = an_event(tenant_id="nobody")
    cases: list[tuple[Any, bytes | str | None, Reason]] = [
        (b"Canary is not JSON \xff", b"some key", Reason.NOT_JSON),
        (None, b"key", Reason.NOT_JSON),
        (None, None, Reason.NOT_JSON),
        (an_event(Canary=1), "own", Reason.SCHEMA),
        (an_event(type="Canary"), "own", Reason.SCHEMA),
        (an_event(user_id="Canary Canary"), "own", Reason.SCHEMA),
        (big, "own", Reason.PAYLOAD_TOO_LARGE),
        (b"Canary" * 5000, None, Reason.PAYLOAD_TOO_LARGE),
        (an_event(id="Canary"), "own", Reason.BAD_ID),
        (stale, "own", Reason.BAD_ID),
        (an_event(), b"acme:other", Reason.WRONG_KEY),
        (an_event(), None, Reason.WRONG_KEY),
        (stranger, "own", Reason.UNKNOWN_TENANT),
        (reused | {"payload": {"title": "Canary 2", "body": ""}}, "own", Reason.ID_REUSED),
    ]
    async with site.worker():
        await site.produce(reused)
        for event, key, _ in cases:
            await site.produce(event, key=key)
            await site.produce(an_event())
        await until(lambda: _is(site.count, 1 + len(cases)), 20)
        dead = await site.dead(len(cases))
    assert len(dead) == len(cases)
    for at, ((event, key, reason), letter) in enumerate(zip(cases, dead, strict=True)):
        headers = letter.headers
        assert headers["reason"] == reason
        assert letter.owner == (TENANT if headers.get("tenant_id") == TENANT else PLATFORM)
        assert (letter.owner == PLATFORM) == (not isinstance(event, dict) or event is stranger)
        assert letter.value == (json.dumps(event).encode() if isinstance(event, dict) else event)
        assert headers["bytes"] == str(len(letter.value or b""))
        own = f"{event['tenant_id']}:{event['user_id']}".encode() if isinstance(event, dict) else None
        assert letter.key == (own if isinstance(key, str) else key)
        assert (headers["topic"], headers["partition"]) == (names.TOPICS[0], "0")
        assert int(headers["offset"]) == 1 + 2 * at
        assert abs(int(headers["timestamp_ms"]) - time.time() * 1000) < 60_000
        assert headers["detail"]
        assert "Canary" not in headers["detail"]
    said = capfd.readouterr()
    assert "dead_letter" in said.out + said.err
    assert "Canary" not in said.out + said.err
    assert len(site.ready) == 1 + len(cases)


async def test_all_topics_are_read_and_a_restart_goes_on_from_the_position(site: Site) -> None:
    async with site.worker():
        for topic in range(3):
            await site.produce(an_event(), an_event("u2"), topic=topic, partition=topic % 2)
        await until(lambda: _is(site.count, 6))
    assert {(n.user, n.priority, n.seq) for n in site.ready} == {(u, p, 1) for u in ("u1", "u2") for p in range(3)}
    site.ready.clear()
    await site.produce(an_event(), partition=0)
    async with site.worker():
        await until(lambda: _is(site.count, 7))
        await asyncio.sleep(1)
    assert [n.seq for n in site.ready] == [2]
    positions = {(r["topic"], r["partition"]): r["next_offset"] for r in await site.sql("SELECT * FROM positions")}
    assert positions[names.TOPICS[0], 0] == 3
    assert len(positions) == 6


async def test_postgresql_cut_off_pauses_and_loses_nothing(site: Site) -> None:
    async with site.worker():
        await site.produce(*[an_event(f"u{n}") for n in range(20)])
        await until(lambda: _is(site.count, 20))
        site.proxy.cut()
        await site.produce(*[an_event(f"u{n}") for n in range(20)], b"not JSON")
        await asyncio.sleep(3)
        assert await site.count() == 20
        await site.proxy.open()
        await until(lambda: _is(site.count, 40))
        (letter,) = await site.dead(1)
        assert letter.value == b"not JSON"
    heads = await site.sql("SELECT seq FROM lane_heads")
    assert [head["seq"] for head in heads] == [2] * 20


async def test_a_link_cut_between_commit_and_its_answer_stores_once(site: Site) -> None:
    async with site.worker():
        await site.produce(an_event())
        await until(lambda: _is(site.count, 1))
        site.proxy.watch = cut_when(lambda piece: piece.is_reply and b"COMMIT\0" in piece.data)
        await site.produce(an_event())
        await until(lambda: _is(site.count, 2))
        site.proxy.watch = None
        await asyncio.sleep(0.5)
        await site.proxy.open()
        await site.produce(an_event())
        await until(lambda: _is(site.count, 3))
    assert sorted(row["seq"] for row in await site.sql("SELECT seq FROM notifications")) == [1, 2, 3]


async def test_a_kafka_that_restarts_is_read_on(site: Site) -> None:
    """The embedded broker forgets all: a new log, read from its beginning. Apache Kafka goes on where it was."""
    first = an_event()
    async with site.worker():
        await site.produce(first, an_event(), an_event())
        await until(lambda: _is(site.count, 3))
        await site.stop_kafka()
        await asyncio.sleep(1)
        await site.start_kafka()
        await site.produce(first, an_event())  # a sender that sends again what it sent before
        await until(lambda: _is(site.count, 4))
        await site.produce(an_event())
        await until(lambda: _is(site.count, 5))
    assert sorted(row["seq"] for row in await site.sql("SELECT seq FROM notifications")) == [1, 2, 3, 4, 5]


async def test_records_that_came_as_one_batch_are_read_once(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """The embedded broker counts a batch as one record: its end is then below our position."""
    place = Partition(names.TOPICS[0], 0)
    restarts = telemetry.LOG_RESTARTED._value.get()
    async with site.worker():
        producer = confluent_kafka.Producer({"bootstrap.servers": site.settings.kafka_servers, "linger.ms": 200})
        for number in range(25):
            value = b"not JSON" if number % 5 == 4 else json.dumps(an_event()).encode()
            producer.produce(place.topic, value, f"{TENANT}:u1", partition=place.partition)
        assert producer.flush(10) == 0
        await until(lambda: _is(site.count, 20))
        for _ in range(3):
            await asyncio.sleep(2.5 * LOG_CHECK_MS / 1000 / 3)
            assert await _position(site, place) == 25
    async with site.worker():  # and placed again
        await asyncio.sleep(2)
        assert await _position(site, place) == 25
    async with AIOKafkaConsumer(
        names.TOPIC_DEAD, bootstrap_servers=site.settings.kafka_servers, auto_offset_reset="earliest"
    ) as consumer:
        await asyncio.sleep(1)
        batches = await consumer.getmany(timeout_ms=2000)
    assert sum(len(batch) for batch in batches.values()) == 5
    assert telemetry.LOG_RESTARTED._value.get() == restarts
    said = capfd.readouterr()
    assert "log_restarted" not in said.out + said.err


async def test_a_new_log_that_outgrew_the_position_is_read_from_its_beginning(site: Site) -> None:
    if not site.forgets:
        return  # Apache Kafka keeps what it has: there is no new log
    async with site.worker():
        await site.produce(*[an_event() for _ in range(6)])
        await until(lambda: _is(site.count, 6))
        await site.stop_kafka()
        await forget_positions(site.direct_settings)
        await site.start_kafka()
        await site.produce(*[an_event() for _ in range(12)])
        await until(lambda: _is(site.count, 18))
    assert await _position(site, Partition(names.TOPICS[0], 0)) == 12


async def test_a_missing_right_pauses_and_gives_no_record_up(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    async with site.worker():
        await site.produce(an_event())
        await until(lambda: _is(site.count, 1))
        await site.sql("REVOKE INSERT ON notification_history FROM herald_dispatch")
        await site.produce(an_event(), b"not JSON", an_event())
        await asyncio.sleep(3)
        assert await site.count() == 1
        await site.sql("GRANT INSERT ON notification_history TO herald_dispatch")
        await until(lambda: _is(site.count, 3))
        (letter,) = await site.dead(1)
    assert letter.value == b"not JSON"
    said = capfd.readouterr()
    assert "InsufficientPrivilegeError" in said.out + said.err


async def test_another_master_key_gives_no_record_up(site: Site) -> None:
    async with site.worker(master=bytes(32)):
        await site.produce(an_event(), an_event())
        await asyncio.sleep(3)
        assert await _position(site, Partition(names.TOPICS[0], 0)) == 0
    async with site.worker():
        await until(lambda: _is(site.count, 2))
    assert await _position(site, Partition(names.TOPICS[0], 0)) == 2


async def test_two_workers_share_and_one_takes_over(site: Site) -> None:
    async with site.worker():
        async with site.worker():
            for partition in (0, 1):
                for topic in range(3):
                    await site.produce(
                        *[an_event(f"u{partition}") for _ in range(5)], topic=topic, partition=partition
                    )
            await until(lambda: _is(site.count, 30))
        for partition in (0, 1):
            await site.produce(*[an_event(f"u{partition}") for _ in range(5)], partition=partition)
        await until(lambda: _is(site.count, 40))
    rows = await site.sql(
        "SELECT entity_id, lane, array_agg(seq ORDER BY seq) AS seqs FROM notifications GROUP BY 1, 2"
    )
    assert sorted(len(row["seqs"]) for row in rows) == [5, 5, 5, 5, 10, 10]
    assert all(row["seqs"] == list(range(1, len(row["seqs"]) + 1)) for row in rows)


async def test_a_worker_whose_position_moved_reads_it_again(site: Site) -> None:
    place = Partition(names.TOPICS[0], 0)
    async with site.worker():
        await site.produce(an_event())
        await until(lambda: _is(site.count, 1))
        await site.sql("UPDATE positions SET next_offset = 2 WHERE topic = $1 AND partition = $2", *place)
        await site.produce(an_event(), an_event())
        await until(lambda: _is(site.count, 2))


async def test_a_database_that_went_back_raises_the_epoch_once(site: Site) -> None:
    async with site.worker():
        await site.produce(an_event(), an_event(), an_event())
        await until(lambda: _is(site.count, 3))
        await asyncio.sleep(1)
    before = (await site.sql("SELECT epoch FROM log_state"))[0]["epoch"]
    # What a restored backup looks like: an older position, later rows gone.
    await site.sql("UPDATE positions SET next_offset = 1 WHERE next_offset = 3")
    await site.sql("DELETE FROM notifications WHERE seq > 1")
    await site.sql("UPDATE lane_heads SET seq = 1")
    for _ in range(2):
        async with site.worker():
            await until(lambda: _is(site.count, 3))
            await asyncio.sleep(1)
    after = [row["epoch"] for row in await site.sql("SELECT epoch FROM log_state")]
    assert after[0] > before
    async with site.worker():
        await asyncio.sleep(5)
    assert [row["epoch"] for row in await site.sql("SELECT epoch FROM log_state")] == after


async def _position(site: Site, place: Partition) -> int:
    query = "SELECT next_offset FROM positions WHERE topic = $1 AND partition = $2"
    return (await site.sql(query, *place))[0]["next_offset"]


async def _is(count: Callable[[], Coroutine[Any, Any, int]], wanted: int) -> bool:
    return await count() == wanted
