"""All deadlines of a process on one wheel: auth, pings and pongs, token expiry, doors.

A connection has one deadline at a time, the earliest thing that may happen to it. Whoever moves it arms a new
entry; an entry that fires before the connection's deadline is an old one and is dropped. Where nothing but pings
happens, gateway/_fast/pulse sees to it.
"""

import asyncio
from collections.abc import Callable

import structlog

from gateway._fast.carrier import Connection
from gateway._fast.pulse import Pulse
from gateway._fast.session import AWAIT_AUTH, CLOSING
from gateway._fast.wheel import Wheel
from gateway.clock import now_ms
from gateway.picows_listener import Door
from notification import telemetry
from notification.codes import Closes
from notification.lifecycle import essential
from notification.limits import AUTH_DEADLINE_MS, CLOSE_DEADLINE_MS, HEARTBEAT_MS, WHEEL_SLOTS, WHEEL_TICK_MS

_log = structlog.get_logger("timers")


class Timers:
    """`tick` callables run each WHEEL_TICK_MS after the deadlines."""

    def __init__(self) -> None:
        self.ping_seconds = telemetry.Seconds(telemetry.PING_SECONDS)
        self._wheel: Wheel[Connection | Door] = Wheel(WHEEL_TICK_MS, WHEEL_SLOTS, now_ms())
        self.pulse: Pulse[Connection | Door] = Pulse(
            self._wheel, self.ping_seconds.observe_ms, HEARTBEAT_MS, AUTH_DEADLINE_MS, CLOSE_DEADLINE_MS
        )
        self._ticks: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def start(self, *ticks: Callable[[], None]) -> None:
        self._ticks = list(ticks)
        self._task = essential(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def arm_door(self, door: Door, due_ms: int) -> None:
        self._wheel.arm(door, due_ms)

    def arm(self, connection: Connection) -> None:
        """Set the connection's next deadline from its state, after any change of it."""
        self.pulse.arm(connection, now_ms())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WHEEL_TICK_MS / 1_000)
            now = now_ms()
            for item in self.pulse.beat(now):
                self._guarded(item.expire) if isinstance(item, Door) else self._guarded(self.expire, item, now)
            for tick in self._ticks:
                self._guarded(tick)

    def _guarded(self, call: Callable[..., None], *arguments: object) -> None:
        """One owner's fault must not stop the clock of all connections."""
        try:
            call(*arguments)
        except Exception as error:  # logged; the others go on
            _log.error("tick_failed", error=type(error).__name__, exc_info=error)

    def expire(self, connection: Connection, now: int) -> None:
        """The deadline came, and not of a ping: act on what is due, then set the next one."""
        if not connection.is_open():
            if connection.session.phase == CLOSING:
                connection.abort()
            return
        session = connection.session
        pong_due_ms = session.pong_due_ms()
        if session.phase == AWAIT_AUTH:
            if now >= connection.opened_ms + AUTH_DEADLINE_MS:
                connection.close(Closes.AUTH_TIMEOUT.code, Closes.AUTH_TIMEOUT.reason)
        elif session.token_expiry_ms and now >= session.token_expiry_ms:
            connection.close(Closes.TOKEN_EXPIRED.code, Closes.TOKEN_EXPIRED.reason)
        elif pong_due_ms and now >= pong_due_ms:
            connection.abort()  # unclean: the peer is gone, nobody would answer a close frame
            return
        self.arm(connection)
