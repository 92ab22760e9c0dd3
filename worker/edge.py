"""The edge snapshot: what gateways must know of tenants to let their clients in, versioned."""

from typing import Final

import structlog

from notification.errors import CryptoError
from notification.messages import EdgeKey, EdgeReply, EdgeRequest, EdgeTenant
from worker.database import Connection, Pool, show_tenants, tenant_ids
from worker.keys import open_issuer_key

_log = structlog.get_logger("edge")

_STATE: Final = "SELECT edge_version, epoch FROM log_state"
_TENANTS: Final = "SELECT tenant_id, status, origins FROM tenants ORDER BY tenant_id"
_KEYS: Final = (
    "SELECT tenant_id, issuer, audience, kid, algorithm, sealed_key FROM issuer_keys "
    "ORDER BY tenant_id, issuer, kid"
)


class Edge:
    """Answers EdgeRequest; keeps the snapshot of the newest version it has seen."""

    def __init__(self, master: bytes, pool: Pool) -> None:
        self._master = master
        self._pool = pool
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
            version, epoch = state["edge_version"], state["epoch"]
            if version == request.have:
                return EdgeReply(version, epoch, None)
            tenants = self._tenants
            if version != self._version:
                tenants = await self._read(connection)
        self._version, self._tenants = version, tenants
        return EdgeReply(version, epoch, tenants)

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
        return [
            EdgeTenant(row["tenant_id"], row["status"], list(row["origins"]), keys.get(row["tenant_id"], []))
            for row in await connection.fetch(_TENANTS)
        ]
