"""Frames as the gateway writes them satisfy the published schemas of docs/asyncapi.yaml."""

import asyncio

import pytest

from notification import batch
from notification.codes import Lane
from notification.frames import CountersFrame, StateFrame, encode
from notification.names import user_tag
from tests.asyncapi import check_heard, schema_names
from tests.flow.world import World, mint, now_ms


async def test_every_frame_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.process.DRAIN_WINDOW_MS", 500)
    world = World()
    await world.start()
    world.log.add("ann")
    seen = set()
    async with world.client("ann", "phone", raw=True) as app:

        async def hear(kind: str) -> None:
            frame = await app.read(kind, 10)
            seen.add(check_heard(frame))

        for kind in ("welcome", "n", "resumed"):
            await hear(kind)
        await world.send("ann", world.log.add("ann", Lane.DIRECT_LOW, now_ms() + 60_000))
        await hear("n")
        for kind, frame in (
            ("counters", CountersFrame(1, 5)),
            ("state", StateFrame(["01936b5e-4c00-7000-8000-000000000001"], "read", 6, 0)),
        ):
            tag = user_tag("acme", "ann").encode()
            await world.send_items([batch.Item(batch.CONTROL, 0, 0, 0, 0, 0, bytes(16), tag, encode(frame))])
            await hear(kind)
        await app.say(t="page", limit=5)
        await hear("page")
        await app.say(t="ping")
        await hear("pong")
        await app.say(t="reauth", token=mint("bob"))
        await hear("error")
        draining = asyncio.create_task(world.gateway.drain())
        await hear("goaway")
        assert await app.closed(10) == 1012
        await draining
    await world.close()
    assert seen == set(schema_names("hear").values())
