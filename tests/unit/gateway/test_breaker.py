"""The circuit breaker, by a clock of the test's own."""

from gateway.breaker import Breaker


def opened(now_ms: int = 0) -> Breaker:
    breaker = Breaker(failures_max=3, open_ms=100)
    assert [breaker.failed(now_ms) for _ in range(3)] == [False, False, True]
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(failures_max=3, open_ms=100)
    for _ in range(5):
        assert not breaker.failed(0)
        assert not breaker.failed(0)
        assert not breaker.succeeded()
        assert breaker.admit(0)
    assert opened().open


def test_open_it_admits_one_per_interval() -> None:
    breaker = opened(50)
    assert [breaker.admit(now_ms) for now_ms in (50, 149, 150, 151, 249, 250, 251)] == [
        False, False, True, False, False, True, False,
    ]  # fmt: skip


def test_a_failed_try_leaves_it_open() -> None:
    breaker = opened()
    assert breaker.admit(100)
    assert not breaker.failed(120)  # it was open before
    assert not breaker.admit(199)
    assert breaker.admit(200)


def test_a_success_closes_it_for_everybody() -> None:
    breaker = opened()
    assert breaker.admit(100)
    assert breaker.succeeded()
    assert not breaker.open
    assert all(breaker.admit(101) for _ in range(5))
    assert not breaker.failed(101)  # counted from the start again


def test_late_failures_of_what_was_asked_before_change_nothing() -> None:
    breaker = opened()
    assert not any(breaker.failed(90) for _ in range(10))
    assert breaker.admit(100)
