"""Batches from the bus to sockets: the way down. Never waits; the items are the router's (_fast/router.pyx).

What one read of the bus brought is handled in one turn of the loop, and written at its end: a send costs the kernel
nearly as much for one frame as for several.
"""

import asyncio
from typing import Final

from gateway._fast.carrier import Connection
from gateway._fast.registry import Registry
from gateway._fast.router import Router
from gateway.clock import DatabaseClock, now_ms
from gateway.resume import Resume, welcomed
from notification import batch, telemetry
from notification.bus import Bus
from notification.errors import BadBatch
from notification.names import PRIORITIES, gateway_subject

_TIME_MAX: Final = 2**64 - 1  # as the batch header has room for


class Inbound:
    """Serves this process's three subjects; one flush per connection and turn."""

    def __init__(self, registry: Registry[Connection], resume: Resume, clock: DatabaseClock) -> None:
        self._router = Router(registry, resume.nudge, welcomed)
        self._clock = clock
        self._flushing = False
        self.draining = False

    async def start(self, bus: Bus, gateway_id: str) -> None:
        for priority in PRIORITIES:
            await bus.serve(gateway_subject(gateway_id, priority), self.handle)

    async def handle(self, subject: str, message: bytes) -> bytes | None:
        """One batch: a code per item. A batch that does not decode is counted and not answered."""
        try:
            database_ms, count = batch.unpack_header(message)
        except BadBatch:
            telemetry.BUS_BAD.inc()
            return None
        now = now_ms()
        self._clock.observe(database_ms, now)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        routed = self._router.route(
            message, batch.OVERHEAD_BYTES, count, min(self._clock.at(now), _TIME_MAX), self.draining
        )
        if routed is None:
            telemetry.BUS_BAD.inc()
            return None
        codes, written, refused = routed
        telemetry.FRAMES_WRITTEN.inc(written)
        if refused:
            telemetry.BUS_BAD.inc(refused)
        return batch.pack_reply(codes)

    def _flush(self) -> None:
        """The batches that were there have been routed: nobody waits for a further one."""
        self._flushing = False
        self._router.flush()
