"""When a connection's next deadline is."""

from dataclasses import dataclass, field
from typing import Any, cast

from gateway._fast.connection import Connection
from gateway._fast.session import AWAIT_AUTH, CLOSING, LIVE
from gateway.timers import next_deadline_ms, ping_slot_ms
from notification.limits import AUTH_DEADLINE_MS, CLOSE_DEADLINE_MS, HEARTBEAT_MS


@dataclass
class FakeSession:
    phase: int = LIVE
    connection_epoch: int = 1_795_468_850_347
    token_expiry_ms: int = 0
    pong: int = 0

    def pong_due_ms(self) -> int:
        return self.pong


@dataclass
class FakeConnection:
    opened_ms: int = 1_000
    session: FakeSession = field(default_factory=FakeSession)


def connection(**session: Any) -> Connection:
    return cast(Connection, FakeConnection(session=FakeSession(**session)))


def test_before_auth_only_auth_is_due() -> None:
    assert next_deadline_ms(connection(phase=AWAIT_AUTH), 3_000) == 1_000 + AUTH_DEADLINE_MS


def test_after_our_close_the_answer_is_due() -> None:
    assert next_deadline_ms(connection(phase=CLOSING), 3_000) == 3_000 + CLOSE_DEADLINE_MS


def test_a_live_connection_is_pinged_once_per_heartbeat() -> None:
    live = connection()
    first = next_deadline_ms(live, 50_000)
    assert 50_000 < first <= 50_000 + HEARTBEAT_MS
    assert next_deadline_ms(live, first) == first + HEARTBEAT_MS
    assert next_deadline_ms(live, first - 1) == first
    assert ping_slot_ms(live, first) == first


def test_the_earliest_comes_first() -> None:
    assert next_deadline_ms(connection(pong=50_001), 50_000) == 50_001
    assert next_deadline_ms(connection(pong=50_005, token_expiry_ms=50_002), 50_000) == 50_002


def test_connections_of_one_storm_ping_at_different_times() -> None:
    slots = [ping_slot_ms(connection(connection_epoch=1_795_468_850_000 + n), 0) for n in range(3_000)]
    tenths = [sum(slot * 10 // HEARTBEAT_MS == n for slot in slots) for n in range(10)]
    assert min(tenths) > 250
    assert max(tenths) < 350
