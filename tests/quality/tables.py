"""Tables of docs/ that are made from the code: `python -m tests.quality.tables` writes them anew.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; test_docs holds each to what is made here.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from notification import codes, frames, limits, telemetry
from notification.names import TOPIC_DEAD, TOPIC_STATUS, TOPICS
from tests.quality.tree import ROOT

DOCS: Final = ROOT / "docs"
BLOCK: Final = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

# Reasons of dead letters, in words for the sender (worker/admission.py Reason).
DEAD_LETTERS: Final = {
    "not_json": "the value is not one JSON object in UTF-8, or there is no value",
    "schema": "an unknown field, another type, or a value that breaks its rule; `detail` names the field, but "
    "of an unknown one only the object that it is in",
    "payload_too_large": f"the payload is over {limits.PAYLOAD_BYTES_MAX:,} bytes of compact UTF-8 JSON, "
    f"or the record over {limits.EVENT_BYTES_MAX:,} bytes",
    "bad_id": "`id` is not a UUIDv7, or its time is too far from the record's time",
    "wrong_key": "the record's key is not `tenant_id:user_id`, or `tenant_id` where there is no `user_id`",
    "unknown_tenant": "no tenant of this id exists",
    "unknown_segment": "the tenant has no segment of this id",
    "tenant_suspended": "the tenant is suspended",
    "id_reused": "the id was used before for this user with another event",
    "crashes": "the worker failed at it three times; every other record was taken",
}

# What a client author must know of limits.py, and in which words.
CLIENT_LIMITS: Final = {
    "AUTH_DEADLINE_MS": "for the `auth` frame of a connection that brought no token, then 4408",
    "HEARTBEAT_MS": "between the server's PINGs (`heartbeat_s` of `welcome`)",
    "PONG_DUE_MS": "for the pong to such a PING, then the socket is dropped",
    "FRAME_BYTES_MAX": "of a client message after reassembly, then 1009",
    "FRAGMENTS_MAX": "of a client message, then 1009",
    "MESSAGE_OPEN_MS_MAX": "from first to last fragment, then 1009",
    "UNACKED_PER_CONNECTION_MAX": "written and not acked; what is more waits until acks come",
    "IDS_PER_FRAME_MAX": "ids of an `ack` or `state` frame; with more it is a bad frame",
    "CLIENT_FRAMES_PER_S_MAX": "frames a second, acks of written notifications left out, then 4429",
    "CLIENT_FRAMES_BURST_MAX": "frames at once within that rate",
    "CLIENT_PINGS_PER_S_MAX": "WebSocket PINGs a second, then 4429",
    "BAD_FRAMES_MAX": "frames that break the protocol; the last of them ends in 4400",
    "TOKEN_BYTES_MAX": "of a token",
    "TOKEN_LEEWAY_S": "of clock difference allowed at `exp` and `iat`",
    "DEVICES_PER_USER_MAX": "devices of one user",
    "PAGE_ITEMS_MAX": "items of a page",
    "PAGE_ITEMS_DEFAULT": "items of a page that names no `limit`",
    "OWED_ITEMS_MAX": "owed to a cursor; with more the answer is `recovered: false` and a snapshot",
    "DRAIN_WINDOW_MS": "over which a draining process spreads its `goaway`s",
    "NEW_LOG_WINDOW_MS": "the same where the server's log was set back: every client begins anew",
}


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; `|` in a cell is escaped."""
    names = list(head)
    lines = [names, ["---"] * len(names), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def event_fields() -> str:
    """Field and rule, from the worker's own RULES."""
    from worker.event import RULES

    required = ("id", "tenant_id", "type", "payload", "payload.title", "payload.body")
    target = ("user_id", "audience", "segment_id")
    action = ("payload.actions[].id", "payload.actions[].label")
    return table(
        ("field", "required", "rule"),
        (
            (
                f"`{field}`",
                "in an action" if field in action else "one of these" if field in target
                else "yes" if field in required else "",
                rule,
            )
            for field, rule in RULES.items() if field
        ),
    )  # fmt: skip


def status_codes() -> str:
    """Every status_code with the status it belongs to."""
    family = {"SENT": codes.Status.DISPATCHED}
    rows = []
    for code in codes.StatusCode:
        first = code.name.split("_")[0]
        rows.append((code.value, f"`{family.get(first) or codes.Status(first)}`", codes.STATUS_TEXT[code]))
    return table(("status_code", "status", "meaning"), rows)


def dead_letters() -> str:
    return table(("reason", "meaning"), ((f"`{reason}`", text) for reason, text in DEAD_LETTERS.items()))


def topics() -> str:
    rows = [(f"`{topic}`", f"events of priority {topic.rpartition('.')[2]}") for topic in TOPICS]
    rows.append((f"`{TOPIC_DEAD}`", "records that can never be taken, sealed"))
    rows.append((f"`{TOPIC_STATUS}`", "what became of notifications, from Herald to you"))
    return table(("topic", "holds"), rows)


def closes() -> str:
    return table(
        ("code", "reason", "reconnect"),
        ((close.code, close.reason, "yes" if close.reconnect else "no") for close in codes.CLOSES),
    )


def refusals() -> str:
    return table(
        ("status", "`error`", "headers"),
        (
            (
                refusal.status,
                f"`{refusal.code}`",
                ", ".join(f"`{name}: {value}`" for name, value in refusal.headers),
            )
            for refusal in codes.REFUSALS
        ),
    )


def refused_frames() -> str:
    """What a refused token in a subprotocol or an `auth` frame is told, and how its connection closes."""
    from gateway.connections import _REFUSED

    rows = [(refusal.code, close, retry_ms) for refusal, (close, retry_ms) in _REFUSED.items()]
    rows.append(("too_many_devices", codes.Closes.TOO_FAST, limits.INBOX_DEADLINE_MS))  # gateway/resume.py
    return table(
        ("`code`", "closes with", "`retry_ms`"),
        ((f"`{code}`", close.code, "" if retry_ms is None else retry_ms) for code, close, retry_ms in rows),
    )


def gateway_metrics() -> str:
    return _metrics("gateway")


def worker_metrics() -> str:
    return _metrics("worker")


def _metrics(folder: str) -> str:
    """The metrics of notification/telemetry.py that a package counts."""
    files = [*(ROOT / folder).rglob("*.py"), ROOT / "notification" / "bus.py"]
    used = "".join(path.read_text("utf-8") for path in files)
    rows = []
    for name, metric in vars(telemetry).items():
        if isinstance(metric, Counter | Gauge | Histogram) and re.search(rf"\b{name}\b", used):
            (family,) = metric.describe()
            suffix = "_total" if isinstance(metric, Counter) else ""
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            rows.append((f"`{family.name}{suffix}`", family.type, labels, family.documentation))
    return table(("metric", "type", "labels", "what"), rows)


def errors() -> str:
    return table(("code", "meaning"), ((f"`{code}`", text) for code, text in codes.ERRORS.items()))


def client_limits() -> str:
    return table(("limit", "what"), ((_amount(name), text) for name, text in CLIENT_LIMITS.items()))


def _amount(name: str) -> str:
    value: int = getattr(limits, name, None) or getattr(frames, name)
    words = set(name.split("_"))
    if "MS" in words:
        return f"{value / 1000:g} s"
    if "BYTES" in words:
        return f"{value:,} bytes"
    return f"{value} s" if name.endswith("_LEEWAY_S") else f"{value:,}"


def kernel_settings() -> str:
    """Every row of tuning/settings.py with its target on a c5.2xlarge."""
    from tuning.machine import Machine
    from tuning.settings import SETTINGS, Ask, Better

    large = Machine(8, 16 * 2**30, 4_096, "", None, True, True, True, None)
    rows = []
    for each in SETTINGS:
        target = each.target(large, Ask())
        shown = target if isinstance(target, str) else " ".join(map(str, target))
        when = "`--load-generator`" if each.load_generator else ""
        when = when or ("`--force`" if each.better in (Better.LOWER, Better.WORD) else "")
        rows.append((f"`{each.key}`", shown, when, each.why, each.source))
    return table(("setting", "target", "only with", "why", "source"), rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "topics": topics,
    "event-fields": event_fields,
    "dead-letters": dead_letters,
    "status-codes": status_codes,
    "closes": closes,
    "refusals": refusals,
    "refused-frames": refused_frames,
    "gateway-metrics": gateway_metrics,
    "worker-metrics": worker_metrics,
    "errors": errors,
    "client-limits": client_limits,
    "kernel-settings": kernel_settings,
}


def renewed(text: str) -> str:
    """The text with every marked table made anew."""
    return BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[4], text)


def main() -> None:
    """Write the tables of every page."""
    for page in sorted(DOCS.glob("*.md")):
        _write(page)


def _write(page: Path) -> None:
    text = page.read_text("utf-8")
    if renewed(text) != text:
        page.write_text(renewed(text), "utf-8")


if __name__ == "__main__":
    main()
