"""Redis commands, beside redis-py and hiredis: `pack` (a typical command into bytes), `reply` (of a stream entry
that nobody waits for) and `pipeline` (XADDs to a Valkey of its own, from push to reply, all CPU of this process).
"""

import asyncio
import contextlib
import functools
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import hiredis
from redis._parsers.encoders import Encoder
from redis.asyncio import Redis
from redis.connection import PythonRespSerializer

from bench.micro.part import Part, Turn, timed
from devstack.ports import free_ports
from devstack.servers import Valkey
from gateway._fast.exchange import Exchange
from gateway._fast.resp import pack
from gateway.pipeline import RedisPipeline
from notification.limits import LEASE_MS, RECEIPTS_STREAM_ENTRIES_MAX
from notification.names import RECEIPTS_FIELD, RECEIPTS_STREAM, lease_key, presence_key
from notification.redis_address import parse
from notification.settings import Settings

ENTRY_BYTES: Final = 300  # two acks, packed
BATCH_COUNT: Final = 100  # commands of one tick, so that a write carries many
REPLY: Final = b"$15\r\n1795478283117-0\r\n"
COMMANDS: Final[tuple[tuple[str | bytes | int, ...], ...]] = (
    ("XADD", RECEIPTS_STREAM, "MAXLEN", "~", RECEIPTS_STREAM_ENTRIES_MAX, "*", RECEIPTS_FIELD, bytes(ENTRY_BYTES)),
    ("EVALSHA", "a" * 40, 1, presence_key("tenant:dXNlcg"), "phone", 1_795_478_283_117, "g-0-01 17954 ONLINE 1795"),
    ("SET", lease_key("gateway-0-01"), "1", "PX", LEASE_MS),
)


def _packing(count: int) -> Part:
    """The three kinds in turn."""
    python = PythonRespSerializer(6_000, Encoder("utf-8", "strict", False).encode)  # type: ignore[no-untyped-call]

    def loop(function: Callable[..., object], spread: bool) -> None:
        for number in range(count):
            command = COMMANDS[number % 3]
            function(*command) if spread else function(command)

    def queue(exchange: Exchange) -> None:
        for number in range(count):
            exchange.put(COMMANDS[number % 3])
            if number % BATCH_COUNT == BATCH_COUNT - 1:
                exchange.take(1 << 30)
                exchange.rewind()
                exchange.clear()

    def packer(function: Callable[..., object], *, spread: bool = False) -> Turn:
        return timed(lambda: functools.partial(loop, function, spread), count)

    return Part("redis pack", {
        "redis-py": packer(python.pack, spread=True), "hiredis": packer(hiredis.pack_command),
        "resp.pack": packer(pack), "Exchange.put": timed(lambda: functools.partial(queue, Exchange()), count),
    })  # fmt: skip


def _reading(count: int) -> Part:
    """BATCH_COUNT replies in a piece."""
    data = REPLY * BATCH_COUNT

    def with_hiredis(reader: hiredis.Reader) -> None:
        for _ in range(count // BATCH_COUNT):
            reader.feed(data)
            while reader.gets() is not False:
                pass

    def prepared() -> Callable[[], None]:
        exchange = Exchange()
        packed = pack(("PING",))
        for _ in range(count):
            exchange.put_packed(packed)
        exchange.take(1 << 30)
        return functools.partial(with_exchange, exchange)

    def with_exchange(exchange: Exchange) -> None:
        for _ in range(count // BATCH_COUNT):
            exchange.feed(data)
            exchange.next()
        assert len(exchange) == 0

    return Part("redis reply", {
        "hiredis": timed(lambda: functools.partial(with_hiredis, hiredis.Reader()), count),
        "Exchange": timed(prepared, count),
    })  # fmt: skip


async def with_gateway(pipeline: RedisPipeline, count: int) -> None:
    """One write per tick, as receipts leave."""
    for _ in range(count // BATCH_COUNT):
        for _ in range(BATCH_COUNT):
            pipeline.push(*COMMANDS[0])
        await asyncio.sleep(0)
    await pipeline.settled()


async def with_redis_py(redis: "Redis", count: int) -> None:
    for _ in range(count // BATCH_COUNT):
        pipeline: Any = redis.pipeline(transaction=False)
        for _ in range(BATCH_COUNT):
            pipeline.execute_command(*COMMANDS[0])
        await pipeline.execute()


@contextlib.asynccontextmanager
async def parts(count: int) -> AsyncIterator[list[Part]]:
    """The three, `count` commands a turn (rounded down to whole batches, at least one), while Valkey runs."""
    count = max(count // BATCH_COUNT, 1) * BATCH_COUNT
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(redis_port=free_ports(1)[0], data_dir=folder)
        server = Valkey(settings)
        await server.start()
        pipeline = RedisPipeline(parse(settings.redis_url))
        redis: Any = Redis.from_url(settings.redis_url)

        def turn(run: Callable[[], Awaitable[None]]) -> Turn:
            async def measured() -> float:
                await redis.delete(RECEIPTS_STREAM)
                started_ns = time.process_time_ns()
                await run()
                return (time.process_time_ns() - started_ns) / count / 1_000

            return measured

        try:
            await pipeline.start(10)
            round_trip = {
                "redis-py": turn(lambda: with_redis_py(redis, count)),
                "gateway": turn(lambda: with_gateway(pipeline, count)),
            }
            yield [_packing(count), _reading(count), Part("redis pipeline", round_trip)]
        finally:
            await redis.aclose()
            await pipeline.close()
            await server.stop()
