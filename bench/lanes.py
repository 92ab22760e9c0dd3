"""lanes: do HIGH notifications overtake a long queue of LOW ones, does LOW go on, does one tenant hold up another?

Events go to Kafka, worker processes store and dispatch them, a gateway (a stand-in) acks what comes. A latency is
that from the producer's call to the gateway. Everything shares the cores of the machine.

First two tenants at the same rate, or the one at ten times that, in random order in each round. Then very many LOW
are produced at once; while they are worked off, HIGH come in each round at a steady rate for some seconds, then
more of them at once than can be sent.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from bench.backend import GATEWAY_USED, KAFKA_USED, Arrival, StandInGateway, Upstream, percentile, running, until
from bench.report import Progress
from bench.rounds import Figures, order
from notification.errors import Unavailable

_CROWD: Final = "crowd"
_CALM: Final = "calm"
_HIGH: Final = 0
_LOW: Final = 2
_TIMES: Final = 10  # its share is what the one tenant sends
_ACK_EVERY_S: Final = 0.005
_ACKS_PER_ENTRY: Final = 100
_ARRIVE_S_MAX: Final = 60.0
_FLOOD: Final = 2_000  # events handed to the producer before its answers are waited for
_ALONE: Final = "at its share"
_BESIDE: Final = f"another at {_TIMES} x its share"


class Options(NamedTuple):
    """`low`: queued at once; `per_s`: HIGH, and the share of a tenant; `seconds`: of each rate; `high`: at once."""

    rounds: int = 5
    low: int = 100_000
    high: int = 3_000
    per_s: float = 100.0
    seconds: float = 3.0
    users: int = 200
    body_bytes: int = 512


class _Scene(NamedTuple):
    """Who takes part."""

    upstream: Upstream
    gateway: StandInGateway
    users: list[str]
    options: Options


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report. Raises Unavailable when something did not arrive."""
    users = [f"user-{number:04d}" for number in range(options.users)]
    tenants = Figures((_ALONE, _BESIDE))
    high = Figures(("P50, ms", "P95, ms", "P99, ms", "LOW a second meanwhile"))
    low = Figures(("LOW in 100 sends", "longest pause of LOW, ms"))
    async with _playing(options, users) as scene:
        with progress.step("warming up", 1):
            for tenant in (_CROWD, _CALM):
                await _flood(scene, tenant, options.users, _HIGH)
            await _arrived(scene, 0)
        with progress.step("tenants", options.rounds * 2) as advance:
            for _, name in order((_ALONE, _BESIDE), options.rounds):
                tenants.add(name, await _beside(scene, _TIMES if name == _BESIDE else 1))
                advance()
        with progress.step(f"{options.low:,} LOW", 1):
            await _flood(scene, _CROWD, options.low, _LOW)
        with progress.step("HIGH overtake", options.rounds) as advance:
            for _ in range(options.rounds):
                for figures, values in ((high, await _overtake(scene)), (low, await _saturate(scene))):
                    for name, value in values.items():
                        figures.add(name, value)
                advance()
        left = scene.upstream.waiting[_LOW]
        again = sum(one.again for one in scene.gateway.arrivals)
    return {
        "bench": "lanes", "unit": "HIGH behind a queue of LOW", "kafka": KAFKA_USED, "gateway": GATEWAY_USED,
        "options": options._asdict(), "figures": {**high.report(None), **low.report(None)},
        "low_left_at_the_end": left, "sent_again": again,
        "p95_ms_of_a_tenant": tenants.report(_ALONE),
        "more_ms": max(
            beside - alone
            for beside, alone in zip(tenants.values(_BESIDE), tenants.values(_ALONE), strict=True)
        ),
    }  # fmt: skip


@contextlib.asynccontextmanager
async def _playing(options: Options, users: list[str]) -> AsyncIterator[_Scene]:
    async with (
        running((_CROWD, _CALM), pinned=False) as backend,
        backend.upstream(options.body_bytes) as upstream,
        backend.gateway(upstream, (_CROWD, _CALM), users) as gateway,
        backend.worker("receipts", "receipts"),
        backend.worker("dispatch", "dispatch"),
        gateway.acking(_ACK_EVERY_S, _ACKS_PER_ENTRY),
    ):
        yield _Scene(upstream, gateway, users, options)


async def _flood(scene: _Scene, tenant: str, count: int, priority: int) -> None:
    for first in range(0, count, _FLOOD):
        await scene.upstream.flood(tenant, scene.users, min(_FLOOD, count - first), priority)


async def _steadily(scene: _Scene, tenant: str, per_s: float, priority: int = _HIGH) -> None:
    """Send at a rate for the time that the options say."""
    began_s = time.perf_counter()
    answers = []
    for number in range(round(per_s * scene.options.seconds)):
        await asyncio.sleep(max(0.0, began_s + number / per_s - time.perf_counter()))
        answers.append(await scene.upstream.send(tenant, scene.users[number % len(scene.users)], priority))
    await asyncio.gather(*answers)


async def _arrived(scene: _Scene, priority: int) -> None:
    """Wait until all that was sent with this priority has come. Raises Unavailable."""
    if not await until(lambda: not scene.upstream.waiting[priority], _ARRIVE_S_MAX):
        raise Unavailable(f"notifications of priority {priority} did not all arrive in {_ARRIVE_S_MAX:g} s")


async def _beside(scene: _Scene, times: float) -> float:
    """The P95 of the calm tenant's latency in ms while the other sends so many times its share."""
    first = len(scene.gateway.arrivals)
    per_s = scene.options.per_s
    await asyncio.gather(_steadily(scene, _CALM, per_s), _steadily(scene, _CROWD, per_s * times))
    await _arrived(scene, _HIGH)
    return percentile(_latencies_ms(scene.gateway.arrivals[first:], _HIGH, _CALM), 95)


async def _overtake(scene: _Scene) -> dict[str, float]:
    """HIGH at a steady rate, beside the queue of LOW."""
    first, began_s = len(scene.gateway.arrivals), time.perf_counter()
    await _steadily(scene, _CROWD, scene.options.per_s)
    await _arrived(scene, _HIGH)
    took_s = time.perf_counter() - began_s
    came = scene.gateway.arrivals[first:]
    values = _latencies_ms(came, _HIGH, _CROWD)
    low = sum(one.priority == _LOW for one in came)
    named = {f"P{percent}, ms": percentile(values, percent) for percent in (50, 95, 99)}
    return {**named, "LOW a second meanwhile": low / took_s}


async def _saturate(scene: _Scene) -> dict[str, float]:
    """More HIGH at once than can be sent: what LOW gets from the first of them to the last."""
    first = len(scene.gateway.arrivals)
    await _flood(scene, _CROWD, scene.options.high, _HIGH)
    await _arrived(scene, _HIGH)
    came = scene.gateway.arrivals[first:]
    high_s = [one.at_s for one in came if one.priority == _HIGH]
    low_s = [one.at_s for one in came if one.priority == _LOW and high_s[0] <= one.at_s <= high_s[-1]]
    marks_s = [high_s[0], *low_s, high_s[-1]]
    pause_s = max(after - before for before, after in itertools.pairwise(marks_s))
    return {
        "LOW in 100 sends": 100 * len(low_s) / (len(low_s) + len(high_s)),
        "longest pause of LOW, ms": pause_s * 1_000,
    }


def _latencies_ms(arrivals: list[Arrival], priority: int, tenant: str) -> list[float]:
    return sorted(
        one.latency_s * 1_000
        for one in arrivals
        if one.priority == priority and one.tenant == tenant and not one.again
    )
