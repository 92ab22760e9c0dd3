"""What tests of gateway.audiences share: real sessions, the memory bus, a role inbox that knows who is entitled."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import pytest

from gateway import audiences as module
from gateway._fast import session as sessions
from gateway._fast.carrier import Connection
from gateway.audiences import Audiences
from gateway.clock import DatabaseClock, unix_ms
from notification import batch, messages, names
from notification.batch import AUDIENCE, Item
from notification.codes import LANE_COUNT, Lane
from notification.messages import AudienceFillReply, AudienceFillRequest, EntitledReply, EntitledRequest, FillItem
from tests.twins.bus import Hub, MemoryBus
from tests.unit.gateway._fast.sessions import TEXT, frames, ident

LANE = Lane.AUDIENCE_HIGH
TENANT = "acme"


class Row(NamedTuple):
    """An entry of the lane; `users` None = everyone."""

    seq: int
    users: frozenset[str] | None = None
    expiry_ms: int = 0

    def body(self) -> bytes:
        return b"%d" % self.seq

    def may(self, user: str) -> bool:
        return self.users is None or user in self.users

    def item(self, tenant: str = TENANT, **fields: Any) -> Item:
        values: dict[str, Any] = {"kind": AUDIENCE, "lane": LANE, "attempt": int(self.users is None)}
        values |= {"prev": self.seq - 1, "expiry_ms": self.expiry_ms, "id": ident(self.seq), "body": self.body()}
        return Item(**(values | fields), seq=self.seq, tag=tenant.encode())


class Device:
    """A connection whose session is real, and what came over its socket."""

    def __init__(self, user: str, tenant: str = TENANT) -> None:
        session = sessions.Session(0)
        session.authenticate(tenant, user, "d", bytes(16), f"{tenant}:{user}".encode(), 1, 0)
        self.session = session
        self.writes: list[list[bytes]] = []

    @property
    def got(self) -> list[bytes]:
        return [frame for write in self.writes for frame in write]

    def flush(self) -> None:
        write = [payload for opcode, payload in frames(self.session.take()) if opcode == TEXT]
        self.writes.append(write)
        for seq in write:
            if seq.isdigit():
                self.session.ack(ident(int(seq)))

    def fill(self, rows: Sequence[Row]) -> None:
        """What the resume pump would bring."""
        for row in rows:
            if row.may(self.session.user):
                assert self.session.fill(LANE, row.seq, row.seq - 1, ident(row.seq), row.body())
        for lane in range(LANE_COUNT):
            self.session.advance(lane, len(rows) if lane == LANE else 0)
        self.session.begin_live()
        self.flush()


class World:
    """One Audiences, its bus, and role inbox over `rows`. `questions`: what the latter was asked."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.bus, self.worker = MemoryBus(self.hub), MemoryBus(self.hub)
        self.rows: list[Row] = []
        self.questions: list[EntitledRequest | AudienceFillRequest] = []
        self.failing = False
        self.fill_max = 100
        self.gate = asyncio.Event()  # cleared: answers wait
        self.gate.set()
        self.nudged: list[Device] = []
        self.audiences = Audiences(
            self.bus, DatabaseClock(), cast(Callable[[Connection], None], self.nudged.append), lambda one: True
        )

    async def start(self) -> None:
        for subject in (names.INBOX_AUDIENCE, names.INBOX_AUDIENCE_FILL):
            await self.worker.serve(subject, self._answer, concurrent=True)

    async def close(self) -> None:
        self.gate.set()
        await self.audiences.close()
        await self.bus.close()
        await self.worker.close()

    async def _answer(self, subject: str, payload: bytes) -> bytes:
        request = messages.decode_request(payload)
        assert isinstance(request, EntitledRequest | AudienceFillRequest)
        assert request.tenant == TENANT
        rows = self.rows if request.lane == LANE else []
        self.questions.append(request)
        failing = self.failing
        await self.gate.wait()
        if failing:
            return messages.encode(messages.Failure("busy"))
        if isinstance(request, EntitledRequest):
            row = rows[request.seq - 1]
            bits = "".join("1" if row.may(user) else "0" for user in request.users)
            whole = bits.ljust(-len(bits) // 8 * -8, "0")
            return messages.encode(EntitledReply(int(whole, 2).to_bytes(len(whole) // 8, "big")))
        found = rows[request.after : request.after + self.fill_max]
        items = [FillItem(LANE, row.seq, 99, row.expiry_ms, ident(row.seq), row.body()) for row in found]
        at = found[-1].seq if found else len(rows)
        return messages.encode(
            AudienceFillReply(items, [row.users is None for row in found], at, at < len(rows), unix_ms())
        )

    def add(self, users: Sequence[str] | None = None, expiry_ms: int = 0) -> Row:
        self.rows.append(Row(len(self.rows) + 1, None if users is None else frozenset(users), expiry_ms))
        return self.rows[-1]

    async def publish(self, *items: Item, tenant: str = TENANT) -> None:
        await self.worker.publish(names.audience_subject(tenant, "high"), batch.pack(items, unix_ms()))

    async def tell(self, seq: int) -> None:
        await self.publish(batch.heads_item(TENANT, [seq, 0, 0]))

    async def device(self, user: str, tenant: str = TENANT) -> Device:
        """One that has connected and resumed."""
        one = Device(user, tenant)
        self.audiences.join(cast(Connection, one))
        await asyncio.sleep(0)  # subscribed
        one.fill(self.rows)
        one.writes.clear()
        return one

    def leave(self, one: Device) -> None:
        one.session.end()
        self.audiences.leave(cast(Connection, one))

    def fill_nudged(self) -> None:
        """What the resume pump does for those that it was told of."""
        nudged, self.nudged[:] = self.nudged[:], []
        for one in nudged:
            if one.session.phase < sessions.CLOSING:
                one.fill(self.rows)

    async def quiet(self) -> None:
        """Until nothing is to be done."""
        async with asyncio.timeout(30):
            for _ in range(5):  # a message on the bus is two turns from a task
                await asyncio.sleep(0)
            while self.audiences._tasks:
                await asyncio.wait(self.audiences._tasks)

    def asked(self, kind: type) -> list[Any]:
        return [one for one in self.questions if isinstance(one, kind)]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds, seen from outside
            await asyncio.sleep(0)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AUDIENCE_OVERTAKEN_MS", 20)
    monkeypatch.setattr(module, "FILL_RETRY_MS", 1)
    monkeypatch.setattr(module, "FILL_RETRY_MS_MAX", 2)
    monkeypatch.setattr(module, "INBOX_DEADLINE_MS", 60_000)
