"""What the kernel says of a process: CPU time, memory; and of its sockets."""

import asyncio
import os
import re
import time
from collections.abc import Sequence
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


def cpu_ns(pids: Sequence[int]) -> int:
    """CPU time of all threads of processes, user and kernel, to the nanosecond (schedstat)."""
    return sum(
        int(stat.read_text().split()[0]) for pid in pids for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def family_ns(pid: int) -> int:
    """CPU time of a process, its children, and those of its children that have ended (these to 10 ms)."""
    while True:
        try:
            # After the name, which may hold anything: cutime and cstime are fields 16 and 17 (proc_pid_stat(5)).
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            ended_ticks = int(fields[13]) + int(fields[14])
            return ended_ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK") + cpu_ns([pid, *children(pid)])
        except (FileNotFoundError, ProcessLookupError):  # a child ended meanwhile: look again
            if not Path(f"/proc/{pid}").exists():
                raise


async def quiet_ns(pids: Sequence[int], cpu_ns_max: int = _QUIET_CPU_NS) -> int:
    """Wait until processes have nothing to do, which takes them at most `cpu_ns_max` in a step of 50 ms; their CPU
    time then. Raises Unavailable when they never rest."""
    deadline_s = time.monotonic() + _QUIET_S_MAX
    before = cpu_ns(pids)
    while time.monotonic() < deadline_s:
        await asyncio.sleep(_QUIET_STEP_S)
        now = cpu_ns(pids)
        if now - before < cpu_ns_max:
            return now
        before = now
    raise Unavailable(f"processes {pids} are still busy {_QUIET_S_MAX:g} s after the load ended")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Memory(NamedTuple):
    """Bytes: resident, and the proportional share of what is shared."""

    rss: int
    pss: int

    def since(self, before: "Memory") -> "Memory":
        """What came since then."""
        return Memory(self.rss - before.rss, self.pss - before.pss)


def memory(pids: Sequence[int]) -> Memory:
    """Of processes together."""
    rss = pss = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        fields = {name: int(kib) * 1_024 for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
        rss += fields["Rss"]
        pss += fields["Pss"]
    return Memory(rss, pss)


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
