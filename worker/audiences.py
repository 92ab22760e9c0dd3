"""Notifications to an audience, a whole tenant or a segment of it: one row each, whoever many they are for.

Who gets it is decided by the row: everybody of the tenant, whenever they first come, or who was a member at the
segment's version of the moment it was stored. Whether they want it, their preferences say when they ask. What a
user does to it (an ack, a mark) makes a row of `audience_state`; before that there is nothing per user.

The lanes' heads, the rev that is part of every user's, and the key of the payloads belong to the pseudo-user
ids.TENANT, so `seq` counts per (tenant, lane) over all audiences.
"""

import datetime
import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from notification.codes import LANE_COUNT, Lane
from notification.ids import SEGMENT_PREFIX, TENANT
from worker.admission import Admitted, Reason, Rejection
from worker.database import Connection
from worker.partitions import day_of
from worker.preferences import MANDATORY

FIRST_LANE: Final = int(Lane.AUDIENCE_HIGH)
UNKNOWN_SEGMENT: Final = Rejection(
    Reason.UNKNOWN_SEGMENT, "segment_id: is not a segment of this tenant; create it, then send again"
)

_VERSIONS: Final = f"""
SELECT s.tenant_id, '{SEGMENT_PREFIX}' || s.segment_id AS entity_id, s.version FROM segments s
JOIN unnest($1::text[], $2::text[]) AS w (tenant_id, segment_id) USING (tenant_id, segment_id)
WHERE s.deleted_at IS NULL
"""  # noqa: S608 - constants of ours
_COMPLETE: Final = """
UPDATE notifications n SET segment_version = w.segment_version, topic = w.topic
FROM (
    SELECT * FROM unnest($1::date[], $2::text[], $3::uuid[], $4::text[], $5::bigint[], $6::text[])
        AS w (day, tenant_id, notification_id, entity_id, segment_version, topic)
    LIMIT cardinality($1)
) AS w
WHERE (n.day, n.tenant_id, n.notification_id, n.entity_id)
    = (w.day, w.tenant_id, w.notification_id, w.entity_id)
"""
# Rows come from the audiences of the user, so that its cost is theirs, whatever else the tenant sends.
_OF_USER: Final = """
(
    SELECT '{everybody}' AS entity_id, 0 AS since, NULL::bigint AS until
    UNION ALL
    SELECT '{prefix}' || m.segment_id, m.added_version, m.removed_version FROM segment_members m
    WHERE m.tenant_id = {tenant} AND m.entity_id = {user}
) AS a
JOIN notifications n ON n.tenant_id = {tenant} AND n.entity_id = a.entity_id
    AND (n.segment_version IS NULL
         OR n.segment_version >= a.since AND (a.until IS NULL OR n.segment_version < a.until))
LEFT JOIN user_state u ON u.tenant_id = {tenant} AND u.entity_id = {user}
LEFT JOIN audience_state s ON s.day = n.day AND s.tenant_id = {tenant}
    AND s.notification_id = n.notification_id AND s.entity_id = {user}
"""
# Of a row of of_user: preferences.Preferences.wants in SQL.
WANTED: Final = f"""(
    n.type = '{MANDATORY}'
    OR coalesce(
        (u.preferences->'topics'->>n.topic)::boolean, (u.preferences->'types'->>n.type)::boolean, true
    )
)"""
# Of a row `n` of notifications in a lane of audiences and a user `w`.
IS_MEMBER: Final = f"""(
    n.segment_version IS NULL OR EXISTS (
        SELECT FROM segment_members m
        WHERE m.tenant_id = n.tenant_id AND m.segment_id = substr(n.entity_id, {len(SEGMENT_PREFIX) + 1})
          AND m.entity_id = w.entity_id AND m.added_version <= n.segment_version
          AND (m.removed_version IS NULL OR n.segment_version < m.removed_version)
    )
)"""
_HEADS: Final = f"""
SELECT tenant_id, lane, seq FROM lane_heads WHERE tenant_id = ANY($1) AND entity_id = '{TENANT}'
"""  # noqa: S608 - as above
# The ids that an ack or a mark names, as far as they are of audiences that the user belongs to.
_OPEN_STATES: Final = f"""
WITH found AS MATERIALIZED (
    SELECT DISTINCT n.day, n.tenant_id, n.notification_id, w.entity_id
    FROM unnest($1::date[], $2::text[], $3::uuid[], $4::text[]) AS w (day, tenant_id, notification_id, entity_id),
    LATERAL (
        SELECT * FROM notifications n
        WHERE (n.day, n.tenant_id, n.notification_id) = (w.day, w.tenant_id, w.notification_id)
        OFFSET 0
    ) AS n
    WHERE n.lane >= {FIRST_LANE} AND {IS_MEMBER}
), made AS (
    INSERT INTO audience_state (day, tenant_id, notification_id, entity_id)
    SELECT * FROM found ORDER BY day, tenant_id, notification_id, entity_id
    ON CONFLICT DO NOTHING
)
SELECT notification_id FROM found
"""  # noqa: S608 - as above


