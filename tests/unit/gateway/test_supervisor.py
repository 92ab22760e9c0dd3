"""The supervisor's own decisions; with real processes: tests/stack/test_gateway_processes.py."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway import supervisor
from gateway.listener import bind
from notification.settings import Settings

SAYS_READY = (
    "import os, socket, sys, time\n"
    "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n"
    "time.sleep(float(sys.argv[1]))"
)


async def test_a_process_that_cannot_be_started_is_tried_again_and_ends_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = asyncio.create_subprocess_exec
    started: list[asyncio.subprocess.Process] = []
    asked = 0

    async def scarce(*_: Any, env: dict[str, str], pass_fds: tuple[int, ...]) -> asyncio.subprocess.Process:
        nonlocal asked
        asked += 1
        if asked in (3, 4):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        life_s = "0.5" if asked == 2 else "600"
        started.append(await start(sys.executable, "-c", SAYS_READY, life_s, env=env, pass_fds=pass_fds))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", scarce)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(bind("127.0.0.1", 0)) for _ in range(2)]
        ended = asyncio.create_task(supervisor.supervise(Settings(), tmp_path, sockets))
        async with asyncio.timeout(60):
            while len(started) < 3:  # noqa: ASYNC110 - another task starts them
                await asyncio.sleep(0.02)
        assert asked == 5
        assert [process.returncode for process in started] == [None, 0, None]
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(ended, 60) == 0
