"""The memory twin of worker.presence.RedisPresence: a user's devices in a dictionary."""

from collections.abc import Sequence

from notification.presence import Entry, PresenceState
from worker.presence import Beats, Located


class MemoryPresence:
    """PresenceReader over `entries` (tag -> device -> Entry), `leases` and the marker's age."""

    def __init__(self, beats: Beats) -> None:
        self.entries: dict[str, dict[str, Entry]] = {}
        self.leases: set[str] = set()
        self.readable = True
        self.settled = True  # the marker exists and is older than PRESENCE_REBUILD_MS
        self.looked = 0
        self._beats = beats

    async def locate(self, tags: Sequence[str]) -> Located:
        self.looked += 1
        if not (self.readable and self.settled):
            return Located(True, {}, self._beats.live())
        owners: dict[str, tuple[str, ...]] = {}
        for tag in tags:
            devices = self.entries.get(tag, {})
            gateways = {
                entry.gateway_id: None
                for entry in devices.values()
                if entry.state is PresenceState.ONLINE and self._lives(entry.gateway_id)
            }
            if gateways:
                owners[tag] = tuple(gateways)
            for device, entry in list(devices.items()):
                if not self._lives(entry.gateway_id) and self._beats.settled:
                    del devices[device]
        return Located(False, owners, self._beats.live())

    def online(self, tag: str, gateway_id: str, device: str = "d") -> None:
        """A device connects: its entry, and its gateway's lease."""
        self.entries.setdefault(tag, {})[device] = Entry(gateway_id, 1, PresenceState.ONLINE, 1)
        self.leases.add(gateway_id)

    def _lives(self, gateway_id: str) -> bool:
        return gateway_id in self.leases or self._beats.lives(gateway_id)
