"""The operator's commands over worker/operations.py: rows as the CLI prints them, outages as one line.

The import of the worker is lazy on purpose: only a command that needs it loads it.
"""

import asyncio
import contextlib
import os
import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from herald.console import iso_time, quiet_logs
from herald.errors import Failed, server_down
from herald.tokens import secret_name
from notification.errors import InvalidInput
from notification.messages import JTI, EdgeKey
from notification.names import PRIORITIES
from notification.settings import Settings

if TYPE_CHECKING:
    from notification.bus import Bus
    from worker.operations import NotificationStatus, Operations
    from worker.segments import Segment

CONNECT_TIMEOUT_S: Final = 5.0
SECRET_BYTES: Final = 32  # RFC 7518 §3.2: an HS256 key has at least 256 bits
RSA_BITS_MIN: Final = 2_048  # RFC 7518 §3.3


@contextlib.asynccontextmanager
async def _operations(settings: Settings) -> "AsyncIterator[Operations]":
    """Connected as role admin. Raises herald.errors.Failed when PostgreSQL is down or goes away."""
    from worker.database import AWAY
    from worker.operations import Operations

    quiet_logs()
    place = urlsplit(settings.postgres_dsn)
    down = server_down("PostgreSQL", f"{place.hostname}:{place.port or 5432}", "postgres", settings)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            operations = await Operations.connect(settings)
    except AWAY as error:
        raise down from error
    try:
        yield operations
    except AWAY as error:
        raise down from error
    finally:
        await operations.close()


@contextlib.asynccontextmanager
async def _bus(settings: Settings) -> "AsyncIterator[Bus]":
    """Connected to NATS. Raises herald.errors.Failed when it is down or goes away."""
    from notification.bus import NatsBus, without_login

    quiet_logs()
    down = server_down("NATS", without_login(settings.nats_url), "nats", settings)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            bus = await NatsBus.connect(settings.nats_url, "herald-cli")
    except TimeoutError as error:
        raise down from error
    try:
        yield bus
    finally:
        await bus.close()


async def recall(settings: Settings, tenant: str, ident: uuid.UUID, user: str | None) -> dict[str, Any]:
    """Take a notification back, in the shape of docs/cli.md. Raises herald.errors.Failed, Unavailable."""
    from worker import operations

    async with _bus(settings) as bus:
        users, known = await operations.recall(bus, tenant, ident, user or "")
    if not known:
        of_user = "" if user is None else f" for user {user!r}"
        raise Failed(f"tenant {tenant!r} has no notification {ident}{of_user}")
    return {"id": str(ident), "tenant_id": tenant, "user_id": user, "recalled": users}


async def notification_status(settings: Settings, tenant: str, ident: uuid.UUID) -> list[dict[str, Any]]:
    """Per user what became of a notification, in the shape of docs/cli.md."""
    async with _operations(settings) as operations:
        rows = await operations.notification_status(tenant, ident)
    return [_status_row(tenant, ident, row) for row in rows]


def _status_row(tenant: str, ident: uuid.UUID, row: "NotificationStatus") -> dict[str, Any]:
    flags = {
        "seen_at": row.seen_at, "read_at": row.read_at, "archived_at": row.archived_at,
        "recalled_at": row.recalled_at,
    }  # fmt: skip
    return {
        "id": str(ident),
        "tenant_id": tenant,
        "user_id": row.user,
        "type": row.type,
        "priority": PRIORITIES[row.priority],
        "status": row.status,
        "status_code": row.status_code,
        "attempt": row.attempt,
        "sent_at": iso_time(row.sent_at),
        "expires_at": iso_time(row.expiry),
        **{name: None if at is None else iso_time(at) for name, at in flags.items()},
        "delivered_users": row.delivered_users,
        "read_users": row.read_users,
        "history": [
            {"status": entry.status, "status_code": entry.status_code, "at": iso_time(entry.at)}
            for entry in row.history
        ],
    }


