"""All deadlines of a process on one wheel: auth, pings and pongs, token expiry, doors.

A connection has one deadline at a time, the earliest thing that may happen to it. Whoever moves it arms a new
entry; an entry that fires before the connection's deadline is an old one and is dropped.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from gateway._fast.carrier import Connection
from gateway._fast.session import AWAIT_AUTH, CLOSING
from gateway._fast.wheel import Wheel
from gateway.clock import now_ms
from gateway.picows_listener import Door
from notification import telemetry
from notification.codes import Closes
from notification.limits import AUTH_DEADLINE_MS, CLOSE_DEADLINE_MS, HEARTBEAT_MS, WHEEL_SLOTS, WHEEL_TICK_MS

_log = structlog.get_logger("timers")

_SPREAD: Final = 40_503  # odd and near 2^16 / golden ratio: consecutive connects ping far apart


class Timers:
    """`tick` callables run each WHEEL_TICK_MS after the deadlines."""

    def __init__(self) -> None:
        self._wheel: Wheel[Connection | Door] = Wheel(WHEEL_TICK_MS, WHEEL_SLOTS, now_ms())
        self.ping_seconds = telemetry.Seconds(telemetry.PING_SECONDS)
        self._ticks: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def start(self, *ticks: Callable[[], None]) -> None:
        self._ticks = list(ticks)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def arm_door(self, door: Door, due_ms: int) -> None:
        self._wheel.arm(door, due_ms)

    def arm(self, connection: Connection) -> None:
        """Set the connection's next deadline from its state, after any change of it."""
        connection.deadline_ms = next_deadline_ms(connection, now_ms())
        self._wheel.arm(connection, connection.deadline_ms)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WHEEL_TICK_MS / 1_000)
            now = now_ms()
            for item in self._wheel.advance(now):
                if item.deadline_ms > now:
                    continue
                if isinstance(item, Door):
                    item.expire()
                else:
                    self.expire(item, now)
            for tick in self._ticks:
                try:
                    tick()
                except Exception as error:  # one owner's fault must not stop the clock of all connections
                    _log.error("tick_failed", error=type(error).__name__, exc_info=error)

    def expire(self, connection: Connection, now: int) -> None:
        """The deadline came: act on what is due, then set the next one."""
        if not connection.is_open():
            if connection.session.phase == CLOSING:
                connection.abort()
            return
        session = connection.session
        pong_due_ms = session.pong_due_ms()
        if session.phase == AWAIT_AUTH:
            close = Closes.AUTH_TIMEOUT if now >= connection.opened_ms + AUTH_DEADLINE_MS else None
        elif session.token_expiry_ms and now >= session.token_expiry_ms:
            close = Closes.TOKEN_EXPIRED
        elif pong_due_ms and now >= pong_due_ms:
            connection.abort()  # unclean: the peer is gone, nobody would answer a close frame
            return
        else:
            close = None
            if connection.deadline_ms == ping_slot_ms(connection, connection.deadline_ms):
                rtt_ms = session.ping_rtt_ms()
                if rtt_ms >= 0:
                    self.ping_seconds.observe_ms(rtt_ms)
                session.ping(now)
                connection.flush()
        if close is not None:
            connection.close(close.code, close.reason)
        self.arm(connection)


def next_deadline_ms(connection: Connection, now: int) -> int:
    """The earliest of what may be due next (monotonic ms); always within HEARTBEAT_MS."""
    session = connection.session
    if session.phase >= CLOSING:
        return now + CLOSE_DEADLINE_MS
    if session.phase == AWAIT_AUTH:
        return connection.opened_ms + AUTH_DEADLINE_MS
    due_ms = ping_slot_ms(connection, now + 1)
    if session.pong_due_ms():
        due_ms = min(due_ms, session.pong_due_ms())
    if session.token_expiry_ms:
        due_ms = min(due_ms, session.token_expiry_ms)
    return due_ms


def ping_slot_ms(connection: Connection, from_ms: int) -> int:
    """The connection's first ping time at or after `from_ms`: one phase of its own in each HEARTBEAT_MS."""
    phase_ms = connection.session.connection_epoch * _SPREAD % HEARTBEAT_MS
    return from_ms + (phase_ms - from_ms) % HEARTBEAT_MS
