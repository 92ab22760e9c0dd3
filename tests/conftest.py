"""What every test may ask for: real servers, a tenant with a key, tokens, a whole running system.

The servers are those of devstack, started once per test run on free ports with their data in a temporary
folder; with KAFKA=apache in the environment (`make test-kafka`) the Kafka is Apache Kafka.
"""

import asyncio
import contextlib
import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
import structlog

from devstack.ports import free_ports
from devstack.processes import WORKER_ROLES, HeraldProcess
from devstack.secrets import DEMO_TENANT, make_issuer_key, make_secrets
from devstack.servers import Kafka, Servers, Tansu
from devstack.topics import create_topics
from devstack.web import DemoWeb
from notification.settings import Settings

Mint = Callable[..., str]


def kafka_kind() -> type[Kafka]:
    if os.environ.get("KAFKA") == "apache":
        from devstack.apache import ApacheKafka

        return ApacheKafka
    return Tansu


@pytest.fixture(autouse=True)
def logs_as_they_come() -> None:
    """A test that runs an entry point in this process configures logging: the next test starts anew.

    Tracebacks come plain, as in production: drawing one with its variables takes seconds.
    """
    structlog.reset_defaults()
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Servers]]:
    """The settings and the running servers; for a test that stops one: it starts it again before it ends."""
    ports = free_ports(6)
    settings = Settings(
        kafka_port=ports[0], nats_port=ports[1], redis_port=ports[2], postgres_port=ports[3],
        gateway_port=ports[4], demo_port=ports[5], gateway_processes=2,
        data_dir=str(tmp_path_factory.mktemp("herald")), jwks_plain_loopback=True,
    )  # fmt: skip
    make_secrets(settings)
    servers = Servers(settings, kafka_kind())
    asyncio.run(servers.start())
    try:
        asyncio.run(create_topics(settings))
        yield settings, servers
    finally:
        asyncio.run(servers.stop())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that use the running system come last: its worker would sweep the rows that other tests make due."""
    with_system = {item.path for item in items if "system" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path in with_system)


@pytest.fixture(scope="session")
def servers(embedded: tuple[Settings, Servers]) -> Settings:
    """Settings of running Kafka (topics made), NATS, Valkey and PostgreSQL (migrated), with secrets."""
    # Imported where it is used: unit tests of other parts need no worker.
    from worker.migrate import migrate

    settings = embedded[0]
    asyncio.run(migrate(settings))
    return settings


@pytest.fixture
def tenant(servers: Settings) -> str:
    """The id of a fresh tenant whose issuer `herald:ID` signs with HS256; tokens of it come from `mint`."""
    from devstack.tenants import create_tenant

    name = f"t_{secrets.token_hex(5)}"
    make_issuer_key(servers, name)
    asyncio.run(create_tenant(servers, name))
    return name


@pytest.fixture(scope="session")
def mint(embedded: tuple[Settings, Servers]) -> Mint:
    """`mint(tenant, user, **claims)`: a token of the tenant's own issuer; a claim of None is left out."""
    settings = embedded[0]

    def sign(tenant: str, user: str, **claims: Any) -> str:
        now_s = int(time.time())
        values: dict[str, Any] = {
            "iss": f"herald:{tenant}", "aud": "herald", "sub": user, "tid": tenant,
            "iat": now_s, "exp": now_s + 600, "jti": str(uuid.uuid4()),
        }  # fmt: skip
        values |= claims
        present = {claim: value for claim, value in values.items() if value is not None}
        return jwt.encode(present, settings.secret(f"issuer_{tenant}.key"), algorithm="HS256")

    return sign


@pytest.fixture(scope="session")
def system(servers: Settings) -> Iterator[Settings]:
    """Settings of everything running: servers, two gateway processes, a worker with all roles, the demo page."""
    from devstack.tenants import create_tenant

    origins = [f"http://{host}:{servers.demo_port}" for host in ("127.0.0.1", "localhost")]
    asyncio.run(create_tenant(servers, DEMO_TENANT, origins))
    worker = HeraldProcess(servers, "worker", ["worker", *WORKER_ROLES])
    gateway = HeraldProcess(servers, "gateway", ["gateway"])
    with contextlib.ExitStack() as running:
        for process in (worker, gateway):
            running.callback(stop_process, process)
            asyncio.run(process.start())
        running.enter_context(demo_web(servers))
        yield servers


def stop_process(process: HeraldProcess) -> None:
    asyncio.run(process.stop())


@contextlib.contextmanager
def demo_web(settings: Settings) -> Iterator[None]:
    """The demo page and token issuer, in an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="demo web", daemon=True)
    thread.start()
    web = DemoWeb()
    try:
        asyncio.run_coroutine_threadsafe(web.start(settings), loop).result(30)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(web.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
