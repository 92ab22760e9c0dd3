"""The supervisor: starts the gateway processes, restarts what crashes, stops them all. Serves nothing itself."""

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

from gateway import listener
from notification import settings as configuration
from notification import telemetry
from notification.errors import HeraldError, SettingsError
from notification.lifecycle import notify_ready, stop_event
from notification.limits import CLOSE_DEADLINE_MS, DRAIN_WINDOW_MS, RESTART_MS, RESTART_PAUSE_MS_MAX
from notification.settings import Settings

_log = structlog.get_logger("supervisor")

_STOP_S: Final = (DRAIN_WINDOW_MS + 2 * CLOSE_DEADLINE_MS) / 1_000 + 5  # then a child is killed


class Child:
    """One slot: the process that runs in it now, and the socket on which it says that it serves."""

    def __init__(self, index: int, folder: Path, environ: dict[str, str]) -> None:
        self.index = index
        self.ready = asyncio.Event()
        self.failed: int | None = None  # exit status of a process that never served
        self._process: asyncio.subprocess.Process | None = None
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
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "--process", str(self.index),
            env={**self._environ, "NOTIFY_SOCKET": str(self._path)},
        )  # fmt: skip
        self._process = process
        if stopping.is_set():  # it was set while the process started
            self.terminate()
        status = await process.wait()
        self._process = None
        multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        return status

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


async def supervise(settings: Settings, folder: Path) -> int:
    """Run until SIGTERM or SIGINT; the exit status."""
    stopping = stop_event()
    count = settings.gateway_processes or os.cpu_count() or 1
    children = [Child(index, folder, dict(os.environ)) for index in range(count)]
    tasks = [asyncio.create_task(child.run(stopping)) for child in children]
    announced = asyncio.create_task(_announce(children))
    halted = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((halted, *tasks), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.set()
        for child in children:
            child.terminate()
        _, running = await asyncio.wait(tasks, timeout=_STOP_S)
        if running:
            _log.error("processes_killed", count=len(running))
        for child in children:
            child.kill()
        await asyncio.gather(*tasks)
        announced.cancel()
        for child in children:
            child.close()
    return 1 if any(child.failed for child in children) else 0


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
        listener.check_free(settings.gateway_host, settings.gateway_port)
        # Bound but never listening: the port stays ours while processes restart, and no client is sent here.
        with (
            listener.bind(settings.gateway_host, settings.gateway_port),
            tempfile.TemporaryDirectory(prefix="herald-gateway-") as folder,
        ):
            metrics = Path(folder) / "metrics"
            metrics.mkdir()
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
            return asyncio.run(supervise(settings, Path(folder)))
    except HeraldError as error:
        label = "configuration" if isinstance(error, SettingsError) else "gateway"
        print(f"{label}: {error}", file=sys.stderr)
        return 1
