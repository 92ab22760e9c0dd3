"""The plans PostgreSQL makes for statements that name rows by their key, on tables nobody has analyzed."""

import re
from collections.abc import AsyncIterator

import pytest

from notification.settings import Settings
from tests.stack.lab import Lab, open_lab
from worker import receipts, release, store, transitions

pytestmark = pytest.mark.stack

_STATEMENTS = {
    "find what is stored": ("dispatch", store._STORED),
    "record outcomes": ("dispatch", transitions._RECORD),
    "postpone": ("dispatch", transitions._POSTPONE),
    "release": ("dispatch", release._RELEASE),
    "store acks": ("receipts", receipts._ACKS),
}


@pytest.fixture
async def lab(servers: Settings) -> AsyncIterator[Lab]:
    async with open_lab(servers) as made:
        yield made


@pytest.mark.parametrize("what", _STATEMENTS)
async def test_rows_are_looked_up_one_by_one(lab: Lab, what: str) -> None:
    """Any other join reads all rows of the tenant: worth it only for a planner that believes there are few."""
    role, statement = _STATEMENTS[what]
    parameters = max(int(number) for number in re.findall(r"\$(\d+)", statement))
    async with lab.pools[role].acquire() as connection:
        await connection.execute(f"PREPARE looked_at AS {statement}")
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                nulls = ", ".join(["NULL"] * parameters)
                lines = [row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE looked_at ({nulls})")]
        finally:
            await connection.execute("DEALLOCATE looked_at")
    plan = "\n".join(lines)
    assert "Nested Loop" in plan
    assert not re.search("Hash Join|Merge Join|Seq Scan on notifications", plan), plan
