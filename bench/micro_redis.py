"""`python -m bench.micro_redis [--json]`: what a Redis command costs the gateway, beside redis-py and hiredis.

Three parts, each with its contestants once a round in random order; a ratio is taken within a round:
`pack` (a typical command into bytes), `reply` (the reply of a stream entry that nobody waits for), and `pipeline`
(XADDs to a Valkey of its own, from push to reply, all CPU of this process, on uvloop).
"""

import argparse
import asyncio
import functools
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import hiredis
import uvloop
from redis._parsers.encoders import Encoder
from redis.asyncio import Redis
from redis.connection import PythonRespSerializer

from bench.rounds import Figures, order
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
COMMANDS_COUNT: Final = 50_000  # of a turn
BATCH_COUNT: Final = 100  # commands of one tick, so that a write carries many
REPLY: Final = b"$15\r\n1795478283117-0\r\n"
COMMANDS: Final[tuple[tuple[str | bytes | int, ...], ...]] = (
    ("XADD", RECEIPTS_STREAM, "MAXLEN", "~", RECEIPTS_STREAM_ENTRIES_MAX, "*", RECEIPTS_FIELD, bytes(ENTRY_BYTES)),
    ("EVALSHA", "a" * 40, 1, presence_key("tenant:dXNlcg"), "phone", 1_795_478_283_117, "g-0-01 17954 ONLINE 1795"),
    ("SET", lease_key("gateway-0-01"), "1", "PX", LEASE_MS),
)


Work = Callable[[], object]
Prepare = Callable[[int], Work]  # for so many commands; what it does first is not measured


def cpu_us(work: Work, count: int) -> float:
    """CPU µs per command of a synchronous piece of work."""
    started_ns = time.process_time_ns()
    work()
    return (time.process_time_ns() - started_ns) / count / 1_000


def packers() -> dict[str, Prepare]:
    """Each packs `count` commands, the three kinds in turn."""
    encoder = Encoder("utf-8", "strict", False)  # type: ignore[no-untyped-call]
    python = PythonRespSerializer(6_000, encoder.encode)

    def run(function: Callable[..., object], spread: bool) -> Prepare:
        def loop(count: int) -> None:
            for number in range(count):
                command = COMMANDS[number % 3]
                function(*command) if spread else function(command)

        return lambda count: functools.partial(loop, count)

    def queue(count: int) -> None:
        exchange = Exchange()
        for number in range(count):
            exchange.put(COMMANDS[number % 3])
            if number % BATCH_COUNT == BATCH_COUNT - 1:
                exchange.take(1 << 30)
                exchange.rewind()
                exchange.clear()

    return {
        "redis-py": run(python.pack, spread=True), "hiredis": run(hiredis.pack_command, spread=False),
        "resp.pack": run(pack, spread=False), "Exchange.put": lambda count: functools.partial(queue, count),
    }  # fmt: skip


def readers() -> dict[str, Prepare]:
    """Each hears `count` replies, BATCH_COUNT in a piece."""
    data = REPLY * BATCH_COUNT

    def with_hiredis(count: int) -> Work:
        reader = hiredis.Reader()

        def work() -> None:
            for _ in range(count // BATCH_COUNT):
                reader.feed(data)
                while reader.gets() is not False:
                    pass

        return work

    def with_exchange(count: int) -> Work:
        exchange = Exchange()
        packed = pack(("PING",))
        for _ in range(count):
            exchange.put_packed(packed)
        exchange.take(1 << 30)

        def work() -> None:
            for _ in range(count // BATCH_COUNT):
                exchange.feed(data)
                exchange.next()
            assert len(exchange) == 0

        return work

    return {"hiredis": with_hiredis, "Exchange": with_exchange}


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


async def measure(rounds: int, count: int) -> dict[str, Figures]:
    """Every part's figures, in CPU µs per command."""
    parts = {"pack": packers(), "reply": readers()}
    figures = {name: Figures(list(contestants)) for name, contestants in parts.items()}
    for part, contestants in parts.items():
        for _, name in order(list(contestants), rounds):
            figures[part].add(name, cpu_us(contestants[name](count), count))
    figures["pipeline"] = Figures(["redis-py", "gateway"])
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(redis_port=free_ports(1)[0], data_dir=folder)
        server = Valkey(settings)
        await server.start()
        pipeline = RedisPipeline(parse(settings.redis_url))
        redis: Any = Redis.from_url(settings.redis_url)
        try:
            await pipeline.start(10)
            runs: dict[str, Callable[[], Awaitable[None]]] = {
                "gateway": lambda: with_gateway(pipeline, count), "redis-py": lambda: with_redis_py(redis, count),
            }  # fmt: skip
            for _, name in order(list(runs), rounds):
                await redis.delete(RECEIPTS_STREAM)
                started_ns = time.process_time_ns()
                await runs[name]()
                figures["pipeline"].add(name, (time.process_time_ns() - started_ns) / count / 1_000)
        finally:
            await redis.aclose()
            await pipeline.close()
            await server.stop()
    return figures


BASES: Final = {"pack": "redis-py", "reply": "hiredis", "pipeline": "redis-py"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.micro_redis", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--commands", type=int, default=COMMANDS_COUNT, help="commands of a turn (default: 50,000)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.commands < BATCH_COUNT:
        parser.error(f"--rounds must be at least 1, --commands at least {BATCH_COUNT}")
    count = arguments.commands // BATCH_COUNT * BATCH_COUNT
    figures = uvloop.run(measure(arguments.rounds, count))
    if arguments.json:
        parts = {part: figures[part].report(base) for part, base in BASES.items()}
        json.dump({"bench": "micro_redis", "unit": "µs of CPU per command", "parts": parts}, sys.stdout)
        print()
        return
    print(f"µs of CPU per command, {arguments.rounds} rounds: median (range); ratio to the first, round by round")
    for part, base in BASES.items():
        for name in figures[part].report(base):
            ratio = "" if name == base else figures[part].ratio(name, base).shown(3)
            print(f"{part:9} {name:25} {figures[part].spread(name).shown(3):28} {ratio}")


if __name__ == "__main__":
    main()
