"""bench/proc.py: what the kernel says of a process."""

import mmap
import os
import subprocess
import sys
import time

import pytest

from bench import proc
from notification.errors import Unavailable


def test_cpu_time_grows_with_work_and_is_that_of_the_process() -> None:
    before, before_ns = proc.cpu_ns([os.getpid()]), time.process_time_ns()
    while time.process_time_ns() - before_ns < 50_000_000:
        continue
    spent_ns = proc.cpu_ns([os.getpid()]) - before
    assert spent_ns >= 40_000_000  # the scheduler accounts at its ticks


def test_a_familys_time_holds_that_of_children_that_ended() -> None:
    before_ns = proc.family_ns(os.getpid())
    work = "import time\nwhile time.process_time_ns() < 100_000_000: continue"
    subprocess.run([sys.executable, "-c", work], check=True)
    assert proc.family_ns(os.getpid()) - before_ns >= 80_000_000  # theirs to 10 ms


def test_memory_is_resident_and_proportional() -> None:
    size = 32 << 20
    before = proc.memory([os.getpid()])
    # Not from the heap, which may have as much to spare.
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as kept:
        kept.write(os.urandom(1 << 20) * (size >> 20))
        after = proc.memory([os.getpid()])
    assert after.rss - before.rss >= size // 2
    assert after.pss <= after.rss


def test_cores_are_ours() -> None:
    assert set(proc.cores()) <= os.sched_getaffinity(0)


def test_kernel_memory_of_sockets_is_found() -> None:
    assert proc.kernel_bytes() >= 0


async def test_a_process_that_never_rests_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(0, 10**12, 10**9))
    monkeypatch.setattr(proc, "cpu_ns", lambda pid: next(times))
    monkeypatch.setattr(proc, "_QUIET_S_MAX", 0.2)
    with pytest.raises(Unavailable, match="still busy"):
        await proc.quiet_ns([1])


async def test_a_quiet_process_is_told_with_its_last_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0, 10**9, 2 * 10**9, 2 * 10**9 + 5))
    monkeypatch.setattr(proc, "cpu_ns", lambda pid: next(times))
    assert await proc.quiet_ns([1]) == 2 * 10**9 + 5
