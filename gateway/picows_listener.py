"""The picows carrier's door: uvloop accepts, the head is read here, picows has the socket after the decision.

The head is read here and not by picows, whose own refusals echo the input and know one status only. After the
101 decision picows gets a minimal upgrade request of ours, so that no token stays in its read buffer and Firefox'
`Connection: keep-alive, Upgrade` is no special case.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import picows.picows
import structlog
from picows import WSUpgradeRequest, WSUpgradeResponse
from picows.common import WSUpgradeResponseWithListener

from gateway import handshake
from gateway._fast import upgrade
from gateway._fast.carrier import Policy
from gateway._fast.connection import Connection
from gateway.clock import now_ms
from gateway.edge import Edge
from gateway.handshake import Accepted
from gateway.listener import Listener, Route
from notification.codes import Refusals
from notification.frames import SUBPROTOCOL
from notification.limits import (
    AUTH_DEADLINE_MS,
    CLOSE_DEADLINE_MS,
    FRAME_BYTES_MAX,
    HEADER_BYTES_MAX,
    LISTEN_BACKLOG,
    READ_BUFFER_BYTES,
)

_log = structlog.get_logger("picows_listener")

_TAIL_BYTES_MAX: Final = FRAME_BYTES_MAX  # frames a client may send before it saw our 101


class _QuietLogger:
    """What picows logs per connection would be a Logger object and several lines each: only faults pass."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 logging.Logger's name
        return False

    def debug(self, *args: object, **kwargs: object) -> None: ...

    info = log = warning = debug

    def error(self, message: str, *args: object, **kwargs: object) -> None:
        _log.warning("websocket_fault", what=message.split(":", 1)[0])

    def exception(self, message: str, *args: object, **kwargs: object) -> None:
        _log.exception("websocket_failure", what=message.split(":", 1)[0])


_QUIET: Final = _QuietLogger()


class Armed(Protocol):
    """The timer wheel's side that doors use."""

    def arm_door(self, door: "Door", due_ms: int) -> None: ...


class PicowsListener(Listener):
    """Accepts for one process through uvloop."""

    def __init__(
        self, policy: Policy, edge: Edge, routes: dict[str, Route], timers: Armed, connections: Callable[[], int]
    ) -> None:
        super().__init__(policy, edge, routes)
        self.timers = timers
        self.waiting: set[Door] = set()
        self._connections = connections
        # One buffer for all doors: the loop reads into it and calls buffer_updated before it reads again.
        self.buffer = memoryview(bytearray(HEADER_BYTES_MAX + 4))
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Door(self), sock=sock, backlog=LISTEN_BACKLOG
        )

    def doors(self) -> int:
        return len(self.waiting)

    def overloaded(self) -> bool:
        """Are there more sockets than the process has descriptors for?"""
        return self.doors() + self._connections() > self.sockets_max

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def end(self) -> None:
        for door in list(self.waiting):
            door.expire()


class Door(asyncio.BufferedProtocol):
    """One accepted socket until its request head is judged."""

    __slots__ = ("_answered", "_end", "_head", "_listener", "_opened_ms", "_transport", "deadline_ms")

    def __init__(self, listener: PicowsListener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._end = 0  # of the head, in _head; 0 = not seen yet
        self._answered = False
        self._opened_ms = 0
        self.deadline_ms = 0

    # --- asyncio's side -----------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the base class
        self._listener.waiting.add(self)
        self._opened_ms = now_ms()
        self._arm(AUTH_DEADLINE_MS)
        if self._listener.overloaded():
            self._listener.refuse(self, Refusals.OVERLOADED)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._answered:
            return  # lingering until the client has read the answer
        checked = len(self._head)
        self._head += self._listener.buffer[:nbytes]
        if self._end:  # held: a newer edge snapshot is on its way
            if len(self._head) - self._end > _TAIL_BYTES_MAX:
                self._listener.refuse(self, Refusals.MALFORMED)
            return
        end = upgrade.head_end(self._head, checked)
        if end < 0:
            self._listener.judge(self, handshake.to_request(-end))
        elif end > 0:
            self._end = end
            self._listener.judge(self, handshake.parse_head(bytes(self._head[: end - 4])))

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.waiting.discard(self)
        self._transport = None
        self._answered = True

    def expire(self) -> None:
        """No head in time, or the answer was not read: drop the socket."""
        if self._transport is not None:
            self._transport.abort()

    def _arm(self, delay_ms: int) -> None:
        self.deadline_ms = now_ms() + delay_ms
        self._listener.timers.arm_door(self, self.deadline_ms)

    # --- the decision -------------------------------------------------------
    def answer(self, data: bytes) -> bool:
        if self._transport is None or self._answered:
            return False
        self._answered = True
        self._head.clear()
        self._transport.write(data)
        # A close with unread input would reset the connection and lose the answer: wait for the client's end.
        self._transport.write_eof()
        self._arm(CLOSE_DEADLINE_MS)
        return True

    def upgrade(self, accepted: Accepted) -> bool:
        transport = self._transport
        if transport is None or self._answered or transport.is_closing():
            return False
        connection = Connection(self._listener.policy, self._opened_ms)
        connection.ready = accepted
        protocol = _websocket(connection, accepted)
        tail = bytes(self._head[self._end :])
        self._answered = True
        self._head.clear()
        self._transport = None
        self._listener.waiting.discard(self)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        _feed(protocol, transport, _upgrade_request(accepted.key) + tail)
        return True


def _websocket(connection: Connection, accepted: Accepted) -> Any:
    """picows' server protocol for one connection, as ws_create_server makes it."""
    headers = {"Sec-WebSocket-Protocol": SUBPROTOCOL} if accepted.subprotocol else None

    def listener(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(headers), connection)

    return _WSProtocol(
        None, None, False, listener, _QUIET,
        True,  # disconnect_on_exception
        None,  # handshake timeout: the door had its own
        False, 0, 0, picows.WSAutoPingStrategy.PING_WHEN_IDLE,
        False,  # enable_auto_pong: the session answers, under its budget
        FRAME_BYTES_MAX + 1,  # one more, so that the session and not picows answers an oversized message
        None, READ_BUFFER_BYTES,
    )  # fmt: skip


# Not in picows' stubs; ws_create_server builds its connections from it. picows is pinned to one minor series.
_WSProtocol: Final[Any] = picows.picows.WSProtocol  # type: ignore[attr-defined]


def _upgrade_request(key: str) -> bytes:
    return (
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode("ascii")


def _feed(protocol: Any, transport: asyncio.Transport, data: bytes) -> None:
    """Hand bytes to a buffered protocol as the loop would."""
    view = memoryview(data)
    while view and not transport.is_closing():
        buffer = protocol.get_buffer(-1)
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        protocol.buffer_updated(count)
        view = view[count:]
