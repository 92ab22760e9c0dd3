"""The whole of Herald on one machine: servers, migrations, demo tenant, gateway, worker and demo page."""

import asyncio
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from devstack.ports import require_free
from devstack.processes import WORKER_ROLES, HeraldProcess
from devstack.progress import Steps
from devstack.secrets import DEMO_TENANT, make_secrets
from devstack.servers import Kafka, Server, Servers, Tansu, together
from devstack.tenants import create_tenant
from devstack.topics import create_topics
from devstack.waiting import wait_for_servers
from devstack.web import DemoWeb
from notification.errors import HeraldError, SettingsError
from notification.frames import CONNECT_PATH
from notification.lifecycle import stop_event
from notification.limits import RESTART_MS, RESTART_PAUSE_MS_MAX, STARTUP_DEADLINE_S
from notification.settings import PREFIX, Settings
from worker.migrate import migrate
from worker.positions import forget_positions


class System:
    """Everything that `make run` runs. start() raises what is wrong; stop() is safe after any part of it."""

    def __init__(
        self, settings: Settings, steps: Steps, kafka: type[Kafka] = Tansu, startup_s: float = STARTUP_DEADLINE_S
    ) -> None:
        self._settings = settings
        self._steps = steps
        self._startup_s = startup_s
        self._servers = Servers(settings, kafka)
        self._gateway: HeraldProcess | None = None
        self._worker: HeraldProcess | None = None
        self._web = DemoWeb()
        self.notices: list[str] = []  # what the user must know although everything runs

    async def start(self) -> None:
        """Start all of it, in the order in which parts need each other. Raises HeraldError."""
        settings = self._settings
        require_free(settings.gateway_host, settings.gateway_port, "the gateway", "gateway_port")
        require_free(settings.demo_host, settings.demo_port, "the demo page", "demo_port")
        if settings.worker_metrics:
            require_free(*settings.worker_metrics_at, "the worker's /metrics", "worker_metrics")
        make_secrets(settings)
        await self._start_servers()
        with self._steps.step("migrations, tenant, topics"):
            await asyncio.gather(self._prepare_database(), create_topics(settings))
        self._worker = HeraldProcess(settings, "worker", ["worker", *WORKER_ROLES])
        self._gateway = HeraldProcess(settings, "gateway", ["gateway"])
        await together(self._start_process(self._worker), self._start_process(self._gateway), self._start_web())

    async def stop(self) -> None:
        """Drain intake first, then let clients go, then the page, then the servers; leaves no process."""
        if self._worker is not None:
            await self._worker.stop()
        if self._gateway is not None:
            await self._gateway.stop()
        await self._web.stop()
        await self._servers.stop()

    async def keep_up(self, console: Console) -> None:
        """Restart what ended by itself, and say so; runs until it is cancelled."""
        parts: list[Server | HeraldProcess | None] = [*self._servers.embedded, self._worker, self._gateway]
        await together(*(self._keep_up(part, console) for part in parts if part is not None))

    async def _keep_up(self, part: Server | HeraldProcess, console: Console) -> None:
        while True:
            await part.child.wait(None)
            reason: HeraldError = part.child.died()
            pause_s = 0.0
            while True:
                console.print(f"{reason}\nstarting it again", style="yellow", markup=False)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s + RESTART_MS / 1000, RESTART_PAUSE_MS_MAX / 1000)
                try:
                    if part is self._servers.kafka:
                        await self._restart_kafka(self._servers.kafka)
                    else:
                        await part.start()
                    break
                except HeraldError as error:
                    reason = error

    async def _start_servers(self) -> None:
        with contextlib.ExitStack() as shown:
            if any((self._settings.postgres, self._settings.redis, self._settings.nats, self._settings.kafka)):
                shown.enter_context(self._steps.step("configured servers answer"))
                await wait_for_servers(self._settings, self._startup_s)
        servers = self._servers
        if servers.kafka is None or not servers.kafka.forgets:
            await together(*(self._start_server(server) for server in servers.embedded))
            return
        others = [one for one in (servers.redis, servers.nats) if one is not None]
        await together(
            self._start_postgres_then_kafka(servers.kafka), *(self._start_server(server) for server in others)
        )

    async def _start_postgres_then_kafka(self, kafka: Kafka) -> None:
        """No record may come before the positions in the log that is gone have gone as well."""
        if self._servers.postgres is not None:
            await self._start_server(self._servers.postgres)
        await forget_positions(self._settings)
        await self._start_server(kafka)

    async def _restart_kafka(self, kafka: Kafka) -> None:
        if kafka.forgets:
            await forget_positions(self._settings)
        await kafka.start()
        await create_topics(self._settings)

    async def _start_server(self, server: Server) -> None:
        with self._steps.step(f"{server.title} on port {server.port}"):
            await server.start()

    async def _start_process(self, process: HeraldProcess) -> None:
        with self._steps.step(process.name):
            await process.start()

    async def _start_web(self) -> None:
        with self._steps.step("demo page"):
            await self._web.start(self._settings)

    async def _prepare_database(self) -> None:
        await migrate(self._settings)
        origins = [f"http://{host}:{self._settings.demo_port}" for host in ("127.0.0.1", "localhost")]
        allowed = await create_tenant(self._settings, DEMO_TENANT, origins)
        if not set(origins) <= set(allowed):
            self.notices.append(
                f"Tenant {DEMO_TENANT} was made with another demo_port: only pages of {', '.join(allowed)} "
                "may connect. Set the port back, or `make clean`."
            )


