"""`python -m gateway` on a NATS and a Valkey of its own: processes on one port, a crash, a taken port, the end."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from devstack.children import environment
from devstack.ports import free_ports
from devstack.processes import HeraldProcess
from devstack.servers import Nats, Valkey
from herald.client import HeraldClient
from notification import names
from notification.bus import NatsBus
from notification.limits import BALANCE_SLACK_COUNT
from notification.settings import Settings
from tests.flow.world import App, Log, World, mint

pytestmark = pytest.mark.stack


class Gateway:
    """A supervisor with two processes; a log in this process answers for role inbox."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.process = HeraldProcess(settings, "gateway", ["gateway"])
        self.world = World()
        self._running = contextlib.AsyncExitStack()

    async def start(self) -> None:
        for server in (Nats(self.settings), Valkey(self.settings)):
            self._running.push_async_callback(server.stop)
            await server.start()
        bus = await NatsBus.connect(self.settings.nats_url, "inbox")
        self._running.push_async_callback(bus.close)
        for subject in (names.INBOX_EDGE, names.INBOX_RESUME):
            await bus.serve(subject, self.world._answer, queue=names.INBOX_QUEUE)
        self._running.push_async_callback(self.process.stop)
        await self.process.start()

    async def stop(self) -> None:
        await self._running.aclose()

    @property
    def log(self) -> Log:
        return self.world.log

    @contextlib.asynccontextmanager
    async def client(self, user: str) -> AsyncIterator[App]:
        url = f"ws://127.0.0.1:{self.settings.gateway_port}/ws/connect"
        headers = {"Authorization": f"Bearer {mint(user)}"}
        async with connect(url, additional_headers=headers, compression=None) as socket:
            yield App(socket)

    def children(self) -> list[int]:
        pid = self.process.child.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def get(self, path: str) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.settings.gateway_port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body

    async def metric(self, name: str) -> float:
        _, body = await self.get("/metrics")
        values = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
        return float(values.get(name, "0"))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    ports = free_ports(3)
    settings = Settings(
        nats_port=ports[0], redis_port=ports[1], gateway_port=ports[2], gateway_processes=2, data_dir=str(tmp_path)
    )
    gateway = Gateway(settings)
    try:
        await gateway.start()
        yield gateway
    finally:
        await gateway.stop()


async def until_async(condition: Callable[[], Awaitable[bool]], timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.05)


async def test_two_processes_share_the_port_and_their_metrics(gateway: Gateway) -> None:
    async with contextlib.AsyncExitStack() as clients:
        for number in range(20):
            app = await clients.enter_async_context(gateway.client(f"u{number}"))
            await app.read("welcome")

        async def counted() -> bool:  # each process adds what it counted once a second
            names = ("herald_connections", "herald_connects_total")
            return [await gateway.metric(name) for name in names] == [20, 20]

        await until_async(counted)
        counts: dict[str, int] = {}

        async def both_answered() -> bool:
            status, body = await gateway.get("/health")
            assert status == 200
            health = json.loads(body)
            counts[health["gateway_id"]] = health["connections"]
            return len(counts) == 2

        await until_async(both_answered)
        assert sum(counts.values()) == 20


async def test_a_crashed_process_is_replaced_at_once(gateway: Gateway) -> None:
    before = gateway.children()
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)

    async def replaced() -> bool:
        children = gateway.children()
        return len(children) == 2 and before[0] not in children

    await until_async(replaced)
    gateway.log.add("ann")
    async with gateway.client("ann") as app:
        await app.read("welcome")
        assert await app.seqs(1) == [1]
    ids = set()

    async def both_serve() -> bool:
        ids.add(json.loads((await gateway.get("/health"))[1])["gateway_id"])
        return len(ids) == 2

    await until_async(both_serve)


async def test_after_a_crash_the_connections_are_evened_out(gateway: Gateway) -> None:
    """The survivor has them all before the successor serves; a share is sent back to it."""
    url = f"ws://127.0.0.1:{gateway.settings.gateway_port}/ws/connect"

    async def shares() -> list[int]:
        counts: dict[str, int] = {}
        for _ in range(20):
            health = json.loads((await gateway.get("/health"))[1])
            counts[health["gateway_id"]] = health["connections"]
        return sorted(counts.values())

    async with contextlib.AsyncExitStack() as clients:
        for number in range(120):

            async def token(user: str = f"u{number}") -> str:
                return mint(user)

            await clients.enter_async_context(HeraldClient(url, token))
        victim = gateway.children()[0]
        os.kill(victim, signal.SIGKILL)

        async def even() -> bool:
            found = await shares()
            return len(found) == 2 and sum(found) == 120 and found[1] <= 1.15 * found[0] + BALANCE_SLACK_COUNT

        await until_async(even, 60)
        assert victim not in gateway.children()


async def test_a_process_alone_is_refused() -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "--process", "0", stderr=subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == 2
    assert b"start the gateway with `python -m gateway`" in errors


async def test_a_taken_port_is_one_clear_line(gateway: Gateway) -> None:
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", env=environment(gateway.settings), stderr=subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(second.communicate(), 30)
    assert second.returncode == 1
    assert errors.count(b"\n") == 1
    assert b"HERALD_GATEWAY_PORT" in errors
    assert b"Traceback" not in errors


async def test_sigterm_drains_and_ends_with_zero(gateway: Gateway) -> None:
    children = gateway.children()
    async with gateway.client("ann") as app:
        await app.read("welcome")
        await app.read("resumed")
        process = gateway.process.child.process
        process.terminate()
        await app.read("goaway")
        assert await app.closed() == 1012
        assert await asyncio.to_thread(process.wait, 20) == 0
    assert not any(os.path.exists(f"/proc/{child}") for child in children)  # noqa: ASYNC240 - no disk behind /proc


async def test_a_redis_that_is_down_at_start_is_named(tmp_path: Path) -> None:
    ports = free_ports(3)
    settings = Settings(
        nats_port=ports[0], redis_port=ports[1], gateway_port=ports[2], gateway_processes=1, data_dir=str(tmp_path)
    )
    server = Nats(settings)
    await server.start()
    try:
        code = "import sys, notification.limits as limits\nlimits.STARTUP_DEADLINE_S = 1\n"
        code += "from gateway import link, listener, process\n"
        code += f"sock = listener.bind('127.0.0.1', {settings.gateway_port})\n"
        code += "sys.exit(process.main(0, sock, link.pair()[0]))"
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, env=environment(settings), stderr=subprocess.PIPE
        )
        _, errors = await asyncio.wait_for(child.communicate(), 30)
    finally:
        await server.stop()
    assert child.returncode == 1
    assert f"Redis at 127.0.0.1:{settings.redis_port} did not answer" in errors.decode()
    assert b"Traceback" not in errors
