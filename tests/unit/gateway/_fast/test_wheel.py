"""gateway/_fast/wheel over the extension and its twin."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._fast import wheel as extension
from tests.reference import wheel as twin
from tests.unit.gateway._fast.extensions import both, is_extension


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


@both(extension, twin)
class TestWheel:
    def test_fires_at_or_after_the_deadline_and_within_a_tick(self, module: Any) -> None:
        for due_ms in range(1_000, 1_400, 7):
            wheel = module.Wheel(100, 16, 1_000)
            wheel.arm("x", due_ms)
            fired_ms = next(now for now in range(1_000, 2_000) if wheel.advance(now))
            assert due_ms <= fired_ms <= due_ms + 100

    def test_hands_out_in_slot_order_and_forgets(self, module: Any) -> None:
        wheel = module.Wheel(100, 16, 0)
        wheel.arm("late", 500)
        wheel.arm("early", 200)
        wheel.arm("late too", 450)
        assert len(wheel) == 3
        assert wheel.advance(1_000) == ["early", "late", "late too"]
        assert len(wheel) == 0
        assert wheel.advance(5_000) == []

    def test_a_deadline_in_the_past_fires_with_the_next_tick(self, module: Any) -> None:
        wheel = module.Wheel(100, 16, 10_000)
        wheel.arm("x", 3)
        assert wheel.advance(10_050) == []
        assert wheel.advance(10_100) == ["x"]

    def test_beyond_the_horizon_waits_in_the_last_slot(self, module: Any) -> None:
        wheel = module.Wheel(100, 4, 0)
        wheel.arm("x", 1_000_000)
        assert wheel.advance(399) == []
        assert wheel.advance(400) == ["x"]

    def test_a_stall_longer_than_a_round_loses_nothing(self, module: Any) -> None:
        wheel = module.Wheel(100, 4, 0)
        for number in range(4):
            wheel.arm(number, (number + 1) * 100)
        assert wheel.advance(1_000_000_000) == [0, 1, 2, 3]
        wheel.arm("next", 1_000_000_150)
        assert wheel.advance(1_000_000_199) == []
        assert wheel.advance(1_000_000_200) == ["next"]

    def test_a_clock_that_stands_or_steps_back_fires_nothing_twice(self, module: Any) -> None:
        wheel = module.Wheel(100, 8, 0)
        wheel.arm("x", 300)
        assert wheel.advance(300) == ["x"]
        assert wheel.advance(300) == []
        assert wheel.advance(100) == []
        wheel.arm("y", 200)
        assert wheel.advance(300) == []
        assert wheel.advance(400) == ["y"]

    def test_takes_the_same_item_twice(self, module: Any) -> None:
        wheel = module.Wheel(100, 8, 0)
        wheel.arm("x", 100)
        wheel.arm("x", 100)
        assert wheel.advance(100) == ["x", "x"]

    @pytest.mark.parametrize(("tick_ms", "slots"), [(0, 8), (-1, 8), (100, 1), (100, 0)])
    def test_refuses_a_shape_that_cannot_turn(self, module: Any, tick_ms: int, slots: int) -> None:
        with pytest.raises(ValueError, match="wheel"):
            module.Wheel(tick_ms, slots, 0)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.integers(-500, 3_000)),  # relative to the clock
        st.tuples(st.just("advance"), st.integers(-50, 2_500)),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 130), st.integers(2, 9), st.integers(0, 10_000), _STEPS)
def test_extension_and_twin_agree(tick_ms: int, slots: int, now_ms: int, steps: list[tuple[str, int]]) -> None:
    ours: Any = extension.Wheel(tick_ms, slots, now_ms)
    theirs: Any = twin.Wheel(tick_ms, slots, now_ms)
    for number, (name, by_ms) in enumerate(steps):
        if name == "arm":
            ours.arm(number, now_ms + by_ms)
            theirs.arm(number, now_ms + by_ms)
        else:
            now_ms += by_ms
            assert ours.advance(now_ms) == theirs.advance(now_ms)
        assert len(ours) == len(theirs)
    assert ours.advance(10**9) == theirs.advance(10**9)
    assert len(ours) == 0
