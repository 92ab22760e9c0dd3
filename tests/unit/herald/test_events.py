"""herald.events: events from options and lines, held to the worker's rules."""

import json
import time
import uuid
from pathlib import Path

import pytest

from herald import events
from herald.commands.send import TYPES
from notification.errors import InvalidInput
from notification.ids import new_uuid7, parse_uuid7
from notification.limits import PAYLOAD_BYTES_MAX

LINE = {"tenant_id": "demo", "user_id": "ann", "type": "service", "payload": {"title": "T", "body": "B"}}


def line(**fields: object) -> bytes:
    return json.dumps({**LINE, **fields}).encode()


def test_an_event_gets_an_id_and_keeps_a_given_one() -> None:
    made = events.build(LINE, "high")
    parse_uuid7(made.id)
    assert (made.tenant, made.user, made.priority) == ("demo", "ann", "high")
    assert json.loads(made.record) == {"id": made.id, **LINE}
    ident = str(new_uuid7())
    assert events.build({**LINE, "id": ident}, "low").id == ident


def test_lines_take_defaults_and_their_own_priority() -> None:
    defaults = {"tenant_id": "other", "type": "promotional", "ttl": 60}
    made = events.from_line(line(priority="low", ttl=5), defaults, "medium")
    assert made.priority == "low"
    value = json.loads(made.record)
    assert (value["tenant_id"], value["type"], value["ttl"]) == ("demo", "service", 5)
    assert "priority" not in value
    short = b'{"user_id":"bob","payload":{"title":"T","body":"B"}}'
    assert json.loads(events.from_line(short, defaults, "medium").record)["tenant_id"] == "other"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"", "event"), (b"{", "event"), (b"[]", "event"), (b'"x"', "event"), (b"\xff", "event"),
        (b"[" * 9_999, "event"),
        (line(tenant_id="a.b"), "tenant_id"), (line(user_id="a b"), "user_id"), (line(user_id="\u00e9"), "user_id"),
        (line(type="gossip"), "type"), (line(priority="urgent"), "priority"), (line(priority=1), "priority"),
        (line(ttl=0), "ttl"), (line(ttl="60"), "ttl"), (line(id="7"), "id"), (line(id=str(uuid.uuid4())), "id"),
        (line(colour="red"), "event"), (line(payload={"title": "T"}), "payload.body"),
        (line(payload={"title": "", "body": "B"}), "payload.title"),
        (line(payload={"title": "T", "body": "B", "x": 1}), "payload"),
        (line(payload={"title": "T", "body": "B", "image": "http://x"}), "payload.image"),
        (line(payload={"title": "T", "body": "x" * PAYLOAD_BYTES_MAX}), "payload"),
        (line(payload={"title": "T", "body": "x" * 40_000}), "event"),
        (line().replace(b'"T"', b'"\\ud800"'), "event"), (line(ttl=float("nan")), "event"),
        (line(id=str(new_uuid7(time.time_ns() // 1_000_000 - 25 * 3_600_000))), "id"),
        (line(not_before=2**50), "not_before"),
    ],
)  # fmt: skip
def test_each_fault_names_its_field(text: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        events.from_line(text, {}, "medium")
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_payload_from_options() -> None:
    made = events.payload("T", "B", "https://x/i.png", ("Open=https://x/?a=b", "No=https://y"), '{"k": [1]}')
    assert made["actions"] == [
        {"id": "action-1", "label": "Open", "url": "https://x/?a=b"},
        {"id": "action-2", "label": "No", "url": "https://y"},
    ]
    assert made["data"] == {"k": [1]}
    assert events.payload("T", "B", None, (), None) == {"title": "T", "body": "B"}


@pytest.mark.parametrize(
    ("actions", "data", "field"),
    [
        (("Open",), None, "--action"),
        (("=https://x",), None, "--action"),
        ((), "[1]", "--data"),
        ((), "{", "--data"),
    ],
)
def test_bad_options_are_named(actions: tuple[str, ...], data: str | None, field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        events.payload("T", "B", None, actions, data)


def test_users_from_options_and_files(tmp_path: Path) -> None:
    file = tmp_path / "users.txt"
    file.write_text("bob\n\n  carol \n")
    assert list(events.users(("ann", f"@{file}"), "--user")) == ["ann", "bob", "carol"]
    file.write_text("bob\nno body\n")
    with pytest.raises(InvalidInput, match="line 2"):
        list(events.users((f"@{file}",), "--user"))
    with pytest.raises(InvalidInput, match="none: No such file"):
        list(events.users((f"@{tmp_path}/none",), "--user"))


def test_types_are_those_of_the_worker() -> None:
    from worker.event import Event

    assert set(TYPES) == set(Event.__annotations__["type"].__args__)
