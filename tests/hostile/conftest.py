"""One gateway process per carrier for all tests of this folder that need no other; all run in one event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
import uvloop

from tests.hostile.victim import READY_S, Victim


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["engine", "picows"])
async def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Victim]:
    """A gateway process over either carrier, warm: its first connects and batches have grown what grows once."""
    victim = Victim(tmp_path_factory.mktemp("victim"), str(request.param))
    try:
        await victim.start()
        for _ in range(50):
            user = victim.stranger()
            async with victim.client(user) as app:
                await app.read("resumed", READY_S)
                await victim.send((user, victim.world.log.add(user)))
                await app.ack(await app.read("n", READY_S))
        yield victim
    finally:
        await victim.stop()
