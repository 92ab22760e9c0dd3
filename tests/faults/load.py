"""The upstream service of a case: it sends at a steady rate and writes down what Kafka accepted."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from notification import ids, names
from notification.settings import Settings
from tests.faults.ledger import Ledger, Sent, User

CLIENT_ID: Final = "upstream"  # says to a proxy whose connection it is
_PRIORITIES: Final = (("high", 2), ("medium", 2), ("low", 1))
_TTL_S: Final = 900
_SHORT_TTL_S: Final = 3
_SHORT_SHARE: Final = 0.1  # of all events expire soon


class Upstream:
    """Sends to random users, at `per_s` events a second, until it is closed."""

    def __init__(
        self, settings: Settings, users: list[User], ledger: Ledger, chance: random.Random, per_s: float
    ) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=settings.kafka_servers, client_id=CLIENT_ID, acks="all", linger_ms=2
        )
        self._users, self._ledger, self._chance = users, ledger, chance
        self._step_s = 1 / per_s
        self._task: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[str]] = set()
        self._going = asyncio.Event()
        self._going.set()

    async def __aenter__(self) -> Self:
        await self._producer.start()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """What is on its way is waited for: accepted, or unsure."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait((self._task,))
        await asyncio.gather(*self._sending)
        await self._producer.stop()

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing is sent meanwhile; what was on its way is accepted or unsure."""
        self._going.clear()
        await asyncio.gather(*self._sending)
        try:
            yield
        finally:
            self._going.set()

    async def send_raw(self, priority: str, key: bytes, value: bytes) -> None:
        """A record as it is."""
        await self._producer.send_and_wait(names.TOPIC_PREFIX + priority, value, key=key)

    async def _run(self) -> None:
        next_s = time.monotonic()
        while True:
            await self._going.wait()
            task = asyncio.create_task(self.send(self._chance.choice(self._users)))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            next_s = max(next_s, time.monotonic() - 1) + self._step_s  # a pause is not made up for
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))

    async def send(self, user: User) -> str:
        """One event; its id. The ledger knows what became of it."""
        ident = str(ids.new_uuid7())
        ttl_s = _SHORT_TTL_S if self._chance.random() < _SHORT_SHARE else _TTL_S
        priorities, weights = zip(*_PRIORITIES, strict=True)
        (priority,) = self._chance.choices(priorities, weights)
        event = {
            "id": ident, "tenant_id": user[0], "user_id": user[1], "type": "service", "ttl": ttl_s,
            "payload": {"title": "/".join(user), "body": "b" * self._chance.randrange(1, 500)},
        }  # fmt: skip
        expiry_ms = int(time.time() * 1_000) + ttl_s * 1_000
        self._ledger.unsure[ident] = user
        try:
            await self.send_raw(priority, names.record_key(*user), json.dumps(event).encode())
        except KafkaError:  # perhaps it is in the log all the same: it stays unsure
            return ident
        del self._ledger.unsure[ident]
        self._ledger.sent[ident] = Sent(user, time.monotonic(), expiry_ms)
        return ident
