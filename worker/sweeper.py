"""The only retry timer: finds rows whose due_at has come, in every worker, and decides what is next for each.

A row is claimed by moving its due_at SWEEP_CLAIM_MS ahead under SKIP LOCKED: whoever claims it sends it, and if
that worker dies the row is due again. What is to be sent goes through the same dispatch queue as first sends.

Every row in flight has a due_at: ACCEPTED and DISPATCHED wait for an ack, PARKED for a second look at presence
(PARKED_SWEEP_MS after it was parked) and then for their expiry, scheduled rows for their not_before. Those of an
audience are announced once more instead of a retry, then wait for their expiry.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import asyncpg
import structlog

from notification import telemetry
from notification.codes import Status, StatusCode
from notification.limits import DATABASE_TURN_DEADLINE_S, SWEEP_BATCH_ITEMS_MAX, SWEEP_CLAIM_MS, SWEEP_INTERVAL_MS
from worker.attempts import SENDS_MAX
from worker.audiences import FIRST_LANE
from worker.database import AWAY, Pool, show_tenants, tenant_ids
from worker.keys import KeyRing
from worker.outage import Backoff, wait
from worker.release import release
from worker.rows import COLUMNS, bare, open_rows
from worker.scheduler import Scheduler, claimed_job
from worker.store import StoredNotification
from worker.transitions import Journal, Postponement, Transition

_log = structlog.get_logger("sweeper")

_CLAIM: Final = f"""
WITH due AS (
    SELECT day, tenant_id, notification_id, entity_id FROM notifications
    WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE notifications n SET due_at = clock_timestamp() + $2 * interval '1 millisecond'
FROM due d
WHERE (n.day, n.tenant_id, n.notification_id, n.entity_id) = (d.day, d.tenant_id, d.notification_id, d.entity_id)
RETURNING {COLUMNS}, n.day, n.status, n.status_code, n.expiry <= now() AS expired
"""  # noqa: S608 - COLUMNS is a constant of ours


class Sweeper:
    """See the module."""

    def __init__(
        self,
        pool: Pool,
        ring: KeyRing,
        scheduler: Scheduler,
        journal: Journal,
        announce: Callable[[StoredNotification], None] = lambda notification: None,
    ) -> None:
        """`announce` takes what is for audiences."""
        self._pool = pool
        self._ring = ring
        self._scheduler = scheduler
        self._journal = journal
        self._announce = announce

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep each SWEEP_INTERVAL_MS until `stop` is set; an outage of PostgreSQL pauses it."""
        backoff = Backoff()
        while not stop.is_set():
            pause_s = SWEEP_INTERVAL_MS / 1000
            try:
                async with asyncio.timeout(DATABASE_TURN_DEADLINE_S):
                    if await self.sweep() == SWEEP_BATCH_ITEMS_MAX:
                        pause_s = 0.0
                backoff.reset()
            except AWAY as error:
                _log.warning("sweep_paused", error=type(error).__name__)
                pause_s = backoff.next_s()
            except Exception:  # whatever it is: the rows are due again
                _log.exception("sweep_failed")
                pause_s = backoff.next_s()
            await wait(stop, pause_s)

    async def sweep(self) -> int:
        """One batch; returns how many rows were due. Raises what the database raises."""
        room = min(SWEEP_BATCH_ITEMS_MAX, self._scheduler.room)
        if room <= 0:
            return 0
        claimed_s = time.monotonic()
        rows = await self._claim(room)
        outcomes: list[Transition | Postponement] = []
        to_send = []
        scheduled = []
        for row in rows:
            if row["expired"]:
                outcomes.append(_ended(row, Status.EXPIRED, StatusCode.EXPIRED_TTL))
            elif row["status"] == Status.PARKED and row["status_code"] == StatusCode.PARKED_RETRIES_SPENT:
                outcomes.append(Postponement(bare(row), None))
            elif row["attempt"] >= SENDS_MAX:
                outcomes.append(_ended(row, Status.PARKED, StatusCode.PARKED_RETRIES_SPENT))
            elif row["not_before_ms"] is not None:
                scheduled.append(row)
            else:
                to_send.append(row)
        if scheduled:
            to_send += await release(self._pool, scheduled)
        outcomes += await self._send(to_send, claimed_s)
        await self._journal.record(outcomes)
        return len(rows)

    async def _claim(self, limit: int) -> list[asyncpg.Record]:
        async with self._pool.acquire() as connection, connection.transaction():
            await show_tenants(connection, await tenant_ids(connection))
            rows: list[asyncpg.Record] = await connection.fetch(_CLAIM, limit, SWEEP_CLAIM_MS)
            return rows

    async def _send(self, rows: Sequence[asyncpg.Record], claimed_s: float) -> list[Postponement]:
        """Queue the rows; what does not fit is due again. Returns those that wait for their expiry: what does not
        open, and what is for audiences, which is announced."""
        waiting: list[Postponement] = []
        if not rows:
            return waiting
        opened = await open_rows(self._ring, rows)
        pairs = zip(rows, opened, strict=True)
        for row, notification in sorted(pairs, key=lambda pair: (pair[0]["lane"], pair[0]["seq"])):
            if notification is None:
                waiting.append(Postponement(bare(row), None))
            elif notification.lane >= FIRST_LANE:
                self._announce(notification)
                waiting.append(Postponement(notification, None))
            else:
                self._scheduler.put(claimed_job(notification, claimed_s, parked=row["status"] == Status.PARKED))
        return waiting


def _ended(row: asyncpg.Record, status: Status, code: StatusCode) -> Transition:
    if status is Status.PARKED:
        telemetry.PARKED.labels(code.name).inc()
    return Transition(bare(row), status, code, row["attempt"], None)
