"""notification.telemetry: pseudonyms and low-cardinality metrics."""

import io
import json
import sys

import prometheus_client
import pytest
import structlog

from notification import telemetry

METRICS = [
    value for value in vars(telemetry).values() if isinstance(value, prometheus_client.metrics.MetricWrapperBase)
]


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_pseudonym_key", b"unset")


def test_a_pseudonym_is_stable_keyed_and_hides_the_user() -> None:
    telemetry.configure("info", b"one key", json=True)
    first = telemetry.pseudonym("demo", "ann@example.com")
    assert first == telemetry.pseudonym("demo", "ann@example.com")
    assert first != telemetry.pseudonym("other", "ann@example.com")
    assert len(first) == 16
    int(first, 16)
    telemetry.configure("info", b"another key", json=True)
    assert first != telemetry.pseudonym("demo", "ann@example.com")
    structlog.reset_defaults()


def test_logs_are_json_lines_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    telemetry.configure("info", b"k", json=True)
    try:
        structlog.get_logger("x").debug("hidden")
        structlog.get_logger("x").info("shown", count=1)
    finally:
        structlog.reset_defaults()
    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["count"], entry["level"]) == ("shown", 1, "info")


def test_metrics_are_ours_and_labels_few() -> None:
    assert METRICS
    for metric in METRICS:
        assert metric._name.startswith("herald_")
        assert metric._documentation
        assert not set(metric._labelnames) & {"tenant", "user", "device", "id", "gateway_id"}
        assert len(metric._labelnames) <= 2
