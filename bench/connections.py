"""connections: many live connections held by several gateway processes, notifications to random users, then one
process is killed: its clients come back, and the others send some of theirs to the one that takes its place.

What a worker does is done here by its own rules: presence in Redis says which process holds a user, one packed
batch goes to each process. Everything shares the cores of the machine: latencies hold the clients' own time.
"""

import asyncio
import contextlib
import os
import random
import signal
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
from notification.limits import BALANCE_RATIO_MAX, BALANCE_SLACK_COUNT, DISPATCH_BATCH_ITEMS_MAX
from notification.names import PRIORITIES, gateway_subject

_PER_CLIENT_PROCESS: Final = 16_000  # under RLIMIT_NOFILE of 20,000
_CHUNK: Final = 2_048  # notifications that are sorted by process together
_ARRIVE_S_MAX: Final = 60.0
_RETURN_S_MAX: Final = 10.0
_RESTART_S_MAX: Final = 60.0  # until everybody is back
_EVEN_S_MAX: Final = 300.0  # the shares are to be even 5 minutes after a process died
_EVEN_STEP_S: Final = 5.0


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
    """The report. Raises Unavailable when a connection failed, a notification was lost or came twice, or the shares
    of the processes stayed uneven after one was killed."""
    async with running(("engine",), options.processes) as (stage, up):
        gateway = up["engine"]
        empty = _look(gateway)
        async with _swarm(gateway, options.connections, progress) as loads:
            connected, connect_s = await _connect(loads, options, progress)
            held = _look(gateway)
            with progress.step("holding them, pings answered", options.hold_s) as advance:
                await _hold(options.hold_s, advance)
            idle = _look(gateway)
            before = await _all_there(loads, options.connections, _RETURN_S_MAX)
            with progress.step("asking presence", 1):
                owners = await stage.owners(range(options.connections))
            sent = await _notify(stage, loads, owners, options, progress)
            stats = [await load.stats() for load in loads]
            await gateway.settle(options.messages)
            restart = await _restart(stage, gateway, loads, options, progress)
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
        "restart": restart,
    }  # fmt: skip


async def _restart(
    stage: Stage, gateway: Contestant, loads: Sequence[Load], options: Options, progress: Progress
) -> dict[str, Any]:
    """Kill one process; how long until everybody is back, and until the shares are even. Raises Unavailable."""
    for load in loads:
        await load.reset()
    began_s = time.monotonic()
    os.kill(random.choice(gateway.pids), signal.SIGKILL)  # noqa: S311 - no secret
    with progress.step("one process killed: its clients come back", 1) as advance:
        # The counters say that all are there until the first socket is found gone.
        while not sum([(await load.stats())["drops"] for load in loads]):
            if time.monotonic() > began_s + _RESTART_S_MAX:
                raise Unavailable("no client noticed that a gateway process was killed")
            await asyncio.sleep(0.05)
        stats = await _all_there(loads, options.connections, _RESTART_S_MAX)
        back_s = time.monotonic() - began_s
        advance()
    with progress.step("until the shares are even", _EVEN_S_MAX) as advance:
        while True:
            held = Counter(await stage.owners(range(options.connections), moving=True))
            shares = sorted([*held.values(), *[0] * (options.processes - len(held))])
            even = shares[-1] <= shares[0] * BALANCE_RATIO_MAX + BALANCE_SLACK_COUNT
            if even or time.monotonic() > began_s + _EVEN_S_MAX:
                break
            await asyncio.sleep(_EVEN_STEP_S)
            advance(_EVEN_STEP_S)
    if not even:
        raise Unavailable(f"{_EVEN_S_MAX:.0f} s after a process was killed the shares are {shares}")
    stats = await _all_there(loads, options.connections, _RETURN_S_MAX)
    return {
        "lost_their_socket": sum(one["drops"] for one in stats), "all_back_s": back_s,
        "even_after_s": time.monotonic() - began_s, "sent_to_another_process": sum(one["returns"] for one in stats),
        "per_process": shares, "max_to_min": shares[-1] / max(1, shares[0]),
    }  # fmt: skip


async def _all_there(loads: Sequence[Load], count: int, seconds_max: float) -> list[dict[str, Any]]:
    """Wait for those who come back; each load's counters. Raises Unavailable."""
    deadline_s = time.monotonic() + seconds_max
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
            result = await load.connect_all(step, max(1, options.in_flight // len(loads)), again=True)
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
