"""The event that upstream services put on Kafka. docs/events.md is the prose, event.schema.json the JSON Schema.

    {"id": "0197...", "tenant_id": "acme", "user_id": "u1", "type": "service",
     "payload": {"title": "Hi", "body": "..."}}

Priority comes from the topic. Decoding is strict: an unknown field or another type is refused. What a message says
about an event names fields of this contract and rules, never a value or a name that the sender chose.
"""

import hashlib
import re
import uuid
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from notification import frames, names
from notification.errors import InvalidInput
from notification.ids import SEGMENT_PREFIX, TENANT, USER_RULE, check_token, check_user, parse_uuid7
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

Type = Literal["system_alert", "service", "promotional"]
Audience = Literal["tenant"]
NUMBER_MAX: Final = 2**53 - 1  # what JSON readers agree on (RFC 8259 §6)


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event as its sender wrote it. `ttl` in seconds, `not_before` in Unix ms.

    It goes to one of `user_id`, `audience` and `segment_id`. What is UNSET is left out of body_hash: an event has
    the hash that it had before there was such a field.
    """

    id: str
    tenant_id: str
    type: Type
    payload: frames.Payload
    user_id: str | msgspec.UnsetType = msgspec.UNSET
    audience: Audience | msgspec.UnsetType = msgspec.UNSET
    segment_id: str | msgspec.UnsetType = msgspec.UNSET
    ttl: int = TTL_S_DEFAULT
    collapse_key: str | None = None
    not_before: int | None = None
    topic: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def uuid(self) -> uuid.UUID:
        """The id; only of an event that `check` has passed."""
        return uuid.UUID(self.id)

    @property
    def key(self) -> bytes:
        """The key that its record must have."""
        if self.user_id is msgspec.UNSET:
            return names.audience_record_key(self.tenant_id)
        return names.record_key(self.tenant_id, self.user_id)

    @property
    def to(self) -> str | None:
        """The audience as its rows name it; None: a user's."""
        if self.user_id is not msgspec.UNSET:
            return None
        return TENANT if self.segment_id is msgspec.UNSET else SEGMENT_PREFIX + self.segment_id


_ID_RULE: Final = "must be a UUID of version 7 in its lower-case canonical form"
_TOKEN_RULE: Final = f"must be 1 to {ID_CHARS_MAX} characters of A-Z a-z 0-9 _ -"
# Path in an event -> what must stand there. The only texts about fields that reach a dead letter's header.
RULES: Final = {
    "": "must be an object with id, tenant_id, type, payload and one of user_id, audience, segment_id; "
    "optionally ttl, collapse_key, not_before, topic",
    "id": _ID_RULE,
    "tenant_id": _TOKEN_RULE,
    "user_id": USER_RULE,
    "audience": "must be tenant: everybody of it",
    "segment_id": _TOKEN_RULE,
    "type": "must be system_alert, service or promotional",
    "ttl": f"must be a whole number of seconds from {TTL_S_MIN} to {TTL_S_MAX}",
    "collapse_key": f"must be 1 to {COLLAPSE_KEY_CHARS_MAX} printable characters",
    "topic": _TOKEN_RULE,
    "not_before": "must be a time in Unix milliseconds before the event expires",
    "payload": "must be an object with title, body and optionally image, actions, data",
    "payload.title": f"must be 1 to {TITLE_CHARS_MAX} characters, not only white space",
    "payload.body": "must be a string",
    "payload.image": "must be an https URL",
    "payload.actions": f"must be a list of at most {ACTIONS_COUNT_MAX} objects with id, label and optionally url",
    "payload.actions[].id": f"must be 1 to {ACTION_CHARS_MAX} characters, another one for each action",
    "payload.actions[].label": f"must be 1 to {ACTION_CHARS_MAX} characters, not only white space",
    "payload.actions[].url": "must be an https URL",
    "payload.data": "must be an object",
}

_decoder: Final = msgspec.json.Decoder(Event)
_encoder: Final = msgspec.json.Encoder()
_canonical: Final = msgspec.json.Encoder(order="sorted")
_PATH: Final = re.compile(r" - at `\$\.?(.*)`$")
_MISSING: Final = re.compile(r"^Object missing required field `(\w+)`")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field ")
_URL: Final = re.compile(r"https://[!-~]+", re.ASCII)


