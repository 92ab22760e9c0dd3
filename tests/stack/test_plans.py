"""The plans PostgreSQL makes for statements that name rows by their key, in a database it knows nothing of yet."""

import dataclasses
import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from notification.settings import Settings
from worker import audiences, collapse, receipts, release, store, transitions
from worker.database import connect_pool, replace_dsn
from worker.migrate import migrate

pytestmark = pytest.mark.stack

_STATEMENTS = {
    "find what is stored": ("dispatch", store._STORED),
    "record outcomes": ("dispatch", transitions._RECORD),
    "postpone": ("dispatch", transitions._POSTPONE),
    "collapse": ("dispatch", collapse._COLLAPSE),
    "release": ("dispatch", release._RELEASE),
    "store acks": ("receipts", receipts._ACKS),
    "complete rows of audiences": ("dispatch", audiences._COMPLETE),
    "ack what audiences got": ("receipts", audiences._OPEN_STATES),
}


def scans(plan: dict[str, Any], looked_up: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """Each node that reads notifications, and whether it is done once for each row of something else."""
    if plan["Node Type"].endswith("Scan") and plan.get("Relation Name", "").startswith("notifications_"):
        yield plan, looked_up
    for child in plan.get("Plans", []):
        inner = plan["Node Type"] == "Nested Loop" and child["Parent Relationship"] == "Inner"
        yield from scans(child, looked_up or inner)


async def test_rows_are_looked_up_by_their_key(servers: Settings) -> None:
    """What reads all rows of a tenant looks cheap to a planner that believes there are few, and stays its plan."""
    fresh = dataclasses.replace(
        servers, postgres=replace_dsn(servers.postgres_dsn, database=f"plans_{secrets.token_hex(5)}")
    )
    await migrate(fresh)
    for what, (role, statement) in _STATEMENTS.items():
        parameters = max(int(number) for number in re.findall(r"\$(\d+)", statement))
        pool = await connect_pool(fresh, role)
        try:
            async with pool.acquire() as connection:
                await connection.execute(f"PREPARE looked_at AS {statement}")
                text = await connection.fetchval(
                    f"EXPLAIN (FORMAT JSON) EXECUTE looked_at ({', '.join(['NULL'] * parameters)})"
                )
        finally:
            await pool.close()
        found = list(scans(json.loads(text)[0]["Plan"]))
        assert found, what
        for plan, looked_up in found:
            assert looked_up, (what, plan)
            assert "notification_id =" in plan["Index Cond"], (what, plan)
