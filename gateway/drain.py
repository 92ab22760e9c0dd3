"""Sending clients away without a stampede: each hears a delay of its own, closes follow in waves."""

# ruff: noqa: ASYNC110 - waves on a clock, and sockets that end one by one: there is no one event to wait for

import asyncio
import random
from collections.abc import Callable
from typing import Final

from gateway._fast.carrier import Connection
from gateway.clock import now_ms
from notification.codes import Closes
from notification.frames import Goaway, encode
from notification.limits import CLOSE_DEADLINE_MS

_WAVE_MS: Final = 50
_NOTICE_MS: Final = 250  # from the moment a client was told to leave to our close


async def send_away(connections: list[Connection], left: Callable[[], int], window_ms: int) -> None:
    """`goaway` to all with delays spread over `window_ms`, then close 1012 in waves.

    Returns when `left()` sockets are none, at the latest CLOSE_DEADLINE_MS after the last close.
    """
    random.shuffle(connections)
    started_ms = now_ms()
    spread_ms = window_ms - _NOTICE_MS
    places = [(spread_ms * place // len(connections), connection) for place, connection in enumerate(connections)]
    for delay_ms, connection in places:
        if connection.is_open():
            connection.session.send(encode(Goaway(delay_ms)))
            connection.flush()
    for delay_ms, connection in places:
        while connection.is_open() and now_ms() < started_ms + delay_ms + _NOTICE_MS:
            await asyncio.sleep(_WAVE_MS / 1_000)
        if connection.is_open():
            connection.close(Closes.DRAIN.code, Closes.DRAIN.reason)
    deadline_ms = now_ms() + CLOSE_DEADLINE_MS + _WAVE_MS
    while left() and now_ms() < deadline_ms:
        await asyncio.sleep(_WAVE_MS / 1_000)
