"""The edge snapshot, versioned: what gateways must know of tenants and revoked tokens to let their clients in."""

import bisect
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import asyncpg
import structlog

from notification.errors import CryptoError
from notification.limits import (
    EDGE_PAGE_BYTES_MAX,
    EDGE_PAGE_TENANTS_COUNT_MAX,
    JWKS_MISSING_COUNT_MAX,
    REVOCATIONS_REPLY_COUNT_MAX,
)
from notification.messages import EdgeKey, EdgeReply, EdgeRequest, EdgeTenant, Revocation, encode
from worker.database import Connection, Pool, show_tenants, tenant_ids
from worker.keys import open_issuer_key

_log = structlog.get_logger("edge")

_STATE: Final = "SELECT edge_version, epoch, revocations_version FROM log_state"
_TENANTS: Final = "SELECT tenant_id, status, origins FROM tenants"
_KEYS: Final = (
    "SELECT tenant_id, issuer, audience, kid, algorithm, sealed_key FROM issuer_keys "
    "ORDER BY tenant_id, issuer, kid"
)
_REVOCATIONS: Final = """
SELECT tenant_id, kind, value, version, extract(epoch FROM not_before)::bigint AS not_before_s,
       ceil(extract(epoch FROM expires_at))::bigint AS expires_s
FROM revocations WHERE version > $1 AND expires_at > now() ORDER BY version LIMIT $2
"""


_JWKS_ISSUERS: Final = "SELECT tenant_id, issuer FROM jwks_issuers ORDER BY tenant_id, issuer"
_MISSING: Final = """
SELECT issuer, coalesce(fetched_at >= tried_at AND tried_at > now() - ago_ms * interval '1 ms', false) AS fetched
FROM jwks_issuers JOIN unnest($1::text[], $2::bigint[]) AS missing (issuer, ago_ms) USING (issuer)
"""


class _Page(NamedTuple):
    tenants: list[EdgeTenant]  # by id
    more: bool  # others follow


class Edge:
    """Answers EdgeRequest; keeps the pages of tenants of the version it was asked for last.

    `want` is called with issuers whose keys a gateway misses and that were not fetched since.
    """

    def __init__(self, master: bytes, pool: Pool, want: Callable[[list[str]], None]) -> None:
        self._master = master
        self._pool = pool
        self._want = want
        self._pages_of = (0, -1)  # epoch and version
        self._pages: dict[str, _Page] = {}  # by the tenant they follow

    async def snapshot(self, request: EdgeRequest) -> EdgeReply:
        """A page of the snapshot, without tenants when the caller has this version. Raises database.AWAY."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            state = await connection.fetchrow(_STATE)
            assert state is not None
            version, numbered = state["edge_version"], state["revocations_version"]
            revocations: list[Revocation] = []
            more = False
            if request.revocations_have < numbered:
                revocations, reached, more = await _revocations(connection, request.revocations_have)
                numbered = reached if more else numbered
            missing = await _missing(connection, request.missing)
            page = None
            if version != request.have:
                page = await self._page(connection, (state["epoch"], version), request.after_tenant)
        late = [issuer for issuer, fetched in missing.items() if not fetched]
        if late:
            self._want(late)
        fetched = [issuer for issuer, fetched in missing.items() if fetched]
        return EdgeReply(
            version, state["epoch"], None if page is None else page.tenants, revocations, numbered, more, fetched,
            page is not None and page.more,
        )  # fmt: skip

    async def _page(self, connection: Connection, of: tuple[int, int], after: str) -> _Page:
        """The tenants after `after`; every gateway process asks for the same pages, so they are read once."""
        if self._pages_of != of:
            self._pages_of, self._pages = of, {}
        page = self._pages.get(after)
        if page is None:
            page = await self._read(connection, after)
            follows = any(known.tenants[-1].tenant == after for known in self._pages.values() if known.more)
            if self._pages_of == of and (follows or not after):  # else nobody else will ask for it
                self._pages[after] = page
        return page

    async def _read(self, connection: Connection, after: str) -> _Page:
        every = sorted(await tenant_ids(connection))
        start = bisect.bisect_right(every, after)
        await show_tenants(connection, every[start : start + EDGE_PAGE_TENANTS_COUNT_MAX])
        keys: dict[str, list[asyncpg.Record]] = {}
        for row in await connection.fetch(_KEYS):
            keys.setdefault(row["tenant_id"], []).append(row)
        issuers: dict[str, list[str]] = {}
        for row in await connection.fetch(_JWKS_ISSUERS):
            issuers.setdefault(row["tenant_id"], []).append(row["issuer"])
        tenants: list[EdgeTenant] = []
        bytes_left = EDGE_PAGE_BYTES_MAX
        for row in sorted(await connection.fetch(_TENANTS), key=lambda row: str(row["tenant_id"])):
            name = row["tenant_id"]
            tenant = EdgeTenant(
                name, row["status"], list(row["origins"]), self._opened(keys.get(name, [])), issuers.get(name, [])
            )
            size = len(encode(EdgeReply(0, 0, [tenant])))
            if size > EDGE_PAGE_BYTES_MAX:  # it alone is the worse for it: its live connections stay, none are new
                _log.error("tenant_too_large", tenant=name, keys=len(tenant.keys), bytes=size)
                tenant, size = EdgeTenant(name, row["status"], [], []), 0
            bytes_left -= size
            if bytes_left < 0:
                break
            tenants.append(tenant)
        return _Page(tenants, start + len(tenants) < len(every))

    def _opened(self, rows: list[asyncpg.Record]) -> list[EdgeKey]:
        """A tenant's keys."""
        keys: list[EdgeKey] = []
        for row in rows:
            tenant, issuer, kid = row["tenant_id"], row["issuer"], row["kid"]
            try:
                key = open_issuer_key(self._master, tenant, issuer, kid, row["sealed_key"])
            except CryptoError:
                _log.error("issuer_key_does_not_open", tenant=tenant, issuer=issuer)
                continue
            keys.append(EdgeKey(issuer, row["audience"], kid, row["algorithm"], key))
        return keys


async def _missing(connection: Connection, missing: Mapping[str, int]) -> dict[str, bool]:
    """Of those that publish their keys: was a fetch begun, and did it succeed, since so many ms ago?"""
    if not missing:
        return {}
    await show_tenants(connection, await tenant_ids(connection))
    asked = list(missing.items())[:JWKS_MISSING_COUNT_MAX]
    rows = await connection.fetch(_MISSING, [issuer for issuer, _ in asked], [ago_ms for _, ago_ms in asked])
    return {row["issuer"]: row["fetched"] for row in rows}


async def _revocations(connection: Connection, after: int) -> tuple[list[Revocation], int, bool]:
    """The oldest REVOCATIONS_REPLY_COUNT_MAX above version `after`, the version they reach, are there more."""
    await show_tenants(connection, await tenant_ids(connection))
    rows = await connection.fetch(_REVOCATIONS, after, REVOCATIONS_REPLY_COUNT_MAX + 1)
    found = rows[:REVOCATIONS_REPLY_COUNT_MAX]
    revocations = [
        Revocation(row["tenant_id"], row["kind"], row["value"], row["not_before_s"], row["expires_s"])
        for row in found
    ]
    return revocations, found[-1]["version"] if found else after, len(rows) > len(found)
