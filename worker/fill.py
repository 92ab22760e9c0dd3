"""What a connection is owed: the answer to a messages.FillRequest, out of PostgreSQL.

Owed of a lane is every entry with a seq above the connection's that is live: not terminal, not expired, not read,
not archived. Whether some other device acknowledged it does not matter. The rest fills as nothing: the answer's
`at` passes it. Heads, counters and entries come from one snapshot (REPEATABLE READ), so `at` is never ahead of what
the snapshot shows. A fill marks nothing: a PARKED row stays PARKED until its ack raises its rank.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

import asyncpg

from notification.codes import LANE_BY_NAME, LANE_COUNT
from notification.frames import Counters, Cursor, check_cursor
from notification.limits import FILL_BYTES_MAX, FILL_ITEMS_MAX, OWED_ITEMS_MAX
from notification.messages import LANES_UNKNOWN, FillItem, FillReply, FillRequest
from worker.database import Connection, Pool, show_tenants
from worker.keys import KeyRing
from worker.rows import COLUMNS, open_rows
from worker.store import encode_body

# A row of `notifications n` that a client may be shown. One definition for fills, pages and counters. A scheduled
# row has a not_before until it is released into its lane.
LIVE: Final = "n.rank <> 2 AND n.expiry > now() AND n.not_before IS NULL"
UNREAD: Final = f"{LIVE} AND n.read_at IS NULL AND n.archived_at IS NULL"

_SNAPSHOT: Final = f"""
SELECT (SELECT epoch FROM log_state) AS epoch,
       floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS database_ms,
       coalesce((SELECT rev FROM user_state WHERE tenant_id = $1 AND entity_id = $2), 0) AS rev,
       (SELECT count(*) FROM notifications n WHERE n.tenant_id = $1 AND n.entity_id = $2 AND {UNREAD}) AS unread,
       (SELECT coalesce(array_agg(ARRAY[lane, seq]), '{{}}') FROM lane_heads
        WHERE tenant_id = $1 AND entity_id = $2) AS heads
"""  # noqa: S608 - constants of ours
_OWED_FROM: Final = f"""
FROM notifications n JOIN unnest($3::smallint[], $4::bigint[]) AS have(lane, seq)
    ON n.lane = have.lane AND n.seq > have.seq
WHERE n.tenant_id = $1 AND n.entity_id = $2 AND {UNREAD}
"""
_OWED: Final = f"SELECT {COLUMNS} {_OWED_FROM} ORDER BY n.lane, n.seq LIMIT $5"
_OWED_COUNT: Final = f"SELECT count(*) FROM (SELECT 1 {_OWED_FROM} LIMIT $5) AS owed"  # noqa: S608 - as above


@dataclasses.dataclass(frozen=True, slots=True)
class _Snapshot:
    """`heads`: the newest seq of each lane (LANE_COUNT numbers, 0 = no entries)."""

    epoch: int
    database_ms: int
    counters: Counters
    heads: list[int]


async def fill(pool: Pool, ring: KeyRing, request: FillRequest) -> FillReply:
    """Answer a request. Raises InvalidInput for a request that breaks the rules, database.AWAY in an outage."""
    limit = max(0, min(request.limit, FILL_ITEMS_MAX))
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await show_tenants(connection, [request.tenant])
        snapshot = await _snapshot(connection, request.tenant, request.user)
        at, recovered = await _start(connection, request, snapshot)
        rows = await connection.fetch(_OWED, request.tenant, request.user, list(range(LANE_COUNT)), at, limit + 1)
    items, cut = await _items(ring, rows, limit)
    return FillReply(
        epoch=snapshot.epoch,
        recovered=recovered,
        items=items,
        at=complete_up_to(at, snapshot.heads, rows, cut),
        more=cut < len(rows),
        counters=snapshot.counters,
        database_ms=snapshot.database_ms,
    )


async def counters_of(connection: Connection, tenant: str, user: str) -> Counters:
    """The user's counters as the running transaction sees them."""
    return (await _snapshot(connection, tenant, user)).counters


async def _snapshot(connection: Connection, tenant: str, user: str) -> _Snapshot:
    row = await connection.fetchrow(_SNAPSHOT, tenant, user)
    assert row is not None
    heads = [0] * LANE_COUNT
    for lane, seq in row["heads"]:
        heads[lane] = seq
    return _Snapshot(row["epoch"], row["database_ms"], Counters(row["unread"], row["rev"]), heads)


async def _start(connection: Connection, request: FillRequest, snapshot: _Snapshot) -> tuple[list[int], bool]:
    """Where to begin, and whether what the connection claims to have can be honoured."""
    if not request.first:
        at = list(request.at)
        if len(at) != LANE_COUNT or _is_ahead(at, snapshot.heads):
            return list(LANES_UNKNOWN), False
        return at, True
    if request.cursor is None:
        return list(LANES_UNKNOWN), True
    at = _from_cursor(check_cursor(request.cursor))
    if request.cursor.epoch != snapshot.epoch or _is_ahead(at, snapshot.heads):
        return list(LANES_UNKNOWN), False
    lanes = list(range(LANE_COUNT))
    owed = await connection.fetchval(_OWED_COUNT, request.tenant, request.user, lanes, at, OWED_ITEMS_MAX + 1)
    if owed > OWED_ITEMS_MAX:
        return list(LANES_UNKNOWN), False
    return at, True


def _from_cursor(cursor: Cursor) -> list[int]:
    """A lane that the cursor does not name had no entries when it was given out."""
    at = [0] * LANE_COUNT
    for name, seq in cursor.at.items():
        at[LANE_BY_NAME[name]] = seq
    return at


def _is_ahead(at: Sequence[int], heads: Sequence[int]) -> bool:
    return any(have > head for have, head in zip(at, heads, strict=True))


async def _items(ring: KeyRing, rows: Sequence[asyncpg.Record], limit: int) -> tuple[list[FillItem], int]:
    """The items of the first rows that fit (`limit`, FILL_BYTES_MAX), and how many rows those are."""
    items: list[FillItem] = []
    size_bytes = 0
    for number, notification in enumerate(await open_rows(ring, rows[:limit])):
        if notification is None:
            continue  # its key is destroyed: it fills as nothing
        body = encode_body(notification)
        size_bytes += len(body)
        if size_bytes > FILL_BYTES_MAX:
            return items, number
        items.append(
            FillItem(
                notification.lane, notification.seq, notification.prev, notification.expiry_ms,
                notification.id.bytes, body,
            )
        )  # fmt: skip
    return items, min(limit, len(rows))


def complete_up_to(at: Sequence[int], heads: Sequence[int], rows: Sequence[asyncpg.Record], cut: int) -> list[int]:
    """Per lane, the seq up to which the connection is complete after the first `cut` of `rows` (by lane, seq).

    Lanes before the first row left out are complete up to their head; its own lane up to the row before it; lanes
    after it are where they were.
    """
    if cut == len(rows):
        return [max(have, head) for have, head in zip(at, heads, strict=True)]
    lane = rows[cut]["lane"]
    upto = [max(have, head) for have, head in zip(at, heads, strict=True)][:lane] + list(at[lane:])
    if cut > 0 and rows[cut - 1]["lane"] == lane:
        upto[lane] = rows[cut - 1]["seq"]
    return upto
