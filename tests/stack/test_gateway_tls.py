"""`python -m gateway` with a certificate: wss on its port, and mistakes told in one line before anything starts."""

import dataclasses
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from devstack.children import environment
from devstack.ports import free_ports
from notification.settings import Settings
from tests.certificates import Authority
from tests.flow.world import App, mint
from tests.stack.test_gateway_processes import Gateway

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ports = free_ports(3)
    return Settings(
        nats_port=ports[0], redis_port=ports[1], gateway_port=ports[2], gateway_processes=1, data_dir=str(tmp_path)
    )


async def test_a_gateway_with_a_certificate_behind_a_proxy(settings: Settings, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    gateway = Gateway(
        dataclasses.replace(
            settings, gateway_tls_cert=str(cert), gateway_tls_key=str(key), trusted_proxies="127.0.0.0/8",
            proxy_protocol="required", connections_per_address=1,
        )
    )  # fmt: skip
    try:
        await gateway.start()
        sock = socket.create_connection(("127.0.0.1", settings.gateway_port))
        sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n")
        url = f"wss://127.0.0.1:{settings.gateway_port}/ws/connect"
        headers = {"Authorization": f"Bearer {mint()}"}
        async with connect(url, sock=sock, ssl=authority.client(), additional_headers=headers) as websocket:
            app = App(websocket)
            await app.read("welcome", 30)
            await app.read("resumed", 30)
    finally:
        await gateway.stop()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"gateway_tls_cert": "/none.pem", "gateway_tls_key": "/none.key"},
            "gateway_tls_cert: /none.pem cannot be",
        ),
        ({"gateway_tls_cert": "/none.pem"}, "gateway_tls_key: is empty"),
        ({"proxy_protocol": "required"}, "trusted_proxies: is empty"),
    ],
)
def test_mistakes_are_one_line(settings: Settings, changes: dict[str, str], says: str) -> None:
    wrong = dataclasses.replace(settings, **changes)  # type: ignore[arg-type]
    ended = subprocess.run(
        [sys.executable, "-m", "gateway"], env=environment(wrong), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    assert ended.stderr.startswith(f"configuration: {says}")
    assert len(ended.stderr.splitlines()) == 1
