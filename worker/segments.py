"""Segments: named lists of a tenant's users, kept with the version in which each member came and went."""

import dataclasses
import datetime
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import asyncpg

from notification.errors import Conflict
from notification.ids import check_token, check_user
from notification.limits import (
    SEGMENT_CHUNK_COUNT,
    SEGMENT_EXPANDED_COUNT_MAX,
    SEGMENT_MEMBERS_COUNT_MAX,
    SEGMENTS_COUNT_MAX,
)
from worker.database import Connection, Pool, tenant_transaction

_COLUMNS: Final = "segment_id, members, version, created_at"
_COUNT: Final = "SELECT count(*) FROM segments WHERE tenant_id = $1 AND deleted_at IS NULL"
_CREATE: Final = f"""
INSERT INTO segments AS s (tenant_id, segment_id) VALUES ($1, $2)
ON CONFLICT (tenant_id, segment_id) DO UPDATE SET deleted_at = NULL, created_at = excluded.created_at
WHERE s.deleted_at IS NOT NULL
RETURNING {_COLUMNS}
"""  # noqa: S608 - columns of ours
_LIST: Final = f"""
SELECT {_COLUMNS} FROM segments WHERE tenant_id = $1 AND deleted_at IS NULL ORDER BY segment_id
"""  # noqa: S608 - as above
_ONE: Final = f"""
SELECT {_COLUMNS} FROM segments WHERE tenant_id = $1 AND segment_id = $2 AND deleted_at IS NULL
"""  # noqa: S608 - as above
_LOCK: Final = f"{_ONE} FOR UPDATE"
_CHANGED: Final = f"""
UPDATE segments SET version = version + 1, members = $3 WHERE tenant_id = $1 AND segment_id = $2
RETURNING {_COLUMNS}
"""  # noqa: S608 - as above
_DELETE: Final = "UPDATE segments SET deleted_at = clock_timestamp() WHERE tenant_id = $1 AND segment_id = $2"
_ADD: Final = """
INSERT INTO segment_members (tenant_id, segment_id, entity_id, added_version)
SELECT $1, $2, entity_id, $4 FROM unnest($3::text[]) AS u (entity_id)
ON CONFLICT (tenant_id, segment_id, entity_id) WHERE removed_version IS NULL DO NOTHING
"""
_REMOVE: Final = """
UPDATE segment_members SET removed_version = $4
WHERE tenant_id = $1 AND segment_id = $2 AND entity_id = ANY($3) AND removed_version IS NULL
"""
_MEMBERS: Final = """
SELECT entity_id, added_version FROM segment_members
WHERE tenant_id = $1 AND segment_id = $2 AND removed_version IS NULL AND entity_id > $3
ORDER BY entity_id LIMIT $4
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A row of `segments`; `members` is how many there are now."""

    segment: str
    members: int
    version: int
    created_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A member and the version of the segment that added it."""

    user: str
    added_version: int


Told = Callable[[int], None]  # how many users of a change were written by now


class Segments:
    """Role admin's hands on segments. Methods raise InvalidInput for a caller's mistake (Conflict: there is no such
    segment, or one too many of something), database.AWAY in an outage."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, tenant: str, segment: str) -> Segment:
        """An empty segment. One of this name that was deleted begins anew, with a higher version."""
        _check(tenant, segment)
        async with tenant_transaction(self._pool, [tenant]) as connection:
            if await connection.fetchval(_COUNT, tenant) >= SEGMENTS_COUNT_MAX:
                raise Conflict("tenant", f"{tenant} has {SEGMENTS_COUNT_MAX} segments already; delete one first")
            try:
                row = await connection.fetchrow(_CREATE, tenant, segment)
            except asyncpg.ForeignKeyViolationError as error:
                raise Conflict("tenant", f"{tenant} does not exist") from error
        if row is None:
            raise Conflict("segment", f"{segment} exists already")
        return _segment(row)

    async def all(self, tenant: str) -> list[Segment]:
        """The tenant's segments, by id."""
        check_token(tenant, "tenant")
        async with tenant_transaction(self._pool, [tenant]) as connection:
            return [_segment(row) for row in await connection.fetch(_LIST, tenant)]

    async def members(self, tenant: str, segment: str) -> AsyncIterator[Member]:
        """Every member by user id, read in steps of SEGMENT_CHUNK_COUNT, each as it is at that moment."""
        after: str | None = ""
        while after is not None:
            async with tenant_transaction(self._pool, [tenant]) as connection:
                await _find(connection, tenant, segment)
                rows = await connection.fetch(_MEMBERS, tenant, segment, after, SEGMENT_CHUNK_COUNT)
            for row in rows:
                yield Member(row["entity_id"], row["added_version"])
            after = rows[-1]["entity_id"] if len(rows) == SEGMENT_CHUNK_COUNT else None

    async def expand(self, tenant: str, segment: str) -> list[str] | None:
        """The users of a segment that is small enough to be sent to one by one, at one version of it; None: it is
        larger, an audience of its own."""
        async with tenant_transaction(self._pool, [tenant]) as connection:
            found = await _find(connection, tenant, segment, lock=True)
            if found.members > SEGMENT_EXPANDED_COUNT_MAX:
                return None
            rows = await connection.fetch(_MEMBERS, tenant, segment, "", SEGMENT_EXPANDED_COUNT_MAX)
        return [row["entity_id"] for row in rows]

    async def add(
        self, tenant: str, segment: str, users: Sequence[str], told: Told = lambda count: None
    ) -> tuple[Segment, int]:
        """Make `users` members, all or none; returns the segment and how many were none before."""
        return await self._change(_ADD, tenant, segment, users, told)

    async def remove(
        self, tenant: str, segment: str, users: Sequence[str], told: Told = lambda count: None
    ) -> tuple[Segment, int]:
        """End the membership of `users`, all or none; returns the segment and how many were members."""
        return await self._change(_REMOVE, tenant, segment, users, told)

    async def delete(self, tenant: str, segment: str) -> None:
        """End the segment and every membership of it."""
        _check(tenant, segment)
        async with tenant_transaction(self._pool, [tenant]) as connection:
            found = await _find(connection, tenant, segment, lock=True)
            after = ""
            while rows := await connection.fetch(_MEMBERS, tenant, segment, after, SEGMENT_CHUNK_COUNT):
                after = rows[-1]["entity_id"]
                users = [row["entity_id"] for row in rows]
                await connection.execute(_REMOVE, tenant, segment, users, found.version + 1)
            await connection.fetchrow(_CHANGED, tenant, segment, 0)
            await connection.execute(_DELETE, tenant, segment)

    async def _change(
        self, statement: str, tenant: str, segment: str, users: Sequence[str], told: Told
    ) -> tuple[Segment, int]:
        _check(tenant, segment)
        for user in users:
            check_user(user, "user")
        changed = 0
        async with tenant_transaction(self._pool, [tenant]) as connection:
            found = await _find(connection, tenant, segment, lock=True)
            for start in range(0, len(users), SEGMENT_CHUNK_COUNT):
                chunk = users[start : start + SEGMENT_CHUNK_COUNT]
                tag = await connection.execute(statement, tenant, segment, chunk, found.version + 1)
                changed += int(tag.rpartition(" ")[2])
                told(start + len(chunk))
            if not changed:
                return found, 0
            members = found.members + (changed if statement is _ADD else -changed)
            if members > SEGMENT_MEMBERS_COUNT_MAX:
                raise Conflict("segment", f"{segment} would have {members} members of {SEGMENT_MEMBERS_COUNT_MAX}")
            row = await connection.fetchrow(_CHANGED, tenant, segment, members)
        assert row is not None
        return _segment(row), changed


def _check(tenant: str, segment: str) -> None:
    check_token(tenant, "tenant")
    check_token(segment, "segment")


async def _find(connection: Connection, tenant: str, segment: str, lock: bool = False) -> Segment:
    row = await connection.fetchrow(_LOCK if lock else _ONE, tenant, segment)
    if row is None:
        raise Conflict("segment", f"{segment} does not exist")
    return _segment(row)


def _segment(row: asyncpg.Record) -> Segment:
    return Segment(row["segment_id"], row["members"], row["version"], row["created_at"])
