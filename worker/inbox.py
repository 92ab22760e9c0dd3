"""Role inbox: answers gateways over the bus: fills, state changes, pages, audiences, the edge snapshot; recalls.

A queue group, so any inbox process answers. Each request has INBOX_DEADLINE_MS; above INBOX_IN_FLIGHT_MAX at once
(INBOX_COMMANDS_IN_FLIGHT_MAX of them pages, state changes and recalls, of which there may be as many as they like),
while PostgreSQL is away, or when a request fails for a reason nobody foresaw (which is logged), the answer is
Failure("busy") and the gateway asks again later. A request that breaks a rule gets Failure("bad_frame").
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from notification import batch, frames, messages, telemetry
from notification.bus import Bus
from notification.errors import InvalidInput
from notification.frames import StateFrame
from notification.ids import check_token, check_user
from notification.limits import (
    BUS_MESSAGE_BYTES_MAX,
    FILLS_COUNT_MAX,
    INBOX_COMMANDS_IN_FLIGHT_MAX,
    INBOX_DEADLINE_MS,
    INBOX_IN_FLIGHT_MAX,
)
from notification.messages import (
    AudienceFillRequest,
    EdgeRequest,
    EntitledRequest,
    Failure,
    FillsReply,
    FillsRequest,
    InboxReply,
    InboxRequest,
    PageRequest,
    RecallRequest,
    StateRequest,
)
from notification.names import (
    INBOX_AUDIENCE,
    INBOX_AUDIENCE_FILL,
    INBOX_EDGE,
    INBOX_PAGE,
    INBOX_QUEUE,
    INBOX_RECALL,
    INBOX_RESUME,
    INBOX_STATE,
    PRIORITIES,
    audience_subject,
    gateway_subject,
    user_tag,
)
from worker.audience_questions import entitled, missed
from worker.clock import Clock
from worker.database import AWAY, Pool
from worker.edge import Edge
from worker.fill import fills
from worker.keys import KeyRing
from worker.marks import mark
from worker.page import page
from worker.presence import PresenceReader
from worker.recall import recall

_log = structlog.get_logger("inbox")
_KINDS: Final = {
    INBOX_RESUME: FillsRequest,
    INBOX_STATE: StateRequest,
    INBOX_PAGE: PageRequest,
    INBOX_EDGE: EdgeRequest,
    INBOX_RECALL: RecallRequest,
    INBOX_AUDIENCE: EntitledRequest,
    INBOX_AUDIENCE_FILL: AudienceFillRequest,
}
_COMMANDS: Final = frozenset({INBOX_STATE, INBOX_PAGE, INBOX_RECALL})
_NO_ID: Final = bytes(16)


class Inbox:
    """See the module."""

    def __init__(
        self, bus: Bus, pool: Pool, ring: KeyRing, edge: Edge, presence: PresenceReader, clock: Clock
    ) -> None:
        self._bus = bus
        self._pool = pool
        self._ring = ring
        self._edge = edge
        self._presence = presence
        self._clock = clock
        self._in_flight = 0
        self._commands_in_flight = 0

    async def start(self) -> None:
        """Join the queue group."""
        for subject in _KINDS:
            await self._bus.serve(subject, self.handle, queue=INBOX_QUEUE, concurrent=True)

    async def handle(self, subject: str, data: bytes) -> bytes:
        """Bytes of an InboxRequest in, bytes of its reply or of a Failure out."""
        kind = subject.partition(".")[2]
        command = subject in _COMMANDS
        if self._in_flight >= INBOX_IN_FLIGHT_MAX or (
            command and self._commands_in_flight >= INBOX_COMMANDS_IN_FLIGHT_MAX
        ):
            telemetry.INBOX_REQUESTS.labels(kind, "busy").inc()
            return messages.encode(Failure("busy"))
        self._in_flight += 1
        self._commands_in_flight += command
        try:
            reply = await self._answer(subject, data)
        finally:
            self._in_flight -= 1
            self._commands_in_flight -= command
        answer = messages.encode(reply)
        if len(answer) > BUS_MESSAGE_BYTES_MAX:  # NATS would not take it, and who asked would wait in vain
            _log.error("reply_too_large", subject=subject, bytes=len(answer))
            reply = Failure("busy")
            answer = messages.encode(reply)
        outcome = reply.code if isinstance(reply, Failure) else "ok"
        telemetry.INBOX_REQUESTS.labels(kind, outcome).inc()
        return answer

    async def _answer(self, subject: str, data: bytes) -> InboxReply:
        try:
            request = messages.decode_request(data)
            _check(subject, request)
            async with asyncio.timeout(INBOX_DEADLINE_MS / 1000):
                return await self._serve(request)
        except (msgspec.DecodeError, InvalidInput) as error:
            _log.warning("request_refused", subject=subject, error=type(error).__name__)
            return Failure("bad_frame")
        except AWAY as error:
            _log.warning("request_not_served", subject=subject, error=type(error).__name__)
        except Exception:  # whatever it is: who asked waits for an answer, and every other request must go on
            _log.exception("request_failed", subject=subject)
        return Failure("busy")

    async def _serve(self, request: InboxRequest) -> InboxReply:
        if isinstance(request, FillsRequest):
            return FillsReply(await fills(self._pool, self._ring, request.fills))
        if isinstance(request, PageRequest):
            return await page(self._pool, self._ring, request)
        if isinstance(request, EdgeRequest):
            return await self._edge.snapshot(request)
        if isinstance(request, EntitledRequest):
            return await entitled(self._pool, request)
        if isinstance(request, AudienceFillRequest):
            return await missed(self._pool, self._ring, request)
        if isinstance(request, RecallRequest):
            recalled, told, items = await recall(self._pool, request)
            await self._tell_devices(request.tenant, told)
            if items:
                subject = audience_subject(request.tenant, PRIORITIES[0])
                await self._bus.publish(subject, batch.pack(items, self._clock.now_ms()))
            return recalled
        assert isinstance(request, StateRequest), "_check() lets no other through"
        reply, frame = await mark(self._pool, request)
        if frame is not None:
            await self._tell_devices(request.tenant, {request.user: frame})
        return reply

    async def _tell_devices(self, tenant: str, told: Mapping[str, StateFrame]) -> None:
        """Each user's frame to all of its connections, one batch per gateway. A hint: it may be lost."""
        if not told:
            return
        tags = {user: user_tag(tenant, user) for user in told}
        located = await self._presence.locate(list(tags.values()))
        items: dict[str, list[batch.Item]] = {}
        for user, frame in told.items():
            tag = tags[user]
            item = batch.Item(batch.CONTROL, 0, 0, 0, 0, 0, _NO_ID, tag.encode("ascii"), frames.encode(frame))
            for gateway in located.targets(tag):
                items.setdefault(gateway, []).append(item)
        for gateway, its_items in items.items():
            message = batch.pack(its_items, self._clock.now_ms())
            await self._bus.publish(gateway_subject(gateway, PRIORITIES[0]), message)


def _check(subject: str, request: InboxRequest) -> None:
    """The id rules again: a transaction will name this tenant. fill.py judges its questions one by one.

    Raises InvalidInput."""
    if not isinstance(request, _KINDS[subject]):
        raise InvalidInput("request", f"does not belong on {subject}")
    if isinstance(request, FillsRequest):
        if len(request.fills) > FILLS_COUNT_MAX:
            raise InvalidInput("fills", f"must be at most {FILLS_COUNT_MAX}")
    elif not isinstance(request, EdgeRequest):
        check_token(request.tenant, "tenant")
        if isinstance(request, StateRequest | PageRequest) or (isinstance(request, RecallRequest) and request.user):
            check_user(request.user)
