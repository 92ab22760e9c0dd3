"""How a Herald process lives: says when it is ready, dies with its parent, stops on SIGTERM or SIGINT."""

import asyncio
import ctypes
import os
import signal
import socket
from typing import Final

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


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; call it inside the running loop."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, event.set)
    return event
