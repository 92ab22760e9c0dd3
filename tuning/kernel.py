"""Reading and writing what the kernel holds: sysctls under /proc/sys, words under /sys."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tuning.errors import TuneError

PROC_SYS: Final = Path("/proc/sys")


@dataclass(frozen=True)
class Reading:
    """A value as the kernel prints it, or why there is none; and why it cannot be written, None where it can."""

    value: str | None
    locked: str | None = None
    fixed: bool = False
    """Nobody can write it here: the key itself is read-only."""


def path_of(key: str) -> Path:
    """`net.core.somaxconn` -> /proc/sys/net/core/somaxconn; a path is itself."""
    return Path(key) if key.startswith("/") else PROC_SYS / key.replace(".", "/")


def read(key: str) -> Reading:
    """Never raises: an absent or hidden key says so."""
    path = path_of(key)
    try:
        value = _word(path.read_text("ascii").strip())
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Reading(None, "this kernel, or this network namespace, does not have it")
    except OSError as error:
        return Reading(None, f"it cannot be read: {error.strerror}")
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        return Reading(value, "read-only in this network namespace: it is the host's", fixed=True)
    if os.geteuid() != 0:
        return Reading(value, "needs root")
    if not os.access(path, os.W_OK):
        return Reading(value, f"/{path.parts[1]} is read-only here, as in a container")
    return Reading(value)


def write(key: str, value: str) -> str:
    """Set it; what the kernel then holds, which it may have rounded. Raises TuneError."""
    try:
        path_of(key).write_text(value, "ascii")
    except OSError as error:
        raise TuneError(f"{key} = {value}: {error.strerror}") from error
    held = read(key).value
    if held is None:
        raise TuneError(f"{key} is gone after it was set")
    return held


def numbers(value: str) -> tuple[int, ...]:
    """`4096\\t16384\\t262144` -> (4096, 16384, 262144). Raises TuneError."""
    try:
        return tuple(map(int, value.split()))
    except ValueError:
        raise TuneError(f"expected numbers, the kernel says {value!r}") from None


def same(one: str, other: str) -> bool:
    """Equal but for tabs and spaces."""
    return one.split() == other.split()


def _word(text: str) -> str:
    """`always [madvise] never` -> `madvise`."""
    chosen = re.search(r"\[(\w+)\]", text)
    return chosen[1] if chosen else text
