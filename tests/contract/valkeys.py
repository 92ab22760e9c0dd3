"""Valkey processes of a test: a cluster of masters, a master with its replica and Sentinels.

Through TLS they are Debian's Redis: the embedded Valkey is built without it.
"""

import asyncio
import contextlib
import dataclasses
import shutil
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from devstack.children import Child
from devstack.ports import free_ports
from devstack.servers import HOST, greets, valkey_program

SLOTS = 16_384
DEADLINE_S = 60
MASTER = "herald-master"


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for something that others bring about."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.01)


async def until_answered(ask: Callable[[], Awaitable[object]]) -> None:
    """Ask servers until they say yes; one that refuses, or ends the connection, is asked again."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(RedisError):
                if await ask():
                    return
            await asyncio.sleep(0.05)


@dataclasses.dataclass(frozen=True)
class Tls:
    """Servers speak TLS alone, to each other too, and want `password` (of the user default); a Sentinel wants
    `sentinel_password`. `ca` vouches for them."""

    ca: Path
    cert: Path
    key: Path
    password: str = "p@ss word"
    sentinel_password: str = "other+p@ss"

    def arguments(self, port: int) -> list[str]:
        return [
            "--port", "0", "--tls-port", str(port), "--tls-cert-file", str(self.cert),
            "--tls-key-file", str(self.key), "--tls-ca-cert-file", str(self.ca), "--tls-auth-clients", "no",
            "--tls-replication", "yes", "--requirepass", self.password,
        ]  # fmt: skip

    @staticmethod
    def program(folder: Path) -> Path:
        """A redis-server: the binary of redis-tools is one under that name."""
        found = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        assert found is not None, "Redis with TLS is missing: apt-get install redis-tools"
        program = folder / "redis-server"
        program.symlink_to(found)
        return program


class Process:
    """One valkey-server; `arguments` as on its command line. `password`: another than that of `tls`."""

    def __init__(
        self, folder: Path, port: int, *arguments: str, tls: Tls | None = None, password: str = ""
    ) -> None:
        self.port = port
        folder = folder / str(port)
        folder.mkdir()
        self._folder = folder
        if tls is None:
            self.client: Redis = Redis(host=HOST, port=port)
            program, listening = valkey_program(), ["--port", str(port)]
        else:
            secret = password or tls.password
            self.client = Redis(host=HOST, port=port, password=secret, ssl=True, ssl_ca_certs=str(tls.ca))
            program, listening = Tls.program(folder), dataclasses.replace(tls, password=secret).arguments(port)
        self._hello = (b"", b"") if tls else (b"PING\r\n", b"+PONG")
        self._argv = [str(program), *arguments, "--bind", HOST, *listening, "--dir", str(folder),
                      "--save", "", "--loglevel", "notice"]  # fmt: skip
        self.child = self._made()

    def _made(self) -> Child:
        return Child(f"valkey {self.port}", self._argv, self._folder / "log", cwd=self._folder)

    async def start(self) -> None:
        self.child = self._made()
        self.child.start()
        async with asyncio.timeout(DEADLINE_S):
            while not await greets(self.port, *self._hello):
                if not self.child.running:
                    raise self.child.died()

    async def stop(self) -> None:
        await self.client.aclose()
        await self.child.stop()


class Cluster:
    """Three masters, each with a third of the slots."""

    def __init__(self, nodes: list[Process], buses: list[int], tls: Tls | None = None) -> None:
        self.nodes = nodes
        self._tls = tls
        self._buses = buses
        self.owners = {slot: nodes[slot * len(nodes) // SLOTS] for slot in range(SLOTS)}

    @property
    def url(self) -> str:
        scheme = "cluster+tls" if self._tls else "cluster"
        return f"{scheme}://{_login(self._tls)}" + ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    async def join(self) -> None:
        """Meet, share the slots out, wait until all agree."""
        for node in self.nodes:
            mine = [slot for slot, owner in self.owners.items() if owner is node]
            await node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", mine[0], mine[-1])
            await node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", self.nodes.index(node) + 1)
        for node, bus in zip(self.nodes, self._buses, strict=True):
            await self.nodes[0].client.execute_command("CLUSTER", "MEET", HOST, node.port, bus)
        for node in self.nodes:
            await until_answered(lambda node=node: self._agrees(node))

    async def _agrees(self, node: Process) -> bool:
        slots = await node.client.execute_command("CLUSTER", "SLOTS")
        return len(slots) == len(self.nodes) and b"cluster_state:ok" in await node.client.execute_command(
            "CLUSTER", "INFO"
        )

    async def names(self) -> dict[Process, str]:
        """The id of each node."""
        return {node: (await node.client.execute_command("CLUSTER", "MYID")).decode() for node in self.nodes}

    async def open_move(self, slot: int, target: Process) -> None:
        """Begin to move a slot: from now on its owner answers ASK for keys that it does not hold."""
        names, owner = await self.names(), self.owners[slot]
        await target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[owner])
        await owner.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])

    async def finish_move(self, slot: int, target: Process) -> None:
        """Move what keys it still has, and the slot: from now on its owner of before answers MOVED."""
        names, owner = await self.names(), self.owners[slot]
        while keys := await owner.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            await owner.client.execute_command("MIGRATE", HOST, target.port, "", 0, 5_000, "KEYS", *keys)
        for node in (target, owner, *(set(self.nodes) - {target, owner})):
            await node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
        self.owners[slot] = target


@contextlib.asynccontextmanager
async def running(*processes: Process) -> AsyncIterator[None]:
    try:
        for process in processes:
            await process.start()
        yield
    finally:
        for process in processes:
            await process.stop()


@contextlib.asynccontextmanager
async def open_cluster(folder: Path, tls: Tls | None = None) -> AsyncIterator[Cluster]:
    """Three masters on free ports."""
    free = free_ports(6)
    ports, buses = free[:3], free[3:]
    nodes = [
        Process(folder, port, "--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout",
                "5000", *(("--tls-cluster", "yes") if tls else ()), tls=tls)
        for port, bus in zip(ports, buses, strict=True)
    ]  # fmt: skip
    async with running(*nodes):
        cluster = Cluster(nodes, buses, tls)
        await cluster.join()
        yield cluster


async def role_is(process: Process, role: bytes) -> bool:
    return bool((await process.client.role())[0] == role)


async def synchronised(replica: Process) -> bool:
    return bool((await replica.client.role())[3] == b"connected")


class Sentinels:
    """A master, its replica, and a Sentinel that watches them (quorum 1)."""

    def __init__(
        self, master: Process, replica: Process, sentinel: Process, lost: int, tls: Tls | None = None
    ) -> None:
        self.master, self.replica, self.sentinel = master, replica, sentinel
        # The first Sentinel is down: the next one is asked.
        self.url = f"sentinel://{HOST}:{lost},{HOST}:{sentinel.port}/{MASTER}"
        if tls:
            self.url = self.url.replace("sentinel://", f"sentinel+tls://{_login(tls)}")
            self.url += "?" + urllib.parse.urlencode({"sentinel_password": tls.sentinel_password})

    async def cut_off(self) -> None:
        """The replica hears nothing more from its master, which serves those who are connected."""
        await self.master.client.config_set("requirepass", "unknown to the replica")
        await self.master.client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")

    async def promote(self) -> None:
        """The master dies; its Sentinel makes the replica the master."""
        process = self.master.child.process
        assert process is not None
        process.kill()
        await until_answered(lambda: role_is(self.replica, b"master"))

    async def fail_over(self) -> None:
        """Have the Sentinel promote the replica; when this returns the master of before is a replica."""
        await until_answered(lambda: self.sentinel.client.execute_command("SENTINEL", "FAILOVER", MASTER))
        await until_answered(lambda: role_is(self.replica, b"master"))
        await until_answered(lambda: role_is(self.master, b"slave"))
        self.master, self.replica = self.replica, self.master


@contextlib.asynccontextmanager
async def open_sentinels(folder: Path, tls: Tls | None = None) -> AsyncIterator[Sentinels]:
    first, second, third, lost = free_ports(4)
    among = ("--repl-diskless-sync-delay", "0", *(("--masterauth", tls.password) if tls else ()))
    master = Process(folder, first, *among, tls=tls)
    replica = Process(folder, second, "--replicaof", HOST, str(first), *among, tls=tls)
    config = folder / "sentinel.conf"
    config.write_text(
        f"sentinel monitor {MASTER} {HOST} {first} 1\n"
        f"sentinel down-after-milliseconds {MASTER} 1000\n"
        f"sentinel failover-timeout {MASTER} 5000\n"
        + (f'sentinel auth-pass {MASTER} "{tls.password}"\n' if tls else "")
    )
    password = tls.sentinel_password if tls else ""
    sentinel = Process(folder, third, str(config), "--sentinel", tls=tls, password=password)
    async with running(master, replica):
        # The Sentinel's first look must find the replica: its next one is 10 s later.
        await until_answered(lambda: synchronised(replica))
        async with running(sentinel):
            yield Sentinels(master, replica, sentinel, lost, tls)


def _login(tls: Tls | None) -> str:
    return f":{urllib.parse.quote(tls.password, safe='')}@" if tls else ""
