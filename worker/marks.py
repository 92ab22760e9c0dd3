"""What a user does to notifications: read, unread, seen, archived, unarchived; on every device at once.

Flags are per (user, id), reversible, last writer by the user's `rev`. Reading also raises the row to READ: nothing
sends it again. `unread` takes the flag back, not the status.
"""

import uuid
from collections.abc import Sequence
from typing import Final, get_args

from notification.errors import InvalidInput
from notification.frames import IDS_PER_FRAME_MAX, State, StateFrame
from notification.ids import is_uuid7
from notification.messages import StateReply, StateRequest
from worker.database import Pool, tenant_transaction
from worker.fill import counters_of
from worker.partitions import day_of

_LOCK_USER: Final = "SELECT rev FROM user_state WHERE tenant_id = $1 AND entity_id = $2 FOR UPDATE"
_RAISE_REV: Final = "UPDATE user_state SET rev = $3 WHERE tenant_id = $1 AND entity_id = $2"
_CHANGES: Final[dict[State, tuple[str, str]]] = {  # what to set, and where it is not yet so
    "read": (
        "read_at = now(), seen_at = coalesce(n.seen_at, now()), status = 'READ', rank = 4, status_code = 600, "
        "due_at = NULL",
        "n.read_at IS NULL",
    ),
    "unread": ("read_at = NULL", "n.read_at IS NOT NULL"),
    "seen": ("seen_at = now()", "n.seen_at IS NULL"),
    "archived": ("archived_at = now(), due_at = NULL", "n.archived_at IS NULL"),
    "unarchived": ("archived_at = NULL", "n.archived_at IS NOT NULL"),
}
_MARK: Final = """
WITH found AS MATERIALIZED (
    SELECT n.day, n.notification_id, n.rank AS old_rank FROM notifications n
    JOIN unnest($3::date[], $4::uuid[]) AS w(day, notification_id) USING (day, notification_id)
    WHERE n.tenant_id = $1 AND n.entity_id = $2
    ORDER BY n.day, n.tenant_id, n.notification_id, n.entity_id FOR NO KEY UPDATE OF n
), changed AS (
    UPDATE notifications n SET {assignments}, rev = $5
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
_MARKS: Final = {
    to: _MARK.format(assignments=assignments, condition=condition)
    for to, (assignments, condition) in _CHANGES.items()
}
assert set(_CHANGES) == set(get_args(State))


async def mark(pool: Pool, request: StateRequest) -> tuple[StateReply, StateFrame | None]:
    """Set flags; returns the reply and the frame for all of the user's devices (None: none of the ids exists).

    Raises InvalidInput, database.AWAY.
    """
    statement = _MARKS.get(request.to)  # type: ignore[call-overload]
    if statement is None:
        raise InvalidInput("to", "must be one of " + ", ".join(_CHANGES))
    idents = _idents(request.ids)
    async with tenant_transaction(pool, [request.tenant]) as connection:
        rev = await connection.fetchval(_LOCK_USER, request.tenant, request.user)
        found: list[uuid.UUID] = []
        if rev is not None:
            days = [day_of(ident) for ident in idents]
            rows = await connection.fetch(statement, request.tenant, request.user, days, idents, rev + 1)
            found = [row["notification_id"] for row in rows]
            if any(row["changed"] for row in rows):
                await connection.execute(_RAISE_REV, request.tenant, request.user, rev + 1)
        counters = await counters_of(connection, request.tenant, request.user)
    if not found:
        return StateReply(counters), None
    frame = StateFrame([str(ident) for ident in found], request.to, counters.rev, counters.unread)
    return StateReply(counters), frame


def _idents(ids: Sequence[bytes]) -> list[uuid.UUID]:
    """The ids that a notification can have; the others are of none, as an id that nobody knows."""
    if len(ids) > IDS_PER_FRAME_MAX:
        raise InvalidInput("ids", f"must be at most {IDS_PER_FRAME_MAX}")
    if any(len(raw) != 16 for raw in ids):
        raise InvalidInput("ids", "must be 16 bytes each")
    return [ident for ident in (uuid.UUID(bytes=raw) for raw in dict.fromkeys(ids)) if is_uuid7(ident)]
