"""worker: what a notification costs behind the gateway: from Kafka to the bus, stored; and what its ack costs.

In each round a new worker with role dispatch takes events from Kafka, stores them and hands them to a gateway (a
stand-in) that owns all users; then role receipts stores an ack for each. The dispatch worker is gone by then, or it
would send again what is not acked yet. Both work at saturation, each on a core of its own; everything else shares
the other one.
"""

import time
from collections import Counter
from typing import Any, Final, NamedTuple

from bench import proc
from bench.backend import (
    GATEWAY_USED,
    KAFKA_USED,
    Backend,
    StandInGateway,
    Upstream,
    WorkerProcess,
    percentile,
    running,
    until,
)
from bench.report import Progress
from bench.rounds import Figures
from bench.worker_process import Notes
from notification.codes import Status
from notification.errors import Unavailable

_TENANT: Final = "bench"
_IDLE_NS: Final = 6_000_000  # in 50 ms: the polls, beats and sweeps of a worker take less, on a busy machine too
_ARRIVE_S_MAX: Final = 60.0
_FIGURES: Final = (
    "dispatch: worker, CPU µs", "dispatch: PostgreSQL, CPU µs", "receipts: worker, CPU µs",
    "receipts: PostgreSQL, CPU µs", "storing transaction P50, ms", "storing transaction P95, ms",
    "storing transaction P99, ms", "notifications in one", "notifications a second", "bytes at rest",
    "bytes of write-ahead log",
)  # fmt: skip


class Options(NamedTuple):
    """`acks_per_entry`: of the receipts stream; a gateway writes one entry in 5 ms."""

    rounds: int = 5
    messages: int = 10_000
    users: int = 1_000
    body_bytes: int = 512
    acks_per_entry: int = 20


class _Spent(NamedTuple):
    """What a phase of a round used."""

    worker_us: float
    postgres_us: float
    seconds: float


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report. Raises Unavailable when a notification or an ack was lost."""
    figures = Figures(_FIGURES)
    parts: Counter[str] = Counter()
    resent = 0
    async with (
        running((_TENANT,), pinned=True) as backend,
        backend.upstream(options.body_bytes) as upstream,
        backend.worker("receipts", "receipts") as receipts,
    ):
        with progress.step("rounds", options.rounds) as advance:
            for _ in range(options.rounds):
                resent += await _round(backend, upstream, receipts, options, figures, parts)
                advance()
    samples = parts.total()
    cost = figures.spread(_FIGURES[0]).median
    return {
        "bench": "worker", "unit": "per direct notification, per ack; at saturation", "kafka": KAFKA_USED,
        "gateway": GATEWAY_USED, "options": options._asdict(), "figures": figures.report(None), "resent": resent,
        "shares": {
            "title": "what the dispatch worker's CPU goes to, µs per notification",
            "parts": {name: cost * count / samples for name, count in parts.most_common()},
        },
    }  # fmt: skip


async def _round(
    backend: Backend, upstream: Upstream, receipts: WorkerProcess, options: Options, figures: Figures,
    parts: Counter[str],
) -> int:  # fmt: skip
    """Measure once; how many notifications were sent more than once."""
    users = [f"user-{number:07d}" for number in range(options.users)]
    delivered = (await backend.statuses()).get(Status.DELIVERED, 0)
    async with backend.gateway(upstream, (_TENANT,), users) as gateway:
        async with backend.worker("dispatch", "dispatch") as dispatch:
            # Each user once: their keys are made and opened, statements are prepared.
            await _send(gateway, upstream, users, options.users)
            await _ack(backend, gateway, options)
            size, wal = await backend.stored_bytes(), await backend.wal_bytes()
            began_s = time.monotonic()
            spent = await _dispatch(backend, dispatch, gateway, upstream, users, options)
            ended_s = time.monotonic()
            notes = await dispatch.stop()
        acked = await _receipts(backend, receipts, gateway, options)
        again = sum(one.again for one in gateway.arrivals)
    stored = (await backend.statuses()).get(Status.DELIVERED, 0) - delivered
    if stored != options.users + options.messages:
        raise Unavailable(f"{stored} acks were stored of {options.users + options.messages}")
    notes = _within(notes, began_s, ended_s)
    took_ms = sorted(one.took_s * 1_000 for one in notes.transactions)
    parts.update(sample.part for sample in notes.samples)
    values = (
        spent.worker_us, spent.postgres_us, acked.worker_us, acked.postgres_us,
        *(percentile(took_ms, percent) for percent in (50, 95, 99)), options.messages / len(took_ms),
        options.messages / spent.seconds, (await backend.stored_bytes() - size) / options.messages,
        (await backend.wal_bytes() - wal) / options.messages,
    )  # fmt: skip
    for name, value in zip(_FIGURES, values, strict=True):
        figures.add(name, value)
    return again


async def _send(gateway: StandInGateway, upstream: Upstream, users: list[str], count: int) -> None:
    """Events to users in turn; returns when all have reached the gateway. Raises Unavailable."""
    before = gateway.first_arrivals
    await upstream.flood(_TENANT, users, count)
    if not await until(lambda: not any(upstream.waiting), _ARRIVE_S_MAX):
        came = gateway.first_arrivals - before
        raise Unavailable(f"{came} of {count} notifications reached the gateway in {_ARRIVE_S_MAX:g} s")


async def _ack(backend: Backend, gateway: StandInGateway, options: Options) -> None:
    """Ack all that came; returns when role receipts has stored it. Raises Unavailable."""
    await gateway.ack(options.acks_per_entry)

    async def stored() -> bool:
        return await backend.receipts_waiting() == 0

    if not await until(stored, _ARRIVE_S_MAX):
        raise Unavailable(f"role receipts did not store the acks in {_ARRIVE_S_MAX:g} s")


async def _dispatch(
    backend: Backend, dispatch: WorkerProcess, gateway: StandInGateway, upstream: Upstream, users: list[str],
    options: Options,
) -> _Spent:  # fmt: skip
    before, postgres_ns = await proc.quiet_ns([dispatch.pid], _IDLE_NS), backend.postgres_cpu_ns()
    began_s = time.perf_counter()
    await _send(gateway, upstream, users, options.messages)
    last_s = gateway.arrivals[-1].at_s
    after = await proc.quiet_ns([dispatch.pid], _IDLE_NS)
    return _spent(after - before, backend.postgres_cpu_ns() - postgres_ns, last_s - began_s, options)


async def _receipts(backend: Backend, receipts: WorkerProcess, gateway: StandInGateway, options: Options) -> _Spent:
    before, postgres_ns = await proc.quiet_ns([receipts.pid], _IDLE_NS), backend.postgres_cpu_ns()
    began_s = time.perf_counter()
    await _ack(backend, gateway, options)
    took_s = time.perf_counter() - began_s
    after = await proc.quiet_ns([receipts.pid], _IDLE_NS)
    return _spent(after - before, backend.postgres_cpu_ns() - postgres_ns, took_s, options)


def _spent(worker_ns: int, postgres_ns: int, seconds: float, options: Options) -> _Spent:
    return _Spent(worker_ns / 1_000 / options.messages, postgres_ns / 1_000 / options.messages, seconds)


def _within(notes: Notes, began_s: float, ended_s: float) -> Notes:
    """What was noted meanwhile."""
    return Notes(
        [one for one in notes.transactions if began_s <= one.at_s <= ended_s],
        [one for one in notes.samples if began_s <= one.at_s <= ended_s],
    )
