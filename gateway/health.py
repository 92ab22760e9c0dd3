"""Signs of life: the beat of this process, batched health pings, /health and /metrics."""

import asyncio
import ipaddress
import os
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import prometheus_client
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from gateway._fast.pulse import Pulse
from gateway.clock import unix_ms
from gateway.connections import Connections
from gateway.pipeline import Pipeline
from gateway.presence import Presence
from notification import telemetry
from notification.bus import Bus
from notification.codes import Refusals
from notification.lifecycle import essential
from notification.limits import BEAT_MS, LEASE_RENEW_MS
from notification.messages import Beat, encode, encode_health_ping
from notification.names import STATUS_SUBJECT, health_subject
from notification.settings import Network

_log = structlog.get_logger("health")


class Health:
    """Beats each BEAT_MS, health pings with it; renews lease and presence in the same rhythm. `settle`: what counts
    in plain numbers brings the metrics up to date, each beat and before they are read."""

    def __init__(
        self, bus: Bus, pipeline: Pipeline, presence: Presence, connections: Connections, pulse: Pulse[Any],
        gateway_id: str, settle: Sequence[Callable[[], None]], readers: Sequence[Network] = (),
    ) -> None:  # fmt: skip
        self._bus = bus
        self._pipeline = pipeline
        self._presence = presence
        self._connections = connections
        self._pulse = pulse
        self._gateway_id = gateway_id
        self._settle = settle
        self._readers = readers
        self._collecting: asyncio.Task[bytes] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """The first lease and beat are out when this returns."""
        await self._presence.renew()
        await self.beat()
        self._tasks = [essential(self._beats()), essential(self._leases())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def beat(self) -> None:
        """Tell workers that this process lives, and whether it drains."""
        self._settle_metrics()
        message = Beat(self._gateway_id, unix_ms(), self._connections.count(), self._connections.draining)
        await self._bus.publish(STATUS_SUBJECT, encode(message))

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(BEAT_MS / 1_000)
            await self.beat()
            await self._pings()

    async def _leases(self) -> None:
        # Beside the beats, not among them: a Redis that answers slowly must not look like a dead gateway.
        while True:
            await asyncio.sleep(LEASE_RENEW_MS / 1_000)
            await self._presence.renew()
            self._presence.tick()

    async def _pings(self) -> None:
        """Who answered a ping lately, and how fast."""
        for clients in self._pulse.take():
            message = encode_health_ping(self._gateway_id, unix_ms(), clients)
            await self._bus.publish(health_subject(self._gateway_id), message)

    def _settle_metrics(self) -> None:
        telemetry.RECEIPTS_QUEUED.set(self._pipeline.queued)
        for settle in self._settle:
            settle()

    # --- HTTP ---------------------------------------------------------------
    async def health(self, _client: str) -> tuple[int, str, bytes]:
        """GET /health: 200, or 503 while draining."""
        draining = self._connections.draining
        body = msgspec.json.encode(
            {
                "status": "draining" if draining else "ok",
                "draining": draining,
                "connections": self._connections.count(),
                "gateway_id": self._gateway_id,
                "redis": "up" if self._pipeline.connected else "down",
            }
        )
        return (503 if draining else 200), "application/json", body + b"\n"

    async def metrics(self, client: str) -> tuple[int, str, bytes]:
        """GET /metrics: all processes summed, Prometheus text; the others as of their last beat. Strangers: 404."""
        if not self._may_read(client):
            return Refusals.NOT_FOUND.status, "application/json", Refusals.NOT_FOUND.body
        if self._collecting is None:  # who asks meanwhile shares the answer
            self._settle_metrics()
            self._collecting = asyncio.create_task(asyncio.to_thread(_collect))
            self._collecting.add_done_callback(self._collected)
        return 200, prometheus_client.CONTENT_TYPE_LATEST, await asyncio.shield(self._collecting)

    def _collected(self, _task: "asyncio.Task[bytes]") -> None:
        self._collecting = None

    def _may_read(self, client: str) -> bool:
        try:
            address = ipaddress.ip_address(client)
        except ValueError:  # it is gone
            return False
        return any(address in network for network in self._readers)


def _collect() -> bytes:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return prometheus_client.generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus_client.generate_latest(registry)
