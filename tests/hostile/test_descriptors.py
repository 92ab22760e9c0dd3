"""A process out of descriptors: it neither spins nor stops accepting, be it the engine or libuv that accepts."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.hostile.clients import DEADLINE_S, Hostile, each, hostile
from tests.hostile.victim import Victim

CLIENTS = 40
FREE = 5  # descriptors left

pytestmark = pytest.mark.stack


@pytest.fixture(params=["engine", "picows"])
async def short(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Victim]:
    victim = Victim(tmp_path, request.param)
    try:
        await victim.start()
        yield victim
    finally:
        await victim.stop()


async def test_it_waits_and_goes_on(short: Victim) -> None:
    """Many clients, few descriptors: some are served, the others wait; when the first leave, all get their turn."""
    short.limit_descriptors(max(map(int, os.listdir(f"/proc/{short.pid}/fd"))) + 1 + FREE)
    served, leave = 0, asyncio.Event()

    async def visit(client: Hostile, user: str) -> None:
        nonlocal served
        await client.upgraded(user)
        served += 1
        await leave.wait()
        client.sock.close()

    async with hostile(short, CLIENTS) as clients:
        visits = asyncio.create_task(each(visit(client, short.stranger()) for client in clients))
        async with asyncio.timeout(DEADLINE_S):
            while served < FREE:  # noqa: ASYNC110 - another process serves them
                await asyncio.sleep(0.02)
        used, began = short.cpu_s(), time.monotonic()
        await asyncio.sleep(2)
        assert short.cpu_s() - used < (time.monotonic() - began) / 2
        assert served < CLIENTS
        leave.set()
        async with asyncio.timeout(DEADLINE_S):
            await visits
    assert served == CLIENTS