class NotJSON(ValueError):
    """The bytes are not JSON."""


def decode(value: bytes) -> Event:
    """Decode the bytes of a record. Raises NotJSON, or InvalidInput naming the field and its rule.

    The values still need `check`: types are right, ranges are not looked at.
    """
    try:
        return _decoder.decode(value)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJSON from None


def check(event: Event) -> Event:
    """Return `event` if every value keeps its rule. Raises InvalidInput naming the field."""
    parse_uuid7(event.id, "id")
    check_token(event.tenant_id, "tenant_id")
    if (event.user_id, event.audience, event.segment_id).count(msgspec.UNSET) != 2:
        raise InvalidInput("event", RULES[""])
    if event.user_id is not msgspec.UNSET:
        check_user(event.user_id, "user_id")
    if event.segment_id is not msgspec.UNSET:
        check_token(event.segment_id, "segment_id")
    _require(TTL_S_MIN <= event.ttl <= TTL_S_MAX, "ttl")
    _require(event.not_before is None or 0 <= event.not_before <= NUMBER_MAX, "not_before")
    key = event.collapse_key
    _require(key is None or (0 < len(key) <= COLLAPSE_KEY_CHARS_MAX and key.isprintable()), "collapse_key")
    if event.topic is not msgspec.UNSET:
        check_token(event.topic, "topic")
    payload = event.payload
    _require(_says_something(payload.title, TITLE_CHARS_MAX), "payload.title")
    _require(payload.image is None or _is_https(payload.image), "payload.image")
    actions = payload.actions or []
    _require(len(actions) <= ACTIONS_COUNT_MAX, "payload.actions")
    _require(len({action.id for action in actions}) == len(actions), "payload.actions[].id")
    for action in actions:
        _require(0 < len(action.id) <= ACTION_CHARS_MAX, "payload.actions[].id")
        _require(_says_something(action.label, ACTION_CHARS_MAX), "payload.actions[].label")
        _require(action.url is None or _is_https(action.url), "payload.actions[].url")
    return event


def payload_json(event: Event) -> bytes:
    """The payload as compact UTF-8 JSON: what PAYLOAD_BYTES_MAX counts, what is sealed and what clients get."""
    return _encoder.encode(event.payload)


def payload_fits(payload: bytes) -> bool:
    """Whether the payload's JSON keeps PAYLOAD_BYTES_MAX."""
    return len(payload) <= PAYLOAD_BYTES_MAX


def body_hash(event: Event, priority: int) -> bytes:
    """SHA-256 of what the event says, whatever the order and spacing of its JSON; the topic's priority is part."""
    return hashlib.sha256(bytes([priority]) + _canonical.encode(event)).digest()


def _says_something(text: str, chars_max: int) -> bool:
    return len(text) <= chars_max and text.strip() != ""


def _is_https(url: str) -> bool:
    if _URL.fullmatch(url) is None:
        return False
    try:
        parts = urlsplit(url)
        return parts.hostname is not None and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _require(holds: bool, field: str) -> None:
    if not holds:
        raise InvalidInput(field, RULES[field])


def _explain(message: str) -> InvalidInput:
    """msgspec's message as field and rule, without what the sender wrote."""
    at = _PATH.search(message)
    path = re.sub(r"\[(\d+|\.\.\.)\]", "[]", at[1]) if at else ""
    if path.startswith("payload.data"):
        path = "payload.data"
    missing = _MISSING.match(message)
    if missing:
        field = f"{path}.{missing[1]}".lstrip(".")
        return InvalidInput(field, f"is missing; it {RULES[field]}" if field in RULES else "is missing")
    known = path if path in RULES else path.removesuffix("[]") if path.removesuffix("[]") in RULES else ""
    if _UNKNOWN.match(message):
        return InvalidInput(known or "event", f"has an unknown field; it {RULES[known]}")
    return InvalidInput(known or "event", RULES[known])
