"""What tests of both carriers share: a recording policy, a server on either, clients without manners."""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from picows import WSUpgradeRequest, ws_create_server
from websockets.asyncio.client import ClientConnection, connect

from gateway._fast import upgrade
from gateway._fast.acks import Acks
from gateway._fast.carrier import Connection
from gateway._fast.connection import Connection as PicowsConnection
from gateway._fast.engine import Engine
from gateway._fast.upgrade import Parsed
from notification import limits

_QUIET = logging.Logger("test.picows", logging.CRITICAL)
TIMEOUT_S = 10


class Recorder:
    """A policy that echoes and remembers."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.ready: list[object] = []
        self.texts: list[bytes] = []
        self.pending: list[int] = []
        self.acks = Acks()
        self.acked_count = 0
        self.writable_count = 0
        self.ends: list[tuple[bool, int]] = []
        self.answer: Callable[[Connection, bytes], None] = lambda connection, text: connection.session.send(text)
        self.changed = asyncio.Event()

    def opened(self, connection: Connection) -> None:
        self.connections.append(connection)
        self.ready.append(connection.ready)
        connection.session.authenticate("t", "u", "d", bytes(16), b"t:dQ", 1, 0)
        connection.session.set_at(0, 0)
        connection.session.begin_live()
        self.changed.set()

    def message(self, connection: Connection, text: bytes) -> None:
        self.texts.append(text)
        self.answer(connection, text)
        self.pending.append(connection.session.pending())
        self.changed.set()

    def acked(self, connection: Connection) -> None:
        self.acked_count += 1
        self.changed.set()

    def writable(self, connection: Connection) -> None:
        self.writable_count += 1
        self.changed.set()

    def closed(self, connection: Connection, clean: bool) -> None:
        self.ends.append((clean, connection.session.close_code))
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def ended(self) -> tuple[bool, int]:
        """The one end of the one connection; waits a little for a second call that must not come."""
        await self.until(lambda: self.ends)
        await asyncio.sleep(0.05)
        assert len(self.ends) == 1
        return self.ends[0]


class Doorkeeper:
    """Lets everybody in at once; keeps the handles it was asked about."""

    def __init__(self) -> None:
        self.engine: Engine
        self.handles: list[int] = []
        self.dropped = 0

    def request(self, handle: int, outcome: Parsed | int) -> None:
        self.handles.append(handle)
        if isinstance(outcome, int):
            self.engine.answer(handle, b"HTTP/1.1 %d No\r\n\r\n" % outcome)
        else:
            data = upgrade.switching(outcome[3]["sec-websocket-key"][0], None)
            self.engine.upgrade(handle, data, "as the door decided")

    def overloaded(self, handle: int) -> None:
        self.engine.answer(handle, b"HTTP/1.1 503 No\r\n\r\n")

    def flooding(self) -> None:
        self.dropped += 1


@asynccontextmanager
async def engine_serving(
    recorder: Recorder, doorkeeper: Doorkeeper | None = None
) -> AsyncIterator[tuple[Engine, int]]:
    """An engine that listens; yields it and its port."""
    doorkeeper = Doorkeeper() if doorkeeper is None else doorkeeper
    sock = socket.create_server(("127.0.0.1", 0), backlog=limits.LISTEN_BACKLOG)
    sock.setblocking(False)
    engine = Engine(asyncio.get_running_loop(), recorder, doorkeeper, 10_000, limits.AUTH_DEADLINE_MS)
    doorkeeper.engine = engine
    engine.listen(sock)
    try:
        yield engine, sock.getsockname()[1]
    finally:
        engine.stop_listening()
        engine.close()


@asynccontextmanager
async def picows_serving(
    recorder: Recorder, seen: Callable[[WSUpgradeRequest], object] = lambda request: None
) -> AsyncIterator[int]:
    """A picows server as the gateway sets it up; yields its port."""

    def factory(request: WSUpgradeRequest) -> PicowsConnection:
        seen(request)
        connection = PicowsConnection(recorder, 0)
        connection.ready = "as the door decided"
        return connection

    server = await ws_create_server(
        factory, "127.0.0.1", 0, enable_auto_pong=False, use_aiofastnet=False, logger_name=_QUIET,
        read_buffer_init_size=limits.READ_BUFFER_BYTES, max_frame_size=limits.FRAME_BYTES_MAX,
    )  # fmt: skip
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for connection in recorder.connections:
            connection.abort()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def serving(carrier: str, recorder: Recorder) -> AsyncIterator[int]:
    """A server over either carrier; yields its port."""
    if carrier == "picows":
        async with picows_serving(recorder) as port:
            yield port
    else:
        async with engine_serving(recorder) as (_, port):
            yield port


@asynccontextmanager
async def client(port: int) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://127.0.0.1:{port}/", ping_interval=None, compression=None) as websocket:
        yield websocket


def masked(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """One client frame."""
    mask = os.urandom(4)
    head = bytes([opcode | (0x80 if fin else 0)])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    else:
        head += bytes([0x80 | 126]) + struct.pack("!H", len(payload))
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


class Raw:
    """A WebSocket client without manners: sends what it is told, reads only when told."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read_to_end(self) -> bytes:
        """Everything up to the server's FIN or RST."""
        data = b""
        async with asyncio.timeout(TIMEOUT_S):
            with suppress(ConnectionError):
                while piece := await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20):
                    data += piece
        return data

    async def read(self, count: int) -> bytes:
        data = b""
        async with asyncio.timeout(TIMEOUT_S):
            while len(data) < count:
                piece = await asyncio.get_running_loop().sock_recv(self.sock, count - len(data))
                assert piece
                data += piece
        return data


@asynccontextmanager
async def raw(port: int) -> AsyncIterator[Raw]:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peer = Raw(sock)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        await peer.send(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await peer.read(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        yield peer
