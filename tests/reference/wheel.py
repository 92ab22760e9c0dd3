"""Plain-Python twin of gateway/_fast/wheel.pyx: a sorted list instead of a ring."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Wheel(Generic[T]):
    """Entries are (tick, order of arming, item)."""

    def __init__(self, tick_ms: int, slots: int, now_ms: int) -> None:
        if tick_ms < 1 or slots < 2:
            raise ValueError("a wheel needs tick_ms of at least 1 and at least 2 slots")
        self._tick_ms = tick_ms
        self._slots = slots
        self._next_tick = now_ms // tick_ms + 1
        self._entries: list[tuple[int, int, T]] = []
        self._armed = 0

    def arm(self, item: T, due_ms: int) -> None:
        tick = -(-due_ms // self._tick_ms)
        tick = max(tick, self._next_tick)
        tick = min(tick, self._next_tick + self._slots - 1)
        self._armed += 1
        self._entries.append((tick, self._armed, item))

    def advance(self, now_ms: int) -> list[T]:
        last = now_ms // self._tick_ms
        due = sorted((entry for entry in self._entries if entry[0] <= last), key=lambda entry: entry[:2])
        self._entries = [entry for entry in self._entries if entry[0] > last]
        self._next_tick = max(self._next_tick, last + 1)
        return [item for _, _, item in due]

    def __len__(self) -> int:
        return len(self._entries)
