"""What is measured, started for real: gateway processes on a NATS and a Valkey of their own, and the floor.

Role inbox is a stand-in: the edge snapshot is answered here, each fill by the load generator with what the real
role says of a user without notifications (so that PostgreSQL's speed is no part of a gateway's figure). Everything
but the measured server runs on the other core.
"""

import asyncio
import contextlib
import dataclasses
import http.client
import json
import os
import secrets
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from bench import feeds, native, peers, proc
from bench.load import Load
from devstack.children import POLL_S, Child
from devstack.ports import free_ports
from devstack.processes import HeraldProcess
from devstack.servers import HOST, Nats, Valkey, greets
from notification import names
from notification.bus import NatsBus
from notification.errors import Unavailable
from notification.limits import RECEIPTS_READ_ENTRIES_MAX
from notification.messages import (
    EdgeKey,
    EdgeReply,
    EdgeRequest,
    EdgeTenant,
    decode_receipts,
    decode_request,
    encode,
)
from notification.names import (
    INBOX_EDGE,
    INBOX_QUEUE,
    INBOX_RESUME,
    RECEIPTS_FIELD,
    RECEIPTS_STREAM,
    presence_key,
)
from notification.presence import PresenceState, decode
from notification.settings import Settings
from tests.certificates import Authority

INBOX_USED: Final = "stand-in: every user has an empty log"
_START_S: Final = 10.0
_PIPELINE_COMMANDS: Final = 1_000
_SETTLE_S_MAX: Final = 30.0
_SETTLE_STEP_S: Final = 0.1


class Stage:
    """The servers around the measured ones, and the folder for files."""

    def __init__(self, folder: Path, pinned: bool) -> None:
        ports = free_ports(2)
        self.pinned = pinned
        self.folder = folder
        self.secret = secrets.token_bytes(32)
        self.settings = Settings(nats_port=ports[0], redis_port=ports[1], data_dir=str(folder), log_level="warning")
        self.core, self.other_core = proc.cores()
        self.fill = folder / "fill"
        self._authority: Authority | None = None
        self._running = contextlib.AsyncExitStack()
        self._redis: Any = None  # its stub knows only the union of all its modes

    async def start(self) -> None:
        if self.pinned:  # what is started from here on stays on the other core, unless it is measured
            os.sched_setaffinity(0, {self.other_core})
        feeds.write_empty_fill(self.fill)
        for server in (Nats(self.settings), Valkey(self.settings)):
            self._running.push_async_callback(server.stop)
            await server.start()
        bus = await NatsBus.connect(self.settings.nats_url, "bench")
        self._running.push_async_callback(bus.close)
        await bus.serve(INBOX_EDGE, self._edge, queue=INBOX_QUEUE)
        redis: Any = Redis.from_url(self.settings.redis_url)
        self._running.push_async_callback(redis.aclose)
        self._redis = redis

    async def stop(self) -> None:
        await self._running.aclose()

    def authority(self) -> Authority:
        """Who signs the certificates of those that speak TLS."""
        if self._authority is None:
            self._authority = Authority(self.folder)
        return self._authority

    async def _edge(self, subject: str, message: bytes) -> bytes:
        request = decode_request(message)
        assert isinstance(request, EdgeRequest)
        if request.have == 1:  # as the real role: a snapshot anew is a look at every connection
            return encode(EdgeReply(1, feeds.EPOCH, None))
        key = EdgeKey(feeds.ISSUER, feeds.AUDIENCE, "", "HS256", self.secret)
        return encode(EdgeReply(1, feeds.EPOCH, [EdgeTenant(feeds.TENANT, "active", [feeds.ORIGIN], [key])]))

    async def take_acks(self) -> int:
        """Take what is in the receipts stream out of it; how many acks that were."""
        count = 0
        while entries := await self._redis.xrange(RECEIPTS_STREAM, count=RECEIPTS_READ_ENTRIES_MAX):
            for _, fields in entries:
                count += len(decode_receipts(fields[RECEIPTS_FIELD.encode()]).acks)
            await self._redis.xdel(RECEIPTS_STREAM, *(entry for entry, _ in entries))
        return count

    async def owners(self, users: Sequence[int], moving: bool = False) -> list[str]:
        """The id of the gateway process that holds each user, as presence says. Raises Unavailable if one has none;
        `moving`: who is on the way to another process is left out."""
        found = []
        for first in range(0, len(users), _PIPELINE_COMMANDS):
            pipeline = self._redis.pipeline(transaction=False)
            for user in users[first : first + _PIPELINE_COMMANDS]:
                pipeline.hvals(presence_key(feeds.tag_of(user)))
            for values in await pipeline.execute():
                entries = [decode(value.decode()) for value in values]
                held = [entry.gateway_id for entry in entries if entry and entry.state is PresenceState.ONLINE]
                if not held and not moving:
                    raise Unavailable("a connected user has no presence")
                found += held[:1]
        return found


