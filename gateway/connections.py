"""The policy of connections: from the open socket through authentication to the end.

One object per process; the carrier calls it (gateway/_fast/carrier.py, Policy).
"""

from collections import Counter
from typing import Final

import structlog

from gateway._fast.carrier import Connection
from gateway._fast.registry import Registry
from gateway._fast.session import AWAIT_AUTH, CLOSING
from gateway.audiences import Audiences
from gateway.caps import Caps
from gateway.clock import now_ms, unix_ms
from gateway.commands import Commands, bad_frame
from gateway.edge import Edge
from gateway.handshake import Accepted, judge_token
from gateway.outbound import Outbound
from gateway.presence import Presence
from gateway.replacement import EPOCH_MAX, replace
from gateway.resume import Resume
from gateway.revocations import token_digest, whole_s
from gateway.timers import Timers
from gateway.tokens import Asked, Identity
from notification import frames, telemetry
from notification.codes import Close, Closes, Refusal, Refusals
from notification.errors import InvalidInput
from notification.frames import Auth, Cursor, ErrorFrame
from notification.ids import check_token, new_uuid7_bytes
from notification.names import user_tag

_log = structlog.get_logger("connections")

# How a refused token is closed once the 101 is out: (close, when trying again makes sense).
_REFUSED: Final[dict[Refusal, tuple[Close, int | None]]] = {
    Refusals.UNAUTHENTICATED: (Closes.TOKEN_EXPIRED, None),
    Refusals.REVOKED: (Closes.REVOKED, None),
    Refusals.FORBIDDEN_ORIGIN: (Closes.REVOKED, None),
    Refusals.SUSPENDED: (Closes.REVOKED, None),
    Refusals.TENANT_UNKNOWN_YET: (Closes.DRAIN, 1_000),
    Refusals.KEY_UNKNOWN_YET: (Closes.DRAIN, 1_000),
    Refusals.AUTH_UNAVAILABLE: (Closes.DRAIN, 1_000),
    Refusals.TOO_MANY: (Closes.TOO_FAST, 5_000),
}
# After these of our closes the device is on its way back; any other close handshake means it is offline.
_COMING_BACK: Final = (Closes.DRAIN.code, Closes.TOKEN_EXPIRED.code)
_ABNORMAL: Final = 1006  # RFC 6455 §7.4.1: no close frame was exchanged


class _Authenticating:
    """`connection.state` while an auth frame may come, or waits for a newer edge snapshot or an AuthService."""

    __slots__ = ("cursor", "device", "origin", "waiting")

    def __init__(self, accepted: Accepted) -> None:
        self.device = accepted.device
        self.cursor = accepted.cursor
        self.origin = accepted.origin
        self.waiting = False


