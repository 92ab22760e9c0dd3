"""herald send: what is sent, what is rejected, and that the two are always counted."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from herald import operations, producer
from herald.commands import send
from tests.unit.herald.conftest import Herald
from tests.unit.herald.documented import documented, same_shape


class Kafka:
    """Stands in for EventProducer: keeps what is published, fails from number `fails_from` on."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, str, dict[str, Any]]] = []
        self.fails_from = 1_000_000
        self.in_flight = 0
        self.in_flight_max = 0

    def __call__(self, _: object) -> "Kafka":
        return self

    async def __aenter__(self) -> "Kafka":
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.in_flight == 0

    async def publish(self, priority: str, key: bytes, record: bytes) -> None:
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        if len(self.records) >= self.fails_from:
            raise producer.NotAccepted("Kafka did not acknowledge: RequestTimedOutError")
        tenant, _, user = key.decode().partition(":")
        self.records.append((priority, tenant, user, json.loads(record)))


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    fake = Kafka()
    monkeypatch.setattr(producer, "EventProducer", fake)
    return fake


ONE = ("send", "--tenant", "demo", "--user", "ann", "--title", "T", "--body", "B")


def event(user: str, **fields: object) -> str:
    return json.dumps({"tenant_id": "demo", "user_id": user, "payload": {"title": "T", "body": "B"}, **fields})


def test_options_make_one_event_per_user(herald: Herald, kafka: Kafka) -> None:
    Path("users").write_text("carol\nann\n")
    result = herald(
        *ONE, "--user", "bob", "--user", "@users", "--priority", "high", "--type", "system_alert", "--ttl", "60",
        "--image", "https://x/i.png", "--action", "Go=https://x", "--data", '{"a":1}', "--collapse-key", "k",
        "--json",
    )  # fmt: skip
    assert result.code == 0
    assert [row["user_id"] for row in result.rows] == ["ann", "bob", "carol"]
    assert all(same_shape(row, documented("cli-send")) for row in result.rows)
    priority, tenant, user, record = kafka.records[0]
    assert (priority, tenant, user) == ("high", "demo", "ann")
    assert record == {
        "id": result.rows[0]["id"], "tenant_id": "demo", "user_id": "ann", "type": "system_alert", "ttl": 60,
        "collapse_key": "k",
        "payload": {
            "title": "T", "body": "B", "image": "https://x/i.png",
            "actions": [{"id": "action-1", "label": "Go", "url": "https://x"}], "data": {"a": 1},
        },
    }  # fmt: skip


def test_without_json_the_id_alone_is_printed(herald: Herald, kafka: Kafka) -> None:
    result = herald(*ONE)
    assert result.out.strip() == kafka.records[0][3]["id"]
    assert result.err == ""


def test_from_options_nothing_is_sent_unless_all_is_right(herald: Herald, kafka: Kafka) -> None:
    for wrong, says in (
        (("--user", "b b"), "--user: must be"), (("--ttl", "0"), "ttl: must be"),
        (("--image", "x"), "payload.image: "),
        (("--user", "bob", "--id", "01936b5e-4c00-7000-8000-000000000001"), "--id names one notification"),
    ):  # fmt: skip
        result = herald(*ONE, *wrong)
        assert (result.code, result.out) == (2, "")
        assert says in result.err
    assert kafka.records == []


def test_a_users_file_without_users_is_named(herald: Herald, kafka: Kafka) -> None:
    for text in ("", " \n\n"):
        Path("empty.txt").write_text(text)
        result = herald("send", "--tenant", "demo", "--user", "@empty.txt", "--title", "T", "--body", "B")
        assert (result.code, result.out) == (2, "")
        assert result.err == "error: --user: empty.txt: must hold at least one user id, one per line\n"
    Path("latin.txt").write_bytes(b"\xff")
    assert "--user: latin.txt: must be text in UTF-8" in herald(*ONE, "--user", "@latin.txt").err
    assert kafka.records == []


