"""The items of a packed batch to the sessions they are for, without an object per item."""

from collections.abc import Callable

from gateway._fast.carrier import Connection
from gateway._fast.registry import Registry

HEAD_BYTES: int  # of an item before its tag, as notification.batch packs it

class Router:
    """Routes by header, never looks into a body. Policy is handed in: `nudge` hears of a connection that could not
    take an item, `welcomed` says whether one has its welcome, before which no control item may come."""

    def __init__(
        self,
        registry: Registry[Connection],
        nudge: Callable[[Connection], None],
        welcomed: Callable[[Connection], bool],
    ) -> None: ...
    def route(
        self, message: bytes, start: int, count: int, database_ms: int, draining: bool
    ) -> tuple[bytes, int, int] | None:
        """Offer the `count` items (notification.batch) that begin at `start` and fill the message; flush() writes
        them, but what exceeds WRITE_BUFFER_BYTES_MAX for one connection goes out at once. (codes.ReceiptCode per
        item, frames written, items of no lane.) None, and nothing happened: the items do not add up to the message.

        `database_ms`: the database's time now, Unix ms; what expires then or before is not written. `draining`: who
        is not here is STALE."""
    def flush(self) -> None:
        """Write what was routed since the last time: one write per connection, however many batches it came in."""
