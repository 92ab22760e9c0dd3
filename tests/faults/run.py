"""Plays a case: a system of its own, devices, an upstream, the fault, and the ledger's verdict at the end."""

import asyncio
import dataclasses
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from devstack.servers import Kafka, Tansu
from tests.faults.devices import Device
from tests.faults.ledger import Counts, DeviceName, Ledger, Row, User
from tests.faults.load import Upstream
from tests.faults.stack import TENANTS, Parts, Stack

USERS: Final = 16
EVENTS_PER_S: Final = 60.0
WARM_S: Final = 2.0
AFTER_S: Final = 4.0
SETTLE_S_MAX: Final = 90.0
HERE_S_MAX: Final = 30.0
MEMORY_GROWTH_BYTES_MAX: Final = 64 * 2**20  # of one process, while a case runs
_SAMPLE_S: Final = 0.5
_YOUNG_S: Final = 3.0
_P95: Final = 0.95


@dataclasses.dataclass
class Scene:
    """What a case finds when its fault begins."""

    stack: Stack
    upstream: Upstream
    devices: list[Device]
    ledger: Ledger
    chance: random.Random
    seen: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What a case counted itself; it goes to the report."""

    async def all_here(self) -> None:
        """Until every device is connected and has what it was owed."""
        async with asyncio.timeout(HERE_S_MAX):
            for device in self.devices:
                await device.here.wait()


@dataclasses.dataclass(frozen=True)
class Case:
    """`recovery_s_max`: how late a notification may be, counted from the end of the fault or from its sending."""

    name: str
    says: str
    fault: Callable[[Scene], Awaitable[None]]
    recovery_s_max: float | None = None
    parts: Parts = Parts.ALONE
    checks: Callable[[Scene], Awaitable[list[str]]] | None = None
    """What must be true besides, once all has settled; each broken promise as a line."""


@dataclasses.dataclass
class Result:
    """`broken`: which promises were not kept."""

    case: str
    seed: int
    counts: Counts
    recovery_p95_s: float
    recovery_s: float
    recovery_s_max: float | None
    memory_growth_bytes: int
    took_s: float
    seen: dict[str, Any]
    broken: list[str]

    @property
    def late(self) -> str:
        """Whether it recovered too late, as a line; how soon says something on a quiet machine alone."""
        if self.recovery_s_max is None or self.recovery_s <= self.recovery_s_max:
            return ""
        return f"recovered after {self.recovery_s:.1f} s, not {self.recovery_s_max:.0f} s"


async def play(case: Case, seed: int, folder: Path, kafka: type[Kafka] = Tansu) -> Result:
    """Never raises for a broken promise; raises what went wrong with the harness or its servers."""
    began_s = time.monotonic()
    chance = random.Random(f"{seed} {case.name}")
    users: list[User] = [(TENANTS[number % 4 == 3], f"user-{number}") for number in range(USERS)]
    ledger = Ledger()
    async with Stack(folder, kafka, case.parts).running() as stack, asyncio.TaskGroup() as group:
        devices = [
            Device(stack.client_settings, DeviceName(user, f"d{number}"), ledger, chance)
            for place, user in enumerate(users) for number in range(1 + (place % 2))
        ]  # fmt: skip
        memory = _Memory(stack)
        lives = [group.create_task(device.live()) for device in devices]
        async with Upstream(stack.client_settings, users, ledger, chance, EVENTS_PER_S) as upstream:
            scene = Scene(stack, upstream, devices, ledger, chance)
            await scene.all_here()
            await asyncio.sleep(WARM_S)
            watching = group.create_task(memory.watch())
            first_s = time.monotonic()
            await case.fault(scene)
            over_s = stack.over_s or time.monotonic()
            await asyncio.sleep(AFTER_S)
            last_s = time.monotonic()
        counts = ledger.judge(await _settle(stack, ledger), first_s, last_s)
        checked = await case.checks(scene) if case.checks else []
        for task in (watching, *lives):
            task.cancel()
    late = sorted(
        max(0.0, min(ledger.received[ident].values()) - max(sent.accepted_s, over_s))
        for ident, sent in ledger.sent.items() if ledger.received.get(ident)
    )  # fmt: skip
    result = Result(
        case.name, seed, counts,
        late[int(len(late) * _P95)], late[-1], case.recovery_s_max, memory.growth_bytes,
        time.monotonic() - began_s, scene.seen, checked,
    )  # fmt: skip
    result.broken += [f"{name}: {count}" for name, count in result.counts.wrong.items()]
    if memory.growth_bytes > MEMORY_GROWTH_BYTES_MAX:
        result.broken.append(f"a process grew by {memory.growth_bytes / 2**20:.0f} MiB")
    return result


def unfinished(case: Case, seed: int, error: Exception) -> Result:
    """Of a case that ended in an error of its own: there is no ledger to judge."""
    said = f"did not end: {type(error).__name__}"
    return Result(case.name, seed, Counts(), 0.0, 0.0, None, 0, 0.0, {}, [said])


async def _settle(stack: Stack, ledger: Ledger) -> list[Row]:
    """The rows, once everything has come and its acks are written down, or after SETTLE_S_MAX.

    Judge by these at once: what nobody knows the fate of (upstream was cut off) may still come and be acked.
    """
    deadline_s = time.monotonic() + SETTLE_S_MAX
    while True:
        rows = await stack.rows()
        if (not ledger.missing(rows) and not ledger.unsettled(rows)) or time.monotonic() > deadline_s:
            return rows
        await asyncio.sleep(0.5)


class _Memory:
    """The most that any one process has grown since it was up."""

    def __init__(self, stack: Stack) -> None:
        self.growth_bytes = 0
        self._stack = stack
        self._seen_s: dict[int, float] = {}
        self._start: dict[int, int] = {}

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            now_s = time.monotonic()
            for pid, size in self._stack.memory_bytes().items():
                if now_s - self._seen_s.setdefault(pid, now_s) >= _YOUNG_S:  # a process grows while it starts
                    self.growth_bytes = max(self.growth_bytes, size - self._start.setdefault(pid, size))
            await asyncio.sleep(_SAMPLE_S)
