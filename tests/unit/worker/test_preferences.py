"""worker.preferences: who wants what; tests/stack/test_preferences.py has the storing transaction."""

import pytest

from worker.preferences import Preferences, decode


@pytest.mark.parametrize(
    ("kind", "topic", "wanted"),
    [
        ("service", None, True), ("promotional", None, False), ("promotional", "other", False),
        ("promotional", "order-news", True), ("service", "digest", False), ("system_alert", None, True),
        ("system_alert", "digest", True),
    ],
)  # fmt: skip
def test_the_topic_decides_then_the_type_and_alerts_always_come(kind: str, topic: str | None, wanted: bool) -> None:
    preferences = Preferences({"promotional": False}, {"order-news": True, "digest": False})
    assert preferences.wants(kind, topic) is wanted


def test_an_alert_comes_whatever_is_stored() -> None:
    assert Preferences({"system_alert": False}).wants("system_alert", None)


def test_nothing_set_is_nothing() -> None:
    assert decode(None) is None
    assert decode('{"topics": {"a": false}}') == Preferences({}, {"a": False})
