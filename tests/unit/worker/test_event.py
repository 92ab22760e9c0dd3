import hashlib
import json
import uuid
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notification.errors import InvalidInput
from notification.ids import new_uuid7
from notification.limits import COLLAPSE_KEY_CHARS_MAX, TITLE_CHARS_MAX, TTL_S_DEFAULT, TTL_S_MAX
from worker import event as events
from worker.event_schema import event_schema

SCHEMA = json.loads(resources.files("worker").joinpath("event.schema.json").read_text("utf-8"))
CHECKER = jsonschema.Draft202012Validator(SCHEMA)


def an_event(**changes: Any) -> dict[str, Any]:
    """A correct event with some fields changed; a field of `...` is left out."""
    values: dict[str, Any] = {
        "id": str(new_uuid7()), "tenant_id": "acme", "user_id": "auth0|u1@example.com", "type": "service",
        "payload": {"title": "Title", "body": "Body"},
    }  # fmt: skip
    values |= changes
    return {name: value for name, value in values.items() if value is not ...}


def with_payload(**changes: Any) -> dict[str, Any]:
    values = {"title": "Title", "body": "Body"} | changes
    return an_event(payload={name: value for name, value in values.items() if value is not ...})


def read(value: Any) -> events.Event:
    return events.check(events.decode(json.dumps(value).encode()))


GOOD = [
    an_event(),
    an_event(type="system_alert"),
    an_event(type="promotional", ttl=1, collapse_key="cart", not_before=0),
    an_event(ttl=TTL_S_MAX, collapse_key="ключ", user_id="!~"),
    with_payload(body=""),
    with_payload(title="x" * TITLE_CHARS_MAX, image="https://example.com/a.png?b=c"),
    with_payload(actions=[], data={}),
    with_payload(actions=[{"id": "a", "label": "Open", "url": "https://example.com"}, {"id": "b", "label": "No"}]),
    with_payload(data={"deep": [{"er": None}], "n": 1.5}),
    with_payload(image=None, actions=None, data=None),
    an_event(collapse_key=None, not_before=None),
    an_event(topic="order-news"),
    an_event(user_id=..., audience="tenant"),
    an_event(user_id=..., segment_id="vip_1-x"),
]

# JSON Schema has no word for "unique by a property".
SAME_ACTION_TWICE = with_payload(actions=[{"id": "a", "label": "L"}, {"id": "a", "label": "M"}])

# (event, field that the refusal names)
BAD: list[tuple[Any, str]] = [
    ([], "event"),
    ("text", "event"),
    (an_event(extra=1), "event"),
    (an_event(id=...), "id"),
    (an_event(id=5), "id"),
    (an_event(id=str(uuid.uuid4())), "id"),
    (an_event(id=str(new_uuid7()).upper()), "id"),
    (an_event(id="{" + str(new_uuid7()) + "}"), "id"),
    (an_event(tenant_id=...), "tenant_id"),
    (an_event(tenant_id="a.b"), "tenant_id"),
    (an_event(tenant_id="a,b"), "tenant_id"),
    (an_event(tenant_id="*"), "tenant_id"),
    (an_event(tenant_id=""), "tenant_id"),
    (an_event(tenant_id="x" * 65), "tenant_id"),
    (an_event(user_id=None), "user_id"),
    (an_event(user_id="a b"), "user_id"),
    (an_event(user_id="é"), "user_id"),
    (an_event(user_id="x" * 129), "user_id"),
    (an_event(user_id="tenant"), "user_id"),
    (an_event(user_id="segment:vip"), "user_id"),
    (an_event(user_id=...), "event"),
    (an_event(audience="tenant"), "event"),
    (an_event(segment_id="vip"), "event"),
    (an_event(user_id=..., audience="tenant", segment_id="vip"), "event"),
    (an_event(user_id=..., audience="everybody"), "audience"),
    (an_event(user_id=..., audience=None), "audience"),
    (an_event(user_id=..., segment_id="a b"), "segment_id"),
    (an_event(user_id=..., segment_id=""), "segment_id"),
    (an_event(user_id=..., segment_id="segment:vip"), "segment_id"),
    (an_event(type="other"), "type"),
    (an_event(type=["service"]), "type"),
    (an_event(ttl=0), "ttl"),
    (an_event(ttl=TTL_S_MAX + 1), "ttl"),
    (an_event(ttl=1.5), "ttl"),
    (an_event(ttl=True), "ttl"),
    (an_event(ttl="5"), "ttl"),
    (an_event(ttl=None), "ttl"),
    (an_event(ttl=2**70), "ttl"),
    (an_event(not_before=-1), "not_before"),
    (an_event(not_before=2**53), "not_before"),
    (an_event(topic=""), "topic"),
    (an_event(topic="a b"), "topic"),
    (an_event(topic=None), "topic"),
    (an_event(collapse_key=""), "collapse_key"),
    (an_event(collapse_key="a\x00b"), "collapse_key"),
    (an_event(collapse_key="x" * (COLLAPSE_KEY_CHARS_MAX + 1)), "collapse_key"),
    (an_event(payload=...), "payload"),
    (an_event(payload="text"), "payload"),
    (an_event(payload=None), "payload"),
    (with_payload(extra=1), "payload"),
    (with_payload(title=...), "payload.title"),
    (with_payload(title=""), "payload.title"),
    (with_payload(title=" \n "), "payload.title"),
    (with_payload(title="x" * (TITLE_CHARS_MAX + 1)), "payload.title"),
    (with_payload(body=...), "payload.body"),
    (with_payload(body=7), "payload.body"),
    (with_payload(image="http://example.com/a.png"), "payload.image"),
    (with_payload(image="javascript:alert(1)"), "payload.image"),
    (with_payload(image="https://"), "payload.image"),
    (with_payload(image="https://a b"), "payload.image"),
    (with_payload(actions="a"), "payload.actions"),
    (with_payload(actions=[{"id": str(n), "label": "L"} for n in range(5)]), "payload.actions"),
    (with_payload(actions=[{"id": "a", "label": "L", "extra": 1}]), "payload.actions"),
    (SAME_ACTION_TWICE, "payload.actions[].id"),
    (with_payload(actions=[{"label": "L"}]), "payload.actions[].id"),
    (with_payload(actions=[{"id": "", "label": "L"}]), "payload.actions[].id"),
    (with_payload(actions=[{"id": "a", "label": " "}]), "payload.actions[].label"),
    (with_payload(actions=[{"id": "a", "label": 5}]), "payload.actions[].label"),
    (with_payload(actions=[{"id": "a", "label": "L", "url": "data:text/html,x"}]), "payload.actions[].url"),
    (with_payload(data=[]), "payload.data"),
    (with_payload(data="x"), "payload.data"),
]


