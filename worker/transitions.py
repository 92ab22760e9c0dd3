"""Status changes of notifications by dispatch: guarded by rank, written in batches, each with its history row.

A row in flight (rank 1) takes another rank-1 status only from an attempt at least as high as its own, so a late
writer never takes a row back; DELIVERED and READ are out of reach here. due_at never lies after expiry: whatever is
still in flight then is EXPIRED by the sweeper.
"""

import dataclasses
import datetime
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

from notification import telemetry
from notification.codes import RANKS, Status, StatusCode
from notification.limits import DUE_EARLY_MS_MAX
from notification.names import PRIORITIES
from worker.database import Pool, tenant_transaction
from worker.partitions import day_of
from worker.store import StoredNotification

# due_at is left as it was stored where it is about right: a row whose indexed columns stay as they are is written
# without its indexes (migrations/0013_partition_fill.sql).
_RECORD: Final = f"""
WITH wanted AS (
    SELECT * FROM unnest($1::date[], $2::text[], $3::uuid[], $4::text[],
                         $5::text[], $6::smallint[], $7::smallint[], $8::smallint[], $9::integer[])
        AS w(day, tenant_id, notification_id, entity_id, status, rank, status_code, attempt, due_in_ms)
    LIMIT cardinality($1)
), locked AS MATERIALIZED (
    SELECT w.* FROM wanted w JOIN notifications n USING (day, tenant_id, notification_id, entity_id)
    ORDER BY n.day, n.tenant_id, n.notification_id, n.entity_id FOR NO KEY UPDATE OF n
), changed AS (
    UPDATE notifications n
    SET status = w.status, rank = w.rank, status_code = w.status_code, attempt = w.attempt,
        due_at = CASE
            WHEN w.rank >= 2 THEN NULL
            WHEN n.due_at BETWEEN clock_timestamp() + (w.due_in_ms - {DUE_EARLY_MS_MAX}) * interval '1 millisecond'
                AND clock_timestamp() + w.due_in_ms * interval '1 millisecond' THEN n.due_at
            ELSE least(n.expiry, clock_timestamp() + w.due_in_ms * interval '1 millisecond')
        END
    FROM locked w
    WHERE (n.day, n.tenant_id, n.notification_id, n.entity_id)
        = (w.day, w.tenant_id, w.notification_id, w.entity_id)
      AND n.archived_at IS NULL
      AND (n.rank < w.rank OR n.rank = 1 AND w.rank = 1 AND n.attempt <= w.attempt)
    RETURNING n.day, n.tenant_id, n.notification_id, n.entity_id, n.status, n.status_code
)
INSERT INTO notification_history (day, tenant_id, notification_id, entity_id, status, status_code)
SELECT * FROM changed WHERE status <> 'DISPATCHED'
UNION ALL  -- a send is a fact, also when its ack was faster
SELECT day, tenant_id, notification_id, entity_id, status, status_code FROM locked WHERE status = 'DISPATCHED'
"""  # noqa: S608 - a number of ours

_POSTPONE: Final = """
UPDATE notifications n
SET due_at = least(n.expiry, clock_timestamp() + w.due_in_ms * interval '1 millisecond')
FROM (
    SELECT * FROM unnest($1::date[], $2::text[], $3::uuid[], $4::text[], $5::integer[])
        AS w(day, tenant_id, notification_id, entity_id, due_in_ms)
    LIMIT cardinality($1)
) AS w
WHERE (n.day, n.tenant_id, n.notification_id, n.entity_id)
    = (w.day, w.tenant_id, w.notification_id, w.entity_id)
  AND n.rank < 2 AND n.due_at IS NOT NULL
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Transition:
    """A new status. `due_in_ms` None = not before its expiry."""

    notification: StoredNotification
    status: Status
    code: StatusCode
    attempt: int
    due_in_ms: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Postponement:
    """Nothing happened to it: look again in `due_in_ms` (None = at its expiry)."""

    notification: StoredNotification
    due_in_ms: int | None


class Journal(Protocol):
    """Where outcomes are written down."""

    async def record(self, outcomes: Sequence[Transition | Postponement]) -> None:
        """Write all of them in one transaction. Raises what the database raises; nothing is written then."""


class DatabaseJournal:
    """Journal over PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(self, outcomes: Sequence[Transition | Postponement]) -> None:
        if not outcomes:
            return
        ordered = sorted(outcomes, key=_sort_key)
        moves = [outcome for outcome in ordered if isinstance(outcome, Transition)]
        waits = [outcome for outcome in ordered if isinstance(outcome, Postponement)]
        tenants = {outcome.notification.tenant for outcome in outcomes}
        async with tenant_transaction(self._pool, sorted(tenants)) as connection:
            if moves:
                await connection.execute(_RECORD, *_keys(moves), *_columns(moves))
            if waits:
                await connection.execute(_POSTPONE, *_keys(waits), [wait.due_in_ms for wait in waits])
        counts = Counter((move.notification.priority, move.status) for move in moves)
        for (priority, status), count in counts.items():
            telemetry.DISPATCHED.labels(PRIORITIES[priority], status.value.lower()).inc(count)


def _sort_key(outcome: Transition | Postponement) -> tuple[datetime.date, str, int, str]:
    notification = outcome.notification
    return day_of(notification.id), notification.tenant, notification.id.int, notification.user


def _keys(outcomes: Sequence[Transition] | Sequence[Postponement]) -> tuple[list[object], ...]:
    notifications = [outcome.notification for outcome in outcomes]
    return (
        [day_of(notification.id) for notification in notifications],
        [notification.tenant for notification in notifications],
        [notification.id for notification in notifications],
        [notification.user for notification in notifications],
    )


def _columns(moves: Sequence[Transition]) -> tuple[list[object], ...]:
    return (
        [move.status.value for move in moves],
        [int(RANKS[move.status]) for move in moves],
        [int(move.code) for move in moves],
        [move.attempt for move in moves],
        [move.due_in_ms for move in moves],
    )
