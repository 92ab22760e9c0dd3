"""What connections are owed: the answer to a messages.FillsRequest, out of PostgreSQL.

Owed of a lane is every entry with a seq above the connection's that is live: not terminal, not expired, not read,
not archived, not recalled. Whether some other device acknowledged it does not matter. The rest fills as nothing:
the answer's `at` passes it. Heads, counters and entries come from one snapshot (REPEATABLE READ), so `at` is never
ahead of what the snapshot shows. A fill marks nothing: a PARKED row stays PARKED until its ack raises its rank.

All questions of a request share one transaction, which sees their tenants: one statement tells heads and counters,
a second one the rows of those who have unread ones at all. Where a tenant's audience lanes have heads, one more
counts what of them the user has not read, and another one brings it to who is behind in these lanes.
"""

import dataclasses
import itertools
import operator
from collections.abc import Sequence
from typing import Final

import asyncpg
import structlog

from notification.codes import LANE_BY_NAME, LANE_COUNT
from notification.errors import InvalidInput
from notification.frames import Counters, Cursor, check_cursor, user_epoch
from notification.ids import TENANT, check_token, check_user
from notification.limits import FILL_BYTES_MAX, FILL_ITEMS_MAX, FILLS_ITEMS_MAX, OWED_ITEMS_MAX
from notification.messages import LANES_UNKNOWN, Failure, FillItem, FillReply, FillRequest
from worker.audiences import FIRST_LANE, WANTED, of_user
from worker.database import AWAY, Connection, Pool, show_tenants
from worker.keys import KeyRing
from worker.rows import COLUMNS, open_rows
from worker.store import StoredNotification, encode_body

_log = structlog.get_logger("fill")

# A row of `notifications n` that a client may be shown. One definition for fills, pages and counters. A scheduled
# row has a not_before until it is released into its lane; of a recalled one a late ack may still raise the rank.
LIVE: Final = "n.rank <> 2 AND n.expiry > now() AND n.not_before IS NULL AND n.recalled_at IS NULL"
UNREAD: Final = f"{LIVE} AND n.read_at IS NULL AND n.archived_at IS NULL"
# The same of a row of audiences.of_user.
SHOWN_OF_AUDIENCES: Final = f"{LIVE} AND {WANTED}"
_UNREAD_OF_AUDIENCES: Final = f"{SHOWN_OF_AUDIENCES} AND s.read_at IS NULL AND s.archived_at IS NULL"

_SNAPSHOTS: Final = f"""
SELECT (SELECT epoch FROM log_state) AS epoch,
       floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS database_ms,
       coalesce((SELECT rev FROM user_state u
                 WHERE u.tenant_id = asks.tenant_id AND u.entity_id = asks.entity_id), 0) AS rev,
       (SELECT count(*) FROM notifications n
        WHERE n.tenant_id = asks.tenant_id AND n.entity_id = asks.entity_id AND {UNREAD}) AS unread,
       (SELECT coalesce(array_agg(ARRAY[h.lane, h.seq]), '{{}}') FROM lane_heads h
        WHERE h.tenant_id = asks.tenant_id AND h.entity_id IN (asks.entity_id, '{TENANT}')) AS heads
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asks(tenant_id, entity_id, number) ORDER BY asks.number
"""  # noqa: S608 - constants of ours
# The rev that all users of the tenant share, and the unread ones.
_AUDIENCE_COUNTERS: Final = f"""
SELECT (SELECT rev FROM user_state u WHERE u.tenant_id = asks.tenant_id AND u.entity_id = '{TENANT}') AS rev,
       (SELECT count(*) FROM {of_user("asks.tenant_id", "asks.entity_id")} WHERE {_UNREAD_OF_AUDIENCES}) AS unread
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asks(tenant_id, entity_id, number) ORDER BY asks.number
"""  # noqa: S608 - as above
# $4: LANE_COUNT seqs per question, one question after the other.
_OWED: Final = f"""
SELECT asks.number, owed.*
FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS asks(tenant_id, entity_id, rows_max, number),
LATERAL (
    SELECT {COLUMNS} FROM notifications n
    JOIN generate_series(0, {FIRST_LANE - 1}) AS have(lane)
        ON n.lane = have.lane AND n.seq > ($4::bigint[])[(asks.number - 1) * {LANE_COUNT} + have.lane + 1]
    WHERE n.tenant_id = asks.tenant_id AND n.entity_id = asks.entity_id AND {UNREAD}
    ORDER BY n.lane, n.seq LIMIT asks.rows_max
) AS owed
ORDER BY asks.number, owed.lane, owed.seq
"""  # noqa: S608 - as above
_OWED_OF_AUDIENCES: Final = f"""
SELECT asks.number, owed.*
FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS asks(tenant_id, entity_id, rows_max, number),
LATERAL (
    SELECT {COLUMNS} FROM {of_user("asks.tenant_id", "asks.entity_id")}
    WHERE {_UNREAD_OF_AUDIENCES} AND n.seq > ($4::bigint[])[(asks.number - 1) * {LANE_COUNT} + n.lane + 1]
    ORDER BY n.lane, n.seq LIMIT asks.rows_max
) AS owed
ORDER BY asks.number, owed.lane, owed.seq
"""  # noqa: S608 - as above
_OWED_COUNT: Final = f"""
SELECT count(*) FROM (
    SELECT 1 FROM notifications n JOIN unnest($3::smallint[], $4::bigint[]) AS have(lane, seq)
        ON n.lane = have.lane AND n.seq > have.seq
    WHERE n.tenant_id = $1 AND n.entity_id = $2 AND {UNREAD} LIMIT $5
) AS owed
"""  # noqa: S608 - as above
_OWED_COUNT_OF_AUDIENCES: Final = f"""
SELECT count(*) FROM (
    SELECT 1 FROM {of_user("$1", "$2")} JOIN unnest($3::smallint[], $4::bigint[]) AS have(lane, seq)
        ON n.lane = have.lane AND n.seq > have.seq
    WHERE {_UNREAD_OF_AUDIENCES} LIMIT $5
) AS owed
"""  # noqa: S608 - as above


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """`epoch`: of this user (frames.user_epoch). `heads`: the newest seq of each lane (LANE_COUNT numbers, 0 = no
    entries)."""

    epoch: int
    database_ms: int
    counters: Counters
    heads: list[int]

    @property
    def has_audiences(self) -> bool:
        """Whether the tenant ever had a notification to an audience."""
        return any(self.heads[FIRST_LANE:])


