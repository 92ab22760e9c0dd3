"""The storing transaction: a batch of admitted events becomes rows, and the position moves with them.

One transaction: move the positions (which fences a worker that has lost its partitions), lock the state of those
users whose tenant takes events, as the primary says, with what each wants to get, and lane heads, in sorted order
(so commit order is seq order), leave out what is stored already, number the rest, collapse, insert rows and
history. Dead letters are acknowledged by Kafka before COMMIT.
"""

import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec

from notification import frames, telemetry
from notification.codes import LANE_NAMES, RANKS, Lane, Status, StatusCode
from notification.errors import HeraldError, Unavailable
from notification.limits import (
    ACK_DUE_MS,
    DATABASE_CONNECT_DEADLINE_S,
)
from notification.names import PRIORITIES, user_tag
from worker import crypto, positions
from worker.admission import Admitted, Reason, Rejection
from worker.audiences import UNKNOWN_SEGMENT, complete, segment_versions
from worker.collapse import Keyed, collapse, newest
from worker.database import Connection, Pool
from worker.keys import KeyRing, User, UserKey
from worker.log import Partition
from worker.partitions import Partitions, day_of
from worker.positions import Move, Position
from worker.preferences import Preferences, decode

_TENANTS: Final = "SELECT tenant_id, status FROM tenants WHERE tenant_id = ANY($1)"
# Of tenants that take events.
_RAISE_REVS: Final = """
INSERT INTO user_state AS s (tenant_id, entity_id, rev)
SELECT tenant_id, entity_id, 1 FROM unnest($1::text[], $2::text[]) AS u (tenant_id, entity_id)
JOIN tenants t USING (tenant_id) WHERE t.status = 'active'
ORDER BY tenant_id, entity_id
ON CONFLICT (tenant_id, entity_id) DO UPDATE SET rev = s.rev + 1
RETURNING tenant_id, entity_id, rev, preferences
"""
_STORED: Final = """
SELECT n.tenant_id, n.entity_id, n.notification_id, n.body_hash
FROM (
    SELECT * FROM unnest($1::date[], $2::text[], $3::uuid[], $4::text[])
        AS w (day, tenant_id, notification_id, entity_id)
    LIMIT cardinality($1)
) AS w
JOIN notifications n USING (day, tenant_id, notification_id, entity_id)
"""
_RAISE_HEADS: Final = """
INSERT INTO lane_heads AS h (tenant_id, entity_id, lane, seq)
SELECT tenant_id, entity_id, lane, entries
FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bigint[]) AS l (tenant_id, entity_id, lane, entries)
ORDER BY tenant_id, entity_id, lane
ON CONFLICT (tenant_id, entity_id, lane) DO UPDATE SET seq = h.seq + excluded.seq
RETURNING tenant_id, entity_id, lane, seq
"""
_INSERT: Final = """
WITH stored AS (
    INSERT INTO notifications (
        day, tenant_id, notification_id, entity_id, lane, seq, prev, type, priority, payload, key_version,
        collapse_key, not_before, sent_at, ttl, expiry, status, rank, status_code, due_at, rev, body_hash
    )
    SELECT day, tenant_id, notification_id, entity_id, lane, seq, prev, type, priority, payload, key_version,
        collapse_key, to_timestamp(not_before_ms / 1000.0), to_timestamp(sent_ms / 1000.0), ttl,
        to_timestamp(expiry_ms / 1000.0), status, rank, status_code, to_timestamp(due_ms / 1000.0), rev, body_hash
    FROM unnest(
        $1::date[], $2::text[], $3::uuid[], $4::text[], $5::smallint[], $6::bigint[], $7::bigint[], $8::text[],
        $9::smallint[], $10::bytea[], $11::integer[], $12::text[], $13::bigint[], $14::bigint[], $15::integer[],
        $16::bigint[], $17::text[], $18::smallint[], $19::smallint[], $20::bigint[], $21::bigint[], $22::bytea[]
    ) AS r (
        day, tenant_id, notification_id, entity_id, lane, seq, prev, type, priority, payload, key_version,
        collapse_key, not_before_ms, sent_ms, ttl, expiry_ms, status, rank, status_code, due_ms, rev, body_hash
    )
    ON CONFLICT DO NOTHING
    RETURNING day, tenant_id, notification_id, entity_id, status, status_code
)
INSERT INTO notification_history (day, tenant_id, notification_id, entity_id, status, status_code)
SELECT day, tenant_id, notification_id, entity_id, status, status_code FROM stored
"""
_OUTCOMES: Final = {  # label of telemetry.EVENTS
    StatusCode.ACCEPTED: "stored", StatusCode.EXPIRED_TTL: "expired", StatusCode.CANCELLED_OPTED_OUT: "opted_out",
    StatusCode.COLLAPSED_NEWER: "collapsed",
}  # fmt: skip
# At least the clock, so that an epoch of a restored database never repeats one given out before.
_RAISE_EPOCH: Final = """
UPDATE log_state SET epoch = greatest(epoch + 1, extract(epoch FROM clock_timestamp())::bigint) RETURNING epoch
"""

