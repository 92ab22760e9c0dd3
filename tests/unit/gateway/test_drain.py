"""The waves of a drain, on a clock of the test; over sockets: tests/flow/test_gateway_lifetime.py."""

import json
from typing import Any

import pytest

from gateway import drain
from gateway._fast.session import Session
from notification.codes import Closes
from notification.limits import CLOSE_DEADLINE_MS, DRAIN_WINDOW_MS
from tests.unit.gateway._fast.sessions import frames


class Clock:
    """Time passes only while the drain sleeps."""

    def __init__(self) -> None:
        self.ms = 1_000

    def now_ms(self) -> int:
        return self.ms

    async def sleep(self, seconds: float) -> None:
        self.ms += round(seconds * 1_000)


class Client:
    """A connection that writes down what it was told and when it was closed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.session = Session(0)
        self.delay_ms = -1
        self.closed: tuple[int, int] | None = None  # (ms, code)

    def is_open(self) -> bool:
        return self.closed is None

    def flush(self) -> None:
        ((_, payload),) = frames(self.session.take())
        self.delay_ms = json.loads(payload)["delay_ms"]

    def close(self, code: int, reason: str) -> None:
        self.closed = self._clock.ms, code


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(drain, "now_ms", clock.now_ms)
    monkeypatch.setattr(drain.asyncio, "sleep", clock.sleep)
    return clock


async def test_closes_come_in_waves_after_the_delay_that_each_was_told(clock: Clock) -> None:
    clients: list[Any] = [Client(clock) for _ in range(200)]
    started_ms = clock.ms
    await drain.send_away(list(clients), lambda: sum(client.is_open() for client in clients), DRAIN_WINDOW_MS)
    assert len({client.delay_ms for client in clients}) > 100
    waves: dict[int, int] = {}
    for client in clients:
        at_ms, code = client.closed
        assert code == Closes.DRAIN.code
        assert client.delay_ms < at_ms - started_ms <= client.delay_ms + 500
        waves[at_ms] = waves.get(at_ms, 0) + 1
    assert len(waves) > 50
    assert max(waves.values()) < 10
    assert clock.ms - started_ms <= DRAIN_WINDOW_MS + 100


async def test_who_leaves_by_itself_is_not_closed_again_and_the_deaf_are_not_waited_for(clock: Clock) -> None:
    gone: Any = Client(clock)
    gone.close(1000, "")
    await drain.send_away([gone], lambda: 1, DRAIN_WINDOW_MS)
    assert gone.closed == (1_000, 1000)
    assert gone.delay_ms == -1
    assert clock.ms - 1_000 <= CLOSE_DEADLINE_MS + 200
