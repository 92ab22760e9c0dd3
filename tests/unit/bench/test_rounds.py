"""bench/rounds.py: order, ratios, spreads."""

from collections import Counter

import pytest

from bench.rounds import Figures, Spread, order, ratios, spread


def test_spread_is_median_and_ends() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0, 4)


def test_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no rounds"):
        spread([])


def test_ratios_are_taken_within_a_round() -> None:
    """The machine became half as fast in the second round; the ratio did not change."""
    assert ratios([12.0, 24.0], [6.0, 12.0]) == [2.0, 2.0]


@pytest.mark.parametrize(("candidate", "base"), [([1.0], [1.0, 2.0]), ([1.0], [0.0])])
def test_ratios_refuse_other_rounds_and_a_base_of_nothing(candidate: list[float], base: list[float]) -> None:
    with pytest.raises(ValueError, match=r"rounds against|base of a ratio"):
        ratios(candidate, base)


def test_every_contestant_has_its_turn_in_every_round() -> None:
    turns = list(order(["a", "b", "c"], 5, seed=1))
    assert Counter(turns) == {(number, name): 1 for number in range(5) for name in "abc"}
    assert [number for number, _ in turns] == sorted(number for number, _ in turns)


def test_the_order_changes_between_rounds() -> None:
    turns = [name for _, name in order(["a", "b"], 20, seed=1)]
    firsts = set(turns[::2])
    assert firsts == {"a", "b"}


def test_figures_report_spread_values_and_ratio() -> None:
    figures = Figures(["floor", "engine"])
    for floor, engine in ((5.0, 10.0), (6.0, 9.0), (4.0, 10.0)):
        figures.add("engine", engine)
        figures.add("floor", floor)
    report = figures.report("floor")
    assert report["floor"] == {"median": 5.0, "low": 4.0, "high": 6.0, "rounds": 3, "values": [5.0, 6.0, 4.0],
                               "ratio": None}  # fmt: skip
    assert report["engine"]["ratio"] == {"median": 2.0, "low": 1.5, "high": 2.5, "rounds": 3}


def test_a_spread_is_shown_with_its_range_unless_there_was_one_round() -> None:
    assert Spread(1234.5, 1.0, 2.0, 5).shown() == "1,234.50 (1.00 to 2.00)"
    assert Spread(1.25, 1.25, 1.25, 1).shown(1) == "1.2"