@dataclasses.dataclass(slots=True)
class _Owed:
    """One question on its way to its answer. `items_max`: of the answer; `rows`: one more than that, if any."""

    request: FillRequest
    snapshot: Snapshot
    at: list[int]
    recovered: bool
    items_max: int = 0
    rows: Sequence[asyncpg.Record] = ()

    @property
    def is_behind_audiences(self) -> bool:
        return _is_ahead(self.snapshot.heads[FIRST_LANE:], self.at[FIRST_LANE:])


async def fills(pool: Pool, ring: KeyRing, requests: Sequence[FillRequest]) -> list[FillReply | Failure]:
    """Answer questions, in order. Raises database.AWAY in an outage.

    One that breaks the rules is refused and the others are answered; what goes wrong for a reason nobody foresaw is
    looked for by asking one by one, and refused as "busy".
    """
    rules_kept = [_keeps_rules(request) for request in requests]
    good = list(itertools.compress(requests, rules_kept))
    try:
        answers: list[FillReply | Failure] = [*await _answer(pool, ring, good)]
    except AWAY:
        raise
    except Exception:  # whose question it is is not known: each is asked alone
        _log.exception("fills_failed", count=len(good))
        answers = [await _answer_alone(pool, ring, request) for request in good]
    following = iter(answers)
    return [next(following) if kept else Failure("bad_frame") for kept in rules_kept]


async def counters_of(connection: Connection, tenant: str, user: str) -> Counters:
    """The user's counters as the running transaction sees them; it has the user's state locked, or one snapshot."""
    return (await counters_of_users(connection, tenant, [user]))[0]


async def counters_of_users(connection: Connection, tenant: str, users: Sequence[str]) -> list[Counters]:
    """The same of several users of a tenant, in order."""
    snapshots = await snapshots_of(connection, [tenant] * len(users), list(users))
    return [snapshot.counters for snapshot in snapshots]


def _keeps_rules(request: FillRequest) -> bool:
    """The id rules again: a transaction will name this tenant."""
    try:
        check_token(request.tenant, "tenant")
        check_user(request.user)
        if request.cursor is not None:
            check_cursor(request.cursor)
    except InvalidInput:
        _log.warning("fill_refused")
        return False
    return all(-1 <= seq < 2**63 for seq in request.at)


async def _answer_alone(pool: Pool, ring: KeyRing, request: FillRequest) -> FillReply | Failure:
    try:
        return (await _answer(pool, ring, [request]))[0]
    except AWAY:
        raise
    except Exception:  # whatever it is, it is this question's: the others are answered
        _log.exception("fill_failed")
        return Failure("busy")


async def _answer(pool: Pool, ring: KeyRing, requests: Sequence[FillRequest]) -> list[FillReply]:
    if not requests:
        return []
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await show_tenants(connection, {request.tenant for request in requests})
        snapshots = await snapshots_of(
            connection, [request.tenant for request in requests], [request.user for request in requests]
        )
        owed = [
            await _start(connection, request, snapshot)
            for request, snapshot in zip(requests, snapshots, strict=True)
        ]
        await _fetch(connection, [one for one in owed if one.snapshot.counters.unread])
    return await _replies(ring, owed)


