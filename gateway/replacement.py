"""One connection per device: the newer one replaces the older, on this process or on any other.

Here the registry knows. Across processes presence does: whoever writes its entry over another process's tells that
process, on a subject of its own; whoever finds a newer entry there closes itself. The connection epoch decides;
presence gives it out, so that it follows the order of arrival there and not the clocks of the hosts.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from gateway._fast.carrier import Connection
from gateway._fast.registry import Registry
from gateway.presence import Presence
from notification import telemetry
from notification.bus import Bus
from notification.codes import Closes
from notification.limits import COMMANDS_IN_FLIGHT_MAX
from notification.messages import Replaced, decode_replaced, encode
from notification.names import replaced_subject
from notification.presence import Entry

EPOCH_MAX: Final = 2**62  # newer than any

_log = structlog.get_logger("replacement")


def replace(registry: Registry[Connection], tag: bytes, device: str, epoch: int) -> int:
    """Close the device's connections older than `epoch`; the newest epoch among them, 0 if there was none.

    They leave the registry first: their presence entry is the newer connection's.
    """
    seen = 0
    for other in registry.find(tag):
        if other.session.device == device and other.session.connection_epoch < epoch:
            seen = max(seen, other.session.connection_epoch)
            registry.remove(tag, other)
            other.close(Closes.REPLACED.code, Closes.REPLACED.reason)
    return seen


class Replacement:
    """Replacement across processes."""

    def __init__(self, bus: Bus, registry: Registry[Connection], presence: Presence) -> None:
        self._bus = bus
        self._registry = registry
        self._presence = presence
        self._notices: set[asyncio.Task[None]] = set()
        presence.rival = self._rival

    async def start(self, gateway_id: str) -> None:
        await self._bus.serve(replaced_subject(gateway_id), self._handle)

    async def close(self) -> None:
        """Let the last notices out."""
        await asyncio.gather(*self._notices, return_exceptions=True)

    def _rival(self, connection: Connection, entry: Entry) -> None:
        session = connection.session
        if entry.epoch > session.connection_epoch:
            self._registry.remove(session.tag, connection)
            connection.close(Closes.REPLACED.code, Closes.REPLACED.reason)
        elif len(self._notices) < COMMANDS_IN_FLIGHT_MAX:
            # Where the connection has ended since, it only overwrote the other's entry.
            epoch = session.connection_epoch if connection.is_open() else 0
            notice = encode(Replaced(session.tag, session.device, epoch))
            task = asyncio.get_running_loop().create_task(
                self._bus.publish(replaced_subject(entry.gateway_id), notice)
            )
            self._notices.add(task)
            task.add_done_callback(self._notices.discard)
        else:
            _log.warning("replacement_not_told", in_flight=len(self._notices))

    async def _handle(self, subject: str, data: bytes) -> None:
        try:
            notice = decode_replaced(data)
        except msgspec.DecodeError:
            telemetry.BUS_BAD.inc()
            return
        replace(self._registry, notice.tag, notice.device, notice.epoch)
        for connection in self._registry.find(notice.tag):
            if connection.session.device == notice.device:  # a newer one, whose entry may have been overwritten
                self._presence.keep(connection)
