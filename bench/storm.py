"""storm: many clients reconnect at once to one gateway process on one core.

Figures: how many were admitted and how fast (from the SYN to the welcome), what the others were told, and what
neighbours, who get a notification each second, saw before and meanwhile.
"""

import asyncio
from typing import Any, Final, NamedTuple

from bench import feeds
from bench.histogram import Histogram
from bench.load import Load
from bench.report import Progress
from bench.servers import INBOX_USED, Contestant, running
from notification.limits import DISPATCH_BATCH_ITEMS_MAX

_NEIGHBOURS: Final = 1_000
_BEFORE_S: Final = 5
_STORM_S_MAX: Final = 120  # neighbours have notifications for so long
_PER_CLIENT_PROCESS: Final = 10_000


class Options(NamedTuple):
    """`connections`: clients that come at once; `per_s`: 0, or the rate at which they come."""

    connections: int = 20_000
    per_s: float = 0
    body_bytes: int = 512
    contestants: tuple[str, ...] = ("engine",)


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report, for each contestant on its own."""
    figures = {}
    statuses = {}
    for name in options.contestants:
        async with running((name,)) as (_, up):
            figures[name], statuses[name] = await _storm(up[name], options, progress)
    return {
        "bench": "storm", "unit": "reconnects at once, on one core", "inbox": INBOX_USED,
        "options": options._asdict(), "figures": figures, "refused": statuses,
    }  # fmt: skip


async def _storm(one: Contestant, options: Options, progress: Progress) -> tuple[dict[str, Any], dict[str, int]]:
    first = _NEIGHBOURS
    async with one.load(range(_NEIGHBOURS), spin=False) as neighbours:
        await neighbours.connect_all(_NEIGHBOURS)
        clock = _Clock(one, neighbours, options.body_bytes)
        before = await clock.watch(asyncio.create_task(asyncio.sleep(_BEFORE_S)))
        crowds = []
        with progress.step("making tokens", 1):
            while first < _NEIGHBOURS + options.connections:
                users = range(first, min(first + _PER_CLIENT_PROCESS, _NEIGHBOURS + options.connections))
                crowds.append((one.load(users, spin=False), len(users)))
                first = users[-1] + 1
        with progress.step("the storm", 1):
            results, meanwhile = await _break_loose(crowds, clock, options)
    latency = Histogram.merge(Histogram.parse(result["latency"]) for result in results)
    took_s = max(result["seconds"] for result in results)
    admitted = sum(result["asked"] - result["failed"] for result in results)
    refused: dict[str, int] = {"ended otherwise": sum(result["errors"] for result in results)}
    for result in results:
        for status, count in result["statuses"].items():
            refused[status] = refused.get(status, 0) + count
    figure = {
        "admitted": admitted, "seconds": took_s, "admitted_per_s": admitted / took_s,
        **latency.summary_ms(),
        "neighbours_before_p99_ms": before.percentile_us(99) / 1_000,
        "neighbours_meanwhile_p99_ms": meanwhile.percentile_us(99) / 1_000,
    }  # fmt: skip
    return figure, refused


async def _break_loose(
    crowds: list[tuple[Any, int]], clock: "_Clock", options: Options
) -> tuple[list[dict[str, Any]], Histogram]:
    loads = [(await crowd.__aenter__(), count) for crowd, count in crowds]
    try:
        per_s = options.per_s / len(loads)
        storm = asyncio.ensure_future(asyncio.gather(*(load.connect(count, count, per_s) for load, count in loads)))
        meanwhile = await clock.watch(storm)
        return storm.result(), meanwhile
    finally:
        for crowd, _ in crowds:
            await crowd.__aexit__(None, None, None)


class _Clock:
    """A notification per neighbour and second, for as long as something lasts."""

    def __init__(self, one: Contestant, neighbours: Load, body_bytes: int) -> None:
        self._one = one
        self._neighbours = neighbours
        self._second = 0
        self._items = [
            feeds.item_of(numbered, body_bytes)
            for numbered in feeds.in_turn(_NEIGHBOURS, _NEIGHBOURS * _STORM_S_MAX)
        ]

    async def watch(self, lasting: "asyncio.Future[Any]") -> Histogram:
        """The neighbours' latencies from the first second to the one in which it ends."""
        folder = self._one.stage.folder
        await self._neighbours.reset()
        while not lasting.done() and self._second < _STORM_S_MAX:
            start = self._second * _NEIGHBOURS
            feed, ledger = folder / "feed", folder / "ledger"
            feeds.write_ledger(ledger, _NEIGHBOURS * _STORM_S_MAX)
            await self._neighbours.ledger(ledger)
            with feed.open("wb") as file:
                for at in range(start, start + _NEIGHBOURS, DISPATCH_BATCH_ITEMS_MAX // 8):
                    items = self._items[at : min(at + DISPATCH_BATCH_ITEMS_MAX // 8, start + _NEIGHBOURS)]
                    file.write(feeds.record(self._one.subject, items, at))
            await self._neighbours.feed(feed, _NEIGHBOURS, _NEIGHBOURS, _NEIGHBOURS)
            self._second += 1
        await lasting
        return Histogram.parse((await self._neighbours.stats())["latency"])
