"""Tells the gateways that the edge snapshot changed: PostgreSQL notifies of every change, whoever made it.

A hint: where one is lost, a gateway's own poll finds the change.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from notification.bus import Bus
from notification.limits import DATABASE_CONNECT_DEADLINE_S, EDGE_HINT_CHECK_MS
from notification.names import EDGE_CHANGED
from worker.database import AWAY, Pool
from worker.outage import Backoff, origin

_log = structlog.get_logger("edge_hint")

_CHANNEL: Final = "herald_edge"  # of migrations/0002_access.sql
_ALIVE: Final = "SELECT 1"


class EdgeHint:
    """Every inbox process has one; gateways that hear several ask once."""

    def __init__(self, pool: Pool, bus: Bus) -> None:
        self._pool = pool
        self._bus = bus
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Run for ever: listen on a connection of its own, in an outage again and again."""
        backoff = Backoff()
        while True:
            try:
                await self._listen(backoff.reset)
            except Exception as error:  # whatever it is: gateways ask by themselves meanwhile
                _log.warning("not_listening", error=origin(error))
            await asyncio.sleep(backoff.next_s())

    async def _listen(self, listening: Callable[[], None]) -> None:
        """Until the connection breaks. Raises database.AWAY."""
        async with self._pool.acquire(timeout=DATABASE_CONNECT_DEADLINE_S) as connection:
            connection.add_termination_listener(self._notified)  # a broken connection ends the wait as well
            try:
                await connection.add_listener(_CHANNEL, self._notified)
                listening()
                self._changed.set()  # what changed while nobody listened
                while True:
                    await self._wait()
                    if not self._changed.is_set() or connection.is_closed():
                        await connection.execute(_ALIVE)
                        continue
                    self._changed.clear()
                    await self._bus.publish(EDGE_CHANGED, b"")
            finally:
                with contextlib.suppress(*AWAY):  # it may be gone, which must not hide why we leave
                    connection.remove_termination_listener(self._notified)
                    await connection.remove_listener(_CHANNEL, self._notified)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(EDGE_HINT_CHECK_MS / 1000):
                await self._changed.wait()
        except TimeoutError:
            return

    def _notified(self, *_details: object) -> None:
        self._changed.set()
