"""One gateway process: everything is made and wired here, and nowhere else."""

import asyncio
import os
import random
import re
import secrets
import socket
import ssl
import sys
from collections.abc import Sequence

import structlog
import uvloop

from gateway import drain, listener, tls
from gateway._fast.carrier import Connection
from gateway._fast.registry import Registry
from gateway.audiences import Audiences
from gateway.caps import Caps
from gateway.clock import DatabaseClock
from gateway.commands import Commands
from gateway.connections import Connections
from gateway.edge import Change, Edge
from gateway.engine_listener import EngineListener
from gateway.eviction import Eviction
from gateway.handshake import HEALTH_PATH, METRICS_PATH
from gateway.health import Health
from gateway.inbound import Inbound
from gateway.introspection import Introspection
from gateway.link import Link
from gateway.listener import Listener, Route
from gateway.outbound import Outbound
from gateway.picows_listener import PicowsListener
from gateway.pipeline import Pipeline, PipelineError, RedisPipeline
from gateway.presence import Presence
from gateway.redis_cluster import ClusterPipeline
from gateway.replacement import Replacement
from gateway.resume import Resume, welcomed
from gateway.timers import Timers
from notification import redis_address, telemetry
from notification import settings as configuration
from notification.bus import Bus, NatsBus
from notification.errors import HeraldError, Unavailable
from notification.ids import new_ulid
from notification.lifecycle import die_with_parent, notify_ready, stop_event
from notification.limits import (
    DRAIN_LISTEN_MS,
    DRAIN_WINDOW_MS,
    NEW_LOG_WINDOW_MS,
    REDIS_REPLY_MS_MAX,
    STARTUP_DEADLINE_S,
)
from notification.settings import AUTH_SERVICE_SECRET, Network, Settings

_log = structlog.get_logger("gateway")


def make_gateway_id(index: int) -> str:
    """`{host}-{process index}-{boot ULID}`: one token of a subject, new with every boot."""
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:20] or "gateway"
    return f"{host}-{index}-{new_ulid()}"


