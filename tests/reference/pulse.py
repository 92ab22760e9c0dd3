"""Plain-Python twin of gateway/_fast/pulse.pyx."""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway._fast.session import AWAIT_AUTH, CLOSING
from notification.limits import HEALTH_PING_CLIENTS_MAX
from notification.names import client_id

_SPREAD = 40_503


class Pulse:
    def __init__(
        self,
        wheel: Any,
        answered: Callable[[int], None],
        heartbeat_ms: int,
        auth_deadline_ms: int,
        close_deadline_ms: int,
    ) -> None:
        self._wheel = wheel
        self._answered = answered
        self._heartbeat_ms = heartbeat_ms
        self._auth_deadline_ms = auth_deadline_ms
        self._close_deadline_ms = close_deadline_ms
        self._noted: list[tuple[str, int]] = []

    def arm(self, connection: Any, now_ms: int) -> None:
        session = connection.session
        if session.phase >= CLOSING:
            due_ms = now_ms + self._close_deadline_ms
        elif session.phase == AWAIT_AUTH:
            due_ms = connection.opened_ms + self._auth_deadline_ms
        else:
            dues_ms = (self._slot_ms(session, now_ms + 1), session.pong_due_ms(), session.token_expiry_ms)
            due_ms = min(due for due in dues_ms if due)
        connection.deadline_ms = due_ms
        self._wheel.arm(connection, due_ms)

    def beat(self, now_ms: int) -> list[Any]:
        others = []
        for item in self._wheel.advance(now_ms):
            if item.deadline_ms > now_ms:
                continue
            if not hasattr(item, "session") or not _quiet(item.session, now_ms) or not item.is_open():
                others.append(item)
                continue
            session = item.session
            if (rtt_ms := session.take_rtt_ms()) >= 0:
                self._answered(rtt_ms)
                self._noted.append((client_id(session.tag.decode(), session.device), rtt_ms))
            if item.deadline_ms == self._slot_ms(session, item.deadline_ms):
                session.ping(now_ms)
                item.flush()
            self.arm(item, now_ms)
        return others

    def take(self) -> list[bytes]:
        noted, self._noted = self._noted, []
        return [
            msgspec.msgpack.encode(noted[first : first + HEALTH_PING_CLIENTS_MAX])
            for first in range(0, len(noted), HEALTH_PING_CLIENTS_MAX)
        ]

    def _slot_ms(self, session: Any, from_ms: int) -> int:
        phase_ms: int = session.connection_epoch * _SPREAD % self._heartbeat_ms
        return from_ms + (phase_ms - from_ms) % self._heartbeat_ms


def _quiet(session: Any, now_ms: int) -> bool:
    over_ms = [ms for ms in (session.token_expiry_ms, session.pong_due_ms()) if ms]
    return AWAIT_AUTH < session.phase < CLOSING and all(now_ms < ms for ms in over_ms)
