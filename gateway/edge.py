"""The edge snapshot: what a gateway process knows of tenants, origins and keys; role inbox is asked over the bus.

The last copy serves while the inbox is away.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from gateway.tokens import Identity, Keys
from notification import names
from notification.bus import Bus
from notification.codes import Refusal, Refusals
from notification.errors import BusError, Unavailable
from notification.limits import BUS_REQUEST_TIMEOUT_MS, EDGE_POLL_MS, EDGE_REFRESH_MS_MIN
from notification.messages import EdgeReply, EdgeRequest, decode_reply, encode

_log = structlog.get_logger("edge")

_FIRST_POLL_MS: Final = 250  # until the first snapshot is here


class Edge:
    """Polls the snapshot each EDGE_POLL_MS, and at once when an unknown issuer shows up."""

    def __init__(
        self, bus: Bus, changed: Callable[[], None], revoked: Callable[[Identity], bool] = lambda identity: False
    ) -> None:
        self._bus = bus
        self._changed = changed
        self._revoked = revoked
        self._keys = Keys(())
        self._version = -1
        self._asked_s = -EDGE_REFRESH_MS_MIN / 1_000
        self._wake = asyncio.Event()
        self._refresh: asyncio.Future[bool] | None = None
        self._task: asyncio.Task[None] | None = None
        self.epoch = 0
        self.known = False  # a snapshot was received

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._refresh is not None and not self._refresh.done():
            self._refresh.set_result(False)

    def verify(self, token: str) -> Identity | Refusal:
        """Keys.verify by the wall clock. TENANT_UNKNOWN_YET may change after refresh(). Whether a token that holds
        was revoked is asked here, each time: of a remembered one too."""
        outcome = self._keys.verify(token, time.time())
        if isinstance(outcome, Identity) and self._revoked(outcome):
            return Refusals.UNAUTHENTICATED
        return outcome

    def origin_allowed(self, tenant: str, origin: str) -> bool:
        return self._keys.origin_allowed(tenant, origin)

    def suspended(self, tenant: str) -> bool:
        return self._keys.suspended(tenant)

    def refresh(self) -> "asyncio.Future[bool]":
        """Ask soon (at most once per EDGE_REFRESH_MS_MIN); all who wait share one request that starts after this
        call. The result says whether the inbox answered."""
        if self._refresh is None:
            self._refresh = asyncio.get_running_loop().create_future()
            self._wake.set()
        return self._refresh

    async def _run(self) -> None:
        while True:
            since_s = time.monotonic() - self._asked_s
            await asyncio.sleep(max(0.0, EDGE_REFRESH_MS_MIN / 1_000 - since_s) if self.known else 0)
            waiting, self._refresh = self._refresh, None
            self._wake.clear()
            self._asked_s = time.monotonic()
            answered = await self._poll()
            if waiting is not None and not waiting.done():
                waiting.set_result(answered)
            pause_ms = EDGE_POLL_MS * random.uniform(0.9, 1.1) if self.known else _FIRST_POLL_MS  # noqa: S311 jitter
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_ms / 1_000):
                    await self._wake.wait()

    async def _poll(self) -> bool:
        """One request; True if it was answered."""
        request = encode(EdgeRequest(have=self._version))
        try:
            answer = await self._bus.request(names.INBOX_EDGE, request, BUS_REQUEST_TIMEOUT_MS / 1_000)
            reply = decode_reply(answer)
        except (BusError, Unavailable, msgspec.DecodeError) as error:
            _log.debug("edge_poll_failed", error=type(error).__name__)
            return False
        if not isinstance(reply, EdgeReply):
            return False
        self.epoch = reply.epoch
        if reply.tenants is not None:
            self._keys = Keys(reply.tenants, self._keys)
            self._version = reply.version
            self.known = True
            _log.info("edge_snapshot", version=reply.version, tenants=len(reply.tenants))
            self._changed()
        return True
