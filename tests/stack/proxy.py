"""A TCP proxy that a test puts before a server, to cut it off."""

import asyncio
from collections.abc import Callable


class Proxy:
    """Forwards 127.0.0.1:`port` to a server's port until `cut`."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut_when: Callable[[bytes], bool] = lambda reply: False
        """Looks at each piece of a reply; where it says so, everything is cut before the piece goes on."""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Refuse new connections, reset the old ones. `open` again takes the same port."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

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
        self._writers |= {writer, there[1]}
        for source, sink, is_reply in ((reader, there[1], False), (there[0], writer, True)):
            task = asyncio.create_task(self._pump(source, sink, is_reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_reply: bool) -> None:
        try:
            while piece := await source.read(65_536):
                if is_reply and self.cut_when(piece):
                    self.cut()
                    return
                sink.write(piece)
                await sink.drain()
        except OSError:
            return
        finally:
            sink.close()
            self._writers.discard(sink)