async def preferences(settings: Settings, tenant: str, user: str) -> dict[str, Any]:
    """What a user has set, in the shape of docs/cli.md."""
    async with _operations(settings) as operations:
        found = await operations.preferences(tenant, user)
    return {"tenant_id": tenant, "user_id": user, "types": found.types, "topics": found.topics}


async def set_preference(
    settings: Settings, tenant: str, user: str, wanted: bool | None, kind: str | None, topic: str | None
) -> dict[str, Any]:
    """Turn a type or a topic on or off, in the shape of docs/cli.md."""
    async with _operations(settings) as operations:
        found = await operations.set_preference(tenant, user, wanted, kind=kind, topic=topic)
    return {"tenant_id": tenant, "user_id": user, "types": found.types, "topics": found.topics}


async def letter_key(settings: Settings, owner: str) -> bytes | None:
    """What seals the dead letters of a tenant or of the platform; None where there is no such tenant.

    Raises SettingsError, CryptoError (another master key), herald.errors.Failed.
    """
    from worker.database import PLATFORM
    from worker.keys import letter_keys, master_key

    if owner == PLATFORM:
        return letter_keys(master_key(settings), {})[PLATFORM]
    async with _operations(settings) as operations:
        return await operations.letter_key(owner)


async def list_tenants(settings: Settings) -> list[dict[str, Any]]:
    """Every tenant, in the shape of docs/cli.md."""
    async with _operations(settings) as operations:
        rows = await operations.list_tenants()
    return [
        {
            "tenant_id": row.tenant, "title": row.name, "status": row.status, "origins": row.origins,
            "created_at": iso_time(row.created_at),
        }
        for row in rows
    ]  # fmt: skip


async def revoke(settings: Settings, tenant: str, kind: str, value: str, life_s: int) -> dict[str, Any]:
    """Refuse tokens from now on, in the shape of docs/cli.md."""
    async with _operations(settings) as operations:
        row = await operations.revoke(tenant, kind, value, life_s)
    return {
        "tenant_id": tenant, "kind": row.kind, "value": row.value or None,
        "issued_before": None if row.kind == JTI else iso_time(row.not_before),
        "revoked_at": iso_time(row.revoked_at), "expires_at": iso_time(row.expires_at),
    }  # fmt: skip


async def create_segment(settings: Settings, tenant: str, segment: str) -> dict[str, Any]:
    """An empty segment, in the shape of docs/cli.md."""
    async with _operations(settings) as operations:
        return _segment_row(tenant, await operations.segments.create(tenant, segment))


async def delete_segment(settings: Settings, tenant: str, segment: str) -> None:
    """End a segment and its memberships."""
    async with _operations(settings) as operations:
        await operations.segments.delete(tenant, segment)


async def list_segments(settings: Settings, tenant: str) -> list[dict[str, Any]]:
    """A tenant's segments, in the shape of docs/cli.md."""
    async with _operations(settings) as operations:
        return [_segment_row(tenant, row) for row in await operations.segments.all(tenant)]


async def show_segment(
    settings: Settings, tenant: str, segment: str, show: Callable[[dict[str, Any]], None]
) -> None:
    """Hand each member to `show`, in the shape of docs/cli.md, as they are read."""
    async with _operations(settings) as operations:
        async for member in operations.segments.members(tenant, segment):
            show(
                {
                    "tenant_id": tenant, "segment_id": segment, "user_id": member.user,
                    "added_version": member.added_version,
                }
            )  # fmt: skip


async def change_segment(
    settings: Settings, tenant: str, segment: str, users: list[str], add: bool, told: Callable[[int], None]
) -> dict[str, Any]:
    """Add or remove members, in the shape of docs/cli.md; `told` hears how many of `users` were written by now."""
    async with _operations(settings) as operations:
        change = operations.segments.add if add else operations.segments.remove
        row, changed = await change(tenant, segment, users, told)
    return {**_segment_row(tenant, row), "changed": changed}