class Gateway:
    """The parts of one process. It owns neither bus, pipeline nor introspection: whoever made them closes them."""

    def __init__(
        self, bus: Bus, pipeline: Pipeline, gateway_id: str, carrier: str = "engine", caps: Caps | None = None,
        proxied: bool = False, tls: ssl.SSLContext | None = None, introspection: Introspection | None = None,
        metrics_readers: Sequence[Network] = (),
    ) -> None:  # fmt: skip
        self.gateway_id = gateway_id
        self._caps = Caps() if caps is None else caps
        self._bus = bus
        self._pipeline = pipeline
        self.registry: Registry[Connection] = Registry()
        clock = DatabaseClock()
        self._timers = Timers()
        self.edge = Edge(bus, self._edge_changed, introspection, self._caps.asking)
        self._eviction = Eviction(self.registry, self.edge)
        self._presence = Presence(pipeline, self.registry, gateway_id)
        self._outbound = Outbound(pipeline, bus, gateway_id)
        self._resume = Resume(bus, self.edge, clock)
        self._audiences = Audiences(bus, clock, self._resume.nudge, welcomed)
        bus.returned = self._audiences.look
        self._presence.settled = self._resume.settled
        self._presence.shown = self._resume.look
        self._commands = Commands(bus, self.edge, self._outbound, self._resume)
        self.connections = Connections(
            self.registry, self.edge, self._presence, self._outbound, self._resume, self._commands, self._timers,
            self._caps, self._audiences,
        )  # fmt: skip
        self._replacement = Replacement(bus, self.registry, self._presence)
        self._inbound = Inbound(self.registry, self._resume, clock)
        self._health = Health(
            bus, pipeline, self._presence, self.connections, self._timers.pulse, gateway_id,
            (self.connections.settle, self._resume.connect_seconds.settle, self._timers.ping_seconds.settle),
            metrics_readers,
        )  # fmt: skip
        self._shedding: asyncio.Task[None] | None = None
        self._listener = self._listen_by(
            carrier, {HEALTH_PATH: self._health.health, METRICS_PATH: self._health.metrics}, proxied, tls
        )

    def _listen_by(
        self, carrier: str, routes: dict[str, Route], proxied: bool, tls: ssl.SSLContext | None
    ) -> Listener:
        """Setting gateway_carrier: who moves the bytes between sockets and sessions."""
        if carrier == "picows":
            return PicowsListener(
                self.connections, self.edge, routes, self._caps, proxied, tls, self._timers, self.connections.count
            )
        assert tls is None, "settings refuse it: the engine speaks plain TCP"
        return EngineListener(self.connections, self.edge, routes, self._caps, proxied)

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound socket. Batches are answered before the first client is accepted."""
        self._timers.start(self._resume.tick, self._audiences.tick)
        await self.edge.start()
        await self._inbound.start(self._bus, self.gateway_id)
        await self._replacement.start(self.gateway_id)
        await self._health.start()
        await self._listener.start(sock)

    async def drain(self) -> None:
        """Refuse newcomers, send the clients away, hand over every receipt, stop."""
        self.connections.draining = self._listener.draining = self._inbound.draining = True
        await self._health.beat()
        # What the kernel accepted for us already is answered 503, and so is a load balancer's health check.
        await asyncio.sleep(DRAIN_LISTEN_MS / 1_000)
        await self._listener.close()
        await drain.send_away(self.registry.connections(), self.connections.count, DRAIN_WINDOW_MS)
        await self.close()

    async def close(self) -> None:
        """Stop the parts; what is still open is dropped."""
        await self._listener.close()
        if self._shedding is not None:
            self._shedding.cancel()
            await asyncio.gather(self._shedding, return_exceptions=True)
        for connection in self.registry.connections():
            connection.abort()
        await self._listener.end()
        await asyncio.sleep(0)
        for part in (
            self._timers, self._presence, self._resume, self._audiences, self._commands, self._replacement,
            self._health,
        ):  # fmt: skip
            await part.close()
        await self.edge.close()
        await self._eviction.close()
        await self._flush_receipts()

    async def _flush_receipts(self) -> None:
        self._outbound.flush()
        try:
            async with asyncio.timeout(REDIS_REPLY_MS_MAX / 1_000):
                await self._pipeline.settled()
        except (Unavailable, TimeoutError, PipelineError):
            _log.warning("receipts_left_behind", queued=self._pipeline.queued)

    def shed(self, count: int) -> None:
        """Send so many clients away, to come back to a process that has fewer. One wave at a time."""
        if self._shedding is not None and not self._shedding.done():
            return
        connections = self.registry.connections()
        self._send_away(random.sample(connections, min(count, len(connections))), DRAIN_WINDOW_MS)

    def _send_away(self, chosen: list[Connection], window_ms: int) -> None:
        self._shedding = asyncio.create_task(
            drain.send_away(chosen, lambda: sum(connection.is_open() for connection in chosen), window_ms)
        )

    def _edge_changed(self, change: Change) -> None:
        self._eviction.changed(change)
        if change.new_log:
            # Its numbers are not those that connections have: each is to begin anew, with a snapshot.
            _log.warning("new_log", epoch=self.edge.epoch)
            if self._shedding is not None:
                self._shedding.cancel()
            self._send_away(self.registry.connections(), NEW_LOG_WINDOW_MS)


def introspect(settings: Settings) -> Introspection | None:
    """Who asks the AuthService about tokens; None without one. Within the running loop. Raises SettingsError."""
    if not settings.auth_service:
        return None
    from gateway.auth_service import AuthService  # an HTTP client and its memory, only where one is needed

    secret = settings.secret(AUTH_SERVICE_SECRET)
    service = AuthService(settings.auth_service, settings.auth_service_client, secret)
    return Introspection(service, settings.auth_service_tokens == "all")


async def serve(settings: Settings, index: int, sock: socket.socket, to_supervisor: socket.socket) -> None:
    """Run until SIGTERM or SIGINT. Raises HeraldError when it cannot start."""
    stopping = stop_event()
    context = tls.server_context(settings)
    gateway_id = make_gateway_id(index)
    address = redis_address.parse(settings.redis_url)
    cluster = address.kind is redis_address.Kind.CLUSTER
    pipeline = ClusterPipeline(address) if cluster else RedisPipeline(address)
    starting = asyncio.gather(NatsBus.connect(settings.nats_url, gateway_id), pipeline.start(STARTUP_DEADLINE_S))
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        return
    bus, _ = starting.result()
    caps = Caps(settings.connections_per_address, settings.connections_per_tenant, settings.proxies)
    proxied = settings.proxy_protocol == "required"
    introspection = introspect(settings)
    gateway = Gateway(
        bus, pipeline, gateway_id, settings.carrier, caps, proxied, context, introspection, settings.metrics_readers
    )
    link = Link(to_supervisor, gateway.connections.count, gateway.shed)
    listening = asyncio.create_task(link.listen())
    await asyncio.wait((listening, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not listening.done():
        listening.cancel()
        return
    await gateway.start(sock)
    notify_ready()
    _log.info("gateway_serving", gateway_id=gateway_id, port=settings.gateway_port)
    await stopped
    link.draining()
    await gateway.drain()
    await link.close()
    await bus.close()
    await pipeline.close()
    if introspection is not None:
        await introspection.close()
    _log.info("gateway_stopped", gateway_id=gateway_id)


def main(index: int, sock: socket.socket, to_supervisor: socket.socket) -> int:
    """Entry of one process, with a bound socket and its end of the link; the exit status."""
    die_with_parent()
    try:
        settings, _ = configuration.load()
        telemetry.configure(settings.log_level, secrets.token_bytes(32), settings.log_json)
        listener.raise_descriptor_limit()
        uvloop.run(serve(settings, index, sock, to_supervisor))
    except HeraldError as error:
        print(f"gateway process {index} (pid {os.getpid()}): {error}", file=sys.stderr)
        return 1
    return 0