# By priority: a user's, an audience's.
_LANES: Final = tuple(Lane)[: Lane.AUDIENCE_HIGH]
_AUDIENCE_LANES: Final = tuple(Lane)[Lane.AUDIENCE_HIGH :]


class StoredNotification(msgspec.Struct, frozen=True):
    """One stored row with its payload open: what the router sends. Times in Unix ms, `priority` 0 high to 2 low.

    In a lane from audiences.FIRST_LANE on `user` is the audience.
    """

    tenant: str
    user: str
    id: uuid.UUID
    lane: int
    seq: int
    prev: int
    type: str
    priority: int
    sent_ms: int
    expiry_ms: int
    collapse_key: str | None
    payload: bytes
    attempt: int = 0
    not_before_ms: int | None = None

    @property
    def tag(self) -> str:
        """The routing key of the bus: names.user_tag."""
        return user_tag(self.tenant, self.user)


def encode_body(notification: StoredNotification) -> bytes:
    """The JSON text of the client's `n` frame: encoded once, written by every gateway as it is."""
    return frames.encode(
        frames.Notification(
            lane=LANE_NAMES[notification.lane],
            seq=notification.seq,
            id=str(notification.id),
            type=notification.type,
            priority=PRIORITIES[notification.priority],
            sent_at=notification.sent_ms,
            expires_at=notification.expiry_ms,
            p=msgspec.Raw(notification.payload),
            collapse=notification.collapse_key,
        )
    )


class Rejected(NamedTuple):
    """An admitted event that PostgreSQL's knowledge turns down."""

    event: Admitted
    rejection: Rejection


class Outcome(NamedTuple):
    """What became of a batch. `ready` are the stored ones to hand on now, in Kafka order."""

    ready: list[StoredNotification]
    duplicates: int
    rejected: int


class _UserState(NamedTuple):
    """The locked row of user_state; `preferences` None: nothing was set."""

    rev: int
    preferences: Preferences | None


class _Row(NamedTuple):
    """A row about to be inserted."""

    event: Admitted
    notification: StoredNotification
    key: UserKey
    rev: int
    status: Status
    code: StatusCode
    due_ms: int | None


# Told last what the transaction rejects (maybe nothing); returns once all dead letters of the batch are safe. It
# is called when PostgreSQL has done its part, so that an outage does not repeat dead letters; its errors undo all.
Bury = Callable[[Sequence[Rejected]], Awaitable[None]]


