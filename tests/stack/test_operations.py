"""worker/operations.py on real PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from notification.errors import InvalidInput
from notification.ids import UUID7_MS_MAX, new_uuid7
from notification.messages import EdgeKey
from notification.settings import Settings
from tests.stack.lab import open_lab
from worker.operations import Operations

pytestmark = pytest.mark.stack


@pytest.fixture
async def operations(servers: Settings) -> AsyncIterator[Operations]:
    made = await Operations.connect(servers)
    yield made
    await made.close()


def key(issuer: str, kid: str = "") -> EdgeKey:
    return EdgeKey(issuer, "herald", kid, "HS256", b"secret")


async def test_a_new_tenant_is_listed(operations: Operations, tenant: str) -> None:
    name = tenant + "-shop"
    await operations.create_tenant(name, "The Shop", ["https://shop.example.com"], [key(f"herald:{name}")])
    [found] = [one for one in await operations.list_tenants() if one.tenant == name]
    assert (found.name, found.status, found.origins) == ("The Shop", "active", ["https://shop.example.com"])


async def test_a_tenant_is_made_once(operations: Operations, tenant: str) -> None:
    with pytest.raises(InvalidInput, match=f"{tenant} exists already"):
        await operations.create_tenant(tenant, "Again", [], [])


async def test_an_issuers_key_belongs_to_one_tenant_and_nothing_is_half_made(
    operations: Operations, tenant: str
) -> None:
    with pytest.raises(InvalidInput, match=f"herald:{tenant} is taken already"):
        await operations.create_tenant(tenant + "x", "X", [], [key(f"herald:{tenant}")])
    assert tenant + "x" not in {one.tenant for one in await operations.list_tenants()}


@pytest.mark.parametrize("name", ["", "a b", "a,b", "ä", "x" * 65])
async def test_a_bad_name_is_refused(operations: Operations, name: str) -> None:
    with pytest.raises(InvalidInput, match="tenant"):
        await operations.create_tenant(name, "X", [], [])


async def test_the_algorithm_is_one_we_check(operations: Operations, tenant: str) -> None:
    with pytest.raises(InvalidInput, match="algorithm"):
        await operations.create_tenant(tenant + "y", "Y", [], [EdgeKey("i", "a", "", "none", b"")])


async def test_status_and_history_of_a_notification(servers: Settings, operations: Operations, tenant: str) -> None:
    async with open_lab(servers) as lab:
        [sent] = await lab.store(tenant, "ann", priority=2)
        [found] = await operations.notification_status(tenant, sent.id)
    assert (found.user, found.status, found.priority, found.attempt) == ("ann", "ACCEPTED", 2, 0)
    assert [(entry.status, entry.status_code) for entry in found.history] == [("ACCEPTED", 100)]
    assert found.history[0].at >= found.sent_at


async def test_nobody_sees_another_tenants_notification(
    servers: Settings, operations: Operations, tenant: str
) -> None:
    async with open_lab(servers) as lab:
        [sent] = await lab.store(tenant)
    assert await operations.notification_status("demo", sent.id) == []
    assert await operations.notification_status(tenant, new_uuid7()) == []
    assert await operations.notification_status(tenant, new_uuid7(UUID7_MS_MAX)) == []


async def test_an_id_that_no_notification_can_have_is_refused(operations: Operations, tenant: str) -> None:
    with pytest.raises(InvalidInput, match="not after the year 9999"):
        await operations.notification_status(tenant, new_uuid7(UUID7_MS_MAX + 1))
