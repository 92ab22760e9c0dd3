"""Devices of users, over the `websockets` library: they keep a cursor, ack, come again, and tell the ledger."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import random
import time
import uuid
from collections.abc import Coroutine
from typing import Any, Final, NoReturn

import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from notification.frames import SUBPROTOCOL, Cursor, cursor_to_text
from notification.settings import Settings
from tests.faults.ledger import DeviceName, Ledger, Place

_COME_AGAIN_S: Final = (0.05, 0.3)
_TOKEN_S: Final = 3_600
_CONNECT_S: Final = 10.0
_PING_EVERY_S: Final = 5.0  # an app that is looked at notices soon that the network went away
_PONG_S: Final = 10.0
_PAGE_ITEMS: Final = 50


@dataclasses.dataclass
class Manners:
    """How a device behaves; a case may change it while the device lives."""

    acks: bool = True
    lost_acks: float = 0.0  # share that is never sent; the server repeats what it misses
    doubled_acks: bool = False
    late_acks_s: float = 0.0
    forged: collections.deque[str] = dataclasses.field(default_factory=collections.deque)
    """Ids of other users that it claims to have."""


class Device:
    """One device of a user. `live` runs until it is cancelled."""

    def __init__(self, settings: Settings, name: DeviceName, ledger: Ledger, chance: random.Random) -> None:
        self.name = name
        self.manners = Manners()
        self.port = settings.gateway_port
        self.connects = 0
        self.refusals: collections.Counter[str] = collections.Counter()
        self.here = asyncio.Event()
        """Set while `resumed` was heard on the connection of now."""
        self._settings = settings
        self._ledger, self._chance = ledger, chance
        self._place = Place(ledger, name)
        self._socket: ClientConnection | None = None
        self._late: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        """Connect, again and again."""
        while True:
            try:
                await self._session()
            except (ConnectionClosed, InvalidHandshake, OSError, TimeoutError) as error:
                self.refusals[_name_of(error)] += 1
            finally:
                self.here.clear()
                self._socket = None
                for task in self._late:
                    task.cancel()
            await asyncio.sleep(self._chance.uniform(*_COME_AGAIN_S))

    def drop(self) -> None:
        """The network between is gone: no close frame."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def _session(self) -> NoReturn:
        """One connection. Raises what ended it."""
        url = f"ws://127.0.0.1:{self.port}/ws/connect?device={self.name.device}"
        began = bool(self._place.epoch)
        if began:
            url += "&cursor=" + cursor_to_text(Cursor(self._place.epoch, self._place.at))
        async with connect(
            url, subprotocols=[Subprotocol(SUBPROTOCOL)], open_timeout=_CONNECT_S, close_timeout=1,
            ping_interval=_PING_EVERY_S, ping_timeout=_PONG_S,
            additional_headers={"Authorization": f"Bearer {token_of(self._settings, self.name)}"},
        ) as socket:  # fmt: skip
            self._socket = socket
            self.connects += 1
            while True:
                frame = json.loads(await socket.recv())
                match frame["t"]:
                    case "welcome":
                        if frame["recovered"] is False:
                            self._place.forget()
                        self._place.epoch = frame["epoch"]
                    case "n":
                        await self._take(socket, frame)
                    case "resumed":
                        if frame["recovered"] is False and began:
                            self._place.forget()
                            await self._send(socket, {"t": "page", "limit": _PAGE_ITEMS})
                        for lane, seq in frame["at"].items():
                            self._place.move(lane, seq, shown=False)
                        self.here.set()
                    case "page":
                        await self._read(socket, frame)
                    case "error":
                        self.refusals[frame["code"]] += 1
                    case "goaway":
                        self._later(_leave(socket, frame["delay_ms"] / 1_000))

    async def _take(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        self._ledger.take(self.name, frame, live=True)
        if self.manners.acks:
            self._place.move(frame["lane"], frame["seq"], shown=True)
        await self._ack(socket, frame["id"])

    async def _ack(self, socket: ClientConnection, ident: str) -> None:
        manners = self.manners
        if not manners.acks or self._chance.random() < manners.lost_acks:
            return
        self._ledger.acked.add(ident)
        ack = {"t": "ack", "ids": [ident]}
        if manners.forged:
            await self._send(socket, {"t": "ack", "ids": [manners.forged.popleft()]})
        if manners.late_acks_s:
            self._later(self._ack_late(socket, ack, manners.late_acks_s))
            return
        for _ in range(2 if manners.doubled_acks else 1):
            await self._send(socket, ack)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Ends with the connection."""
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _ack_late(self, socket: ClientConnection, ack: dict[str, Any], seconds: float) -> None:
        await asyncio.sleep(seconds)
        with contextlib.suppress(ConnectionClosed):  # the server repeats what it knows no ack of
            await self._send(socket, ack)

    async def _read(self, socket: ClientConnection, page: dict[str, Any]) -> None:
        """The inbox, down to its end."""
        for item in page["items"]:
            self._ledger.take(self.name, item["n"], live=False)
        if "next" in page:
            await self._send(socket, {"t": "page", "limit": _PAGE_ITEMS, "before": page["next"]})

    async def _send(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        await socket.send(json.dumps(frame))


async def _leave(socket: ClientConnection, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await socket.close()


def _name_of(error: Exception) -> str:
    if isinstance(error, ConnectionClosed):
        return f"closed {error.rcvd.code if error.rcvd else 1006}"
    return type(error).__name__


def token_of(settings: Settings, name: DeviceName) -> str:
    """An hour's token of a user, signed with the key of their tenant."""
    tenant, user = name.user
    now_s = int(time.time())
    claims = {"iss": f"herald:{tenant}", "aud": "herald", "sub": user, "tid": tenant, "iat": now_s,
              "exp": now_s + _TOKEN_S, "jti": str(uuid.uuid4())}  # fmt: skip
    return jwt.encode(claims, settings.secret(f"issuer_{tenant}.key"), algorithm="HS256")