class Connections:
    """Opens, authenticates, replaces and closes connections."""

    def __init__(
        self, registry: Registry[Connection], edge: Edge, presence: Presence, outbound: Outbound, resume: Resume,
        commands: Commands, timers: Timers, caps: Caps, audiences: Audiences,
    ) -> None:  # fmt: skip
        self._registry = registry
        self._audiences = audiences
        self._edge = edge
        self._presence = presence
        self._outbound = outbound
        self.acks = outbound.acks
        self._resume = resume
        self._commands = commands
        self._timers = timers
        self._caps = caps
        self._count = 0
        self._connects = 0  # not in the metrics yet, as the next
        self._closes: Counter[int] = Counter()
        self.draining = False
        commands.reauthenticated = self._reauthenticated
        resume.release = self._release

    def count(self) -> int:
        """Open sockets past the upgrade, authenticated or not."""
        return self._count

    def settle(self) -> None:
        """Bring the metrics up to date. (A metric's own inc() costs over a microsecond: too much per connect.)"""
        telemetry.CONNECTIONS.set(self._count)
        connects, self._connects = self._connects, 0
        telemetry.CONNECTS.inc(connects)
        closes, self._closes = self._closes, Counter()
        for code, count in closes.items():
            telemetry.CLOSES.labels(_code_label(code)).inc(count)

    # --- the carrier's calls ------------------------------------------------
    def opened(self, connection: Connection) -> None:
        self._count += 1
        accepted = connection.ready
        assert isinstance(accepted, Accepted)
        if accepted.refusal is not None:
            self._refuse(connection, accepted.refusal)
        elif accepted.identity is not None:
            self._admit(connection, accepted.identity, accepted.device, accepted.cursor)
        else:
            connection.state = _Authenticating(accepted)
            self._timers.arm(connection)

    def message(self, connection: Connection, text: bytes) -> None:
        if connection.session.phase == AWAIT_AUTH:
            self._authenticate(connection, text)
        elif connection.session.phase < CLOSING and not self._resume.hold(connection, text):
            self._commands.handle(connection, text)

    def acked(self, connection: Connection) -> None:
        self._resume.nudge(connection)

    def writable(self, connection: Connection) -> None:
        self._resume.nudge(connection)

    def closed(self, connection: Connection, clean: bool) -> None:
        self._count -= 1
        connection.state = None
        session = connection.session
        code = session.close_code or _ABNORMAL
        self._closes[code] += 1
        if not session.tag:
            return
        self._caps.left(session.tenant)
        self._audiences.leave(connection)
        self._outbound.closed(session, code)
        if not self._registry.remove(session.tag, connection):
            return  # replaced: the entry belongs to the newer connection
        if self.draining or not clean or session.close_code in _COMING_BACK:
            self._presence.reconnecting(connection)
        else:
            self._presence.offline(connection)

    # --- authentication -----------------------------------------------------
    def _authenticate(self, connection: Connection, text: bytes) -> None:
        state = connection.state
        assert isinstance(state, _Authenticating)
        try:
            frame = frames.decode_client(text)
            if not isinstance(frame, Auth) or state.waiting:
                raise InvalidInput("frame", "auth comes first, once")
            if frame.device is not None:
                state.device = check_token(frame.device, "device")
            if frame.cursor is not None:
                state.cursor = frames.check_cursor(frame.cursor)
        except InvalidInput:
            bad_frame(connection)
            return
        self._judge(connection, state, frame.token)

    def _judge(self, connection: Connection, state: _Authenticating, token: str) -> None:
        outcome = judge_token(self._edge.of(connection.peer), token, state.origin)
        if isinstance(outcome, Asked):
            self._await(connection, state, token, outcome)
        elif outcome is Refusals.TENANT_UNKNOWN_YET and self._edge.known:
            self._authenticate_later(connection, state, token)
        else:
            self._settle(connection, state, outcome)

    def _await(self, connection: Connection, state: _Authenticating, token: str, asked: Asked) -> None:
        """The AuthService was asked about the token. The auth deadline bounds the wait."""
        state.waiting = True

        def told(answer: Identity | Refusal) -> None:
            if connection.is_open() and connection.state is state:
                outcome = judge_token(self._edge.with_answer(answer), token, state.origin)
                assert not isinstance(outcome, Asked)
                self._settle(connection, state, outcome)
                connection.flush()

        asked.then(told)

    def _authenticate_later(self, connection: Connection, state: _Authenticating, token: str) -> None:
        """An issuer we do not know: a newer snapshot may. The auth deadline bounds the wait."""
        state.waiting = True

        def refreshed(answered: object) -> None:
            if not connection.is_open() or connection.state is not state:
                return
            outcome = judge_token(self._edge.of(connection.peer), token, state.origin)
            if isinstance(outcome, Asked):
                self._await(connection, state, token, outcome)
                return
            if outcome is Refusals.TENANT_UNKNOWN_YET and refresh.result():
                outcome = Refusals.UNAUTHENTICATED
            self._settle(connection, state, outcome)
            connection.flush()

        refresh = self._edge.refresh()
        refresh.add_done_callback(refreshed)

    def _settle(self, connection: Connection, state: _Authenticating, outcome: Identity | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self._refuse(connection, outcome)
        elif self._caps.full(outcome.tenant):
            self._refuse(connection, Refusals.TOO_MANY)
        else:
            self._admit(connection, outcome, state.device, state.cursor)

    def _refuse(self, connection: Connection, refusal: Refusal) -> None:
        """What a browser can see of a refusal: an error frame, then the close."""
        telemetry.REFUSALS.labels(refusal.code).inc()
        close, retry_ms = _REFUSED[refusal]
        connection.session.send(frames.encode(ErrorFrame(refusal.code, retry_ms)))
        connection.close(close.code, close.reason)

    def _admit(self, connection: Connection, identity: Identity, device: str | None, cursor: Cursor | None) -> None:
        # Since the door looked; the eviction that followed did not see this one.
        if (refusal := self._edge.refusal(identity)) is not None:
            self._refuse(connection, refusal)
            return
        epoch = unix_ms()
        session_id = new_uuid7_bytes(epoch)
        # Without a name the device lives as long as its connection.
        device = identity.device or device or session_id.hex()
        tag = user_tag(identity.tenant, identity.user).encode("ascii")
        if self._registry.find(tag):
            epoch = max(epoch, replace(self._registry, tag, device, EPOCH_MAX) + 1)
        connection.session.authenticate(
            identity.tenant, identity.user, device, session_id, tag, epoch, _monotonic_ms(identity.expiry_s)
        )
        _remember_token(connection, identity)
        connection.state = None
        self._caps.joined(identity.tenant)
        self._registry.add(tag, connection)
        self._audiences.join(connection)
        if not self.draining:
            self._resume.begin(connection, cursor)
        self._presence.online(connection)
        self._outbound.opened(connection.session)
        self._connects += 1
        self._timers.arm(connection)
        if self.draining:
            connection.close(Closes.DRAIN.code, Closes.DRAIN.reason)

    def _release(self, connection: Connection, held: list[bytes]) -> None:
        for text in held:
            if connection.session.phase < CLOSING:
                self._commands.handle(connection, text)

    def _reauthenticated(self, connection: Connection, identity: Identity) -> None:
        connection.session.token_expiry_ms = _monotonic_ms(identity.expiry_s)
        _remember_token(connection, identity)
        self._timers.arm(connection)


def _remember_token(connection: Connection, identity: Identity) -> None:
    """What a later revocation is compared with."""
    connection.session.token_issued_s = whole_s(identity.issued_s)
    connection.session.token_digest = token_digest(identity.tenant, identity.jti)


def _monotonic_ms(expiry_s: float) -> int:
    return now_ms() + int(expiry_s * 1_000) - unix_ms()


def _code_label(code: int) -> str:
    """Clients choose among thousands of codes; a metric label may not."""
    return str(code) if code in _CODES or code == _ABNORMAL else "other"


_CODES: Final = frozenset(value.code for value in vars(Closes).values() if isinstance(value, Close)) | {1001}
