"""Advice appears where it would change something, and only there."""

from dataclasses import replace

import pytest

from tests.unit.tuning.test_settings import C5_2XLARGE
from tuning.card import advice
from tuning.machine import Card

GOOD = Card("eth0", "ena", 8, 8, ("00",) * 8, tuple(f"{1 << core:02x}" for core in range(8)))


@pytest.mark.parametrize(
    ("card", "keys"),
    [
        (None, []),
        (GOOD, []),
        (replace(GOOD, rx_queues=4), ["RSS queues of eth0 (ena)"]),
        (replace(GOOD, rps=("ff",) * 8), ["RPS of eth0"]),
        (replace(GOOD, xps=("00",) * 8), ["XPS of eth0"]),
        (replace(GOOD, xps=("",) * 8), []),  # a driver without XPS
    ],
)
def test_advice(card: Card | None, keys: list[str]) -> None:
    assert [row.key for row in advice(replace(C5_2XLARGE, card=card))] == keys


def test_without_irqbalance_it_is_named() -> None:
    rows = list(advice(replace(C5_2XLARGE, card=GOOD, irqbalance=False)))
    assert [row.key for row in rows] == ["irqbalance"]
    assert all("untested" in row.source for row in rows)
