import json
import time
from typing import Any

import pytest

from notification import names
from notification.ids import new_uuid7
from notification.limits import EVENT_BYTES_MAX, PAYLOAD_BYTES_MAX, TTL_S_DEFAULT
from worker.admission import Admitted, Reason, Rejection, admit
from worker.log import Record

NOW_MS = time.time_ns() // 1_000_000
HOUR_MS = 3_600_000


def an_event(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "id": str(new_uuid7(NOW_MS)), "tenant_id": "acme", "user_id": "u:1", "type": "service",
        "payload": {"title": "Title", "body": "Body"},
    }  # fmt: skip
    return values | changes


def a_record(
    value: bytes | dict[str, Any] | None,
    key: bytes | None = b"acme:u:1",
    broker_ms: int | None = NOW_MS,
    topic: int = 0,
) -> Record:
    data = json.dumps(value).encode() if isinstance(value, dict) else value
    return Record(names.TOPICS[topic], 3, 7, key, data, broker_ms or 5, broker_ms)


def refused(record: Record, now_ms: int = NOW_MS) -> Rejection:
    verdict = admit(record, now_ms)
    assert isinstance(verdict, Rejection)
    return verdict


def admitted(record: Record, now_ms: int = NOW_MS) -> Admitted:
    verdict = admit(record, now_ms)
    assert isinstance(verdict, Admitted), verdict
    return verdict


@pytest.mark.parametrize("topic", [0, 1, 2])
def test_a_good_record_is_admitted(topic: int) -> None:
    event = an_event(collapse_key="cart", ttl=60, not_before=NOW_MS + 1000)
    record = a_record(event, topic=topic)
    verdict = admitted(record)
    assert verdict.record is record
    assert (verdict.tenant, verdict.user, str(verdict.id)) == ("acme", "u:1", event["id"])
    assert (verdict.type, verdict.priority, verdict.collapse_key) == ("service", topic, "cart")
    assert verdict.payload == b'{"title":"Title","body":"Body"}'
    assert (verdict.sent_ms, verdict.ttl_s, verdict.expiry_ms) == (NOW_MS, 60, NOW_MS + 60_000)
    assert verdict.not_before_ms == NOW_MS + 1000


def test_a_time_of_the_broker_counts_and_the_producers_does_not() -> None:
    assert admitted(a_record(an_event(), broker_ms=NOW_MS - 1000)).sent_ms == NOW_MS - 1000
    unstamped = admitted(a_record(an_event(), broker_ms=None))
    assert unstamped.sent_ms == NOW_MS
    assert unstamped.expiry_ms == NOW_MS + TTL_S_DEFAULT * 1000


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.NOT_JSON),
        (b"", Reason.NOT_JSON),
        (b"hello", Reason.NOT_JSON),
        (b"\xff\x00", Reason.NOT_JSON),
        (b'{"id":', Reason.NOT_JSON),
        (b"[]", Reason.SCHEMA),
        (an_event(extra=1), Reason.SCHEMA),
        (an_event(type="x"), Reason.SCHEMA),
        (an_event(tenant_id="a b"), Reason.SCHEMA),
        (an_event(id="x"), Reason.BAD_ID),
        (an_event(id=7), Reason.BAD_ID),
        (an_event(not_before=NOW_MS + 8 * 86_400_000), Reason.SCHEMA),
        (b" " * (EVENT_BYTES_MAX + 1), Reason.PAYLOAD_TOO_LARGE),
        (an_event(payload={"title": "t", "body": "x" * PAYLOAD_BYTES_MAX}), Reason.PAYLOAD_TOO_LARGE),
        (an_event(payload={"title": "", "body": "x" * PAYLOAD_BYTES_MAX}), Reason.PAYLOAD_TOO_LARGE),
    ],
)
def test_each_fault_has_its_reason(value: Any, reason: Reason) -> None:
    assert refused(a_record(value)).reason is reason


@pytest.mark.parametrize("key", [None, b"", b"acme", b"acme:u:2", b"other:u:1", b"acme:u:1 ", b"\xff"])
def test_the_key_must_be_the_users(key: bytes | None) -> None:
    assert refused(a_record(an_event(), key=key)).reason is Reason.WRONG_KEY


@pytest.mark.parametrize(
    ("to", "entity"), [({"audience": "tenant"}, "tenant"), ({"segment_id": "vip"}, "segment:vip")]
)
def test_an_event_to_an_audience_takes_the_tenants_lanes_and_key(to: dict[str, str], entity: str) -> None:
    event = an_event(**to)
    del event["user_id"]
    verdict = admitted(a_record(event, key=b"acme"))
    assert (verdict.user, verdict.audience, verdict.entity) == ("tenant", entity, entity)
    for key in (b"acme:tenant", b"acme:" + entity.encode(), b"acme:", b"other"):
        assert refused(a_record(event, key=key)).reason is Reason.WRONG_KEY
    direct = admitted(a_record(an_event()))
    assert (direct.user, direct.audience, direct.entity) == ("u:1", None, "u:1")


@pytest.mark.parametrize(("room", "fits"), [(0, True), (1, False)])
def test_the_payload_is_counted_in_bytes_of_compact_json(room: int, fits: bool) -> None:
    body = "ä" * ((PAYLOAD_BYTES_MAX - len('{"title":"tt","body":""}')) // 2)
    payload = {"title": "tt" + "x" * room, "body": body}
    verdict = admit(a_record(an_event(payload=payload)), NOW_MS)
    assert isinstance(verdict, Admitted) is fits
    if isinstance(verdict, Admitted):
        assert len(verdict.payload) == PAYLOAD_BYTES_MAX


@pytest.mark.parametrize(
    ("offset_ms", "fits"),
    [(-24 * HOUR_MS + 1, True), (-24 * HOUR_MS, False), (5 * 60_000 - 1, True), (5 * 60_000, False)],
)
def test_the_id_is_of_the_records_time(offset_ms: int, fits: bool) -> None:
    record = a_record(an_event(id=str(new_uuid7(NOW_MS + offset_ms))))
    assert isinstance(admit(record, NOW_MS), Admitted) is fits
    if not fits:
        assert refused(record).reason is Reason.BAD_ID


def test_a_record_that_waited_out_an_outage_is_admitted() -> None:
    sent_ms = NOW_MS - 71 * HOUR_MS
    verdict = admitted(a_record(an_event(id=str(new_uuid7(sent_ms))), broker_ms=sent_ms))
    assert verdict.sent_ms == sent_ms


@pytest.mark.parametrize("days", [-91, 4])
def test_no_partition_is_made_for_a_broker_whose_clock_is_wrong(days: int) -> None:
    broker_ms = NOW_MS + days * 24 * HOUR_MS
    assert refused(a_record(an_event(id=str(new_uuid7(broker_ms))), broker_ms=broker_ms)).reason is Reason.BAD_ID


def test_a_detail_repeats_nothing_of_the_record() -> None:
    for value in (
        an_event(SECRETNAME=1),
        an_event(type="SECRETNAME"),
        an_event(user_id="SECRETNAME \n"),
        b"SECRETNAME",
    ):
        assert "SECRETNAME" not in refused(a_record(value)).detail
    assert "u:1" not in refused(a_record(an_event(), key=b"x")).detail
