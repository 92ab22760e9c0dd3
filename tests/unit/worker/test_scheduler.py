"""worker/scheduler.py: shares, fairness, order, bounds."""

import asyncio
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notification.limits import ACK_DUE_MS, LANE_FLOOR_PERCENT, LANE_WEIGHTS
from tests.unit.worker.jobs import job, notification
from worker.scheduler import Scheduler, first_job


def filled(*counts: int) -> Scheduler:
    """Queues of these lengths: high, medium, low."""
    scheduler = Scheduler()
    for priority, count in enumerate(counts):
        for seq in range(count):
            assert scheduler.put(job(priority=priority, seq=seq + 1))
    return scheduler


async def test_full_queues_share_by_their_weights() -> None:
    taken = await filled(300, 300, 300).take(200)
    assert [Counter(one.priority for one in taken)[priority] for priority in range(3)] == [140, 40, 20]


async def test_high_leaves_first() -> None:
    scheduler = filled(0, 0, 50)
    scheduler.put(job(priority=0))
    assert (await scheduler.take(1))[0].priority == 0


async def test_high_takes_the_place_of_low_when_the_queue_is_full() -> None:
    scheduler = Scheduler(items_max=3)
    for tenant, seq in (("a", 1), ("b", 1), ("a", 2)):
        assert scheduler.put(job(tenant, priority=2, seq=seq))
    assert not scheduler.put(job("c", priority=2))
    for priority in (0, 1, 0):
        assert scheduler.put(job("c", priority=priority))
        assert len(scheduler) == 3
    assert not scheduler.put(job("c", priority=1))
    assert scheduler.put(job("c", priority=0))
    assert not scheduler.put(job("c", priority=0))
    assert [one.priority for one in await scheduler.take(3)] == [0, 0, 0]


async def test_what_loses_its_place_is_the_newest_of_its_tenant() -> None:
    scheduler = Scheduler(items_max=2)
    for seq in (1, 2):
        scheduler.put(job(priority=2, seq=seq))
    scheduler.put(job(priority=0))
    assert [(one.priority, one.notification.seq) for one in await scheduler.take(2)] == [(0, 1), (2, 1)]


async def test_an_idle_priority_leaves_its_share_to_the_others() -> None:
    assert len(await filled(0, 0, 500).take(256)) == 256


@pytest.mark.parametrize("batch", [1, 7, 256])
async def test_low_never_starves_under_endless_high(batch: int) -> None:
    scheduler = filled(0, 0, 200)
    low = total = 0
    while total < 1_000:
        while len(scheduler) < 1_200:
            scheduler.put(job(priority=0))
        taken = await scheduler.take(batch)
        low += sum(one.priority == 2 for one in taken)
        total += len(taken)
    assert low / total >= LANE_FLOOR_PERCENT / 100


async def test_a_small_tenant_waits_for_no_big_one() -> None:
    scheduler = Scheduler()
    for seq in range(500):
        scheduler.put(job("big", seq=seq + 1))
    scheduler.put(job("small"))
    assert "small" in {one.notification.tenant for one in await scheduler.take(2)}


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 2), st.integers(0, 3)), max_size=200
    )
)
def test_every_job_leaves_once_and_a_users_lane_in_order(steps: list[tuple[str, str, int, int]]) -> None:
    asyncio.run(_every_job_leaves_once(steps))


async def _every_job_leaves_once(steps: list[tuple[str, str, int, int]]) -> None:
    scheduler = Scheduler()
    put: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    left: dict[tuple[str, str, int], list[int]] = defaultdict(list)

    async def take(n: int) -> None:
        for one in await scheduler.take(n):
            taken = one.notification
            left[taken.tenant, taken.user, taken.lane].append(taken.seq)

    for seq, (tenant, user, priority, n) in enumerate(steps):
        scheduler.put(job(tenant, user, priority, seq))
        put[tenant, user, priority].append(seq)
        if n:
            await take(n)
    while len(scheduler):
        await take(sum(LANE_WEIGHTS))
    assert left == put


async def test_it_is_bounded_and_says_so() -> None:
    scheduler = Scheduler(items_max=2)
    assert [scheduler.put(job(seq=seq)) for seq in (1, 2, 3)] == [True, True, False]
    assert scheduler.room == 0
    await scheduler.take(1)
    assert scheduler.put(job(seq=4))


async def test_a_row_that_is_due_again_is_not_ours_any_more() -> None:
    now_s = 0.0
    scheduler = Scheduler(now_s=lambda: now_s)
    scheduler.put(job(seq=1, mine_until_s=5.0))
    scheduler.put(job(seq=2, mine_until_s=50.0))
    now_s = 5.0
    assert [one.notification.seq for one in await scheduler.take(10)] == [2]


def test_a_first_send_is_ours_for_less_than_its_ack_is_due() -> None:
    now_s = 7.0
    fresh = first_job(notification(), now_s)
    assert now_s < fresh.mine_until_s < now_s + ACK_DUE_MS / 1000


async def test_take_waits_for_the_first_and_ends_with_close() -> None:
    scheduler = Scheduler()
    waiting = asyncio.create_task(scheduler.take(5))
    await asyncio.sleep(0)
    assert not waiting.done()
    scheduler.put(job())
    assert len(await waiting) == 1
    scheduler.put(job())
    scheduler.close()
    assert not scheduler.put(job())
    assert len(await scheduler.take(5)) == 1
    assert await scheduler.take(5) == []


async def test_what_a_newer_one_of_its_key_replaced_is_not_sent() -> None:
    scheduler = Scheduler()
    for seq in range(1, 101):
        scheduler.put(job(priority=1, seq=seq, collapse_key="order-7"))
    scheduler.put(job(priority=1, seq=101))
    scheduler.put(job(priority=1, seq=102, collapse_key="order-8"))
    assert [one.notification.seq for one in await scheduler.take(10)] == [100, 101, 102]
    scheduler.put(job(priority=1, seq=99, collapse_key="order-7"))
    assert [one.notification.seq for one in await scheduler.take(10)] == [99], "a claimed one that comes alone"


async def test_a_claimed_older_one_does_not_replace_the_newest() -> None:
    scheduler = Scheduler()
    for seq in (5, 3, 5):
        scheduler.put(job(seq=seq, collapse_key="order-7"))
    assert [one.notification.seq for one in await scheduler.take(10)] == [5, 5]


async def test_keys_are_of_one_user_and_lane() -> None:
    scheduler = Scheduler()
    for tenant, user, priority in (("a", "ann", 0), ("a", "bob", 0), ("b", "ann", 0), ("a", "ann", 1)):
        scheduler.put(job(tenant, user, priority=priority, seq=1, collapse_key="order-7"))
    assert len(await scheduler.take(10)) == 4


async def test_what_lost_its_place_is_forgotten() -> None:
    scheduler = Scheduler(items_max=1)
    scheduler.put(job(priority=2, seq=2, collapse_key="order-7"))
    scheduler.put(job(priority=0))
    await scheduler.take(1)
    scheduler.put(job(priority=2, seq=1, collapse_key="order-7"))
    assert len(await scheduler.take(1)) == 1
