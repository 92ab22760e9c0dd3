"""handshake: connects with an HS256 token that the gateway has not seen, up to the welcome and what is owed; then
the close handshake.

Figure: CPU µs of the server process per connect and per disconnect; for the floor that is the bare upgrade.
"""

from typing import Any, NamedTuple

from bench import proc
from bench.histogram import Histogram
from bench.report import Progress
from bench.rounds import Figures, order
from bench.servers import INBOX_USED, Contestant, Floor, absent, running


class Options(NamedTuple):
    """`in_flight`: connects at the same time."""

    rounds: int = 5
    connections: int = 5_000
    in_flight: int = 64
    contestants: tuple[str, ...] = ("floor", "engine")


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report. Raises Unavailable when a connect failed."""
    missing = absent(options.contestants)
    names = [name for name in options.contestants if name not in missing]
    connects, ends, latency, proxy = Figures(names), Figures(names), Figures(names), Figures(names)
    async with running(names) as (_, up):
        with progress.step("rounds", options.rounds * len(up)) as advance:
            for _number, name in order(list(up), options.rounds):
                connect_us, end_us, p95_ms, proxy_us = await _round(up[name], options)
                connects.add(name, connect_us)
                ends.add(name, end_us)
                latency.add(name, p95_ms)
                proxy.add(name, proxy_us)
                advance()
    base = Floor.name if Floor.name in up else next(iter(up))
    return {
        "bench": "handshake", "unit": "µs of server CPU per connect", "inbox": INBOX_USED,
        "options": options._asdict(), "figures": connects.report(base), "disconnect": ends.report(base),
        "p95_ms": {name: latency.spread(name).median for name in up},
        "of_it_proxy": {name: proxy.spread(name).median for name, one in up.items() if one.proxy_pids},
        "absent": ", ".join(missing) or "nobody",
    }  # fmt: skip


async def _round(one: Contestant, options: Options) -> tuple[float, float, float, float]:
    """(CPU µs per connect, per disconnect, P95 of the connect in ms, CPU µs of a connect in a proxy)."""
    count = options.connections
    async with one.load(range(count)) as load:
        before, proxy_ns = await proc.quiet_ns(one.pids), proc.cpu_ns(one.proxy_pids)
        result = await load.connect_all(count, options.in_flight, one.until)
        open_ns = await proc.quiet_ns(one.pids)
        proxy_ns = proc.cpu_ns(one.proxy_pids) - proxy_ns
        await load.close(options.in_flight)
        after = await proc.quiet_ns(one.pids)
    p95_ms = Histogram.parse(result["latency"]).percentile_us(95) / 1_000
    await one.acked()  # empties the stream
    each_us = [spent_ns / count / 1_000 for spent_ns in (open_ns - before, after - open_ns, proxy_ns)]
    return each_us[0], each_us[1], p95_ms, each_us[2]
