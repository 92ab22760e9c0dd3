"""What an operator does to Herald: tenants, revocations, recalls, segments, a notification's story. The CLI calls
this."""

import asyncio
import dataclasses
import datetime
import uuid
from collections.abc import Sequence
from typing import Final, Self

import asyncpg
import msgspec

from notification import messages
from notification.bus import Bus
from notification.errors import BusError, Conflict, InvalidInput, NoResponders, Unavailable
from notification.ids import check_token, check_user
from notification.limits import (
    INBOX_DEADLINE_MS,
    JTI_BYTES_MAX,
    REVOCATION_S_DEFAULT,
    REVOCATIONS_COUNT_MAX,
    TENANT_TITLE_CHARS_MAX,
)
from notification.messages import JTI, TENANT, USER, EdgeKey, RecallReply, RecallRequest
from notification.names import INBOX_RECALL
from notification.settings import Settings
from worker.audiences import FIRST_LANE
from worker.database import Pool, connect_pool, show_tenants, tenant_ids, tenant_transaction
from worker.jwks import check_url
from worker.keys import (
    FIRST_VERSION,
    letter_keys,
    master_key,
    new_tenant_key,
    open_tenant_keys,
    seal_issuer_key,
)
from worker.partitions import day_of
from worker.preferences import Preferences, preferences_of, set_topic, set_type
from worker.segments import Segments

ALGORITHMS: Final = ("HS256", "RS256", "ES256", "EdDSA")
_RECALL_WAIT_S: Final = 2 * INBOX_DEADLINE_MS / 1_000  # role inbox answers within half of it

_NEW_TENANT: Final = (
    "INSERT INTO tenants (tenant_id, tenant_name, origins, wrapped_key, key_version) VALUES ($1, $2, $3, $4, $5)"
)
_NEW_KEY: Final = (
    "INSERT INTO issuer_keys (tenant_id, issuer, audience, kid, algorithm, sealed_key) "
    "VALUES ($1, $2, $3, $4, $5, $6)"
)
_NEW_PUBLISHER: Final = "INSERT INTO jwks_issuers (tenant_id, issuer, audience, jwks_url) VALUES ($1, $2, $3, $4)"
_TENANTS: Final = "SELECT tenant_id, tenant_name, status, origins, created_at FROM tenants ORDER BY tenant_id"
_EXPIRED: Final = "DELETE FROM revocations WHERE tenant_id = $1 AND expires_at <= now()"
_OTHERS: Final = "SELECT count(*) FROM revocations WHERE tenant_id = $1 AND (kind, value) <> ($2, $3)"
# A token's iat has whole seconds, so of the running second none counts any more; `wait_s` is the rest of it.
_REVOKE: Final = """
INSERT INTO revocations (tenant_id, kind, value, not_before, revoked_at, expires_at)
SELECT $1, $2, $3, date_trunc('second', now) + interval '1 s', now, now + $4 * interval '1 s'
FROM clock_timestamp() AS now
ON CONFLICT (tenant_id, kind, value) DO UPDATE
SET not_before = excluded.not_before, revoked_at = excluded.revoked_at,
    expires_at = greatest(revocations.expires_at, excluded.expires_at)
RETURNING not_before, revoked_at, expires_at, extract(epoch FROM not_before - clock_timestamp())::float8 AS wait_s
"""
_NOTIFICATIONS: Final = f"""
SELECT entity_id, type, priority, status, status_code, attempt, sent_at, expiry, seen_at, read_at, archived_at,
       recalled_at, states.*
FROM notifications n LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE s.rank >= 3) AS delivered_users, count(*) FILTER (WHERE s.rank = 4) AS read_users
    FROM audience_state s WHERE s.tenant_id = $1 AND s.notification_id = $2 AND s.day = $3
) AS states ON n.lane >= {FIRST_LANE}
WHERE n.tenant_id = $1 AND n.notification_id = $2 AND n.day = $3 ORDER BY entity_id
"""  # noqa: S608 - a constant of ours
# Of an audience's, each user has a history as well.
_HISTORY: Final = """
SELECT entity_id, status, status_code, timestamp
FROM notification_history WHERE tenant_id = $1 AND notification_id = $2 AND day = $3 AND entity_id = ANY($4)
ORDER BY history_id
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Tenant:
    """A row of `tenants`; `status` is "active" or "suspended"."""

    tenant: str
    name: str
    status: str
    origins: list[str]
    created_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Publisher:
    """An issuer that publishes its keys at `jwks_url`, where role inbox fetches them."""

    issuer: str
    audience: str
    jwks_url: str


@dataclasses.dataclass(frozen=True, slots=True)
class Revoked:
    """A row of `revocations`. `kind`: messages.JTI (`value` is the jti), USER (the user) or TENANT ("")."""

    kind: str
    value: str
    not_before: datetime.datetime
    revoked_at: datetime.datetime
    expires_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One transition; `status_code` is a codes.StatusCode, `at` the database's time."""

    status: str
    status_code: int
    at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class NotificationStatus:
    """What became of a notification for one user, or for an audience as a whole; `history` oldest first.

    `delivered_users` and `read_users`: how many of an audience acknowledged and read it; None where it is a user's.
    """

    user: str
    type: str
    priority: int
    status: str
    status_code: int
    attempt: int
    sent_at: datetime.datetime
    expiry: datetime.datetime
    seen_at: datetime.datetime | None
    read_at: datetime.datetime | None
    archived_at: datetime.datetime | None
    recalled_at: datetime.datetime | None
    delivered_users: int | None
    read_users: int | None
    history: list[HistoryEntry]