class Store:
    """Writes batches with role dispatch. Every method raises database.AWAY while PostgreSQL is away."""

    def __init__(self, pool: Pool, ring: KeyRing, partitions: Partitions) -> None:
        self._pool = pool
        self._ring = ring
        self._partitions = partitions

    async def positions(self, partitions: Iterable[Partition]) -> dict[Partition, Position]:
        """The position of those partitions that have one."""
        async with self._pool.acquire() as connection:
            return await positions.read(connection, partitions)

    async def begin(self, places: Mapping[Partition, Position]) -> None:
        """Give partitions seen for the first time their position; one that has one keeps it."""
        async with self._pool.acquire() as connection:
            await positions.begin(connection, places)

    async def move(self, moves: Sequence[Move]) -> None:
        """Move positions without storing anything. Raises Fenced."""
        async with self._pool.acquire() as connection, connection.transaction():
            await positions.move(connection, moves)

    async def move_to_logs(self, moves: Sequence[Move], topic_ids: Mapping[Partition, uuid.UUID | None]) -> None:
        """Move positions, from now on of the logs with these ids. Raises Fenced."""
        async with self._pool.acquire() as connection, connection.transaction():
            await positions.move(connection, moves)
            await positions.name_logs(connection, topic_ids)

    async def raise_epoch(self) -> int:
        """PostgreSQL went back in time: cursors given out before cannot be trusted. Returns the new epoch."""
        async with self._pool.acquire() as connection:
            epoch: int = await connection.fetchval(_RAISE_EPOCH)
        return epoch

    async def store(self, events: Sequence[Admitted], moves: Sequence[Move], bury: Bury) -> Outcome:
        """Store a batch and move its positions. Raises Fenced; nothing is stored then."""
        try:
            return await self._store(events, moves, bury)
        except asyncpg.CheckViolationError:
            # Somebody dropped a partition that was there before: make it again.
            self._partitions.forget()
            return await self._store(events, moves, bury)

    async def _store(self, events: Sequence[Admitted], moves: Sequence[Move], bury: Bury) -> Outcome:
        await self._partitions.ensure({day_of(event.id) for event in events})
        keys = await self._ring.user_keys({(event.tenant, event.user) for event in events}, create=True)
        started_s = time.perf_counter()
        async with self._pool.acquire(timeout=DATABASE_CONNECT_DEADLINE_S) as connection, connection.transaction():
            now_ms = await positions.move(connection, moves, {event.tenant for event in events})
            states = await _raise_revs(connection, events)
            known = [event for event in events if (event.tenant, event.user) in states]
            rejected = await _reject(
                connection, [event for event in events if (event.tenant, event.user) not in states]
            )
            if any((event.tenant, event.user) not in keys for event in known):
                raise Unavailable("a tenant was created this moment; its keys come with the next try")
            fresh, duplicates, reused = await self._dedupe(connection, known, states)
            rejected += reused
            versions, lost = await segment_versions(connection, [event for event, _ in fresh])
            if lost:
                rejected += [Rejected(event, UNKNOWN_SEGMENT) for event in lost]
                fresh = [one for one in fresh if one[0] not in lost]
            rows = await self._number(connection, fresh, keys, now_ms)
            rows = await _collapse(connection, rows, now_ms)
            await _insert(connection, rows)
            await complete(connection, [row.event for row in rows], versions)
            await bury(rejected)
        telemetry.STORE_SECONDS.observe(time.perf_counter() - started_s)
        outcomes = Counter((event.priority, "duplicate") for event in duplicates)
        for row in rows:
            outcomes[row.event.priority, _OUTCOMES[row.code]] += 1
        for (priority, outcome), count in outcomes.items():
            telemetry.EVENTS.labels(PRIORITIES[priority], outcome).inc(count)
        ready = [row.notification for row in rows if _is_ready(row, now_ms)]
        return Outcome(ready, len(duplicates), len(rejected))

    async def _dedupe(
        self, connection: Connection, events: Sequence[Admitted], states: Mapping[User, _UserState]
    ) -> tuple[list[tuple[Admitted, _UserState]], list[Admitted], list[Rejected]]:
        """(new events with their user's state, exact copies, ids reused with another body).

        The users are locked, since `states` has them: what another worker stored for them is visible.
        """
        if not events:
            return [], [], []
        rows = await connection.fetch(
            _STORED,
            [day_of(event.id) for event in events],
            [event.tenant for event in events],
            [event.id for event in events],
            [event.entity for event in events],
        )
        hashes = {(row["tenant_id"], row["entity_id"], row["notification_id"]): row["body_hash"] for row in rows}
        fresh: list[tuple[Admitted, _UserState]] = []
        duplicates: list[Admitted] = []
        reused: list[Rejected] = []
        for event in events:
            identity = (event.tenant, event.entity, event.id)
            first = hashes.get(identity)
            if first is None:
                hashes[identity] = event.body_hash
                fresh.append((event, states[event.tenant, event.user]))
            elif first == event.body_hash:
                duplicates.append(event)
            else:
                detail = "id: was used before for this user with another body; give every event an id of its own"
                reused.append(Rejected(event, Rejection(Reason.ID_REUSED, detail)))
        return fresh, duplicates, reused

    async def _number(
        self,
        connection: Connection,
        fresh: Sequence[tuple[Admitted, _UserState]],
        keys: dict[User, UserKey],
        now_ms: int,
    ) -> list[_Row]:
        """Give each event its lane, seq and prev; seal nothing yet."""
        if not fresh:
            return []
        heads = await _raise_heads(connection, [event for event, _ in fresh])
        rows = []
        for event, state in fresh:
            lane = _lane(event)
            head = (event.tenant, event.user, lane)
            prev = heads[head]
            heads[head] = prev + 1
            status, code, due_ms = _first_status(event, now_ms, state.preferences)
            notification = StoredNotification(
                tenant=event.tenant, user=event.entity, id=event.id, lane=lane, seq=prev + 1, prev=prev,
                type=event.type, priority=event.priority, sent_ms=event.sent_ms, expiry_ms=event.expiry_ms,
                collapse_key=event.collapse_key, payload=event.payload, not_before_ms=event.not_before_ms,
            )  # fmt: skip
            rows.append(_Row(event, notification, keys[event.tenant, event.user], state.rev, status, code, due_ms))
        return rows


def _first_status(
    event: Admitted, now_ms: int, preferences: Preferences | None
) -> tuple[Status, StatusCode, int | None]:
    """Status, code and due time (Unix ms) of a new row."""
    if event.expiry_ms <= now_ms:
        return Status.EXPIRED, StatusCode.EXPIRED_TTL, None
    if preferences is not None and not preferences.wants(event.type, event.topic):
        return Status.CANCELLED, StatusCode.CANCELLED_OPTED_OUT, None
    if event.not_before_ms is not None and event.not_before_ms > now_ms:
        return Status.ACCEPTED, StatusCode.ACCEPTED, event.not_before_ms
    return Status.ACCEPTED, StatusCode.ACCEPTED, min(now_ms + ACK_DUE_MS, event.expiry_ms)


