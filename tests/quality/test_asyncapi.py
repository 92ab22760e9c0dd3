"""docs/asyncapi.yaml is held to the code, in both directions: frames, fields, bounds, codes, examples."""

import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest

from notification import codes, frames, limits
from notification.errors import InvalidInput
from tests.asyncapi import document, resolve, schema_names, validator
from tests.quality.test_docs import examples

CLIENT = {frame.__name__: frame for frame in frames.ClientFrame.__args__}
SERVER = {frame.__name__: frame for frame in frames.ServerFrame.__args__}
PARTS: dict[str, Any] = {
    part.__name__: part for part in (frames.Cursor, frames.Counters, frames.Action, frames.Payload, frames.PageItem)
}
# Schemas that stand for a plain value of frames.py.
VALUES = {"Id", "Lane", "Priority", "State", "Device", "Token", "Number", "At"}
STRUCTS = CLIENT | SERVER | PARTS
SCHEMAS = document()["components"]["schemas"]
MESSAGES = document()["components"]["messages"]
JSON_TYPES: dict[object, str] = {str: "string", int: "integer", bool: "boolean", list: "array", dict: "object"}


def json_type(annotation: object) -> str | None:
    """The JSON type of a field; None for what is an enumeration or another struct."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        (annotation, *others) = (part for part in typing.get_args(annotation) if part is not type(None))
        if others:
            return None
    if annotation is msgspec.Raw:
        return "object"
    return JSON_TYPES.get(typing.get_origin(annotation) or annotation)


def test_every_frame_and_part_has_a_schema_and_no_other_is_there() -> None:
    assert set(SCHEMAS) == set(STRUCTS) | VALUES


@pytest.mark.parametrize("name", STRUCTS)
def test_fields_are_those_of_the_code(name: str) -> None:
    struct, schema = STRUCTS[name], SCHEMAS[name]
    fields = msgspec.structs.fields(struct)
    config = struct.__struct_config__
    tag = {"t"} if config.tag is not None else set()
    assert schema["type"] == "object"
    assert set(schema["properties"]) == {field.encode_name for field in fields} | tag
    assert set(schema.get("required", ())) == {field.encode_name for field in fields if field.required} | tag
    if tag:
        assert schema["properties"]["t"] == {"const": config.tag}
    strict = name in CLIENT or name == "Cursor"
    assert config.forbid_unknown_fields or not strict
    assert schema.get("additionalProperties", True) is not strict


@pytest.mark.parametrize("name", STRUCTS)
def test_types_and_defaults_are_those_of_the_code(name: str) -> None:
    hints = typing.get_type_hints(STRUCTS[name])
    for field in msgspec.structs.fields(STRUCTS[name]):
        shown = resolve(SCHEMAS[name]["properties"][field.encode_name])
        wanted = json_type(hints[field.name])
        if wanted is not None:
            assert shown["type"] == wanted, field.name
        if field.default not in (None, msgspec.NODEFAULT):
            assert shown["default"] == field.default, field.name


def test_enumerations() -> None:
    assert tuple(SCHEMAS["Lane"]["enum"]) == codes.LANE_NAMES
    assert SCHEMAS["Priority"]["enum"] == [name.partition(".")[2] for name in codes.LANE_NAMES[:3]]
    assert tuple(SCHEMAS["State"]["enum"]) == frames.STATES == typing.get_args(frames.State)
    assert tuple(SCHEMAS["StateFrame"]["properties"]["to"]["enum"]) == (*frames.STATES, frames.RECALLED)
    assert SCHEMAS["Welcome"]["properties"]["recovered"]["enum"] == [True, False, "pending"]
    assert SCHEMAS["ErrorFrame"]["properties"]["code"]["enum"] == list(codes.ERRORS)


def test_bounds() -> None:
    shown = {path: node for path, node in walk(document()["components"]) if not isinstance(node, dict | list)}
    bounds = {
        "schemas.Device.pattern": f"^[A-Za-z0-9_-]{{1,{limits.ID_CHARS_MAX}}}$",
        "schemas.Token.maxLength": limits.TOKEN_BYTES_MAX,
        "schemas.Number.minimum": 0,
        "schemas.Number.maximum": 2**53 - 1,
        "schemas.Action.properties.id.maxLength": limits.ACTION_CHARS_MAX,
        "schemas.Action.properties.label.maxLength": limits.ACTION_CHARS_MAX,
        "schemas.Payload.properties.title.maxLength": limits.TITLE_CHARS_MAX,
        "schemas.Payload.properties.actions.maxItems": limits.ACTIONS_COUNT_MAX,
        "schemas.Ack.properties.ids.maxItems": frames.IDS_PER_FRAME_MAX,
        "schemas.SetState.properties.ids.minItems": 1,
        "schemas.SetState.properties.ids.maxItems": frames.IDS_PER_FRAME_MAX,
        "schemas.Page.properties.limit.minimum": 1,
        "schemas.Page.properties.limit.maximum": limits.PAGE_ITEMS_MAX,
        "schemas.Notification.properties.collapse.maxLength": limits.COLLAPSE_KEY_CHARS_MAX,
        "schemas.PageFrame.properties.items.maxItems": limits.PAGE_ITEMS_MAX,
    }
    kinds = re.compile(r"\.(minimum|maximum|minLength|maxLength|minItems|maxItems|pattern)$")
    assert {path: value for path, value in shown.items() if kinds.search(path)} == bounds
    assert f"{limits.TOKEN_BYTES_MAX:,} bytes" in SCHEMAS["Token"]["description"]
    assert f"{limits.PAYLOAD_BYTES_MAX:,} bytes" in SCHEMAS["Payload"]["description"]


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, node) of everything below a node."""
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in parts:
        below = f"{path}.{key}" if path else str(key)
        yield below, value
        yield from walk(value, below)


