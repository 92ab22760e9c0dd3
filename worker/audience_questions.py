"""What a gateway process asks about a tenant's audience lanes: who may have an entry, and what it missed of a lane.

The answers are a process's, not a connection's: it asks once for all of the tenant's users that it holds.
"""

from typing import Final

from notification.errors import InvalidInput
from notification.limits import ENTITLED_USERS_COUNT_MAX, FILL_BYTES_MAX, FILL_ITEMS_MAX
from notification.messages import AudienceFillReply, AudienceFillRequest, EntitledReply, EntitledRequest
from worker.audiences import FIRST_LANE, IS_MEMBER, WANTED, heads_of, is_everyones
from worker.database import Pool, database_ms, show_tenants, tenant_transaction
from worker.fill import LIVE, items_of
from worker.keys import KeyRing
from worker.rows import COLUMNS, open_rows

# The lane is named in so many words for the partial index notifications_audience.
_ENTITLED: Final = f"""
SELECT w.number FROM notifications n
CROSS JOIN unnest($4::text[]) WITH ORDINALITY AS w (entity_id, number)
LEFT JOIN user_state u ON u.tenant_id = n.tenant_id AND u.entity_id = w.entity_id
WHERE n.tenant_id = $1 AND n.lane = $2 AND n.lane >= {FIRST_LANE} AND n.seq = $3 AND {IS_MEMBER} AND {WANTED}
"""  # noqa: S608 - constants of ours
_MISSED: Final = f"""
SELECT {COLUMNS} FROM notifications n
WHERE n.tenant_id = $1 AND n.lane = $2 AND n.lane >= {FIRST_LANE} AND n.seq > $3 AND {LIVE}
ORDER BY n.seq LIMIT $4
"""  # noqa: S608 - as above


async def entitled(pool: Pool, request: EntitledRequest) -> EntitledReply:
    """Who may have the entry, whatever has become of it. Raises InvalidInput, database.AWAY."""
    _check(request.lane, request.seq)
    if len(request.users) > ENTITLED_USERS_COUNT_MAX:
        raise InvalidInput("users", f"must be at most {ENTITLED_USERS_COUNT_MAX}")
    async with tenant_transaction(pool, [request.tenant]) as connection:
        rows = await connection.fetch(_ENTITLED, request.tenant, request.lane, request.seq, request.users)
    bits = bytearray((len(request.users) + 7) // 8)
    for row in rows:
        place = row["number"] - 1
        bits[place >> 3] |= 0x80 >> (place & 7)
    return EntitledReply(bytes(bits))


async def missed(pool: Pool, ring: KeyRing, request: AudienceFillRequest) -> AudienceFillReply:
    """The live entries after a seq, from one snapshot. Raises InvalidInput, database.AWAY."""
    _check(request.lane, request.after)
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await show_tenants(connection, [request.tenant])
        rows = await connection.fetch(_MISSED, request.tenant, request.lane, request.after, FILL_ITEMS_MAX + 1)
        heads = await heads_of(connection, [request.tenant])
        now_ms = await database_ms(connection)
    found = await open_rows(ring, rows[:FILL_ITEMS_MAX])
    items, cut, _bytes = items_of(found, FILL_BYTES_MAX)
    more = cut < len(rows)
    return AudienceFillReply(
        items=items,
        everyone=[is_everyones(one.user, one.type) for one in found[:cut] if one is not None],
        at=rows[cut - 1]["seq"] if more else heads[request.tenant][request.lane - FIRST_LANE],
        more=more,
        database_ms=now_ms,
    )


def _check(lane: int, seq: int) -> None:
    if not FIRST_LANE <= lane < FIRST_LANE + 3:
        raise InvalidInput("lane", "must be of audiences")
    if not 0 <= seq < 2**63:
        raise InvalidInput("seq", "must be a number of 63 bits")
