"""The door: a pre-bound socket, the request head, then either a fixed answer or a WebSocket connection.

The head is read here and not by picows, whose own refusals echo the input and know one status only. After the
101 decision picows gets a minimal upgrade request of ours, so that no token stays in its read buffer and Firefox'
`Connection: keep-alive, Upgrade` is no special case.
"""

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import picows.picows
import structlog
from picows import WSUpgradeRequest, WSUpgradeResponse
from picows.common import WSUpgradeResponseWithListener

from gateway import handshake
from gateway._fast.connection import Connection, Policy
from gateway.clock import now_ms
from gateway.edge import Edge
from gateway.handshake import Accepted, Request
from notification import telemetry
from notification.codes import Refusal, Refusals
from notification.errors import SettingsError
from notification.frames import SUBPROTOCOL
from notification.limits import (
    AUTH_DEADLINE_MS,
    CLOSE_DEADLINE_MS,
    DESCRIPTORS_RESERVED,
    DOORS_HELD_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES_MAX,
    LISTEN_BACKLOG,
    READ_BUFFER_BYTES,
)

_log = structlog.get_logger("listener")

_END: Final = b"\r\n\r\n"
_TAIL_BYTES_MAX: Final = FRAME_BYTES_MAX  # frames a client may send before it saw our 101


def bind(host: str, port: int) -> socket.socket:
    """A socket that shares its port with the other processes (SO_REUSEPORT). Raises SettingsError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise SettingsError(f"gateway cannot listen on {host}:{port}: {error.strerror}; {_HINT}") from error
    sock.setblocking(False)
    return sock


def check_free(host: str, port: int) -> None:
    """Is the port ours alone? SO_REUSEPORT would quietly share it with a gateway that runs already.
    Raises SettingsError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise SettingsError(f"gateway cannot listen on {host}:{port}: {error.strerror}; {_HINT}") from error


_HINT: Final = "set HERALD_GATEWAY_PORT (gateway_port in herald.toml) to a free port"


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


# A path of our own: answers (status, content type, body).
Route = Callable[[], Awaitable[tuple[int, str, bytes]]]


class Listener:
    """Accepts for one process. `held` doors wait for an edge snapshot; `doors` have not become connections yet."""

    def __init__(self, policy: Policy, edge: Edge, timers: Armed, routes: dict[str, Route]) -> None:
        self.policy = policy
        self.edge = edge
        self.timers = timers
        self.routes = routes
        self.draining = False
        self.doors = 0
        self.held = 0
        self.connections: Callable[[], int] = lambda: 0
        # One buffer for all doors: the loop reads into it and calls buffer_updated before it reads again.
        self.buffer = memoryview(bytearray(HEADER_BYTES_MAX + len(_END)))
        self.tasks: set[asyncio.Task[None]] = set()
        self._sockets_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_RESERVED
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Listen on a bound socket."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Door(self), sock=sock, backlog=LISTEN_BACKLOG
        )

    def overloaded(self) -> bool:
        """Are there more sockets than the process has descriptors for?"""
        return self.doors + self.connections() > self._sockets_max

    async def close(self) -> None:
        """Accept nothing more. Open connections stay."""
        if self._server is not None:
            self._server.close()
            self._server = None


class Door(asyncio.BufferedProtocol):
    """One accepted socket until its request head is judged."""

    __slots__ = ("_answered", "_head", "_listener", "_opened_ms", "_transport", "deadline_ms")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._answered = False
        self._opened_ms = 0
        self.deadline_ms = 0

    # --- asyncio's side -----------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the base class
        self._listener.doors += 1
        self._opened_ms = now_ms()
        self._arm(AUTH_DEADLINE_MS)
        if self._listener.overloaded():
            self.refuse(Refusals.OVERLOADED)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._answered:
            return  # lingering until the client has read the answer
        waiting = _END in self._head
        self._head += self._listener.buffer[:nbytes]
        end = self._head.find(_END)
        if waiting:
            if len(self._head) - end > _TAIL_BYTES_MAX:
                self.refuse(Refusals.MALFORMED)
        elif end > HEADER_BYTES_MAX or (end < 0 and len(self._head) > HEADER_BYTES_MAX):
            self.refuse(Refusals.HEADERS_TOO_LARGE)
        elif end >= 0:
            request = handshake.parse_head(bytes(self._head[:end]))
            if isinstance(request, Refusal):
                self.refuse(request)
            else:
                self._route(request)

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.doors -= 1
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
    def _route(self, request: Request) -> None:
        route = self._listener.routes.get(request.path)
        if route is not None:
            if request.method != "GET":
                self.refuse(Refusals.METHOD)
            else:
                task = asyncio.get_running_loop().create_task(self._serve(route))
                self._listener.tasks.add(task)
                task.add_done_callback(self._listener.tasks.discard)
            return
        outcome = handshake.decide(request, self._listener.edge)
        if self._listener.draining and not isinstance(outcome, Refusal):
            outcome = Refusals.DRAINING
        if handshake.unknown_yet(outcome) and self._listener.edge.known:
            self._hold(request, outcome)
        else:
            self._finish(outcome)

    def _hold(self, request: Request, outcome: Accepted | Refusal) -> None:
        """An issuer we do not know: ask for a newer snapshot before we say no."""
        listener = self._listener
        if listener.held >= DOORS_HELD_MAX:
            self._finish(handshake.settle(outcome))
            return
        listener.held += 1

        def refreshed(answered: "asyncio.Future[bool]") -> None:
            listener.held -= 1
            if self._transport is None or self._answered:
                return
            again = handshake.decide(request, listener.edge)
            known = handshake.unknown_yet(again) and answered.result()
            self._finish(handshake.settle(again) if known else again)

        listener.edge.refresh().add_done_callback(refreshed)

    def _finish(self, outcome: Accepted | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self.refuse(outcome)
        else:
            self._upgrade(outcome)

    def refuse(self, refusal: Refusal) -> None:
        """Answer with a fixed body and close."""
        telemetry.REFUSALS.labels(refusal.code).inc()
        self._answer(refusal.status, "application/json", refusal.body, refusal.headers)

    async def _serve(self, route: Route) -> None:
        status, content_type, body = await route()
        self._answer(status, content_type, body, (("Cache-Control", "no-store"),))

    def _answer(self, status: int, content_type: str, body: bytes, extra: tuple[tuple[str, str], ...]) -> None:
        if self._transport is None or self._answered:
            return
        self._answered = True
        self._head.clear()
        lines = "".join(f"{name}: {value}\r\n" for name, value in extra)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{lines}\r\n"
        )
        self._transport.write(head.encode("ascii") + body)
        # A close with unread input would reset the connection and lose the answer: wait for the client's end.
        self._transport.write_eof()
        self._arm(CLOSE_DEADLINE_MS)

    def _upgrade(self, accepted: Accepted) -> None:
        transport, listener = self._transport, self._listener
        if transport is None or transport.is_closing():
            return
        connection = Connection(listener.policy, self._opened_ms)
        connection.ready = accepted
        protocol = _websocket(connection, accepted)
        tail = bytes(self._head[self._head.find(_END) + len(_END) :])
        self._answered = True
        self._head.clear()
        self._transport = None
        listener.doors -= 1
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        _feed(protocol, transport, _upgrade_request(accepted.key) + tail)


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


def raise_descriptor_limit() -> None:
    """Use every descriptor the system grants this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
