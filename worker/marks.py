"""What a user does to notifications: read, unread, seen, archived, unarchived; on every device at once.

Flags are per (user, id), reversible, last writer by the user's `rev`. Reading also raises the row to READ: nothing
sends it again. `unread` takes the flag back, not the status; what was cancelled or replaced stays so, whoever reads
it. Of a notification to an audience the flags and the status of each user are a row of `audience_state`.
"""

import uuid
from collections.abc import Sequence
from typing import Final, get_args

import asyncpg

from notification.errors import InvalidInput
from notification.frames import IDS_PER_FRAME_MAX, State, StateFrame
from notification.ids import is_uuid7
from notification.messages import StateReply, StateRequest
from worker.audiences import open_states
from worker.database import Connection, Pool, tenant_transaction
from worker.fill import counters_of
from worker.partitions import day_of

_MAKE_USER: Final = "INSERT INTO user_state (tenant_id, entity_id, rev) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING"
_LOCK_USER: Final = "SELECT rev FROM user_state WHERE tenant_id = $1 AND entity_id = $2 FOR UPDATE"
_RAISE_REV: Final = "UPDATE user_state SET rev = $3 WHERE tenant_id = $1 AND entity_id = $2"
_STAYS: Final = "n.status IN ('CANCELLED', 'COLLAPSED')"
_CHANGES: Final[dict[State, tuple[str, str]]] = {  # what to set, and where it is not yet so
    "read": (
        "read_at = now(), seen_at = coalesce(n.seen_at, now()), "
        f"status = CASE WHEN {_STAYS} THEN n.status ELSE 'READ' END, "
        f"rank = CASE WHEN {_STAYS} THEN n.rank ELSE 4 END, "
        f"status_code = CASE WHEN {_STAYS} THEN n.status_code ELSE 600 END",
        "n.read_at IS NULL",
    ),
    "unread": ("read_at = NULL", "n.read_at IS NOT NULL"),
    "seen": ("seen_at = now()", "n.seen_at IS NULL"),
    "archived": ("archived_at = now()", "n.archived_at IS NULL"),
    "unarchived": ("archived_at = NULL", "n.archived_at IS NOT NULL"),
}
_ENDS: Final[dict[State, str]] = dict.fromkeys(("read", "archived"), ", due_at = NULL")  # it is not sent again
_MARK: Final = """
WITH found AS MATERIALIZED (
    SELECT n.day, n.notification_id, n.rank AS old_rank FROM {table} n
    JOIN unnest($3::date[], $4::uuid[]) AS w(day, notification_id) USING (day, notification_id)
    WHERE n.tenant_id = $1 AND n.entity_id = $2
    ORDER BY n.day, n.tenant_id, n.notification_id, n.entity_id FOR NO KEY UPDATE OF n
), changed AS (
    UPDATE {table} n SET {assignments}, rev = $5
    FROM found f
    WHERE n.day = f.day AND n.tenant_id = $1 AND n.notification_id = f.notification_id AND n.entity_id = $2
      AND {condition}
    RETURNING n.day, n.tenant_id, n.notification_id, n.entity_id, n.status, n.status_code, n.rank, f.old_rank
), history AS (
    INSERT INTO notification_history (day, tenant_id, notification_id, entity_id, status, status_code)
    SELECT day, tenant_id, notification_id, entity_id, status, status_code FROM changed WHERE rank > old_rank
)
SELECT f.notification_id, c.notification_id IS NOT NULL AS changed
FROM found f LEFT JOIN changed c USING (notification_id)
"""
# For a direct one, for one to an audience.
_MARKS: Final = {
    to: (
        _MARK.format(table="notifications", assignments=assignments + _ENDS.get(to, ""), condition=condition),
        _MARK.format(table="audience_state", assignments=assignments, condition=condition),
    )
    for to, (assignments, condition) in _CHANGES.items()
}
assert set(_CHANGES) == set(get_args(State))


async def mark(pool: Pool, request: StateRequest) -> tuple[StateReply, StateFrame | None]:
    """Set flags; returns the reply and the frame for all of the user's devices (None: nothing changed).

    Raises InvalidInput, database.AWAY.
    """
    statements = _MARKS.get(request.to)  # type: ignore[call-overload]
    if statements is None:
        raise InvalidInput("to", "must be one of " + ", ".join(_CHANGES))
    idents = _idents(request.ids)
    async with tenant_transaction(pool, [request.tenant]) as connection:
        rev = await connection.fetchval(_LOCK_USER, request.tenant, request.user)
        rows: list[asyncpg.Record] = []
        if rev is not None:
            rows = await _mark(connection, statements[0], request, idents, rev)
        others = set(idents) - {row["notification_id"] for row in rows}
        others &= set(await open_states(connection, [(request.tenant, ident, request.user) for ident in others]))
        if others:
            if rev is None:  # the first that this user has to do with anything
                await connection.execute(_MAKE_USER, request.tenant, request.user)
                rev = await connection.fetchval(_LOCK_USER, request.tenant, request.user)
            rows += await _mark(connection, statements[1], request, sorted(others), rev)
        found: list[uuid.UUID] = [row["notification_id"] for row in rows]
        changed = any(row["changed"] for row in rows)
        if changed:
            await connection.execute(_RAISE_REV, request.tenant, request.user, rev + 1)
        counters = await counters_of(connection, request.tenant, request.user)
    if not changed:
        return StateReply(counters, [ident.bytes for ident in found], told=False), None
    frame = StateFrame([str(ident) for ident in found], request.to, counters.rev, counters.unread)
    return StateReply(counters), frame


async def _mark(
    connection: Connection, statement: str, request: StateRequest, idents: Sequence[uuid.UUID], rev: int
) -> list[asyncpg.Record]:
    days = [day_of(ident) for ident in idents]
    return await connection.fetch(statement, request.tenant, request.user, days, idents, rev + 1)


def _idents(ids: Sequence[bytes]) -> list[uuid.UUID]:
    """The ids that a notification can have; the others are of none, as an id that nobody knows."""
    if len(ids) > IDS_PER_FRAME_MAX:
        raise InvalidInput("ids", f"must be at most {IDS_PER_FRAME_MAX}")
    if any(len(raw) != 16 for raw in ids):
        raise InvalidInput("ids", "must be 16 bytes each")
    return [ident for ident in (uuid.UUID(bytes=raw) for raw in dict.fromkeys(ids)) if is_uuid7(ident)]
