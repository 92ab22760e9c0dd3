"""idle: what an authenticated, registered connection with presence costs while nothing happens but pings.

Figures: bytes of memory of the server process per connection (kernel memory apart: of the server's and the client's
socket together), and CPU µs per second and connection, with what the process uses without connections taken off.
All contestants hold their connections at the same time.
"""

import asyncio
import contextlib
import time
from typing import Any, Final, NamedTuple

from bench import proc
from bench.load import Load
from bench.report import Progress
from bench.servers import INBOX_USED, Contestant, absent, running
from notification.errors import Unavailable

_WARM_UP: Final = 500  # connections that come and go before the first look: what is made once is made
_BASE_S: Final = 5.0


class Options(NamedTuple):
    """`seconds`: how long the CPU is watched; a ping comes each 30 s."""

    connections: int = 10_000
    seconds: float = 60.0
    contestants: tuple[str, ...] = ("floor", "engine", "picows")


class _Held(NamedTuple):
    """Bytes that came with the connections."""

    memory: proc.Memory
    proxy: proc.Memory
    kernel: int


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report. Raises Unavailable when a connection failed or broke."""
    missing = absent(options.contestants)
    names = [name for name in options.contestants if name not in missing]
    async with running(names) as (_, up), contextlib.AsyncExitStack() as loads:
        holding: dict[str, Load] = {}
        held: dict[str, _Held] = {}
        with progress.step("warming up", len(up)) as advance:
            for name, one in up.items():
                holding[name] = await loads.enter_async_context(one.load(range(options.connections)))
                await _warm_up(one, holding[name], min(_WARM_UP, options.connections))
                advance()
        base_us_s = await _cpu_us_s(up, _BASE_S)
        with progress.step("connecting", len(up)) as advance:
            for name, one in up.items():
                held[name] = await _hold(one, holding[name], options.connections)
                advance()
        with progress.step(f"watching for {options.seconds:g} s", options.seconds) as advance:
            cpu_us_s = await _cpu_us_s(up, options.seconds, advance)
        pings = {name: await load.stats() for name, load in holding.items()}
        broken = {name: one for name, one in pings.items() if one["live"] != options.connections}
        if broken:
            raise Unavailable(f"connections broke while they were idle: {broken}")
        for load in holding.values():
            await load.drop()
    count = options.connections
    return {
        "bench": "idle", "unit": "per idle connection", "inbox": INBOX_USED, "options": options._asdict(),
        "figures": {
            name: {
                "rss_bytes": held[name].memory.rss / count, "pss_bytes": held[name].memory.pss / count,
                "kernel_bytes_both_ends": held[name].kernel / count,
                "cpu_us_per_s": (cpu_us_s[name].all - base_us_s[name].all) / count,
                "process_cpu_us_per_s": base_us_s[name].all,
                "of_it_proxy_rss_bytes": held[name].proxy.rss / count,
                "of_it_proxy_cpu_us_per_s": (cpu_us_s[name].proxy - base_us_s[name].proxy) / count,
                "pings": pings[name]["pings"],
            }
            for name in up
        },
        "absent": ", ".join(missing) or "nobody",
    }  # fmt: skip


async def _warm_up(one: Contestant, load: Load, count: int) -> None:
    await load.connect_all(count, until=one.until)
    await load.close()
    await proc.quiet_ns(one.pids)


async def _hold(one: Contestant, load: Load, count: int) -> _Held:
    before, kernel = proc.memory(one.pids), proc.kernel_bytes()
    proxy = proc.memory(one.proxy_pids)
    await load.connect_all(count, until=one.until)
    await proc.quiet_ns(one.pids)
    return _Held(
        proc.memory(one.pids).since(before), proc.memory(one.proxy_pids).since(proxy), proc.kernel_bytes() - kernel
    )


class _Cpu(NamedTuple):
    """µs per second: of all processes of a contestant, and of its proxy among them."""

    all: float
    proxy: float


async def _cpu_us_s(up: dict[str, Contestant], seconds: float, advance: Any = None) -> dict[str, _Cpu]:
    """CPU time of the contestants over an interval."""

    def spent_ns() -> dict[str, tuple[int, int]]:
        return {name: (proc.cpu_ns(one.pids), proc.cpu_ns(one.proxy_pids)) for name, one in up.items()}

    before = spent_ns()
    began_s = time.monotonic()
    while (left_s := began_s + seconds - time.monotonic()) > 0:
        step_s = min(1.0, left_s)
        await asyncio.sleep(step_s)
        if advance is not None:
            advance(step_s)
    took_s = time.monotonic() - began_s
    return {
        name: _Cpu(*((now - then) / 1_000 / took_s for now, then in zip(after, before[name], strict=True)))
        for name, after in spent_ns().items()
    }
