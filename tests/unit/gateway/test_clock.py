"""Database time, judged on the monotonic clock."""

from gateway.clock import DatabaseClock

EPOCH_MS = 1_800_000_000_000


def test_nothing_expires_before_a_first_message() -> None:
    assert not DatabaseClock().expired(1, 1_000)


def test_zero_is_never() -> None:
    clock = DatabaseClock()
    clock.observe(EPOCH_MS, 0)
    assert not clock.expired(0, 10**9)


def test_expiry_counts_from_the_database_time_of_the_message() -> None:
    clock = DatabaseClock()
    clock.observe(EPOCH_MS, 5_000)
    assert not clock.expired(EPOCH_MS + 100, 5_099)
    assert clock.expired(EPOCH_MS + 100, 5_100)


def test_a_held_up_message_does_not_turn_the_clock_back() -> None:
    clock = DatabaseClock()
    clock.observe(EPOCH_MS, 5_000)
    clock.observe(EPOCH_MS + 10, 8_010)  # three seconds on its way
    assert clock.expired(EPOCH_MS + 2_000, 8_010)


def test_a_better_estimate_is_forgotten_after_two_windows() -> None:
    clock = DatabaseClock()
    clock.observe(EPOCH_MS + 5_000, 0)  # the database jumped ahead once
    for second in range(1, 200):
        clock.observe(EPOCH_MS + second * 1_000, second * 1_000)
    assert not clock.expired(EPOCH_MS + 200_500, 200_000)


def test_the_database_time_now() -> None:
    clock = DatabaseClock()
    assert clock.at(77) == 0  # nothing is known, so nothing has expired
    clock.observe(EPOCH_MS, 5_000)
    assert clock.at(5_250) == EPOCH_MS + 250
