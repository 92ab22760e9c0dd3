"""What machine this is: cores, memory, kernel, container or not, network card."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CONTAINER_MARKS: Final = (".dockerenv", "run/.containerenv", "run/systemd/container")


@dataclass(frozen=True)
class Card:
    """A network card; the masks are the kernel's hexadecimal ones, a queue each."""

    name: str
    driver: str
    rx_queues: int
    tx_queues: int
    rps: tuple[str, ...]
    xps: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """Frozen facts that the targets and the plan depend on."""

    cores: int
    memory_bytes: int
    page_bytes: int
    kernel: str
    container: str | None
    """What says that this is a container; None on a machine of its own."""
    systemd: bool
    root: bool
    irqbalance: bool
    card: Card | None


def read(top: Path = Path("/")) -> Machine:
    """The machine under `top` (a test has its own)."""
    return Machine(
        cores=os.cpu_count() or 1,
        memory_bytes=_memory_bytes((top / "proc/meminfo").read_text("ascii")),
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release(),
        container=next((f"/{mark}" for mark in _CONTAINER_MARKS if (top / mark).exists()), None),
        systemd=(top / "run/systemd/system").is_dir(),
        root=os.geteuid() == 0,
        irqbalance=_runs(top / "proc", "irqbalance"),
        card=_card(top),
    )


def _memory_bytes(meminfo: str) -> int:
    total = next(line for line in meminfo.splitlines() if line.startswith("MemTotal:"))
    return int(total.split()[1]) * 1_024


def _runs(proc: Path, name: str) -> bool:
    return any(_text(path) == name for path in proc.glob("[0-9]*/comm"))


def _card(top: Path) -> Card | None:
    """The card of the default route; None without one, or where it is no hardware (veth, lo)."""
    lines = _text(top / "proc/net/route").splitlines()[1:]
    name = next((fields[0] for fields in map(str.split, lines) if len(fields) > 1 and fields[1] == "0" * 8), None)
    if name is None:
        return None
    folder = top / "sys/class/net" / name
    driver = folder / "device/driver"
    if not driver.exists():
        return None
    rx, tx = (sorted(folder.glob(f"queues/{kind}-*")) for kind in ("rx", "tx"))
    return Card(
        name, driver.resolve().name, len(rx), len(tx),
        tuple(_text(queue / "rps_cpus") for queue in rx), tuple(_text(queue / "xps_cpus") for queue in tx),
    )  # fmt: skip


def _text(path: Path) -> str:
    """A small file's text; empty where it is absent or refused (a process that ended, a driver without XPS)."""
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""
