"""What a client of the engine should hear, from the twins of its parts."""

from notification.codes import Closes
from notification.limits import FRAME_BYTES_MAX
from tests.reference import framing as framing_twin
from tests.reference import proxy as proxy_twin
from tests.reference import session as session_twin
from tests.reference import upgrade as upgrade_twin

SWITCHED = b"101\r\n\r\n"
BYE = (4409, "bye")
_TAIL_BYTES_MAX = FRAME_BYTES_MAX + 14  # what may follow the head at once


class Model:
    """`heard` grows with what is received; `unsure` once the clock or a reset decides it."""

    def __init__(self, proxied: bool = False) -> None:
        self.heard = b""
        self.unsure = False
        self._proxied = proxied  # a PROXY header is still to come
        self._held = b""
        self._session: session_twin.Session | None = None
        self._ended = False

    def receive(self, piece: bytes) -> None:
        """One read of the server's."""
        if self._ended:
            return
        self._held += piece
        if self._proxied and not self._proxy_header():
            return
        if self._session is None:
            end = upgrade_twin.head_end(self._held)
            if end == 0:
                return
            found = upgrade_twin.parse(self._held[: end - 4]) if end > 0 else -end
            if end > 0 and len(self._held) - end > _TAIL_BYTES_MAX:
                found = upgrade_twin.MALFORMED
            if isinstance(found, int):
                self.heard, self._ended = b"%d" % found, True
                return
            self.heard = SWITCHED
            self._session = session_twin.Session(0)
            self._session.authenticate("t", "u", "d", bytes(16), b"t:dQ", 1, 0)
            self._held = self._held[end:]
        self._frames(self._session)

    def _proxy_header(self) -> bool:
        """Whether it is over and a head may follow."""
        used, _ = proxy_twin.parse(self._held)
        if used < 0:
            self.heard, self._ended = b"%d" % -used, True
        if used <= 0:
            return False
        self._proxied, self._held = False, self._held[used:]
        return bool(self._held)

    def _frames(self, session: session_twin.Session) -> None:
        while self._held and session.phase != session_twin.CLOSED and not session.close_received:
            frame = framing_twin.read_frame(self._held, FRAME_BYTES_MAX)
            if frame == 0:
                break
            if isinstance(frame, int):
                fault = Closes.PROTOCOL_ERROR if frame == -Closes.PROTOCOL_ERROR.code else Closes.TOO_BIG
                self._fault(session, fault.code, fault.reason)
                return
            opcode, fin, rsv, payload, used = frame
            self._held = self._held[used:]
            text = session.feed(opcode, fin, rsv, payload, 0)
            if text is None:
                continue
            if text[:1] == b"a":
                self.unsure = self._ended = True
                return
            if text[:1] == b"c":
                session.close(*BYE)
                self.heard += session.take()
            elif text[:1] == b"r":
                self._fault(session, Closes.INTERNAL.code, Closes.INTERNAL.reason)
                return
            else:
                session.send(text)
        self.heard += session.take()
        self._ended = session.phase == session_twin.CLOSED
        self.unsure = self.unsure or session.close_code == Closes.TOO_FAST.code

    def _fault(self, session: session_twin.Session, code: int, reason: str) -> None:
        session.close(code, reason)
        self.heard += session.take()
        self._ended = True
