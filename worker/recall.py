"""What a sender takes back, from one user or from everybody it went to: the answer to a messages.RecallRequest.

What no device has acknowledged becomes CANCELLED and is not sent any more; what was delivered or read keeps that
status, which stays true. Both are hidden from then on (fill.LIVE), whatever comes later: an ack, a mark. The recall
is in the history of each. A scheduled one is never released. An audience counts as one of those it went to: nobody
of it is shown it any more.
"""

import uuid
from typing import Final

import asyncpg

from notification import batch
from notification.errors import InvalidInput
from notification.frames import RECALLED, StateFrame, encode
from notification.ids import TENANT, is_audience, is_uuid7
from notification.limits import RECALL_USERS_COUNT_MAX
from notification.messages import RecallReply, RecallRequest
from worker.audiences import FIRST_LANE, is_everyones
from worker.database import Pool, tenant_transaction
from worker.fill import counters_of_users
from worker.partitions import day_of

# Of an audience's row everything that a user's has is the tenant's.
_OWNER: Final = f"CASE WHEN n.lane < {FIRST_LANE} THEN n.entity_id ELSE '{TENANT}' END"
_OF_IT: Final = """
n.day = $1 AND n.tenant_id = $2 AND n.notification_id = $3 AND ($4 = '' OR n.entity_id = $4)
"""
# The users first, in sorted order, as the storing transaction does.
_LOCK_USERS: Final = f"""
SELECT s.entity_id FROM user_state s
WHERE s.tenant_id = $2 AND s.entity_id IN (
    SELECT DISTINCT {_OWNER} FROM notifications n WHERE {_OF_IT} AND n.recalled_at IS NULL ORDER BY 1 LIMIT $5
)
ORDER BY s.entity_id FOR UPDATE OF s
"""  # noqa: S608 - constants of ours
_RECALL: Final = f"""
WITH found AS MATERIALIZED (
    SELECT n.entity_id, s.entity_id AS owner, s.rev + 1 AS rev FROM notifications n
    JOIN user_state s ON s.tenant_id = $2 AND s.entity_id = {_OWNER}
    WHERE n.day = $1 AND n.tenant_id = $2 AND n.notification_id = $3 AND s.entity_id = ANY($4)
      AND n.recalled_at IS NULL
    ORDER BY n.entity_id FOR NO KEY UPDATE OF n
), revs AS (
    UPDATE user_state s SET rev = f.rev FROM (SELECT DISTINCT owner, rev FROM found) AS f
    WHERE s.tenant_id = $2 AND s.entity_id = f.owner
), changed AS (
    UPDATE notifications n
    SET recalled_at = now(), due_at = NULL, rev = f.rev, rank = greatest(n.rank, 2),
        status = CASE WHEN n.rank < 2 THEN 'CANCELLED' ELSE n.status END,
        status_code = CASE WHEN n.rank < 2 THEN 410 ELSE n.status_code END
    FROM found f
    WHERE n.day = $1 AND n.tenant_id = $2 AND n.notification_id = $3 AND n.entity_id = f.entity_id
    RETURNING n.day, n.tenant_id, n.notification_id, n.entity_id, n.lane, n.seq, n.type
), history AS (
    INSERT INTO notification_history (day, tenant_id, notification_id, entity_id, status, status_code)
    SELECT day, tenant_id, notification_id, entity_id, 'CANCELLED', 410 FROM changed
)
SELECT entity_id, lane, seq, type FROM changed
"""  # noqa: S608 - as above
_KNOWN: Final = f"SELECT EXISTS (SELECT FROM notifications n WHERE {_OF_IT})"  # noqa: S608 - as above


async def recall(pool: Pool, request: RecallRequest) -> tuple[RecallReply, dict[str, StateFrame], list[batch.Item]]:
    """Take it back from RECALL_USERS_COUNT_MAX users at most; the reply, per user the frame for all devices, and
    per audience the item for every gateway process.

    Raises InvalidInput, database.AWAY.
    """
    ident = _ident(request.id)
    of_it = (day_of(ident), request.tenant, ident)
    async with tenant_transaction(pool, [request.tenant]) as connection:
        locked = await connection.fetch(_LOCK_USERS, *of_it, request.user, RECALL_USERS_COUNT_MAX)
        rows = await connection.fetch(_RECALL, *of_it, [row["entity_id"] for row in locked]) if locked else []
        users = [row["entity_id"] for row in rows if not is_audience(row["entity_id"])]
        counters = await counters_of_users(connection, request.tenant, users)
        known = bool(rows) or await connection.fetchval(_KNOWN, *of_it, request.user)
    frames = {
        user: StateFrame([str(ident)], RECALLED, one.rev, one.unread)
        for user, one in zip(users, counters, strict=True)
    }
    items = [_item(request.tenant, ident, row) for row in rows if is_audience(row["entity_id"])]
    return RecallReply(len(rows), known, len(locked) == RECALL_USERS_COUNT_MAX), frames, items


def _item(tenant: str, ident: uuid.UUID, row: asyncpg.Record) -> batch.Item:
    """The frame for everybody of an audience. Each has counters of their own: these, of rev 0, count for nobody."""
    body = encode(StateFrame([str(ident)], RECALLED, 0, 0))
    everyone = batch.EVERYONE if is_everyones(row["entity_id"], row["type"]) else 0
    return batch.Item(
        batch.CONTROL, row["lane"], everyone, row["seq"], 0, 0, ident.bytes, tenant.encode("ascii"), body
    )


def _ident(raw: bytes) -> uuid.UUID:
    if len(raw) == 16 and is_uuid7(ident := uuid.UUID(bytes=raw)):
        return ident
    raise InvalidInput("id", "must be the 16 bytes of a UUID of version 7")
