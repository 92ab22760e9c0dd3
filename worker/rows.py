"""Rows of `notifications` as StoredNotification, their payloads opened."""

from collections.abc import Sequence
from typing import Final

import asyncpg
import structlog

from notification.errors import CryptoError
from notification.ids import TENANT
from notification.telemetry import pseudonym
from worker.audiences import FIRST_LANE
from worker.crypto import open_seal, payload_aad
from worker.keys import KeyRing, User, UserKey
from worker.store import StoredNotification

_log = structlog.get_logger("rows")

# What open_rows needs of a row, for a SELECT or RETURNING over `notifications n`. Times in Unix ms.
COLUMNS: Final = """
    n.tenant_id, n.entity_id, n.notification_id, n.lane, n.seq, n.prev, n.type, n.priority, n.payload,
    n.key_version, n.collapse_key, n.attempt,
    floor(extract(epoch FROM n.sent_at) * 1000)::bigint AS sent_ms,
    floor(extract(epoch FROM n.expiry) * 1000)::bigint AS expiry_ms,
    floor(extract(epoch FROM n.not_before) * 1000)::bigint AS not_before_ms
"""


async def open_rows(ring: KeyRing, rows: Sequence[asyncpg.Record]) -> list[StoredNotification | None]:
    """One per row, in order; None where the payload does not open (its user's key is gone, or bytes changed)."""
    owners = [(row["tenant_id"], row["entity_id"] if row["lane"] < FIRST_LANE else TENANT) for row in rows]
    keys = await _keys_of(ring, set(owners))
    return [_open(row, keys.get(owner)) for row, owner in zip(rows, owners, strict=True)]


async def _keys_of(ring: KeyRing, users: set[User]) -> dict[User, UserKey]:
    try:
        return await ring.user_keys(users, create=False)
    except CryptoError:
        if len(users) == 1:
            _log.warning("user_key_does_not_open", user=pseudonym(*next(iter(users))))
            return {}
    found: dict[User, UserKey] = {}
    for user in users:  # one broken key must not hide the others
        found |= await _keys_of(ring, {user})
    return found


def _open(row: asyncpg.Record, key: UserKey | None) -> StoredNotification | None:
    tenant, user, ident = row["tenant_id"], row["entity_id"], row["notification_id"]
    if key is None:
        return None
    try:
        payload = open_seal(key.key, row["payload"], payload_aad(tenant, user, ident, row["key_version"]))
    except CryptoError:
        _log.warning("payload_does_not_open", id=str(ident), user=pseudonym(tenant, user))
        return None
    return _stored(row, payload)


def bare(row: asyncpg.Record) -> StoredNotification:
    """The row without its payload: for a change of status, never for a send."""
    return _stored(row, b"")


def _stored(row: asyncpg.Record, payload: bytes) -> StoredNotification:
    return StoredNotification(
        tenant=row["tenant_id"],
        user=row["entity_id"],
        id=row["notification_id"],
        lane=row["lane"],
        seq=row["seq"],
        prev=row["prev"],
        type=row["type"],
        priority=row["priority"],
        sent_ms=row["sent_ms"],
        expiry_ms=row["expiry_ms"],
        collapse_key=row["collapse_key"],
        payload=payload,
        attempt=row["attempt"],
        not_before_ms=row["not_before_ms"],
    )
