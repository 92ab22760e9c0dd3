"""What goes to a tenant's audiences, from the bus to clients of either carrier and their acks back."""

from collections.abc import AsyncIterator

import pytest

from notification import batch
from notification.codes import Lane
from notification.frames import Cursor, user_epoch
from notification.messages import AudienceFillRequest, EntitledRequest
from tests.flow.world import LOG_EPOCH, World, until


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    world = World(carrier)
    await world.start()
    yield world
    await world.close()


async def test_members_have_it_and_each_acks_for_itself(world: World) -> None:
    async with world.client("ann") as ann, world.client("bob") as bob, world.client("eve") as eve:
        for app in (ann, bob, eve):
            await app.read("resumed")
        secret, news = world.log.add_audience("ann", "bob"), world.log.add_audience()
        await world.publish(secret, news)
        for app in (ann, bob):
            frame = await app.read("n")
            assert (frame["lane"], frame["seq"]) == ("audience.high", 1)
            await app.ack(frame)
        for app in (ann, bob, eve):
            assert (await app.read("n"))["seq"] == 2
        await until(lambda: len(world.acked()) == 2)
        acks = [ack for entry in world.receipts() for ack in entry.acks]
        assert {(ack.user, ack.lane, ack.seq, ack.id) for ack in acks} == {
            (user, Lane.AUDIENCE_HIGH, 1, secret.id) for user in ("ann", "bob")
        }
    assert [type(one) for one in world.log.questions] == [EntitledRequest]


async def test_what_the_bus_lost_is_refilled_before_what_follows(world: World) -> None:
    async with world.client("ann") as ann, world.client("bob") as bob:
        for app in (ann, bob):
            await app.read("resumed")
        await world.publish(world.log.add_audience())
        for app in (ann, bob):
            assert await app.seqs(1) == [1]
        world.log.add_audience("bob")
        world.log.add_audience()
        await world.publish(world.log.add_audience())
        assert (await ann.seqs(2), await bob.seqs(3)) == ([3, 4], [2, 3, 4])
        assert [one for one in world.log.questions if isinstance(one, AudienceFillRequest)] == [
            AudienceFillRequest("acme", Lane.AUDIENCE_HIGH, 1)
        ]


async def test_a_lost_last_one_shows_in_the_heads(world: World) -> None:
    async with world.client("ann") as ann:
        await ann.read("resumed")
        world.log.add_audience()
        await world.publish_items([batch.heads_item("acme", [1, 0, 0])])
        assert await ann.seqs(1) == [1]


async def test_a_late_joiner_and_a_cursor(world: World) -> None:
    for _ in range(3):
        world.log.add_audience()
    epoch = user_epoch(LOG_EPOCH, "acme", "bob")
    async with world.client("ann") as late, world.client("bob", cursor=Cursor(epoch, {"audience.high": 2})) as bob:
        assert (await late.seqs(3), await bob.seqs(1)) == ([1, 2, 3], [3])
        for app in (late, bob):
            assert (await app.read("resumed"))["at"]["audience.high"] == 3
        await world.publish(world.log.add_audience("bob"), world.log.add_audience("ann"))
        assert (await late.seqs(1), await bob.seqs(1)) == ([5], [4])
    async with world.client("bob", cursor=Cursor(epoch, {"audience.high": 4})) as again:
        assert (await again.read("resumed"))["at"]["audience.high"] == 5


async def test_a_gateway_without_connections_of_the_tenant_does_not_listen(world: World) -> None:
    subject = "notification.acme.high"
    assert world.hub.send(subject, b"", None) == 0
    async with world.client("ann") as ann:
        await ann.read("resumed")
        assert world.hub.send(subject, batch.pack([], 0), None) == 1