def _lane(event: Admitted) -> Lane:
    return (_LANES if event.audience is None else _AUDIENCE_LANES)[event.priority]


def _is_ready(row: _Row, now_ms: int) -> bool:
    not_before_ms = row.event.not_before_ms
    return row.status is Status.ACCEPTED and (not_before_ms is None or not_before_ms <= now_ms)


async def _reject(connection: Connection, events: Sequence[Admitted]) -> list[Rejected]:
    """Events of tenants that take none, with the reason. Raises Unavailable when one of them does now."""
    if not events:
        return []
    rows = await connection.fetch(_TENANTS, sorted({event.tenant for event in events}))
    statuses = {row["tenant_id"]: row["status"] for row in rows}
    rejected: list[Rejected] = []
    for event in events:
        status = statuses.get(event.tenant)
        if status == "active":
            raise Unavailable("a tenant was made or activated this moment; its events come with the next try")
        if status is None:
            detail = "tenant_id: is not a tenant of this system; create it, then send again"
            rejected.append(Rejected(event, Rejection(Reason.UNKNOWN_TENANT, detail)))
        else:
            detail = "tenant_id: the tenant is suspended; send again once it is active"
            rejected.append(Rejected(event, Rejection(Reason.TENANT_SUSPENDED, detail)))
    return rejected


async def _raise_revs(connection: Connection, events: Sequence[Admitted]) -> dict[User, _UserState]:
    """Lock the users until the transaction ends; users of tenants that take nothing are left out."""
    if not events:
        return {}
    users = sorted({(event.tenant, event.user) for event in events})
    rows = await connection.fetch(_RAISE_REVS, [tenant for tenant, _ in users], [user for _, user in users])
    return {
        (row["tenant_id"], row["entity_id"]): _UserState(row["rev"], decode(row["preferences"])) for row in rows
    }


async def _raise_heads(connection: Connection, events: Sequence[Admitted]) -> dict[tuple[str, str, int], int]:
    """Raise each lane's head by its number of events; returns the seq it had before."""
    counts = Counter((event.tenant, event.user, _lane(event)) for event in events)
    lanes = sorted(counts)
    rows = await connection.fetch(
        _RAISE_HEADS,
        [tenant for tenant, _, _ in lanes],
        [user for _, user, _ in lanes],
        [lane for _, _, lane in lanes],
        [counts[lane] for lane in lanes],
    )
    heads = {}
    for row in rows:
        head = (row["tenant_id"], row["entity_id"], row["lane"])
        heads[head] = row["seq"] - counts[head]
    return heads


async def _collapse(connection: Connection, rows: list[_Row], now_ms: int) -> list[_Row]:
    """The batch with all but the newest of each collapse key collapsed; what waits of these keys is as well."""
    joining = [
        Keyed(row.event.tenant, row.event.entity, row.event.collapse_key, row.event.id, row.rev)
        for row in rows
        if row.event.collapse_key is not None and _is_ready(row, now_ms)
    ]
    if not joining:
        return rows
    last = newest(joining)
    await collapse(connection, last)
    replaced = {one[:4] for one in joining} - {one[:4] for one in last}
    return [
        row._replace(status=Status.COLLAPSED, code=StatusCode.COLLAPSED_NEWER, due_ms=None)
        if (row.event.tenant, row.event.entity, row.event.collapse_key, row.event.id) in replaced
        else row
        for row in rows
    ]


async def _insert(connection: Connection, rows: Sequence[_Row]) -> None:
    if not rows:
        return
    values = [_values(row) for row in rows]
    tag = await connection.execute(_INSERT, *(list(column) for column in zip(*values, strict=True)))
    inserted = int(tag.rpartition(" ")[2])
    # The users are locked and were looked through: nobody else can have stored one of these.
    if inserted != len(rows):
        raise HeraldError(
            f"{len(rows) - inserted} of {len(rows)} notifications were stored by someone else meanwhile"
        )


def _values(row: _Row) -> tuple[Any, ...]:
    """The columns of _INSERT in order; here the payload is sealed."""
    event, notification = row.event, row.notification
    aad = crypto.payload_aad(event.tenant, notification.user, event.id, row.key.version)
    return (
        day_of(event.id), event.tenant, event.id, notification.user,
        notification.lane, notification.seq, notification.prev, event.type, event.priority,
        crypto.seal(row.key.key, event.payload, aad), row.key.version,
        event.collapse_key, event.not_before_ms, event.sent_ms, event.ttl_s, event.expiry_ms,
        row.status, RANKS[row.status], row.code, row.due_ms, row.rev, event.body_hash,
    )  # fmt: skip
