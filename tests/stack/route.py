"""Helpers of the route tests: an upstream service (Kafka) and a client app (the `websockets` library)."""

import asyncio
import collections
import json
import uuid
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from notification import ids, names
from notification.frames import SUBPROTOCOL, Cursor, cursor_to_text
from notification.settings import Settings
from worker.operations import Operations

WAIT_S = 30.0


class Upstream:
    """Produces events as any service would: JSON, acks=all, key tenant:user."""

    def __init__(self, settings: Settings) -> None:
        self._producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_servers, acks="all")

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def send(self, tenant: str, user: str, title: str, *, priority: str = "high", **fields: Any) -> str:
        ident = str(ids.new_uuid7())
        event = {"id": ident, "tenant_id": tenant, "user_id": user, "type": "service",
                 "payload": {"title": title, "body": "b"}} | fields  # fmt: skip
        await self.send_raw(priority, names.record_key(tenant, user), json.dumps(event).encode())
        return ident

    async def send_raw(self, priority: str, key: bytes, value: bytes) -> None:
        await self._producer.send_and_wait(names.TOPIC_PREFIX + priority, value, key=key)


class App:
    """One device of a user: keeps its cursor as a client must, acks when told to."""

    def __init__(self, settings: Settings, token: str, device: str) -> None:
        self._url = f"ws://127.0.0.1:{settings.gateway_port}/ws/connect?device={device}"
        self._token = token
        self.epoch = 0
        self.at: dict[str, int] = {}
        self.welcome: dict[str, Any] = {}
        self.resumed: dict[str, Any] = {}
        self.owed: list[dict[str, Any]] = []
        self._socket: ClientConnection | None = None

    async def open(self, *, cursor: bool = False, ack: bool = True, **options: Any) -> Self:
        """Connect and read until `resumed`; what was owed is in `owed`. `options` are those of the library."""
        url = self._url
        if cursor:
            url += "&cursor=" + cursor_to_text(Cursor(self.epoch, self.at))
        self._socket = await connect(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {self._token}"},
            **options,
        )
        self.owed = []
        self.welcome = await self.frame("welcome")
        self.epoch = self.welcome["epoch"]
        while (frame := await self.frame("n", "resumed"))["t"] == "n":
            self.owed.append(frame)
            if ack:
                await self.ack(frame)
        self.resumed = frame
        self.at |= frame["at"]
        return self

    def renew(self, token: str) -> None:
        """Of the next connect."""
        self._token = token

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None
        return self._socket

    async def frame(self, *kinds: str) -> dict[str, Any]:
        """The next frame of one of these kinds; others in between are passed over."""
        async with asyncio.timeout(WAIT_S):
            while True:
                frame: dict[str, Any] = json.loads(await self.socket.recv())
                if frame["t"] in kinds:
                    if frame["t"] == "n":
                        self.at[frame["lane"]] = max(frame["seq"], self.at.get(frame["lane"], 0))
                    return frame

    async def notification(self, *, ack: bool = True) -> dict[str, Any]:
        frame = await self.frame("n")
        if ack:
            await self.ack(frame)
        return frame

    async def ack(self, *frames: dict[str, Any]) -> None:
        await self.send({"t": "ack", "ids": [frame["id"] for frame in frames]})

    async def send(self, frame: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(frame))

    async def aclose(self) -> None:
        if self._socket is not None:
            await self._socket.close()


async def status_becomes(settings: Settings, tenant: str, ident: str, *wanted: str) -> list[str]:
    """Wait until the notification's status is one of `wanted`; the statuses of its history, oldest first."""
    operations = await Operations.connect(settings)
    last = "unknown"
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                rows = await operations.notification_status(tenant, uuid.UUID(ident))
                if rows:
                    last = rows[0].status
                    if last in wanted:
                        return [entry.status for entry in rows[0].history]
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{ident} is {last}, not {' or '.join(wanted)} after {WAIT_S} s") from None
    finally:
        await operations.close()


async def history_holds(settings: Settings, tenant: str, ident: str, *wanted: str) -> None:
    """Wait until the notification's history has each of `wanted`, as often as it is named.

    Their order is that of being written down: a client's ack may be faster than the note that it was sent.
    """
    operations = await Operations.connect(settings)
    missing = collections.Counter(wanted)
    try:
        async with asyncio.timeout(WAIT_S):
            while missing:
                rows = await operations.notification_status(tenant, uuid.UUID(ident))
                written = collections.Counter(entry.status for row in rows for entry in row.history)
                missing = collections.Counter(wanted) - written
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"the history of {ident} lacks {dict(missing)} after {WAIT_S} s") from None
    finally:
        await operations.close()
