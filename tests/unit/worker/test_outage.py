import time

import pytest

from notification.errors import Unavailable
from notification.limits import OUTAGE_DELAY_MS_MAX, OUTAGE_DELAY_MS_MIN
from worker import outage


def test_delays_double_to_their_bound_and_start_again() -> None:
    backoff = outage.Backoff()
    delays_ms = [backoff.next_s() * 1000 for _ in range(12)]
    assert OUTAGE_DELAY_MS_MIN / 2 <= delays_ms[0] <= OUTAGE_DELAY_MS_MIN
    assert all(OUTAGE_DELAY_MS_MAX / 2 <= delay <= OUTAGE_DELAY_MS_MAX for delay in delays_ms[6:])
    backoff.reset()
    assert backoff.next_s() * 1000 <= OUTAGE_DELAY_MS_MIN


async def test_a_server_that_comes_late_is_waited_for() -> None:
    tries = 0

    async def connect() -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ConnectionRefusedError
        return "connected"

    assert await outage.until_up(connect, "PostgreSQL", (OSError,), 10) == "connected"


async def test_a_server_that_stays_down_is_named() -> None:
    async def connect() -> None:
        raise ConnectionRefusedError

    started_s = time.monotonic()
    with pytest.raises(Unavailable, match=r"PostgreSQL at x:1 did not answer within 0\.3 s"):
        await outage.until_up(connect, "PostgreSQL at x:1", (OSError,), 0.3)
    assert time.monotonic() - started_s < 8


async def test_another_error_is_not_waited_out() -> None:
    async def connect() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await outage.until_up(connect, "x", (OSError,), 10)


def test_the_origin_of_an_error_is_a_place_and_never_its_text() -> None:
    with pytest.raises(ValueError, match="Canary") as caught:
        int("Canary")
    assert "Canary" not in outage.origin(caught.value)
    assert outage.origin(caught.value).startswith("ValueError at test_outage.py:")
