"""The other half of Herald, for the benches of the worker: Kafka, PostgreSQL, Redis, NATS and worker processes for
real; upstream services and a gateway process are stand-ins in this process.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from bench import proc
from bench.worker_process import Notes, read_notes
from devstack.ports import free_ports
from devstack.processes import HeraldProcess
from devstack.secrets import make_issuer_key, make_secrets
from devstack.servers import Servers
from devstack.tenants import create_tenant
from devstack.topics import create_topics
from notification import batch, names
from notification.bus import NatsBus
from notification.codes import ReceiptCode
from notification.ids import new_ulid, new_uuid7
from notification.limits import BEAT_MS
from notification.messages import AckReceipt, Beat, ReceiptsEntry, encode
from notification.presence import Entry, PresenceState
from notification.settings import Settings
from worker.migrate import migrate
from worker.outage import wait

KAFKA_USED: Final = "Tansu, which keeps everything in memory"
GATEWAY_USED: Final = "stand-in: writes presence, beats, says of every item that it was written"
_POLL_S: Final = 0.01
_DEVICE: Final = "bench"
_HOUR_MS: Final = 3_600_000
_ENVELOPE_BYTES: Final = 30  # of {"title":"bench","body":""} as stored


class Arrival(NamedTuple):
    """An item of a batch that reached the gateway. Times by time.perf_counter; `again`: it had come before."""

    at_s: float
    latency_s: float
    tenant: str
    priority: int
    again: bool


class Sent(NamedTuple):
    """An event on its way."""

    at_s: float
    tenant: str
    user: str
    priority: int


class Upstream:
    """Services that produce events. `waiting`: how many have not reached a gateway yet, by priority."""

    def __init__(self, servers: str, body_bytes: int) -> None:
        self._producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
        self._body = "x" * max(0, body_bytes - _ENVELOPE_BYTES)
        self._sent: dict[bytes, Sent] = {}  # by the 16 bytes of the id
        self.waiting = [0] * len(names.PRIORITIES)

    async def start(self) -> None:
        await self._producer.start()

    async def stop(self) -> None:
        await self._producer.stop()

    async def send(self, tenant: str, user: str, priority: int = 0) -> "asyncio.Future[Any]":
        """Hand one event to the producer; the future is Kafka's answer."""
        ident = new_uuid7()
        event = {"id": str(ident), "tenant_id": tenant, "user_id": user, "type": "service",
                 "payload": {"title": "bench", "body": self._body}}  # fmt: skip
        value = msgspec.json.encode(event)
        self.waiting[priority] += 1
        self._sent[ident.bytes] = Sent(time.perf_counter(), tenant, user, priority)
        answer: asyncio.Future[Any] = await self._producer.send(
            names.TOPICS[priority], value, key=names.record_key(tenant, user)
        )
        return answer

    def arrived(self, ident: bytes) -> Sent | None:
        """Take note that it has reached a gateway; None: it had before."""
        sent = self._sent.pop(ident, None)
        if sent is not None:
            self.waiting[sent.priority] -= 1
        return sent

    async def flood(self, tenant: str, users: Sequence[str], count: int, priority: int = 0) -> None:
        """`count` events to users in turn, as fast as it goes; returns when Kafka has them all."""
        answers = [await self.send(tenant, users[number % len(users)], priority) for number in range(count)]
        await asyncio.gather(*answers)


