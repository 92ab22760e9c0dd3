"""`python -m gateway` on real NATS and Valkey: processes on one port, a crash, a taken port, a graceful stop."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from devstack.children import environment
from devstack.ports import free_ports
from devstack.processes import HeraldProcess
from devstack.servers import Servers
from notification import messages, names
from notification.bus import NatsBus
from notification.settings import Settings
from tests.flow.world import App, Log, World, mint

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(embedded: tuple[Settings, Servers], tmp_path: Path) -> Settings:
    """The running servers, and a gateway port nobody uses."""
    servers = embedded[0]
    return Settings(
        nats_port=servers.nats_port, redis_port=servers.redis_port, gateway_port=free_ports(1)[0],
        gateway_processes=2, data_dir=str(tmp_path),
    )  # fmt: skip
