"""Dead letters: records with a permanent fault go to names.TOPIC_DEAD, unchanged, with the reason as headers.

| header | content |
|---|---|
| reason | a value of admission.Reason |
| detail | the field and the fix, in words; nothing of the record's content |
| topic, partition, offset, timestamp_ms | where the record was, as text |
| value_sha256 | only where the topic refuses the value for its size: then the value is empty |

A record without key and without value has an empty value here: aiokafka sends none without both.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from notification import names, telemetry
from worker.admission import Rejection
from worker.log import DeadLetter, EventLog, Record, TooLarge

_log = structlog.get_logger("dead_letters")


class Dead(NamedTuple):
    """A record and why it cannot be taken."""

    record: Record
    rejection: Rejection


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
