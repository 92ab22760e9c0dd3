"""The table: every setting with its target, the reason and where both come from.

A target never takes away what is better already: of several numbers each is compared for itself.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tuning.machine import Machine

BACKLOG: Final = 16_384  # connects; what Herald asks of listen() (notification/limits.py, LISTEN_BACKLOG)
NOFILE: Final = 262_144  # descriptors of one process
NOTSENT_BYTES: Final = 65_536  # what Herald sets on its own sockets (limits.py, WRITE_BUFFER_BYTES_MAX)
HUGE_PAGES: Final = "/sys/kernel/mm/transparent_hugepage/enabled"

_IP_SYSCTL: Final = "kernel, ip-sysctl.rst"
_CONNTRACK: Final = "kernel, nf_conntrack-sysctl.rst"
_NET: Final = "kernel, admin-guide/sysctl/net.rst"
_FS: Final = "kernel, admin-guide/sysctl/fs.rst"
_VM: Final = "kernel, admin-guide/sysctl/vm.rst"
_CENTRIFUGO: Final = "Centrifugo, infrastructure tuning"
_OWN: Final = "our proposal, not measured"


class Better(enum.Enum):
    """Which way a value may go."""

    HIGHER = "higher"
    LOWER = "lower"  # takes something away: only with --force
    WIDER = "wider"  # a range: first number down, second up
    WORD = "word"  # a mode; only with --force


class Scope(enum.Enum):
    """Whose setting it is."""

    NETWORK = "network"  # of the network namespace: a container has its own
    HOST = "host"


@dataclass(frozen=True)
class Ask:
    """What the operator asks for on the command line."""

    connections: int = 100_000
    unit: str = "herald-gateway.service"
    login: str | None = None
    load_generator: bool = False
    force: bool = False


Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Setting:
    """One row. `key` is a sysctl's name or a path under /sys."""

    group: str
    key: str
    target: Callable[[Machine, Ask], Numbers | str]
    better: Better
    why: str
    source: str
    scope: Scope = Scope.NETWORK
    restart: bool = False
    """A process sees it only after its start."""
    load_generator: bool = False
    """Only with --load-generator."""


def _fixed(*numbers: int) -> Callable[[Machine, Ask], Numbers]:
    return lambda _machine, _ask: numbers


def _files(machine: Machine, _ask: Ask) -> Numbers:
    return (max(machine.cores, 8) * NOFILE,)


