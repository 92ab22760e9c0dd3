"""One frame of an audience to a tenant's connections here, without an object per connection."""

from collections.abc import Callable
from typing import Generic, TypeVar

from gateway._fast.carrier import Connection

C = TypeVar("C")

class Crowd(Generic[C]):
    """The connections of one tenant, in no order, at eight bytes each. A connection is in one crowd at most."""

    def join(self, connection: C) -> None:
        """Once per connection."""
    def leave(self, connection: C) -> bool:
        """True if it was there."""
    def connections(self) -> list[C]:
        """All, a copy."""
    def __len__(self) -> int: ...

class Fanout:
    """Writes what several connections get alike. Policy is handed in, as to a Router: `nudge` hears of a connection
    that has to fill, `welcomed` says whether one has its welcome.

    `entitled`: who of connections[start:stop] may have it, one bit each, the first in the highest bit of the first
    byte; None = all. ValueError: it is too short, or the slice is not in the list."""

    def __init__(self, nudge: Callable[[Connection], None], welcomed: Callable[[Connection], bool]) -> None: ...
    def offer(
        self, connections: list[Connection], start: int, stop: int, lane: int, seq: int, prev: int, ident: bytes,
        body: bytes, entitled: bytes | None,
    ) -> tuple[int, int]:  # fmt: skip
        """A lane's item to those that take items and are not past it. Who is entitled gets it as Session.offer()
        says; who is not and has everything up to `prev` is past it from now on; who lacks something before it wants
        a fill. (frames queued, connections that it was passed over for.) ValueError: lane or id malformed."""
    def send(
        self, connections: list[Connection], start: int, stop: int, frame: bytes, entitled: bytes | None
    ) -> None:
        """A frame outside lanes, to those that have their welcome, behind what waits."""
    def flush(self) -> None:
        """Write what was queued since the last time: one write per connection. What exceeds WRITE_BUFFER_BYTES_MAX
        for one connection went out at once."""
