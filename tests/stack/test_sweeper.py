"""worker/sweeper.py on real PostgreSQL: what is due, who gets it, what becomes of it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from notification.limits import SWEEP_CLAIM_MS
from notification.settings import Settings
from tests.stack.lab import Lab, open_lab
from worker.scheduler import Job, Scheduler
from worker.sweeper import Sweeper
from worker.transitions import DatabaseJournal

pytestmark = pytest.mark.stack


@pytest.fixture
async def lab(servers: Settings, tenant: str) -> AsyncIterator[Lab]:
    async with open_lab(servers) as made:
        await made.owner.execute("UPDATE notifications SET due_at = NULL")  # other tests' rows are not our business
        yield made


def sweeper(lab: Lab, scheduler: Scheduler) -> Sweeper:
    pool = lab.pools["dispatch"]
    return Sweeper(pool, lab.dispatch_ring, scheduler, DatabaseJournal(pool))


async def swept(lab: Lab) -> list[Job]:
    """One sweep; the jobs it queued."""
    scheduler = Scheduler()
    await sweeper(lab, scheduler).sweep()
    return await scheduler.take(1_000) if len(scheduler) else []


async def test_a_row_not_yet_due_is_left_alone(lab: Lab, tenant: str) -> None:
    await lab.store(tenant)
    assert await swept(lab) == []


@pytest.mark.parametrize(("status", "attempt"), [("ACCEPTED", 0), ("DISPATCHED", 1), ("DISPATCHED", 3)])
async def test_a_due_row_is_claimed_and_queued_with_its_payload(
    lab: Lab, tenant: str, status: str, attempt: int
) -> None:
    [sent] = await lab.store(tenant)
    rank = 0 if status == "ACCEPTED" else 1
    await lab.change(tenant, sent.id, f"due_at = now(), status = '{status}', rank = {rank}, attempt = {attempt}")
    [job] = await swept(lab)
    assert not job.parked
    assert job.notification.payload == sent.payload
    assert (job.notification.seq, job.notification.attempt) == (sent.seq, attempt)
    due_in_ms = (await lab.row(tenant, sent.id))["due_in_ms"]
    assert SWEEP_CLAIM_MS - 3_000 < due_in_ms <= SWEEP_CLAIM_MS, "if this worker dies, it is due again"
    assert await swept(lab) == []


async def test_two_sweepers_never_claim_the_same_row(lab: Lab, tenant: str) -> None:
    await lab.store(tenant, [f"u{number}" for number in range(200)])
    await lab.owner.execute("UPDATE notifications SET due_at = now() WHERE tenant_id = $1", tenant)
    schedulers = [Scheduler() for _ in range(4)]
    await asyncio.gather(*(sweeper(lab, scheduler).sweep() for scheduler in schedulers))
    users = [
        job.notification.user for scheduler in schedulers if len(scheduler) for job in await scheduler.take(1_000)
    ]
    assert len(users) == len(set(users)) == 200


async def test_after_three_retries_it_is_parked_until_the_next_connect(lab: Lab, tenant: str) -> None:
    [sent] = await lab.store(tenant, ttl_s=3_600)
    await lab.change(tenant, sent.id, "due_at = now(), status = 'DISPATCHED', rank = 1, attempt = 4")
    assert await swept(lab) == []
    row = await lab.row(tenant, sent.id)
    assert (row["status"], row["status_code"], row["due_at"]) == ("PARKED", 301, row["expiry"])


async def test_what_is_expired_ends(lab: Lab, tenant: str) -> None:
    [sent] = await lab.store(tenant)
    await lab.change(tenant, sent.id, "due_at = now(), expiry = now(), status = 'PARKED', rank = 1")
    assert await swept(lab) == []
    row = await lab.row(tenant, sent.id)
    assert (row["status"], row["rank"], row["status_code"], row["due_at"]) == ("EXPIRED", 2, 400, None)
    assert await lab.history(tenant, sent.id) == ["ACCEPTED", "EXPIRED"]


async def test_a_parked_row_gets_its_second_look(lab: Lab, tenant: str) -> None:
    [sent] = await lab.store(tenant)
    await lab.change(tenant, sent.id, "due_at = now(), status = 'PARKED', rank = 1, status_code = 300")
    [job] = await swept(lab)
    assert job.parked


async def test_what_was_acked_meanwhile_stays_delivered(lab: Lab, tenant: str) -> None:
    [sent] = await lab.store(tenant)
    await lab.change(tenant, sent.id, "due_at = now(), expiry = now(), status = 'DELIVERED', rank = 3")
    await swept(lab)
    assert (await lab.row(tenant, sent.id))["status"] == "DELIVERED"


async def test_a_scheduled_one_takes_its_place_in_the_lane_when_its_time_comes(lab: Lab, tenant: str) -> None:
    now_ms = await lab.now_ms()
    assert await lab.store(tenant, not_before_ms=now_ms + 60_000) == [], "nothing to hand on yet"
    await lab.store(tenant)
    [early] = await lab.rows(
        "SELECT notification_id, seq FROM notifications WHERE not_before IS NOT NULL AND tenant_id = $1", tenant
    )
    assert early["seq"] == 1
    assert await swept(lab) == []
    await lab.change(tenant, early["notification_id"], "due_at = now(), not_before = now()")
    [job] = await swept(lab)
    assert (job.notification.seq, job.notification.prev) == (3, 2)
    [head] = await lab.rows("SELECT seq FROM lane_heads WHERE tenant_id = $1", tenant)
    assert head["seq"] == 3
    [later] = await lab.store(tenant)
    assert (later.seq, later.prev) == (4, 3)


async def test_a_payload_that_does_not_open_waits_for_its_expiry_and_hides_no_other(lab: Lab, tenant: str) -> None:
    broken, whole = await lab.store(tenant, ["broken", "whole"])
    await lab.owner.execute("UPDATE notifications SET due_at = now() WHERE tenant_id = $1", tenant)
    await lab.change(tenant, broken.id, "payload = overlay(payload placing '\\x00'::bytea from 20)")
    assert [job.notification.user for job in await swept(lab)] == ["whole"]
    row = await lab.row(tenant, broken.id, "broken")
    assert row["due_at"] == row["expiry"]
    assert whole.user == "whole"


async def test_a_full_queue_claims_nothing(lab: Lab, tenant: str) -> None:
    [sent] = await lab.store(tenant)
    await lab.change(tenant, sent.id, "due_at = now()")
    assert await sweeper(lab, Scheduler(items_max=0)).sweep() == 0
    assert len(await swept(lab)) == 1


async def test_scheduled_rows_of_many_users_join_their_own_lanes(lab: Lab, tenant: str) -> None:
    users = [f"u{number}" for number in range(100)]
    later_ms = await lab.now_ms() + 60_000
    for priority in (0, 2, 0):
        assert await lab.store(tenant, users, priority, not_before_ms=later_ms) == []
    await lab.owner.execute(
        "UPDATE notifications SET due_at = now(), not_before = now() WHERE tenant_id = $1", tenant
    )
    jobs = await swept(lab)
    places: dict[tuple[str, int], list[tuple[int, int]]] = {
        (job.notification.user, job.notification.lane): [] for job in jobs
    }
    for job in jobs:
        places[job.notification.user, job.notification.lane].append((job.notification.prev, job.notification.seq))
    assert len(places) == 2 * len(users)
    for user in users:
        assert places[user, 0] == [(2, 3), (3, 4)], "behind what they were stored as"
        assert places[user, 2] == [(1, 2)]
    heads = await lab.owner.fetch("SELECT lane, seq FROM lane_heads WHERE tenant_id = $1", tenant)
    assert {(row["lane"], row["seq"]) for row in heads} == {(0, 4), (2, 2)}
    assert await lab.owner.fetchval(
        "SELECT count(*) FROM user_state WHERE tenant_id = $1 AND rev = 4", tenant
    ) == len(users), "three storing transactions and one release"
