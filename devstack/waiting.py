"""Real servers given by address: waited for, all at the same time, and named when they stay down."""

import asyncio
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg
import nats
import nats.errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from notification.errors import Unavailable
from notification.settings import Settings
from worker.redis_client import REDIS_AWAY, open_client

TRY_S: Final = 3.0
PAUSE_S: Final = 0.5

# What "down" looks like; a server that is starting answers some of these too.
_DOWN: Final = (
    OSError, TimeoutError, KafkaError, nats.errors.Error, *REDIS_AWAY, asyncpg.PostgresError,
)  # fmt: skip


async def wait_for_servers(settings: Settings, timeout_s: float) -> None:
    """Return once every server that has an address answers; raise Unavailable naming those that do not."""
    asked: list[tuple[str, str, Callable[[Settings], Awaitable[None]]]] = [
        ("PostgreSQL", "postgres", _ask_postgres),
        ("Redis", "redis", _ask_redis),
        ("NATS", "nats", _ask_nats),
        ("Kafka", "kafka", _ask_kafka),
    ]
    configured = [(title, key, ask) for title, key, ask in asked if getattr(settings, key)]
    deadline_s = time.monotonic() + timeout_s
    answers = await asyncio.gather(*(_wait(ask, settings, deadline_s) for _, _, ask in configured))
    down = [
        f"{title} at {without_login(getattr(settings, key))} is down ({reason}); it is setting `{key}`"
        for (title, key, _), reason in zip(configured, answers, strict=True)
        if reason
    ]
    if down:
        raise Unavailable(f"after {timeout_s:.0f} s: " + "\n".join(down))


async def _wait(ask: Callable[[Settings], Awaitable[None]], settings: Settings, deadline_s: float) -> str:
    """Empty once the server answered, else why it did not until the deadline."""
    while True:
        try:
            async with asyncio.timeout(TRY_S):
                await ask(settings)
            return ""
        except _DOWN as error:
            if time.monotonic() > deadline_s:
                return type(error).__name__
        await asyncio.sleep(PAUSE_S)


def without_login(addresses: str) -> str:
    """An address or a list of them, without user and password."""
    return ",".join(_host_and_port(address) for address in addresses.split(","))


def _host_and_port(address: str) -> str:
    return urllib.parse.urlsplit(address).netloc.rpartition("@")[2] if "//" in address else address


async def _ask_postgres(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.postgres_dsn, timeout=TRY_S)
    await connection.close()


async def _ask_redis(settings: Settings) -> None:
    client = open_client(settings.redis_url, TRY_S)
    try:
        await client.ping()
    finally:
        await client.aclose()


async def _ask_nats(settings: Settings) -> None:
    async def quiet(_: Exception) -> None:
        """The exception reaches us from connect() too."""

    client = await nats.connect(
        settings.nats_url.split(","),
        allow_reconnect=False,
        max_reconnect_attempts=1,
        connect_timeout=2,
        error_cb=quiet,
    )
    await client.close()


async def _ask_kafka(settings: Settings) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_servers, request_timeout_ms=int(TRY_S * 1000))
    try:
        await admin.start()
    finally:
        await admin.close()
