"""fuzz/target: what counts as a difference."""

import pytest

from fuzz.target import Difference, outcome, same


def test_equal_values_of_one_type_are_the_same() -> None:
    same("x", (1, b"a"), (1, b"a"))
    for ours, twins in ((1, 2), (1, True), (b"", None)):
        with pytest.raises(Difference, match=r"^x: extension"):
            same("x", ours, twins)


def test_an_outcome_is_a_value_or_an_expected_error() -> None:
    assert outcome(int, "7") == 7
    assert outcome(int, "x", raising=(ValueError,)) is ValueError
    with pytest.raises(TypeError):
        outcome(int, [], raising=(ValueError,))
