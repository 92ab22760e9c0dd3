"""Waiting for servers that are away: backoff with jitter, and the bounded wait of a start."""

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from notification.errors import Unavailable
from notification.limits import OUTAGE_DELAY_MS_MAX, OUTAGE_DELAY_MS_MIN

_log = structlog.get_logger("worker")
T = TypeVar("T")


def origin(error: BaseException) -> str:
    """Type and place of an error, for logs: its text may quote values that nobody should read there."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/worker/" in frame.filename] or frames
    place = f" at {ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}" if ours else ""
    return type(error).__name__ + place


class Backoff:
    """Delays that double from OUTAGE_DELAY_MS_MIN to OUTAGE_DELAY_MS_MAX, each x U(0.5, 1)."""

    def __init__(self) -> None:
        self._delay_ms = OUTAGE_DELAY_MS_MIN

    def reset(self) -> None:
        """The server answered."""
        self._delay_ms = OUTAGE_DELAY_MS_MIN

    def next_s(self) -> float:
        """How long to wait now, in seconds."""
        delay_ms = self._delay_ms
        self._delay_ms = min(delay_ms * 2, OUTAGE_DELAY_MS_MAX)
        return delay_ms * random.uniform(0.5, 1.0) / 1000  # noqa: S311 - jitter, not a secret


async def until_up(
    connect: Callable[[], Awaitable[T]], server: str, away: tuple[type[BaseException], ...], deadline_s: float
) -> T:
    """Call `connect` until it raises none of `away`. Raises Unavailable, naming `server`, after `deadline_s`."""
    backoff = Backoff()
    end = time.monotonic() + deadline_s
    said = False
    while True:
        try:
            return await connect()
        except away as error:
            if time.monotonic() >= end:
                raise Unavailable(f"{server} did not answer within {deadline_s:g} s") from error
            if not said:
                _log.warning("server_away", server=server, error=type(error).__name__)
                said = True
        await asyncio.sleep(backoff.next_s())


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but wake when `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
