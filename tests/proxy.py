"""A TCP proxy that a test puts before a server: it cuts, holds, slows down, corrupts, and sees what goes by."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

_PIECE_BYTES: Final = 65_536
_BEHIND_BYTES: Final = 48  # a flipped bit is that near to its marker


class Piece(NamedTuple):
    """Bytes on their way through one connection, numbered from 1; `is_reply`: they come from the server."""

    connection: int
    is_reply: bool
    data: bytes


Watch = Callable[[Piece], Awaitable[bytes | None]]
"""Gets every piece before it goes on; returns what goes on instead, None to cut every connection."""


class Proxy:
    """Forwards 127.0.0.1:`port` to a server's port until `cut`."""

    def __init__(self, target_port: int, port: int = 0) -> None:
        self.port = port
        self.watch: Watch | None = None
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Refuse new connections, reset the old ones. `open` again takes the same port."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()

    def drop(self) -> None:
        """Reset all connections; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()

    def hold(self) -> None:
        """Nothing goes on, and nothing says so: the connections stay open."""
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    async def close(self) -> None:
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._connections += 1
        self._writers |= {writer, there[1]}
        for source, sink, is_reply in ((reader, there[1], False), (there[0], writer, True)):
            task = asyncio.create_task(self._pump(source, sink, self._connections, is_reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, connection: int, is_reply: bool
    ) -> None:
        try:
            while data := await source.read(_PIECE_BYTES):
                await self._flowing.wait()
                if self.watch is not None:
                    seen = await self.watch(Piece(connection, is_reply, data))
                    if seen is None:
                        self.cut()
                        return
                    data = seen
                sink.write(data)
                await sink.drain()
        except OSError:
            return
        finally:
            sink.close()
            self._writers.discard(sink)


def cut_when(matches: Callable[[Piece], bool]) -> Watch:
    """Everything is cut before a piece that matches goes on."""

    async def watch(piece: Piece) -> bytes | None:
        return None if matches(piece) else piece.data

    return watch


def delayed(seconds: float) -> Watch:
    """Every piece is late."""

    async def watch(piece: Piece) -> bytes:
        await asyncio.sleep(seconds)
        return piece.data

    return watch


def throttled(bytes_per_s: float) -> Watch:
    """Each direction of each connection is this slow."""

    async def watch(piece: Piece) -> bytes:
        await asyncio.sleep(len(piece.data) / bytes_per_s)
        return piece.data

    return watch


class Noise:
    """In a `share` of the pieces, both ways, any one bit is another one: framing, lengths, text.

    Connections whose client once said `spared` are left alone.
    """

    def __init__(self, chance: random.Random, share: float, spared: bytes = b"") -> None:
        self.flips = 0
        self._chance, self._share, self._spared = chance, share, spared
        self._left_alone: set[int] = set()

    async def __call__(self, piece: Piece) -> bytes:
        if self._spared and not piece.is_reply and self._spared in piece.data:
            self._left_alone.add(piece.connection)
        if piece.connection in self._left_alone or self._chance.random() >= self._share:
            return piece.data
        self.flips += 1
        data = bytearray(piece.data)
        data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
        return bytes(data)


def flipped_bit(chance: random.Random, marker: bytes, *, is_reply: bool, times: int) -> Watch:
    """In the first `times` pieces of one direction that hold `marker`, a bit behind it is another one."""
    left = times

    async def watch(piece: Piece) -> bytes:
        nonlocal left
        start = piece.data.find(marker) + len(marker)
        if left == 0 or piece.is_reply != is_reply or marker not in piece.data or start == len(piece.data):
            return piece.data
        left -= 1
        data = bytearray(piece.data)
        data[chance.randrange(start, min(len(data), start + _BEHIND_BYTES))] ^= 1 << chance.randrange(8)
        return bytes(data)

    return watch
