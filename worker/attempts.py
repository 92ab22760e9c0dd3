"""When to send again, and how often a tenant may: pure arithmetic, no I/O.

A first send waits ACK_DUE_MS for its ack, counted from its storing where that is at most DUE_EARLY_MS_MAX ago;
retries 1, 2, 3 wait RETRY_DELAYS_MS, each times U(RETRY_JITTER_MIN, RETRY_JITTER_MAX).
"""

import random
import time
from collections.abc import Callable
from typing import Final

from notification.limits import (
    ACK_DUE_MS,
    RETRY_BUDGET_FLOOR_ITEMS,
    RETRY_BUDGET_PERCENT,
    RETRY_BUDGET_WINDOW_MS,
    RETRY_DELAYS_MS,
    RETRY_JITTER_MAX,
    RETRY_JITTER_MIN,
)

SENDS_MAX: Final = 1 + len(RETRY_DELAYS_MS)


def due_after_send_ms(attempt: int, uniform: Callable[[float, float], float] = random.uniform) -> int:
    """How long after send number `attempt` (from 1) its ack is due, in ms."""
    if attempt <= 1:
        return ACK_DUE_MS
    delay_ms = RETRY_DELAYS_MS[min(attempt, SENDS_MAX) - 2]
    return round(delay_ms * uniform(RETRY_JITTER_MIN, RETRY_JITTER_MAX))


class RetryBudget:
    """Retries of a tenant stay under RETRY_BUDGET_PERCENT of its sends in this process.

    A sliding window of two halves per tenant; RETRY_BUDGET_FLOOR_ITEMS retries per window are always free.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._half = 0
        self._old: dict[str, list[int]] = {}  # tenant -> [sends, retries]
        self._new: dict[str, list[int]] = {}

    def allow(self, tenant: str, retry: bool) -> bool:
        """Count a send; False (and nothing counted) for a retry over the budget."""
        self._roll()
        old = self._old.get(tenant, [0, 0])
        new = self._new.setdefault(tenant, [0, 0])
        if not retry:
            new[0] += 1
            return True
        allowed = max(RETRY_BUDGET_FLOOR_ITEMS, (old[0] + new[0]) * RETRY_BUDGET_PERCENT // 100)
        if old[1] + new[1] >= allowed:
            return False
        new[1] += 1
        return True

    def _roll(self) -> None:
        half = int(self._now_s() * 1000 // (RETRY_BUDGET_WINDOW_MS // 2))
        if half == self._half:
            return
        self._old = self._new if half == self._half + 1 else {}
        self._new = {}
        self._half = half
