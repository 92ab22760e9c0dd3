"""connections: many live connections held by several gateway processes, then notifications to random users.

What a worker does is done here by its own rules: presence in Redis says which process holds a user, one packed
batch goes to each process. Everything shares the cores of the machine: latencies hold the clients' own time.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import feeds, proc
from bench.histogram import Histogram
from bench.load import Load
from bench.report import Progress
from bench.servers import INBOX_USED, Contestant, Stage, running
from notification.batch import Item
from notification.errors import Unavailable
from notification.limits import DISPATCH_BATCH_ITEMS_MAX
from notification.names import PRIORITIES, gateway_subject

_PER_CLIENT_PROCESS: Final = 16_000  # under RLIMIT_NOFILE of 20,000
_CHUNK: Final = 2_048  # notifications that are sorted by process together
_ARRIVE_S_MAX: Final = 60.0
_RETURN_S_MAX: Final = 10.0


class Options(NamedTuple):
    """`per_s`: notifications a second; `hold_s`: how long all are held before, a ping comes each 30 s."""

    connections: int = 100_000
    processes: int = 8
    messages: int = 50_000
    per_s: float = 2_500
    hold_s: float = 35.0
    body_bytes: int = 512
    in_flight: int = 256


class _Load(NamedTuple):
    """CPU and memory of all gateway processes."""

    cpu_ns: int
    rss: int
    pss: int
    kernel: int


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report. Raises Unavailable when a connection failed, or a notification was lost or came twice."""
    async with running(("engine",), options.processes) as (stage, up):
        gateway = up["engine"]
        empty = _look(gateway)
        async with _swarm(gateway, options.connections, progress) as loads:
            connected, connect_s = await _connect(loads, options, progress)
            held = _look(gateway)
            with progress.step("holding them, pings answered", options.hold_s) as advance:
                await _hold(options.hold_s, advance)
            idle = _look(gateway)
            before = await _all_there(loads, options.connections)
            with progress.step("asking presence", 1):
                owners = await stage.owners(range(options.connections))
            sent = await _notify(stage, loads, owners, options, progress)
            stats = [await load.stats() for load in loads]
            await gateway.settle(options.messages)
        acked = await gateway.acked()
    live = sum(one["live"] for one in stats)
    if live != options.connections or sent.lost or sent.repeated or acked != options.messages:
        raise Unavailable(
            f"{live} of {options.connections} connections are left; of {options.messages} notifications "
            f"{sent.lost} were lost, {sent.repeated} came twice, {acked} acks arrived"
        )
    per_process = sorted(Counter(owners).values())
    latency = Histogram.merge(Histogram.parse(one["latency"]) for one in stats)
    return {
        "bench": "connections", "unit": "held, then notified", "inbox": INBOX_USED, "options": options._asdict(),
        "figures": {"engine": {
            "connections": live, "delivered": options.messages, "lost": sent.lost, **latency.summary_ms(),
            "rss_bytes": (held.rss - empty.rss) / live,
            "kernel_bytes_both_ends": (held.kernel - empty.kernel) / live,
            "cpu_us_per_s": (idle.cpu_ns - held.cpu_ns) / 1_000 / options.hold_s / live,
            "connect_s": connect_s,
        }},
        "connect": connected.summary_ms(),
        "sent_to_another_process": sum(one["returns"] for one in before),
        "pings_answered": sum(one["pings"] for one in before),
        "per_process": per_process, "max_to_min": per_process[-1] / per_process[0],
    }  # fmt: skip


async def _all_there(loads: Sequence[Load], count: int) -> list[dict[str, Any]]:
    """Wait for those who were sent to another process; each load's counters. Raises Unavailable."""
    deadline_s = time.monotonic() + _RETURN_S_MAX
    while True:
        stats = [await load.stats() for load in loads]
        if (live := sum(one["live"] for one in stats)) == count:
            return stats
        if time.monotonic() > deadline_s:
            closes = [one["closes"] for one in stats]
            raise Unavailable(f"of {count} connections {live} are left; close codes {closes}")
        await asyncio.sleep(0.2)


