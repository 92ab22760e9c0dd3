"""Events as `herald send` makes them: from options or a JSON line, checked with the worker's own rules.

The import of the worker is lazy on purpose: only a command that needs it loads it.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from herald.console import file_fault
from notification.errors import InvalidInput
from notification.frames import Action
from notification.ids import check_user, new_uuid7
from notification.limits import EVENT_BYTES_MAX
from notification.names import PRIORITIES, TOPIC_PREFIX


class Event(NamedTuple):
    """One record to produce. `record` is the JSON text as it goes to Kafka; it is for `user` or (None) `audience`:
    ids.TENANT or `segment:ID`."""

    id: str
    tenant: str
    user: str | None
    audience: str | None
    priority: str
    key: bytes
    record: bytes


def build(fields: dict[str, Any], priority: str) -> Event:
    """A complete event from its fields (`id` is made when missing). Raises InvalidInput naming the field."""
    fields = {"id": str(new_uuid7()), **fields}
    if priority not in PRIORITIES:
        raise InvalidInput("priority", f"must be one of {', '.join(PRIORITIES)}")
    try:
        record = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (
        ValueError,
        RecursionError,
    ) as error:  # a lone surrogate, NaN or Infinity: Python reads them, JSON has them not
        raise InvalidInput("event", "must be JSON in UTF-8: no NaN, no Infinity, no half characters") from error
    return check_record(record, priority)


def check_record(record: bytes, priority: str) -> Event:
    """The worker's own admission, as far as it needs no PostgreSQL, so that most mistakes are told at once.

    Raises InvalidInput naming the field. What only the worker knows (an unknown tenant, an id used before) ends in
    a dead letter.
    """
    from worker import admission, event
    from worker.log import Record

    try:
        key = event.check(event.decode(record)).key
    except event.NotJSON as error:
        raise InvalidInput("event", "must be one JSON object in UTF-8") from error
    now_ms = time.time_ns() // 1_000_000
    verdict = admission.admit(Record(TOPIC_PREFIX + priority, 0, 0, key, record, now_ms, None), now_ms)
    if isinstance(verdict, admission.Rejection):
        field, _, rule = verdict.detail.partition(": ")
        raise InvalidInput(field, rule)
    user = verdict.user if verdict.audience is None else None
    return Event(str(verdict.id), verdict.tenant, user, verdict.audience, priority, key, record)


def from_line(line: bytes, defaults: dict[str, Any], priority: str) -> Event:
    """One line of events.jsonl: an event object, with `priority` beside its fields if it differs from the default.

    `defaults` fills what the line leaves out. Raises InvalidInput.
    """
    if len(line) > 2 * EVENT_BYTES_MAX:
        raise InvalidInput("event", f"must not be over {EVENT_BYTES_MAX} bytes")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("event", "must be one JSON object per line, in UTF-8") from error
    if not isinstance(fields, dict):
        raise InvalidInput("event", "must be a JSON object")
    own = fields.pop("priority", priority)
    if "audience" in fields or "segment_id" in fields:
        defaults = {name: value for name, value in defaults.items() if name != "user_id"}
    return build({**defaults, **fields}, own if isinstance(own, str) else "")


def payload(title: str, body: str, image: str | None, actions: tuple[str, ...], data: str | None) -> dict[str, Any]:
    """The `payload` of options; an action is `LABEL=URL`. Raises InvalidInput naming the option."""
    value: dict[str, Any] = {"title": title, "body": body}
    if image is not None:
        value["image"] = image
    if actions:
        value["actions"] = [_action(number, text) for number, text in enumerate(actions, 1)]
    if data is not None:
        try:
            value["data"] = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidInput("--data", "must be a JSON object") from error
        if not isinstance(value["data"], dict):
            raise InvalidInput("--data", "must be a JSON object")
    return value


def _action(number: int, text: str) -> dict[str, str]:
    label, found, url = text.partition("=")
    if not found or not label or not url:
        raise InvalidInput("--action", 'must be LABEL=URL, such as "Open=https://example.com/orders/7"')
    action = Action(f"action-{number}", label, url)
    return {"id": action.id, "label": action.label, "url": url}


def users(values: tuple[str, ...], field: str) -> Iterator[str]:
    """The users of a command line: an id, or `@FILE` with at least one id, one per line. Raises InvalidInput with
    `field`, the option or argument they stand in."""
    for value in values:
        if not value.startswith("@"):
            yield check_user(value, field)
            continue
        try:
            text = Path(value[1:]).read_text("utf-8")
        except OSError as error:
            raise InvalidInput(field, file_fault(error)) from error
        except UnicodeDecodeError as error:
            raise InvalidInput(field, f"{value[1:]}: must be text in UTF-8") from error
        if not text.strip():
            raise InvalidInput(field, f"{value[1:]}: must hold at least one user id, one per line")
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield check_user(line.strip(), f"{field} {value} line {number}")
