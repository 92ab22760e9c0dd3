"""The whole system with a proxy on every link, each worker role in a process of its own: what a case may break."""

import asyncio
import contextlib
import dataclasses
import enum
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, Self

import asyncpg

from devstack.ports import free_ports
from devstack.processes import WORKER_ROLES, HeraldProcess
from devstack.secrets import make_issuer_key, make_secrets
from devstack.servers import HOST, Kafka, Nats, PostgreSQL, Server, Servers
from devstack.tenants import create_tenant
from devstack.topics import create_topics
from notification.codes import Status
from notification.settings import Settings
from tests.contract.valkeys import Sentinels, open_sentinels
from tests.faults.clocks import faked_clock
from tests.faults.ledger import Row
from tests.proxy import Proxy
from worker.migrate import migrate

TENANTS: Final = ("faults", "others")
GATEWAY_PROCESSES: Final = 2
NATS_NODES: Final = 3
_ROWS: Final = """
SELECT notification_id, tenant_id, entity_id, lane, seq, status,
       (extract(epoch FROM expiry) * 1000)::bigint AS expiry_ms
FROM notifications
"""


class Links:
    """A proxy before each server for each process that talks to it."""

    def __init__(self, ports: Settings) -> None:
        self.kafka = Proxy(ports.kafka_port)
        self.postgres = Proxy(ports.postgres_port)
        self.worker_nats = Proxy(ports.nats_port)
        self.worker_redis = Proxy(ports.redis_port)
        self.gateway_nats = Proxy(ports.nats_port)
        self.gateway_redis = Proxy(ports.redis_port)
        self.clients = Proxy(ports.gateway_port)

    def __iter__(self) -> Iterator[Proxy]:
        return iter(vars(self).values())


class Parts(enum.Flag):
    """What a case wants instead of one embedded server without a spare."""

    ALONE = 0
    NATS_CLUSTER = 1
    SENTINELS = 2
    ONE_GATEWAY = 4
    CLOCKS = 8


