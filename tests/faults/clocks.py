"""Clocks that step, by libfaketime: a process has a wall clock of its own, whose offset a file says."""

from pathlib import Path
from typing import Final

from notification.errors import SettingsError

_LIBRARIES: Final = "/usr/lib/*/faketime/libfaketimeMT.so.1"


def faked_clock(offset: Path) -> dict[str, str]:
    """The environment of a process whose clock is off by the seconds in a file. Raises SettingsError."""
    found = sorted(Path("/").glob(_LIBRARIES[1:]))
    if not found:
        raise SettingsError("stepping clocks needs libfaketime: apt-get install libfaketime")
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",  # seconds until a step is seen
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # a step is of the wall clock alone
    }
