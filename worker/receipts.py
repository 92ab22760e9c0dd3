"""Role receipts: acks and connection events, from the gateways' Redis stream to PostgreSQL.

A consumer group read, one transaction, COMMIT, then XACK and XDEL. So every entry is stored at least once, and
storing it again changes nothing: an ack only raises a rank, a connection row is found by its id. Entries of a
consumer that fell silent are taken over. An entry that does not decode, or that PostgreSQL refuses by itself, is
poison: counted, logged, noted as an audit event, acknowledged.

An ack in a lane of audiences is the user's own row of `audience_state`, if the notification is for that user.

Each gateway boot numbers its entries from 1. A number that skips leaves an audit event "receipts_gap"; when a
missing entry does come later (another consumer had it), "receipts_gap_late" names it.
"""

import asyncio
import dataclasses
import datetime
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final

import asyncpg
import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from notification import messages, telemetry
from notification.errors import InvalidInput
from notification.ids import check_token, check_user, uuid7_ms
from notification.limits import DATABASE_TURN_DEADLINE_S, RECEIPTS_CLAIM_IDLE_MS, RECEIPTS_READ_ENTRIES_MAX
from notification.messages import AckReceipt, ConnectionReceipt, ReceiptsEntry
from notification.names import RECEIPTS_FIELD, RECEIPTS_GROUP, RECEIPTS_STREAM
from worker.audiences import FIRST_LANE, open_states
from worker.database import AWAY, PLATFORM, Connection, Pool, tenant_transaction
from worker.outage import Backoff, origin, wait
from worker.partitions import Partitions, day_of, day_of_ms
from worker.redis_client import REDIS_AWAY

_log = structlog.get_logger("receipts")
_BLOCK_MS: Final = 500

