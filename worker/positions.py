"""Positions: how far each Kafka partition has been read, and of which log. Who moves one says where it stood."""

import urllib.parse
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg

from notification.errors import HeraldError
from notification.limits import DATABASE_COMMAND_DEADLINE_S, DATABASE_CONNECT_DEADLINE_S, STARTUP_DEADLINE_S
from notification.settings import Settings
from worker.database import AWAY, Connection
from worker.log import Partition
from worker.outage import until_up

_MOVE: Final = """
WITH moved AS (
    UPDATE positions p SET next_offset = m.next_offset
    FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[])
        AS m (topic, partition, expected, next_offset)
    WHERE p.topic = m.topic AND p.partition = m.partition AND p.next_offset = m.expected
    RETURNING 1
)
SELECT count(*) AS moved, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
    set_config('herald.tenants', $5, true)
FROM moved
"""
_POSITIONS: Final = """
SELECT topic, partition, next_offset, topic_id FROM positions
JOIN unnest($1::text[], $2::integer[]) AS w (topic, partition) USING (topic, partition)
"""
_BEGIN: Final = """
INSERT INTO positions (topic, partition, next_offset, topic_id)
SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::uuid[]) ON CONFLICT DO NOTHING
"""
_NAME_LOGS: Final = """
UPDATE positions p SET topic_id = l.topic_id
FROM unnest($1::text[], $2::integer[], $3::uuid[]) AS l (topic, partition, topic_id)
WHERE p.topic = l.topic AND p.partition = l.partition
"""
_FORGET: Final = "DELETE FROM positions"


class Fenced(HeraldError):
    """A position is not where this worker believes: another one owns the partition, or moved it."""


class Position(NamedTuple):
    """Where to read on in the log with this id; None: nobody has said yet which log it is of."""

    next_offset: int
    topic_id: uuid.UUID | None


class Move(NamedTuple):
    """A position to move, if it still stands at `expected`."""

    partition: Partition
    expected: int
    next_offset: int


async def read(connection: Connection, partitions: Iterable[Partition]) -> dict[Partition, Position]:
    """The position of those partitions that have one."""
    wanted = sorted(partitions)
    rows = await connection.fetch(_POSITIONS, [p.topic for p in wanted], [p.partition for p in wanted])
    return {
        Partition(row["topic"], row["partition"]): Position(row["next_offset"], row["topic_id"]) for row in rows
    }


async def begin(connection: Connection, positions: Mapping[Partition, Position]) -> None:
    """Give partitions seen for the first time their position; one that has one keeps it."""
    items = sorted(positions.items(), key=lambda item: item[0])
    await connection.execute(
        _BEGIN,
        [partition.topic for partition, _ in items],
        [partition.partition for partition, _ in items],
        [position.next_offset for _, position in items],
        [position.topic_id for _, position in items],
    )


async def name_logs(connection: Connection, topic_ids: Mapping[Partition, uuid.UUID | None]) -> None:
    """The positions of these partitions, which the transaction has moved, are of the logs with these ids."""
    partitions = list(topic_ids)
    await connection.execute(
        _NAME_LOGS,
        [partition.topic for partition in partitions],
        [partition.partition for partition in partitions],
        [topic_ids[partition] for partition in partitions],
    )


async def move(connection: Connection, moves: Sequence[Move], tenants: Iterable[str] = ()) -> int:
    """Move all positions or raise Fenced; returns the database's time in Unix ms. From then on the transaction sees
    the rows of these tenants, as database.show_tenants would say in one more statement."""
    row = await connection.fetchrow(
        _MOVE,
        [move.partition.topic for move in moves],
        [move.partition.partition for move in moves],
        [move.expected for move in moves],
        [move.next_offset for move in moves],
        ",".join(sorted(tenants)),
    )
    assert row is not None
    if row["moved"] != len(moves):
        raise Fenced(f"{len(moves) - row['moved']} of {len(moves)} positions are not where this worker left them")
    now_ms: int = row["now_ms"]
    return now_ms


async def forget_positions(settings: Settings) -> None:
    """As the owner: every partition begins at its log's first offset. For a Kafka that has forgotten all.

    A worker that runs is fenced by it. A database without tables has nothing to forget. Raises Unavailable.
    """

    async def delete() -> None:
        owner = await asyncpg.connect(settings.postgres_dsn, timeout=DATABASE_CONNECT_DEADLINE_S)
        try:
            await owner.execute(_FORGET, timeout=DATABASE_COMMAND_DEADLINE_S)
        finally:
            await owner.close()

    place = urllib.parse.urlsplit(settings.postgres_dsn)
    try:
        await until_up(delete, f"PostgreSQL at {place.hostname}:{place.port or 5432}", AWAY, STARTUP_DEADLINE_S)
    except (asyncpg.InvalidCatalogNameError, asyncpg.UndefinedTableError):  # not migrated yet
        return
