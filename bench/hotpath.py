"""hotpath: batches over NATS, routed by user, delivered, ack parsed, ack packed to the Redis stream; at saturation.

The floor is fed with the same batches over plain TCP. Figure: CPU µs of the server process per notification that
was delivered and acknowledged. `busy` is the share of its core that the server used: well below 1 means that the
generator was the slower one, and the figure holds the wake-ups of a server that waits.
"""

from pathlib import Path
from typing import Any, NamedTuple

from bench import feeds, proc
from bench.report import Progress
from bench.rounds import Figures, order
from bench.servers import INBOX_USED, Contestant, Floor, absent, running
from notification.errors import Unavailable
from notification.limits import DISPATCH_BATCH_ITEMS_MAX, UNACKED_PER_CONNECTION_MAX


class Options(NamedTuple):
    """`burst`: notifications of a user that stand side by side in a batch."""

    rounds: int = 5
    messages: int = 100_000
    connections: int = 1_000
    body_bytes: int = 512
    burst: int = 1
    in_flight: int = 2_048
    contestants: tuple[str, ...] = ("floor", "engine")

    def check(self) -> None:
        """Raises ValueError: no user's window may fill up, or items would come from the log."""
        if self.in_flight > self.connections * UNACKED_PER_CONNECTION_MAX // (2 * self.burst):
            raise ValueError(f"{self.in_flight} in flight are too many for {self.connections} connections")


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report. Raises Unavailable when a notification was lost or an ack did not arrive."""
    options.check()
    missing = absent(options.contestants)
    present = [name for name in options.contestants if name not in missing]
    cost, busy, proxy = Figures(present), Figures(present), Figures(present)
    async with running(present) as (stage, up):
        with progress.step("packing batches", 1):
            numbered = feeds.in_turn(options.connections, options.messages, options.burst)
            items = [feeds.item_of(one, options.body_bytes) for one in numbered]
        files = {}
        for name, one in up.items():
            files[name] = stage.folder / f"feed-{name}"
            feeds.write_feed(files[name], one.subject, items, DISPATCH_BATCH_ITEMS_MAX)
        with progress.step("rounds", options.rounds * len(up)) as advance:
            for _, name in order(list(up), options.rounds):
                us, share, proxy_us = await play(up[name], files[name], options)
                cost.add(name, us)
                busy.add(name, share)
                proxy.add(name, proxy_us)
                advance()
    return {
        "bench": "hotpath", "unit": "µs of server CPU per delivered and acked notification", "inbox": INBOX_USED,
        "options": options._asdict(), "figures": cost.report(Floor.name if Floor.name in up else next(iter(up))),
        "busy": {name: busy.spread(name).median for name in up},
        "of_it_proxy": {name: proxy.spread(name).median for name, one in up.items() if one.proxy_pids},
        "absent": ", ".join(missing) or "nobody",
    }  # fmt: skip


async def play(one: Contestant, feed: Path, options: Options) -> tuple[float, float, float]:
    """One round: (CPU µs per message, share of a core, CPU µs of that in a proxy)."""
    stage = one.stage
    ledger = stage.folder / "ledger"
    feeds.write_ledger(ledger, options.messages)
    async with one.load(range(options.connections)) as load:
        await load.ledger(ledger)
        await load.connect_all(options.connections, until=one.until)
        before, proxy_ns = await proc.quiet_ns(one.pids), proc.cpu_ns(one.proxy_pids)
        result = await load.feed(feed, options.in_flight, options.messages)
        busy_ns = proc.cpu_ns(one.pids) - before
        await one.settle(options.messages)
        after = await proc.quiet_ns(one.pids)
        proxy_ns = proc.cpu_ns(one.proxy_pids) - proxy_ns
        await load.close()
    came = feeds.read_ledger(ledger)
    if result["stalled"] or came.lost or came.repeated or set(result["codes"]) != {"0"}:
        raise Unavailable(
            f"{one.name}: of {options.messages} notifications {came.lost} never came, {came.repeated} came twice; "
            f"batches were answered {result['codes']}, {result['no_responders']} by nobody"
        )
    acked = await one.acked()
    if acked != options.messages:
        raise Unavailable(f"{one.name}: {acked} acks arrived of {options.messages}")
    share = busy_ns / result["seconds"] / 1e9
    return (after - before) / options.messages / 1_000, share, proxy_ns / options.messages / 1_000