_PROGRESS: Final = (
    "SELECT gateway_id, number FROM receipts_progress WHERE gateway_id = ANY($1) ORDER BY gateway_id FOR UPDATE"
)
_ADVANCE: Final = """
INSERT INTO receipts_progress (gateway_id, number, last_at)
SELECT gateway_id, number, clock_timestamp() FROM unnest($1::text[], $2::bigint[]) AS u(gateway_id, number)
ORDER BY gateway_id
ON CONFLICT (gateway_id) DO UPDATE
    SET number = greatest(receipts_progress.number, excluded.number), last_at = excluded.last_at
"""
_ACK: Final = """
WITH wanted AS (
    SELECT * FROM unnest($1::date[], $2::text[], $3::uuid[], $4::text[])
        AS w(day, tenant_id, notification_id, entity_id)
    LIMIT cardinality($1)
), locked AS MATERIALIZED (
    SELECT w.* FROM wanted w JOIN {table} n USING (day, tenant_id, notification_id, entity_id)
    ORDER BY n.day, n.tenant_id, n.notification_id, n.entity_id FOR NO KEY UPDATE OF n
), changed AS (
    UPDATE {table} n SET status = 'DELIVERED', rank = 3, status_code = 500 {more}
    FROM locked w
    WHERE (n.day, n.tenant_id, n.notification_id, n.entity_id)
        = (w.day, w.tenant_id, w.notification_id, w.entity_id) AND n.rank < 3
    RETURNING n.day, n.tenant_id, n.notification_id, n.entity_id, n.status, n.status_code
)
INSERT INTO notification_history (day, tenant_id, notification_id, entity_id, status, status_code)
SELECT * FROM changed
"""
_ACKS: Final = _ACK.format(table="notifications", more=", due_at = NULL")
_AUDIENCE_ACKS: Final = _ACK.format(table="audience_state", more="")
_OPENED: Final = """
INSERT INTO connections (day, connection_id, tenant_id, entity_id, device, gateway_id, status, created_at,
                         last_active_at)
SELECT day, connection_id, tenant_id, entity_id, device, gateway_id, 'open', at, at
FROM unnest($1::date[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
    AS u(day, connection_id, tenant_id, entity_id, device, gateway_id, at)
ON CONFLICT (day, connection_id) DO NOTHING
"""
_CLOSED: Final = """
WITH wanted AS (
    SELECT * FROM unnest($1::date[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                         $7::timestamptz[], $8::integer[])
        AS w(day, connection_id, tenant_id, entity_id, device, gateway_id, at, close_code)
), updated AS (
    UPDATE connections c SET status = 'closed', last_active_at = w.at, close_code = w.close_code
    FROM wanted w
    WHERE c.tenant_id = w.tenant_id AND c.entity_id = w.entity_id AND c.connection_id = w.connection_id
    RETURNING c.connection_id
)
INSERT INTO connections (day, connection_id, tenant_id, entity_id, device, gateway_id, status, created_at,
                         last_active_at, close_code)
SELECT day, connection_id, tenant_id, entity_id, device, gateway_id, 'closed', at, at, close_code FROM wanted
WHERE connection_id NOT IN (SELECT connection_id FROM updated)
ON CONFLICT (day, connection_id) DO NOTHING
"""
_AUDIT: Final = """
INSERT INTO audit_events (day, tenant_id, event, detail)
SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date, $1, event, detail::jsonb
FROM unnest($2::text[], $3::text[]) AS u(event, detail)
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """A stream entry: its Redis id, and what it holds (None: it does not decode; `error` says why)."""

    id: bytes
    entry: ReceiptsEntry | None
    error: str = ""


class Receipts:
    """The role; `consumer` names this process in the group."""

    def __init__(self, redis: "Redis", pool: Pool, partitions: Partitions, consumer: str) -> None:
        self._redis = redis
        self._pool = pool
        self._partitions = partitions
        self._consumer = consumer
        self._pending_first = True  # own entries of before: after a start or a failure
        self._claim_at_s = 0.0

    async def start(self) -> None:
        """Make the stream and its group. Raises REDIS_AWAY."""
        try:
            await self._redis.xgroup_create(RECEIPTS_STREAM, RECEIPTS_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def run(self, stop: asyncio.Event) -> None:
        """Read and store until `stop` is set; the batch being stored is finished first.

        An outage of Redis or PostgreSQL pauses it; nothing is acknowledged unstored.
        """
        backoff = Backoff()
        while not stop.is_set():
            try:
                async with asyncio.timeout(DATABASE_TURN_DEADLINE_S):
                    await self.step()
                backoff.reset()
            except (*REDIS_AWAY, *AWAY) as error:
                _log.warning("receipts_paused", error=type(error).__name__)
                self._pending_first = True
                await wait(stop, backoff.next_s())
            except Exception as error:  # an answer that no server gives: nothing was acknowledged, so try again
                _log.error("receipts_failed", error=origin(error))
                self._pending_first = True
                await wait(stop, backoff.next_s())

    async def step(self) -> int:
        """Read one batch, store it, acknowledge it; returns its number of entries. Raises REDIS_AWAY, AWAY."""
        received = await self._read()
        if not received:
            return 0
        try:
            await self.store(received)
        except AWAY:
            raise
        except asyncpg.PostgresError:
            await self._store_one_by_one(received)
        ids = [item.id for item in received]
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xack(RECEIPTS_STREAM, RECEIPTS_GROUP, *ids)
        pipeline.xdel(RECEIPTS_STREAM, *ids)
        await pipeline.execute()
        return len(received)

    async def store(self, received: Sequence[Received]) -> None:
        """Store a batch in one transaction. Raises what the database raises; nothing is stored then."""
        entries = [item.entry for item in received if item.entry is not None]
        # One id may be a notification of the user's and of an audience.
        acks = {
            (ack.tenant, ack.user, ack.id, ack.lane >= FIRST_LANE): ack
            for entry in entries for ack in entry.acks if _is_good(ack)
        }  # fmt: skip
        events = [(entry.gateway_id, event) for entry in entries for event in entry.connections if _is_good(event)]
        await self._partitions.ensure({_day(event.at_ms) for _gateway, event in events})
        tenants = {ack.tenant for ack in acks.values()} | {event.tenant for _gateway, event in events}
        poison = [item for item in received if item.error]
        async with tenant_transaction(self._pool, tenants | {PLATFORM}) as connection:
            notes = await _advance(connection, entries)
            await _store_acks(connection, acks.values())
            await _store_connections(connection, events)
            notes += [("receipts_poison", {"entry": item.id.decode(), "error": item.error}) for item in poison]
            await _audit(connection, notes)
        _count(acks.values(), events, notes)

    async def _store_one_by_one(self, received: Sequence[Received]) -> None:
        for item in received:
            try:
                await self.store([item])
            except AWAY:
                raise
            except asyncpg.PostgresError as error:
                _log.warning("receipts_poison", entry=item.id.decode(), error=type(error).__name__)
                await self.store([Received(item.id, None, type(error).__name__)])

    async def _read(self) -> list[Received]:
        try:
            return await self._read_entries()
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            _log.warning("receipts_stream_lost")
            await self.start()
            return []

    async def _read_entries(self) -> list[Received]:
        if self._pending_first:
            pending = await self._read_group("0", None)
            self._pending_first = bool(pending)
            if pending:
                return pending
        if time.monotonic() >= self._claim_at_s:
            claimed = await self._claim()
            if claimed:
                return claimed
            self._claim_at_s = time.monotonic() + RECEIPTS_CLAIM_IDLE_MS / 2000
        return await self._read_group(">", _BLOCK_MS)

    async def _read_group(self, after: str, block_ms: int | None) -> list[Received]:
        reply: Any = await self._redis.xreadgroup(
            RECEIPTS_GROUP, self._consumer, {RECEIPTS_STREAM: after},
            count=RECEIPTS_READ_ENTRIES_MAX, block=block_ms,
        )  # fmt: skip
        streams = reply.values() if isinstance(reply, dict) else [stream[1] for stream in reply or ()]
        return [_received(ident, fields) for stream in streams for ident, fields in _flat(stream)]

    async def _claim(self) -> list[Received]:
        reply: Any = await self._redis.xautoclaim(
            RECEIPTS_STREAM, RECEIPTS_GROUP, self._consumer,
            min_idle_time=RECEIPTS_CLAIM_IDLE_MS, start_id="0-0", count=RECEIPTS_READ_ENTRIES_MAX,
        )  # fmt: skip
        if reply[1]:
            _log.info("receipts_claimed", entries=len(reply[1]))
        return [_received(ident, fields) for ident, fields in reply[1]]


def _flat(stream: Any) -> list[tuple[bytes, Any]]:
    """The entries of one stream: RESP3 wraps them in one more list."""
    if len(stream) == 1 and stream[0] and isinstance(stream[0][0], list | tuple):
        return list(stream[0])
    return list(stream)


def _received(ident: bytes, fields: Any) -> Received:
    data = (fields or {}).get(RECEIPTS_FIELD.encode())
    if data is None:
        return Received(ident, None, "no field" if fields else "deleted")
    try:
        entry = messages.decode_receipts(data)
        check_token(entry.gateway_id, "gateway_id")
    except (msgspec.DecodeError, InvalidInput) as error:
        _log.warning("receipts_poison", entry=ident.decode(), error=type(error).__name__)
        return Received(ident, None, type(error).__name__)
    return Received(ident, entry)


def _is_good(receipt: AckReceipt | ConnectionReceipt) -> bool:
    """Whether a receipt keeps the id rules: a transaction may name its tenant."""
    try:
        check_token(receipt.tenant, "tenant")
        check_user(receipt.user)
        if isinstance(receipt, AckReceipt):
            uuid7_ms(uuid.UUID(bytes=receipt.id))
        else:
            check_token(receipt.connection_id, "connection_id")
            check_token(receipt.device, "device")
            _at(receipt.at_ms)
    except (InvalidInput, ValueError, OverflowError) as error:
        _log.warning("receipt_refused", error=type(error).__name__)
        telemetry.RECEIPTS.labels("refused").inc()
        return False
    return True


Notes = list[tuple[str, dict[str, Any]]]


async def _advance(connection: Connection, entries: Sequence[ReceiptsEntry]) -> Notes:
    """Note how far each gateway boot has come; returns audit notes of what is missing or late."""
    numbers: dict[str, list[int]] = {}
    for entry in entries:
        numbers.setdefault(entry.gateway_id, []).append(entry.number)
    if not numbers:
        return []
    stored = {row["gateway_id"]: row["number"] for row in await connection.fetch(_PROGRESS, sorted(numbers))}
    notes: Notes = []
    heads: dict[str, int] = {}
    for gateway, seen in numbers.items():
        head: int = stored.get(gateway, 0)
        for number in sorted(seen):
            if number > head + 1:
                notes.append(("receipts_gap", {"gateway": gateway, "from": head + 1, "to": number - 1}))
            elif number <= head:
                notes.append(("receipts_gap_late", {"gateway": gateway, "number": number}))
            head = max(head, number)
        heads[gateway] = head
    await connection.execute(_ADVANCE, sorted(heads), [heads[gateway] for gateway in sorted(heads)])
    return notes


async def _store_acks(connection: Connection, acks: Iterable[AckReceipt]) -> None:
    direct: list[tuple[str, uuid.UUID, str]] = []
    of_audiences: list[tuple[str, uuid.UUID, str]] = []
    for ack in acks:
        (direct if ack.lane < FIRST_LANE else of_audiences).append((ack.tenant, uuid.UUID(bytes=ack.id), ack.user))
    for statement, rows in ((_ACKS, direct), (_AUDIENCE_ACKS, of_audiences)):
        if statement is _AUDIENCE_ACKS and rows:  # after the direct ones, as marks: neither waits for the other
            await open_states(connection, rows)
        if rows:
            await connection.execute(
                statement,
                [day_of(ident) for _tenant, ident, _user in rows],
                [tenant for tenant, _id, _user in rows],
                [ident for _tenant, ident, _user in rows],
                [user for _tenant, _id, user in rows],
            )


async def _store_connections(connection: Connection, events: Sequence[tuple[str, ConnectionReceipt]]) -> None:
    opened = [(gateway, event) for gateway, event in events if event.event == "open"]
    closed = {event.connection_id: (gateway, event) for gateway, event in events if event.event == "close"}
    if opened:
        await connection.execute(_OPENED, *_columns(opened))
    if closed:
        ended = list(closed.values())
        await connection.execute(_CLOSED, *_columns(ended), [event.code for _gateway, event in ended])


def _columns(events: Sequence[tuple[str, ConnectionReceipt]]) -> tuple[list[Any], ...]:
    return (
        [_day(event.at_ms) for _gateway, event in events],
        [event.connection_id for _gateway, event in events],
        [event.tenant for _gateway, event in events],
        [event.user for _gateway, event in events],
        [event.device for _gateway, event in events],
        [gateway for gateway, _event in events],
        [_at(event.at_ms) for _gateway, event in events],
    )


async def _audit(connection: Connection, notes: Notes) -> None:
    if notes:
        details = [json.dumps(detail) for _event, detail in notes]
        await connection.execute(_AUDIT, PLATFORM, [event for event, _detail in notes], details)


def _count(acks: Iterable[AckReceipt], events: Sequence[tuple[str, ConnectionReceipt]], notes: Notes) -> None:
    """Metrics of a committed batch."""
    telemetry.RECEIPTS.labels("ack").inc(len(list(acks)))
    for _gateway, event in events:
        telemetry.RECEIPTS.labels("open" if event.event == "open" else "close").inc()
    for note, detail in notes:
        if note == "receipts_gap":
            telemetry.RECEIPTS_MISSING.inc(detail["to"] - detail["from"] + 1)
            _log.warning("receipts_gap", **detail)
        elif note == "receipts_poison":
            telemetry.RECEIPTS.labels("poison").inc()


def _day(at_ms: int) -> datetime.date:
    """The partition of a connection row; a gateway clock far off ours counts as today."""
    now_ms = time.time_ns() // 1_000_000
    return day_of_ms(at_ms if abs(at_ms - now_ms) < 2 * 86_400_000 else now_ms)


def _at(at_ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
