"""docs/asyncapi.yaml as tests use it: the document, its JSON schemas, and which of them a frame must satisfy."""

import functools
from typing import Any

import jsonschema
import yaml

from tests.quality.tree import ROOT

PAGE = ROOT / "docs" / "asyncapi.yaml"


@functools.cache
def document() -> dict[str, Any]:
    loaded = yaml.safe_load(PAGE.read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@functools.cache
def validator(name: str) -> jsonschema.Draft7Validator:
    """Of one schema of components/schemas."""
    return jsonschema.Draft7Validator({**document(), "allOf": [{"$ref": f"#/components/schemas/{name}"}]})


def resolve(node: Any) -> Any:
    """The node itself, or what it refers to."""
    while isinstance(node, dict) and "$ref" in node:
        found: Any = document()
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        node = found
    return node


@functools.cache
def schema_names(operation: str) -> dict[str, str]:
    """Discriminator -> name of the schema, of the messages that `say` or `hear` names."""
    names = {}
    for message in document()["operations"][operation]["messages"]:
        payload = resolve(message)["payload"]
        names[resolve(payload)["properties"]["t"]["const"]] = payload["$ref"].rpartition("/")[2]
    return names


def check_heard(frame: dict[str, Any]) -> str:
    """Hold a frame of the server to its schema; the schema's name."""
    name = schema_names("hear")[frame["t"]]
    validator(name).validate(frame)
    return name
