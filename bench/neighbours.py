"""neighbours: what calm clients of a process notice of hostile ones.

They get notifications all the time. In each round, in random order: nobody attacks, then hostile clients of each
kind (bench/attacks.py) do. Figure: the P99 of the neighbours' latency, from the batch to the frame. A kind is borne
in a round when that is at most 1.25 x that of nobody, or 5 ms more.
"""

import asyncio
import sys
from typing import Any, Final, NamedTuple

import msgspec

from bench import attacks, feeds, proc
from bench.histogram import Histogram
from bench.load import Load
from bench.report import Progress
from bench.rounds import Figures, order
from bench.servers import INBOX_USED, Contestant, running
from notification.errors import Unavailable

NOBODY: Final = "nobody"
_NEIGHBOURS: Final = 200
_BODY_BYTES: Final = 512
_BATCH_ITEMS: Final = 4
_RATIO_MAX: Final = 1.25
_MORE_MS_MAX: Final = 5.0
_SETTLE_S: Final = 0.5
_DEADLINE_S: Final = 60.0  # for the hostile clients' process to begin, and to end


class Options(NamedTuple):
    """`seconds` for each kind and round; `per_s`: notifications to all neighbours; `visits_per_s` of an attack."""

    rounds: int = 5
    seconds: float = 4
    per_s: float = 1_000
    visits_per_s: float = 500
    contestant: str = "engine"
    kinds: tuple[str, ...] = tuple(attacks.KINDS)


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report. Raises Unavailable when a notification did not come, ValueError for a kind that is not there."""
    unknown = set(options.kinds) - set(attacks.KINDS)
    if unknown:
        raise ValueError(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(attacks.KINDS)}")
    names = (NOBODY, *options.kinds)
    p99, busy = Figures(names), Figures(names)
    visits = dict.fromkeys(options.kinds, 0)
    heard: dict[str, dict[str, int]] = {kind: {} for kind in options.kinds}
    caps = {"connections_per_address": attacks.PER_ADDRESS, "connections_per_tenant": attacks.PER_TENANT}
    async with running((options.contestant,), **caps) as (_, up):
        one = up[options.contestant]
        async with one.load(range(_NEIGHBOURS), spin=False) as neighbours:
            await neighbours.connect_all(_NEIGHBOURS)
            feed = _Feed(one, neighbours, options)
            await feed.watch()  # the first batches grow what grows once
            with progress.step("rounds", options.rounds * len(names)) as advance:
                for _, name in order(names, options.rounds):
                    outcome, latency, share = await _phase(one, feed, name, options)
                    p99.add(name, latency.percentile_us(99) / 1_000)
                    busy.add(name, share)
                    if outcome is not None:
                        visits[name] += outcome.visits
                        _add(heard[name], outcome.heard)
                    advance()
    return {
        "bench": "neighbours", "unit": "ms, P99 of the neighbours' latency", "inbox": INBOX_USED,
        "options": options._asdict(), "figures": p99.report(NOBODY), "borne": _borne(p99, options.kinds),
        "busy": {name: busy.spread(name).median for name in names}, "visits": visits, "heard": heard,
    }  # fmt: skip


def _add(to: dict[str, int], counts: dict[str, int]) -> None:
    for what, count in counts.items():
        to[what] = to.get(what, 0) + count


def _borne(p99: Figures, kinds: tuple[str, ...]) -> dict[str, int]:
    """In how many rounds each kind was borne."""
    base = p99.values(NOBODY)
    return {
        kind: sum(
            value <= max(calm * _RATIO_MAX, calm + _MORE_MS_MAX)
            for value, calm in zip(p99.values(kind), base, strict=True)
        )
        for kind in kinds
    }


async def _phase(
    one: Contestant, feed: "_Feed", name: str, options: Options
) -> tuple[attacks.Outcome | None, Histogram, float]:
    """What hostile clients of a kind heard, the neighbours' latencies meanwhile, the gateway's share of a core."""
    if name == NOBODY:
        return None, *await feed.watch()
    what = attacks.Order(
        name,
        one.port,
        one.stage.secret,
        one.stage.settings.nats_url,
        one.subject,
        options.visits_per_s,
        _NEIGHBOURS,
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.attacks", stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(what) + b"\n")
        async with asyncio.timeout(_DEADLINE_S):
            if await process.stdout.readline() != attacks.READY:
                raise await _died(process)
        await asyncio.sleep(_SETTLE_S)
        latency, share = await feed.watch()
        process.stdin.close()
        async with asyncio.timeout(_DEADLINE_S):
            said = await process.stdout.read()
            if await process.wait():
                raise await _died(process)
        await asyncio.sleep(_SETTLE_S)
        return msgspec.json.decode(said, type=attacks.Outcome), latency, share
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _died(process: asyncio.subprocess.Process) -> Unavailable:
    assert process.stderr is not None
    said = (await process.stderr.read()).decode("utf-8", "replace").strip()
    return Unavailable(f"the hostile clients ended: {said or 'they said nothing'}")


class _Feed:
    """Notifications for the neighbours in turn, for so many seconds at a time."""

    def __init__(self, one: Contestant, neighbours: Load, options: Options) -> None:
        self._one = one
        self._neighbours = neighbours
        self._per_s = options.per_s
        self._each = max(1, round(options.per_s * options.seconds / _NEIGHBOURS))  # in a phase
        self._sent = 0  # to each so far

    async def watch(self) -> tuple[Histogram, float]:
        """Their latencies, and the gateway's share of a core. Raises Unavailable when one did not come."""
        count = self._each * _NEIGHBOURS
        file, ledger = self._one.stage.folder / "feed", self._one.stage.folder / "ledger"
        numbered = [one._replace(seq=one.seq + self._sent) for one in feeds.in_turn(_NEIGHBOURS, count)]
        self._sent += self._each
        feeds.write_feed(
            file, self._one.subject, [feeds.item_of(one, _BODY_BYTES) for one in numbered], _BATCH_ITEMS
        )
        feeds.write_ledger(ledger, count)
        await self._neighbours.ledger(ledger)
        await self._neighbours.reset()
        before = proc.cpu_ns(self._one.pids)
        result = await self._neighbours.feed(file, count, count, self._per_s)
        busy_ns = proc.cpu_ns(self._one.pids) - before
        if result["stalled"] or result["frames"] != count:
            raise Unavailable(f"{result['frames']} notifications arrived of {count}")
        latency = Histogram.parse((await self._neighbours.stats())["latency"])
        return latency, busy_ns / result["seconds"] / 1e9
