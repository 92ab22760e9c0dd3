"""Dead letters: records with a permanent fault go to names.TOPIC_DEAD, sealed, with the reason as headers.

The key and the value of a record are sealed together (crypto.py), bound to its place: under a key of the tenant
that it names, or under the platform's where there is no such tenant. `opened` is the inverse.

| header | content |
|---|---|
| reason | a value of admission.Reason |
| detail | the field and the fix, in words; nothing of the record's content |
| topic, partition, offset, timestamp_ms | where the record was, as text |
| tenant_id | the tenant that the record names, known or not; absent where it names none |
| bytes | how long its value was |
| sealed_under | `tenant` or `platform`: whose key |
| value_sha256 | instead of it, only where the topic refuses the letter for its size: then the value is empty |
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from notification import names, telemetry
from notification.errors import InvalidInput
from notification.ids import check_token
from notification.limits import EVENT_BYTES_MAX
from worker import crypto
from worker.admission import Rejection
from worker.database import PLATFORM
from worker.log import DeadLetter, EventLog, Record, TooLarge

_log = structlog.get_logger("dead_letters")


class Dead(NamedTuple):
    """A record and why it cannot be taken."""

    record: Record
    rejection: Rejection


class LetterKeys(Protocol):
    """Where the keys of letters come from: keys.KeyRing."""

    async def letter_keys(self, tenants: set[str]) -> dict[str, bytes]:
        """By owner: those of `tenants` that exist, and PLATFORM. Raises CryptoError, database.AWAY."""


class Contents(NamedTuple):
    """What a letter seals."""

    key: bytes | None
    value: bytes | None


class _Claim(msgspec.Struct):
    tenant_id: str


_claims: Final = msgspec.json.Decoder(_Claim)
_contents: Final = msgspec.msgpack.Decoder(Contents)
_OWNERS: Final = ("platform", "tenant")  # header sealed_under


def claimed_tenant(record: Record) -> str | None:
    """The tenant that a record names, by its event or else by its key; None where neither holds a tenant's id."""
    for name in (_tenant_of_event(record.value), (record.key or b"").partition(b":")[0].decode("ascii", "replace")):
        try:
            return check_token(name, "tenant_id")
        except InvalidInput:
            continue
    return None


def _tenant_of_event(value: bytes | None) -> str:
    if value is None or len(value) > EVENT_BYTES_MAX:
        return ""
    try:
        return _claims.decode(value).tenant_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def encode(dead: Dead, keys: Mapping[str, bytes]) -> DeadLetter:
    """The record of the dead-letter topic. `keys` has PLATFORM's and, where the tenant exists, the tenant's."""
    record = dead.record
    tenant = claimed_tenant(record)
    owner = tenant if tenant is not None and tenant in keys else PLATFORM
    place = (record.topic, str(record.partition), str(record.offset))
    contents = msgspec.msgpack.encode(Contents(record.key, record.value))
    sealed = crypto.seal(keys[owner], contents, crypto.dead_letter_aad(owner, *place))
    headers = {**_headers(dead), "sealed_under": _OWNERS[owner != PLATFORM]}
    return DeadLetter(None, sealed, [(name, text.encode("utf-8")) for name, text in headers.items()])


def owner_of(headers: Mapping[str, str]) -> str | None:
    """Whose key seals a letter with these headers: a tenant's, PLATFORM's, or None: no worker sealed it."""
    under, tenant = headers.get("sealed_under"), headers.get("tenant_id")
    return PLATFORM if under == _OWNERS[0] else tenant if under == _OWNERS[1] else None


def opened(headers: Mapping[str, str], value: bytes, key: bytes) -> Contents:
    """What a letter seals, with its owner's key. Raises CryptoError: another key, altered bytes or headers."""
    owner = owner_of(headers)
    assert owner is not None
    place = (headers.get("topic", ""), headers.get("partition", ""), headers.get("offset", ""))
    return _contents.decode(crypto.open_seal(key, value, crypto.dead_letter_aad(owner, *place)))


def _headers(dead: Dead) -> dict[str, str]:
    record, rejection = dead
    headers = {
        "reason": str(rejection.reason),
        "detail": rejection.detail,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp_ms": str(record.timestamp_ms),
        "bytes": str(len(record.value or b"")),
    }
    tenant = claimed_tenant(record)
    if tenant is not None:
        headers["tenant_id"] = tenant
    return headers


async def bury(log: EventLog, ring: LetterKeys, dead: Sequence[Dead]) -> None:
    """Returns once Kafka has all of them. Raises LogAway (some may be there twice later), and as `ring` does."""
    if not dead:
        return
    tenants = {tenant for one in dead if (tenant := claimed_tenant(one.record)) is not None}
    keys = await ring.letter_keys(tenants)
    letters = [encode(one, keys) for one in dead]
    try:
        await log.bury(letters)
    except TooLarge:
        for one, letter in zip(dead, letters, strict=True):
            await _bury_any_size(log, one, letter)
    for record, rejection in dead:
        priority = names.PRIORITIES[names.TOPICS.index(record.topic)]
        telemetry.DEAD_LETTERS.labels(rejection.reason).inc()
        telemetry.EVENTS.labels(priority, "rejected").inc()
        _log.warning(
            "dead_letter",
            reason=rejection.reason,
            detail=rejection.detail,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )


async def _bury_any_size(log: EventLog, dead: Dead, letter: DeadLetter) -> None:
    """One that is too large with our headers must not stop the log for ever: its place and hash go instead."""
    try:
        await log.bury([letter])
    except TooLarge:
        headers = {**_headers(dead), "value_sha256": hashlib.sha256(dead.record.value or b"").hexdigest()}
        await log.bury([DeadLetter(None, b"", [(name, text.encode("utf-8")) for name, text in headers.items()])])
