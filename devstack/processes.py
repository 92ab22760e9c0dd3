"""Herald's own processes, `python -m gateway` and `python -m worker ...`: started and awaited until they serve."""

import asyncio
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from devstack.children import POLL_S, Child, environment
from notification.errors import Unavailable
from notification.limits import STARTUP_DEADLINE_S
from notification.settings import Settings

WORKER_ROLES: Final = ("dispatch", "receipts", "inbox", "status")
STOP_S: Final = 30.0  # more than a gateway's drain window and a worker's last transaction
READY: Final = b"READY=1"


class HeraldProcess:
    """A process of Herald that says READY=1 to NOTIFY_SOCKET (sd_notify(3)) once it serves."""

    def __init__(
        self, settings: Settings, name: str, arguments: list[str], more: Mapping[str, str] | None = None
    ) -> None:
        """`more`: environment variables besides those of the settings."""
        # An abstract socket: no file, hence no limit from a long data_dir and nothing to clean up.
        address = f"herald-{name}-{secrets.token_hex(8)}"
        self._ready_channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready_channel.bind("\0" + address)
        self._ready_channel.setblocking(False)
        self.name = name
        self.child = Child(
            name,
            [sys.executable, "-m", *arguments],
            Path(settings.data_dir).resolve() / "log" / f"{name}.log",
            environment(settings) | {"NOTIFY_SOCKET": "@" + address} | dict(more or {}),
            stop_s=STOP_S,
        )

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises Unavailable with its last log lines."""
        while self._said() is not None:  # what an earlier life of it said late
            continue
        self.child.start()
        # Longer than its own deadline for a server that is down, so that its message is the one shown.
        deadline_s = time.monotonic() + STARTUP_DEADLINE_S + 15
        while self._said() != READY:
            if not self.child.running:
                raise self.child.died()
            if time.monotonic() > deadline_s:
                raise Unavailable(
                    f"{self.name} did not become ready; the end of {self.child.log}:\n{self.child.log_tail()}"
                )
            await asyncio.sleep(POLL_S)

    def _said(self) -> bytes | None:
        try:
            return self._ready_channel.recv(256)
        except BlockingIOError:
            return None

    async def stop(self) -> None:
        """Let it drain and end; killed when that takes longer than STOP_S."""
        await self.child.stop()
        self._ready_channel.close()
