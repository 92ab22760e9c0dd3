"""The engine's doors: what an accepted socket is until its request is judged."""

from typing import Any, Protocol

from gateway._fast.peers import Peers
from gateway._fast.socket_set import SocketSet
from gateway._fast.upgrade import Parsed

# Statuses of codes.Refusals, which this package does not import.
MALFORMED: int  # 400
TOO_MANY: int  # 429

class Doorkeeper(Protocol):
    """Judges requests. Each call must sooner or later be followed by answer() or upgrade() with its handle; the
    head deadline and the client's end make the handle stale."""

    def request(self, handle: int, outcome: Parsed | int) -> None:
        """A whole head, or the status it is refused with: upgrade.parse's; MALFORMED for a PROXY header that is
        none, and where only trusted proxies may connect; TOO_MANY for an address that holds too many sockets."""
    def overloaded(self, handle: int) -> None:
        """Accepted above sockets_max; nothing was read."""
    def flooding(self) -> None:
        """A socket was dropped unanswered: its address holds twice what it may. No handle, nothing to answer."""

class Doors(SocketSet):
    """Accepted sockets before the upgrade."""

    def __init__(
        self,
        loop: Any,
        doorkeeper: Doorkeeper,
        sockets_max: int,
        head_deadline_ms: int,
        peers: Peers | None = None,
        proxied: bool = False,
    ) -> None:
        """`peers` counts the sockets of each address; None: nobody is counted or trusted. `proxied`: every
        connection begins with a PROXY header, and only proxies that `peers` trusts may connect."""
    def peer(self, handle: int) -> str:
        """The client's address as far as it is known: claimed, of the PROXY header, or the socket's. "": stale."""
    def claim(self, handle: int, address: str) -> bool:
        """The client of this door is another than its socket's peer: its address counts, and is the connection's
        `peer`. False: that address holds too many sockets. True for a stale handle and what is no address."""
    def answer(self, handle: int, data: bytes) -> bool:
        """Send a response and end the socket. False: the handle is stale."""
