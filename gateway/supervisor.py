"""The supervisor: starts the gateway processes, restarts what crashes, stops them all. Serves nothing itself.

It holds each process's listening socket, so that what waits in the backlog of one that crashed is served by its
successor, and tells the kernel where new connections go (balance.py).
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import multiprocess

from gateway import balance, link, listener, tls
from notification import settings as configuration
from notification import telemetry
from notification.errors import HeraldError, SettingsError
from notification.lifecycle import notify_ready, stop_event
from notification.limits import (
    CLOSE_DEADLINE_MS,
    DRAIN_WINDOW_MS,
    LISTEN_BACKLOG,
    RESTART_MS,
    RESTART_PAUSE_MS_MAX,
)
from notification.settings import AUTH_SERVICE_SECRET, Settings

_log = structlog.get_logger("supervisor")

_STOP_S: Final = (DRAIN_WINDOW_MS + 2 * CLOSE_DEADLINE_MS) / 1_000 + 5  # then a child is killed


class Group:
    """The listening sockets of the port, and how many connections each one's process has."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        self._order: list[int] = []  # of listening, which is the kernel's order
        self._counts: list[int | None] = [None] * len(sockets)  # None: it accepts nothing now
        self._attached: list[int] = []
        self._steers = len(sockets) > 1
        self._closed = False

    def listen(self, index: int) -> None:
        """The process is ready to accept. Nothing after close()."""
        if self._closed:
            return
        if index not in self._order:
            self.sockets[index].listen(LISTEN_BACKLOG)
            self._order.append(index)
        self.set(index, 0)

    def set(self, index: int, count: int | None) -> None:
        """Its process has so many connections; None: it accepts none any more."""
        self._counts[index] = count
        shares = balance.weights([self._counts[place] for place in self._order])
        if not self._steers or not shares or shares == self._attached:
            return
        try:
            balance.attach(self.sockets[self._order[0]], shares)
            self._attached = shares
        except OSError as error:  # the kernel's hash spreads them then
            self._steers = False
            _log.warning("balance_unavailable", error=error.strerror)

    def surplus(self) -> list[int]:
        """How many clients each process is to send away."""
        return balance.surplus(self._counts) if self._steers else [0] * len(self._counts)

    def close(self) -> None:
        """From here on only the processes hold their sockets."""
        self._steers = False
        self._closed = True
        for sock in self.sockets:
            sock.close()


class Child:
    """One slot: the process that runs in it now, and the socket on which it says that it serves."""

    def __init__(self, index: int, folder: Path, environ: dict[str, str], group: Group) -> None:
        self.index = index
        self.ready = asyncio.Event()
        self.failed: int | None = None  # exit status of a process that never served
        self._process: asyncio.subprocess.Process | None = None
        self._group = group
        self._end: link.End | None = None
        self._environ = environ
        self._path = folder / f"ready-{index}"
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(self._path))
        self._channel.setblocking(False)

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep a process in this slot until `stopping`, or until the first one fails before it served."""
        asyncio.get_running_loop().add_reader(self._channel, self._said_ready)
        pause_ms = 0
        while not stopping.is_set():
            started = time.monotonic()
            status = await self._run_once(stopping)
            if stopping.is_set():
                return
            if not self.ready.is_set():
                self.failed = status
                return
            _log.error("process_crashed", process=self.index, status=status)
            lived_ms = (time.monotonic() - started) * 1_000
            pause_ms = 0 if lived_ms >= RESTART_MS else min(max(pause_ms * 2, 100), RESTART_PAUSE_MS_MAX)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_ms / 1_000):
                    await stopping.wait()

    async def _run_once(self, stopping: asyncio.Event) -> int:
        listening = self._group.sockets[self.index].fileno()
        ours, theirs = link.pair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "gateway", "--process", str(self.index),
                    "--socket", str(listening), "--link", str(theirs.fileno()),
                    env={**self._environ, "NOTIFY_SOCKET": str(self._path)}, pass_fds=(listening, theirs.fileno()),
                )  # fmt: skip
        except OSError as error:  # no memory or no process left: like one that crashed at once
            ours.close()
            _log.error("process_not_started", process=self.index, error=error.strerror)
            return os.EX_OSERR
        self._process = process
        self._end = link.End(ours, self._heard)
        if stopping.is_set():  # it was set while the process started
            self.terminate()
        status = await process.wait()
        self._process = None
        self._end.close()
        self._end = None
        if not stopping.is_set():
            self._group.set(self.index, None)
        multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        return status

    def _heard(self, verb: str, number: int) -> None:
        if verb == "listen" and self._end is not None:
            self._group.listen(self.index)
            self._end.say("listening")
        elif verb == "count":
            self._group.set(self.index, number)
        elif verb == "draining":
            self._group.set(self.index, None)

    def shed(self, count: int) -> None:
        """Have it send so many clients away."""
        if count and self._end is not None:
            _log.info("connections_shed", process=self.index, count=count)
            self._end.say("shed", count)

    def _said_ready(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._channel.recv(64)
            self.ready.set()

    def terminate(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()


async def supervise(settings: Settings, folder: Path, sockets: list[socket.socket]) -> int:
    """Run a process per socket until SIGTERM or SIGINT; the exit status."""
    stopping = stop_event()
    group = Group(sockets)
    children = [Child(index, folder, dict(os.environ), group) for index in range(len(sockets))]
    tasks = [asyncio.create_task(child.run(stopping)) for child in children]
    others = [asyncio.create_task(_announce(children)), asyncio.create_task(_keep_even(group, children))]
    halted = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((halted, *tasks), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.set()
        group.close()
        for child in children:
            child.terminate()
        _, running = await asyncio.wait(tasks, timeout=_STOP_S)
        if running:
            _log.error("processes_killed", count=len(running))
        for child in children:
            child.kill()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for other in others:
            other.cancel()
        for child in children:
            child.close()
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return 1 if any(child.failed for child in children) else 0


async def _keep_even(group: Group, children: list[Child]) -> None:
    """Once per drain window, so that one wave is gone before the next is counted."""
    while True:
        await asyncio.sleep(DRAIN_WINDOW_MS / 1_000)
        for child, count in zip(children, group.surplus(), strict=True):
            child.shed(count)


async def _announce(children: list[Child]) -> None:
    for child in children:
        await child.ready.wait()
    notify_ready()
    _log.info("gateway_ready", processes=len(children))


def main() -> int:
    """Entry of the supervisor; the exit status."""
    try:
        settings, _ = configuration.load()
        telemetry.configure(settings.log_level, b"", settings.log_json)
        tls.server_context(settings)  # a wrong file is told once, not by each process
        if settings.auth_service:
            settings.secret(AUTH_SERVICE_SECRET)
        listener.check_free(settings.gateway_host, settings.gateway_port)
        count = settings.gateway_processes or os.cpu_count() or 1
        with contextlib.ExitStack() as held:
            host, port = settings.gateway_host, settings.gateway_port
            sockets = [held.enter_context(listener.bind(host, port)) for _ in range(count)]
            folder = held.enter_context(tempfile.TemporaryDirectory(prefix="herald-gateway-"))
            metrics = Path(folder) / "metrics"
            metrics.mkdir()
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
            return asyncio.run(supervise(settings, Path(folder), sockets))
    except HeraldError as error:
        label = "configuration" if isinstance(error, SettingsError) else "gateway"
        print(f"{label}: {error}", file=sys.stderr)
        return 1