@pytest.mark.parametrize("in_flight_max", [7, 500])
def test_when_stdout_is_full_one_line_says_so(
    herald: Herald, kafka: Kafka, monkeypatch: pytest.MonkeyPatch, in_flight_max: int
) -> None:
    monkeypatch.setattr(send, "IN_FLIGHT_MAX", in_flight_max)
    Path("events.jsonl").write_text("".join(event(f"u{number}") + "\n" for number in range(50)))
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        result = herald("send", "--file", "events.jsonl", "--json")
        assert result.code == 1
        summary, reason = result.err.splitlines()
        assert summary.startswith("sent ")
        assert reason == "error: reading or writing failed: No space left on device"


def test_a_file_is_sent_line_by_line_and_bad_lines_are_named(herald: Herald, kafka: Kafka) -> None:
    lines = [event("u1"), "{", "", event("u2", priority="high", type="promotional"), event("u3", ttl=0)]
    Path("events.jsonl").write_text("\n".join(lines))
    result = herald("send", "--file", "events.jsonl", "--ttl", "90", "--json")
    assert result.code == 1
    assert sorted((r[0], r[2], r[3]["type"], r[3]["ttl"]) for r in kafka.records) == [
        ("high", "u2", "promotional", 90), ("medium", "u1", "service", 90),
    ]  # fmt: skip
    rejected = [row for row in result.rows if row["status"] == "rejected"]
    assert [(row["line"], row["field"]) for row in rejected] == [(2, "event"), (5, "ttl")]
    assert all(same_shape(row, documented("cli-send-rejected")) for row in rejected)
    errors = result.err.splitlines()
    assert errors[0].startswith("error: line 2: event: ")
    assert errors[1].startswith("error: line 5: ttl: ")
    assert errors[-1] == "sent 2, rejected 2"


def test_many_lines_are_bounded_in_flight(herald: Herald, kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "IN_FLIGHT_MAX", 7)
    Path("events.jsonl").write_text("".join(event(f"u{number}") + "\n" for number in range(50)))
    result = herald("send", "--file", "events.jsonl")
    assert (result.code, result.err) == (0, "sent 50, rejected 0\n")
    assert kafka.in_flight_max <= 7
    assert result.out == ""


def test_when_kafka_stops_the_rest_is_not_tried_and_that_is_said(
    herald: Herald, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "IN_FLIGHT_MAX", 1)
    kafka.fails_from = 2
    Path("events.jsonl").write_text("".join(event(f"u{number}") + "\n" for number in range(9)))
    result = herald("send", "--file", "events.jsonl")
    assert result.code == 1
    assert len(kafka.records) == 2
    assert "error: line 3: " in result.err
    assert "did not acknowledge: RequestTimedOutError" in result.err
    assert "error: stopped before line 4" in result.err
    assert result.err.splitlines()[-1] == "sent 2, rejected 1"


def test_a_file_and_payload_options_do_not_mix(herald: Herald, kafka: Kafka) -> None:
    Path("events.jsonl").write_text(event("u1"))
    result = herald("send", "--file", "events.jsonl", "--title", "T")
    assert result.code == 2
    assert "--file takes the payload" in result.err
    assert kafka.records == []


def test_an_empty_file_sends_nothing(herald: Herald, kafka: Kafka) -> None:
    Path("events.jsonl").write_text("\n\n")
    assert herald("send", "--file", "events.jsonl").err == "sent 0, rejected 0\n"