def _look(gateway: Contestant) -> _Load:
    memory = proc.memory(gateway.pids)
    return _Load(proc.cpu_ns(gateway.pids), memory.rss, memory.pss, proc.kernel_bytes())


@contextlib.asynccontextmanager
async def _swarm(gateway: Contestant, count: int, progress: Progress) -> AsyncIterator[list[Load]]:
    """The client processes, with their tokens."""
    async with contextlib.AsyncExitStack() as stack:
        loads = []
        starts = range(0, count, _PER_CLIENT_PROCESS)
        with progress.step("making tokens", len(starts)) as advance:
            for first in starts:
                users = range(first, min(first + _PER_CLIENT_PROCESS, count))
                loads.append(await stack.enter_async_context(gateway.load(users, spin=False)))
                advance()
        yield loads


async def _connect(loads: Sequence[Load], options: Options, progress: Progress) -> tuple[Histogram, float]:
    began_s = time.monotonic()
    left = options.connections
    latencies: list[Histogram] = []

    async def one(load: Load, count: int) -> None:
        # In steps, so that the bar moves.
        while count:
            step = min(count, 1_000)
            result = await load.connect_all(step, max(1, options.in_flight // len(loads)))
            latencies.append(Histogram.parse(result["latency"]))
            count -= step
            advance(step)

    with progress.step("connecting", options.connections) as advance:
        async with asyncio.TaskGroup() as group:
            for load in loads:
                share = min(left, _PER_CLIENT_PROCESS)
                left -= share
                group.create_task(one(load, share))
    return Histogram.merge(latencies), time.monotonic() - began_s


async def _hold(seconds: float, advance: Any) -> None:
    for _ in range(int(seconds)):
        await asyncio.sleep(1)
        advance()
    await asyncio.sleep(seconds % 1)


async def _notify(
    stage: Stage, loads: Sequence[Load], owners: Sequence[str], options: Options, progress: Progress
) -> feeds.Ledger:
    """Send to random users through the first client process; wait until all came, or no longer."""
    feed, ledger = stage.folder / "feed", stage.folder / "ledger"
    feeds.write_ledger(ledger, options.messages)
    with progress.step("packing batches", 1):
        _write_feed(feed, owners, options)
    for load in loads:
        await load.reset()
        await load.ledger(ledger)
    with progress.step("notifying", options.messages) as advance:
        result = await loads[0].feed(feed, _CHUNK * 4, 0, options.per_s)
        if set(result["codes"]) - {"0"} or result["no_responders"]:
            raise Unavailable(f"batches were answered {result['codes']}, {result['no_responders']} by nobody")
        deadline_s = time.monotonic() + _ARRIVE_S_MAX
        while time.monotonic() < deadline_s:
            if sum([(await load.stats())["frames"] for load in loads]) >= options.messages:
                break
            await asyncio.sleep(0.2)
        advance(options.messages)
    return feeds.read_ledger(ledger)


def _write_feed(path: Path, owners: Sequence[str], options: Options) -> None:
    """Notifications to random users, a batch per process from each chunk of them."""
    seqs: Counter[int] = Counter()
    number = 0
    with path.open("wb") as file:
        for first in range(0, options.messages, _CHUNK):
            by_owner: dict[str, list[int]] = {}
            for _ in range(min(_CHUNK, options.messages - first)):
                user = random.randrange(len(owners))  # noqa: S311 - no secret
                by_owner.setdefault(owners[user], []).append(user)
            for owner, users in by_owner.items():
                for start in range(0, len(users), DISPATCH_BATCH_ITEMS_MAX):
                    items: list[Item] = []
                    for user in users[start : start + DISPATCH_BATCH_ITEMS_MAX]:
                        seqs[user] += 1
                        items.append(
                            feeds.item_of(feeds.Numbered(number + len(items), user, seqs[user]), options.body_bytes)
                        )
                    file.write(feeds.record(gateway_subject(owner, PRIORITIES[0]), items, number))
                    number += len(items)
