"""When the engine's 101 leaves."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

import pytest

from gateway._fast.carrier import Connection
from gateway._fast.upgrade import Parsed
from tests.unit.gateway._fast.carriers import Doorkeeper, Raw, Recorder, engine_serving
from tests.unit.gateway._fast.test_engine import HEAD, until


class Resuming(Recorder):
    """Authenticates, and owes what is to be resumed."""

    def opened(self, connection: Connection) -> None:
        self.connections.append(connection)
        connection.session.authenticate("t", "u", "d", bytes(16), b"t:dQ", 1, 0)
        self.changed.set()


class Watching(Doorkeeper):
    """Looks at the client's end of the socket right behind the upgrade."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.sock = sock
        self.came = b""
        self.welcome: Callable[[], None] = lambda: None

    def request(self, handle: int, outcome: Parsed | int) -> None:
        super().request(handle, outcome)
        with contextlib.suppress(BlockingIOError):
            self.came = self.sock.recv(4_096)
        self.welcome()


@pytest.mark.parametrize("welcomed", [True, False])
async def test_the_101_waits_for_the_first_frame_but_not_long(welcomed: bool) -> None:
    recorder = Resuming()

    def welcome() -> None:
        recorder.connections[0].session.send(b"welcome")
        recorder.connections[0].flush()

    with socket.socket() as sock:
        sock.setblocking(False)
        doorkeeper = Watching(sock)
        if welcomed:
            doorkeeper.welcome = welcome
        async with engine_serving(recorder, doorkeeper) as (_, port):
            peer = Raw(sock)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            await peer.send(HEAD)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await peer.read(1)
            assert head.startswith(b"HTTP/1.1 101 ")
            assert doorkeeper.came == b""
            if not welcomed:
                welcome()
            assert await peer.read(9) == b"\x81\x07welcome"


async def test_the_101_does_not_wait_where_the_client_must_speak_first() -> None:
    class Silent(Recorder):
        def opened(self, connection: Connection) -> None:
            self.connections.append(connection)

    with socket.socket() as sock:
        sock.setblocking(False)
        doorkeeper = Watching(sock)
        async with engine_serving(Silent(), doorkeeper) as (engine, port):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            await Raw(sock).send(HEAD)
            await until(lambda: engine.connections() == 1)
            while not doorkeeper.came.endswith(b"\r\n\r\n"):
                doorkeeper.came += await Raw(sock).read(1)
            assert doorkeeper.came.startswith(b"HTTP/1.1 101 ")


async def test_a_client_that_leaves_while_its_101_waits() -> None:
    recorder = Resuming()
    async with engine_serving(recorder) as (engine, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        await recorder.until(lambda: recorder.connections)
        recorder.connections[0].abort()
        assert await recorder.ended() == (False, 0)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert engine.connections() == 0
        writer.close()
