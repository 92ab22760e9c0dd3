"""Connections that take nothing, or slowly: what they are owed waits in the log, not in the gateway's memory."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from notification.codes import Closes, ReceiptCode
from tests.hostile.clients import DEADLINE_S, HELD_BYTES_MAX, Hostile, each, hostile, pings, whole_frames
from tests.hostile.neighbours import neighbours
from tests.hostile.victim import Victim
from tests.unit.gateway._fast.carriers import masked
from tests.unit.gateway._fast.sessions import TEXT, frames

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

CLIENTS = 25
ITEMS = 200  # below the window, so that only the socket is full
BATCH_ITEMS = 50
BODY_BYTES = 5_000


@asynccontextmanager
async def stuffed(victim: Victim, count: int = CLIENTS) -> AsyncIterator[list[Hostile]]:
    """Clients whose sockets are full of notifications that they do not read; more of them wait in the log."""
    async with hostile(victim, count, receive_bytes=4_096) as clients:
        users = [victim.stranger() for _ in clients]
        await each(client.upgraded(user) for client, user in zip(clients, users, strict=True))
        async with asyncio.timeout(DEADLINE_S):
            for user in users:
                codes: set[ReceiptCode] = set()
                for _ in range(ITEMS // BATCH_ITEMS):
                    entries = [victim.world.log.add(user, size=BODY_BYTES) for _ in range(BATCH_ITEMS)]
                    codes |= set(await victim.send(*((user, entry) for entry in entries)))
                assert ReceiptCode.FULL in codes
        yield clients


async def test_slow_readers(victim: Victim) -> None:
    async with neighbours(victim):
        before = victim.rss_bytes()
        async with stuffed(victim) as clients:
            assert victim.rss_bytes() - before < CLIENTS * HELD_BYTES_MAX
            await each(trickle(client) for client in clients)
            assert victim.rss_bytes() - before < CLIENTS * HELD_BYTES_MAX


async def trickle(client: Hostile) -> None:
    """A byte per second."""
    for _ in range(2):
        await client.read(1)
        await asyncio.sleep(1)


async def test_a_reader_that_comes_to_its_senses(victim: Victim) -> None:
    """What it did not take comes in order, once it reads and acks."""
    async with stuffed(victim, 1) as (client,):
        seqs: list[int] = []
        data = client.take_heard()
        while len(seqs) < ITEMS:
            piece = await client.read()
            assert piece, f"ended after {len(seqs)}"
            data += piece
            whole = whole_frames(data)
            texts = [json.loads(payload) for opcode, payload in frames(data[:whole]) if opcode == TEXT]
            got = [frame for frame in texts if frame["t"] == "n"]
            data = data[whole:]
            if got:
                seqs += [frame["seq"] for frame in got]
                await client.send(masked(TEXT, json.dumps({"t": "ack", "upto": got[-1]["id"]}).encode()))
    assert seqs == list(range(1, ITEMS + 1))


async def test_pings_of_clients_that_do_not_read(victim: Victim) -> None:
    ended = {Closes.TOO_SLOW.code, Closes.TOO_FAST.code}

    async def ends() -> float:
        return sum([await victim.metric(f'herald_closes_total{{code="{code}"}}') for code in ended])

    async with neighbours(victim):
        counted, before = await ends(), victim.rss_bytes()
        async with stuffed(victim) as clients:
            await each(client.send(pings(5_000)) for client in clients)
            async with asyncio.timeout(DEADLINE_S):
                while await ends() < counted + CLIENTS:  # noqa: ASYNC110 - another process counts
                    await asyncio.sleep(0.1)
            assert victim.rss_bytes() - before < CLIENTS * HELD_BYTES_MAX


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Victim]:
    """A process that pings often. Both carriers hang on the same timers, so one is enough."""
    impatient = Victim(tmp_path, "engine", {"HEARTBEAT_MS": 1_500, "PONG_DUE_MS": 1_000})
    try:
        await impatient.start()
        yield impatient
    finally:
        await impatient.stop()


async def test_half_open_connections(impatient: Victim) -> None:
    """The client is gone and its network said nothing: no pong, and the connection is forgotten."""
    async with hostile(impatient, CLIENTS) as clients:
        await each(client.upgraded(impatient.stranger()) for client in clients)
        ends = await each(client.close_code() for client in clients)
        assert len(ends) == CLIENTS
        async with asyncio.timeout(DEADLINE_S):
            while await impatient.metric("herald_connections") > 0:  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.1)
