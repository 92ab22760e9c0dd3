"""Questions to role inbox go out together: nobody's connect is held up by its neighbours in a request."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from notification import messages, names
from notification.messages import Failure, FillReply, FillRequest, FillsReply, FillsRequest
from tests.flow.world import EPOCH, App, World, until

Answer = Callable[[list[FillRequest]], list[FillReply | Failure]]


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    made = World(carrier)
    await made.start()
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is no inbox that is away."""
    monkeypatch.setattr("gateway.resume.INBOX_DEADLINE_MS", 60_000)


class SlowInbox:
    """Role inbox that answers once `go` is set, by `answer`; `asked`: the users of each request."""

    def __init__(self, world: World, answer: Answer) -> None:
        self.world = world
        self.answer = answer
        self.go = asyncio.Event()
        self.asked: list[list[str]] = []

    async def handle(self, subject: str, payload: bytes) -> bytes:
        request = messages.decode_request(payload)
        assert isinstance(request, FillsRequest)
        self.asked.append([fill.user for fill in request.fills])
        await self.go.wait()
        return messages.encode(FillsReply(self.answer(request.fills)))


@contextlib.asynccontextmanager
async def slow_inbox(world: World, answer: Answer | None = None) -> AsyncIterator[SlowInbox]:
    inbox = SlowInbox(world, answer or (lambda fills: [world.log.fill(fill) for fill in fills]))
    await world.stop_inbox()
    await world.bus().serve(names.INBOX_RESUME, inbox.handle, concurrent=True)
    try:
        yield inbox
    finally:
        inbox.go.set()


@contextlib.asynccontextmanager
async def clients(world: World, *users: str, **options: Any) -> AsyncIterator[dict[str, App]]:
    """Connected clients that have read nothing yet."""
    async with contextlib.AsyncExitStack() as stack:
        yield {user: await stack.enter_async_context(world.client(user, raw=True, **options)) for user in users}


async def test_whoever_connects_while_the_inbox_is_at_work_shares_one_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.resume.FILLS_IN_FLIGHT_MAX", 1)
    users = [f"user-{number}" for number in range(12)]
    for number, user in enumerate(users):
        for _ in range(number):
            world.log.add(user)
    async with slow_inbox(world) as inbox, clients(world, users[0]) as first:
        await until(lambda: inbox.asked)
        async with clients(world, *users[1:]) as others:
            await until(lambda: world.gateway.registry.users() == len(users))
            inbox.go.set()
            for number, user in enumerate(users):
                app = (first | others)[user]
                await app.read("welcome")
                assert await app.seqs(number) == list(range(1, number + 1))
                assert (await app.read("resumed"))["counters"]["unread"] == number
    assert inbox.asked == [users[:1], users[1:]]


async def test_a_request_has_a_bounded_number_of_questions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.resume.FILLS_IN_FLIGHT_MAX", 1)
    monkeypatch.setattr("gateway.resume.FILLS_COUNT_MAX", 4)
    users = [f"user-{number}" for number in range(10)]
    async with slow_inbox(world) as inbox, clients(world, *users) as apps:
        await until(lambda: world.gateway.registry.users() == len(users))
        inbox.go.set()
        for app in apps.values():
            await app.read("welcome")
            await app.read("resumed")
    assert max(len(asked) for asked in inbox.asked) <= 4
    assert [user for asked in inbox.asked for user in asked] == users


async def test_one_who_is_refused_is_pending_and_the_others_have_their_answers(world: World) -> None:
    world.log.add("ann")
    world.log.add("bob")
    busy = [True]

    def answer(fills: list[FillRequest]) -> list[FillReply | Failure]:
        return [Failure("busy") if fill.user == "bob" and busy else world.log.fill(fill) for fill in fills]

    async with slow_inbox(world, answer) as inbox, clients(world, "ann", "bob") as apps:
        await until(lambda: inbox.asked)
        inbox.go.set()
        assert (await apps["ann"].read("welcome"))["recovered"] is True
        assert await apps["ann"].seqs(1) == [1]
        await apps["ann"].read("resumed")
        assert (await apps["bob"].read("welcome"))["recovered"] == "pending"
        busy.clear()
        assert await read_until_resumed(apps["bob"]) == [1]


async def test_an_answer_with_the_wrong_number_of_replies_is_no_answer(world: World) -> None:
    wrong = [True]

    def answer(fills: list[FillRequest]) -> list[FillReply | Failure]:
        return [] if wrong else [world.log.fill(fill) for fill in fills]

    async with slow_inbox(world, answer) as inbox, clients(world, "ann") as apps:
        inbox.go.set()
        welcome = await apps["ann"].read("welcome")
        assert (welcome["recovered"], welcome["epoch"]) == ("pending", EPOCH)
        wrong.clear()
        assert await read_until_resumed(apps["ann"]) == []


async def test_what_comes_in_parts_without_an_item_is_asked_for_again(world: World) -> None:
    """An answer whose bounds others used up: nothing yet, more to follow."""
    world.log.add("ann")
    empty = [True, True]

    def answer(fills: list[FillRequest]) -> list[FillReply | Failure]:
        if not empty:
            return [world.log.fill(fill) for fill in fills]
        empty.pop()
        return [world.log.fill(messages.FillRequest(f.tenant, f.user, f.first, f.cursor, f.at, 0)) for f in fills]

    async with slow_inbox(world, answer) as inbox, clients(world, "ann") as apps:
        inbox.go.set()
        assert (await apps["ann"].read("welcome"))["recovered"] is True
        assert await apps["ann"].seqs(1) == [1]
        await apps["ann"].read("resumed")
    assert len(inbox.asked) == 3


async def test_who_left_meanwhile_is_not_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.resume.FILLS_IN_FLIGHT_MAX", 1)
    async with slow_inbox(world) as inbox, clients(world, "ann") as apps:
        await until(lambda: inbox.asked)
        async with clients(world, "bob"):
            await until(lambda: world.gateway.registry.users() == 2)
        await until(lambda: world.gateway.registry.users() == 1)
        inbox.go.set()
        await apps["ann"].read("welcome")
        await apps["ann"].read("resumed")
    assert inbox.asked == [["ann"]]


async def test_a_redis_that_does_not_answer_does_not_hold_up_a_connect(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = world._pipeline.push
    monkeypatch.setattr(
        world._pipeline, "push", lambda *command, told=None: push(*command)
    )  # what was written is never told
    async with clients(world, "ann") as apps:
        assert (await apps["ann"].read("welcome"))["recovered"] is True
        await apps["ann"].read("resumed")


async def read_until_resumed(app: App) -> list[int]:
    """The seqs that come before `resumed`."""
    seqs = []
    while (frame := await app.next(10))["t"] != "resumed":
        seqs.append(frame["seq"])
    return seqs
