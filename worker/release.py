"""Scheduled notifications whose time has come: they take their place in the lane now.

A row stored with not_before got a seq at once, but its lane flows on meanwhile and connections pass that seq as a
hole. So when it is due it is numbered anew, at the head of its lane, and not_before is taken away: from then on it
is like a row that was just stored, and replaces what waits of its collapse key.
"""

import uuid
from collections.abc import Sequence
from operator import itemgetter
from typing import Final

import asyncpg

from notification.ids import TENANT
from worker.audiences import FIRST_LANE
from worker.collapse import Keyed, collapse, newest
from worker.database import Pool, tenant_transaction
from worker.rows import COLUMNS

# The users first, in sorted order, as the storing transaction does: that also guards their lane heads.
_LOCK_USERS: Final = """
SELECT s.tenant_id FROM user_state s
JOIN (SELECT DISTINCT * FROM unnest($1::text[], $2::text[]) AS u(tenant_id, entity_id)) AS u
    USING (tenant_id, entity_id)
ORDER BY s.tenant_id, s.entity_id FOR UPDATE OF s
"""
# `due` reads what it needs of the locked users' rows itself: a join of what two of the parts return has no index:
# its cost grows with the square of the batch.
_RELEASE: Final = f"""
WITH due AS (
    SELECT n.day, n.tenant_id, n.notification_id, n.entity_id, n.lane, n.owner, s.rev + 1 AS rev, h.seq
        + row_number() OVER (PARTITION BY n.tenant_id, n.owner, n.lane ORDER BY n.not_before, n.seq) AS seq
    FROM (
        SELECT n.day, n.tenant_id, n.notification_id, n.entity_id, n.lane, n.seq, n.not_before, w.owner
        FROM (
            SELECT * FROM unnest($1::text[], $2::text[], $3::date[], $4::uuid[], $5::text[])
                AS w(tenant_id, entity_id, day, notification_id, owner)
            LIMIT cardinality($1)
        ) AS w
        JOIN notifications n USING (day, tenant_id, notification_id, entity_id)
        WHERE n.rank = 0 AND n.not_before IS NOT NULL
        OFFSET 0
    ) AS n
    JOIN lane_heads h ON (h.tenant_id, h.entity_id, h.lane) = (n.tenant_id, n.owner, n.lane)
    JOIN user_state s ON (s.tenant_id, s.entity_id) = (n.tenant_id, n.owner)
), heads AS (
    UPDATE lane_heads h SET seq = d.seq
    FROM (SELECT tenant_id, owner, lane, max(seq) AS seq FROM due GROUP BY tenant_id, owner, lane) AS d
    WHERE (h.tenant_id, h.entity_id, h.lane) = (d.tenant_id, d.owner, d.lane)
), revs AS (
    UPDATE user_state s SET rev = d.rev FROM (SELECT DISTINCT tenant_id, owner, rev FROM due) AS d
    WHERE (s.tenant_id, s.entity_id) = (d.tenant_id, d.owner)
)
UPDATE notifications n SET seq = due.seq, prev = due.seq - 1, not_before = NULL, rev = due.rev
FROM due
WHERE (n.day, n.tenant_id, n.notification_id, n.entity_id)
    = (due.day, due.tenant_id, due.notification_id, due.entity_id)
RETURNING {COLUMNS}, n.status, n.status_code, n.rev
"""  # noqa: S608 - COLUMNS is a constant of ours


async def release(pool: Pool, rows: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    """Number these due rows anew; returns those to send, as they are now. Raises what the database raises."""
    tenants = [row["tenant_id"] for row in rows]
    users = [row["entity_id"] for row in rows]
    owners = [user if row["lane"] < FIRST_LANE else TENANT for user, row in zip(users, rows, strict=True)]
    async with tenant_transaction(pool, tenants) as connection:
        await connection.execute(_LOCK_USERS, tenants, owners)
        released: list[asyncpg.Record] = await connection.fetch(
            _RELEASE, tenants, users, [row["day"] for row in rows], [row["notification_id"] for row in rows], owners
        )
        joining = [
            Keyed(row["tenant_id"], row["entity_id"], row["collapse_key"], row["notification_id"], row["rev"])
            for row in sorted(released, key=itemgetter("seq"))
            if row["collapse_key"] is not None
        ]
        last = newest(joining)
        await collapse(connection, last)
    replaced = {one[:4] for one in joining} - {one[:4] for one in last}
    return [row for row in released if _key(row) not in replaced]


def _key(row: asyncpg.Record) -> tuple[str, str, str, uuid.UUID]:
    return row["tenant_id"], row["entity_id"], row["collapse_key"], row["notification_id"]
