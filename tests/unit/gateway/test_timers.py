"""What is due of a connection beside its pings. (Pings: tests/unit/gateway/_fast/test_pulse.py.)"""

from typing import cast

import pytest

from gateway._fast.carrier import Connection
from gateway._fast.session import CLOSING, Session
from gateway.timers import Timers
from notification.codes import Close, Closes
from notification.limits import AUTH_DEADLINE_MS

NOW_MS = 50_000


class FakeConnection:
    def __init__(self, authenticated: bool = True, expiry_ms: int = 0) -> None:
        self.session = Session(0)
        if authenticated:
            self.session.authenticate("t", "u", "phone", bytes(16), b"t:dQ", 7, expiry_ms)
        self.opened_ms = NOW_MS - AUTH_DEADLINE_MS
        self.deadline_ms = 0
        self.aborted = False

    def is_open(self) -> bool:
        return self.session.phase < CLOSING

    def close(self, code: int, reason: str) -> None:
        self.session.close(code, reason)

    def abort(self) -> None:
        self.aborted = True


def expired(connection: FakeConnection, now_ms: int = NOW_MS) -> FakeConnection:
    Timers().expire(cast("Connection", connection), now_ms)
    return connection


@pytest.mark.parametrize(
    ("connection", "close"),
    [
        (FakeConnection(authenticated=False), Closes.AUTH_TIMEOUT),
        (FakeConnection(expiry_ms=NOW_MS), Closes.TOKEN_EXPIRED),
    ],
)
def test_closes_when_auth_or_token_is_over(connection: FakeConnection, close: Close) -> None:
    assert expired(connection).session.close_code == close.code
    assert connection.deadline_ms > 0
    assert not connection.aborted


def test_closes_nobody_too_early() -> None:
    for connection in (FakeConnection(authenticated=False), FakeConnection(expiry_ms=NOW_MS)):
        assert expired(connection, NOW_MS - 1).session.close_code == 0
        assert connection.deadline_ms > 0


def test_drops_who_does_not_answer_a_ping() -> None:
    connection = FakeConnection()
    connection.session.ping(NOW_MS)
    due_ms = connection.session.pong_due_ms()
    assert not expired(connection, due_ms - 1).aborted
    assert expired(connection, due_ms).aborted


def test_drops_who_does_not_answer_our_close() -> None:
    connection = FakeConnection()
    connection.close(1000, "")
    assert expired(connection).aborted
