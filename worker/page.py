"""Pages of a user's inbox, newest first: the answer to a messages.PageRequest."""

import uuid
from typing import Final

import msgspec

from notification import frames
from notification.errors import InvalidInput
from notification.limits import PAGE_ITEMS_MAX
from notification.messages import PageReply, PageRequest
from worker.audiences import of_user
from worker.database import Pool, show_tenants
from worker.fill import LIVE, SHOWN_OF_AUDIENCES, snapshots_of
from worker.keys import KeyRing
from worker.rows import COLUMNS, open_rows
from worker.store import encode_body

_NEWEST: Final = uuid.UUID(int=2**128 - 1)
_PAGE: Final = f"""
SELECT {COLUMNS},
       n.read_at IS NOT NULL AS read, n.seen_at IS NOT NULL AS seen, n.archived_at IS NOT NULL AS archived
FROM notifications n
WHERE n.tenant_id = $1 AND n.entity_id = $2 AND n.notification_id < $3 AND {LIVE}
ORDER BY n.notification_id DESC LIMIT $4
"""  # noqa: S608 - constants of ours
_PAGE_WITH_AUDIENCES: Final = f"""
(
    {_PAGE}
) UNION ALL (
    SELECT {COLUMNS}, s.read_at IS NOT NULL, s.seen_at IS NOT NULL, s.archived_at IS NOT NULL
    FROM {of_user("$1", "$2")}
    WHERE n.notification_id < $3 AND {SHOWN_OF_AUDIENCES}
    ORDER BY n.notification_id DESC LIMIT $4
)
ORDER BY notification_id DESC LIMIT $4
"""  # noqa: S608 - as above


async def page(pool: Pool, ring: KeyRing, request: PageRequest) -> PageReply:
    """One page and the counters, from one snapshot. Raises InvalidInput, database.AWAY."""
    # Any 16 bytes are a place between ids: what cannot be an id at all still has ids before it.
    if len(request.before) not in (0, 16):
        raise InvalidInput("before", "must be the id of a notification")
    before = uuid.UUID(bytes=request.before) if request.before else _NEWEST
    limit = max(1, min(request.limit, PAGE_ITEMS_MAX))
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await show_tenants(connection, [request.tenant])
        [snapshot] = await snapshots_of(connection, [request.tenant], [request.user])
        statement = _PAGE_WITH_AUDIENCES if snapshot.has_audiences else _PAGE
        rows = await connection.fetch(statement, request.tenant, request.user, before, limit + 1)
    shown = rows[:limit]
    items = [
        frames.PageItem(msgspec.Raw(encode_body(notification)), row["read"], row["seen"], row["archived"])
        for row, notification in zip(shown, await open_rows(ring, shown), strict=True)
        if notification is not None
    ]
    following = str(shown[-1]["notification_id"]) if len(rows) > limit else None
    return PageReply(frames.encode(frames.PageFrame(items, snapshot.counters, following)))