class StandInGateway:
    """One gateway process: takes packed batches, and acks each item when told to."""

    def __init__(self, bus: NatsBus, redis: Any, upstream: Upstream) -> None:
        self._bus = bus
        self._redis = redis
        self._upstream = upstream
        self._gateway_id = new_ulid()
        self._entries = 0
        self._unacked: list[AckReceipt] = []
        self.arrivals: list[Arrival] = []

    async def start(self, tenant: str, users: Iterable[str]) -> None:
        """Be the owner of these users, and listen."""
        await self.own(tenant, users)
        for priority in names.PRIORITIES:
            await self._bus.serve(names.gateway_subject(self._gateway_id, priority), self._on_batch)

    async def own(self, tenant: str, users: Iterable[str]) -> None:
        """Write presence as if each user had connected here long ago."""
        since_ms = time.time_ns() // 1_000_000 - _HOUR_MS
        entry = Entry(self._gateway_id, 1, PresenceState.ONLINE, since_ms).encode()
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(names.PRESENCE_BORN, str(since_ms))
        pipeline.set(names.lease_key(self._gateway_id), "1", px=_HOUR_MS)
        for user in users:
            pipeline.hset(names.presence_key(names.user_tag(tenant, user)), _DEVICE, entry)
        await pipeline.execute()

    async def beat(self) -> None:
        """Run for ever: say that this process lives."""
        while True:
            now_ms = time.time_ns() // 1_000_000
            beat = Beat(self._gateway_id, now_ms, 1, draining=False)
            await self._bus.publish(names.STATUS_SUBJECT, encode(beat))
            await asyncio.sleep(BEAT_MS / 1_000)

    async def _on_batch(self, _subject: str, message: bytes) -> bytes:
        came_s = time.perf_counter()
        now_ms = time.time_ns() // 1_000_000
        _, items = batch.unpack(message)
        for item in items:
            sent = self._upstream.arrived(item.id)
            if sent is None:
                tenant = item.tag.partition(b":")[0].decode()
                self.arrivals.append(Arrival(came_s, 0.0, tenant, item.lane % len(names.PRIORITIES), True))
                continue
            self.arrivals.append(Arrival(came_s, came_s - sent.at_s, sent.tenant, sent.priority, False))
            self._unacked.append(AckReceipt(sent.tenant, sent.user, _DEVICE, item.lane, item.seq, item.id, now_ms))
        return batch.pack_reply([ReceiptCode.WRITTEN] * len(items))

    @property
    def first_arrivals(self) -> int:
        """How many different notifications came."""
        return sum(not one.again for one in self.arrivals)

    async def ack(self, acks_per_entry: int) -> int:
        """Ack what has come since the last call; returns how many that were."""
        acks, self._unacked = self._unacked, []
        pipeline = self._redis.pipeline(transaction=False)
        for first in range(0, len(acks), acks_per_entry):
            self._entries += 1
            entry = ReceiptsEntry(self._gateway_id, self._entries, acks[first : first + acks_per_entry], [])
            pipeline.xadd(names.RECEIPTS_STREAM, {names.RECEIPTS_FIELD: encode(entry)})
        await pipeline.execute()
        return len(acks)

    @contextlib.asynccontextmanager
    async def acking(self, every_s: float, acks_per_entry: int) -> AsyncIterator[None]:
        """Ack as clients do, meanwhile."""
        stop = asyncio.Event()

        async def keep() -> None:
            while not stop.is_set():
                await self.ack(acks_per_entry)
                await wait(stop, every_s)

        task = asyncio.create_task(keep())
        try:
            yield
        finally:
            stop.set()  # not cancel(): a command of redis-py may swallow it
            await task


class WorkerProcess:
    """A worker process on a core of its own (`core`), or on all."""

    def __init__(self, settings: Settings, name: str, roles: Sequence[str], core: int | None) -> None:
        self._notes = Path(settings.data_dir) / f"{name}.notes"
        self._process = HeraldProcess(settings, name, ["bench.worker_process", str(self._notes), *roles])
        self._core = core

    async def start(self) -> None:
        await self._process.start()
        if self._core is not None:
            proc.pin(self.pid, self._core)

    @property
    def pid(self) -> int:
        child = self._process.child.process
        assert child is not None
        return child.pid

    async def stop(self) -> Notes:
        """End it; what it noted."""
        await self._process.stop()
        return read_notes(self._notes)


