"""devstack.run: what the READY block says (tests/stack/test_run.py starts the whole)."""

from pathlib import Path

import pytest

from devstack.run import _ready_block
from devstack.servers import Tansu
from notification.settings import Settings


@pytest.mark.parametrize(("certificate", "websocket", "page"), [("", "ws", "http"), ("cert.pem", "wss", "https")])
def test_addresses_have_the_scheme_that_the_gateway_speaks(
    tmp_path: Path, certificate: str, websocket: str, page: str
) -> None:
    block = _ready_block(Settings(gateway_tls_cert=certificate, data_dir=str(tmp_path)), Tansu, 1.0)
    assert f" {websocket}://127.0.0.1:8081/ws/connect\n" in block
    assert f" {page}://127.0.0.1:8081/health\n" in block
    assert f" {page}://127.0.0.1:8081/metrics\n" in block
    assert " http://127.0.0.1:8080/\n" in block  # the demo page has no certificate
