"""Role status: every row of notification_history to names.TOPIC_STATUS, in order, at least once.

Of all processes with this role one reads at a time: it holds a lock of its database session, which goes with that
session. The position moves after Kafka's ack: one that dies in between has the next one say it again.

Rows do not commit in the order of their history_id. So a turn reads no farther than a *mark*: where the numbers
stood at some moment, once all transactions of that moment are over (migrations/0012_status.sql says why that is
enough). Under row locks one notification's changes are numbered in the order in which they happened.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from notification import telemetry
from notification.limits import (
    DATABASE_CONNECT_DEADLINE_S,
    DATABASE_TURN_DEADLINE_S,
    STATUS_BATCH_RECORDS_MAX,
    STATUS_POLL_MS,
    STATUS_SESSION_IDLE_MS,
    STATUS_TAKEOVER_MS,
)
from worker.database import AWAY, Connection, Pool, show_tenants, tenant_ids
from worker.log import LogAway
from worker.outage import Backoff, origin, wait
from worker.positions import Fenced
from worker.status_topic import StateChange

_log = structlog.get_logger("status")

_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('herald.status'))"
# A frozen process: the server ends its session, and another process has the lock.
_IDLE: Final = f"SET idle_session_timeout = {STATUS_SESSION_IDLE_MS}"
_STAND: Final = """
SELECT p.history_id AS told, CASE WHEN s.is_called THEN s.last_value ELSE 0 END AS newest
FROM status_position p, history_ids s
"""
# After _STAND: a number above those of all transactions of then. A snapshot's xmax is not: it knows nothing of a
# running transaction that is newer than the last one that ended.
_NUMBER: Final = "SELECT pg_current_xact_id()::text"
_OVER: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8"
# One look into the primary key of each partition: a notification's rows are in the partition of its own day,
# however old it is. $1 told, $2 upto, $3 how many.
_READ: Final = """
SELECT h.history_id, h.notification_id::text AS id, h.tenant_id, h.entity_id AS user_id, h.status, h.status_code,
       floor(extract(epoch FROM h.timestamp) * 1000)::bigint AS at
FROM (
    SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'notification_history'::regclass
) AS p,
LATERAL (
    SELECT * FROM notification_history h
    WHERE h.day = p.day AND h.history_id > $1 AND h.history_id <= $2 ORDER BY h.history_id LIMIT $3
) AS h
ORDER BY h.history_id LIMIT $3
"""
_MOVE: Final = "UPDATE status_position SET history_id = $2 WHERE history_id = $1"


class Topic(Protocol):
    """worker.status_topic.StatusTopic."""

    async def publish(self, changes: Sequence[StateChange]) -> None:
        """Raises LogAway."""

    async def close(self) -> None:
        """Disconnect."""


class _Mark(NamedTuple):
    """Nothing up to `newest` is missing once the transactions numbered below `number` are over."""

    newest: int
    number: str


class StatusFeed:
    """Of one process."""

    def __init__(self, pool: Pool, topic: Topic) -> None:
        self._pool = pool
        self._topic = topic
        self._mark: _Mark | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Tell until `stop` is set; what is being told is finished first.

        While PostgreSQL or Kafka is away, or the topic missing, it waits: the rows stay.
        """
        backoff = Backoff()
        while not stop.is_set():
            pause_s = STATUS_TAKEOVER_MS / 1000
            try:
                async with self._pool.acquire(timeout=DATABASE_CONNECT_DEADLINE_S) as connection:
                    await self._lead(connection, stop, backoff)
            except (LogAway, Fenced, *AWAY) as error:
                reason = str(error) if isinstance(error, LogAway | Fenced) else ""
                _log.warning("status_paused", error=type(error).__name__, reason=reason)
                pause_s = backoff.next_s()
            except Exception as error:  # whatever it is: the rows stay, and the next turn tells them
                _log.error("status_failed", error=origin(error))
                await self._topic.close()  # it may be what broke
                pause_s = backoff.next_s()
            await wait(stop, pause_s)
        await self._topic.close()

    async def _lead(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        """Until `stop` is set, if no other process does. Raises what turn() raises."""
        if not await connection.fetchval(_LOCK):
            telemetry.STATUS_LAG.set(0)  # another process says it
            return
        try:
            await connection.execute(_IDLE)
            _log.info("status_begins")
            self._mark = None
            while not stop.is_set():
                async with asyncio.timeout(DATABASE_TURN_DEADLINE_S):
                    told = await self.turn(connection)
                backoff.reset()
                if told < STATUS_BATCH_RECORDS_MAX:
                    await wait(stop, STATUS_POLL_MS / 1000)
        finally:
            connection.terminate()  # and the lock is free

    async def turn(self, connection: Connection) -> int:
        """Tell what is next, one batch at most; how many that were. The caller holds the lock.

        Raises LogAway, Fenced, what the database raises.
        """
        stand = await connection.fetchrow(_STAND)
        assert stand is not None
        told: int = stand["told"]
        telemetry.STATUS_LAG.set(stand["newest"] - told)
        if self._mark is None:
            if stand["newest"] <= told:
                return 0
            self._mark = _Mark(stand["newest"], await connection.fetchval(_NUMBER))
        if not await connection.fetchval(_OVER, self._mark.number):
            return 0
        upto = self._mark.newest
        changes = await self._read(connection, told, upto)
        if changes:
            await self._topic.publish(changes)
        if len(changes) == STATUS_BATCH_RECORDS_MAX:
            upto = changes[-1].history_id
        else:
            self._mark = None
        if await connection.execute(_MOVE, told, upto) != "UPDATE 1":
            raise Fenced("another process moved the position of the status topic")
        telemetry.STATUS_PUBLISHED.inc(len(changes))
        return len(changes)

    async def _read(self, connection: Connection, told: int, upto: int) -> list[StateChange]:
        async with connection.transaction():
            await show_tenants(connection, await tenant_ids(connection))
            rows = await connection.fetch(_READ, told, upto, STATUS_BATCH_RECORDS_MAX)
        return [StateChange(*row) for row in rows]