async def snapshots_of(connection: Connection, tenants: list[str], users: list[str]) -> list[Snapshot]:
    """One per (tenant, user), in order."""
    found = []
    rows = await connection.fetch(_SNAPSHOTS, tenants, users)
    for row, tenant, user in zip(rows, tenants, users, strict=True):
        heads = [0] * LANE_COUNT
        for lane, seq in row["heads"]:
            heads[lane] = seq
        epoch = user_epoch(row["epoch"], tenant, user)
        found.append(Snapshot(epoch, row["database_ms"], Counters(row["unread"], row["rev"]), heads))
    places = [place for place, snapshot in enumerate(found) if snapshot.has_audiences]
    if places:
        rows = await connection.fetch(
            _AUDIENCE_COUNTERS, [tenants[place] for place in places], [users[place] for place in places]
        )
        for place, row in zip(places, rows, strict=True):
            direct = found[place].counters
            counters = Counters(direct.unread + row["unread"], direct.rev + row["rev"])
            found[place] = dataclasses.replace(found[place], counters=counters)
    return found


async def _start(connection: Connection, request: FillRequest, snapshot: Snapshot) -> _Owed:
    """Where to begin, and whether what the connection claims to have can be honoured."""
    everything = list(LANES_UNKNOWN)
    if not request.first:
        known = len(request.at) == LANE_COUNT and not _is_ahead(request.at, snapshot.heads)
        return _Owed(request, snapshot, list(request.at) if known else everything, known)
    if request.cursor is None:
        return _Owed(request, snapshot, everything, True)
    at = _from_cursor(request.cursor)
    known = request.cursor.epoch == snapshot.epoch and not _is_ahead(at, snapshot.heads)
    if known and snapshot.counters.unread > OWED_ITEMS_MAX:  # only then can so many be owed
        asked = (request.tenant, request.user, list(range(LANE_COUNT)), at, OWED_ITEMS_MAX + 1)
        count = await connection.fetchval(_OWED_COUNT, *asked)
        if snapshot.has_audiences:
            count += await connection.fetchval(_OWED_COUNT_OF_AUDIENCES, *asked)
        known = count <= OWED_ITEMS_MAX
    return _Owed(request, snapshot, at if known else everything, known)


async def _fetch(connection: Connection, owed: Sequence[_Owed]) -> None:
    """The rows of those who may be owed some: as many as each one's limit and the rest of FILLS_ITEMS_MAX allow."""
    if not owed:
        return
    left = FILLS_ITEMS_MAX
    for one in owed:
        one.items_max = max(0, min(one.request.limit, FILL_ITEMS_MAX, one.snapshot.counters.unread, left))
        left -= one.items_max
    await _fetch_rows(connection, _OWED, owed)
    # Their lanes come after all others.
    await _fetch_rows(connection, _OWED_OF_AUDIENCES, [one for one in owed if one.is_behind_audiences])


async def _fetch_rows(connection: Connection, statement: str, owed: Sequence[_Owed]) -> None:
    if not owed:
        return
    rows = await connection.fetch(
        statement,
        [one.request.tenant for one in owed],
        [one.request.user for one in owed],
        [one.items_max + 1 for one in owed],
        [seq for one in owed for seq in one.at],
    )
    for number, group in itertools.groupby(rows, key=operator.itemgetter("number")):
        one = owed[number - 1]
        one.rows = [*one.rows, *group][: one.items_max + 1]


async def _replies(ring: KeyRing, owed: Sequence[_Owed]) -> list[FillReply]:
    wanted = [row for one in owed for row in one.rows[: one.items_max]]
    opened = iter(await open_rows(ring, wanted) if wanted else ())
    left_bytes = FILL_BYTES_MAX
    replies = []
    for one in owed:
        items, cut, used_bytes = items_of([next(opened) for _ in one.rows[: one.items_max]], left_bytes)
        left_bytes -= used_bytes
        replies.append(
            FillReply(
                epoch=one.snapshot.epoch,
                recovered=one.recovered,
                items=items,
                at=complete_up_to(one.at, one.snapshot.heads, one.rows, cut),
                more=cut < len(one.rows),
                counters=one.snapshot.counters,
                database_ms=one.snapshot.database_ms,
            )
        )
    return replies


def _from_cursor(cursor: Cursor) -> list[int]:
    """A lane that the cursor does not name had no entries when it was given out."""
    at = [0] * LANE_COUNT
    for name, seq in cursor.at.items():
        at[LANE_BY_NAME[name]] = seq
    return at


def _is_ahead(at: Sequence[int], heads: Sequence[int]) -> bool:
    return any(have > head for have, head in zip(at, heads, strict=True))


def items_of(found: Sequence[StoredNotification | None], bytes_max: int) -> tuple[list[FillItem], int, int]:
    """The items of the first rows that fit `bytes_max`, how many rows those are, and their bytes."""
    items: list[FillItem] = []
    size_bytes = 0
    for number, notification in enumerate(found):
        if notification is None:
            continue  # its key is destroyed: it fills as nothing
        body = encode_body(notification)
        if size_bytes + len(body) > bytes_max:
            return items, number, size_bytes
        size_bytes += len(body)
        items.append(
            FillItem(
                notification.lane, notification.seq, notification.prev, notification.expiry_ms,
                notification.id.bytes, body,
            )
        )  # fmt: skip
    return items, len(found), size_bytes


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
