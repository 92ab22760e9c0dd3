"""The picows carrier: adapts a Session to a WebSocket transport (uvloop's, 2 KB read buffer)."""

from typing import Protocol

from picows import WSListener

from gateway._fast.session import Session

class Policy(Protocol):
    """What a connection calls; one object per process. None of these may raise or block."""

    def opened(self, connection: "Connection") -> None: ...
    def message(self, connection: "Connection", text: bytes) -> None:
        """A whole text message (already rate-limited and valid UTF-8)."""
    def writable(self, connection: "Connection") -> None:
        """The socket drained below its low-water mark."""
    def closed(self, connection: "Connection", clean: bool) -> None:
        """The socket is gone; `clean` = a close handshake happened. Called exactly once."""

class Connection(WSListener):
    """One socket. `session` is its state; `deadline_ms` belongs to the process's timer wheel."""

    session: Session
    peer: str
    opened_ms: int
    deadline_ms: int
    ready: object  # what the door decided (identity, cursor) before the upgrade; cleared after opened()

    def __init__(self, policy: Policy, now_ms: int) -> None: ...
    def flush(self) -> None:
        """One write of everything the session queued. Nothing on a dead socket; aborts it above
        WRITE_BUFFER_BYTES_MAX of pings and control frames unsent."""
    def congested(self) -> bool:
        """The socket's buffer is above its high-water mark: lanes must wait in the log."""
    def close(self, code: int, reason: str) -> None:
        """Queue our close frame and flush."""
    def abort(self) -> None:
        """Drop the socket now."""
    def is_open(self) -> bool: ...