@pytest.mark.parametrize("value", GOOD)
def test_a_correct_event_is_read_and_keeps_its_schema(value: dict[str, Any]) -> None:
    event = read(value)
    assert str(event.uuid) == value["id"]
    assert event.ttl == value.get("ttl", TTL_S_DEFAULT)
    assert not list(CHECKER.iter_errors(value))


@pytest.mark.parametrize(("value", "field"), BAD)
def test_a_wrong_event_is_refused_by_the_name_of_its_field(value: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(value)
    assert caught.value.field == field
    assert caught.value.rule


@pytest.mark.parametrize("value", [value for value, _ in BAD if value is not SAME_ACTION_TWICE])
def test_the_json_schema_refuses_the_same(value: Any) -> None:
    assert list(CHECKER.iter_errors(value))


def test_the_published_schema_is_the_one_of_the_code() -> None:
    assert event_schema() == SCHEMA, "run `python -m worker.event_schema` and commit worker/event.schema.json"


NAME = "SECRETNAME"


@pytest.mark.parametrize(
    "value",
    [
        an_event(**{NAME: 1}),
        an_event(type=NAME),
        an_event(id=NAME),
        an_event(tenant_id=f"{NAME}."),
        an_event(user_id=f"{NAME} {NAME}"),
        with_payload(**{NAME: 1}),
        with_payload(data=NAME),
        with_payload(image=NAME),
        with_payload(actions=[{"id": "a", NAME: "b"}]),
    ],
)
def test_a_refusal_says_nothing_that_the_sender_wrote(value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(value)
    assert NAME not in str(caught.value)
    assert NAME not in repr(caught.value.__cause__)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nope",
        b'{"id": ',
        b"\xff\xfe",
        b'{"id": "\xff"}',
        b'{"id": "\\ud800"}',
        b"[" * 10_000,
        b"{}{}",
        b"NaN",
    ],
)
def test_what_is_not_json(value: bytes) -> None:
    with pytest.raises((events.NotJSON, InvalidInput)):
        events.decode(value)


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(value: bytes) -> None:
    with pytest.raises((events.NotJSON, InvalidInput)):
        events.check(events.decode(value))


def test_the_payload_is_compact_and_keeps_its_text() -> None:
    event = read(with_payload(title="Grüße <b>", image=None, data={"a": [1, 2]}))
    assert events.payload_json(event) == '{"title":"Grüße <b>","body":"Body","data":{"a":[1,2]}}'.encode()


def test_the_body_hash_is_of_what_is_said_not_how() -> None:
    value = with_payload(data={"a": 1, "b": 2})
    turned = dict(reversed(value.items())) | {"ttl": TTL_S_DEFAULT}
    turned["payload"] = dict(reversed(value["payload"].items())) | {"data": {"b": 2, "a": 1}}
    first = events.body_hash(read(value), 0)
    assert first == events.body_hash(read(turned), 0)
    assert first != events.body_hash(read(value), 1)
    assert first != events.body_hash(read(value | {"ttl": 60}), 0)
    assert first != events.body_hash(read(value | {"topic": "t"}), 0)
    assert len(first) == 32


def test_the_body_hash_of_an_event_stays_what_it_is() -> None:
    """Or the same event, sent again after an update of Herald, is a dead letter (id_reused)."""
    value = an_event(id="01936b5e-4c00-7000-8000-000000000001")
    said = {"ttl": TTL_S_DEFAULT, "collapse_key": None, "not_before": None, **value}
    text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    assert events.body_hash(read(value), 2) == hashlib.sha256(b"\x02" + text).digest()
