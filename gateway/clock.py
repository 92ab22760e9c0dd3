"""The two clocks of a gateway: its own monotonic one, and the database's as seen through the bus."""

import time
from typing import Final

_WINDOW_MS: Final = 60_000  # a better estimate is forgotten after one to two windows: clocks drift


def now_ms() -> int:
    """Monotonic milliseconds; every deadline in the gateway counts on them."""
    return time.monotonic_ns() // 1_000_000


def unix_ms() -> int:
    """Wall-clock Unix milliseconds: for people and for records, never for a deadline."""
    return time.time_ns() // 1_000_000


class DatabaseClock:
    """Database time on our monotonic clock: the smallest lag of any recent message is nearest to the truth.

    A message that was held up on its way looks late by its delay, so that what expired meanwhile counts as expired.
    """

    def __init__(self) -> None:
        self._lag_ms: int | None = None  # our monotonic ms minus database ms, the least of this window
        self._lag_before_ms: int | None = None  # ... and of the window before
        self._window_end_ms = 0

    def observe(self, database_ms: int, monotonic_ms: int) -> None:
        """A message stamped `database_ms` was read at `monotonic_ms`."""
        lag_ms = monotonic_ms - database_ms
        if monotonic_ms >= self._window_end_ms:
            self._lag_before_ms, self._lag_ms = self._lag_ms, lag_ms
            self._window_end_ms = monotonic_ms + _WINDOW_MS
        elif self._lag_ms is None or lag_ms < self._lag_ms:
            self._lag_ms = lag_ms

    def at(self, monotonic_ms: int) -> int:
        """The database's time, Unix ms; 0 before the first observe()."""
        if self._lag_ms is None:
            return 0
        lag_ms = self._lag_ms if self._lag_before_ms is None else min(self._lag_ms, self._lag_before_ms)
        return monotonic_ms - lag_ms

    def expired(self, expiry_ms: int, monotonic_ms: int) -> bool:
        """Is `expiry_ms` (Unix ms by the database, 0 = never) past? False before the first observe()."""
        return 0 < expiry_ms <= self.at(monotonic_ms)
