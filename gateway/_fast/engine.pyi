"""The engine: sockets of one process in an epoll set of its own, below uvloop."""

import asyncio
import socket
from typing import Any, Protocol

from gateway._fast.carrier import Policy
from gateway._fast.session import Session
from gateway._fast.upgrade import Parsed

TOO_SLOW: tuple[int, str]  # (code, reason) of codes.Closes, which this package does not import
INTERNAL: tuple[int, str]

class Doorkeeper(Protocol):
    """Judges requests. Each call must sooner or later be followed by answer() or upgrade() with its handle; the
    head deadline and the client's end make the handle stale."""

    def request(self, handle: int, outcome: Parsed | int) -> None:
        """A whole head, or the status it is refused with (upgrade.parse)."""
    def overloaded(self, handle: int) -> None:
        """Accepted above sockets_max; nothing was read."""

class Engine:
    """Accepts, reads, writes and closes for one process; call its methods from the event loop only."""

    sockets_max: int  # accepted sockets above this are overloaded
    head_deadline_ms: int  # from accept to the answer or the upgrade

    def __init__(
        self, loop: asyncio.AbstractEventLoop, policy: Policy, doorkeeper: Doorkeeper, sockets_max: int,
        head_deadline_ms: int,
    ) -> None:  # fmt: skip
        """OSError: no descriptor for the epoll set."""
    def listen(self, sock: socket.socket) -> None:
        """Accept from a listening, non-blocking socket. TCP_NODELAY is set on it: accepted ones inherit it."""
    def stop_listening(self) -> None:
        """Accept what the kernel has accepted for us already, then close the listening socket."""
    def close(self) -> None:
        """Drop every socket, tell the policy, leave the loop. Nothing may be called afterwards."""
    def doors(self) -> int:
        """Sockets that are no connection: before the upgrade, or sending their last bytes."""
    def connections(self) -> int:
        """Sockets past the upgrade."""
    def answer(self, handle: int, data: bytes) -> bool:
        """Send a response and end the socket. False: the handle is stale."""
    def upgrade(self, handle: int, data: bytes, ready: object) -> bool:
        """Send the 101 and make a connection of the socket: opened() comes within this call. False: stale."""
    def turn(self) -> None:
        """What the loop calls when the epoll set has events; at most EVENTS_PER_TURN_MAX of them."""

class EngineConnection:
    """A gateway._fast.carrier.Connection. Made by Engine.upgrade()."""

    session: Session
    ready: Any
    state: Any
    opened_ms: int
    deadline_ms: int
    peer: str
    def flush(self) -> None: ...
    def congested(self) -> bool: ...
    def close(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...
    def is_open(self) -> bool: ...
