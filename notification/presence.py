"""One presence entry: the value of a device's field in the hash `names.presence_key`.

The gateway's memory is the truth. An entry counts only while its gateway's lease lives.
"""

import enum
from typing import NamedTuple


class PresenceState(enum.StrEnum):
    """ONLINE, RECONNECTING (for RECONNECTING_MS after an unclean close), OFFLINE = no entry."""

    ONLINE = "ONLINE"
    RECONNECTING = "RECONNECTING"


class Entry(NamedTuple):
    """Where a device is connected. `epoch` is the connection epoch: the higher one wins; `since` in Unix ms."""

    gateway_id: str
    epoch: int
    state: PresenceState
    since_ms: int

    def encode(self) -> str:
        return encode(self.gateway_id, self.epoch, self.state, self.since_ms)


def encode(gateway_id: str, epoch: int, state: PresenceState, since_ms: int) -> str:
    """An Entry as text."""
    return f"{gateway_id} {epoch} {state} {since_ms}"


def decode(value: str) -> Entry | None:
    """Parse a field's value; None for anything we did not write (a cache may hold anything)."""
    parts = value.split(" ")
    if len(parts) != 4 or parts[2] not in PresenceState.__members__:
        return None
    try:
        return Entry(parts[0], int(parts[1]), PresenceState(parts[2]), int(parts[3]))
    except ValueError:
        return None