class Stack:
    """A running system. `over_s`: when the fault ended (time.monotonic), if the case says so itself."""

    def __init__(self, folder: Path, kafka: type[Kafka], parts: Parts = Parts.ALONE) -> None:
        ports = free_ports(6)
        self.settings = Settings(
            kafka_port=ports[0], nats_port=ports[1], redis_port=ports[2], postgres_port=ports[3],
            gateway_port=ports[4], demo_port=ports[5], data_dir=str(folder),
            gateway_processes=1 if Parts.ONE_GATEWAY in parts else GATEWAY_PROCESSES,
        )  # fmt: skip
        self.over_s: float | None = None
        self.servers = Servers(self.settings, kafka)
        self.links = Links(self.settings)
        self.nats_nodes: list[Nats] = []
        self.sentinels: Sentinels | None = None
        self._parts = parts
        self.folder = folder
        self._processes: dict[str, HeraldProcess] = {}
        self._extra = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Start everything; stop it at the end, whatever a case left of it."""
        make_secrets(self.settings)
        for tenant in TENANTS:
            make_issuer_key(self.settings, tenant)
        async with contextlib.AsyncExitStack() as stack:
            for link in self.links:
                await link.open()
                stack.push_async_callback(link.close)
            assert isinstance(self.servers.kafka, Kafka)
            self.servers.kafka.advertised_port = self.links.kafka.port
            stack.push_async_callback(self.servers.stop)
            await self.servers.start()
            await create_topics(self.client_settings)
            await migrate(self.settings)
            for tenant in TENANTS:
                await create_tenant(self.settings, tenant)
            await self._start_spares(stack)
            stack.push_async_callback(self._stop_processes)
            for role in WORKER_ROLES:
                await self.start_worker(role)
            self._processes["gateway"] = HeraldProcess(
                self._gateway_settings, "gateway", ["gateway"], self._clock("gateway")
            )
            await self._processes["gateway"].start()
            yield self

    async def _start_spares(self, stack: contextlib.AsyncExitStack) -> None:
        if Parts.NATS_CLUSTER in self._parts:
            free = free_ports(2 * NATS_NODES)
            ports, routes = free[:NATS_NODES], free[NATS_NODES:]
            urls = ", ".join(f'"nats://{HOST}:{route}"' for route in routes)
            for port, route in zip(ports, routes, strict=True):
                settings = dataclasses.replace(
                    self.settings, nats_port=port, data_dir=str(self.folder / f"nats-{port}")
                )
                join = f"{{ name: herald, listen: {HOST}:{route}, routes: [{urls}] }}"
                self.nats_nodes.append(Nats(settings, f"server_name: n{port}\ncluster {join}\n"))
                stack.push_async_callback(self.nats_nodes[-1].stop)
            for node in self.nats_nodes:
                await node.start()
        if Parts.SENTINELS in self._parts:
            folder = self.folder / "sentinels"
            folder.mkdir()
            self.sentinels = await stack.enter_async_context(open_sentinels(folder))

    async def _stop_processes(self) -> None:
        for process in self._processes.values():
            for pid in _family(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)  # one that stands still hears no other signal
            await process.stop()

    # --- who connects where -------------------------------------------------------
    @property
    def client_settings(self) -> Settings:
        """Of the producer and the devices."""
        return dataclasses.replace(
            self.settings, kafka_port=self.links.kafka.port, gateway_port=self.links.clients.port
        )

    @property
    def _worker_settings(self) -> Settings:
        return dataclasses.replace(
            self.settings, kafka_port=self.links.kafka.port,
            postgres=f"postgresql://postgres@{HOST}:{self.links.postgres.port}/herald",
            nats=self._nats(self.links.worker_nats), redis=self._redis(self.links.worker_redis),
        )  # fmt: skip

    @property
    def _gateway_settings(self) -> Settings:
        return dataclasses.replace(
            self.settings, nats=self._nats(self.links.gateway_nats), redis=self._redis(self.links.gateway_redis)
        )

    def _nats(self, link: Proxy) -> str:
        """A cluster's nodes are reached without a proxy."""
        ports = [node.port for node in self.nats_nodes] or [link.port]
        return ",".join(f"nats://{HOST}:{port}" for port in ports)

    def _redis(self, link: Proxy) -> str:
        return self.sentinels.url if self.sentinels else f"redis://{HOST}:{link.port}/0"

    # --- processes ----------------------------------------------------------------
    async def start_worker(self, role: str, name: str = "") -> str:
        """A worker of one role; another one of it under another name."""
        name = name or role
        settings = dataclasses.replace(self._worker_settings, worker_name=name)
        self._processes[name] = HeraldProcess(settings, name, ["worker", role], self._clock(name))
        await self._processes[name].start()
        return name

    def _clock(self, name: str) -> dict[str, str]:
        """The environment in which a process has a clock of its own, if the case steps clocks."""
        if Parts.CLOCKS not in self._parts:
            return {}
        self.step_clock(name, 0)
        return faked_clock(self._clock_file(name))

    def step_clock(self, name: str, seconds: int) -> None:
        """A process's wall clock is off by so much from now on; what measures durations goes on."""
        self._clock_file(name).write_text(f"{seconds:+d}\n")

    def _clock_file(self, name: str) -> Path:
        return self.folder / f"clock-{name}"

    async def stop_worker(self, name: str) -> None:
        """As a deployment does: SIGTERM."""
        await self._processes.pop(name).stop()

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.signal(name, signal.SIGKILL)

    async def start_again(self, name: str) -> None:
        """What a service manager does when a process has died."""
        child = self._processes[name].child
        await child.wait(10)
        await self._processes[name].start()

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self._pid(name), number)

    @property
    def gateway_pids(self) -> list[int]:
        """Of the processes that hold connections: the supervisor's children."""
        return _children(self._pid("gateway"))

    async def restart_gateway(self) -> None:
        """A planned one: SIGTERM, drain, start."""
        gateway = self._processes["gateway"]
        await gateway.child.stop()
        await gateway.start()

    def _pid(self, name: str) -> int:
        process = self._processes[name].child.process
        assert process is not None
        return process.pid

    def memory_bytes(self) -> dict[int, int]:
        """pid -> resident memory, of every process of Herald's that runs."""
        pids = [pid for process in self._processes.values() for pid in _family(process)]
        return {pid: size for pid in pids if (size := _resident_bytes(pid))}

    # --- servers ------------------------------------------------------------------
    async def down(
        self, server: Server | None, seconds: float, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Kill a server, start it after a while; `meanwhile` is done to what it left behind."""
        assert server is not None
        kill(server)
        await server.child.wait(10)
        await asyncio.sleep(seconds)
        meanwhile()
        await server.start()

    def over(self) -> None:
        """The fault has ended: recovery is counted from now on."""
        self.over_s = time.monotonic()

    # --- PostgreSQL's word --------------------------------------------------------
    async def rows(self) -> list[Row]:
        """Every notification of the tenants, as the owner sees it."""
        owner = await asyncpg.connect(self.settings.postgres_dsn)
        try:
            await owner.execute("SELECT set_config('herald.tenants', $1, false)", ",".join(TENANTS))
            return [
                Row(str(row["notification_id"]), (row["tenant_id"], row["entity_id"]), row["lane"], row["seq"],
                    Status(row["status"]), row["expiry_ms"])
                for row in await owner.fetch(_ROWS)
            ]  # fmt: skip
        finally:
            await owner.close()


def kill(server: Server) -> None:
    """SIGKILL to a server; of PostgreSQL to the postmaster alone: its children find out by themselves."""
    process = server.child.process
    assert process is not None
    if isinstance(server, PostgreSQL):
        os.kill(process.pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)


def _family(process: HeraldProcess) -> list[int]:
    child = process.child.process
    return [child.pid, *_children(child.pid)] if child is not None and child.poll() is None else []


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it ended meanwhile
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
