"""Closes live connections that may not stay: their token was revoked, their tenant suspended or gone.

Only a changed edge snapshot makes it look: at the users named, or at everybody where a jti or a tenant is named,
which no index finds. It looks at EVICTION_LOOKS_COUNT_MAX connections in a turn of the loop.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from gateway._fast.carrier import Connection
from gateway._fast.registry import Registry
from gateway.edge import Change, Edge
from notification.codes import Closes
from notification.limits import EVICTION_CLOSE_COUNT, EVICTION_LOOKS_COUNT_MAX
from notification.messages import USER
from notification.names import user_tag

_log: Final = structlog.get_logger("eviction")


class Eviction:
    """One task at a time, only while there is something to look at."""

    def __init__(self, registry: Registry[Connection], edge: Edge) -> None:
        self._registry = registry
        self._edge = edge
        self._everybody = False
        self._tags: set[bytes] = set()
        self._task: asyncio.Task[None] | None = None

    def changed(self, change: Change) -> None:
        """The edge snapshot changed: look at whom it may concern."""
        if change.tenants or any(one.kind != USER for one in change.revocations):
            self._everybody = True
        self._tags.update(
            user_tag(one.tenant, one.value).encode("ascii") for one in change.revocations if one.kind == USER
        )
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._everybody or self._tags:
            tags, self._tags = self._tags, set()
            if self._everybody:
                self._everybody = False
                found: Sequence[Connection] = self._registry.connections()
            else:
                found = [connection for tag in tags for connection in self._registry.find(tag)]
            await self._look(found)

    async def _look(self, connections: Sequence[Connection]) -> None:
        looks = closed = 0
        for connection in connections:
            looks += 1
            if self._edge.barred(connection.session) and connection.is_open():
                connection.close(Closes.REVOKED.code, Closes.REVOKED.reason)
                closed += 1
                looks += EVICTION_CLOSE_COUNT
            if looks >= EVICTION_LOOKS_COUNT_MAX:
                looks = 0
                await asyncio.sleep(0)
        if closed:
            _log.info("evicted", connections=closed)
