"""The picows carrier's door: from the accepted socket through TLS to picows, which has it after the decision.

Sockets are accepted here and not by uvloop: an address over its share then costs no transport and no handshake, and
a PROXY header can come before TLS. The head is read here and not by picows, whose own refusals echo the input and
know one status only. After the 101 decision picows gets a minimal upgrade request of ours, so that no token stays
in its read buffer and Firefox' `Connection: keep-alive, Upgrade` is no special case.
"""

import asyncio
import errno
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import picows.picows
import structlog
from picows import WSUpgradeRequest, WSUpgradeResponse
from picows.common import WSUpgradeResponseWithListener

from gateway import handshake
from gateway._fast import proxy, upgrade
from gateway._fast.carrier import Policy
from gateway._fast.connection import Connection
from gateway._fast.peers import FLOODING, UNCOUNTED
from gateway.caps import Caps
from gateway.clock import now_ms
from gateway.edge import Edge
from gateway.handshake import Accepted
from gateway.listener import Listener, Route
from notification import telemetry
from notification.codes import Refusal, Refusals
from notification.frames import SUBPROTOCOL
from notification.limits import (
    AUTH_DEADLINE_MS,
    CLOSE_DEADLINE_MS,
    ENGINE_ACCEPT_PAUSE_MS,
    ENGINE_ACCEPTS_COUNT_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES_MAX,
    LISTEN_BACKLOG,
    PROXY_HEADER_BYTES_MAX,
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
    """Accepts for one process; uvloop's transports carry, through TLS 1.3 if a context is given."""

    def __init__(
        self, policy: Policy, edge: Edge, routes: dict[str, Route], caps: Caps, proxied: bool,
        tls: ssl.SSLContext | None, timers: Armed, connections: Callable[[], int],
    ) -> None:  # fmt: skip
        super().__init__(policy, edge, routes, caps, proxied)
        self.tls = tls
        self.timers = timers
        self.waiting: set[Door] = set()
        self._connections = connections
        # One buffer for all doors: the loop reads into it and calls buffer_updated before it reads again.
        self.buffer = memoryview(bytearray(HEADER_BYTES_MAX + 4))
        self._socket: socket.socket | None = None
        self._accept_timer: asyncio.TimerHandle | None = None

    async def start(self, sock: socket.socket) -> None:
        sock.listen(LISTEN_BACKLOG)
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._accept)

    def doors(self) -> int:
        return len(self.waiting)

    async def close(self) -> None:
        if self._socket is None:
            return
        for _ in range(LISTEN_BACKLOG // ENGINE_ACCEPTS_COUNT_MAX + 1):
            if self._accept() < ENGINE_ACCEPTS_COUNT_MAX:
                break
        if self._accept_timer is not None:
            self._accept_timer.cancel()
            self._accept_timer = None
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None

    async def end(self) -> None:
        for door in list(self.waiting):
            door.expire()

    # --- accepting ----------------------------------------------------------
    def _accept(self) -> int:
        """Accept a bounded number; how many came."""
        assert self._socket is not None
        for accepted in range(ENGINE_ACCEPTS_COUNT_MAX):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return accepted
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause_accepting()
                    return accepted
                continue  # that client is gone already
            self._admit(sock, _text(address))
        return ENGINE_ACCEPTS_COUNT_MAX

    def _pause_accepting(self) -> None:
        """Out of descriptors or memory: accepting at once would spin. Clients wait in the backlog."""
        if self._accept_timer is None and self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            self._accept_timer = loop.call_later(ENGINE_ACCEPT_PAUSE_MS / 1_000, self._accept_again)

    def _accept_again(self) -> None:
        self._accept_timer = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _admit(self, sock: socket.socket, peer: str) -> None:
        """A new socket: a door stands before it, or it is dropped."""
        sock.setblocking(False)
        peers = self.caps.peers
        ticket = peers.enter(peer)
        full = len(self.waiting) + self._connections() >= self.sockets_max
        refusal = None
        if ticket == FLOODING or (full and self.tls is not None):  # no handshake only to say no
            refused = Refusals.TOO_MANY if ticket == FLOODING else Refusals.OVERLOADED
            telemetry.REFUSALS.labels(refused.code).inc()
            peers.leave(ticket)
            _reset(sock)
            return
        if full:
            refusal = Refusals.OVERLOADED
        elif peers.crowded(ticket):
            refusal = Refusals.TOO_MANY
        elif self.proxied and not peers.trusts(peer):
            refusal = Refusals.MALFORMED
        Door(self, peer, ticket, refusal).start(sock)

    async def bring(self, door: "Door", sock: socket.socket) -> None:
        """From the accepted socket to a transport under the door: PROXY header, TLS handshake. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.proxied and door.refusal is None:
            source = await _proxy_header(loop, sock)
            if source is None:
                door.refusal, door.unread = Refusals.MALFORMED, True
            elif source and not door.claim(source):
                door.refusal = Refusals.TOO_MANY
        if self.tls is None:
            await loop.connect_accepted_socket(lambda: door, sock)
            return
        if door.refusal is Refusals.MALFORMED:
            telemetry.REFUSALS.labels(door.refusal.code).inc()
            return
        try:
            await loop.connect_accepted_socket(
                lambda: door, sock, ssl=self.tls, ssl_handshake_timeout=AUTH_DEADLINE_MS / 1_000,
                ssl_shutdown_timeout=CLOSE_DEADLINE_MS / 1_000,
            )  # fmt: skip
        except OSError:
            telemetry.TLS_FAILURES.inc()
            raise


_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LINGER_NONE: Final = struct.pack("ii", 1, 0)


def _reset(sock: socket.socket) -> None:
    """Close a socket at once, whatever is unsent or unread."""
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)


def _text(address: object) -> str:
    """The address that accept() told, without port and zone, IPv4-mapped as IPv4; "" of a Unix socket."""
    if not isinstance(address, tuple):
        return ""
    text = str(address[0]).partition("%")[0]
    return text.removeprefix("::ffff:") if "." in text else text


async def _proxy_header(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> str | None:
    """Read exactly a PROXY header: the client's address, "" if it tells none, None if it is malformed.
    Raises OSError when the client leaves."""
    header = b""
    while True:
        await _readable(loop, sock)
        try:
            # What follows the header belongs to TLS or HTTP: looked at, then left in the socket.
            piece = sock.recv(PROXY_HEADER_BYTES_MAX, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if not piece:
            raise ConnectionResetError
        used, source = proxy.parse(header + piece)
        if used < 0:
            return None
        header += sock.recv(used - len(header) if used else len(piece))
        if used:
            return source


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Wait until the socket has something to read, or is at its end."""
    waiter = loop.create_future()

    def ready() -> None:
        if not waiter.done():
            waiter.set_result(None)

    loop.add_reader(sock, ready)
    try:
        await waiter
    finally:
        loop.remove_reader(sock)


class Door(asyncio.BufferedProtocol):
    """One accepted socket until its request head is judged."""

    __slots__ = (
        "_answered", "_end", "_head", "_listener", "_opened_ms", "_peer", "_task", "_ticket", "_transport",
        "deadline_ms", "refusal", "unread",
    )  # fmt: skip

    def __init__(self, listener: PicowsListener, peer: str, ticket: int, refusal: Refusal | None) -> None:
        self._listener = listener
        self._peer = peer
        self._ticket = ticket
        self._task: asyncio.Task[None] | None = None  # until there is a transport
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._end = 0  # of the head, in _head; 0 = not seen yet
        self._answered = False
        self._opened_ms = now_ms()
        self.refusal = refusal  # known before the request is read
        # Answer it at once? Else with the request: many clients cannot hear an answer before they have asked.
        self.unread = refusal is Refusals.OVERLOADED
        self.deadline_ms = 0

    def start(self, sock: socket.socket) -> None:
        """Wait before an accepted socket."""
        self._listener.waiting.add(self)
        self._arm(AUTH_DEADLINE_MS)
        self._task = asyncio.get_running_loop().create_task(self._arrive(sock))

    async def _arrive(self, sock: socket.socket) -> None:
        try:
            await self._listener.bring(self, sock)
        except OSError as error:  # the client left, or speaks no TLS of ours: nobody is there to be told
            _log.debug("arrival_failed", error=type(error).__name__)
        finally:
            self._task = None
            if self._transport is None and self in self._listener.waiting:
                sock.close()
                self._leave()

    def _leave(self) -> None:
        """No door any more; the ticket goes with the connection, or here."""
        self._listener.waiting.discard(self)
        self._listener.caps.peers.leave(self._ticket)
        self._ticket = UNCOUNTED

    # --- asyncio's side -----------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the base class
        if self.refusal is not None and self.unread:
            self._listener.refuse(self, self.refusal)

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
            self._listener.judge(self, self.refusal or handshake.parse_head(bytes(self._head[: end - 4])))

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self._transport = None
        self._answered = True

    def expire(self) -> None:
        """No request in time, or the answer was not read: drop the socket."""
        if self._transport is not None:
            self._transport.abort()
        elif self._task is not None:
            self._task.cancel()

    def _arm(self, delay_ms: int) -> None:
        self.deadline_ms = now_ms() + delay_ms
        self._listener.timers.arm_door(self, self.deadline_ms)

    # --- the decision -------------------------------------------------------
    def peer(self) -> str:
        return self._peer

    def claim(self, address: str) -> bool:
        peers = self._listener.caps.peers
        peers.leave(self._ticket)
        self._peer = address
        self._ticket = peers.enter(address)
        return self._ticket != FLOODING and not peers.crowded(self._ticket)

    def answer(self, data: bytes) -> bool:
        if self._transport is None or self._answered:
            return False
        self._answered = True
        self._head.clear()
        self._transport.write(data)
        # A close with unread input would reset the connection and lose the answer: wait for the client's end.
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()  # TLS: close_notify, then the wait for the client's
        self._arm(CLOSE_DEADLINE_MS)
        return True

    def upgrade(self, accepted: Accepted) -> bool:
        transport = self._transport
        if transport is None or self._answered or transport.is_closing():
            return False
        connection = Connection(self._listener.policy, self._opened_ms, self._listener.caps.peers, self._ticket)
        self._ticket = UNCOUNTED
        connection.peer = self._peer
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
