"""How a Herald process lives: says when it is ready, dies with its parent, stops on SIGTERM or SIGINT."""

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Coroutine
from typing import Any, Final

import structlog

_log = structlog.get_logger("lifecycle")
_PR_SET_PDEATHSIG: Final = 1


def notify_ready() -> None:
    """sd_notify(3): tell systemd or devstack that this process serves. Nothing without NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(b"READY=1")


def die_with_parent(signum: int = signal.SIGTERM) -> None:
    """Ask the kernel for `signum` when the parent thread ends (prctl(2) PR_SET_PDEATHSIG). Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def essential(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """A task without which this process must not go on: should it fail, the process ends as on SIGTERM."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_ended)
    return task


def _ended(task: "asyncio.Task[None]") -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.critical("essential_task_failed", task=task.get_coro().__qualname__, exc_info=error)  # type: ignore[union-attr]
        signal.raise_signal(signal.SIGTERM)


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; call it inside the running loop."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, event.set)
    return event
