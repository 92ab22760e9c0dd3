"""Clients without manners: raw sockets that send what they are told and read when they are told."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from typing import Final

from tests.flow.world import mint
from tests.hostile.victim import Victim
from tests.unit.gateway._fast.carriers import masked
from tests.unit.gateway._fast.sessions import CLOSE, PING, frames

DEADLINE_S: Final = 60  # for an answer that must come; the machine may be busy
HELD_BYTES_MAX: Final = 256 * 1_024  # of the gateway's memory for any one client
_KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
SEGMENT_BYTES: Final = 536  # RFC 9293 §3.7.1: what every host takes
RESET: Final = 0  # close_code(): the socket ended without a close frame


class Hostile:
    """One socket. What it sends into a socket that the gateway has closed is lost silently, as on a network."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._heard = b""

    async def send(self, data: bytes) -> bool:
        """False: the other end is gone, or takes nothing more."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._loop.sock_sendall(self.sock, data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    async def read(self, count: int = 65_536) -> bytes:
        """Some bytes; none at the end, however it ended."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self._loop.sock_recv(self.sock, count)
        except ConnectionError:
            return b""

    async def read_to_end(self) -> bytes:
        data = b""
        while piece := await self.read():
            data += piece
        return data

    async def status(self) -> int:
        """Of an HTTP answer that ends the connection; 0: it ended without one."""
        answer = await self.read_to_end()
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0

    async def upgraded(self, user: str, **headers: str) -> None:
        """Send a good request and read the 101; what came behind it is kept for close_code()."""
        assert await self.send(request(Authorization=f"Bearer {mint(user)}", **headers))
        while b"\r\n\r\n" not in self._heard:
            piece = await self.read()
            assert piece, self._heard
            self._heard += piece
        head, _, self._heard = self._heard.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    def take_heard(self) -> bytes:
        """What came behind the 101 and was not looked at."""
        heard, self._heard = self._heard, b""
        return heard

    async def hears(self, text: bytes) -> None:
        """Read until it comes."""
        while text not in self._heard:
            piece = await self.read()
            assert piece, self._heard
            self._heard += piece

    async def close_code(self) -> int:
        """Read to the gateway's close frame, or to the end of a socket that had none (RESET)."""
        while True:
            whole = whole_frames(self._heard)
            for opcode, payload in frames(self._heard[:whole]):
                if opcode == CLOSE:
                    return int(struct.unpack("!H", payload[:2])[0])
            self._heard = self._heard[whole:]
            piece = await self.read()
            if not piece:
                return RESET
            self._heard += piece


def whole_frames(data: bytes) -> int:
    """How many bytes of whole server frames lie at the front."""
    at = 0
    while at + 2 <= len(data):
        count, header = data[at + 1], 2
        if count >= 126:
            header = 4 if count == 126 else 10
            count = int.from_bytes(data[at + 2 : at + header], "big")
        if at + header + count > len(data):
            break
        at += header + count
    return at


@contextlib.asynccontextmanager
async def hostile(
    victim: Victim, count: int = 1, receive_bytes: int = 0, address: str = "127.0.0.1"
) -> AsyncIterator[list[Hostile]]:
    """`count` connected sockets, or such as the gateway has reset already.

    `receive_bytes` makes the kernel's buffers of each small, at both ends; they come from `address` of loopback."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.bind((address, 0))
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
                # Of a loopback segment's 64 KB the kernel makes a send buffer of over 1 MB.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
            async with asyncio.timeout(DEADLINE_S):
                with contextlib.suppress(ConnectionResetError):
                    await loop.sock_connect(sock, ("127.0.0.1", victim.port))
            clients.append(Hostile(sock))
        yield clients


async def each(tasks: Iterable[object]) -> list[object]:
    """Await all at once; the first error ends them all."""
    async with asyncio.TaskGroup() as group:
        started = [group.create_task(task) for task in tasks]  # type: ignore[arg-type]
    return [task.result() for task in started]


def request(target: str = "/ws/connect", **headers: str) -> bytes:
    """An upgrade request with these headers beside the necessary ones."""
    values = {
        "Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": _KEY,
    } | {name.replace("_", "-"): value for name, value in headers.items()}  # fmt: skip
    lines = "".join(f"{name}: {value}\r\n" for name, value in values.items())
    return f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode()


def pings(count: int) -> bytes:
    return masked(PING, b"x" * 125) * count
