"""The engine where a fault is dangerous: behind a close frame, beside others that hold its listening socket."""

import asyncio
import select
import socket
from typing import Any

from gateway._fast.engine import Engine
from notification import limits
from tests.unit.gateway._fast.carriers import Doorkeeper, Recorder, engine_serving, masked
from tests.unit.gateway._fast.sessions import CLOSE, TEXT, frames
from tests.unit.gateway._fast.test_engine import HEAD


async def test_what_comes_behind_a_close_frame_is_read_and_forgotten() -> None:
    """Our answer waits behind a full socket; more than the read buffer holds comes meanwhile."""
    recorder = Recorder()
    large = b"x" * 4_000_000
    recorder.answer = lambda connection, text: connection.session.send(large, last=True)
    async with engine_serving(recorder) as (_, port):
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, HEAD)
            await recorder.until(lambda: recorder.connections)
            await loop.sock_sendall(sock, masked(TEXT, b"a page, please"))
            await recorder.until(lambda: recorder.texts)
            await loop.sock_sendall(sock, masked(CLOSE, b"\x03\xe8") + masked(TEXT, b"never heard"))
            for _ in range(40):
                await loop.sock_sendall(sock, b"\x81" * 60_000)
            assert recorder.connections[0].is_open()
            heard = b""
            async with asyncio.timeout(30):
                while b"\r\n\r\n" not in heard:
                    heard += await loop.sock_recv(sock, 65_536)
                heard = heard.partition(b"\r\n\r\n")[2]
                while piece := await loop.sock_recv(sock, 65_536):
                    heard += piece
            assert list(frames(heard)) == [(TEXT, large), (CLOSE, b"\x03\xe8")]
        assert await recorder.ended() == (True, 1000)
        assert recorder.texts == [b"a page, please"]


class Watched:
    """The running loop, which tells the epoll set's descriptor."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.descriptor = -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)

    def add_reader(self, descriptor: int, callback: Any) -> None:
        self.descriptor = descriptor
        self.loop.add_reader(descriptor, callback)


async def test_who_listens_no_more_is_not_woken_by_a_socket_that_others_hold() -> None:
    """The supervisor holds the listening socket too: closing ours does not take it out of the epoll set."""
    loop = Watched()
    with socket.create_server(("127.0.0.1", 0)) as sock, socket.socket() as client_sock:
        ours = sock.dup()
        ours.setblocking(False)
        engine = Engine(loop, Recorder(), Doorkeeper(), 100, limits.AUTH_DEADLINE_MS)
        engine.listen(ours)
        engine.stop_listening()
        client_sock.connect(sock.getsockname())
        assert select.select([sock], [], [], 20)[0]
        assert select.select([loop.descriptor], [], [], 0)[0] == []
        engine.close()
