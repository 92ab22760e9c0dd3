"""What a carrier shows to the gateway's policy, and what it asks of it. Types only: both carriers satisfy them.

A carrier moves bytes between sockets and sessions: `connection` through picows and uvloop's transports, `engine`
through an epoll set of its own.
"""

from typing import Any, Protocol

from gateway._fast.acks import Acks
from gateway._fast.session import Session


class Connection(Protocol):
    """One socket past the upgrade. `session` is its state; `deadline_ms` belongs to the process's timer wheel.

    Its clock is CLOCK_MONOTONIC in ms (time.monotonic_ns() // 1_000_000). Once our close frame is flushed, the
    socket is dropped when the peer has answered, at the latest CLOSE_DEADLINE_MS later, without a call from
    outside.
    """

    deadline_ms: int
    ready: Any  # what the door decided (identity, cursor) before the upgrade; cleared after opened()
    state: Any  # the policy's own record of this connection; None at first
    peer: str  # client address; the socket's own unless somebody knew better

    @property
    def session(self) -> Session: ...

    @property
    def opened_ms(self) -> int:
        """When the socket was accepted."""

    def flush(self) -> None:
        """One write of everything the session queued. Nothing on a dead socket. What the socket does not take waits
        in the session, HIGH before MEDIUM before LOW, but no longer than UNSENT_MS_MAX (Session.put_back); with
        WRITE_BUFFER_BYTES_MAX more than when it became congested the socket is aborted (TOO_SLOW). Not needed
        inside message(), opened() and writable(): the connection flushes after them."""

    def congested(self) -> bool:
        """What waits went above WRITE_BUFFER_BYTES_MAX and is not below a quarter of it yet: lanes wait in the log
        (session.blocked)."""

    def close(self, code: int, reason: str) -> None:
        """Queue our close frame and flush. ValueError: `code` may not be sent."""

    def abort(self) -> None:
        """Drop the socket now, unsent bytes with it. closed() follows, but not within this call."""

    def is_open(self) -> bool:
        """Connected, and no close is queued, sent or received. False on a socket that stays: abort() it."""


class Policy(Protocol):
    """What a carrier calls; one object per process. None of these may raise or block.

    `acks` takes acks in their usual form from a LIVE connection without `state`, which is what nearly every message
    is; message() gets all others.
    """

    acks: Acks

    def opened(self, connection: Connection) -> None: ...

    def message(self, connection: Connection, text: bytes) -> None:
        """A whole text message (already rate-limited and valid UTF-8)."""

    def acked(self, connection: Connection) -> None:
        """Acks that message() did not see made room, and the session wants more."""

    def writable(self, connection: Connection) -> None:
        """The socket drained: below its low-water mark, or wholly while `state` is set; or it takes bytes again,
        and what had waited for that too long went back to the log."""

    def closed(self, connection: Connection, clean: bool) -> None:
        """The socket is gone; `clean` = a close handshake happened. Called exactly once."""
