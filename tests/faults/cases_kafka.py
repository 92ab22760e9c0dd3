"""Faults of Kafka itself. All but the first need a broker that keeps what it was given: `make faults-kafka`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from devstack.topics import create_topics
from notification import names
from tests.faults.run import Case, Scene

_DOWN_S: Final = 5.0
_WAIT_S_MAX: Final = 60.0
_UNREAD_S: Final = 2.0
_OUTGROWN_S: Final = 6.0  # more events than before it


async def broker_killed(scene: Scene) -> None:
    """SIGKILL while events are produced; what it had accepted it still has."""
    await scene.stack.down(scene.stack.servers.kafka, _DOWN_S)


async def log_recreated(scene: Scene) -> None:
    """The topics are deleted and made anew: while a worker reads, then while none does, and the log outgrows it."""
    async with _all_read(scene) as admin:
        await _make_anew(scene, admin)
    await asyncio.sleep(_UNREAD_S)
    async with _all_read(scene) as admin:
        await scene.stack.stop_worker("dispatch")
        await _make_anew(scene, admin)
    await asyncio.sleep(_OUTGROWN_S)
    scene.stack.over()
    await scene.stack.start_worker("dispatch")


@contextlib.asynccontextmanager
async def _all_read(scene: Scene) -> AsyncIterator[AIOKafkaAdminClient]:
    """Nothing is in the log that is not stored, and nothing comes."""
    async with scene.upstream.paused(), _admin(scene) as admin:
        await _until(lambda: _all_stored(scene))
        yield admin


async def _make_anew(scene: Scene, admin: AIOKafkaAdminClient) -> None:
    await admin.delete_topics(list(names.TOPICS))
    await _until(lambda: _gone(admin))
    await create_topics(scene.stack.client_settings)


async def offset_out_of_range(scene: Scene) -> None:
    """Retention took records that no worker had read: those are gone, everything behind them is not."""
    scene.stack.kill("dispatch")
    await asyncio.sleep(_UNREAD_S)
    async with scene.upstream.paused(), _admin(scene) as admin:
        ends = {
            TopicPartition(topic, partition): RecordsToDelete(-1)  # up to its end
            for topic in names.TOPICS for partition in range(scene.stack.settings.kafka_partitions)
        }  # fmt: skip
        await admin.delete_records(ends)
        taken = scene.ledger.sent.keys() - {row.id for row in await scene.stack.rows()}
        for ident in taken:
            scene.ledger.unsure[ident] = scene.ledger.sent.pop(ident).user
    scene.seen["taken by retention"] = len(taken)
    scene.stack.over()
    await scene.stack.start_again("dispatch")


async def _all_stored(scene: Scene) -> bool:
    return not scene.ledger.sent.keys() - {row.id for row in await scene.stack.rows()}


async def _gone(admin: AIOKafkaAdminClient) -> bool:
    return not set(names.TOPICS) & set(await admin.list_topics())


async def _until(ask: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_WAIT_S_MAX):
        while True:
            if await ask():
                return
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def _admin(scene: Scene) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=scene.stack.client_settings.kafka_servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


CASES: Final = (
    Case("log recreated", "topics deleted and made anew", log_recreated),
    Case("broker killed", "SIGKILL under load, 5 s down", broker_killed),
    Case("offset out of range", "retention took what no worker had read", offset_out_of_range),
)
