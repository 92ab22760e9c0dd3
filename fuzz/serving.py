"""An engine for targets that talk to it over sockets: its loop, its doorkeeper and policy, its listening socket.

The policy echoes; a text that begins with one of b"acr" makes it abort, close or raise.
"""

import os
import select
import socket
import struct
from collections.abc import Callable

from fuzz.model import BYE, SWITCHED, Model
from fuzz.target import same
from gateway._fast.acks import Acks
from gateway._fast.carrier import Connection
from gateway._fast.engine import Engine
from gateway._fast.peers import Peers
from gateway._fast.upgrade import Parsed
from notification.limits import UPGRADE_HOLD_MS

PIECES_MAX = 40
WAIT_S = 10.0  # for the kernel to carry bytes from one socket to the other
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # leaves no port in TIME_WAIT
_buffer = bytearray(65_536)


class _Loop:
    """As much of an event loop as the engine asks for; turns are made by hand."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.errors: list[BaseException] = []
        self.descriptor = -1

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self.descriptor = descriptor

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> "_Loop":
        if delay_s == UPGRADE_HOLD_MS / 1_000:  # a 101 waits for the first frame: here until the turn's end
            self.soon.append(callback)
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
        raise AssertionError("nobody is counted")

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


class Server:
    """One engine for all inputs: on a Unix socket, or behind a PROXY balancer on loopback."""

    def __init__(self, proxied: bool) -> None:
        self.proxied = proxied
        self._loop, gateway = _Loop(), _Gateway()
        sock = socket.socket(socket.AF_INET if proxied else socket.AF_UNIX)
        sock.bind(("127.0.0.1", 0) if proxied else f"\0herald-fuzz-{os.getpid()}")
        sock.listen()
        sock.setblocking(False)
        self._family, self._address = sock.family, sock.getsockname()
        peers = Peers([(b"\x7f\0\0\0", 8)], 0)
        self._engine = gateway.engine = Engine(self._loop, gateway, gateway, 1_000, 5_000, peers, proxied)
        self._engine.listen(sock)

    def exchange(self, stream: bytes, size: int) -> None:
        """Send a stream in pieces of `size`, and compare what is heard with the model."""
        model, heard = Model(self.proxied), b""
        with socket.socket(self._family) as sock:
            sock.connect(self._address)
            sock.setblocking(False)
            if self.proxied:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._turn(True)
            for piece in pieces(stream, size):
                try:
                    sock.send(piece)
                except (BrokenPipeError, ConnectionResetError):
                    break
                self._turn(self._sockets() > 0)
                model.receive(piece)
                heard += _hear(sock, 0 if model.unsure else len(model.heard) - len(heard))
        self._turn(self._sockets() > 0)
        assert self._sockets() == 0
        if not model.unsure:
            same("heard", heard, model.heard)

    def _sockets(self) -> int:
        return self._engine.doors() + self._engine.connections()

    def _turn(self, waits: bool) -> None:
        """What the loop would do; with `waits`, once a socket has something."""
        if waits:
            select.select([self._loop.descriptor], [], [], WAIT_S)
        self._engine.turn()
        while self._loop.soon:
            self._loop.soon.pop()()
        if self._loop.errors:
            raise self._loop.errors.pop()


def pieces(stream: bytes, size: int) -> list[bytes]:
    """Pieces of `size` bytes; what is left after PIECES_MAX of them comes at once."""
    ends = [*range(size, len(stream), size)][:PIECES_MAX]
    pairs = zip([0, *ends], [*ends, len(stream)], strict=True)
    return [stream[start:end] for start, end in pairs if end > start]


def _hear(sock: socket.socket, count: int) -> bytes:
    """What is there; at least `count` bytes if they come at all."""
    heard = b""
    try:
        while True:
            if len(heard) < count:
                select.select([sock], [], [], WAIT_S)
            got = sock.recv_into(_buffer)
            if not got:
                return heard
            heard += _buffer[:got]
    except (BlockingIOError, ConnectionResetError):
        return heard