async def expand_segment(settings: Settings, tenant: str, segment: str) -> list[str] | None:
    """The members of a segment that is small enough to be sent to one by one; None: it is larger."""
    async with _operations(settings) as operations:
        return await operations.segments.expand(tenant, segment)


def _segment_row(tenant: str, row: "Segment") -> dict[str, Any]:
    return {
        "tenant_id": tenant, "segment_id": row.segment, "members": row.members, "version": row.version,
        "created_at": iso_time(row.created_at),
    }  # fmt: skip


async def create_tenant(
    settings: Settings, tenant: str, title: str, origins: list[str], key: EdgeKey
) -> dict[str, Any]:
    """Make a tenant whose tokens `key` checks; when its bytes are empty, an HS256 secret file is made.

    Raises InvalidInput, SettingsError, herald.errors.Failed.
    """
    file: Path | None = None
    made = False
    if not key.key:
        file = settings.secrets_path / secret_name(tenant)
        made = _make_secret(file)
        key = EdgeKey(key.issuer, key.audience, key.kid, "HS256", settings.secret(file.name))
    try:
        async with _operations(settings) as operations:
            await operations.create_tenant(tenant, title, origins, [key])
    except BaseException:
        if made and file is not None:
            file.unlink()  # a secret that checks nothing would mislead
        raise
    return {
        "tenant_id": tenant, "title": title, "origins": origins, "issuer": key.issuer, "audience": key.audience,
        "kid": key.kid, "algorithm": key.algorithm, "jwks_url": None,
        "secret_file": None if file is None else str(file),
    }  # fmt: skip


async def create_published_tenant(
    settings: Settings, tenant: str, title: str, origins: list[str], issuer: str, audience: str, jwks_url: str
) -> dict[str, Any]:
    """Make a tenant whose issuer publishes its keys. Raises InvalidInput, SettingsError, herald.errors.Failed."""
    from worker.jwks import check_url
    from worker.operations import Publisher

    try:
        check_url(jwks_url, settings.jwks_plain_loopback)
    except InvalidInput as error:
        raise InvalidInput("--jwks-url", error.rule) from error
    async with _operations(settings) as operations:
        await operations.create_tenant(tenant, title, origins, [], [Publisher(issuer, audience, jwks_url)])
    return {
        "tenant_id": tenant, "title": title, "origins": origins, "issuer": issuer, "audience": audience,
        "kid": None, "algorithm": None, "jwks_url": jwks_url, "secret_file": None,
    }  # fmt: skip


def _make_secret(file: Path) -> bool:
    """Write a new secret that only its owner reads; False when there is one already, which is then used."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_urlsafe(SECRET_BYTES) + "\n")
    return True


def check_origin(value: str) -> str:
    """A web page's origin as browsers send it (RFC 6454 §6.1): scheme, host, port, nothing more."""
    rule = "must be an origin such as https://shop.example.com or http://localhost:3000"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise InvalidInput("--origin", rule) from error
    default = {"https": 443, "http": 80}.get(parts.scheme)
    if (
        default is None
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
        or parts.username
    ):
        raise InvalidInput("--origin", rule)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in (None, default) else f":{port}")


def read_public_key(file: Path, algorithm: str) -> bytes:
    """The PEM of a public key that fits `algorithm`. Raises InvalidInput."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        pem = file.read_bytes()
        key = load_pem_public_key(pem)
    except OSError as error:
        raise InvalidInput("--public-key", f"cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput("--public-key", "must be a public key in PEM (-----BEGIN PUBLIC KEY-----)") from error
    fits = {
        "RS256": isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS_MIN,
        "ES256": isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1),
        "EdDSA": isinstance(key, ed25519.Ed25519PublicKey),
    }
    wanted = {
        "RS256": f"an RSA key of {RSA_BITS_MIN} bits or more",
        "ES256": "a P-256 key",
        "EdDSA": "an Ed25519 key",
    }
    if not fits[algorithm]:
        raise InvalidInput("--public-key", f"must be {wanted[algorithm]} for --algorithm {algorithm}")
    return pem