@pytest.fixture
def vip(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The members of segment vip, as role admin would read them."""
    members = ["ann", "bob", "carol"]

    async def expand(settings: object, tenant: str, segment: str) -> list[str] | None:
        assert tenant == "demo"
        return {"vip": members, "large": None}[segment]

    monkeypatch.setattr(operations, "expand_segment", expand)
    return members


TO_VIP = ("send", "--tenant", "demo", "--segment", "vip", "--title", "T", "--body", "B")


def test_each_member_of_a_segment_gets_the_notification_under_one_id(
    herald: Herald, kafka: Kafka, vip: list[str]
) -> None:
    result = herald(*TO_VIP, "--priority", "high")
    ident = result.out.strip()
    assert (result.code, result.err) == (0, "sent 3, rejected 0\n")
    assert [(r[0], r[1], r[2], r[3]["user_id"], r[3]["id"]) for r in kafka.records] == [
        ("high", "demo", user, user, ident) for user in vip
    ]
    again = herald(*TO_VIP, "--id", ident, "--json")
    assert [(row["user_id"], row["id"]) for row in again.rows] == [(user, ident) for user in vip]
    assert all(same_shape(row, documented("cli-send")) for row in again.rows)


def test_a_segment_without_members_is_said(herald: Herald, kafka: Kafka, vip: list[str]) -> None:
    vip.clear()
    result = herald(*TO_VIP)
    assert (result.code, result.out, result.err) == (1, "", "error: segment: vip has no members\n")
    assert kafka.records == []


def test_a_segment_that_kafka_takes_in_part_is_counted(
    herald: Herald, kafka: Kafka, vip: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "IN_FLIGHT_MAX", 1)
    kafka.fails_from = 1
    result = herald(*TO_VIP)
    assert result.code == 1
    assert "error: stopped after 2 of 3: Kafka does not acknowledge" in result.err
    assert result.err.splitlines()[-1] == "sent 1, rejected 1"


@pytest.mark.parametrize("audience", [("--segment", "vip"), ("--tenant-wide",)])
def test_an_audience_and_a_file_or_a_user_do_not_mix(
    herald: Herald, kafka: Kafka, audience: tuple[str, ...]
) -> None:
    Path("events.jsonl").write_text(event("u1"))
    result = herald("send", "--file", "events.jsonl", *audience)
    assert result.code == 2
    assert "--file takes the payload" in result.err
    result = herald(*ONE, *audience)
    assert (result.code, "give one of --user, --segment and --tenant-wide" in result.err) == (2, True)
    assert kafka.records == []


@pytest.mark.parametrize(
    ("options", "to", "audience"),
    [
        (("--tenant-wide",), {"audience": "tenant"}, "tenant"),
        (("--segment", "large"), {"segment_id": "large"}, "segment:large"),
    ],
)
def test_an_audience_is_one_event_under_the_tenants_key(
    herald: Herald, kafka: Kafka, vip: list[str], options: tuple[str, ...], to: dict[str, str], audience: str
) -> None:
    line = ("send", "--tenant", "demo", *options, "--title", "T", "--body", "B", "--priority", "low")
    result = herald(*line)
    assert (result.code, result.err) == (0, "" if audience == "tenant" else "sent 1, rejected 0\n")
    [(priority, tenant, user, record)] = kafka.records
    assert (priority, tenant, user, record["id"]) == ("low", "demo", "", result.out.strip())
    assert {name: record.get(name) for name in ("user_id", "audience", "segment_id") if name in record} == to
    again = herald(*line, "--id", record["id"], "--json")
    assert [row["audience"] for row in again.rows] == [audience]
    assert same_shape(again.rows[0], documented("cli-send-audience"))
    assert kafka.records[1] == kafka.records[0]


def test_a_line_of_a_file_may_name_an_audience_beside_a_default_user(herald: Herald, kafka: Kafka) -> None:
    lines: list[dict[str, Any]] = [{}, {"audience": "tenant"}, {"segment_id": "vip"}, {"audience": "all"}]
    body = {"payload": {"title": "T", "body": "B"}}
    Path("events.jsonl").write_text("".join(json.dumps({**line, **body}) + "\n" for line in lines))
    result = herald("send", "--file", "events.jsonl", "--tenant", "demo", "--user", "ann", "--json")
    assert sorted(row.get("user_id") or row.get("audience") or row["field"] for row in result.rows) == [
        "ann", "audience", "segment:vip", "tenant",
    ]  # fmt: skip
