"""Keeps the keys of issuers that publish them: fetches each JWKS when it is due, or when a gateway misses a kid.

The rows of jwks_issuers say who tried when, so that all inbox processes together ask an issuer at most once per
JWKS_COOLDOWN_S. The keys are in issuer_keys: the last copy serves, restarts included, while an issuer is away.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

import structlog

from notification import telemetry
from notification.errors import CryptoError
from notification.limits import (
    JWKS_COOLDOWN_S,
    JWKS_FETCHES_COUNT_MAX,
    JWKS_MISSING_COUNT_MAX,
    JWKS_POLL_MS,
    JWKS_REFRESH_S,
)
from worker.database import AWAY, Pool, show_tenants, tenant_ids, tenant_transaction
from worker.jwks import JwksKey
from worker.jwks_client import FetchFailed
from worker.keys import open_issuer_key, seal_issuer_key
from worker.outage import origin

_log = structlog.get_logger("issuers")

# $1 cooldown, $2 refresh (seconds), $3 wanted, $4 how many. Whoever sets tried_at fetches.
_CLAIM: Final = """
UPDATE jwks_issuers SET tried_at = now() WHERE issuer IN (
    SELECT issuer FROM jwks_issuers
    WHERE (tried_at IS NULL OR tried_at < now() - $1 * interval '1 s')
      AND (fetched_at IS NULL OR fetched_at < now() - $2 * interval '1 s' OR issuer = ANY ($3))
    ORDER BY tried_at NULLS FIRST LIMIT $4 FOR UPDATE SKIP LOCKED)
RETURNING tenant_id, issuer, audience, jwks_url
"""
_KEYS: Final = "SELECT kid, algorithm, sealed_key, audience, fetched FROM issuer_keys WHERE issuer = $1"
_FORGET: Final = "DELETE FROM issuer_keys WHERE issuer = $1 AND fetched AND kid = ANY ($2)"
# A kid that is pinned, here or by another tenant, stays as it is.
_KEEP: Final = (
    "INSERT INTO issuer_keys (tenant_id, issuer, audience, kid, algorithm, sealed_key, fetched) "
    "VALUES ($1, $2, $3, $4, $5, $6, true) ON CONFLICT DO NOTHING"
)
_FETCHED: Final = "UPDATE jwks_issuers SET fetched_at = now() WHERE issuer = $1"


class Issuer(NamedTuple):
    """A row of jwks_issuers."""

    tenant: str
    issuer: str
    audience: str
    url: str


class Client(Protocol):
    """worker.jwks_client.JwksClient."""

    async def fetch(self, url: str) -> list[JwksKey]: ...


class Issuers:
    """Of one inbox process."""

    def __init__(self, master: bytes, pool: Pool, client: Client) -> None:
        self._master = master
        self._pool = pool
        self._client = client
        self._wanted: set[str] = set()
        self._wake = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    def want(self, issuers: Iterable[str]) -> None:
        """A gateway misses keys of these: fetch them as soon as the cooldown lets us."""
        for issuer in issuers:
            if len(self._wanted) < JWKS_MISSING_COUNT_MAX:
                self._wanted.add(issuer)
        self._wake.set()

    async def run(self) -> None:
        """Run for ever."""
        try:
            while True:
                self._wake.clear()
                try:
                    for issuer in await self._claim(JWKS_FETCHES_COUNT_MAX - len(self._running)):
                        self._spawn(issuer)
                except Exception as error:  # whatever it is: keys that were fetched count on
                    _log.warning("issuers_not_read", error=origin(error))
                await self._pause()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(JWKS_POLL_MS / 1000):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _claim(self, count: int) -> list[Issuer]:
        if count <= 0:
            return []
        wanted, self._wanted = sorted(self._wanted), set()
        async with self._pool.acquire() as connection, connection.transaction():
            await show_tenants(connection, await tenant_ids(connection))
            rows = await connection.fetch(_CLAIM, JWKS_COOLDOWN_S, JWKS_REFRESH_S, wanted, count)
        return [Issuer(row["tenant_id"], row["issuer"], row["audience"], row["jwks_url"]) for row in rows]

    def _spawn(self, issuer: Issuer) -> None:
        task = asyncio.create_task(self._refresh(issuer))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("issuer_not_refreshed", error=origin(error), exc_info=error)

    async def _refresh(self, issuer: Issuer) -> None:
        try:
            keys = await self._client.fetch(issuer.url)
            await self._keep(issuer, keys)
        except FetchFailed as error:
            telemetry.JWKS_FETCHES.labels("failed").inc()
            _log.warning("jwks_not_fetched", tenant=issuer.tenant, issuer=issuer.issuer, error=str(error))
        except AWAY as error:
            _log.warning("jwks_not_kept", tenant=issuer.tenant, issuer=issuer.issuer, error=origin(error))
        else:
            telemetry.JWKS_FETCHES.labels("ok").inc()
            if not keys:
                _log.warning("jwks_without_a_key", tenant=issuer.tenant, issuer=issuer.issuer)

    async def _keep(self, issuer: Issuer, keys: list[JwksKey]) -> None:
        """Bring issuer_keys in line; a set that did not change leaves them, and the edge version, alone."""
        async with tenant_transaction(self._pool, [issuer.tenant]) as connection:
            rows = await connection.fetch(_KEYS, issuer.issuer)
            pinned = {row["kid"] for row in rows if not row["fetched"]}
            known = {
                JwksKey(row["kid"], row["algorithm"], self._open(issuer, row["kid"], row["sealed_key"]))
                for row in rows if row["fetched"] and row["audience"] == issuer.audience
            }  # fmt: skip
            fresh = [key for key in keys if key not in known and key.kid not in pinned]
            gone = {row["kid"] for row in rows if row["fetched"]} - {key.kid for key in known & set(keys)}
            if gone:
                await connection.execute(_FORGET, issuer.issuer, sorted(gone))
            for key in fresh:
                sealed = seal_issuer_key(self._master, issuer.tenant, issuer.issuer, key.kid, key.pem)
                await connection.execute(
                    _KEEP, issuer.tenant, issuer.issuer, issuer.audience, key.kid, key.algorithm, sealed
                )
            await connection.execute(_FETCHED, issuer.issuer)
        if gone or fresh:
            _log.info(
                "jwks_changed", tenant=issuer.tenant, issuer=issuer.issuer, added=len(fresh), removed=len(gone)
            )

    def _open(self, issuer: Issuer, kid: str, sealed: bytes) -> bytes:
        """The PEM; nothing where it does not open: it is then sealed anew."""
        try:
            return open_issuer_key(self._master, issuer.tenant, issuer.issuer, kid, sealed)
        except CryptoError:
            return b""
