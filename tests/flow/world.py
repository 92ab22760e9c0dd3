"""A gateway process in this one: memory twins for bus and Redis, a log in place of role inbox, real sockets."""

import asyncio
import contextlib
import functools
import ipaddress
import json
import ssl
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import msgspec
from websockets.asyncio.client import ClientConnection, connect

from gateway.caps import Caps
from gateway.introspection import Introspection
from gateway.listener import bind
from gateway.process import Gateway, make_gateway_id
from gateway.tls import server_context
from notification import batch, messages, names
from notification.codes import LANE_COUNT, LANE_NAMES, Lane, ReceiptCode
from notification.frames import Counters, Cursor, Notification, cursor_to_text, encode, user_epoch
from notification.ids import new_uuid7
from notification.messages import (
    AudienceFillReply,
    AudienceFillRequest,
    EdgeKey,
    EdgeReply,
    EdgeRequest,
    EdgeTenant,
    EntitledReply,
    EntitledRequest,
    Failure,
    FillItem,
    FillReply,
    FillRequest,
    FillsReply,
    FillsRequest,
    InboxReply,
    PageReply,
    PageRequest,
    ReceiptsEntry,
    Revocation,
    StateReply,
    StateRequest,
)
from notification.settings import Settings
from tests.certificates import Authority
from tests.twins.bus import Hub, MemoryBus
from tests.twins.pipeline import MemoryPipeline, Store

SECRET = b"0123456789abcdef0123456789abcdef"
ORIGIN = "https://app.example"
LOG_EPOCH = 7
EPOCH = user_epoch(LOG_EPOCH, "acme", "ann")  # as ann's clients know it


_folder = tempfile.TemporaryDirectory(prefix="herald-certificates-")


@functools.cache
def authority() -> Authority:
    """The certificate authority of this test run."""
    return Authority(Path(_folder.name))


@functools.cache
def server_tls() -> ssl.SSLContext:
    """What a gateway process makes of its settings."""
    cert, key = authority().issue()
    context = server_context(Settings(gateway_tls_cert=str(cert), gateway_tls_key=str(key)))
    assert context is not None
    return context


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Log:
    """What role inbox would read from PostgreSQL: the entries of each user's lanes."""

    def __init__(self) -> None:
        self.entries: dict[str, list[FillItem]] = {}
        self.audience: list[FillItem] = []  # of the tenant's lane AUDIENCE_HIGH
        self.members: dict[int, frozenset[str]] = {}  # who may have which, by seq; the rest is everyone's
        self.questions: list[EntitledRequest | AudienceFillRequest] = []
        self.requests: list[FillRequest] = []
        self.states: list[StateRequest] = []
        self.unchanged: list[bytes] | None = None  # a mark changes nothing; those of its ids that there are
        self.busy = False
        self.gate = asyncio.Event()  # cleared: pages and state changes wait; `commands` counts all that came
        self.gate.set()
        self.commands = 0
        self.epoch = LOG_EPOCH

    def add(self, user: str, lane: Lane = Lane.DIRECT_HIGH, expiry_ms: int = 0, size: int = 10) -> FillItem:
        """Store one notification; it is not sent to anybody."""
        self.entries.setdefault(user, []).append(_entry(self.entries[user], lane, expiry_ms, size))
        return self.entries[user][-1]

    def add_audience(self, *members: str) -> FillItem:
        """Store one for these users, or for everyone."""
        self.audience.append(_entry(self.audience, Lane.AUDIENCE_HIGH, 0, 10))
        if members:
            self.members[self.audience[-1].seq] = frozenset(members)
        return self.audience[-1]

    def may(self, user: str, seq: int) -> bool:
        return seq not in self.members or user in self.members[seq]

    def answer(self, request: EntitledRequest | AudienceFillRequest) -> InboxReply:
        self.questions.append(request)
        if isinstance(request, EntitledRequest):
            bits = [self.may(user, request.seq) for user in request.users]
            whole = [bits[start : start + 8] for start in range(0, len(bits), 8)]
            return EntitledReply(bytes(sum(bit << 7 - place for place, bit in enumerate(byte)) for byte in whole))
        items = self.audience[request.after :]
        everyone = [item.seq not in self.members for item in items]
        return AudienceFillReply(items, everyone, len(self.audience), False, now_ms())

    def heads(self, user: str) -> list[int]:
        heads = [0] * LANE_COUNT
        for entry in self.entries.get(user, ()):
            heads[entry.lane] = entry.seq
        heads[Lane.AUDIENCE_HIGH] = len(self.audience)
        return heads

    def fill(self, request: FillRequest) -> FillReply:
        heads = self.heads(request.user)
        epoch = user_epoch(self.epoch, request.tenant, request.user)
        at, recovered = list(request.at), True
        if request.first and request.cursor is not None:
            wanted = [request.cursor.at.get(name, 0) for name in LANE_NAMES]
            recovered = request.cursor.epoch == epoch and all(w <= h for w, h in zip(wanted, heads, strict=True))
            at = wanted if recovered else [-1] * LANE_COUNT
        theirs = [entry for entry in self.audience if self.may(request.user, entry.seq)]
        owed = sorted(
            (entry for entry in self.entries.get(request.user, []) + theirs if entry.seq > at[entry.lane]),
            key=lambda entry: (entry.lane, entry.seq),
        )
        items, more = owed[: request.limit], len(owed) > request.limit
        if more:
            heads = at
            for item in items:
                heads[item.lane] = item.seq
        return FillReply(epoch, recovered, items, heads, more, Counters(len(owed), 1), now_ms())


