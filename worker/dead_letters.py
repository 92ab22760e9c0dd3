"""Dead letters: records with a permanent fault go to names.TOPIC_DEAD, unchanged, with the reason as headers.

| header | content |
|---|---|
| reason | a value of admission.Reason |
| detail | the field and the fix, in words; nothing of the record's content |
| topic, partition, offset, timestamp_ms | where the record was, as text |
| tenant_id | the tenant that the record names, known or not; absent where it names none |
| value_sha256 | only where the topic refuses the value for its size: then the value is empty |

A record without key and without value has an empty value here: aiokafka sends none without both.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import structlog

from notification import names, telemetry
from notification.errors import InvalidInput
from notification.ids import check_token
from notification.limits import EVENT_BYTES_MAX
from worker.admission import Rejection
from worker.log import DeadLetter, EventLog, Record, TooLarge

_log = structlog.get_logger("dead_letters")


class Dead(NamedTuple):
    """A record and why it cannot be taken."""

    record: Record
    rejection: Rejection


class _Claim(msgspec.Struct):
    tenant_id: str


_claims = msgspec.json.Decoder(_Claim)


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


def encode(dead: Dead) -> DeadLetter:
    """The record of the dead-letter topic: original key and value, the reason in headers."""
    record, rejection = dead
    headers = {
        "reason": rejection.reason,
        "detail": rejection.detail,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp_ms": str(record.timestamp_ms),
    }
    tenant = claimed_tenant(record)
    if tenant is not None:
        headers["tenant_id"] = tenant
    value = b"" if record.key is None and record.value is None else record.value
    return DeadLetter(record.key, value, [(name, value.encode("utf-8")) for name, value in headers.items()])


async def bury(log: EventLog, dead: Sequence[Dead]) -> None:
    """Returns once Kafka has all of them. Raises LogAway; then some may be there twice later."""
    if not dead:
        return
    letters = [encode(one) for one in dead]
    try:
        await log.bury(letters)
    except TooLarge:
        for letter in letters:
            await _bury_any_size(log, letter)
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


async def _bury_any_size(log: EventLog, letter: DeadLetter) -> None:
    """One that is too large with our headers must not stop the log for ever: its place and hash go instead."""
    try:
        await log.bury([letter])
    except TooLarge:
        digest = hashlib.sha256(letter.value or b"").hexdigest().encode("ascii")
        await log.bury([DeadLetter(None, b"", [*letter.headers, ("value_sha256", digest)])])
