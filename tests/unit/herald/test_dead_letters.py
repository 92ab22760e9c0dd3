"""herald.dead_letters: what a replay would do, before anything is sent."""

import json
import time
from typing import Any

import pytest

from herald.dead_letters import Wanted, judge
from notification import names
from notification.errors import InvalidInput
from notification.ids import new_uuid7
from worker.admission import Admitted
from worker.dead_letter_reader import Letter, LetterName

NOW_MS = time.time_ns() // 1_000_000
DAY_MS = 86_400_000


def a_letter(ago_ms: int = 0, topic: str = names.TOPICS[0], **headers: str) -> Letter:
    event: dict[str, Any] = {
        "id": str(new_uuid7(NOW_MS - ago_ms)), "tenant_id": "shop", "user_id": "ann", "type": "service",
        "payload": {"title": "T", "body": "B"}, "ttl": 60,
    }  # fmt: skip
    known = {
        "reason": "unknown_tenant",
        "topic": topic,
        "partition": "3",
        "offset": "41",
        "tenant_id": "shop",
        "sealed_under": "tenant",
    }
    return Letter(LetterName(0, 17), NOW_MS - ago_ms, b"shop:ann", json.dumps(event).encode(), known | headers)


@pytest.mark.parametrize("priority", range(3))
def test_a_letter_whose_cause_may_be_gone_is_sent_as_it_was(priority: int) -> None:
    letter = a_letter(ago_ms=DAY_MS - 60_000, topic=names.TOPICS[priority])
    verdict = judge(letter, NOW_MS)
    assert isinstance(verdict, Admitted)
    assert (verdict.tenant, verdict.user, verdict.priority) == ("shop", "ann", priority)
    assert (verdict.record.key, verdict.record.value) == (letter.key, letter.value)
    assert verdict.expiry_ms == NOW_MS + 60_000  # a replay lives anew


def test_an_id_older_than_a_day_would_be_rejected_again() -> None:
    verdict = judge(a_letter(ago_ms=DAY_MS + 1), NOW_MS)
    assert isinstance(verdict, str)
    assert verdict.startswith("would be rejected again: bad_id: id: its time must be at most 24 h before")
    assert verdict.endswith("(a replay counts as sent now)")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": b"\xff"}, "would be rejected again: not_json: record: is not JSON"),
        ({"value": None}, "would be rejected again: not_json: record: has no value"),
        ({"value": b"[]"}, "would be rejected again: schema: event: must be an object"),
        ({"key": b"shop:bob"}, "would be rejected again: wrong_key: key: must be"),
        ({"key": None}, "would be rejected again: wrong_key: key: must be"),
        ({"headers": {"topic": names.TOPICS[0]}}, "is none of Herald's: no worker sealed it"),
        ({"headers": {}}, "is none of Herald's: no worker sealed it"),
        ({"headers": {"topic": names.TOPIC_DEAD, "sealed_under": "platform"}}, "is none of Herald's"),
        ({"value": b"", "headers": {"value_sha256": "00"}}, "its value was too large to be kept"),
    ],
)
def test_what_makes_a_replay_useless_is_said(changes: dict[str, Any], says: str) -> None:
    verdict = judge(a_letter()._replace(**changes), NOW_MS)
    assert isinstance(verdict, str)
    assert verdict.startswith(says)


@pytest.mark.parametrize(
    ("tenant", "reason", "fits"),
    [
        ("", "", True), ("shop", "", True), ("", "unknown_tenant", True), ("shop", "unknown_tenant", True),
        ("shop2", "", False), ("shop", "schema", False), ("shop2", "unknown_tenant", False),
    ],
)  # fmt: skip
def test_letters_are_chosen_by_tenant_and_reason(tenant: str, reason: str, fits: bool) -> None:
    assert Wanted.of((), tenant, reason).fits(a_letter()) is fits


def test_a_wrong_choice_is_refused() -> None:
    for arguments, field in (((["7"],), "LETTER"), (((), "a b"), "--tenant"), (((), "", "bad"), "--reason")):
        with pytest.raises(InvalidInput) as caught:
            Wanted.of(*arguments)
        assert caught.value.field == field
