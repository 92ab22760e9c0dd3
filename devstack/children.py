"""Child processes: each has its log file, hears only our signals, and is gone when we are gone."""

import asyncio
import dataclasses
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from notification.errors import Unavailable
from notification.lifecycle import die_with_parent
from notification.settings import PREFIX, Settings

LOG_TAIL_LINES: Final = 12
LOG_TAIL_BYTES_MAX: Final = 16_384
# Colours and cursor moves (ECMA-48 CSI), titles (OSC), other control characters: no log steers a terminal.
_CONTROL: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")
POLL_S: Final = 0.02


class Child:
    """One child process; start() it from the main thread, because the kernel ties its life to that thread."""

    def __init__(
        self,
        name: str,
        argv: list[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_s: float = 10.0,
        cwd: Path | None = None,
    ) -> None:
        """`stop_signal` asks it to end, also when we die; after `stop_s` seconds stop() kills it."""
        self.name = name
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self._argv = argv
        self._environment = environment
        self._stop_signal = stop_signal
        self._stop_s = stop_s
        self._cwd = cwd
        self._log_start = 0  # bytes of earlier runs in the log

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self.process = self._popen(output)

    def _popen(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        # Its own session: Ctrl-C in a terminal reaches us alone, and we stop the children in order.
        return subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=self._environment,
            cwd=self._cwd,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(self._stop_signal),
        )

    @property
    def returncode(self) -> int | None:
        """The exit code (negative: the signal), None while it runs."""
        return self.process.poll() if self.process is not None else None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    async def wait(self, timeout_s: float | None) -> int | None:
        """The exit code, or None when it still runs after `timeout_s` (None: wait for ever)."""
        if self.process is None or self.process.poll() is not None:
            return self.returncode
        ended = asyncio.Event()
        descriptor = os.pidfd_open(self.process.pid)
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        except TimeoutError:
            return None
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        return self.process.poll()

    async def stop(self) -> int | None:
        """Ask it to end and wait, kill it when it takes too long; its exit code, None if it never ran."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(self._stop_signal)
            if await self.wait(self._stop_s) is None:
                os.killpg(self.process.pid, signal.SIGKILL)  # with what it started: its session is its own
        return self.process.wait()

    def log_tail(self) -> str:
        """The last lines that this run wrote, indented and without terminal codes, for a message to the user."""
        try:
            with self.log.open("rb") as file:
                size = self.log.stat().st_size
                # A log shorter than at the start was emptied meanwhile: all in it is of this run.
                start = self._log_start if self._log_start <= size else 0
                file.seek(max(start, size - LOG_TAIL_BYTES_MAX))
                lines = _CONTROL.sub("", file.read().decode("utf-8", "replace").replace("\r\n", "\n")).split("\n")
        except FileNotFoundError:
            return ""
        if not lines[-1]:
            lines.pop()
        return "\n".join("    " + line for line in lines[-LOG_TAIL_LINES:])

    def died(self) -> Unavailable:
        """The error that tells the user that it ended by itself, and what it said last."""
        return Unavailable(
            f"{self.name} ended with exit code {self.returncode}; the end of {self.log}:\n{self.log_tail()}"
        )


def environment(settings: Settings) -> dict[str, str]:
    """Our environment with exactly these settings: what a child process of devstack and the tests gets."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        variables[PREFIX + field.name.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    return variables