class Contestant(ABC):
    """One measured server. `pids`: its processes, whose CPU and memory count together; `proxy_pids`: those of them
    that stand in front."""

    name = ""
    until = "resumed"  # when a client is ready
    tls = False  # do clients speak TLS to it?

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.port = free_ports(1)[0]
        self.pids: list[int] = []
        self.proxy_pids: list[int] = []

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def stop(self) -> None: ...

    @property
    def subject(self) -> str:
        """Where its batches go; empty: it has one feed."""
        return ""

    @abstractmethod
    async def attach(self, load: Load) -> None:
        """Connect the generator to where batches go."""

    @abstractmethod
    async def settle(self, acks: int) -> None:
        """Wait until the acks have gone the server's whole way, where that can be seen while it runs."""

    @abstractmethod
    async def acked(self) -> int:
        """How many acks arrived since the last call, as the server's own side says. After its load has ended."""

    @contextlib.asynccontextmanager
    async def load(self, users: Sequence[int], spin: bool = True, crowd: bool = False) -> AsyncIterator[Load]:
        """A generator for this server, with fresh tokens of these users, its upstream attached. `crowd`: clients
        and nothing else, behind everybody else on their core, as if they had machines of their own."""
        heads = self.stage.folder / f"heads-{self.name}-{users[0]}"
        # A device of each contestant's own: gateways on one Redis would replace each other's connections.
        feeds.write_heads(heads, users, self.name, self.stage.secret)
        core = self.stage.other_core if self.stage.pinned else None
        async with Load(self.port, heads, core, spin, tls=self.tls, last=crowd) as load:
            if not crowd:
                await self.attach(load)
            yield load


class Gateway(Contestant):
    """`python -m gateway` as it runs in production: supervisor, metrics for several processes, all."""

    def __init__(self, stage: Stage, name: str = "engine", processes: int = 1, **settings: Any) -> None:
        super().__init__(stage)
        self.name = name
        own = {"gateway_port": self.port, "gateway_carrier": name, "gateway_processes": processes, **settings}
        self._process = HeraldProcess(dataclasses.replace(stage.settings, **own), f"gateway-{name}", ["gateway"])
        self._id = ""
        self._acks = 0  # taken from the stream so far
        self._processes = processes

    async def start(self) -> None:
        await self._process.start()
        child = self._process.child.process
        assert child is not None
        self.pids = sorted(proc.children(child.pid))
        if self._processes == 1:
            if self.stage.pinned:
                proc.pin(self.pids[0], self.stage.core)
            self._id = (await asyncio.to_thread(self._health))["gateway_id"]

    async def stop(self) -> None:
        await self._process.stop()

    def _health(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._get("/health"))
        return value

    def metrics(self) -> dict[str, float]:
        """Its metrics by name and labels."""
        lines = self._get("/metrics").decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def _get(self, path: str) -> bytes:
        door: http.client.HTTPConnection
        if self.tls:
            trusted = self.stage.authority().client()
            door = http.client.HTTPSConnection(HOST, self.port, timeout=_START_S, context=trusted)
        else:
            door = http.client.HTTPConnection(HOST, self.port, timeout=_START_S)
        with contextlib.closing(door):
            door.request("GET", path)
            return door.getresponse().read()

    @property
    def subject(self) -> str:
        return names.gateway_subject(self._id, names.PRIORITIES[0])

    async def attach(self, load: Load) -> None:
        await load.nats(self.stage.settings.nats_port)
        await load.answer(INBOX_RESUME, INBOX_QUEUE, self.stage.fill)

    async def settle(self, acks: int) -> None:
        deadline_s = time.monotonic() + _SETTLE_S_MAX
        while self._acks < acks and time.monotonic() < deadline_s:
            await asyncio.sleep(_SETTLE_STEP_S)
            self._acks += await self.stage.take_acks()

    async def acked(self) -> int:
        count, self._acks = self._acks + await self.stage.take_acks(), 0
        return count


class TlsGateway(Gateway):
    """The gateway with a certificate of its own: TLS 1.3 by the picows carrier."""

    tls = True

    def __init__(self, stage: Stage, processes: int) -> None:
        certificate, key = stage.authority().issue()
        super().__init__(
            stage, "tls", processes, gateway_carrier="picows", gateway_tls_cert=str(certificate),
            gateway_tls_key=str(key),
        )  # fmt: skip