async def run(
    settings: Settings, console: Console, kafka: type[Kafka] = Tansu, startup_s: float = STARTUP_DEADLINE_S
) -> None:
    """Run until SIGTERM or SIGINT, then stop everything. Raises HeraldError when it cannot start."""
    begin_s = time.monotonic()
    stop = stop_event()
    with _data_dir_of_ours(settings):
        steps = Steps(console)
        system = System(settings, steps, kafka, startup_s)
        try:
            with steps:
                started = await _unless(stop, system.start())
            if started:
                block = _ready_block(settings, kafka, time.monotonic() - begin_s)
                console.print(block, markup=False, highlight=False, soft_wrap=True)
                for notice in system.notices:
                    console.print(notice, style="yellow", markup=False, highlight=False, soft_wrap=True)
                await _unless(stop, system.keep_up(console))
            console.print("stopping: the worker drains, then the gateway, then the servers", highlight=False)
        finally:
            await system.stop()
        console.print("stopped", highlight=False)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether the work ended before `stop` was set; otherwise it is cancelled."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        for other in (task, stopped):
            other.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


@contextlib.contextmanager
def _data_dir_of_ours(settings: Settings) -> Iterator[None]:
    """Hold {data_dir}/lock, so that no second devstack writes to the same data. Raises SettingsError."""
    folder = Path(settings.data_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise SettingsError(f"data_dir {folder} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise SettingsError(
                f"data_dir {folder} is used by a running devstack (pid {lock.read().strip()}); stop that one, "
                f"or set {PREFIX}DATA_DIR and other ports"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _ready_block(settings: Settings, kafka: type[Kafka], took_s: float) -> str:
    """What a newcomer reads first; begins with READY at the start of a line."""
    gateway = f"{settings.gateway_host}:{settings.gateway_port}"
    web = "https" if settings.gateway_scheme == "wss" else "http"
    herald = _shown(Path(sys.executable).parent / "herald")
    data = _shown(Path(settings.data_dir))
    from_variables = any(name.startswith(PREFIX) for name in os.environ)
    forgets = kafka.forgets and not settings.kafka
    worker = f"\n              http://{settings.worker_metrics}/metrics" if settings.worker_metrics else ""
    memory = "\nThe embedded Kafka keeps its records in memory: it forgets them when it stops." if forgets else ""
    return f"""
READY in {took_s:.1f} s

  demo page   http://{settings.demo_host}:{settings.demo_port}/
  websocket   {settings.gateway_scheme}://{gateway}{CONNECT_PATH}
  health      {web}://{gateway}/health
  metrics     {web}://{gateway}/metrics{worker}

Try, in another terminal{f" with the same {PREFIX}* variables" if from_variables else ""}:

  {herald} listen --tenant {DEMO_TENANT} --user alice
  {herald} send --tenant {DEMO_TENANT} --user alice --priority high --type service --title Hello --body "It works"
  {herald} status --tenant {DEMO_TENANT} --id ID        # the id that send printed

Data stays in {data}/ (`make clean` wipes it), logs in {data}/log/.{memory}
Ctrl-C drains and stops everything.
"""


def _shown(path: Path) -> str:
    """Relative to the working directory where it lies below it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
