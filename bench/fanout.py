"""fanout: one text to many connections, as fast as they take it.

The gateway gets, for each text, an item per user (a control frame: no window, no ack) in batches over NATS; the
floor and uWebSockets get one item for all. Figure: CPU µs of the server process per frame written. One text is in
flight, so that a frame is a send of its own whoever writes it. Of two, uWebSockets makes one send per connection
and turn of its loop, the gateway when one read of the bus brought both, the floor never: what is compared then is
how often they meet.
"""

from pathlib import Path
from typing import Any, NamedTuple

from bench import feeds, proc
from bench.report import Progress
from bench.rounds import Figures, order
from bench.servers import INBOX_USED, Contestant, Floor, Uws, absent, running
from notification.batch import CONTROL, Item
from notification.errors import Unavailable
from notification.limits import DISPATCH_BATCH_ITEMS_MAX


class Options(NamedTuple):
    """`texts`: how many are sent to all in a round; `in_flight`: how many of them did not arrive yet."""

    rounds: int = 5
    connections: int = 1_000
    texts: int = 100
    body_bytes: int = 512
    in_flight: int = 1
    contestants: tuple[str, ...] = ("floor", "engine", "uws")


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report; a peer that was not fetched is named as absent. Raises Unavailable when frames are lost."""
    missing = absent(options.contestants)
    names = [name for name in options.contestants if name not in missing]
    cost, busy = Figures(names), Figures(names)
    async with running(names) as (_, up):
        with progress.step("packing batches", 1):
            files = {name: _write_feed(one, options) for name, one in up.items()}
        with progress.step("rounds", options.rounds * len(up)) as advance:
            for _number, name in order(names, options.rounds):
                us, share = await _round(up[name], files[name], options)
                cost.add(name, us)
                busy.add(name, share)
                advance()
    return {
        "bench": "fanout", "unit": "µs of server CPU per frame", "inbox": INBOX_USED, "options": options._asdict(),
        "figures": cost.report(names[0]), "busy": {name: busy.spread(name).median for name in names},
        "absent": ", ".join(missing) or "nobody",
    }  # fmt: skip


def _to_all(one: Contestant) -> bool:
    """Does it take one item for all?"""
    return isinstance(one, Floor | Uws)


def _write_feed(one: Contestant, options: Options) -> Path:
    path = one.stage.folder / f"feed-{one.name}"
    items: list[Item] = []
    for text in range(options.texts):
        item = feeds.item_of(feeds.Numbered(text, 0, 1), options.body_bytes, kind=CONTROL)
        tags = [b""] if _to_all(one) else [feeds.tag_of(user).encode() for user in range(options.connections)]
        items += [item._replace(tag=tag) for tag in tags]
    feeds.write_feed(path, one.subject, items, 1 if _to_all(one) else DISPATCH_BATCH_ITEMS_MAX)
    return path


async def _round(one: Contestant, feed: Path, options: Options) -> tuple[float, float]:
    """(CPU µs per frame, share of a core)."""
    frames = options.texts * options.connections
    async with one.load(range(options.connections)) as load:
        await load.acks(False)
        await load.connect_all(options.connections, until=one.until)
        before = await proc.quiet_ns(one.pids)
        fan = options.connections if _to_all(one) else 1
        result = await load.feed(feed, options.in_flight * options.connections, frames, fan=fan)
        busy_ns = proc.cpu_ns(one.pids) - before
        after = await proc.quiet_ns(one.pids)
        await load.close()
    await one.acked()
    if result["stalled"] or result["frames"] != frames:
        raise Unavailable(f"{one.name}: {result['frames']} frames arrived of {frames}")
    return (after - before) / frames / 1_000, busy_ns / result["seconds"] / 1e9
