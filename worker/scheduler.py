"""The dispatch queue in memory: stored notifications wait here for the router, bounded, never the only copy.

Deficit round robin over the three priorities (LANE_WEIGHTS: of 100 items taken from full queues 70 are high,
20 medium, 10 low), round robin over tenants inside a priority, first in first out inside a tenant. So a
user's lane keeps its order, HIGH overtakes LOW, and neither LOW nor a small tenant ever starves.

A job carries the time until which this process may send it (`mine_until_s`). After that its row in
PostgreSQL is due again and belongs to whoever sweeps it: `take` drops it here. It also drops what a newer one
of its collapse key and lane has joined here meanwhile: its row is COLLAPSED.
"""

import asyncio
import dataclasses
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from notification import telemetry
from notification.limits import (
    ACK_DUE_MS,
    BUS_REQUEST_TIMEOUT_MS,
    DISPATCH_QUEUE_ITEMS_MAX,
    LANE_WEIGHTS,
    SWEEP_CLAIM_MS,
)
from notification.names import PRIORITIES
from worker.store import StoredNotification

# A row is ours to send until shortly before it is due again; the rest is for the send itself.
_FIRST_SEND_S: Final = (ACK_DUE_MS - BUS_REQUEST_TIMEOUT_MS) / 1000
_CLAIMED_S: Final = (SWEEP_CLAIM_MS - BUS_REQUEST_TIMEOUT_MS) / 1000


@dataclasses.dataclass(slots=True)
class Job:
    """One notification to send. `parked`: its row is PARKED and gets a second look at presence. `replaced`: by a
    newer one of its collapse key."""

    notification: StoredNotification
    mine_until_s: float  # by time.monotonic()
    parked: bool = False
    replaced: bool = False

    @property
    def priority(self) -> int:
        """0 high, 1 medium, 2 low: the bus subject and the queue it waits in."""
        return self.notification.priority


def first_job(notification: StoredNotification, now_s: float) -> Job:
    """The job of a row stored at `now_s` (monotonic): due after ACK_DUE_MS."""
    return Job(notification, now_s + _FIRST_SEND_S)


def claimed_job(notification: StoredNotification, now_s: float, *, parked: bool) -> Job:
    """The job of a row the sweeper claimed at `now_s` (monotonic): due after SWEEP_CLAIM_MS."""
    return Job(notification, now_s + _CLAIMED_S, parked)


class _Tenants:
    """The jobs of one priority: a FIFO per tenant, the tenants in turn."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()
        self.count = 0

    def push(self, job: Job) -> None:
        self._queues.setdefault(job.notification.tenant, deque()).append(job)
        self.count += 1

    def pop(self) -> Job:
        """The next tenant's oldest job; that tenant goes to the end of the line. Call only if count > 0."""
        tenant, queue = next(iter(self._queues.items()))
        job = queue.popleft()
        if queue:
            self._queues.move_to_end(tenant)
        else:
            del self._queues[tenant]
        self.count -= 1
        return job

    def drop_newest(self) -> Job:
        """Forget the newest job of the tenant that is last in line; which. Call only if count > 0."""
        tenant, queue = next(reversed(self._queues.items()))
        job = queue.pop()
        if not queue:
            del self._queues[tenant]
        self.count -= 1
        return job


class _Newest:
    """Of the queued jobs of a user's lane with one collapse key, the newest."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str, int, str], Job] = {}

    def join(self, job: Job) -> None:
        """The job is queued: of it and the one before it, the older one is replaced."""
        if (key := _collapse_key(job)) is None:
            return
        held = self._jobs.setdefault(key, job)
        if held.notification.seq > job.notification.seq:
            job.replaced = True
        elif held is not job:
            held.replaced = held.notification.seq < job.notification.seq
            self._jobs[key] = job

    def leave(self, job: Job) -> None:
        """The job is not queued any more."""
        key = _collapse_key(job)
        if key is not None and self._jobs.get(key) is job:
            del self._jobs[key]


def _collapse_key(job: Job) -> tuple[str, str, int, str] | None:
    one = job.notification
    return None if one.collapse_key is None else (one.tenant, one.user, one.lane, one.collapse_key)


class Scheduler:
    """A bounded queue of jobs; see the module."""

    def __init__(
        self, items_max: int = DISPATCH_QUEUE_ITEMS_MAX, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._priorities = tuple(_Tenants() for _ in LANE_WEIGHTS)
        self._credits = list(LANE_WEIGHTS)
        self._newest = _Newest()
        self._items_max = items_max
        self._now_s = now_s
        self._closed = False
        self._filled = asyncio.Event()
        self._gauges = [telemetry.DISPATCH_QUEUE.labels(name) for name in PRIORITIES]

    def __len__(self) -> int:
        return sum(priority.count for priority in self._priorities)

    @property
    def room(self) -> int:
        """How many more jobs fit."""
        return self._items_max - len(self)

    def put(self, job: Job) -> bool:
        """Queue a job, in place of one of a lower priority when it is full. Who finds no place (then False, as when
        it is closing) or loses it has a row that is due again later, so nothing is lost."""
        if self._closed or (self.room <= 0 and not self._make_room(job.priority)):
            return False
        self._priorities[job.priority].push(job)
        self._newest.join(job)
        self._gauge(job.priority)
        self._filled.set()
        return True

    async def take(self, n: int) -> list[Job]:
        """Up to `n` jobs in sending order; waits for the first. Empty only after close()."""
        while True:
            jobs = self._take_now(n)
            if jobs or self._closed:
                return jobs
            self._filled.clear()
            await self._filled.wait()

    def close(self) -> None:
        """Refuse new jobs; take() hands out what is queued, then an empty list."""
        self._closed = True
        self._filled.set()

    def _make_room(self, priority: int) -> bool:
        """Drop a job of the lowest priority below this one; False: there is none."""
        for number in range(len(self._priorities) - 1, priority, -1):
            if self._priorities[number].count:
                self._newest.leave(self._priorities[number].drop_newest())
                self._gauge(number)
                return True
        return False

    def _take_now(self, n: int) -> list[Job]:
        jobs: list[Job] = []
        now_s = self._now_s()
        while len(jobs) < n and (priority := self._next_priority()) is not None:
            self._credits[priority] -= 1
            job = self._priorities[priority].pop()
            self._newest.leave(job)
            if job.mine_until_s > now_s and not job.replaced:
                jobs.append(job)
        for priority in range(len(self._priorities)):
            self._gauge(priority)
        return jobs

    def _next_priority(self) -> int | None:
        """The highest priority that has jobs and credit; credit is renewed when none of the waiting has any."""
        waiting = [number for number, priority in enumerate(self._priorities) if priority.count]
        if not waiting:
            return None
        for number in waiting:
            if self._credits[number] > 0:
                return number
        self._credits = list(LANE_WEIGHTS)
        return waiting[0]

    def _gauge(self, priority: int) -> None:
        self._gauges[priority].set(self._priorities[priority].count)
