"""The picows carrier: adapts a Session to a WebSocket transport (uvloop's, 2 KB read buffer)."""

from typing import Protocol

from picows import WSListener

from gateway._fast.session import Session

TOO_SLOW: tuple[int, str]  # (code, reason) of codes.Closes, which this package does not import

class Policy(Protocol):
    """What a connection calls; one object per process. None of these may raise or block."""

    def opened(self, connection: Connection) -> None: ...
    def message(self, connection: Connection, text: bytes) -> None:
        """A whole text message (already rate-limited and valid UTF-8)."""
    def writable(self, connection: Connection) -> None:
        """The socket drained below its low-water mark."""
    def closed(self, connection: Connection, clean: bool) -> None:
        """The socket is gone; `clean` = a close handshake happened. Called exactly once."""

class Connection(WSListener):
    """One socket. `session` is its state; `deadline_ms` belongs to the process's timer wheel.

    Its clock is CLOCK_MONOTONIC in ms (time.monotonic_ns() // 1_000_000). Once our close frame is written, the
    socket is dropped when the peer has answered, at the latest CLOSE_DEADLINE_MS later, without a call from
    outside.
    """

    session: Session
    peer: str  # client address; the socket's own when still empty at the upgrade
    opened_ms: int
    deadline_ms: int
    ready: object  # what the door decided (identity, cursor) before the upgrade; cleared after opened()
    state: object  # the policy's own record of this connection; None at first

    def __init__(self, policy: Policy, now_ms: int) -> None: ...
    def flush(self) -> None:
        """One write of everything the session queued. Nothing on a dead socket. While congested it waits in the
        session (a close frame does not); more than WRITE_BUFFER_BYTES_MAX waiting aborts the socket (TOO_SLOW).
        Not needed inside message(), opened() and writable(): the connection flushes after them."""
    def congested(self) -> bool:
        """The socket's buffer is above its high-water mark: lanes wait in the log (session.blocked)."""
    def close(self, code: int, reason: str) -> None:
        """Queue our close frame and flush."""
    def abort(self) -> None:
        """Drop the socket now."""
    def is_open(self) -> bool:
        """Connected, and no close is queued, sent or received (picows sends one too, at a fault in a frame header).
        False on a socket that stays: abort() it."""
