"""Well-behaved clients of the same process: what is sent to them while somebody attacks must arrive."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

from tests.flow.world import App
from tests.hostile.victim import Victim

COUNT: Final = 3
DEADLINE_S: Final = 30  # for one notification; generous: this is about "at all", bench/hostile.py about "how fast"
PAUSE_S: Final = 0.05


class Neighbours:
    """`rounds`: how often each neighbour got and acked one; `latencies_s` of every delivery."""

    def __init__(self, victim: Victim, apps: list[tuple[str, App]]) -> None:
        self._victim = victim
        self._apps = apps
        self.rounds = 0
        self.latencies_s: list[float] = []

    async def run(self) -> None:
        while True:
            await self._round()
            self.rounds += 1
            await asyncio.sleep(PAUSE_S)

    async def _round(self) -> None:
        sent = time.monotonic()
        entries = [(user, self._victim.world.log.add(user)) for user, _ in self._apps]
        await self._victim.send(*entries)
        for (user, app), (_, entry) in zip(self._apps, entries, strict=True):
            frame = await app.next(DEADLINE_S)
            while frame["t"] != "n":
                frame = await app.next(DEADLINE_S)
            assert frame["seq"] == entry.seq, (user, frame)
            self.latencies_s.append(time.monotonic() - sent)
            await app.ack(frame)


@contextlib.asynccontextmanager
async def neighbours(victim: Victim) -> AsyncIterator[Neighbours]:
    """They connect before the body and are served until after it: a round that begins when it ends is completed."""
    async with contextlib.AsyncExitStack() as stack:
        users = [victim.stranger() for _ in range(COUNT)]
        apps = [(user, await stack.enter_async_context(victim.client(user))) for user in users]
        served = Neighbours(victim, apps)
        running = asyncio.create_task(served.run())
        try:
            yield served
            begun = served.rounds
            async with asyncio.timeout(2 * DEADLINE_S):
                while served.rounds < begun + 2 and not running.done():  # noqa: ASYNC110 - two ends of a wait
                    await asyncio.sleep(PAUSE_S)
        finally:
            running.cancel()
            done = await asyncio.gather(running, return_exceptions=True)
            if not isinstance(done[0], asyncio.CancelledError):
                raise AssertionError("a neighbour was not served") from done[0]
