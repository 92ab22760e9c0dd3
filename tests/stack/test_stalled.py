"""Collapse and time to live at the last hop, over the whole system: a client that stops reading for a while."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from notification.settings import Settings
from tests.conftest import Mint
from tests.stack.lab import Lab, open_lab
from tests.stack.route import WAIT_S, App, Upstream, status_becomes

pytestmark = pytest.mark.stack

UPDATES = 100
FILLER = "x" * 3_900
_COLLAPSED = "SELECT count(*) FROM notifications WHERE tenant_id = $1 AND status = 'COLLAPSED'"


@pytest.fixture
async def upstream(system: Settings) -> AsyncIterator[Upstream]:
    async with Upstream(system) as producer:
        yield producer


@pytest.fixture
async def lab(system: Settings, tenant: str) -> AsyncIterator[Lab]:
    async with open_lab(system) as made:
        yield made


def unsent_bytes(gateway_port: int, client_port: int) -> int:
    """What the gateway's kernel holds for a client (proc_net_tcp(5): tx_queue)."""
    ends = f"0100007F:{gateway_port:04X} 0100007F:{client_port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if " ".join(fields[1:3]) == ends:
            return int(fields[4].partition(":")[0], 16)
    raise AssertionError("no such connection")


async def fill_up(system: Settings, tenant: str, upstream: Upstream, port: int) -> list[str]:
    """Notifications for a client that does not read, until its socket takes no more of them."""
    sent: list[str] = []
    held = [0]
    async with asyncio.timeout(2 * WAIT_S):
        while held[-1] == 0 or len(set(held[-3:])) > 1:
            sent.append(await upstream.send(tenant, "ann", "filler", payload={"title": "T", "body": FILLER}))
            await status_becomes(system, tenant, sent[-1], "DISPATCHED", "PARKED")
            held.append(unsent_bytes(system.gateway_port, port))
    return sent


async def test_a_client_that_stops_reading_gets_one_update_of_a_hundred_and_nothing_expired(
    system: Settings, tenant: str, mint: Mint, upstream: Upstream, lab: Lab
) -> None:
    """The socket is full; what follows waits in the gateway itself, until the client reads again."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", system.gateway_port))
        port = sock.getsockname()[1]
        app = App(system, mint(tenant, "ann"), "phone")
        async with contextlib.aclosing(await app.open(sock=sock, max_queue=1)):
            fillers = await fill_up(system, tenant, upstream, port)
            brief = await upstream.send(tenant, "ann", "brief", ttl=1)
            updates = [await upstream.send(tenant, "ann", "order", collapse_key="o7") for _ in range(UPDATES)]
            await status_becomes(system, tenant, updates[-1], "DISPATCHED", "PARKED")
            assert await lab.owner.fetchval(_COLLAPSED, tenant) == UPDATES - 1
            await lab.owner.execute("UPDATE notifications SET due_at = expiry WHERE notification_id = $1", brief)
            await status_becomes(system, tenant, brief, "EXPIRED")
            got: dict[str, dict[str, Any]] = {}
            while updates[-1] not in got:
                frame = await app.notification()
                got[frame["id"]] = frame
            assert brief not in got
            assert [ident for ident in got if ident in updates] == updates[-1:]
            assert [ident for ident in got if ident in fillers] == fillers
    await status_becomes(system, tenant, updates[-1], "DELIVERED")
