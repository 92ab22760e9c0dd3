"""Pings and their answers: what the wheel finds due of a connection where nothing else happens."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from gateway._fast.carrier import Connection
from gateway._fast.wheel import Wheel

class _Due(Protocol):
    """What stands on the wheel: connections, and what has no `session`."""

    deadline_ms: int

T = TypeVar("T", bound=_Due)

class Pulse(Generic[T]):
    """Each authenticated connection is pinged once per `heartbeat_ms`, at a phase of its own, and looked at when
    its pong is due. `answered` hears each round trip in ms. Times are monotonic ms."""

    def __init__(
        self,
        wheel: Wheel[T],
        answered: Callable[[int], None],
        heartbeat_ms: int,
        auth_deadline_ms: int,
        close_deadline_ms: int,
    ) -> None: ...
    def arm(self, connection: Connection, now_ms: int) -> None:
        """Set the connection's next deadline from its state, after any change of it, and put it on the wheel: the
        end of auth or close, else the earliest of next ping, due pong and the token's end."""
    def beat(self, now_ms: int) -> list[T]:
        """Advance the wheel and ping whose time has come; of whom it looks at, it notes who answered since.
        The others that are due: no connection, or one that is not open, not authenticated, without a good token or
        without its pong. They are on the wheel no more."""
    def take(self) -> list[bytes]:
        """What was noted since the last call: MessagePack arrays of (names.client_id, round trip in ms), each of at
        most HEALTH_PING_CLIENTS_MAX."""
