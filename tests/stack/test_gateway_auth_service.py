"""`python -m gateway` with an AuthService, from its settings and its secret file."""

import base64
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from devstack.children import environment
from devstack.ports import free_ports
from notification.settings import AUTH_SERVICE_SECRET, Settings
from tests.auth_service import active, serving
from tests.flow.world import App
from tests.stack.test_gateway_processes import Gateway

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ports = free_ports(3)
    return Settings(
        nats_port=ports[0], redis_port=ports[1], gateway_port=ports[2], gateway_processes=1, data_dir=str(tmp_path),
        auth_service="https://id.example/introspect", auth_service_client="herald",
    )  # fmt: skip


async def test_a_gateway_asks_as_its_settings_say(settings: Settings) -> None:
    settings.secrets_path.mkdir(exist_ok=True)
    (settings.secrets_path / AUTH_SERVICE_SECRET).write_bytes(b"s3cret\n")
    async with serving() as server:
        server.tokens["opaque"] = active()
        gateway = Gateway(dataclasses.replace(settings, auth_service=server.url))
        try:
            await gateway.start()
            url = f"ws://127.0.0.1:{settings.gateway_port}/ws/connect"
            async with connect(
                url, additional_headers={"Authorization": "Bearer opaque"}, open_timeout=30
            ) as socket:
                app = App(socket)
                await app.read("welcome", 30)
                await app.read("resumed", 30)
            assert server.asked == ["opaque"]
            login = base64.b64encode(b"herald:s3cret").decode()
            assert server.requests[0].headers["Authorization"] == f"Basic {login}"
            assert await gateway.metric('herald_auth_service_questions_total{outcome="active"}') == 1
        finally:
            await gateway.stop()


def test_a_missing_secret_is_one_line(settings: Settings) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gateway"], env=environment(settings), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    path = settings.secrets_path / AUTH_SERVICE_SECRET
    assert ended.stderr.splitlines() == [
        f"configuration: secret file {path} cannot be read: No such file or directory"
    ]
