"""The JSON Schema of the event: `python -m worker.event_schema` writes worker/event.schema.json from the limits.

What JSON Schema cannot say stays with worker/event.py: action ids are unique, the payload's size, the id's time.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from notification.ids import USER_PATTERN
from notification.limits import (
    ACTION_CHARS_MAX,
    ACTIONS_COUNT_MAX,
    COLLAPSE_KEY_CHARS_MAX,
    ID_CHARS_MAX,
    PAYLOAD_BYTES_MAX,
    TITLE_CHARS_MAX,
    TTL_S_DEFAULT,
    TTL_S_MAX,
    TTL_S_MIN,
)
from notification.names import TOPICS
from worker.event import NUMBER_MAX, RULES

PATH: Final = Path(__file__).with_name("event.schema.json")
_UUID7: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_HTTPS: Final = "^https://[!-.0-~][!-~]*$"
_SAYS_SOMETHING: Final = r"\S"


def event_schema() -> dict[str, Any]:
    """The schema as JSON Schema 2020-12; descriptions are the rules that dead letters quote."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Herald notification event",
        "description": f"The value of a record on {', '.join(TOPICS)}; the record's key is "
        "tenant_id:user_id, or tenant_id alone where there is no user_id.",
        "type": "object",
        "additionalProperties": False,
        "required": ["id", "tenant_id", "type", "payload"],
        "oneOf": [{"required": [name]} for name in ("user_id", "audience", "segment_id")],
        "properties": {
            "id": _rule("id", type="string", pattern=_UUID7),
            "tenant_id": _rule("tenant_id", type="string", pattern=f"^[A-Za-z0-9_-]{{1,{ID_CHARS_MAX}}}$"),
            "user_id": _rule("user_id", type="string", pattern=f"^{USER_PATTERN}$"),
            "audience": _rule("audience", enum=["tenant"]),
            "segment_id": _rule("segment_id", type="string", pattern=f"^[A-Za-z0-9_-]{{1,{ID_CHARS_MAX}}}$"),
            "type": _rule("type", enum=["system_alert", "service", "promotional"]),
            "ttl": _rule("ttl", type="integer", minimum=TTL_S_MIN, maximum=TTL_S_MAX, default=TTL_S_DEFAULT),
            "collapse_key": _rule(
                "collapse_key",
                type=["string", "null"],
                minLength=1,
                maxLength=COLLAPSE_KEY_CHARS_MAX,
                pattern=r"^[^\u0000-\u001f\u007f-\u009f]*$",
            ),
            "topic": _rule("topic", type="string", pattern=f"^[A-Za-z0-9_-]{{1,{ID_CHARS_MAX}}}$"),
            "not_before": _rule("not_before", type=["integer", "null"], minimum=0, maximum=NUMBER_MAX),
            "payload": _payload(),
        },
    }


def _payload() -> dict[str, Any]:
    text = f"{RULES['payload']}; at most {PAYLOAD_BYTES_MAX} bytes as compact UTF-8 JSON"
    return {
        "description": text,
        "type": "object",
        "additionalProperties": False,
        "required": ["title", "body"],
        "properties": {
            "title": _rule(
                "payload.title", type="string", minLength=1, maxLength=TITLE_CHARS_MAX, pattern=_SAYS_SOMETHING
            ),
            "body": _rule("payload.body", type="string"),
            "image": _rule("payload.image", type=["string", "null"], pattern=_HTTPS),
            "actions": _rule(
                "payload.actions", type=["array", "null"], maxItems=ACTIONS_COUNT_MAX, items=_action()
            ),
            "data": _rule("payload.data", type=["object", "null"]),
        },
    }


def _action() -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["id", "label"],
        "properties": {
            "id": _rule("payload.actions[].id", type="string", minLength=1, maxLength=ACTION_CHARS_MAX),
            "label": _rule(
                "payload.actions[].label",
                type="string",
                minLength=1,
                maxLength=ACTION_CHARS_MAX,
                pattern=_SAYS_SOMETHING,
            ),
            "url": _rule("payload.actions[].url", type=["string", "null"], pattern=_HTTPS),
        },
    }


def _rule(field: str, **schema: Any) -> dict[str, Any]:
    return {"description": RULES[field], **schema}


def main() -> int:
    """Write the schema file."""
    PATH.write_text(json.dumps(event_schema(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
