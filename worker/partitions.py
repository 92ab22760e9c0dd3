"""The daily partitions: made ahead at every worker's start and hourly, and for a record that comes late.

The database function make_partitions does it with its owner's rights; worker roles may only call it.
"""

import asyncio
import datetime
import uuid
from collections.abc import Iterable

import structlog

from notification.ids import uuid7_ms
from notification.limits import PARTITION_DAYS_AHEAD, PARTITION_DAYS_BEHIND, PARTITION_INTERVAL_S
from worker import outage
from worker.database import Connection, Pool

_log = structlog.get_logger("partitions")
_DAY_MS = 86_400_000
_1970 = datetime.date(1970, 1, 1).toordinal()


def day_of_ms(unix_ms: int) -> datetime.date:
    """The UTC date of a time in Unix ms."""
    return datetime.date.fromordinal(_1970 + unix_ms // _DAY_MS)


def day_of(notification_id: uuid.UUID) -> datetime.date:
    """The partition of a notification: the UTC date in its UUIDv7."""
    return day_of_ms(uuid7_ms(notification_id))


async def make_ahead(connection: Connection) -> int:
    """Make the partitions from PARTITION_DAYS_BEHIND to PARTITION_DAYS_AHEAD of the database's today."""
    made: int = await connection.fetchval(
        "SELECT make_partitions(today - $1::integer, today + $2::integer) "
        "FROM (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date AS today) AS clock",
        PARTITION_DAYS_BEHIND,
        PARTITION_DAYS_AHEAD,
    )
    return made


class Partitions:
    """Knows which days have their partitions, so that asking again costs nothing."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._made: set[datetime.date] = set()

    async def ensure(self, days: Iterable[datetime.date]) -> None:
        """Make what is missing for these days. The caller has bounded them. Raises database.AWAY."""
        missing = set(days) - self._made
        if not missing:
            return
        async with self._pool.acquire() as connection:
            for day in sorted(missing):
                made = await connection.fetchval("SELECT make_partitions($1, $1)", day)
                if made:
                    _log.info("partitions_made", day=day.isoformat())
                self._made.add(day)

    def forget(self) -> None:
        """Ask the database again for every day: someone has dropped a partition."""
        self._made.clear()


async def keep_ahead(pool: Pool) -> None:
    """Run for ever: make partitions ahead now and each PARTITION_INTERVAL_S; an outage waits for the next turn."""
    while True:
        try:
            async with pool.acquire() as connection:
                made = await make_ahead(connection)
            if made:
                _log.info("partitions_made", count=made)
        except Exception as error:  # whatever it is: they are made ahead, there is time
            _log.warning("partitions_not_made", error=outage.origin(error))
        await asyncio.sleep(PARTITION_INTERVAL_S)
