"""The worker's parts on real servers, one by one: what the tests of its roles stand on."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import asyncpg
from redis.asyncio import Redis

from notification.ids import TENANT, is_audience, new_uuid7
from notification.settings import Settings
from worker.admission import Admitted
from worker.database import Pool, connect_pool, tenant_ids
from worker.keys import KeyRing, master_key
from worker.log import Record
from worker.partitions import Partitions, make_ahead
from worker.store import Outcome, Rejected, Store, StoredNotification

PAYLOAD = b'{"title":"T","body":"B"}'
_RECORD = Record("notifications.high", 0, 0, None, None, 0, None)


def event(tenant: str, entity: str, sent_ms: int, **fields: Any) -> Admitted:
    """An admitted event to a user or (`tenant`, `segment:ID`) an audience."""
    values: dict[str, Any] = {
        "record": _RECORD, "id": new_uuid7(sent_ms), "type": "service", "priority": 0, "payload": PAYLOAD,
        "body_hash": uuid.uuid4().bytes * 2, "ttl_s": 3_600, "collapse_key": None, "not_before_ms": None,
    }  # fmt: skip
    to = {"user": TENANT, "audience": entity} if is_audience(entity) else {"user": entity}
    return Admitted(tenant=tenant, sent_ms=sent_ms, **values | to | fields)


class Lab:
    """Pools, keys and a store; `store` puts notifications into PostgreSQL as intake does."""

    def __init__(
        self, settings: Settings, pools: dict[str, Pool], owner: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        self.settings = settings
        self.master = master_key(settings)
        self.pools = pools
        self.owner = owner
        self.dispatch_ring = KeyRing(self.master, pools["dispatch"], pools["dispatch_keys"])
        self.inbox_ring = KeyRing(self.master, pools["inbox"], pools["inbox_keys"])
        self._store = Store(pools["dispatch"], self.dispatch_ring, Partitions(pools["dispatch"]))

    async def store(
        self,
        tenant: str,
        users: str | Iterable[str] = ("ann",),
        priority: int = 0,
        ttl_s: int = 3_600,
        **fields: Any,
    ) -> list[StoredNotification]:
        """One notification per user (or audience), all in one storing transaction; `sent_ago_ms` sends it into the
        past."""
        now_ms = await self.now_ms()
        idents: Iterator[uuid.UUID] = fields.pop("ids", iter(()))
        sent_ms = now_ms - fields.pop("sent_ago_ms", 0)
        events = [
            event(
                tenant, user, sent_ms, id=next(idents, None) or new_uuid7(now_ms), priority=priority, ttl_s=ttl_s,
                **fields,
            )
            for user in ([users] if isinstance(users, str) else users)
        ]  # fmt: skip
        outcome, rejected = await self.store_events(events)
        assert not rejected
        return outcome.ready

    async def store_events(self, events: Sequence[Admitted]) -> tuple[Outcome, list[Rejected]]:
        """What intake does with a batch."""
        buried: list[Rejected] = []

        async def bury(rejected: Sequence[Rejected]) -> None:
            buried.extend(rejected)

        return await self._store.store(events, [], bury), buried

    async def store_many(
        self, tenant: str, user: str, count: int, first_id_ms: int | None = None, **fields: Any
    ) -> list[StoredNotification]:
        """`count` notifications of one user's lane in one transaction, ids ascending."""
        now_ms = await self.now_ms() if first_id_ms is None else first_id_ms
        idents = iter([new_uuid7(now_ms + number) for number in range(count)])
        return await self.store(tenant, [user] * count, ids=idents, **fields)

    async def now_ms(self) -> int:
        now: int = await self.owner.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        return now

    async def row(self, tenant: str, ident: uuid.UUID, user: str = "ann") -> dict[str, Any]:
        """The row of `notifications`, past row-level security's eyes."""
        row = await self.owner.fetchrow(
            "SELECT *, extract(epoch FROM due_at - clock_timestamp()) * 1000 AS due_in_ms FROM notifications "
            "WHERE tenant_id = $1 AND notification_id = $2 AND entity_id = $3", tenant, ident, user,
        )  # fmt: skip
        assert row is not None
        return dict(row)

    async def history(self, tenant: str, ident: uuid.UUID) -> list[str]:
        rows = await self.owner.fetch(
            "SELECT status FROM notification_history WHERE tenant_id = $1 AND notification_id = $2 "
            "ORDER BY history_id",
            tenant, ident,
        )  # fmt: skip
        return [row["status"] for row in rows]

    async def change(self, tenant: str, ident: uuid.UUID, assignments: str) -> None:
        """UPDATE the row of a notification: `due_at = now()`."""
        await self.owner.execute(
            f"UPDATE notifications SET {assignments} WHERE tenant_id = $1 AND notification_id = $2", tenant, ident
        )

    async def only_due(self, tenant: str) -> None:
        """What other tests left due does not fill up the next sweep."""
        await self.owner.execute("UPDATE notifications SET due_at = NULL WHERE tenant_id <> $1", tenant)

    async def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.owner.fetch(statement, *values)]


@contextlib.asynccontextmanager
async def open_lab(settings: Settings) -> AsyncIterator[Lab]:
    """Connect as every role; the owner's connection sees all tenants of now and the platform."""
    async with contextlib.AsyncExitStack() as stack:
        pools: dict[str, Pool] = {}
        for role in ("dispatch", "receipts", "inbox"):
            pools[role] = await connect_pool(settings, role)
            stack.push_async_callback(pools[role].close)
        for role in ("dispatch", "inbox"):
            pools[f"{role}_keys"] = await connect_pool(settings, role, keys=True)
            stack.push_async_callback(pools[f"{role}_keys"].close)
        owner = await asyncpg.connect(settings.postgres_dsn)
        stack.push_async_callback(owner.close)
        await make_ahead(owner)
        await owner.execute(
            "SELECT set_config('herald.tenants', $1, false)", ",".join([*await tenant_ids(owner), "*"])
        )
        yield Lab(settings, pools, owner)


@contextlib.asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator["Redis"]:
    """A Redis client on the test's server."""
    redis: Redis = Redis.from_url(settings.redis_url)
    try:
        yield redis
    finally:
        await redis.aclose()
