"""A hashed timer wheel: one loop timer for all connections; re-arming is one list append."""

from typing import Generic, TypeVar

T = TypeVar("T")

class Wheel(Generic[T]):
    """`slots` x `tick_ms` is the horizon; a later deadline is parked in the last slot and re-armed by the caller.

    An entry cannot be cancelled: the caller checks on expiry whether it is still due (lazy), which keeps an
    idle connection at one slot entry."""

    def __init__(self, tick_ms: int, slots: int, now_ms: int) -> None: ...
    def arm(self, item: T, due_ms: int) -> None:
        """Fire at or after `due_ms` (monotonic), at most one tick late once advance() runs."""
    def advance(self, now_ms: int) -> list[T]:
        """Items whose slot has passed, in slot order; each is forgotten."""
    def __len__(self) -> int: ...
