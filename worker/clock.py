"""The database's clock, kept locally: it judges expiry and stamps bus batches, without a query each time."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from notification.limits import CLOCK_READ_MS, DATABASE_TURN_DEADLINE_S
from worker.database import Pool, database_ms
from worker.outage import origin

_log = structlog.get_logger("clock")


class Clock(Protocol):
    """What needs the database's time but not the database."""

    def now_ms(self) -> int:
        """Unix ms by the database."""


class DatabaseClock:
    """Unix ms by the database: its last reading plus this machine's monotonic time since."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._offset_ms = time.time() * 1000 - now_s() * 1000

    def now_ms(self) -> int:
        """Now, as the database would say."""
        return int(self._now_s() * 1000 + self._offset_ms)

    def set(self, database_ms_read: int) -> None:
        """Take a reading, just made."""
        self._offset_ms = database_ms_read - self._now_s() * 1000

    async def refresh(self, pool: Pool) -> None:
        """Read the clock once. Raises what the pool raises."""
        async with pool.acquire() as connection:
            self.set(await database_ms(connection))

    async def follow(self, pool: Pool) -> None:
        """Run for ever: read the clock each CLOCK_READ_MS; in an outage this machine's clock goes on."""
        while True:
            try:
                async with asyncio.timeout(DATABASE_TURN_DEADLINE_S):
                    await self.refresh(pool)
            except Exception as error:  # whatever it is: what was read last counts on
                _log.warning("clock_not_read", error=origin(error))
            await asyncio.sleep(CLOCK_READ_MS / 1000)
