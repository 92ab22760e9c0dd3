"""Plain-Python twin of gateway/_fast/router.pyx: the batch by notification.batch, a loop over its items."""

from collections.abc import Callable
from typing import Any

from gateway._fast.session import LIVE, RESUMING
from notification import batch
from notification.batch import CONTROL, ITEM_OVERHEAD_BYTES, Item
from notification.codes import LANE_COUNT, ReceiptCode
from notification.errors import BadBatch
from notification.limits import WRITE_BUFFER_BYTES_MAX

HEAD_BYTES = ITEM_OVERHEAD_BYTES


class Router:
    def __init__(self, registry: Any, nudge: Callable[[Any], None], welcomed: Callable[[Any], bool]) -> None:
        self._registry, self._nudge, self._welcomed = registry, nudge, welcomed
        self._dirty: list[Any] = []

    def route(
        self, message: bytes, start: int, count: int, database_ms: int, draining: bool
    ) -> tuple[bytes, int, int] | None:
        try:
            items = batch.unpack_items(message, start, count)
        except BadBatch:
            return None
        self._frames = self._refused = 0
        codes = bytes(self._item(item, database_ms, draining) for item in items)
        return codes, self._frames, self._refused

    def flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def _item(self, item: Item, database_ms: int, draining: bool) -> int:
        takers = [one for one in self._registry.find(item.tag) if one.session.phase in (RESUMING, LIVE)]
        if not takers:
            return ReceiptCode.STALE if draining else ReceiptCode.NO_CONNECTION
        if 0 < item.expiry_ms <= database_ms:
            return ReceiptCode.EXPIRED
        if item.kind == CONTROL:
            for connection in filter(self._welcomed, takers):
                self._queue(connection, connection.session.send, item.body, False, True)
            return ReceiptCode.WRITTEN
        if item.lane >= LANE_COUNT or max(item.seq, item.prev) >= 1 << 63:
            self._refused += 1
            return ReceiptCode.FULL
        written = 0
        for connection in takers:
            offer = connection.session.offer
            code = self._queue(
                connection, offer, item.lane, item.seq, item.prev, item.id, item.body, item.attempt > 1
            )
            if code == ReceiptCode.WRITTEN:
                written += 1
            else:
                self._nudge(connection)
        self._frames += written
        return ReceiptCode.WRITTEN if written else ReceiptCode.FULL

    def _queue(self, connection: Any, call: Callable[..., Any], *arguments: Any) -> Any:
        """Flush at the end what had nothing queued, and what has a lot at once."""
        idle = connection.session.pending() == 0
        answer = call(*arguments)
        if answer != ReceiptCode.FULL:
            if idle:
                self._dirty.append(connection)
            elif connection.session.pending() > WRITE_BUFFER_BYTES_MAX:
                connection.flush()
        return answer
