"""Admission: a Kafka record becomes an admitted event or a rejection with its reason. Pure: no clock, no I/O.

What needs PostgreSQL (is the tenant known, was the id used before) is decided in the storing transaction, with
rejections of the same kind.
"""

import enum
import uuid
from typing import NamedTuple

import msgspec

from notification import names
from notification.errors import InvalidInput
from notification.ids import TENANT, uuid7_ms
from notification.limits import (
    EVENT_BYTES_MAX,
    EVENT_ID_FUTURE_MS_MAX,
    EVENT_ID_PAST_MS_MAX,
    PARTITION_DAYS_AHEAD,
    PARTITION_DAYS_LATE_MAX,
    PAYLOAD_BYTES_MAX,
)
from worker import event as events
from worker.log import Record

_DAY_MS = 86_400_000


class Reason(enum.StrEnum):
    """Why a record is in the dead-letter topic: header `reason`, label of the metric."""

    NOT_JSON = "not_json"
    SCHEMA = "schema"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    BAD_ID = "bad_id"
    WRONG_KEY = "wrong_key"
    UNKNOWN_TENANT = "unknown_tenant"
    UNKNOWN_SEGMENT = "unknown_segment"
    TENANT_SUSPENDED = "tenant_suspended"
    ID_REUSED = "id_reused"
    CRASHES = "crashes"


class Rejection(NamedTuple):
    """A permanent fault. `detail` names the field and the fix and holds nothing of the record's content."""

    reason: Reason
    detail: str


class Admitted(NamedTuple):
    """An event that may be stored. Times in Unix ms; `payload` is compact JSON.

    `user` is whose lanes, rev and key it takes: of an event to an `audience` (`tenant` or `segment:ID`) ids.TENANT.
    """

    record: Record
    tenant: str
    user: str
    id: uuid.UUID
    type: str
    priority: int
    payload: bytes
    body_hash: bytes
    sent_ms: int
    ttl_s: int
    collapse_key: str | None
    not_before_ms: int | None
    topic: str | None = None
    audience: str | None = None

    @property
    def entity(self) -> str:
        """Whom its row names: the user or the audience."""
        return self.audience or self.user

    @property
    def expiry_ms(self) -> int:
        return self.sent_ms + self.ttl_s * 1000


def admit(record: Record, now_ms: int) -> Admitted | Rejection:
    """Judge one record. `now_ms`, the database's time, is its time where the broker stamps none."""
    if record.value is None:
        return Rejection(Reason.NOT_JSON, "record: has no value; it must be one JSON object")
    if len(record.value) > EVENT_BYTES_MAX:
        detail = (
            f"record: is {len(record.value)} bytes; at most {EVENT_BYTES_MAX}, payload at most {PAYLOAD_BYTES_MAX}"
        )
        return Rejection(Reason.PAYLOAD_TOO_LARGE, detail)
    try:
        event = events.decode(record.value)
        # A payload too large is told as such even when something else is wrong with it as well.
        payload = events.payload_json(event)
        if not events.payload_fits(payload):
            detail = f"payload: is {len(payload)} bytes as compact UTF-8 JSON; at most {PAYLOAD_BYTES_MAX}"
            return Rejection(Reason.PAYLOAD_TOO_LARGE, detail)
        events.check(event)
    except events.NotJSON:
        return Rejection(Reason.NOT_JSON, "record: is not JSON in UTF-8; it must be one JSON object")
    except InvalidInput as error:
        return Rejection(Reason.BAD_ID if error.field == "id" else Reason.SCHEMA, str(error))
    ident = event.uuid
    sent_ms = now_ms if record.broker_ms is None else record.broker_ms
    fault = _check_time(event, ident, sent_ms, now_ms) or _check_key(event, record)
    if fault is not None:
        return fault
    priority = names.TOPICS.index(record.topic)
    return Admitted(
        record=record,
        tenant=event.tenant_id,
        user=TENANT if event.user_id is msgspec.UNSET else event.user_id,
        id=ident,
        type=event.type,
        priority=priority,
        payload=payload,
        body_hash=events.body_hash(event, priority),
        sent_ms=sent_ms,
        ttl_s=event.ttl,
        collapse_key=event.collapse_key,
        not_before_ms=event.not_before,
        topic=None if event.topic is msgspec.UNSET else event.topic,
        audience=event.to,
    )


def _check_time(event: events.Event, ident: uuid.UUID, sent_ms: int, now_ms: int) -> Rejection | None:
    id_ms = uuid7_ms(ident)
    if not -EVENT_ID_PAST_MS_MAX < id_ms - sent_ms < EVENT_ID_FUTURE_MS_MAX:
        past_h, future_min = EVENT_ID_PAST_MS_MAX // 3_600_000, EVENT_ID_FUTURE_MS_MAX // 60_000
        rule = f"its time must be at most {past_h} h before and {future_min} min after the record's"
        return Rejection(Reason.BAD_ID, f"id: {rule}; make the id when you send")
    if not -PARTITION_DAYS_LATE_MAX * _DAY_MS < id_ms - now_ms < PARTITION_DAYS_AHEAD * _DAY_MS:
        rule = f"its time must be at most {PARTITION_DAYS_LATE_MAX} days ago and {PARTITION_DAYS_AHEAD} days ahead"
        return Rejection(Reason.BAD_ID, f"id: {rule}")
    if event.not_before is not None and event.not_before >= sent_ms + event.ttl * 1000:
        return Rejection(Reason.SCHEMA, f"not_before: {events.RULES['not_before']}")
    return None


def _check_key(event: events.Event, record: Record) -> Rejection | None:
    if record.key != event.key:
        rule = "must be tenant_id:user_id of the event, tenant_id where it has no user_id, as they are, in UTF-8"
        return Rejection(Reason.WRONG_KEY, f"key: {rule}")
    return None
