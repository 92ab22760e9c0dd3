"""What the kernel says of a process: CPU time, memory; and of its sockets."""

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Final, NamedTuple

from notification.errors import Unavailable

_QUIET_STEP_S: Final = 0.05
_QUIET_CPU_NS: Final = 1_500_000  # in a step: 3 % of a core, more than beats and leases take
_QUIET_S_MAX: Final = 10.0
# Slab caches whose objects come and go with TCP connections and their descriptors.
_SLABS: Final = ("TCP", "TCPv6", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "ep_head", "tw_sock_TCP",
                 "request_sock_TCP", "skbuff_head_cache", "skbuff_fclone_cache")  # fmt: skip


def cores() -> tuple[int, int]:
    """(core of the measured server, core of everything else); the same one where there is only one."""
    ours = sorted(os.sched_getaffinity(0))
    return ours[0], ours[-1]


def pin(pid: int, core: int) -> None:
    """Keep all threads of a process on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process, user and kernel, to the nanosecond (schedstat)."""
    return sum(int(stat.read_text().split()[0]) for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"))


async def quiet_ns(pid: int) -> int:
    """Wait until a process has nothing to do; its CPU time then. Raises Unavailable when it never rests."""
    deadline_s = time.monotonic() + _QUIET_S_MAX
    before = cpu_ns(pid)
    while time.monotonic() < deadline_s:
        await asyncio.sleep(_QUIET_STEP_S)
        now = cpu_ns(pid)
        if now - before < _QUIET_CPU_NS:
            return now
        before = now
    raise Unavailable(f"process {pid} is still busy {_QUIET_S_MAX:g} s after the load ended")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Memory(NamedTuple):
    """Bytes: resident, and the proportional share of what is shared."""

    rss: int
    pss: int


def memory(pid: int) -> Memory:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = {name: int(kib) * 1_024 for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    return Memory(fields["Rss"], fields["Pss"])


def kernel_bytes() -> int:
    """Kernel memory of all TCP sockets of the machine: buffers (sockstat), slab objects where we may read them."""
    found = re.search(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    total = int(found[1]) * os.sysconf("SC_PAGE_SIZE") if found else 0
    slabs = Path("/proc/slabinfo")
    if os.access(slabs, os.R_OK):
        for line in slabs.read_text().splitlines():
            columns = line.split()
            if columns[0] in _SLABS:
                total += int(columns[1]) * int(columns[3])
    return total
