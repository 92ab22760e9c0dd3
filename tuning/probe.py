"""Opening connections for real, on loopback: they wait in the backlog all at once, then are accepted.

A child process is the clients, so that each side has one descriptor per connection. Nothing is sent; every
socket is reset at the end, so that no TIME_WAIT is left.
"""

import contextlib
import os
import resource
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final, NoReturn

from tuning.errors import TuneError
from tuning.settings import BACKLOG

_RESERVED: Final = 64  # descriptors for everything else
_CONNECT_S_MAX: Final = 3.0  # a SYN that finds the backlog full is not answered
_ACCEPT_S_MAX: Final = 3.0
_ORDER: Final = struct.Struct("HxxI")
_ANSWER: Final = struct.Struct("I")
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER
_INFO_BYTES: Final = 32
_INFO_WAITING: Final = struct.Struct("24xII")  # tcp_info of a listener: how many wait, how many may


@dataclass(frozen=True)
class Opened:
    """What came of it."""

    asked: int
    tried: int
    """Fewer than asked where the descriptor limit ends it."""
    connected: int
    accepted: int
    backlog: int
    """What the kernel made of a backlog of 16,384."""
    waited_most: int
    """Connects that waited at the same time."""
    seconds: float

    def whole(self) -> bool:
        """Everything asked for was opened."""
        return self.accepted == self.asked


def open_connections(count: int) -> Opened:
    """At most 16,384 wait at a time, each such part on a port of its own. Raises TuneError."""
    tried = min(count, _descriptors(count + _RESERVED) - _RESERVED)
    if tried <= 0:
        raise TuneError("the descriptor limit leaves none for connections: ulimit -n")
    started = time.monotonic()
    accepted: list[socket.socket] = []
    connected = backlog = waited_most = 0
    clients = _Clients()
    try:
        while connected < tried:
            part = min(BACKLOG, tried - connected)
            with _listen() as server:
                came = clients.connect(server.getsockname()[1], part)
                connected += came
                waiting, backlog = _waiting(server, came)
                waited_most = max(waited_most, waiting)
                accepted += _accept(server, came)
            if came < part:
                break
    except OSError as error:
        raise TuneError(f"no connections on loopback: {error.strerror or error}") from error
    finally:
        clients.end()
        for sock in accepted:
            sock.close()
    return Opened(count, tried, connected, len(accepted), backlog, waited_most, time.monotonic() - started)


def _descriptors(wanted: int) -> int:
    """Raise the limit as far as this user may; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    with contextlib.suppress(OSError, ValueError):  # not root, or fs.nr_open is lower: then what there is
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _listen() -> socket.socket:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(BACKLOG)
    server.settimeout(_ACCEPT_S_MAX)
    return server


def _waiting(server: socket.socket, came: int) -> tuple[int, int]:
    """How many wait in the backlog, once all that came are there; how many may."""
    until = time.monotonic() + _CONNECT_S_MAX
    while True:
        info = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        waiting, most = _INFO_WAITING.unpack(info)
        if waiting >= came or time.monotonic() > until:
            return waiting, most
        time.sleep(0.01)


def _accept(server: socket.socket, count: int) -> list[socket.socket]:
    """As many as come in time; the others are missed by the count."""
    accepted: list[socket.socket] = []
    with contextlib.suppress(TimeoutError):
        while len(accepted) < count:
            accepted.append(server.accept()[0])
    return accepted


class _Clients:
    """The child: told a port and a number, it connects and says how many came in; at the end it resets them all."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._line.close()
            _be_clients(theirs)
        theirs.close()

    def connect(self, port: int, count: int) -> int:
        self._line.sendall(_ORDER.pack(port, count))
        answer = self._line.recv(_ANSWER.size, socket.MSG_WAITALL)
        if len(answer) < _ANSWER.size:
            raise TuneError("the clients' process ended before its work was done")
        return int(_ANSWER.unpack(answer)[0])

    def end(self) -> None:
        self._line.close()
        os.waitpid(self._pid, 0)


def _be_clients(line: socket.socket) -> NoReturn:
    """The child's whole life; it never returns into the parent's code."""
    sockets: list[socket.socket] = []
    try:
        while order := line.recv(_ORDER.size, socket.MSG_WAITALL):
            port, count = _ORDER.unpack(order)
            came = _connect(port, count)
            sockets += came
            line.sendall(_ANSWER.pack(len(came)))
    finally:
        os._exit(0)  # closes every socket, each by a reset


def _connect(port: int, count: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    with contextlib.suppress(OSError):  # the backlog is full, or the descriptors are spent: the count tells
        for _ in range(count):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.settimeout(_CONNECT_S_MAX)
            client.connect(("127.0.0.1", port))
            sockets.append(client)
    return sockets
