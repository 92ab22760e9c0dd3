"""notification.lifecycle: ready, stop, and death with the parent."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from notification import lifecycle


def test_ready_is_told_to_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        lifecycle.notify_ready()
        assert listener.recv(100) == b"READY=1"


def test_ready_speaks_to_abstract_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"herald-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        lifecycle.notify_ready()
        assert listener.recv(100) == b"READY=1"


def test_ready_is_silent_when_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    lifecycle.notify_ready()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_stop_event_is_set_by_a_signal(signum: signal.Signals) -> None:
    event = lifecycle.stop_event()
    assert not event.is_set()
    os.kill(os.getpid(), signum)
    try:
        await asyncio.wait_for(event.wait(), 20)
    finally:
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(each)


def test_a_child_dies_with_its_parent() -> None:
    child = "import time; from notification import lifecycle; lifecycle.die_with_parent(); print(1, flush=True); "
    child += "time.sleep(60)"
    parent = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.kill()
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_the_failure_of_an_essential_task_ends_the_process() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    async def waits() -> None:
        await asyncio.Event().wait()

    stopped = lifecycle.stop_event()
    kept = lifecycle.essential(waits())
    kept.cancel()
    await asyncio.gather(kept, return_exceptions=True)
    assert not stopped.is_set()
    failed = lifecycle.essential(fails())
    await asyncio.wait_for(stopped.wait(), 20)
    assert isinstance(failed.exception(), ZeroDivisionError)
