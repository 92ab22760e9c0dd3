"""The edge snapshot, versioned: what gateways must know of tenants and revoked tokens to let their clients in."""

from collections.abc import Callable, Mapping
from typing import Final

import structlog

from notification.errors import CryptoError
from notification.limits import JWKS_MISSING_COUNT_MAX, REVOCATIONS_REPLY_COUNT_MAX
from notification.messages import EdgeKey, EdgeReply, EdgeRequest, EdgeTenant, Revocation
from worker.database import Connection, Pool, show_tenants, tenant_ids
from worker.keys import open_issuer_key

_log = structlog.get_logger("edge")

_STATE: Final = "SELECT edge_version, epoch, revocations_version FROM log_state"
_TENANTS: Final = "SELECT tenant_id, status, origins FROM tenants ORDER BY tenant_id"
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


class Edge:
    """Answers EdgeRequest; keeps the tenants of the newest version it has seen.

    `want` is called with issuers whose keys a gateway misses and that were not fetched since.
    """

    def __init__(self, master: bytes, pool: Pool, want: Callable[[list[str]], None]) -> None:
        self._master = master
        self._pool = pool
        self._want = want
        self._version = -1
        self._tenants: list[EdgeTenant] = []

    async def snapshot(self, request: EdgeRequest) -> EdgeReply:
        """The snapshot, without tenants when the caller has this version. Raises database.AWAY."""
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
            tenants = None
            if version != request.have:
                tenants = self._tenants if version == self._version else await self._read(connection)
        if tenants is not None:
            self._version, self._tenants = version, tenants
        late = [issuer for issuer, fetched in missing.items() if not fetched]
        if late:
            self._want(late)
        fetched = [issuer for issuer, fetched in missing.items() if fetched]
        return EdgeReply(version, state["epoch"], tenants, revocations, numbered, more, fetched)

    async def _read(self, connection: Connection) -> list[EdgeTenant]:
        await show_tenants(connection, await tenant_ids(connection))
        keys: dict[str, list[EdgeKey]] = {}
        for row in await connection.fetch(_KEYS):
            tenant, issuer, kid = row["tenant_id"], row["issuer"], row["kid"]
            try:
                key = open_issuer_key(self._master, tenant, issuer, kid, row["sealed_key"])
            except CryptoError:
                _log.error("issuer_key_does_not_open", tenant=tenant, issuer=issuer)
                continue
            keys.setdefault(tenant, []).append(EdgeKey(issuer, row["audience"], kid, row["algorithm"], key))
        issuers: dict[str, list[str]] = {}
        for row in await connection.fetch(_JWKS_ISSUERS):
            issuers.setdefault(row["tenant_id"], []).append(row["issuer"])
        return [
            EdgeTenant(
                row["tenant_id"], row["status"], list(row["origins"]),
                keys.get(row["tenant_id"], []), issuers.get(row["tenant_id"], []),
            )
            for row in await connection.fetch(_TENANTS)
        ]  # fmt: skip


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