class Operations:
    """Role admin's hands. Methods raise InvalidInput for a caller's mistake, database.AWAY in an outage."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self.segments = Segments(pool)

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """Connect as role admin. Raises Unavailable, SettingsError."""
        return cls(settings, await connect_pool(settings, "admin"))

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.close()

    async def create_tenant(
        self, tenant: str, name: str, origins: Sequence[str], keys: Sequence[EdgeKey],
        publishers: Sequence[Publisher] = (),
    ) -> None:  # fmt: skip
        """Make a tenant with a key of its own and its issuers' verification keys. Needs the master key.

        `EdgeKey.key` is the HMAC secret or a public key as PEM. Raises InvalidInput: a bad value, a tenant that
        exists, an issuer and kid that are taken.
        """
        for one in publishers:
            check_url(one.jwks_url, self._settings.jwks_plain_loopback)
        check_token(tenant, "tenant")
        if not 1 <= len(name) <= TENANT_TITLE_CHARS_MAX:
            raise InvalidInput("name", f"must be 1 to {TENANT_TITLE_CHARS_MAX} characters")
        for key in keys:
            if key.algorithm not in ALGORITHMS:
                raise InvalidInput("algorithm", "must be one of " + ", ".join(ALGORITHMS))
        master = master_key(self._settings)
        async with tenant_transaction(self._pool, [tenant]) as connection:
            try:
                await connection.execute(
                    _NEW_TENANT, tenant, name, list(origins), new_tenant_key(master, tenant), FIRST_VERSION
                )
            except asyncpg.UniqueViolationError as error:
                raise Conflict("tenant", f"{tenant} exists already") from error
            for key in keys:
                sealed = seal_issuer_key(master, tenant, key.issuer, key.kid, key.key)
                try:
                    await connection.execute(
                        _NEW_KEY, tenant, key.issuer, key.audience, key.kid, key.algorithm, sealed
                    )
                except asyncpg.UniqueViolationError as error:
                    kid = f" with kid {key.kid!r}" if key.kid else ""
                    raise Conflict("issuer", f"{key.issuer}{kid} is taken already") from error
            for one in publishers:
                try:
                    await connection.execute(_NEW_PUBLISHER, tenant, one.issuer, one.audience, one.jwks_url)
                except asyncpg.UniqueViolationError as error:
                    raise Conflict("issuer", f"{one.issuer} is taken already") from error

    async def list_tenants(self) -> list[Tenant]:
        """Every tenant, by id."""
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            await show_tenants(connection, await tenant_ids(connection))
            rows = await connection.fetch(_TENANTS)
        return [
            Tenant(row["tenant_id"], row["tenant_name"], row["status"], list(row["origins"]), row["created_at"])
            for row in rows
        ]

    async def revoke(self, tenant: str, kind: str, value: str, life_s: int = REVOCATION_S_DEFAULT) -> Revoked:
        """Refuse tokens of a tenant, on every gateway process within REVOKED_MS_MAX, for `life_s` (longer than they
        live): one by its jti, or all of a user or of everybody that were issued until now. Returns once a new token
        counts.

        Raises InvalidInput: a bad value, an unknown tenant, REVOCATIONS_COUNT_MAX reached.
        """
        check_token(tenant, "tenant")
        if kind == JTI:
            _check_jti(value)
        elif kind == USER:
            check_user(value, "user")
        elif (kind, value) != (TENANT, ""):
            raise InvalidInput("kind", f"must be {JTI}, {USER} or {TENANT}")
        async with tenant_transaction(self._pool, [tenant]) as connection:
            await connection.execute(_EXPIRED, tenant)
            others = await connection.fetchval(_OTHERS, tenant, kind, value)
            if kind != TENANT and others >= REVOCATIONS_COUNT_MAX:
                raise Conflict("tenant", f"{tenant} has {others} revocations; revoke all of its tokens instead")
            try:
                row = await connection.fetchrow(_REVOKE, tenant, kind, value, life_s)
            except asyncpg.ForeignKeyViolationError as error:
                raise Conflict("tenant", f"{tenant} does not exist") from error
        assert row is not None
        if kind != JTI:
            await asyncio.sleep(row["wait_s"])
        return Revoked(kind, value, row["not_before"], row["revoked_at"], row["expires_at"])

    async def preferences(self, tenant: str, user: str) -> Preferences:
        """What a user has set. Raises InvalidInput: a bad id, an unknown tenant."""
        _check_ids(tenant, user)
        async with tenant_transaction(self._pool, [tenant]) as connection:
            return await preferences_of(connection, tenant, user)

    async def set_preference(
        self, tenant: str, user: str, wanted: bool | None, *, kind: str | None = None, topic: str | None = None
    ) -> Preferences:
        """Turn a type (`kind`) or a topic on or off for a user, or (None) forget what was set; what is stored from
        then on obeys it. Returns all that is set.

        Raises InvalidInput: a bad id, an unknown tenant, a type that always comes, too many topics.
        """
        _check_ids(tenant, user)
        async with tenant_transaction(self._pool, [tenant]) as connection:
            if kind is not None:
                return await set_type(connection, tenant, user, kind, wanted)
            return await set_topic(connection, tenant, user, topic or "", wanted)

    async def letter_key(self, tenant: str) -> bytes | None:
        """What seals the dead letters of a tenant; None where there is none. Needs the master key."""
        master = master_key(self._settings)
        tenant_keys = await open_tenant_keys(master, self._pool, [check_token(tenant, "tenant")])
        return letter_keys(master, tenant_keys).get(tenant)

    async def notification_status(self, tenant: str, ident: uuid.UUID) -> list[NotificationStatus]:
        """Per user, the status and history of a notification; empty when the tenant has none of this id.

        Raises InvalidInput when `tenant` or `ident` (a UUIDv7) breaks the id rules.
        """
        check_token(tenant, "tenant")
        day = day_of(ident)
        history: dict[str, list[HistoryEntry]] = {}
        async with tenant_transaction(self._pool, [tenant]) as connection:
            rows = await connection.fetch(_NOTIFICATIONS, tenant, ident, day)
            for row in await connection.fetch(_HISTORY, tenant, ident, day, [row["entity_id"] for row in rows]):
                entry = HistoryEntry(row["status"], row["status_code"], row["timestamp"])
                history.setdefault(row["entity_id"], []).append(entry)
        return [_status(row, history.get(row["entity_id"], [])) for row in rows]


async def recall(bus: Bus, tenant: str, ident: uuid.UUID, user: str = "") -> tuple[int, bool]:
    """Take a notification back from `user` or ("") from everybody; role inbox does it and tells live devices.

    Returns from how many users (those of an earlier recall left out), and whether the tenant has one of this id.
    Raises Unavailable when role inbox gives no answer: what was taken back until then stays so.
    """
    request = messages.encode(RecallRequest(tenant, ident.bytes, user))
    users, known, more = 0, False, True
    while more:
        try:
            reply = messages.decode_reply(await bus.request(INBOX_RECALL, request, _RECALL_WAIT_S))
        except NoResponders as error:
            raise Unavailable("no worker with role inbox is running") from error
        except (BusError, msgspec.DecodeError) as error:
            raise Unavailable("role inbox did not answer in time; run it again") from error
        if not isinstance(reply, RecallReply):
            raise Unavailable("role inbox is busy, or PostgreSQL is away; run it again")
        users, known, more = users + reply.users, known or reply.known, reply.more
    return users, known


def _check_ids(tenant: str, user: str) -> None:
    """Raises InvalidInput."""
    check_token(tenant, "tenant")
    check_user(user, "user")


def _check_jti(value: str) -> None:
    """Raises InvalidInput."""
    try:
        count = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        count = 0
    if not 1 <= count <= JTI_BYTES_MAX or "\0" in value:
        raise InvalidInput("jti", f"must be 1 to {JTI_BYTES_MAX} bytes of UTF-8")


def _status(row: asyncpg.Record, history: list[HistoryEntry]) -> NotificationStatus:
    return NotificationStatus(
        user=row["entity_id"],
        type=row["type"],
        priority=row["priority"],
        status=row["status"],
        status_code=row["status_code"],
        attempt=row["attempt"],
        sent_at=row["sent_at"],
        expiry=row["expiry"],
        seen_at=row["seen_at"],
        read_at=row["read_at"],
        archived_at=row["archived_at"],
        recalled_at=row["recalled_at"],
        delivered_users=row["delivered_users"],
        read_users=row["read_users"],
        history=history,
    )
