"""The engine over real sockets: bytes in any pieces, and a client hears what the twins would say.

One byte leads: its low bits say how large the pieces are, its high bit puts a good request in front. The policy
echoes; a text that begins with one of b"acr" makes it abort, close or raise.
"""

import os
import socket
from collections.abc import Callable

from fuzz.target import Target, same
from gateway._fast.acks import Acks
from gateway._fast.carrier import Connection
from gateway._fast.engine import Engine
from gateway._fast.upgrade import Parsed
from notification.codes import Closes
from notification.limits import FRAME_BYTES_MAX, HEADER_BYTES_MAX
from tests.reference import framing as framing_twin
from tests.reference import session as session_twin
from tests.reference import upgrade as upgrade_twin

HEAD = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = b"101\r\n\r\n"
BYE = (4409, "bye")
PIECES_MAX = 40
_TAIL_BYTES_MAX = FRAME_BYTES_MAX + 14  # socket_set: what may follow the head at once


class _Loop:
    """As much of an event loop as the engine asks for; turns are made by hand."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.errors: list[BaseException] = []

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None: ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> "_Loop":
        return self

    def cancel(self) -> None: ...

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_exception_handler(self, context: dict[str, object]) -> None:
        error = context["exception"]
        assert isinstance(error, BaseException)
        if not isinstance(error, ZeroDivisionError):
            self.errors.append(error)


class _Gateway:
    """Doorkeeper and policy."""

    engine: Engine
    acks = Acks()

    def request(self, handle: int, found: Parsed | int) -> None:
        if isinstance(found, int):
            self.engine.answer(handle, b"%d" % found)
        else:
            self.engine.upgrade(handle, SWITCHED, found)

    def overloaded(self, handle: int) -> None:
        raise AssertionError("there is room")

    def flooding(self) -> None:
        raise AssertionError("a Unix socket has no address")

    def opened(self, connection: Connection) -> None:
        connection.session.authenticate("t", "u", "d", bytes(16), b"t:dQ", 1, 0)

    def message(self, connection: Connection, text: bytes) -> None:
        if text[:1] == b"a":
            connection.abort()
        elif text[:1] == b"c":
            connection.close(*BYE)
        elif text[:1] == b"r":
            raise ZeroDivisionError
        else:
            connection.session.send(text)

    def acked(self, connection: Connection) -> None:
        raise AssertionError("no session is live")

    def writable(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, clean: bool) -> None:
        connection.session.take()


class _Model:
    """What a client should hear, from the twins. `unsure` once the clock or a reset decides it."""

    def __init__(self) -> None:
        self.heard = b""
        self.unsure = False
        self._held = b""
        self._session: session_twin.Session | None = None
        self._ended = False

    def receive(self, piece: bytes) -> None:
        """One read of the server's."""
        if self._ended:
            return
        self._held += piece
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


class _Server:
    """One engine on a listening Unix socket for all inputs."""

    def __init__(self) -> None:
        self.loop, gateway = _Loop(), _Gateway()
        self.address = f"\0herald-fuzz-{os.getpid()}"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(self.address)
        sock.listen()
        sock.setblocking(False)
        self.engine = gateway.engine = Engine(self.loop, gateway, gateway, 1_000, 5_000)
        self.engine.listen(sock)

    def turn(self) -> None:
        self.engine.turn()
        while self.loop.soon:
            self.loop.soon.pop()()
        if self.loop.errors:
            raise self.loop.errors.pop()


_server: _Server | None = None
_buffer = bytearray(65_536)


def run(data: bytes) -> None:
    global _server  # made by the first input: importing this module opens nothing
    if _server is None:
        _server = _Server()
    kind, stream = (data[0], data[1:]) if data else (0, b"")
    stream = HEAD + stream if kind & 0x80 else stream
    size = (1, 2, 3, 7, 64, 1_000, 5_000, len(stream) or 1)[kind & 7]
    model, heard = _Model(), b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(_server.address)
        sock.setblocking(False)
        _server.turn()
        for piece in _pieces(stream, size):
            try:
                sock.send(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            _server.turn()
            model.receive(piece)
            heard += _hear(sock)
    _server.turn()
    assert (_server.engine.doors(), _server.engine.connections()) == (0, 0)
    if not model.unsure:
        same("heard", heard, model.heard)


def _pieces(stream: bytes, size: int) -> list[bytes]:
    """Pieces of `size` bytes; what is left after PIECES_MAX of them comes at once."""
    ends = [*range(size, len(stream), size)][:PIECES_MAX]
    pairs = zip([0, *ends], [*ends, len(stream)], strict=True)
    return [stream[start:end] for start, end in pairs if end > start]


def _hear(sock: socket.socket) -> bytes:
    heard = b""
    try:
        while count := sock.recv_into(_buffer):
            heard += _buffer[:count]
    except (BlockingIOError, ConnectionResetError):
        pass
    return heard


MASK = b"\0\0\0\0"
TARGET = Target(
    run,
    seeds=(
        b"\x07" + HEAD + b"\x81\x82" + MASK + b"{}",
        b"\x82\x01\x83" + MASK + b"\xe2\x82\xac\x80\x80" + MASK + b"\x89\x81" + MASK + b"p",
        b"\x87\x81\x81" + MASK + b"c\x81\x81" + MASK + b"x\x88\x82" + MASK + b"\x03\xe8",
        b"\x84\x81\x81" + MASK + b"a",
        b"\x87\x81\x81" + MASK + b"r\x81\x80" + MASK,
        b"\x05" + HEAD + b"\x81\xfe\x10\x00" + MASK + b"x" * 4_096,
        b"\x06GET / HTTP/1.1\r\nX: " + b"y" * HEADER_BYTES_MAX,
        b"\x87" + b"\x89\x80" + MASK,
    ),
    words=(
        MASK, b"\x81\x81" + MASK + b"a", b"\x81\x81" + MASK + b"c", b"\x81\x81" + MASK + b"r", b"\x89\x80" + MASK,
        b"\x01\x81" + MASK + b"x", b"\x80\x80" + MASK, b"\x88\x82" + MASK + b"\x03\xe8", b"\xff\x00\x00\x00",
        b"\r\n", b"\xfe\x40\x00", b"\r\n\r\n", HEAD,
    ),
    bytes_max=24_000,
)  # fmt: skip
