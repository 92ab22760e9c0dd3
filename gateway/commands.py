"""What an authenticated client may say: ack, state, page, ping, reauth."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from gateway._fast.carrier import Connection
from gateway.edge import Edge
from gateway.handshake import judge_token
from gateway.outbound import Outbound
from gateway.resume import Resume
from gateway.tokens import Asked, Identity
from notification import frames, messages, telemetry
from notification.bus import Bus
from notification.codes import Closes, Refusal, Refusals
from notification.errors import BusError, InvalidInput, Unavailable
from notification.frames import IDS_PER_FRAME_MAX, ErrorFrame, Pong
from notification.ids import parse_uuid7
from notification.limits import (
    COMMANDS_IN_FLIGHT_MAX,
    COMMANDS_PER_CONNECTION_MAX,
    INBOX_DEADLINE_MS,
    PAGE_ITEMS_MAX,
)
from notification.messages import PageReply, PageRequest, StateReply, StateRequest
from notification.names import INBOX_PAGE, INBOX_STATE

_log = structlog.get_logger("commands")

_PONG: Final = frames.encode(Pong())
_BAD_FRAME: Final = frames.encode(ErrorFrame("bad_frame"))
_BUSY: Final = frames.encode(ErrorFrame("busy", retry_ms=1_000))
_TEXT_CHARS: Final = 36  # a UUID in canonical form


class Commands:
    """Runs client frames. At most COMMANDS_IN_FLIGHT_MAX inbox requests at once, COMMANDS_PER_CONNECTION_MAX of one
    connection; above it clients hear `busy`."""

    def __init__(self, bus: Bus, edge: Edge, outbound: Outbound, resume: Resume) -> None:
        self._bus = bus
        self._edge = edge
        self._outbound = outbound
        self._resume = resume
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking: dict[Connection, int] = {}  # those that wait for role inbox, and for how many answers
        self._reauths: set[Connection] = set()  # those whose token an AuthService is asked about
        self.reauthenticated: Callable[[Connection, Identity], None] = _nobody

    def handle(self, connection: Connection, text: bytes) -> None:
        """One client frame. A frame that breaks the protocol is answered by an error; the third ends in 4400."""
        count = self._outbound.ack(connection.session, text)
        if count >= 0:
            if count:
                self._resume.nudge(connection)
            return
        try:
            frame = frames.decode_client(text)
            if isinstance(frame, frames.Ack):
                self._ack(connection, frame)
            elif isinstance(frame, frames.Ping):
                connection.session.send(_PONG)
            elif isinstance(frame, frames.SetState):
                self._state(connection, frame)
            elif isinstance(frame, frames.Page):
                self._page(connection, frame)
            elif isinstance(frame, frames.Reauth):
                self._reauth(connection, frame)
            else:
                raise InvalidInput("frame", "auth comes once")
        except InvalidInput:
            bad_frame(connection)

    async def close(self) -> None:
        """Give up what is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ack(self, connection: Connection, frame: frames.Ack) -> None:
        if (frame.ids is None) == (frame.upto is None):
            raise InvalidInput("ack", "needs ids or upto")
        session = connection.session
        count = 0
        if frame.ids is not None:
            if len(frame.ids) > IDS_PER_FRAME_MAX:
                raise InvalidInput("ids", f"must be at most {IDS_PER_FRAME_MAX}")
            for ident in [_ident(text) for text in frame.ids]:
                found = session.ack(ident)
                if found is not None:
                    count += 1
                    self._outbound.acked(session, found[0], found[1], ident)
        elif frame.upto is not None:
            for ident, lane, seq in session.ack_upto(_ident(frame.upto)) or ():
                count += 1
                self._outbound.acked(session, lane, seq, ident)
        if count:
            self._resume.nudge(connection)

    def _state(self, connection: Connection, frame: frames.SetState) -> None:
        if not 1 <= len(frame.ids) <= IDS_PER_FRAME_MAX:
            raise InvalidInput("ids", f"must be 1 to {IDS_PER_FRAME_MAX}")
        session = connection.session
        idents = [parse_uuid7(text).bytes for text in frame.ids]
        request = StateRequest(session.tenant, session.user, session.device, idents, frame.to)
        self._spawn(connection, INBOX_STATE, request)

    def _page(self, connection: Connection, frame: frames.Page) -> None:
        if not 1 <= frame.limit <= PAGE_ITEMS_MAX:
            raise InvalidInput("limit", f"must be 1 to {PAGE_ITEMS_MAX}")
        session = connection.session
        before = b"" if frame.before is None else parse_uuid7(frame.before).bytes
        request = PageRequest(session.tenant, session.user, before, frame.limit)
        self._spawn(connection, INBOX_PAGE, request)

    def _spawn(self, connection: Connection, subject: str, request: StateRequest | PageRequest) -> None:
        asking = self._asking.get(connection, 0)
        full = asking >= COMMANDS_PER_CONNECTION_MAX or len(self._tasks) >= COMMANDS_IN_FLIGHT_MAX
        if full or connection.congested():
            connection.session.send(_BUSY)
            return
        self._asking[connection] = asking + 1
        task = asyncio.get_running_loop().create_task(self._ask(connection, subject, request))
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("command_failed", error=type(error).__name__, exc_info=error)

    def _answered(self, connection: Connection) -> None:
        left = self._asking.pop(connection) - 1
        if left:
            self._asking[connection] = left

    async def _ask(self, connection: Connection, subject: str, request: StateRequest | PageRequest) -> None:
        try:
            answer = await self._bus.request(subject, messages.encode(request), INBOX_DEADLINE_MS / 1_000)
            reply = messages.decode_reply(answer)
        except (BusError, Unavailable, msgspec.DecodeError):
            reply = messages.Failure("busy")
        finally:  # before the client hears of it and asks for more
            self._answered(connection)
        if not connection.is_open():
            return
        if isinstance(reply, PageReply):
            connection.session.send(reply.frame, last=True)  # long, and in no hurry
        elif not isinstance(reply, StateReply):
            connection.session.send(_BUSY)
        elif not reply.told and isinstance(request, StateRequest):  # a change comes over the bus, to every device
            ids = [str(uuid.UUID(bytes=ident)) for ident in reply.found]
            frame = frames.StateFrame(ids, request.to, reply.counters.rev, reply.counters.unread)
            connection.session.send(frames.encode(frame), last=True)
        connection.flush()

    def _reauth(self, connection: Connection, frame: frames.Reauth) -> None:
        outcome = judge_token(self._edge.of(connection.peer), frame.token, None)
        if isinstance(outcome, Asked):
            self._reauth_later(connection, frame.token, outcome)
        else:
            self._settle_reauth(connection, outcome)

    def _reauth_later(self, connection: Connection, token: str, asked: Asked) -> None:
        """The AuthService was asked about the token: one at a time per connection."""
        if connection in self._reauths:
            connection.session.send(_BUSY)
            return
        self._reauths.add(connection)

        def told(answer: Identity | Refusal) -> None:
            self._reauths.discard(connection)
            if connection.is_open():
                outcome = judge_token(self._edge.with_answer(answer), token, None)
                assert not isinstance(outcome, Asked)
                self._settle_reauth(connection, outcome)
                connection.flush()

        asked.then(told)

    def _settle_reauth(self, connection: Connection, outcome: Identity | Refusal) -> None:
        session = connection.session
        if isinstance(outcome, Refusal):
            connection.session.send(frames.encode(ErrorFrame(outcome.code)))
            if outcome is Refusals.REVOKED:
                connection.close(Closes.REVOKED.code, Closes.REVOKED.reason)
            return
        same = (outcome.tenant, outcome.user, outcome.device or session.device)
        if same != (session.tenant, session.user, session.device):
            connection.session.send(frames.encode(ErrorFrame("device_mismatch")))
            return
        self.reauthenticated(connection, outcome)


def bad_frame(connection: Connection) -> None:
    """Tell the client; the session counts and closes at the third."""
    telemetry.BAD_FRAMES.inc()
    connection.session.send(_BAD_FRAME)
    connection.session.bad_frame()


def _ident(text: str) -> bytes:
    """The 16 bytes of a UUID text; any version: only ids we wrote can match. Raises InvalidInput."""
    if len(text) == _TEXT_CHARS:
        try:
            ident = bytes.fromhex(text.replace("-", ""))
        except ValueError:
            ident = b""
        if len(ident) == 16:
            return ident
    raise InvalidInput("ids", "must be UUIDs")


def _nobody(connection: Connection, identity: Identity) -> None:
    """Stands in until the owner of the timers listens."""
