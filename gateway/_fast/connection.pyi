"""The picows carrier: adapts a Session to a WebSocket transport (uvloop's, 2 KB read buffer)."""

from typing import Any

from picows import WSListener

from gateway._fast.carrier import Policy
from gateway._fast.peers import Peers
from gateway._fast.session import Session

class Connection(WSListener):
    """A gateway._fast.carrier.Connection. At a fault in a frame header picows sends the
    close frame: then is_open() is False without a close of ours."""

    session: Session
    peer: str  # empty before the upgrade
    opened_ms: int
    deadline_ms: int
    ready: Any
    state: Any

    def __init__(self, policy: Policy, now_ms: int, peers: Peers | None = None, ticket: int = ...) -> None:
        """`ticket`: of the client's address in `peers`; given back when the socket is gone. ValueError: none of
        `peers`."""
    def flush(self) -> None: ...
    def congested(self) -> bool: ...
    def close(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...
    def is_open(self) -> bool: ...
