"""Faults of the servers behind Herald, and of the links to them."""

import asyncio
import shutil
from typing import Final

import asyncpg
from redis.asyncio import Redis

from notification.names import RECEIPTS_STREAM
from tests.faults.load import CLIENT_ID
from tests.faults.nats_wire import Unreliable
from tests.faults.run import Case, Scene
from tests.faults.stack import Parts
from tests.proxy import Noise, Proxy, Watch, delayed, flipped_bit, throttled

_POSTGRES_DOWN_S: Final = 30.0
_POSTGRES_SOON_S: Final = 5.0
_POSTGRES_RECOVERY_S: Final = 30.0
_NATS_RECOVERY_S: Final = 2.0
_REDIS_RECOVERY_S: Final = 5.0  # presence is whole again
_DOWN_S: Final = 3.0
_TAIL_S: Final = 3.0
_SLOW_S: Final = 2.0
_FOR_S: Final = 15.0
_UNRELIABLE_SHARE: Final = 0.1
_LINK_BYTES_PER_S: Final = 20_000
_FLIPS: Final = 3
_FLIPPING_S: Final = 4.0
_NOISE_SHARE: Final = 0.05


async def postgres_killed(scene: Scene) -> None:
    """The postmaster, SIGKILL; back soon."""
    await scene.stack.down(scene.stack.servers.postgres, _POSTGRES_SOON_S)


async def postgres_away(scene: Scene) -> None:
    """The postmaster, SIGKILL; back after 30 s."""
    await scene.stack.down(scene.stack.servers.postgres, _POSTGRES_DOWN_S)


async def postgres_slow(scene: Scene) -> None:
    """Every answer takes two seconds more."""
    await _for_a_while(scene, [scene.stack.links.postgres], delayed(_SLOW_S), _FOR_S)


async def postgres_hanging_key(scene: Scene) -> None:
    """Somebody holds the lock of one user's state."""
    tenant, user = scene.devices[0].name.user
    owner = await asyncpg.connect(scene.stack.settings.postgres_dsn)
    try:
        async with owner.transaction():
            await owner.execute("SELECT set_config('herald.tenants', $1, true)", tenant)
            await owner.execute(
                "SELECT FROM user_state WHERE tenant_id = $1 AND entity_id = $2 FOR UPDATE", tenant, user
            )
            await asyncio.sleep(_FOR_S)
    finally:
        await owner.close()


async def nats_killed(scene: Scene) -> None:
    await scene.stack.down(scene.stack.servers.nats, _DOWN_S)


async def nats_node_killed(scene: Scene) -> None:
    """One of three; clients go to the others."""
    scene.stack.over()
    await scene.stack.down(scene.stack.nats_nodes[0], _DOWN_S)


async def nats_cluster_killed(scene: Scene) -> None:
    """All three at the same time, 3 s down."""
    await asyncio.gather(*(scene.stack.down(node, _DOWN_S) for node in scene.stack.nats_nodes))


async def postgres_back_in_time(scene: Scene) -> None:
    """A copy of some seconds ago takes over, as when a replica is promoted that lost its tail."""
    scene.ledger.acks_may_be_forgotten = True
    postgres = scene.stack.servers.postgres
    assert postgres is not None
    cluster, copy = postgres.data / "cluster", postgres.data / "copy"
    await scene.stack.down(postgres, 1, lambda: shutil.copytree(cluster, copy))
    await asyncio.sleep(_TAIL_S)

    def replace() -> None:
        shutil.rmtree(cluster)
        copy.rename(cluster)

    await scene.stack.down(postgres, 1, replace)


async def redis_promoted(scene: Scene) -> None:
    """A Sentinel promotes a replica that had not heard its master's last writes."""
    sentinels = scene.stack.sentinels
    assert sentinels is not None
    await sentinels.cut_off()
    await asyncio.sleep(_TAIL_S)
    await sentinels.promote()


async def nats_unreliable(scene: Scene) -> None:
    """Answers are dropped, doubled and reordered, on both ends."""
    links = scene.stack.links
    unreliable = Unreliable(scene.chance, _UNRELIABLE_SHARE)
    await _for_a_while(scene, [links.worker_nats, links.gateway_nats], unreliable, _FOR_S)
    scene.seen |= unreliable.done


