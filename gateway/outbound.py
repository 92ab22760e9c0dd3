"""Receipts on their way up: acks, opens and closes, one packed stream entry per tick.

Entries of one boot are numbered from 1 without a gap; an entry that had to be dropped leaves a missing number,
which role receipts audits.
"""

import asyncio
from collections import deque

from gateway._fast.acks import Acks
from gateway._fast.session import Session
from gateway.clock import unix_ms
from gateway.pipeline import Pipeline
from notification import telemetry
from notification.bus import Bus
from notification.limits import (
    LIVE_COPIES_COUNT_MAX,
    RECEIPTS_PER_ENTRY_MAX,
    RECEIPTS_STREAM_ENTRIES_MAX,
    RECEIPTS_TICK_MS,
)
from notification.messages import ConnectionReceipt, encode_receipts
from notification.names import RECEIPTS_FIELD, RECEIPTS_STREAM, ack_subject


class Outbound:
    """Collects receipts; a full entry or RECEIPTS_TICK_MS after the first one sends them."""

    def __init__(self, pipeline: Pipeline, bus: Bus, gateway_id: str) -> None:
        self._pipeline = pipeline
        self._bus = bus
        self._gateway_id = gateway_id
        self._subject = ack_subject(gateway_id)
        self.acks = Acks(self._arm)
        self._connections: list[ConnectionReceipt] = []
        self._number = 0
        self._armed = False
        self._copies: deque[bytes] = deque(maxlen=LIVE_COPIES_COUNT_MAX)
        self._copying: asyncio.Task[None] | None = None

    def ack(self, session: Session, text: bytes) -> int:
        """A client's message, if it is an ack in its usual form: how many it frees here. Else -1."""
        return self.acks.ack(session, text, unix_ms())

    def acked(self, session: Session, lane: int, seq: int, ident: bytes) -> None:
        """A device acknowledged an item that was written to it."""
        self.acks.put(session, lane, seq, ident, unix_ms())

    def opened(self, session: Session) -> None:
        self._connection("open", session, 0)

    def closed(self, session: Session, code: int) -> None:
        self._connection("close", session, code)

    def _connection(self, event: str, session: Session, code: int) -> None:
        self._connections.append(
            ConnectionReceipt(
                event, session.session_id, session.tenant, session.user, session.device, code, unix_ms()
            )
        )
        self._arm()

    def _arm(self) -> None:
        if len(self.acks) + len(self._connections) >= RECEIPTS_PER_ENTRY_MAX:
            self.flush()
        elif not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_later(RECEIPTS_TICK_MS / 1_000, self._tick)

    def _tick(self) -> None:
        self._armed = False
        self.flush()

    def flush(self) -> None:
        """Hand what was collected to the pipeline."""
        count = len(self.acks) + len(self._connections)
        if count == 0:
            return
        self._number += 1
        telemetry.ACKS.inc(len(self.acks))
        packed = encode_receipts(self._gateway_id, self._number, self.acks.take(), self._connections)
        self._connections = []
        kept = self._pipeline.push(
            "XADD", RECEIPTS_STREAM, "MAXLEN", "~", RECEIPTS_STREAM_ENTRIES_MAX, "*", RECEIPTS_FIELD, packed
        )
        if not kept:
            telemetry.RECEIPTS_LOST.inc(count)
        if len(self._copies) == LIVE_COPIES_COUNT_MAX:  # the bus is slow: its oldest goes
            telemetry.BUS_DROPPED.inc()
        self._copies.append(packed)
        if self._copying is None:
            self._copying = asyncio.get_running_loop().create_task(self._copy())

    async def _copy(self) -> None:
        """Live copies for whoever watches; the stream holds the truth."""
        try:
            while self._copies:
                await self._bus.publish(self._subject, self._copies.popleft())
        finally:
            self._copying = None
