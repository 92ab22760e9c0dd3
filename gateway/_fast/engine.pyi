"""The engine: WebSocket connections on the sockets of socket_set, without asyncio transports."""

from typing import Any

from gateway._fast.carrier import Policy
from gateway._fast.doors import Doorkeeper, Doors
from gateway._fast.peers import Peers
from gateway._fast.session import Session

# (code, reason) of codes.Closes, which this package does not import.
INTERNAL: tuple[int, str]

class Engine(Doors):
    """Accepts, reads, writes and closes for one process."""

    def __init__(
        self,
        loop: Any,
        policy: Policy,
        doorkeeper: Doorkeeper,
        sockets_max: int,
        head_deadline_ms: int,
        peers: Peers | None = None,
        proxied: bool = False,
    ) -> None: ...
    def connections(self) -> int:
        """Sockets past the upgrade."""
    def upgrade(self, handle: int, data: bytes, ready: object) -> bool:
        """Send the 101 and make a connection of the socket: opened() comes within this call. False: stale."""

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
