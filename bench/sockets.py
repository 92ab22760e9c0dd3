"""sockets: what the kernel does with a connection's bytes, for docs/tuning.md; no Herald in it.

HIGH behind LOW: a client takes 1 MB a second, the server writes LOW whenever the socket takes more, and at times
a HIGH, which is next. What the kernel holds already goes first: figures are the ms from a HIGH that is ready to its
arrival, by TCP_NOTSENT_LOWAT. The client's small receive buffer stands for a slow network.

Held: bytes of the kernel's TCP memory (`mem` of /proc/net/sockstat, what net.ipv4.tcp_mem bounds) per connection,
both ends on this machine: idle; with one unread notification; and flooded by a client whose bytes nobody reads.
"""

import asyncio
import mmap
import resource
import select
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.report import Progress
from bench.rounds import Figures, order
from notification.errors import Unavailable
from notification.limits import PAYLOAD_BYTES_MAX, WRITE_BUFFER_BYTES_MAX

_LOWATS: Final = {
    "unlimited": -1, "128 KB": 131_072, "64 KB, Herald's": WRITE_BUFFER_BYTES_MAX, "16 KB": 16_384,
}  # fmt: skip
_FRAME_BYTES: Final = 1_024
_RECEIVE_BUFFER_BYTES: Final = 16_384
_HIGH_S_MAX: Final = 30.0
_LOW: Final = bytes(_FRAME_BYTES)
_TIME: Final = struct.Struct("d")
_FLOODED: Final = 50  # connections
_FLOOD_S: Final = 0.5


class Options(NamedTuple):
    """`highs`: in a turn; `fill_s`: of LOW alone before; `connections`: of the held part, two descriptors each."""

    rounds: int = 5
    highs: int = 3
    bytes_per_s: int = 1_000_000
    fill_s: float = 1.0
    connections: int = 4_000


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report. Raises Unavailable when a HIGH never came, or descriptors are too few."""
    return await asyncio.to_thread(_run, options, progress)


def _run(options: Options, progress: Progress) -> dict[str, Any]:
    figures = Figures(tuple(_LOWATS))
    with progress.step("HIGH behind LOW", options.rounds * len(_LOWATS)) as advance:
        for _, name in order(tuple(_LOWATS), options.rounds):
            figures.add(name, statistics.median(_behind(_LOWATS[name], options)))
            advance()
    with progress.step("held by the kernel", 3) as advance:
        held = _held(options.connections)
        advance(2)
        held["flooded"] = _flooded()
        advance()
    return {
        "bench": "sockets", "unit": "ms from a HIGH that is ready to its arrival, behind LOW",
        "options": options._asdict(), "figures": figures.report("unlimited"), "held_bytes_both_ends": held,
        "tcp_rmem": _setting("tcp_rmem"), "tcp_wmem": _setting("tcp_wmem"),
    }  # fmt: skip


def _behind(lowat: int, options: Options) -> list[float]:
    """Latencies of the turn's HIGH, in ms, one after the other."""
    with _pair(_RECEIVE_BUFFER_BYTES) as (server, client):
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, lowat)
        flow = _Flow(server, client, options.bytes_per_s)
        flow.until(lambda: False, options.fill_s)
        latencies = []
        for _ in range(options.highs):
            flow.high()
            flow.until(flow.arrived, _HIGH_S_MAX)
            if not flow.arrived():
                raise Unavailable(f"a HIGH did not arrive within {_HIGH_S_MAX:g} s")
            latencies.append(flow.latency_ms)
    return latencies


class _Flow:
    """Both ends in one loop: the server writes what it may, the client reads no faster than its pace."""

    def __init__(self, server: socket.socket, client: socket.socket, bytes_per_s: int) -> None:
        self.latency_ms = 0.0
        """Of the last HIGH; 0 until it is there."""
        self._bytes_per_s = bytes_per_s
        self._server = server
        self._client = client
        self._waiting = memoryview(b"")
        self._high_at: float | None = None
        self._came = bytearray()
        self._read_bytes = 0
        self._began = time.monotonic()

    def high(self) -> None:
        """A HIGH is ready: it goes before every LOW that the kernel does not have."""
        self._high_at = time.monotonic()
        self.latency_ms = 0.0

    def arrived(self) -> bool:
        return self.latency_ms > 0

    def until(self, done: Callable[[], bool], seconds: float) -> None:
        """Let it flow until then, at most so long."""
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            _, writable, _ = select.select([], [self._server], [], 0.001)
            if writable:
                self._write()
            self._read()

    def _write(self) -> None:
        if not self._waiting:
            self._waiting = memoryview(_LOW if self._high_at is None else _high(self._high_at))
            self._high_at = None
        self._waiting = self._waiting[self._server.send(self._waiting) :]

    def _read(self) -> None:
        allowed = int((time.monotonic() - self._began) * self._bytes_per_s) - self._read_bytes
        if allowed < _FRAME_BYTES:
            return
        try:
            came = self._client.recv(allowed)
        except BlockingIOError:  # a pause is not made up for
            self._read_bytes += allowed
            return
        self._read_bytes += len(came)
        self._came += came
        while len(self._came) >= _FRAME_BYTES:
            (ready,) = _TIME.unpack_from(self._came)
            if ready:
                self.latency_ms = (time.monotonic() - ready) * 1_000
            del self._came[:_FRAME_BYTES]


def _high(ready: float) -> bytes:
    return _TIME.pack(ready) + bytes(_FRAME_BYTES - _TIME.size)


@contextmanager
def _pair(receive_buffer_bytes: int | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's and a client's end, both non-blocking."""
    with socket.socket() as listening, socket.socket() as client:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        if receive_buffer_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        client.connect(listening.getsockname())
        with listening.accept()[0] as server:
            server.setblocking(False)
            client.setblocking(False)
            yield server, client


def _held(count: int) -> dict[str, float]:
    """Bytes per connection: idle, and with one notification of 4 KB that the client has not read."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < 2 * count + 64:
        raise Unavailable(f"{count:,} connections need {2 * count + 64:,} descriptors; {hard:,} are allowed")
    pairs: list[tuple[socket.socket, socket.socket]] = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        before = _tcp_bytes()
        try:
            for _ in range(count):
                client = socket.create_connection(listening.getsockname())
                pairs.append((listening.accept()[0], client))
            idle = _tcp_bytes()
            for server, _ in pairs:
                server.send(bytes(PAYLOAD_BYTES_MAX))
            unread = _tcp_bytes()
        finally:
            for server, client in pairs:
                server.close()
                client.close()
    return {"idle": (idle - before) / count, "one unread notification of 4 KB": (unread - idle) / count}


def _flooded() -> float:
    """Bytes per connection whose client sends as much as fits while nobody reads."""
    before = _tcp_bytes()
    with ExitStack() as pairs:
        clients = [pairs.enter_context(_pair())[1] for _ in range(_FLOODED)]
        end = time.monotonic() + _FLOOD_S
        while time.monotonic() < end:
            for client in select.select([], clients, [], 0.05)[1]:
                client.send(bytes(65_536))
        return (_tcp_bytes() - before) / _FLOODED


def _tcp_bytes() -> int:
    """The kernel's account of all TCP sockets; it keeps up to 1 MB a core of it back."""
    line = next(row for row in Path("/proc/net/sockstat").read_text("ascii").splitlines() if row.startswith("TCP:"))
    fields = line.split()
    return int(fields[fields.index("mem") + 1]) * mmap.PAGESIZE


def _setting(name: str) -> str:
    return " ".join(Path("/proc/sys/net/ipv4", name).read_text("ascii").split())
