"""Counters of five devices of one user: whatever comes late, twice or in another order, they end as SQL counts."""

import asyncio
import itertools
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herald.client import HeraldClient
from notification import batch, frames
from notification.frames import STATES, Counters, Cursor, Resumed, ServerFrame, Welcome
from notification.messages import FillReply, RecallReply, RecallRequest, StateReply, StateRequest
from notification.names import gateway_subject, user_tag
from notification.settings import Settings
from tests.stack.inboxes import World, open_world, question
from worker.store import StoredNotification

pytestmark = pytest.mark.stack

DEVICES = 5
_COUNT = """
SELECT count(*) FILTER (WHERE status NOT IN ('EXPIRED', 'CANCELLED', 'COLLAPSED') AND expiry > clock_timestamp()
    AND recalled_at IS NULL AND read_at IS NULL AND archived_at IS NULL) AS unread,
    (SELECT rev FROM user_state WHERE tenant_id = $1 AND entity_id = $2) AS rev
FROM notifications WHERE tenant_id = $1 AND entity_id = $2
"""
_DEVICE = st.integers(0, DEVICES - 1)
_WHICH = st.integers(0, 9)
_STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2), st.sampled_from([None, None, "o7"])),
    st.tuples(st.just("mark"), _WHICH, st.sampled_from(STATES)),
    st.tuples(st.just("mark"), _WHICH, st.sampled_from(["read", "unread"])),
    st.tuples(st.just("recall"), _WHICH, st.none()),
    st.tuples(st.just("expire"), _WHICH, st.none()),
    st.tuples(st.just("hear"), _DEVICE, _WHICH),
    st.tuples(st.just("hear_twice"), _DEVICE, _WHICH),
    st.tuples(st.just("page"), _DEVICE, st.none()),
    st.tuples(st.just("page"), _DEVICE, st.none()),
    st.tuples(st.just("cut"), _DEVICE, st.none()),
    st.tuples(st.just("back"), _DEVICE, st.none()),
)


async def nobody() -> str:
    return "a.b.c"


class Device:
    """The Python client, and the frames that are on their way to it."""

    def __init__(self) -> None:
        self.client = HeraldClient("ws://127.0.0.1:9/ws/connect", nobody)
        self.coming: list[ServerFrame] = []
        self.online = False

    async def hear(self, place: int, *, again: bool = False) -> None:
        if self.coming:
            place %= len(self.coming)
            await self.client._on_frame(self.coming[place] if again else self.coming.pop(place))


class User:
    """One user, the five devices, and what was sent."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.devices = [Device() for _ in range(DEVICES)]
        self.sent: list[StoredNotification] = []
        self.told = self.heard = 0

    async def start(self) -> None:
        tag = user_tag(self.world.tenant, self.name)
        await self.world.gateway.serve(gateway_subject(self.name, "high"), self._gateway)
        self.world.presence.online(tag, self.name, device="d")
        for device in self.devices:
            await self.back(device)

    async def _gateway(self, _subject: str, message: bytes) -> None:
        for item in batch.unpack(message)[1]:
            self.heard += 1
            for device in self.devices:
                if device.online:
                    device.coming.append(frames.decode_server(item.body))

    async def step(self, name: str, number: int, detail: Any) -> None:
        device = self.devices[number % DEVICES]
        if name == "send":
            stored = await self.world.lab.store(self.world.tenant, self.name, priority=number, collapse_key=detail)
            self.sent += stored
        elif name in ("hear", "hear_twice"):
            await device.hear(detail, again=name == "hear_twice")
        elif name == "page" and device.online:
            device.coming.append(await self.world.page(user=self.name))
        elif name == "cut":
            device.online = False
            device.coming.clear()
        elif name == "back" and not device.online:
            await self.back(device)
        elif name in ("mark", "recall", "expire") and self.sent:
            await self.change(name, self.sent[number % len(self.sent)], detail)

    async def change(self, name: str, sent: StoredNotification, to: str) -> None:
        if name == "mark":
            request = StateRequest(self.world.tenant, self.name, "d", [sent.id.bytes], to)
            reply = await self.world.ask(request)
            assert isinstance(reply, StateReply)
            self.told += reply.told
        elif name == "recall":
            recalled = await self.world.ask(RecallRequest(self.world.tenant, sent.id.bytes, self.name))
            assert isinstance(recalled, RecallReply)
            self.told += recalled.users
        else:
            await self.world.lab.change(self.world.tenant, sent.id, "expiry = now()")

    async def back(self, device: Device) -> None:
        """Connect: welcome, and the counters that come with what is owed."""
        cursor: Cursor | None = device.client.cursor
        [reply] = await self.world.fills(question(self.world.tenant, self.name, cursor))
        assert isinstance(reply, FillReply)
        at = {"direct.high": reply.at[0], "direct.medium": reply.at[1], "direct.low": reply.at[2]}
        await device.client._on_frame(Welcome("s", "c", 30, reply.epoch, reply.recovered))
        await device.client._on_frame(Resumed(at, reply.counters, reply.recovered))
        device.online = True

    async def settle(self, dice: random.Random) -> None:
        """Everybody is back and looks at the inbox twice, and between something expires, which raises no rev. Then
        all that is late comes, in any order, twice."""
        async with asyncio.timeout(30):
            while self.heard < self.told:  # noqa: ASYNC110 - the memory bus has no event for it
                await asyncio.sleep(0.01)
        for device in self.devices:
            if not device.online:
                await self.back(device)
            device.coming.append(await self.world.page(user=self.name))
        if self.sent:
            await self.change("expire", dice.choice(self.sent), "")
        for device in self.devices:
            await device.client._on_frame(await self.world.page(user=self.name))
            late = device.coming * 2
            dice.shuffle(late)
            for frame in late:
                await device.client._on_frame(frame)


@pytest.fixture
async def world(servers: Settings, tenant: str) -> Any:
    async with open_world(servers, tenant) as made:
        yield made


_names = itertools.count()


@settings(
    max_examples=30, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(steps=st.lists(_STEPS, min_size=10, max_size=40), seed=st.integers(0, 2**16))
async def test_five_devices_end_with_the_count_of_sql(world: World, steps: list[Any], seed: int) -> None:
    user = User(world, f"user-{next(_names)}")
    await user.start()
    for step in steps:
        await user.step(*step)
    await user.settle(random.Random(seed))
    [row] = await world.lab.rows(_COUNT, world.tenant, user.name)
    expected = Counters(row["unread"], row["rev"] or 0)
    assert [device.client.counters for device in user.devices] == [expected] * DEVICES