async def redis_killed(scene: Scene) -> None:
    await scene.stack.down(scene.stack.servers.redis, _DOWN_S)


async def redis_flushed(scene: Scene) -> None:
    """FLUSHALL, three times."""
    async with Redis.from_url(scene.stack.settings.redis_url) as redis:
        for _ in range(3):
            await redis.flushall()
            await asyncio.sleep(1)


async def links_throttled(scene: Scene) -> None:
    """The gateway's links carry 20 KB a second."""
    links = scene.stack.links
    await _for_a_while(scene, [links.gateway_nats, links.gateway_redis], throttled(_LINK_BYTES_PER_S), _FOR_S)


async def links_reset(scene: Scene) -> None:
    """Every link behind Herald is reset, one after the other, twice."""
    links = scene.stack.links
    for _ in range(2):
        for link in (links.kafka, links.postgres, links.worker_nats, links.worker_redis, links.gateway_nats,
                     links.gateway_redis):  # fmt: skip
            link.drop()
            await asyncio.sleep(0.5)


async def bits_flipped(scene: Scene) -> None:
    """In records on their way from Kafka, batches on the bus, receipts on their way to Redis."""
    links = scene.stack.links
    places: tuple[tuple[Proxy, bytes, bool], ...] = (
        (links.kafka, b'"payload"', True), (links.worker_nats, b"HB\x01", False),
        (links.gateway_redis, RECEIPTS_STREAM.encode() + b"\r\n", False),
    )  # fmt: skip
    for link, marker, is_reply in places:
        link.watch = flipped_bit(scene.chance, marker, is_reply=is_reply, times=_FLIPS)
        await asyncio.sleep(_FLIPPING_S)
        link.watch = None


async def noise(scene: Scene) -> None:
    """Anywhere in the streams, framing included: of each server in turn."""
    links = scene.stack.links
    for name, ends in {
        "nats": [links.worker_nats, links.gateway_nats], "redis": [links.worker_redis, links.gateway_redis],
        "kafka": [links.kafka], "postgres": [links.postgres],
    }.items():  # fmt: skip
        flips = Noise(scene.chance, _NOISE_SHARE, CLIENT_ID.encode())
        await _for_a_while(scene, ends, flips, _FLIPPING_S)
        scene.seen[f"bits flipped, {name}"] = flips.flips


async def _for_a_while(scene: Scene, links: list[Proxy], watch: Watch, seconds: float) -> None:
    for link in links:
        link.watch = watch
    await asyncio.sleep(seconds)
    for link in links:
        link.watch = None


CASES: Final = (
    Case("postgres killed, 5 s down", "the postmaster, SIGKILL", postgres_killed, _POSTGRES_RECOVERY_S),
    Case("postgres killed, 30 s down", "the postmaster, SIGKILL", postgres_away, _POSTGRES_RECOVERY_S),
    Case("postgres back in time", "a copy of seconds ago takes over", postgres_back_in_time),
    Case("postgres 2 s slow", "every answer", postgres_slow),
    Case("one hanging key", "a user's row is locked for 15 s", postgres_hanging_key),
    Case("nats killed", "3 s down", nats_killed, _NATS_RECOVERY_S),
    Case("one of three nats killed", "3 s down", nats_node_killed, _NATS_RECOVERY_S, Parts.NATS_CLUSTER),
    Case("all of three nats killed", "3 s down", nats_cluster_killed, _NATS_RECOVERY_S, Parts.NATS_CLUSTER),
    Case("nats answers unreliable", "dropped, doubled, reordered", nats_unreliable),
    Case("redis killed", "3 s down", redis_killed, _REDIS_RECOVERY_S),
    Case("redis replica promoted", "it had lost writes", redis_promoted, parts=Parts.SENTINELS),
    Case("redis flushed", "FLUSHALL, three times", redis_flushed),
    Case("links throttled", "20 KB a second", links_throttled),
    Case("links reset", "each in turn", links_reset),
    Case("bits flipped", "in Kafka's records, bus batches, receipts", bits_flipped),
    Case("streams flipped", "any bit between Herald and its servers", noise),
)
