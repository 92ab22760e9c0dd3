"""Notifications to audiences on the bus: each published once to all gateway processes with users of its tenant.

Nobody answers. What a process missed shows by the next seq, or by the heads of the tenant's lanes, which follow
each AUDIENCE_HEADS_MS, AUDIENCE_HEADS_COUNT times: while PostgreSQL or the bus is known to be away none is used
up. It asks role inbox then. The sweeper hands each over once more
ACK_DUE_MS after it was stored, whichever worker it runs in: so it is told also where the one that stored it died.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator

import structlog

from notification import batch
from notification.bus import Bus
from notification.limits import (
    AUDIENCE_HEADS_COUNT,
    AUDIENCE_HEADS_MS,
    BUS_BATCH_BYTES_MAX,
    DATABASE_TURN_DEADLINE_S,
    DISPATCH_QUEUE_ITEMS_MAX,
)
from notification.names import PRIORITIES, audience_subject
from worker.audiences import heads_of, is_everyones
from worker.clock import Clock
from worker.database import Pool, tenant_transaction
from worker.outage import origin
from worker.store import StoredNotification, encode_body

_log = structlog.get_logger("announcer")


class Announcer:
    """See the module."""

    def __init__(self, bus: Bus, pool: Pool, clock: Clock) -> None:
        self._bus = bus
        self._pool = pool
        self._clock = clock
        self._waiting: deque[StoredNotification] = deque(maxlen=DISPATCH_QUEUE_ITEMS_MAX)
        self._ready = asyncio.Event()
        self._left: dict[str, int] = {}  # tenant -> how often its heads are to be told yet

    def put(self, notification: StoredNotification) -> None:
        """Take one that is committed. Of too many the oldest are dropped: the heads tell that they are there."""
        self._waiting.append(notification)
        self._left[notification.tenant] = AUDIENCE_HEADS_COUNT
        self._ready.set()

    async def run(self) -> None:
        """Publish for ever, whatever PostgreSQL does meanwhile."""
        while True:
            await self._ready.wait()
            await self.publish()

    async def run_heads(self) -> None:
        """Tell the heads for ever."""
        while True:
            await asyncio.sleep(AUDIENCE_HEADS_MS / 1000)
            try:
                async with asyncio.timeout(DATABASE_TURN_DEADLINE_S):
                    await self.tell_heads()
            except Exception as error:  # whatever it is: they are told by the next turn
                _log.warning("heads_not_told", error=origin(error))

    async def publish(self) -> None:
        """Publish what waits, in order."""
        self._ready.clear()
        try:
            await self._publish()
        except Exception as error:  # whatever it is: the heads tell of what was not published
            _log.error("audience_not_published", error=origin(error))

    async def _publish(self) -> None:
        groups: dict[str, list[batch.Item]] = {}
        while self._waiting:
            notification = self._waiting.popleft()
            subject = audience_subject(notification.tenant, PRIORITIES[notification.priority])
            groups.setdefault(subject, []).append(audience_item(notification))
        for subject, items in groups.items():
            for part in _parts(items):
                await self._bus.publish(subject, batch.pack(part, self._clock.now_ms()))

    async def tell_heads(self) -> None:
        """Publish how far the lanes are of each tenant that had one lately. Raises what the database raises."""
        tenants = list(self._left)
        if not tenants or not self._bus.connected:
            return
        async with tenant_transaction(self._pool, tenants) as connection:
            heads = await heads_of(connection, tenants)
        for tenant, seqs in heads.items():
            message = batch.pack([batch.heads_item(tenant, seqs)], self._clock.now_ms())
            await self._bus.publish(audience_subject(tenant, PRIORITIES[0]), message)
            if self._bus.connected:
                self._left[tenant] -= 1
                if self._left[tenant] <= 0:
                    del self._left[tenant]


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
