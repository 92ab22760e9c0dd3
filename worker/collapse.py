"""Collapse keys: of a user's notifications with one key only the newest waits for a slow or absent client.

The newest is the one that joined its lane last, of whatever priority. What no device has acknowledged by then
becomes COLLAPSED: it is neither sent again nor owed, and its place in the lane is passed as nothing. One that a
device has acknowledged stays as it is, and a late ack still counts. Scheduled ones join when their time has come.
"""

import uuid
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from worker.database import Connection

# LATERAL and OFFSET make it one look into notifications_collapse for each key, whatever the planner believes of the
# table: a join it may do by reading all that waits of the tenant.
_WAITING: Final = """
SELECT n.day, k.tenant_id, n.notification_id, k.entity_id, k.rev
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::bigint[])
    AS k(tenant_id, entity_id, collapse_key, newest_id, rev),
LATERAL (
    SELECT n.day, n.notification_id FROM notifications n
    WHERE n.collapse_key = k.collapse_key AND n.tenant_id = k.tenant_id AND n.entity_id = k.entity_id
      AND n.due_at IS NOT NULL AND n.rank < 2 AND n.not_before IS NULL AND n.notification_id <> k.newest_id
    OFFSET 0
) AS n
"""
_COLLAPSE: Final = """
WITH wanted AS (
    SELECT * FROM unnest($1::date[], $2::text[], $3::uuid[], $4::text[], $5::bigint[])
        AS w(day, tenant_id, notification_id, entity_id, rev)
    LIMIT cardinality($1)
), locked AS MATERIALIZED (
    SELECT w.* FROM wanted w JOIN notifications n USING (day, tenant_id, notification_id, entity_id)
    ORDER BY n.day, n.tenant_id, n.notification_id, n.entity_id FOR NO KEY UPDATE OF n
), changed AS (
    UPDATE notifications n SET status = 'COLLAPSED', rank = 2, status_code = 420, due_at = NULL, rev = w.rev
    FROM locked w
    WHERE (n.day, n.tenant_id, n.notification_id, n.entity_id)
        = (w.day, w.tenant_id, w.notification_id, w.entity_id) AND n.rank < 2
    RETURNING n.day, n.tenant_id, n.notification_id, n.entity_id, n.status, n.status_code
)
INSERT INTO notification_history (day, tenant_id, notification_id, entity_id, status, status_code)
SELECT * FROM changed
"""


class Keyed(NamedTuple):
    """A notification with a collapse key that joins its lane now; `rev` of its user."""

    tenant: str
    user: str
    key: str
    id: uuid.UUID
    rev: int


def newest(joining: Sequence[Keyed]) -> list[Keyed]:
    """Of those that join at once, in order, the last of each key."""
    return list({(one.tenant, one.user, one.key): one for one in joining}.values())


async def collapse(connection: Connection, joining: Sequence[Keyed]) -> None:
    """What waits of these keys is replaced by them (one for each key). The caller has locked the users."""
    if not joining:
        return
    waiting = await connection.fetch(_WAITING, *_columns(joining))
    if waiting:
        await connection.execute(_COLLAPSE, *_columns([tuple(row) for row in waiting]))


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