class Proxied(Gateway):
    """HAProxy, one thread on the gateway's core, takes TLS 1.3 off and speaks PROXY v2 to the engine."""

    name = "haproxy"
    tls = True

    def __init__(self, stage: Stage, processes: int) -> None:
        behind = free_ports(1)[0]
        super().__init__(
            stage, self.name, processes, gateway_carrier="engine", gateway_port=behind, proxy_protocol="required",
            trusted_proxies=HOST,
        )  # fmt: skip
        certificate, key = stage.authority().issue("haproxy")
        both = stage.folder / "haproxy.both.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        file = stage.folder / "haproxy.cfg"
        file.write_text(_HAPROXY.format(both=both, port=self.port, behind=behind, host=HOST))
        self._proxy = Child(self.name, ["haproxy", "-db", "-f", str(file)], stage.folder / "log" / "haproxy.log")

    async def start(self) -> None:
        pid = await _start_child(self._proxy, self.port)
        if self.stage.pinned:
            proc.pin(pid, self.stage.core)
        await super().start()
        self.pids.append(pid)
        self.proxy_pids = [pid]

    async def stop(self) -> None:
        await super().stop()
        await self._proxy.stop()


_HAPROXY: Final = """\
global
    nbthread 1
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen gateway
    bind {host}:{port} ssl crt {both} alpn http/1.1
    server gateway {host}:{behind} send-proxy-v2
"""


class Floor(Contestant):
    """The bare C epoll server (native/floor.c)."""

    name = "floor"
    until = "upgraded"

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.feed_port = free_ports(1)[0]
        argv = [str(native.program("floor")), str(self.port), str(self.feed_port), str(stage.core)]
        self._child = Child(self.name, argv, stage.folder / "log" / "floor.log")
        self._acked_before = 0

    async def start(self) -> None:
        self.pids = [await _start_child(self._child, self.port)]

    async def stop(self) -> None:
        await self._child.stop()

    async def attach(self, load: Load) -> None:
        await load.tcp(self.feed_port)

    async def counters(self) -> dict[str, int]:
        """delivered, acked, pongs, short, connects, live since it started. Only while no generator is attached."""
        reader, writer = await asyncio.open_connection(HOST, self.feed_port)
        try:
            writer.write(b"\0\0\0\0")
            count = int.from_bytes(await reader.readexactly(4))
            value: dict[str, int] = json.loads(await reader.readexactly(count))
            return value
        finally:
            writer.close()

    async def settle(self, acks: int) -> None:
        """It counts an ack in the same turn in which it reads it."""

    async def acked(self) -> int:
        counters = await self.counters()
        if counters["short"]:
            raise Unavailable(f"the floor met {counters['short']} full sockets: fewer messages in flight")
        before, self._acked_before = self._acked_before, counters["acked"]
        return self._acked_before - before


class Uws(Contestant):
    """uWebSockets (native/uws.c), which has no acks, pings of its own, and one topic that all hear."""

    name = "uws"
    until = "upgraded"

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.feed_port = free_ports(1)[0]
        argv = [str(native.program("uws")), str(peers.UWS), str(self.port), str(self.feed_port), str(stage.core)]
        self._child = Child(self.name, argv, stage.folder / "log" / "uws.log")

    async def start(self) -> None:
        self.pids = [await _start_child(self._child, self.port)]

    async def stop(self) -> None:
        await self._child.stop()

    async def attach(self, load: Load) -> None:
        await load.tcp(self.feed_port)

    async def settle(self, acks: int) -> None:
        """It has no acks."""

    async def acked(self) -> int:
        return 0


async def _start_child(child: Child, port: int) -> int:
    """Start a server and wait until it accepts; its process id. Raises Unavailable."""
    child.start()
    assert child.process is not None
    async with asyncio.timeout(_START_S):
        while not await greets(port, b"", b""):
            if not child.running:
                raise child.died()
            await asyncio.sleep(POLL_S)
    return child.process.pid


def _make(stage: Stage, name: str, processes: int, settings: dict[str, Any]) -> Contestant:
    if name == Floor.name:
        return Floor(stage)
    if name == Uws.name:
        return Uws(stage)
    if name == Proxied.name:
        return Proxied(stage, processes)
    if name == "tls":
        return TlsGateway(stage, processes)
    return Gateway(stage, name, processes, **settings)


def absent(contestants: Sequence[str]) -> list[str]:
    """Those that cannot be started here: a peer that was not fetched, HAProxy that is not installed."""
    here = {Uws.name: peers.uws_is_here(), Proxied.name: shutil.which("haproxy") is not None}
    return [name for name in contestants if not here.get(name, True)]


@contextlib.asynccontextmanager
async def running(
    contestants: Sequence[str], processes: int = 1, **settings: Any
) -> AsyncIterator[tuple[Stage, dict[str, Contestant]]]:
    """The stage and the contestants of these names, all up; everything is gone afterwards.

    A gateway of one process has a core for itself; several share all cores with everything else. `settings` are of
    its configuration, for either carrier without TLS.
    """
    with tempfile.TemporaryDirectory(prefix="herald-bench-") as folder:
        stage = Stage(Path(folder), pinned=processes == 1)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(stage.stop)
            await stage.start()
            up: dict[str, Contestant] = {}
            for name in contestants:
                one = _make(stage, name, processes, settings)
                stack.push_async_callback(one.stop)
                await one.start()
                up[name] = one
            yield stage, up
