"""Batches from the bus to sockets: the way down. Routes by header, never looks into a body, never waits."""

from gateway._fast.carrier import Connection
from gateway._fast.registry import Registry
from gateway._fast.session import LIVE, RESUMING
from gateway.clock import DatabaseClock, now_ms
from gateway.resume import Resume, welcomed
from notification import batch, telemetry
from notification.batch import CONTROL, Item
from notification.bus import Bus
from notification.codes import LANE_COUNT, ReceiptCode
from notification.errors import BadBatch
from notification.limits import WRITE_BUFFER_BYTES_MAX
from notification.names import PRIORITIES, gateway_subject


class Inbound:
    """Serves this process's three subjects; one flush per connection and batch."""

    def __init__(self, registry: Registry[Connection], resume: Resume, clock: DatabaseClock) -> None:
        self._registry = registry
        self._resume = resume
        self._clock = clock
        self.draining = False

    async def start(self, bus: Bus, gateway_id: str) -> None:
        for priority in PRIORITIES:
            await bus.serve(gateway_subject(gateway_id, priority), self.handle)

    async def handle(self, subject: str, message: bytes) -> bytes | None:
        """One batch: a code per item. A batch that does not decode is counted and not answered."""
        try:
            database_ms, items = batch.unpack(message)
        except BadBatch:
            telemetry.BUS_BAD.inc()
            return None
        now = now_ms()
        self._clock.observe(database_ms, now)
        dirty: list[Connection] = []
        codes = bytearray()
        written = 0
        for item in items:
            code, count = self._item(item, now, dirty)
            codes.append(code)
            written += count
        for connection in dirty:
            connection.flush()
        telemetry.FRAMES_WRITTEN.inc(written)
        return batch.pack_reply(codes)

    def _item(self, item: Item, now: int, dirty: list[Connection]) -> tuple[int, int]:
        """(ReceiptCode, frames written)."""
        connections = [
            connection
            for connection in self._registry.find(item.tag)
            if connection.session.phase in (RESUMING, LIVE)
        ]
        if not connections:
            return ReceiptCode.STALE if self.draining else ReceiptCode.NO_CONNECTION, 0
        if self._clock.expired(item.expiry_ms, now):
            return ReceiptCode.EXPIRED, 0
        if item.kind == CONTROL:
            for connection in connections:
                if welcomed(connection):
                    _note(connection, dirty)
                    connection.session.send(item.body)
            return ReceiptCode.WRITTEN, 0
        if item.lane >= LANE_COUNT:
            telemetry.BUS_BAD.inc()
            return ReceiptCode.FULL, 0
        written = 0
        for connection in connections:
            session = connection.session
            _note(connection, dirty)
            retry = item.attempt > 1
            if session.offer(item.lane, item.seq, item.prev, item.id, item.body, retry) == ReceiptCode.WRITTEN:
                written += 1
                if session.pending() > WRITE_BUFFER_BYTES_MAX:
                    connection.flush()
            else:
                self._resume.nudge(connection)
        return ReceiptCode.WRITTEN if written else ReceiptCode.FULL, written


def _note(connection: Connection, dirty: list[Connection]) -> None:
    """Remember to flush; a connection with bytes queued is on the list already."""
    if connection.session.pending() == 0:
        dirty.append(connection)
