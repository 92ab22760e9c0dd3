"""Cut a part off while notifications flow: the system pauses, resumes and loses nothing.

A ledger per case: every id that Kafka accepted must be received by the user's device (which reconnects with its
cursor, as a client does), in the order of its lane, and end DELIVERED.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import jwt
import pytest
from redis.asyncio import Redis
from websockets.exceptions import ConnectionClosed, InvalidStatus

from devstack.ports import free_ports
from devstack.processes import WORKER_ROLES, HeraldProcess
from devstack.secrets import make_issuer_key, make_secrets
from devstack.servers import Server, Servers
from devstack.tenants import create_tenant
from devstack.topics import create_topics
from notification.settings import Settings
from tests.conftest import kafka_kind
from tests.stack.route import App, Upstream, status_becomes
from worker.migrate import migrate

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

TENANT = "outage"
SENT_PER_PHASE = 40
DOWN_S = 3.0
CATCH_UP_S = 60.0


class Whole(NamedTuple):
    """A system of its own, whose parts a test may kill."""

    settings: Settings
    servers: Servers
    gateway: HeraldProcess
    worker: HeraldProcess


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    ports = free_ports(6)
    settings = Settings(
        kafka_port=ports[0], nats_port=ports[1], redis_port=ports[2], postgres_port=ports[3],
        gateway_port=ports[4], demo_port=ports[5], gateway_processes=2, data_dir=str(tmp_path / "herald"),
    )  # fmt: skip
    make_secrets(settings)
    make_issuer_key(settings, TENANT)
    async with contextlib.AsyncExitStack() as running:
        servers = Servers(settings, kafka_kind())
        running.push_async_callback(servers.stop)
        await servers.start()
        await create_topics(settings)
        await migrate(settings)
        await create_tenant(settings, TENANT)
        worker = HeraldProcess(settings, "worker", ["worker", *WORKER_ROLES])
        gateway = HeraldProcess(settings, "gateway", ["gateway"])
        for process in (worker, gateway):
            running.push_async_callback(process.stop)
            await process.start()
        yield Whole(settings, servers, gateway, worker)


class Device(App):
    """An app that reconnects with its cursor whenever it is cut off, and keeps every id it is shown."""

    def __init__(self, settings: Settings, token: str, device: str) -> None:
        super().__init__(settings, token, device)
        self.received: list[str] = []
        self.arrived = asyncio.Event()

    async def live(self) -> None:
        began = False
        while True:
            try:
                await self.open(cursor=began)
                began = True
                self._take(*self.owed)
                while True:
                    self._take(await self.notification())
            except (ConnectionClosed, InvalidStatus, OSError, TimeoutError):
                self._take(*self.owed)
                self.owed = []
                await self.aclose()
                await asyncio.sleep(0.2)

    def _take(self, *frames: dict[str, str]) -> None:
        for frame in frames:
            if frame["id"] not in self.received:  # at least once: a client drops what it has
                self.received.append(frame["id"])
                self.arrived.set()


async def _restart(server: Server | None) -> None:
    assert server is not None
    assert server.child.process is not None
    os.killpg(server.child.process.pid, signal.SIGKILL)
    await server.child.wait(5)
    await asyncio.sleep(DOWN_S)
    await server.start()


async def postgres_is_killed(whole: Whole) -> None:
    await _restart(whole.servers.postgres)


async def nats_is_killed(whole: Whole) -> None:
    await _restart(whole.servers.nats)


async def redis_is_killed(whole: Whole) -> None:
    await _restart(whole.servers.redis)


async def redis_is_flushed(whole: Whole) -> None:
    async with Redis.from_url(whole.settings.redis_url) as redis:
        await redis.flushall()


async def gateway_processes_are_killed(whole: Whole) -> None:
    """Both children of the supervisor; it restarts them at once."""
    assert whole.gateway.child.process is not None
    children = _children(whole.gateway.child.process.pid)
    assert len(children) == whole.settings.gateway_processes
    for pid in children:
        os.kill(pid, signal.SIGKILL)


async def worker_is_killed(whole: Whole) -> None:
    assert whole.worker.child.process is not None
    whole.worker.child.process.kill()
    await whole.worker.child.wait(5)
    await whole.worker.start()


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in listed.stdout.split()]


@pytest.mark.parametrize(
    "fault",
    [
        postgres_is_killed, nats_is_killed, redis_is_killed, redis_is_flushed, gateway_processes_are_killed,
        worker_is_killed,
    ],
    ids=lambda fault: fault.__name__,
)  # fmt: skip
async def test_nothing_is_lost_while(fault: Callable[[Whole], Awaitable[None]], whole: Whole) -> None:
    settings = whole.settings
    device = Device(settings, _token(settings), "phone")
    app = asyncio.create_task(device.live())
    accepted: list[str] = []
    async with Upstream(settings) as upstream:
        await _send(upstream, accepted)
        disturbing = asyncio.create_task(fault(whole))
        await _send(upstream, accepted)
        await disturbing
        await _send(upstream, accepted)
    try:
        async with asyncio.timeout(CATCH_UP_S):
            while len(device.received) < len(accepted):
                await device.arrived.wait()
                device.arrived.clear()
    except TimeoutError:
        missing = [ident for ident in accepted if ident not in device.received]
        pytest.fail(
            f"accepted {len(accepted)}, received {len(device.received)}, lost {len(missing)}: {missing[:3]}"
        )
    finally:
        app.cancel()
    print(f"{fault.__name__}: accepted {len(accepted)}, received {len(device.received)}, lost 0")
    assert device.received == accepted
    for ident in (accepted[0], accepted[SENT_PER_PHASE], accepted[-1]):
        await status_becomes(settings, TENANT, ident, "DELIVERED")


def _token(settings: Settings) -> str:
    claims = {"iss": f"herald:{TENANT}", "aud": "herald", "sub": "ann", "tid": TENANT,
              "exp": int(time.time()) + 600, "jti": str(uuid.uuid4())}  # fmt: skip
    return jwt.encode(claims, settings.secret(f"issuer_{TENANT}.key"), algorithm="HS256")


async def _send(upstream: Upstream, accepted: list[str]) -> None:
    for number in range(SENT_PER_PHASE):
        accepted.append(await upstream.send(TENANT, "ann", str(number)))
        await asyncio.sleep(0.02)
