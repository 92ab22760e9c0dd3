"""One load generator (native/load.c): a process that takes commands and answers each with JSON."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any, Final

from bench import native
from notification.errors import Unavailable

_LINE_BYTES_MAX: Final = 1 << 20
SOURCES: Final = 250  # source addresses: each has 28,000 ports, and caps per address do not bite


class Load:
    """Commands as methods; they take their turns."""

    def __init__(
        self, port: int, heads: Path, core: int | None, spin: bool = True, sources: int = SOURCES,
        tls: bool = False, last: bool = False,
    ) -> None:  # fmt: skip
        """`last`: it runs when nobody else wants its core."""
        self._before = ["chrt", "--idle", "0"] if last else []
        self._arguments = [str(port), str(heads), str(sources), str(int(spin))]
        if core is not None:
            self._arguments.append(str(core))
        self._tls = tls
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> "Load":
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._before, native.program("load", self._tls), *self._arguments, stdin=pipe, stdout=pipe,
            stderr=pipe, limit=_LINE_BYTES_MAX,
        )  # fmt: skip
        await self._answer()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = await self._process.stdout.readline()
        if not line:
            said = (await self._process.stderr.read()).decode("utf-8", "replace").strip()
            raise Unavailable(f"the load generator ended: {said or 'it said nothing'}")
        value: dict[str, Any] = json.loads(line)
        return value

    async def _do(self, *words: object) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        async with self._turn:
            self._process.stdin.write((" ".join(str(word) for word in words) + "\n").encode())
            with contextlib.suppress(ConnectionError):  # it ended: its answer says why
                await self._process.stdin.drain()
            return await self._answer()

    async def connect(
        self, count: int, in_flight: int = 64, per_s: float = 0, until: str = "resumed", again: bool = False
    ) -> dict[str, Any]:
        """Open clients, at most `in_flight` at once; until `upgraded`, `welcomed` or `resumed`. `again`: who is
        answered 503, is sent away meanwhile, or loses its socket later comes again after 1 to 2 s."""
        return await self._do("connect", count, in_flight, per_s, until, int(again))

    async def connect_all(
        self, count: int, in_flight: int = 64, until: str = "resumed", again: bool = False
    ) -> dict[str, Any]:
        """connect(), and every one of them must succeed in the end. Raises Unavailable."""
        result = await self.connect(count, in_flight, 0, until, again)
        if result["failed"]:
            raise Unavailable(
                f"{result['failed']} of {count} clients could not connect: statuses {result['statuses']}, "
                f"{result['errors']} ended otherwise"
            )
        return result

    async def close(self, in_flight: int = 64) -> dict[str, Any]:
        """The close handshake with every client."""
        return await self._do("close", in_flight)

    async def drop(self) -> None:
        """Close every socket at once."""
        await self._do("drop")

    async def nats(self, port: int) -> None:
        await self._do("nats", port)

    async def tcp(self, port: int) -> None:
        await self._do("tcp", port)

    async def answer(self, subject: str, queue: str, file: Path) -> None:
        """Answer requests with the bytes of a file; their last eight are set to the Unix time in ms."""
        await self._do("answer", subject, queue, file)

    async def ledger(self, file: Path) -> None:
        await self._do("ledger", file)

    async def acks(self, wanted: bool) -> None:
        await self._do("acks", int(wanted))

    async def feed(
        self, file: Path, in_flight: int, expected: int, per_s: float = 0, fan: int = 1
    ) -> dict[str, Any]:
        """Send a file of batches until `expected` notifications came, at most `in_flight` of them not yet back.

        An item makes `fan` notifications. With `expected` 0 until all batches are answered.
        """
        return await self._do("feed", file, in_flight, per_s, expected, fan)

    async def stats(self) -> dict[str, Any]:
        return await self._do("stats")

    async def reset(self) -> None:
        await self._do("reset")
