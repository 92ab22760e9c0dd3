"""The sockets of one process in an epoll set of its own, below uvloop; what they are before they are WebSockets."""

from typing import Any

class SocketSet:
    """Call its methods from the event loop only. Doors and Engine say what becomes of the sockets."""

    sockets_max: int  # accepted sockets above this are overloaded
    head_deadline_ms: int  # from accept to the answer or the upgrade

    def __init__(self, loop: Any, sockets_max: int, head_deadline_ms: int) -> None:
        """`loop`: an asyncio.AbstractEventLoop. OSError: no descriptor for the epoll set."""
    def listen(self, sock: Any) -> None:
        """Accept from a listening, non-blocking socket.socket, which is the set's from now on. TCP_NODELAY is set
        on it: accepted ones inherit it."""
    def stop_listening(self) -> None:
        """Accept what the kernel has accepted for us already, then close the listening socket."""
    def close(self) -> None:
        """Drop every socket, tell the policy, leave the loop. Nothing may be called afterwards but close()."""
    def doors(self) -> int:
        """Sockets that are no connection: before the upgrade, or sending their last bytes."""
    def turn(self) -> None:
        """What the loop calls when the epoll set has events; at most ENGINE_EVENTS_COUNT_MAX of them."""
