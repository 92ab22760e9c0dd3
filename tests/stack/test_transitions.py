"""worker/transitions.py on real PostgreSQL: rank only rises, a late writer takes nothing back."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from notification.codes import Status, StatusCode
from notification.settings import Settings
from tests.stack.lab import Lab, open_lab
from worker.store import StoredNotification
from worker.transitions import DatabaseJournal, Postponement, Transition

pytestmark = pytest.mark.stack


@pytest.fixture
async def lab(servers: Settings) -> AsyncIterator[Lab]:
    async with open_lab(servers) as made:
        yield made


def sent(notification: StoredNotification, attempt: int = 1, due_in_ms: int | None = 5_000) -> Transition:
    return Transition(notification, Status.DISPATCHED, StatusCode.SENT, attempt, due_in_ms)


async def test_a_send_is_written_with_its_history_and_due_time(lab: Lab, tenant: str) -> None:
    [one] = await lab.store(tenant)
    await DatabaseJournal(lab.pools["dispatch"]).record([sent(one)])
    row = await lab.row(tenant, one.id)
    assert (row["status"], row["rank"], row["status_code"], row["attempt"]) == ("DISPATCHED", 1, 200, 1)
    assert 0 < row["due_in_ms"] <= 5_000
    assert await lab.history(tenant, one.id) == ["ACCEPTED", "DISPATCHED"]


async def test_an_ack_that_was_faster_stands_and_the_send_is_still_history(lab: Lab, tenant: str) -> None:
    [one] = await lab.store(tenant)
    await lab.change(tenant, one.id, "status = 'DELIVERED', rank = 3, due_at = NULL")
    await DatabaseJournal(lab.pools["dispatch"]).record([sent(one)])
    row = await lab.row(tenant, one.id)
    assert (row["status"], row["due_at"]) == ("DELIVERED", None)
    assert await lab.history(tenant, one.id) == ["ACCEPTED", "DISPATCHED"]


async def test_an_earlier_attempt_written_late_takes_nothing_back(lab: Lab, tenant: str) -> None:
    [one] = await lab.store(tenant)
    journal = DatabaseJournal(lab.pools["dispatch"])
    await journal.record([sent(one, attempt=3)])
    await journal.record([Transition(one, Status.PARKED, StatusCode.PARKED_OFFLINE, 2, 10_000)])
    row = await lab.row(tenant, one.id)
    assert (row["status"], row["attempt"]) == ("DISPATCHED", 3)


@pytest.mark.parametrize("ended", ["EXPIRED", "CANCELLED"])
async def test_what_has_ended_is_not_sent_back_to_flight(lab: Lab, tenant: str, ended: str) -> None:
    [one] = await lab.store(tenant)
    await lab.change(tenant, one.id, f"status = '{ended}', rank = 2, due_at = NULL")
    journal = DatabaseJournal(lab.pools["dispatch"])
    await journal.record([sent(one), Postponement(one, 1_000)])
    row = await lab.row(tenant, one.id)
    assert (row["status"], row["due_at"]) == (ended, None)


async def test_nothing_is_due_after_its_expiry(lab: Lab, tenant: str) -> None:
    soon, later = await lab.store(tenant, ["a", "b"], ttl_s=1)
    journal = DatabaseJournal(lab.pools["dispatch"])
    await journal.record([sent(soon), Postponement(later, None)])
    for one in (soon, later):
        row = await lab.row(tenant, one.id, one.user)
        assert row["due_at"] == row["expiry"]


async def test_batches_in_opposite_order_do_not_deadlock(lab: Lab, tenant: str) -> None:
    many = await lab.store(tenant, [f"u{number}" for number in range(100)])
    journal = DatabaseJournal(lab.pools["dispatch"])
    forth = [sent(one, attempt=1) for one in many]
    back = [dataclasses.replace(one, attempt=2) for one in reversed(forth)]
    for _ in range(5):
        await asyncio.gather(journal.record(forth), journal.record(back))
    rows = await lab.rows("SELECT DISTINCT attempt FROM notifications WHERE tenant_id = $1", tenant)
    assert rows == [{"attempt": 2}]
