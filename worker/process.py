"""The worker process: the one place where its parts are made and wired together.

Start: PostgreSQL is waited for and tells whether the master key is its own; then the other servers, all at the same
time, each up to STARTUP_DEADLINE_S; then the roles begin to serve.
Stop, role by role: what takes work in (intake, sweeper), then the dispatch queue drains, then the connections.
"""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, Final

import structlog
import uvloop
from prometheus_client import start_http_server
from redis.asyncio import Redis

from notification import redis_address, telemetry
from notification.bus import NatsBus
from notification.errors import HeraldError, SettingsError
from notification.lifecycle import notify_ready, stop_event
from notification.limits import REDIS_REPLY_MS_MAX, STARTUP_DEADLINE_S
from notification.settings import Settings
from worker import kafka_connection
from worker.announcer import Announcer
from worker.attempts import RetryBudget
from worker.audiences import FIRST_LANE
from worker.clock import DatabaseClock
from worker.database import AWAY, Pool, connect_pool
from worker.dispatch import Dispatcher
from worker.edge import Edge
from worker.edge_hint import EdgeHint
from worker.inbox import Inbox
from worker.intake import Intake
from worker.issuers import Issuers
from worker.jwks_client import JwksClient
from worker.keys import KeyRing, master_key, verify_master_key
from worker.log import KafkaLog
from worker.outage import until_up
from worker.partitions import Partitions, keep_ahead, make_ahead
from worker.presence import Beats, RedisPresence
from worker.receipts import Receipts
from worker.redis_client import REDIS_AWAY, open_client
from worker.router import Router
from worker.scheduler import Scheduler, first_job
from worker.status_feed import StatusFeed
from worker.status_topic import StatusTopic
from worker.store import Store, StoredNotification
from worker.sweeper import Sweeper
from worker.transitions import DatabaseJournal

ROLES: Final = ("dispatch", "receipts", "inbox", "status")
_DRAIN_S: Final = 10.0  # a dispatch batch takes two bus requests at most, and a transaction
_log = structlog.get_logger("worker")


class Crashed(HeraldError):
    """A part of the process ended by an error nobody foresaw; its traceback is in the log."""


class Role:
    """A role that has been made: its parts run as tasks, and end one after the other."""

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self) -> None:
        """Start the tasks."""

    async def stop(self) -> None:
        """End gracefully and disconnect; works also when a task has crashed."""

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self.tasks[name] = asyncio.create_task(work, name=name)

    async def _ended(self, *names: str) -> None:
        """Wait for these tasks to end, at most _DRAIN_S; what was not finished is due again later."""
        _done, running = await asyncio.wait([self.tasks[name] for name in names], timeout=_DRAIN_S)
        for task in running:
            _log.warning("not_drained", part=task.get_name())

    async def _cancel(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.wait(self.tasks.values())


def run(settings: Settings, roles: Sequence[str]) -> None:
    """Run the roles until SIGTERM or SIGINT. Raises HeraldError: a port is taken, a server stayed away, or a part
    crashed."""
    master = master_key(settings)
    telemetry.configure(settings.log_level, master, settings.log_json)
    kafka_connection.install()
    _serve_metrics(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, roles, master))


def _serve_metrics(settings: Settings) -> None:
    """In a thread that ends with the process and sleeps until it is asked. Raises SettingsError."""
    if not settings.worker_metrics:
        return
    host, port = settings.worker_metrics_at
    try:
        start_http_server(port, host)
    except OSError as error:
        raise SettingsError(
            f"worker_metrics: cannot listen on {settings.worker_metrics}: {str(error.strerror).lower()}; give "
            "every worker process of a machine a port of its own"
        ) from error


