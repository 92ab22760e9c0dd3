"""The link between supervisor and process: a pair of sockets, one short text per message.

process: listen           ready to accept; answered by `listening`
         count N          connections it has now, each BALANCE_REPORT_MS
         draining         no more connections for it
supervisor: listening
         shed N           send that many clients away, to come back elsewhere
"""

import asyncio
import functools
import signal
import socket
from collections.abc import Callable
from typing import Final

import structlog

from notification.limits import BALANCE_REPORT_MS

_log = structlog.get_logger("link")
_MESSAGE_BYTES_MAX: Final = 64

# Verb and number (0 where there is none).
Heard = Callable[[str, int], None]


def pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and the process's end, which the process inherits."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


class End:
    """One end. `heard` is called with each message; whatever does not read as one is logged and left out."""

    def __init__(self, sock: socket.socket, heard: Heard, ended: Callable[[], None] = lambda: None) -> None:
        self._sock = sock
        self._heard = heard
        self._ended = ended
        asyncio.get_running_loop().add_reader(sock.fileno(), self._read)

    def say(self, verb: str, number: int = 0) -> None:
        """Best effort: a full link drops it (counts are repeated), and so does one whose other end is gone."""
        try:
            self._sock.send(f"{verb} {number}".encode())
        except (BlockingIOError, BrokenPipeError, ConnectionResetError) as error:
            _log.info("link_dropped", verb=verb, error=type(error).__name__)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()

    def _read(self) -> None:
        try:
            message = self._sock.recv(_MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return
        except ConnectionResetError:
            message = b""
        if not message:  # the other end is gone
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._ended()
            return
        verb, _, number = message.decode("ascii", "replace").partition(" ")
        if number.isdecimal():
            self._heard(verb, int(number))
        else:
            _log.error("link_message_unknown", bytes=len(message))


class Link:
    """The process's end: asks to listen, reports its count, sheds when told; ends with its supervisor.

    The kernel's signal at a parent's death misses a parent that died while this process started.
    """

    def __init__(self, sock: socket.socket, count: Callable[[], int], shed: Callable[[int], None]) -> None:
        self._end = End(sock, self._heard, functools.partial(signal.raise_signal, signal.SIGTERM))
        self._count = count
        self._shed = shed
        self._listening = asyncio.Event()
        self._reports: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Returns once the socket may be accepted from; then the counts go out."""
        self._end.say("listen")
        await self._listening.wait()
        self._reports = asyncio.create_task(self._report())

    def draining(self) -> None:
        self._end.say("draining")

    async def close(self) -> None:
        if self._reports is not None:
            self._reports.cancel()
            await asyncio.gather(self._reports, return_exceptions=True)
        self._end.close()

    async def _report(self) -> None:
        while True:
            self._end.say("count", self._count())
            await asyncio.sleep(BALANCE_REPORT_MS / 1_000)

    def _heard(self, verb: str, number: int) -> None:
        if verb == "listening":
            self._listening.set()
        elif verb == "shed":
            self._shed(number)
