"""Role inbox on real PostgreSQL and a memory bus, and a gateway that asks it."""

import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

from notification import frames, messages
from notification.frames import Counters, Cursor, user_epoch
from notification.limits import FILL_ITEMS_MAX
from notification.messages import (
    LANES_UNKNOWN,
    AudienceFillRequest,
    EdgeRequest,
    EntitledRequest,
    Failure,
    FillReply,
    FillRequest,
    FillsReply,
    FillsRequest,
    InboxReply,
    InboxRequest,
    PageReply,
    PageRequest,
    RecallRequest,
    StateReply,
    StateRequest,
)
from notification.names import (
    INBOX_AUDIENCE,
    INBOX_AUDIENCE_FILL,
    INBOX_EDGE,
    INBOX_PAGE,
    INBOX_RECALL,
    INBOX_RESUME,
    INBOX_STATE,
)
from notification.settings import Settings
from tests.stack.lab import Lab, open_lab
from tests.twins.bus import Hub, MemoryBus
from tests.twins.presence import MemoryPresence
from worker.clock import DatabaseClock
from worker.edge import Edge
from worker.inbox import Inbox
from worker.presence import Beats
from worker.store import StoredNotification

SUBJECTS = {
    FillsRequest: INBOX_RESUME, StateRequest: INBOX_STATE, PageRequest: INBOX_PAGE, EdgeRequest: INBOX_EDGE,
    RecallRequest: INBOX_RECALL, EntitledRequest: INBOX_AUDIENCE, AudienceFillRequest: INBOX_AUDIENCE_FILL,
}  # fmt: skip


class World:
    """The role on a memory bus, and a gateway that asks it."""

    def __init__(self, lab: Lab, tenant: str) -> None:
        self.lab = lab
        self.tenant = tenant
        self.hub = Hub()
        self.presence = MemoryPresence(Beats())
        self.gateway = MemoryBus(self.hub)
        pool = lab.pools["inbox"]
        self.inbox = Inbox(
            MemoryBus(self.hub),
            pool,
            lab.inbox_ring,
            Edge(lab.master, pool, lambda issuers: None),
            self.presence,
            DatabaseClock(),
        )

    async def ask(self, request: InboxRequest) -> InboxReply:
        answer = await self.gateway.request(SUBJECTS[type(request)], messages.encode(request), 5.0)
        return messages.decode_reply(answer)

    async def fill(self, user: str = "ann", **fields: Any) -> FillReply:
        """By default the first request of a connection without a cursor."""
        values = {"first": True, "cursor": None, "at": list(LANES_UNKNOWN), "limit": FILL_ITEMS_MAX} | fields
        [reply] = await self.fills(FillRequest(self.tenant, user, **values))
        assert isinstance(reply, FillReply), reply
        return reply

    async def fills(self, *requests: FillRequest) -> list[FillReply | Failure]:
        reply = await self.ask(FillsRequest(list(requests)))
        assert isinstance(reply, FillsReply), reply
        return reply.replies

    async def resume(self, cursor: dict[str, int], user: str = "ann", epoch: int | None = None) -> FillReply:
        return await self.fill(user, cursor=Cursor(await self.epoch(user) if epoch is None else epoch, cursor))

    async def mark(self, to: str, *sent: StoredNotification, user: str = "ann") -> Counters:
        reply = await self.ask(StateRequest(self.tenant, user, "phone", [one.id.bytes for one in sent], to))
        assert isinstance(reply, StateReply), reply
        return reply.counters

    async def page(self, before: str = "", limit: int = 50, user: str = "ann") -> frames.PageFrame:
        raw = uuid.UUID(before).bytes if before else b""
        reply = await self.ask(PageRequest(self.tenant, user, raw, limit))
        assert isinstance(reply, PageReply), reply
        frame = frames.decode_server(reply.frame)
        assert isinstance(frame, frames.PageFrame)
        return frame

    async def epoch(self, user: str = "ann", tenant: str = "") -> int:
        """As the user's clients know it."""
        epoch: int = await self.lab.owner.fetchval("SELECT epoch FROM log_state")
        return user_epoch(epoch, tenant or self.tenant, user)

    async def several(self, count: int, priority: int = 0, **fields: Any) -> list[StoredNotification]:
        """Notifications of ann's lane, seq ascending."""
        return [one for _ in range(count) for one in await self.lab.store(self.tenant, priority=priority, **fields)]


@contextlib.asynccontextmanager
async def open_world(servers: Settings, tenant: str) -> AsyncIterator[World]:
    async with open_lab(servers) as lab:
        made = World(lab, tenant)
        await made.inbox.start()
        yield made


def question(tenant: str, user: str, cursor: Cursor | None = None, limit: int = FILL_ITEMS_MAX) -> FillRequest:
    """The first of a connection."""
    return FillRequest(tenant, user, True, cursor, list(LANES_UNKNOWN), limit)


def ids(reply: FillReply) -> list[bytes]:
    return [item.id for item in reply.items]