class Backend:
    """The servers, two tenants' worth of users and more; see running()."""

    def __init__(self, folder: Path, pinned: bool) -> None:
        ports = free_ports(4)
        self.settings = Settings(
            kafka_port=ports[0], nats_port=ports[1], redis_port=ports[2], postgres_port=ports[3],
            data_dir=str(folder), log_level="warning",
        )  # fmt: skip
        core, self._other_core = proc.cores()
        self._core = core if pinned else None
        self._running = contextlib.AsyncExitStack()
        self._servers = Servers(self.settings)
        self._redis: Any = None  # its stub knows only the union of all its modes
        self._owner: Any = None

    async def start(self, tenants: Sequence[str]) -> None:
        """Start everything but the workers."""
        if self._core is not None:  # what is started from here on stays on the other core, unless it is measured
            os.sched_setaffinity(0, {self._other_core})
        make_secrets(self.settings)
        self._running.push_async_callback(self._servers.stop)
        await self._servers.start()
        if self._core is not None:  # PostgreSQL, where it is the bottleneck, goes where there is time left
            os.sched_setaffinity(self._postmaster(), {self._core, self._other_core})
        await create_topics(self.settings)
        await migrate(self.settings)
        for tenant in tenants:
            make_issuer_key(self.settings, tenant)
            await create_tenant(self.settings, tenant)
        self._redis = Redis.from_url(self.settings.redis_url)
        self._running.push_async_callback(self._redis.aclose)
        self._owner = await asyncpg.connect(self.settings.postgres_dsn)
        self._running.push_async_callback(self._owner.close)
        await self._owner.execute("SELECT set_config('herald.tenants', $1, false)", ",".join(tenants))

    async def stop(self) -> None:
        await self._running.aclose()

    @contextlib.asynccontextmanager
    async def upstream(self, body_bytes: int) -> AsyncIterator[Upstream]:
        """Services that produce events with a payload of about `body_bytes`."""
        upstream = Upstream(self.settings.kafka_servers, body_bytes)
        await upstream.start()
        try:
            yield upstream
        finally:
            await upstream.stop()

    @contextlib.asynccontextmanager
    async def gateway(
        self, upstream: Upstream, tenants: Iterable[str], users: Sequence[str]
    ) -> AsyncIterator[StandInGateway]:
        """A gateway process, new each time, that holds all these users of all these tenants."""
        bus = await NatsBus.connect(self.settings.nats_url, "bench-gateway")
        gateway = StandInGateway(bus, self._redis, upstream)
        first, *others = tenants
        await gateway.start(first, users)
        for tenant in others:
            await gateway.own(tenant, users)
        beating = asyncio.create_task(gateway.beat())
        try:
            yield gateway
        finally:
            beating.cancel()
            await asyncio.wait({beating})
            await bus.close()

    @contextlib.asynccontextmanager
    async def worker(self, name: str, *roles: str) -> AsyncIterator[WorkerProcess]:
        """A worker with these roles; stop() tells more than leaving does."""
        worker = WorkerProcess(self.settings, name, roles, self._core)
        await worker.start()
        try:
            yield worker
        finally:
            await worker.stop()

    def postgres_cpu_ns(self) -> int:
        """CPU time of the postmaster and all its children, those that ended included."""
        return proc.family_ns(self._postmaster())

    def _postmaster(self) -> int:
        assert self._servers.postgres is not None
        process = self._servers.postgres.child.process
        assert process is not None
        return process.pid

    async def stored_bytes(self) -> int:
        """Of the database on disk, indexes and dead row versions included."""
        size: int = await self._owner.fetchval("SELECT pg_database_size(current_database())")
        return size

    async def wal_bytes(self) -> int:
        """Of write-ahead log written so far."""
        at: int = await self._owner.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
        return at

    async def statuses(self) -> dict[str, int]:
        """How many notifications are in each status."""
        rows = await self._owner.fetch("SELECT status, count(*) AS count FROM notifications GROUP BY status")
        return {row["status"]: row["count"] for row in rows}

    async def receipts_waiting(self) -> int:
        """Entries of the stream that role receipts has not stored."""
        waiting: int = await self._redis.xlen(names.RECEIPTS_STREAM)
        return waiting


async def until(true: Callable[[], Any], seconds_max: float) -> bool:
    """Wait for something; whether it came true in time. `true` may be a coroutine function."""
    deadline_s = time.monotonic() + seconds_max
    while time.monotonic() < deadline_s:
        found = true()
        if await found if asyncio.iscoroutine(found) else found:
            return True
        await asyncio.sleep(_POLL_S)
    return False


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank of sorted values. Raises IndexError when there is none."""
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


@contextlib.asynccontextmanager
async def running(tenants: Sequence[str], pinned: bool) -> AsyncIterator[Backend]:
    """The servers with these tenants; everything is gone afterwards. `pinned`: the workers have a core for
    themselves."""
    with tempfile.TemporaryDirectory(prefix="herald-bench-") as folder:
        backend = Backend(Path(folder), pinned)
        try:
            await backend.start(tenants)
            yield backend
        finally:
            await backend.stop()