def _entry(entries: list[FillItem], lane: Lane, expiry_ms: int, size: int) -> FillItem:
    """The next one of a lane of `entries`."""
    prev = max((entry.seq for entry in entries if entry.lane == lane), default=0)
    ident = new_uuid7()
    frame = Notification(
        lane=LANE_NAMES[lane], seq=prev + 1, id=str(ident), type="service", priority="high",
        sent_at=now_ms(), expires_at=expiry_ms,
        p=msgspec.Raw(json.dumps({"title": "t", "body": "x" * size}).encode()),
    )  # fmt: skip
    return FillItem(lane, prev + 1, prev, expiry_ms, ident.bytes, encode(frame))


class World:
    """One gateway and everything around it. `carrier`: engine, picows, or tls (picows through TLS)."""

    def __init__(
        self, carrier: str = "engine", caps: Caps | None = None, proxied: bool = False,
        introspection: Introspection | None = None,
    ) -> None:  # fmt: skip
        self.hub = Hub()
        self.store = Store()
        self.log = Log()
        self.tenants = [self.tenant("acme"), self.tenant("evil", status="suspended")]
        self.version = 1
        self.revoked: list[Revocation] = []
        self.missed: list[str] = []  # issuers whose keys the gateway missed, once per request
        self.fetched: list[str] = []  # those that were fetched since
        self.port = 0
        self.inbox: MemoryBus | None = None
        self._buses: list[MemoryBus] = []
        self._introspection = introspection
        self._pipeline = MemoryPipeline(self.store)
        self.ssl = authority().client() if carrier == "tls" else None
        self.gateway = Gateway(
            self.bus(), self._pipeline, make_gateway_id(0), "picows" if self.ssl else carrier, caps, proxied,
            server_tls() if self.ssl else None, introspection, [ipaddress.ip_network("127.0.0.1")],
        )  # fmt: skip

    @staticmethod
    def tenant(name: str, status: str = "active") -> EdgeTenant:
        key = EdgeKey(f"herald:{name}", "herald", "", "HS256", SECRET)
        return EdgeTenant(name, status, [ORIGIN], [key])

    def bus(self) -> MemoryBus:
        self._buses.append(MemoryBus(self.hub))
        return self._buses[-1]

    async def start(self, inbox: bool = True) -> None:
        if inbox:
            await self.start_inbox()
        sock = bind("127.0.0.1", 0)
        self.port = sock.getsockname()[1]
        await self.gateway.start(sock)
        if inbox:
            await until(lambda: self.gateway.edge.known)

    async def start_inbox(self) -> None:
        self.inbox = self.bus()
        for subject in (
            names.INBOX_EDGE, names.INBOX_RESUME, names.INBOX_STATE, names.INBOX_PAGE, names.INBOX_AUDIENCE,
            names.INBOX_AUDIENCE_FILL,
        ):  # fmt: skip
            await self.inbox.serve(subject, self._answer, queue=names.INBOX_QUEUE, concurrent=True)

    async def stop_inbox(self) -> None:
        assert self.inbox is not None
        await self.inbox.close()

    async def close(self) -> None:
        await self.gateway.close()
        if self._introspection is not None:
            await self._introspection.close()
        for bus in self._buses:
            await bus.close()

    async def revoke(self, kind: str, value: str = "", tenant: str = "acme", not_before_s: int = 0) -> None:
        """Revoke, and tell every gateway that something changed; by default what was issued until now."""
        now_s = int(time.time())
        self.revoked.append(Revocation(tenant, kind, value, not_before_s or now_s + 1, now_s + 3_600))
        await self.inbox_bus().publish(names.EDGE_CHANGED, b"")

    async def _answer(self, subject: str, payload: bytes) -> bytes:
        request = messages.decode_request(payload)
        if isinstance(request, EdgeRequest):
            tenants = self.tenants if request.have != self.version else None
            revoked = self.revoked[request.revocations_have :]
            self.missed += request.missing
            fetched = [issuer for issuer in request.missing if issuer in self.fetched]
            return messages.encode(
                EdgeReply(self.version, self.log.epoch, tenants, revoked, len(self.revoked), fetched=fetched)
            )
        if self.log.busy:
            return messages.encode(Failure("busy"))
        if isinstance(request, FillsRequest):
            self.log.requests += request.fills
            return messages.encode(FillsReply([self.log.fill(fill) for fill in request.fills]))
        if isinstance(request, EntitledRequest | AudienceFillRequest):
            return messages.encode(self.log.answer(request))
        self.log.commands += 1
        await self.log.gate.wait()
        if isinstance(request, StateRequest):
            self.log.states.append(request)
            unchanged = self.log.unchanged
            return messages.encode(StateReply(Counters(0, 2), unchanged or [], told=unchanged is None))
        assert isinstance(request, PageRequest)
        return messages.encode(PageReply(b'{"t":"page","items":[],"counters":{"unread":0,"rev":1}}'))

    # --- a worker's side ----------------------------------------------------
    async def send(self, user: str, *entries: FillItem, attempt: int = 0) -> list[ReceiptCode]:
        """Dispatch stored entries to the gateway, as a worker would; its reply."""
        tag = names.user_tag("acme", user).encode()
        items = [
            batch.Item(batch.NOTIFICATION, e.lane, attempt, e.seq, e.prev, e.expiry_ms, e.id, tag, e.body)
            for e in entries
        ]
        return await self.send_items(items)

    async def send_items(self, items: list[batch.Item], database_ms: int | None = None) -> list[ReceiptCode]:
        subject = names.gateway_subject(self.gateway.gateway_id, "high")
        message = batch.pack(items, now_ms() if database_ms is None else database_ms)
        reply = await self.inbox_bus().request(subject, message, 2)
        return batch.unpack_reply(reply, len(items))

    async def publish(self, *entries: FillItem) -> None:
        """Send entries of add_audience(), as a worker would."""
        items = [
            batch.Item(
                batch.AUDIENCE, e.lane, 0 if e.seq in self.log.members else batch.EVERYONE, e.seq, e.prev,
                e.expiry_ms, e.id, b"acme", e.body,
            )
            for e in entries
        ]  # fmt: skip
        await self.publish_items(items)

    async def publish_items(self, items: list[batch.Item]) -> None:
        await self.inbox_bus().publish(names.audience_subject("acme", "high"), batch.pack(items, now_ms()))

    def inbox_bus(self) -> MemoryBus:
        return MemoryBus(self.hub)

    def receipts(self) -> list[ReceiptsEntry]:
        """Entries of the receipts stream, in order."""
        entries = self.store.streams.get(names.RECEIPTS_STREAM.encode(), [])
        return [messages.decode_receipts(entry[names.RECEIPTS_FIELD.encode()]) for entry in entries]

    def acked(self) -> list[uuid.UUID]:
        return [uuid.UUID(bytes=ack.id) for entry in self.receipts() for ack in entry.acks]

    def presence(self, user: str) -> dict[str, str]:
        key = names.presence_key(names.user_tag("acme", user)).encode()
        return {device.decode(): text.decode() for device, text in self.store.hashes.get(key, {}).items()}

    # --- a client's side ----------------------------------------------------
    def url(self, **query: str) -> str:
        text = "&".join(f"{name}={value}" for name, value in query.items())
        scheme = "wss" if self.ssl else "ws"
        return f"{scheme}://127.0.0.1:{self.port}/ws/connect" + (f"?{text}" if text else "")

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A socket to the gateway, through TLS if that is how it listens."""
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.ssl)

    @contextlib.asynccontextmanager
    async def client(
        self, user: str = "ann", device: str = "", cursor: Cursor | None = None, **options: Any
    ) -> AsyncIterator["App"]:
        """A connected client that has read its welcome, or nothing yet with `raw=True`."""
        query = {"device": device} if device else {}
        if cursor is not None:
            query["cursor"] = cursor_to_text(cursor)
        raw = options.pop("raw", False)
        headers = options.pop("headers", {"Authorization": f"Bearer {mint(user)}"})
        options.setdefault("subprotocols", ["herald.v1"])
        options.setdefault("ssl", self.ssl)
        async with connect(self.url(**query), additional_headers=headers, compression=None, **options) as socket:
            app = App(socket)
            if not raw:
                app.welcome = await app.read("welcome")
            yield app


class App:
    """A client application."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.welcome: dict[str, Any] = {}

    async def next(self, timeout_s: float = 20) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            frame = json.loads(await self.socket.recv())
        assert isinstance(frame, dict)
        return frame

    async def read(self, kind: str, timeout_s: float = 20) -> dict[str, Any]:
        frame = await self.next(timeout_s)
        assert frame["t"] == kind, frame
        return frame

    async def seqs(self, count: int) -> list[int]:
        return [(await self.read("n"))["seq"] for _ in range(count)]

    async def silent(self, seconds: float = 0.15) -> None:
        """Nothing comes."""
        with contextlib.suppress(TimeoutError):
            frame = await self.next(seconds)
            raise AssertionError(frame)

    async def say(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def ack(self, *frames: dict[str, Any]) -> None:
        await self.say(t="ack", ids=[frame["id"] for frame in frames])

    async def closed(self, timeout_s: float = 20) -> int:
        """The close code, once everything before it was read."""
        async with asyncio.timeout(timeout_s):
            await self.socket.wait_closed()
        assert self.socket.close_code is not None
        return self.socket.close_code


def mint(
    user: str = "ann", tenant: str = "acme", key: Any = SECRET, algorithm: str = "HS256", **claims: Any
) -> str:
    """A token; a claim of None is left out; `kid` goes into the header."""
    now_s = int(time.time())
    values: dict[str, Any] = {
        "iss": f"herald:{tenant}", "aud": "herald", "sub": user, "tid": tenant,
        "iat": now_s, "exp": now_s + 600, "jti": str(uuid.uuid4()),
    }  # fmt: skip
    values |= claims
    kid = values.pop("kid", None)
    present = {name: value for name, value in values.items() if value is not None}
    return jwt.encode(present, key, algorithm=algorithm, headers=None if kid is None else {"kid": kid})


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Wait until `condition()` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds, seen from outside
            await asyncio.sleep(0.01)
