"""Floods of one address, one tenant, one user: each has its share of a process, and hears so beyond it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from notification.codes import Closes, Refusals
from notification.limits import DEVICES_PER_USER_MAX
from tests.flow.world import mint
from tests.hostile.clients import DEADLINE_S, HELD_BYTES_MAX, Hostile, each, hostile, request
from tests.hostile.neighbours import COUNT, neighbours
from tests.hostile.victim import Victim

PER_ADDRESS = 40
PER_TENANT = 60

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["engine", "picows"])
async def capped_process(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Victim]:
    folder = tmp_path_factory.mktemp("capped")
    victim = Victim(
        folder, str(request.param), connections_per_address=PER_ADDRESS, connections_per_tenant=PER_TENANT
    )
    try:
        await victim.start()
        yield victim
    finally:
        await victim.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def capped(capped_process: Victim) -> Victim:
    """Nobody is left of the test before."""
    async with asyncio.timeout(DEADLINE_S):
        while await capped_process.metric("herald_connections") > 0:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.05)
    return capped_process


async def test_an_address_has_its_share(capped: Victim) -> None:
    """Up to the cap: connections. Up to twice the cap: 429. Beyond: not even an answer."""
    address = "127.0.0.9"  # the neighbours come from 127.0.0.1
    async with neighbours(capped):
        before = capped.rss_bytes()
        async with hostile(capped, PER_ADDRESS, address=address) as first:
            await each(client.upgraded(capped.stranger()) for client in first)
            async with hostile(capped, 3 * PER_ADDRESS, address=address) as more:
                answers = set(await each(knock(client, capped.stranger()) for client in more))
                assert capped.rss_bytes() - before < 4 * PER_ADDRESS * HELD_BYTES_MAX
        async with hostile(capped, 1, address="127.0.0.10") as (other,):
            await other.upgraded(capped.stranger())
    assert answers == {TOO_MANY, b""}


async def test_a_tenant_has_its_share(capped: Victim) -> None:
    async with (
        neighbours(capped),
        hostile(capped, 2, address="127.0.0.11") as late,
        hostile(capped, 30, address="127.0.0.12") as some,
        hostile(capped, PER_TENANT - COUNT - 30, address="127.0.0.13") as others,
    ):
        await each(client.upgraded(capped.stranger()) for client in (*some, *others))
        assert set(await each(knock(client, capped.stranger()) for client in late)) == {TOO_MANY}


async def test_a_user_has_so_many_devices(capped: Victim) -> None:
    user = capped.stranger()
    async with neighbours(capped), hostile(capped, DEVICES_PER_USER_MAX + 4, address="127.0.0.14") as clients:
        for client in clients[:-4]:
            await client.upgraded(user)
            await client.hears(b'"resumed"')  # its presence is written
        for client in clients[-4:]:
            await client.upgraded(user)
            await client.hears(b'"too_many_devices"')
            assert await client.close_code() == Closes.TOO_FAST.code


TOO_MANY = b"429 Retry-After: 5 " + Refusals.TOO_MANY.body


async def knock(client: Hostile, user: str) -> bytes:
    """Status, Retry-After and body of the answer; b"": there was none."""
    await client.send(request(Authorization=f"Bearer {mint(user)}"))
    answer = await client.read_to_end()
    if not answer:
        return b""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    retry = [line for line in headers if line.startswith(b"Retry-After:")]
    return b" ".join([status.split(b" ")[1], *retry, body])