async def _run(settings: Settings, roles: Sequence[str], master: bytes) -> None:
    stop = stop_event()
    stopped = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(_start(settings, roles, master))
    await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
        return
    made = starting.result()
    for role in made:
        role.begin()
    parts = [task for role in made for task in role.tasks.values()]
    notify_ready()
    _log.info("serving", roles=list(roles))
    ended, _ = await asyncio.wait((stopped, *parts), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    _log.info("stopping")
    crashed = [task for task in parts if task in ended]
    for task in crashed:
        _log.error("crashed", part=task.get_name(), exc_info=task.exception())
    for role in made:
        await role.stop()
    if crashed:
        raise Crashed(f"{crashed[0].get_name()} ended unexpectedly; the log says why")


async def _start(settings: Settings, roles: Sequence[str], master: bytes) -> list[Role]:
    makers = {
        "dispatch": _Dispatch.make, "receipts": _Receipts.make, "inbox": _Inbox.make, "status": _Status.make,
    }  # fmt: skip
    return list(await _together([makers[role](settings, master) for role in roles]))


async def _together(starting: Sequence[Awaitable[Any]]) -> list[Any]:
    """Wait for all; the first failure cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_await(one)) for one in starting]
    except BaseExceptionGroup as group_of_errors:
        raise _first(group_of_errors) from None
    return [task.result() for task in tasks]


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _await(one: Awaitable[Any]) -> Any:
    return await one


async def _connect_database(settings: Settings, role: str, master: bytes) -> Pool:
    """The role's pool, once the master key has opened a tenant's key. Raises Unavailable, SettingsError."""
    pool = await connect_pool(settings, role)
    try:
        await verify_master_key(settings, master, pool)
    except BaseException:
        await _close(pool)
        raise
    return pool


async def _connect_redis(settings: Settings) -> "Redis":
    """A Redis client that has answered once. Raises Unavailable."""
    redis = open_client(settings.redis_url, REDIS_REPLY_MS_MAX / 1000)

    async def ping() -> None:
        await redis.ping()

    await until_up(ping, str(redis_address.parse(settings.redis_url)), REDIS_AWAY, STARTUP_DEADLINE_S)
    return redis


def _instance() -> str:
    """A name of this process for consumer groups and server logs."""
    return f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"


class _Dispatch(Role):
    """Role dispatch: Kafka to store to bus, and the sweeper."""

    def __init__(
        self, pool: Pool, keys_pool: Pool, bus: NatsBus, redis: "Redis", log: KafkaLog, master: bytes
    ) -> None:
        super().__init__()
        self._pool, self._keys_pool, self._bus, self._redis, self._log = pool, keys_pool, bus, redis, log
        ring = KeyRing(master, pool, keys_pool)
        journal = DatabaseJournal(pool)
        beats = Beats()
        self._clock = DatabaseClock()
        self._presence = RedisPresence(redis, beats)
        self._scheduler = Scheduler()
        router = Router(
            bus, self._presence, beats, journal, self._clock, RetryBudget(), requeue=self._scheduler.put
        )
        self._dispatcher = Dispatcher(self._scheduler, router)
        self._announcer = Announcer(bus, pool, self._clock)
        self._sweeper = Sweeper(pool, ring, self._scheduler, journal, self._announcer.put)
        store = Store(pool, ring, Partitions(pool))
        self._intake = Intake(log, store, ring, self._on_stored, self._clock.now_ms)
        self._listen = beats.listen
        self._sweeper_stop = asyncio.Event()

    @classmethod
    async def make(cls, settings: Settings, master: bytes) -> Role:
        """Connect everything. Raises Unavailable, SettingsError."""
        log = KafkaLog(
            settings.kafka_servers, fetch_wait_ms=settings.kafka_fetch_wait_ms, member=settings.worker_name
        )
        pool = await _connect_database(settings, "dispatch", master)
        keys_pool, bus, redis, _ = await _together([
            connect_pool(settings, "dispatch", keys=True),
            NatsBus.connect(settings.nats_url, "herald-dispatch"), _connect_redis(settings), log.start(),
        ])  # fmt: skip
        role = cls(pool, keys_pool, bus, redis, log, master)
        async with pool.acquire() as connection:
            await make_ahead(connection)
        await role._clock.refresh(pool)
        await role._listen(bus)
        return role

    def begin(self) -> None:
        self._run("intake", self._intake.run())
        self._run("dispatch", self._dispatcher.run())
        self._run("announcer", self._announcer.run())
        self._run("audience heads", self._announcer.run_heads())
        self._run("sweeper", self._sweeper.run(self._sweeper_stop))
        self._run("dispatch clock", self._clock.follow(self._pool))
        self._run("partitions", keep_ahead(self._pool))

    def _on_stored(self, stored: list[StoredNotification]) -> None:
        """Hand fresh rows to the dispatch queue; what does not fit is due again by itself."""
        now_s = time.monotonic()
        for notification in stored:
            if notification.lane < FIRST_LANE:
                self._scheduler.put(first_job(notification, now_s))
            else:
                self._announcer.put(notification)

    async def stop(self) -> None:
        await self._intake.stop()
        self._sweeper_stop.set()
        await self._ended("intake", "sweeper")
        self._scheduler.close()
        await self._ended("dispatch")
        await self._announcer.publish()
        await self._cancel()
        await self._bus.close()
        await self._presence.close()
        await self._redis.aclose()
        await _close(self._pool, self._keys_pool)


class _Receipts(Role):
    """Role receipts: the gateways' stream to PostgreSQL."""

    def __init__(self, pool: Pool, redis: "Redis") -> None:
        super().__init__()
        self._pool, self._redis = pool, redis
        self._receipts = Receipts(redis, pool, Partitions(pool), consumer=_instance())
        self._receipts_stop = asyncio.Event()

    @classmethod
    async def make(cls, settings: Settings, _master: bytes) -> Role:
        """Connect everything. Raises Unavailable, SettingsError."""
        pool, redis = await _together([connect_pool(settings, "receipts"), _connect_redis(settings)])
        async with pool.acquire() as connection:
            await make_ahead(connection)
        role = cls(pool, redis)
        await role._receipts.start()
        return role

    def begin(self) -> None:
        self._run("receipts", self._receipts.run(self._receipts_stop))
        self._run("receipts partitions", keep_ahead(self._pool))

    async def stop(self) -> None:
        self._receipts_stop.set()
        await self._ended("receipts")
        await self._cancel()
        await self._redis.aclose()
        await _close(self._pool)


class _Inbox(Role):
    """Role inbox: the gateways' questions."""

    def __init__(
        self, pool: Pool, keys_pool: Pool, bus: NatsBus, redis: "Redis", master: bytes, client: JwksClient
    ) -> None:
        super().__init__()
        self._pool, self._keys_pool, self._bus, self._redis = pool, keys_pool, bus, redis
        self._client = client
        beats = Beats()
        self._clock = DatabaseClock()
        self._presence = RedisPresence(redis, beats)
        ring = KeyRing(master, pool, keys_pool)
        self._issuers = Issuers(master, pool, client)
        edge = Edge(master, pool, self._issuers.want)
        self._inbox = Inbox(bus, pool, ring, edge, self._presence, self._clock)
        self._hint = EdgeHint(pool, bus)
        self._listen = beats.listen

    @classmethod
    async def make(cls, settings: Settings, master: bytes) -> Role:
        """Connect everything. Raises Unavailable, SettingsError."""
        pool = await _connect_database(settings, "inbox", master)
        keys_pool, bus, redis = await _together([
            connect_pool(settings, "inbox", keys=True),
            NatsBus.connect(settings.nats_url, "herald-inbox"), _connect_redis(settings),
        ])  # fmt: skip
        role = cls(pool, keys_pool, bus, redis, master, JwksClient(settings.jwks_plain_loopback))
        await role._clock.refresh(pool)
        await role._listen(bus)
        await role._inbox.start()
        return role

    def begin(self) -> None:
        self._run("inbox clock", self._clock.follow(self._pool))
        self._run("edge hint", self._hint.run())
        self._run("issuers", self._issuers.run())

    async def stop(self) -> None:
        await self._bus.close()
        await self._cancel()
        await self._client.close()
        await self._presence.close()
        await self._redis.aclose()
        await _close(self._pool, self._keys_pool)


class _Status(Role):
    """Role status: what became of notifications, to upstream services."""

    def __init__(self, pool: Pool, servers: str) -> None:
        super().__init__()
        self._pool = pool
        self._feed = StatusFeed(pool, StatusTopic(servers))
        self._feed_stop = asyncio.Event()

    @classmethod
    async def make(cls, settings: Settings, _master: bytes) -> Role:
        """Connect to PostgreSQL, as role dispatch does; Kafka may come later. Raises Unavailable, SettingsError."""
        return cls(await connect_pool(settings, "dispatch"), settings.kafka_servers)

    def begin(self) -> None:
        self._run("status", self._feed.run(self._feed_stop))

    async def stop(self) -> None:
        self._feed_stop.set()
        await self._ended("status")
        await self._cancel()
        await _close(self._pool)


async def _close(*pools: Pool) -> None:
    """Close pools, in an outage by force."""
    for pool in pools:
        try:
            async with asyncio.timeout(_DRAIN_S):
                await pool.close()
        except AWAY as error:
            _log.warning("pool_not_closed", error=type(error).__name__)
            pool.terminate()