def test_references_resolve_and_nothing_is_left_over() -> None:
    used = {node for path, node in walk(document()) if path.endswith("$ref")}
    for reference in used:
        assert resolve({"$ref": reference}), reference
    for kind, group in document()["components"].items():
        assert {f"#/components/{kind}/{name}" for name in group} <= used


def test_directions() -> None:
    for operation, structs in (("say", CLIENT), ("hear", SERVER)):
        wanted = {struct.__struct_config__.tag: name for name, struct in structs.items()}
        assert schema_names(operation) == wanted
    named = [*document()["operations"]["say"]["messages"], *document()["operations"]["hear"]["messages"]]
    channel = document()["channels"]["connect"]["messages"]
    assert [reference["$ref"].rpartition("/")[2] for reference in named] == list(channel)
    assert [reference["$ref"].rpartition("/")[2] for reference in channel.values()] == list(channel)
    for name, message in MESSAGES.items():
        assert message.get("name", name) == resolve(message["payload"])["properties"]["t"]["const"]


def test_the_connect_request() -> None:
    channel = document()["channels"]["connect"]
    assert channel["address"] == frames.CONNECT_PATH
    assert channel["x-subprotocols"] == [frames.SUBPROTOCOL]
    headers = channel["bindings"]["ws"]["headers"]
    assert frames.SUBPROTOCOL.replace(".", r"\.") in headers["properties"]["Sec-WebSocket-Protocol"]["pattern"]
    assert f"{limits.AUTH_DEADLINE_MS // 1_000} s" in channel["description"]
    jsonschema.validate(
        {
            "Host": "h", "Upgrade": "websocket", "Connection": "keep-alive, Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Authorization": "Bearer a.b.c",
            "Sec-WebSocket-Protocol": f"{frames.SUBPROTOCOL}, {frames.BEARER_PREFIX}a.b.c",
        },
        headers,
    )  # fmt: skip
    cursor = frames.cursor_to_text(frames.Cursor(7, {"direct.high": 7}))
    assert re.fullmatch(channel["bindings"]["ws"]["query"]["properties"]["cursor"]["pattern"], cursor)


def test_closes_and_refusals_are_those_of_the_table() -> None:
    channel = document()["channels"]["connect"]
    assert channel["x-closes"] == [close._asdict() for close in codes.CLOSES]
    assert channel["x-refusals"] == [
        {"status": refusal.status, "error": refusal.code}
        | ({"headers": dict(refusal.headers)} if refusal.headers else {})
        for refusal in codes.REFUSALS
    ]


@pytest.mark.parametrize("name", MESSAGES)
def test_examples_satisfy_their_schema_and_decode(name: str) -> None:
    schema = MESSAGES[name]["payload"]["$ref"].rpartition("/")[2]
    assert MESSAGES[name]["examples"]
    for example in MESSAGES[name]["examples"]:
        validator(schema).validate(example["payload"])
        text = json.dumps(example["payload"]).encode()
        decoded = frames.decode_client(text) if schema in CLIENT else frames.decode_server(text)
        assert type(decoded).__name__ == schema


def test_the_examples_of_the_prose_satisfy_the_schemas() -> None:
    for kind, operation in (("client-frame", "say"), ("server-frame", "hear")):
        for text in examples(kind):
            frame = json.loads(text)
            validator(schema_names(operation)[frame["t"]]).validate(frame)


@pytest.mark.parametrize(
    "frame",
    [
        {"t": "auth"}, {"t": "auth", "token": "x", "other": 1}, {"t": "auth", "token": 1},
        {"t": "auth", "token": "x", "cursor": {"at": {}}},
        {"t": "auth", "token": "x", "cursor": {"epoch": 1, "x": 2}},
        {"t": "ack", "ids": "x"}, {"t": "ack", "ids": [1]}, {"t": "state", "ids": []},
        {"t": "state", "ids": ["x"], "to": "gone"}, {"t": "page", "limit": "many"}, {"t": "page", "after": "x"},
        {"t": "ping", "at": 1}, {"t": "reauth"},
    ],
)  # fmt: skip
def test_what_the_decoder_refuses_the_schema_refuses(frame: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        frames.decode_client(json.dumps(frame).encode())
    assert not validator(schema_names("say")[frame["t"]]).is_valid(frame)