def _tcp_pages(machine: Machine, _ask: Ask) -> Numbers:
    """9.4, 12.5 and 18.75 % of memory, in pages: 1.5, 2 and 3 GiB of 16."""
    pages = machine.memory_bytes // machine.page_bytes
    return (pages * 3 // 32, pages // 8, pages * 6 // 32)


def _tracked(_machine: Machine, ask: Ask) -> Numbers:
    return (max(262_144, ask.connections * 4),)


DESCRIPTORS: Final = "Descriptors"
CONNECTS: Final = "Connects"
BUFFERS: Final = "Memory of sockets"
TRACKING: Final = "Connection tracking"
MEMORY: Final = "Memory of processes"
CARD: Final = "Network card (untested: commands to try, tune never runs them)"

SETTINGS: Final = (
    Setting(
        DESCRIPTORS, "fs.nr_open", _fixed(1_048_576), Better.HIGHER,
        "The highest descriptor limit that any process can be given.", f"{_FS}; {_CENTRIFUGO}", Scope.HOST,
    ),
    Setting(
        DESCRIPTORS, "fs.file-max", _files, Better.HIGHER,
        f"Open files of the whole machine: {NOFILE:,} for each core's process, and for 8 at least.",
        f"{_FS}; {_CENTRIFUGO}", Scope.HOST,
    ),
    Setting(
        CONNECTS, "net.core.somaxconn", _fixed(BACKLOG), Better.HIGHER,
        "Connects that wait until a process takes them. Herald asks for 16,384; the kernel cuts that to this "
        "value and says nothing. In a reconnect storm the rest is dropped and comes again 1 s, 3 s and 7 s later.",
        f"{_IP_SYSCTL}; docs/tuning.md", restart=True,
    ),
    Setting(
        CONNECTS, "net.ipv4.tcp_max_syn_backlog", _fixed(BACKLOG), Better.HIGHER,
        "Connects half made. Counts where tcp_syncookies is 0; with 1 or 2, somaxconn bounds these too.",
        _IP_SYSCTL,
    ),
    Setting(
        CONNECTS, "net.core.netdev_max_backlog", _fixed(BACKLOG), Better.HIGHER,
        "Packets that wait for a core on the way in through loopback, veth and RPS: a proxy on this machine, "
        "containers. A card with queues of its own (ENA) does not use it.", _NET, Scope.HOST,
    ),
    Setting(
        CONNECTS, "net.ipv4.tcp_migrate_req", _fixed(1), Better.HIGHER,
        "When a gateway process closes its listening socket (a drain, a supervisor that was killed), connects that "
        "wait there go to another process instead of being reset. Linux 5.14 or newer.", _IP_SYSCTL,
    ),
    Setting(
        CONNECTS, "net.ipv4.ip_local_port_range", _fixed(1_024, 65_535), Better.WIDER,
        "A client address has one port per connection to a port of the server: 28,232 by default. For machines "
        "that open connections; on a server it takes ports from its own services.",
        f"{_IP_SYSCTL}; {_CENTRIFUGO}", load_generator=True,
    ),
    Setting(
        BUFFERS, "net.ipv4.tcp_mem", _tcp_pages, Better.HIGHER,
        "Pages for all sockets' data: no pressure below the first, from the second on buffers shrink, at the third "
        "sends fail. 9.4, 12.5 and 18.75 % of memory. An idle connection holds none; one unread notification for "
        "everybody does.", f"{_IP_SYSCTL}; docs/tuning.md", Scope.HOST,
    ),
    Setting(
        BUFFERS, "net.ipv4.tcp_rmem", _fixed(4_096, 16_384, 262_144), Better.LOWER,
        "What a client can make the kernel hold before Herald reads it. Idle connections hold nothing either way. "
        "Lowers a value for every socket of the machine: where bulk data also comes in, leave it.",
        "docs/tuning.md",
    ),
    Setting(
        BUFFERS, "net.ipv4.tcp_wmem", _fixed(4_096, 16_384, 262_144), Better.LOWER,
        "What one client that acknowledges slowly can hold in the kernel. Herald bounds the unsent part itself "
        "(next row), so this is the rest.", _OWN,
    ),
    Setting(
        BUFFERS, "net.ipv4.tcp_notsent_lowat", _fixed(NOTSENT_BYTES), Better.LOWER,
        "Unsent bytes that a socket takes: what is in the kernel cannot be overtaken by HIGH. Herald sets 64 KB on "
        "its own sockets, whatever stands here; this row is for a proxy in front of it on this machine.",
        f"{_IP_SYSCTL}; docs/tuning.md",
    ),
    Setting(
        TRACKING, "net.netfilter.nf_conntrack_max", _tracked, Better.HIGHER,
        "Connections that the firewall remembers; beyond them new ones are dropped. Four for each client "
        "connection: after a reconnect storm the old ones stay for two minutes.", _CONNTRACK, Scope.HOST,
    ),
    Setting(
        TRACKING, "net.netfilter.nf_conntrack_buckets", _fixed(262_144), Better.HIGHER,
        "The hash table of these, 8 bytes a bucket; the kernel takes as many by itself from 4 GiB of memory on.",
        _CONNTRACK, Scope.HOST,
    ),
    Setting(
        TRACKING, "net.netfilter.nf_conntrack_tcp_timeout_established", _fixed(600), Better.LOWER,
        "Seconds without a packet until a connection is forgotten; the default is five days. Herald pings each "
        "30 s, so that only dead ones go. Other services with connections idle for longer need a keepalive.",
        f"{_CONNTRACK}; {_OWN}",
    ),
    Setting(
        TRACKING, "net.netfilter.nf_conntrack_tcp_timeout_time_wait", _fixed(30), Better.LOWER,
        "Seconds for which a closed connection is remembered.", f"{_CONNTRACK}; {_OWN}",
    ),
    Setting(
        MEMORY, "vm.swappiness", _fixed(10), Better.LOWER,
        "Swap idle processes later: a gateway's quiet connections are woken each 30 s. No effect without swap.",
        f"{_VM}; {_OWN}", Scope.HOST,
    ),
    Setting(
        MEMORY, HUGE_PAGES, lambda _machine, _ask: "madvise", Better.WORD,
        "Huge pages for those who ask only: with `always`, a sparsely used heap grows by 2 MiB at a time.",
        f"kernel, admin-guide/mm/transhuge.rst; {_OWN}", Scope.HOST,
    ),
)  # fmt: skip
