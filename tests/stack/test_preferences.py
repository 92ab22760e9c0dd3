"""Preferences on real PostgreSQL: set by role admin, obeyed by the next batch that is stored."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from notification.errors import Conflict, InvalidInput
from notification.ids import new_uuid7
from notification.settings import Settings
from tests.stack.inboxes import World, open_world
from worker.operations import Operations
from worker.preferences import Preferences

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_world(servers, tenant) as made:
        yield made


@pytest.fixture
async def operations(servers: Settings) -> AsyncIterator[Operations]:
    made = await Operations.connect(servers)
    yield made
    await made.close()


async def stored(world: World, kind: str, user: str = "ann", **fields: Any) -> tuple[uuid.UUID, bool]:
    """The id of an event, and whether it is to be sent."""
    ident = new_uuid7(await world.lab.now_ms())
    ready = await world.lab.store(world.tenant, user, ids=iter([ident]), type=kind, **fields)
    return ident, bool(ready)


async def test_what_is_turned_off_is_stored_as_cancelled_and_sent_to_nobody(
    world: World, operations: Operations
) -> None:
    set_to = await operations.set_preference(world.tenant, "ann", False, kind="promotional")
    assert set_to == Preferences({"promotional": False}) == await operations.preferences(world.tenant, "ann")
    offer, sent = await stored(world, "promotional")
    assert not sent
    row = await world.lab.row(world.tenant, offer)
    assert (row["status"], row["rank"], row["status_code"], row["due_at"]) == ("CANCELLED", 2, 411, None)
    assert await world.lab.history(world.tenant, offer) == ["CANCELLED"]
    scheduled, _sent = await stored(world, "promotional", not_before_ms=await world.lab.now_ms() + 60_000)
    assert (await world.lab.row(world.tenant, scheduled))["due_at"] is None
    wanted = [(await stored(world, kind))[0] for kind in ("service", "system_alert")]
    reply = await world.fill()
    assert [uuid.UUID(bytes=item.id) for item in reply.items] == wanted
    assert (reply.counters.unread, reply.at[0]) == (2, 4), "the lane passes what was not wanted"
    assert [sent for _id, sent in [await stored(world, "promotional", user="bob")]] == [True]


async def test_a_topic_decides_over_the_type_both_ways(world: World, operations: Operations) -> None:
    await operations.set_preference(world.tenant, "ann", False, kind="promotional")
    await operations.set_preference(world.tenant, "ann", True, topic="order-news")
    await operations.set_preference(world.tenant, "ann", False, topic="digest")
    sent = {
        (kind, topic): (await stored(world, kind, topic=topic))[1]
        for kind in ("promotional", "service", "system_alert")
        for topic in (None, "order-news", "digest")
    }
    assert [of for of, is_sent in sent.items() if not is_sent] == [
        ("promotional", None), ("promotional", "digest"), ("service", "digest")
    ]  # fmt: skip


async def test_a_change_is_obeyed_by_the_next_batch(world: World, operations: Operations) -> None:
    for wanted, sent in ((False, False), (True, True), (False, False), (None, True)):
        await operations.set_preference(world.tenant, "ann", wanted, kind="service")
        assert (await stored(world, "service"))[1] is sent
    assert await operations.preferences(world.tenant, "ann") == Preferences()
    assert (await world.lab.rows("SELECT preferences FROM user_state WHERE tenant_id = $1", world.tenant)) == [
        {"preferences": None}
    ]


async def test_changes_at_the_same_time_are_all_kept(world: World, operations: Operations) -> None:
    topics = [f"t{number}" for number in range(20)]
    await asyncio.gather(*(operations.set_preference(world.tenant, "ann", False, topic=topic) for topic in topics))
    assert (await operations.preferences(world.tenant, "ann")).topics == dict.fromkeys(topics, False)


async def test_what_cannot_be_set_is_refused(
    world: World, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match="type: must be one of promotional, service; system_alert always comes"):
        await operations.set_preference(world.tenant, "ann", False, kind="system_alert")
    for topic in ("", "a b", None):
        with pytest.raises(InvalidInput, match="topic: must be 1 to 64"):
            await operations.set_preference(world.tenant, "ann", False, topic=topic)
    nobody = world.tenant + "-x"
    with pytest.raises(Conflict, match="does not exist"):
        await operations.set_preference(nobody, "ann", False, kind="service")
    with pytest.raises(Conflict, match="does not exist"):
        await operations.preferences(nobody, "ann")
    monkeypatch.setattr("worker.preferences.PREFERENCES_TOPICS_COUNT_MAX", 2)
    for topic in ("a", "b", "a"):
        await operations.set_preference(world.tenant, "ann", False, topic=topic)
    with pytest.raises(Conflict, match="2 topics are set for this user already"):
        await operations.set_preference(world.tenant, "ann", False, topic="c")
    assert (await operations.preferences(world.tenant, "bob")) == Preferences()