def of_user(tenant: str, user: str) -> str:
    """What stands behind FROM: the notifications `n` to audiences of a user (`tenant` and `user` are SQL), with the
    user's own `s` of audience_state and `u` of user_state, which may be NULL."""
    return _OF_USER.format(everybody=TENANT, prefix=SEGMENT_PREFIX, tenant=tenant, user=user)


def is_everyones(audience: str, kind: str) -> bool:
    """Whether nobody of the tenant is left out, so that nobody need be asked for."""
    return audience == TENANT and kind == MANDATORY


async def heads_of(connection: Connection, tenants: Collection[str]) -> dict[str, list[int]]:
    """The newest seq of each audience lane of these tenants (0 = no entries)."""
    heads = {tenant: [0] * (LANE_COUNT - FIRST_LANE) for tenant in tenants}
    for row in await connection.fetch(_HEADS, list(tenants)):
        heads[row["tenant_id"]][row["lane"] - FIRST_LANE] = row["seq"]
    return heads


async def segment_versions(
    connection: Connection, events: Iterable[Admitted]
) -> tuple[dict[tuple[str, str], int], list[Admitted]]:
    """The version of each segment that an event goes to, by (tenant, audience), and the events to none that is."""
    to_segments = [event for event in events if event.audience not in (None, TENANT)]
    if not to_segments:
        return {}, []
    wanted = sorted({(event.tenant, event.entity.removeprefix(SEGMENT_PREFIX)) for event in to_segments})
    rows = await connection.fetch(_VERSIONS, [tenant for tenant, _ in wanted], [segment for _, segment in wanted])
    versions = {(row["tenant_id"], row["entity_id"]): row["version"] for row in rows}
    return versions, [event for event in to_segments if (event.tenant, event.entity) not in versions]


async def complete(
    connection: Connection, events: Iterable[Admitted], versions: dict[tuple[str, str], int]
) -> None:
    """Note in the rows just stored what only audiences have: the segment's version and the topic."""
    rows = [
        (day_of(event.id), event.tenant, event.id, event.entity, versions.get((event.tenant, event.entity)),
         event.topic)
        for event in events if event.audience is not None
    ]  # fmt: skip
    if rows:
        await connection.execute(_COMPLETE, *(list(column) for column in zip(*rows, strict=True)))


async def open_states(connection: Connection, asked: Sequence[tuple[str, uuid.UUID, str]]) -> list[uuid.UUID]:
    """Make sure that each (tenant, id, user) has its row of audience_state if the user gets the notification;
    returns the ids of those."""
    days: list[datetime.date] = [day_of(ident) for _, ident, _ in asked]
    rows = await connection.fetch(
        _OPEN_STATES, days, [tenant for tenant, _, _ in asked], [ident for _, ident, _ in asked],
        [user for _, _, user in asked],
    )  # fmt: skip
    return [row["notification_id"] for row in rows]
