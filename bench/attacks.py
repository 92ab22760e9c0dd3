"""Hostile clients of one kind, in a process of their own: `python -m bench.attacks`, with an Order on stdin.

It says READY once those that stay are there, attacks until its stdin ends, and prints what its clients heard. From
READY on it gives way to everything else on its core (SCHED_IDLE): what neighbours notice is the gateway's doing.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
import uvloop

from bench import feeds
from devstack.servers import HOST
from notification import batch
from notification.bus import NatsBus
from notification.errors import Unavailable
from notification.limits import DEVICES_PER_USER_MAX, FRAME_BYTES_MAX, HEADER_BYTES_MAX

READY: Final = b"READY\n"
PER_ADDRESS: Final = 200  # caps of the gateway that is attacked
PER_TENANT: Final = 1_000
_AT_ONCE: Final = 300  # visits; with PER_ADDRESS that stay: more than twice PER_ADDRESS
_HOLD_AT_ONCE: Final = 32
_DEADLINE_S: Final = 10.0
_SLOW_COUNT: Final = 100
_SLOW_SEGMENT_BYTES: Final = 536
_SLOW_BUFFER_BYTES: Final = 4_096
_STUFFING_BYTES: Final = 4_000
_STUFFING_PAUSE_S: Final = 0.2
_DEAF_COUNT: Final = 20  # at once: 50 MB/s together
_DEAF_PAUSE_S: Final = 0.05
_FIRST_USER: Final = 1_000_000  # none of them is a neighbour
_MASK: Final = b"\0\0\0\0"
_RESET: Final = struct.pack("ii", 1, 0)


class Order(msgspec.Struct, frozen=True):
    """Whom to attack and how: `visits_per_s` at most; `neighbours` have connections of the tenant already."""

    kind: str
    port: int
    secret: bytes
    nats_url: str
    subject: str
    visits_per_s: float
    neighbours: int


class Outcome(msgspec.Struct, frozen=True):
    """How many visits began, and the status, close code or other end of those that ended."""

    visits: int
    heard: dict[str, int]


class Crowd:
    """What the kinds share: sockets, good requests, a pace."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.begun = 0
        self.heard: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._users = itertools.count(_FIRST_USER)
        self._sources = itertools.cycle(f"127.1.{number}.1" for number in range(250))

    def user(self) -> int:
        return next(self._users)

    def head(self, user: int | None = None, device: str = "hostile") -> bytes:
        """A good request; of a new user unless one is given."""
        return feeds.head(self.user() if user is None else user, device, self.order.secret).encode("ascii")

    async def connect(self, address: str = "", slow: bool = False) -> socket.socket:
        """From an address of loopback; `slow` makes the kernel's buffers small at both ends. Raises OSError."""
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.bind((address or next(self._sources), 0))
            if slow:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER_BYTES)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SLOW_SEGMENT_BYTES)
            await self._loop.sock_connect(sock, (HOST, self.order.port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def send(self, sock: socket.socket, data: bytes) -> None:
        """Until it is taken or the other end is gone."""
        with contextlib.suppress(ConnectionError):
            await self._loop.sock_sendall(sock, data)

    async def read(self, sock: socket.socket, until: bytes = b"") -> bytes:
        """Up to some bytes, or to the end."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := await self._loop.sock_recv(sock, 65_536):
                data += piece
                if until and until in data:
                    break
        return data

    async def strike(self, head: bytes, data: bytes = b"", address: str = "", linger_s: float = 0) -> str:
        """Send a request, then `data` if it was upgraded; what is heard in the end, read after `linger_s`."""
        with await self.connect(address) as sock:
            await self.send(sock, head)
            heard = await self.read(sock, b"\r\n\r\n") if data else b""
            if data and heard.startswith(b"HTTP/1.1 101 "):
                await self.send(sock, data)
            await asyncio.sleep(linger_s)
            return await self.hears(sock, heard)

    async def hears(self, sock: socket.socket, heard: bytes = b"") -> str:
        """The verdict. Who was closed leaves at once, so that others can come."""
        with contextlib.suppress(ConnectionError):
            while piece := await self._loop.sock_recv(sock, 65_536):
                heard += piece
                if verdict(heard).isdecimal():
                    break
        return verdict(heard)

    async def hold(self, heads: list[bytes], address: str = "", slow: bool = False) -> list[socket.socket]:
        """Clients that stay. Raises Unavailable when one is refused."""
        gate = asyncio.Semaphore(_HOLD_AT_ONCE)

        async def enter(head: bytes) -> socket.socket:
            async with gate, asyncio.timeout(_DEADLINE_S):
                sock = await self.connect(address, slow)
                await self.send(sock, head)
                heard = await self.read(sock, b"\r\n\r\n")
                if not heard.startswith(b"HTTP/1.1 101 "):
                    raise Unavailable(f"a client that was to stay heard {verdict(heard)}")
                return sock

        return await asyncio.gather(*map(enter, heads))

    async def visits(self, visit: Callable[[], Awaitable[str]]) -> None:
        """Begin `visits_per_s` at most, of which _AT_ONCE last, for ever."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one() -> None:
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    self.heard[await visit()] += 1
            except ConnectionError:
                self.heard["no answer"] += 1
            except TimeoutError:
                self.heard["no end"] += 1
            finally:
                gate.release()

        async with asyncio.TaskGroup() as group:
            while True:
                await gate.acquire()
                self.begun += 1
                group.create_task(one())
                await asyncio.sleep(1 / self.order.visits_per_s)


def verdict(data: bytes) -> str:
    """The status, or the close code behind a 101, of everything that a server said; or what it was instead."""
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return "no answer"
    status = head[9:12].decode()
    while status == "101" and len(rest) >= 4:
        opcode, count, at = rest[0] & 15, rest[1], 2
        if count == 126:
            count, at = int.from_bytes(rest[2:4]), 4
        if opcode == 8:
            return str(int.from_bytes(rest[at : at + 2]))
        rest = rest[at + count :]
    return "upgraded" if status == "101" else status


def masked(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """A client's frame."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    return bytes([0x80 * fin | opcode]) + size + _MASK + payload


# --- the kinds: each takes the crowd, says when those that stay are there, and goes on until it is cancelled ----
Said = Callable[[], None]
Kind = Callable[[Crowd, Said], Awaitable[None]]


def _strikes(data: bytes) -> Kind:
    """Clients that come in, send what they should not, and hear their close."""

    async def attack(crowd: Crowd, ready: Said) -> None:
        ready()
        await crowd.visits(lambda: crowd.strike(crowd.head(), data))

    return attack


def _heads(change: Callable[[bytes], bytes]) -> Kind:
    """Requests that are refused."""

    async def attack(crowd: Crowd, ready: Said) -> None:
        ready()
        await crowd.visits(lambda: crowd.strike(change(crowd.head())))

    return attack


def _with_header(name: str, value: str) -> Callable[[bytes], bytes]:
    return lambda head: head[:-2] + f"{name}: {value}\r\n\r\n".encode()


def _forged(head: bytes) -> bytes:
    """The signature's first characters are others; each request has a token of its own."""
    start, _, rest = head.rpartition(b".")
    return start + b".AAAA" + rest[4:]


async def _slow_requests(crowd: Crowd, ready: Said) -> None:
    """A byte now and then, until the gateway has had enough."""

    async def visit() -> str:
        with await crowd.connect() as sock:
            await crowd.send(sock, crowd.head()[:-4])
            reading = asyncio.ensure_future(crowd.read(sock))
            while not reading.done():
                await crowd.send(sock, b"x")
                await asyncio.wait([reading], timeout=0.5)
            return verdict(reading.result())

    ready()
    await crowd.visits(visit)


async def _slow_readers(crowd: Crowd, ready: Said) -> None:
    """They get more than they read: a byte a second."""
    users = [crowd.user() for _ in range(_SLOW_COUNT)]
    sockets = await crowd.hold([crowd.head(user) for user in users], slow=True)
    bus = await NatsBus.connect(crowd.order.nats_url, "hostile")
    loop = asyncio.get_running_loop()
    ready()
    try:
        for seq in itertools.count(1):
            items = [feeds.item_of(feeds.Numbered(0, user, seq), _STUFFING_BYTES) for user in users]
            await bus.request(crowd.order.subject, batch.pack(items, time.time_ns() // 1_000_000), _DEADLINE_S)
            crowd.heard["notifications"] += len(items)
            await asyncio.sleep(_STUFFING_PAUSE_S)
            if seq * _STUFFING_PAUSE_S % 1 < _STUFFING_PAUSE_S:
                await asyncio.gather(*(loop.sock_recv(sock, 1) for sock in sockets))
    finally:
        await bus.close()


async def _deaf(crowd: Crowd, ready: Said) -> None:
    """Frames that break the protocol, on and on, whatever the answer is."""
    data = masked(1, b"x", fin=False) + masked(0, b"", fin=False) * 20_000
    few = asyncio.Semaphore(_DEAF_COUNT)

    async def visit() -> str:
        async with few:
            with await crowd.connect() as sock:
                await crowd.send(sock, crowd.head())
                heard = await crowd.read(sock, b"\r\n\r\n")
                reading = asyncio.ensure_future(crowd.read(sock))
                while not reading.done():
                    await crowd.send(sock, data)
                    await asyncio.wait([reading], timeout=_DEAF_PAUSE_S)
                return verdict(heard + reading.result())

    ready()
    await crowd.visits(visit)


async def _address(crowd: Crowd, ready: Said) -> None:
    """One address: its share is taken, others of it wait for their 429, more are not answered."""
    address = "127.2.0.1"
    held = await crowd.hold([crowd.head() for _ in range(PER_ADDRESS)], address)
    ready()
    await crowd.visits(lambda: crowd.strike(crowd.head(), address=address, linger_s=1))
    assert held


async def _tenant(crowd: Crowd, ready: Said) -> None:
    """The neighbours' own tenant is full, and more come."""
    held = await crowd.hold([crowd.head() for _ in range(PER_TENANT - crowd.order.neighbours)])
    ready()
    await crowd.visits(lambda: crowd.strike(crowd.head()))
    assert held


async def _user(crowd: Crowd, ready: Said) -> None:
    """One user has all devices, and comes with ever new ones."""
    user, names = crowd.user(), (f"device{number}" for number in itertools.count())
    held = await crowd.hold([crowd.head(user, next(names)) for _ in range(DEVICES_PER_USER_MAX)])
    ready()
    await crowd.visits(lambda: crowd.strike(crowd.head(user, next(names))))
    assert held


async def _resets(crowd: Crowd, ready: Said) -> None:
    """Connections that are reset before, in or behind the request."""
    cuts = itertools.cycle((0, 100, 4_096))

    async def visit() -> str:
        with await crowd.connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            await crowd.send(sock, crowd.head()[: next(cuts)])
            return "reset"

    ready()
    await crowd.visits(visit)


KINDS: Final[dict[str, Kind]] = {
    "slow requests": _slow_requests,
    "slow readers": _slow_readers,
    "unread pings": _strikes(masked(9, b"x" * 125) * 5_000),
    "fragments": _strikes(masked(1, b"x", fin=False) + masked(0, b"", fin=False) * 20_000),
    "deaf fragments": _deaf,
    "large headers": _heads(_with_header("Cookie", "x" * HEADER_BYTES_MAX)),
    "large messages": _strikes(masked(1, b"x" * (FRAME_BYTES_MAX + 1))),
    "unmasked frames": _strikes(b"\x81\x02{}"),
    "messages over the rate": _strikes(masked(1, b'{"t":"ping"}') * 2_000),
    "foreign origins": _heads(_with_header("Origin", "https://evil.example")),
    "forged tokens": _heads(_forged),
    "flood of an address": _address,
    "flood of a tenant": _tenant,
    "flood of a user": _user,
    "resets": _resets,
}


async def main(order: Order) -> Outcome:
    """Attack until stdin ends."""
    crowd = Crowd(order)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)

    def ready() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()

    attack = asyncio.ensure_future(KINDS[order.kind](crowd, ready))
    await asyncio.wait([attack, asyncio.ensure_future(over.wait())], return_when=asyncio.FIRST_COMPLETED)
    if attack.done():
        attack.result()
    attack.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await attack
    return Outcome(crowd.begun, dict(crowd.heard))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    ordered = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    print(msgspec.json.encode(uvloop.run(main(ordered))).decode())
