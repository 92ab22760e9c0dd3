"""storm: many clients reconnect at once to one gateway process on one core, and come again as the protocol says.

Figures: how fast those who were admitted had their welcome, how many were told 503 and how long it took until all
were in, and what neighbours, who get a notification each second, saw before and meanwhile.
"""

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from bench import feeds
from bench.histogram import Histogram
from bench.load import Load
from bench.report import Progress
from bench.rounds import ratios, spread
from bench.servers import INBOX_USED, Gateway, running
from notification.errors import Unavailable
from notification.limits import DISPATCH_BATCH_ITEMS_MAX

_NEIGHBOURS: Final = 1_000
_BEFORE_S: Final = 3
_WATCHED_S_MAX: Final = 240  # neighbours have notifications for so long
_EMPTY_S_MAX: Final = 30
_PER_CLIENT_PROCESS: Final = 10_000
_CONNECTED: Final = "herald_connect_seconds"


class Options(NamedTuple):
    """`connections`: clients that come at once; `per_s`: 0, or the rate at which they come."""

    rounds: int = 3
    connections: int = 18_500
    per_s: float = 0
    body_bytes: int = 512
    contestants: tuple[str, ...] = ("engine",)


class _Round(NamedTuple):
    """One storm. `welcomed`: accept to welcome, as the gateway counts it, by the upper edges of its buckets."""

    admitted: int
    seconds: float
    refused: int
    failed: int
    latency: Histogram
    welcomed: dict[float, float]
    before_p99_ms: float
    meanwhile_p99_ms: float


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report, for each contestant on its own."""
    figures = {}
    neighbours = {}
    for name in options.contestants:
        async with running((name,)) as (_, up):
            one = up[name]
            if not isinstance(one, Gateway):
                raise ValueError(f"{name} is no gateway")
            rounds = await _rounds(one, options, progress)
        figures[name] = _figure(rounds)
        neighbours[name] = spread(
            ratios([one.meanwhile_p99_ms for one in rounds], [one.before_p99_ms for one in rounds])
        )._asdict()
    return {
        "bench": "storm", "unit": "reconnects at once, on one core", "inbox": INBOX_USED,
        "options": options._asdict(), "figures": figures, "neighbours_p99_ratio": neighbours,
    }  # fmt: skip


def _figure(rounds: list[_Round]) -> dict[str, float]:
    """Medians over the rounds; latencies over all of them."""
    latency = Histogram.merge(one.latency for one in rounds)
    welcomed = {edge: sum(one.welcomed[edge] for one in rounds) for edge in rounds[0].welcomed}
    return {
        "admitted": statistics.median(one.admitted for one in rounds),
        "failed": sum(one.failed for one in rounds),
        "answered_503": statistics.median(one.refused for one in rounds),
        "seconds_until_all_are_in": statistics.median(one.seconds for one in rounds),
        "admitted_per_s": statistics.median(one.admitted / one.seconds for one in rounds),
        "accept_to_welcome_p95_ms_at_most": _percentile_s(welcomed, 0.95) * 1_000,
        **{f"syn_to_welcome_{name}": value for name, value in latency.summary_ms().items()},
        "neighbours_before_p99_ms": statistics.median(one.before_p99_ms for one in rounds),
        "neighbours_meanwhile_p99_ms": statistics.median(one.meanwhile_p99_ms for one in rounds),
    }  # fmt: skip


def _percentile_s(counts: dict[float, float], share: float) -> float:
    """The first edge below which this share of the values lies; `counts`: values up to each edge."""
    return next(edge for edge, count in sorted(counts.items()) if count >= share * max(counts.values()))


async def _rounds(one: Gateway, options: Options, progress: Progress) -> list[_Round]:
    rounds = []
    async with contextlib.AsyncExitStack() as stack:
        neighbours = await stack.enter_async_context(one.load(range(_NEIGHBOURS), spin=False))
        await neighbours.connect_all(_NEIGHBOURS)
        clock = _Clock(one, neighbours, options.body_bytes)
        await clock.watch(asyncio.create_task(asyncio.sleep(1)))
        with progress.step("making tokens", 1):
            crowds = await stack.enter_async_context(_crowds(one, options.connections))
        with progress.step("storms", options.rounds) as advance:
            for _ in range(options.rounds):
                rounds.append(await _storm(one, crowds, clock, options.per_s))
                advance()
    return rounds


@contextlib.asynccontextmanager
async def _crowds(one: Gateway, count: int) -> AsyncIterator[list[tuple[Load, int]]]:
    """Load generators with their numbers of clients."""
    async with contextlib.AsyncExitStack() as stack:
        crowds = []
        for first in range(0, count, _PER_CLIENT_PROCESS):
            users = range(_NEIGHBOURS + first, _NEIGHBOURS + min(first + _PER_CLIENT_PROCESS, count))
            crowds.append((await stack.enter_async_context(one.load(users, spin=False, crowd=True)), len(users)))
        yield crowds


async def _storm(one: Gateway, crowds: list[tuple[Load, int]], clock: "_Clock", per_s: float) -> _Round:
    """Neighbours alone, then the storm, then all of it is gone again."""
    welcomed = await _welcomed(one)
    before = await clock.watch(asyncio.create_task(asyncio.sleep(_BEFORE_S)))
    storm = asyncio.ensure_future(
        asyncio.gather(*(load.connect(count, count, per_s / len(crowds), again=True) for load, count in crowds))
    )
    meanwhile = await clock.watch(storm)
    results = storm.result()
    after = await _welcomed(one)
    for load, _ in crowds:
        await load.drop()
    await _empty(one)
    return _Round(
        admitted=sum(result["asked"] - result["failed"] for result in results),
        seconds=max(result["seconds"] for result in results),
        refused=sum(result["statuses"].get("503", 0) for result in results),
        failed=sum(result["failed"] for result in results),
        latency=Histogram.merge(Histogram.parse(result["latency"]) for result in results),
        welcomed={edge: count - welcomed.get(edge, 0) for edge, count in after.items()},
        before_p99_ms=before.percentile_us(99) / 1_000,
        meanwhile_p99_ms=meanwhile.percentile_us(99) / 1_000,
    )


async def _welcomed(one: Gateway) -> dict[float, float]:
    """How many had their welcome so many seconds after accept, or sooner."""
    start = _CONNECTED + '_bucket{le="'
    metrics = await asyncio.to_thread(one.metrics)
    return {float(name[len(start) : -2]): value for name, value in metrics.items() if name.startswith(start)}


async def _empty(one: Gateway) -> None:
    """Wait until only neighbours are left. Raises Unavailable."""
    for _ in range(_EMPTY_S_MAX):
        metrics = await asyncio.to_thread(one.metrics)
        if metrics["herald_connections"] <= _NEIGHBOURS:
            return
        await asyncio.sleep(1)
    raise Unavailable("the gateway keeps connections whose clients are gone")


class _Clock:
    """A notification per neighbour and second, for as long as something lasts."""

    def __init__(self, one: Gateway, neighbours: Load, body_bytes: int) -> None:
        self._one = one
        self._neighbours = neighbours
        self._second = 0
        self._items = [
            feeds.item_of(numbered, body_bytes)
            for numbered in feeds.in_turn(_NEIGHBOURS, _NEIGHBOURS * _WATCHED_S_MAX)
        ]

    async def watch(self, lasting: "asyncio.Future[Any]") -> Histogram:
        """The neighbours' latencies from the first second to the one in which it ends."""
        folder = self._one.stage.folder
        await self._neighbours.reset()
        while not lasting.done() and self._second < _WATCHED_S_MAX:
            start = self._second * _NEIGHBOURS
            feed, ledger = folder / "feed", folder / "ledger"
            feeds.write_ledger(ledger, _NEIGHBOURS * _WATCHED_S_MAX)
            await self._neighbours.ledger(ledger)
            with feed.open("wb") as file:
                for at in range(start, start + _NEIGHBOURS, DISPATCH_BATCH_ITEMS_MAX // 8):
                    items = self._items[at : min(at + DISPATCH_BATCH_ITEMS_MAX // 8, start + _NEIGHBOURS)]
                    file.write(feeds.record(self._one.subject, items, at))
            await self._neighbours.feed(feed, _NEIGHBOURS, _NEIGHBOURS, _NEIGHBOURS)
            self._second += 1
        await lasting
        return Histogram.parse((await self._neighbours.stats())["latency"])
