"""Notifications to audiences on the bus: each published once to all gateway processes with users of its tenant.

Nobody answers. What a process missed shows by the next seq, or by the heads of the tenant's lanes, which follow
each AUDIENCE_HEADS_MS for AUDIENCE_HEADS_S; it asks role inbox then. The sweeper hands each over once more
ACK_DUE_MS after it was stored, whichever worker it runs in: so it is told also where the one that stored it died.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import structlog

from notification import batch
from notification.bus import Bus
from notification.limits import (
    AUDIENCE_HEADS_MS,
    AUDIENCE_HEADS_S,
    BUS_BATCH_BYTES_MAX,
    DISPATCH_QUEUE_ITEMS_MAX,
)
from notification.names import PRIORITIES, audience_subject
from worker.audiences import heads_of, is_everyones
from worker.clock import Clock
from worker.database import AWAY, Pool, tenant_transaction
from worker.outage import wait
from worker.store import StoredNotification, encode_body

_log = structlog.get_logger("announcer")


class Announcer:
    """See the module; `now_s` is monotonic."""

    def __init__(self, bus: Bus, pool: Pool, clock: Clock, now_s: Callable[[], float] = time.monotonic) -> None:
        self._bus = bus
        self._pool = pool
        self._clock = clock
        self._now_s = now_s
        self._waiting: deque[StoredNotification] = deque(maxlen=DISPATCH_QUEUE_ITEMS_MAX)
        self._ready = asyncio.Event()
        self._told_until_s: dict[str, float] = {}

    def put(self, notification: StoredNotification) -> None:
        """Take one that is committed. Of too many the oldest are dropped: the heads tell that they are there."""
        self._waiting.append(notification)
        self._told_until_s[notification.tenant] = self._now_s() + AUDIENCE_HEADS_S
        self._ready.set()

    async def run(self) -> None:
        """Publish for ever."""
        tell_s = self._now_s() + AUDIENCE_HEADS_MS / 1000
        while True:
            await wait(self._ready, max(0.0, tell_s - self._now_s()))
            await self.publish()
            if self._now_s() >= tell_s:
                await self.tell_heads()
                tell_s = self._now_s() + AUDIENCE_HEADS_MS / 1000

    async def publish(self) -> None:
        """Publish what waits, in order."""
        self._ready.clear()
        groups: dict[str, list[batch.Item]] = {}
        while self._waiting:
            notification = self._waiting.popleft()
            subject = audience_subject(notification.tenant, PRIORITIES[notification.priority])
            groups.setdefault(subject, []).append(audience_item(notification))
        for subject, items in groups.items():
            for part in _parts(items):
                await self._bus.publish(subject, batch.pack(part, self._clock.now_ms()))

    async def tell_heads(self) -> None:
        """Publish how far the lanes are of each tenant that had one lately; while PostgreSQL is away nothing."""
        now_s = self._now_s()
        self._told_until_s = {tenant: until_s for tenant, until_s in self._told_until_s.items() if until_s > now_s}
        if not self._told_until_s:
            return
        try:
            async with tenant_transaction(self._pool, self._told_until_s) as connection:
                heads = await heads_of(connection, self._told_until_s)
        except AWAY as error:
            _log.warning("heads_not_told", error=type(error).__name__)
            return
        for tenant, seqs in heads.items():
            message = batch.pack([batch.heads_item(tenant, seqs)], self._clock.now_ms())
            await self._bus.publish(audience_subject(tenant, PRIORITIES[0]), message)


def audience_item(notification: StoredNotification) -> batch.Item:
    """The notification as gateways get it; the body is encoded here, once."""
    return batch.Item(
        kind=batch.AUDIENCE,
        lane=notification.lane,
        attempt=batch.EVERYONE if is_everyones(notification.user, notification.type) else 0,
        seq=notification.seq,
        prev=notification.prev,
        expiry_ms=notification.expiry_ms,
        id=notification.id.bytes,
        tag=notification.tenant.encode("ascii"),
        body=encode_body(notification),
    )


def _parts(items: Iterable[batch.Item]) -> Iterator[list[batch.Item]]:
    """The items in order, in batches under BUS_BATCH_BYTES_MAX."""
    part: list[batch.Item] = []
    size_bytes = batch.OVERHEAD_BYTES
    for item in items:
        if part and size_bytes + item.size_bytes > BUS_BATCH_BYTES_MAX:
            yield part
            part, size_bytes = [], batch.OVERHEAD_BYTES
        part.append(item)
        size_bytes += item.size_bytes
    yield part
