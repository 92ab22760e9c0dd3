"""worker/attempts.py: delays and the retry budget."""

from notification.limits import (
    ACK_DUE_MS,
    RETRY_BUDGET_FLOOR_ITEMS,
    RETRY_BUDGET_PERCENT,
    RETRY_BUDGET_WINDOW_MS,
    RETRY_DELAYS_MS,
    RETRY_JITTER_MAX,
    RETRY_JITTER_MIN,
)
from worker.attempts import SENDS_MAX, RetryBudget, due_after_send_ms


def test_a_first_send_waits_for_its_ack_and_retries_for_their_jittered_delay() -> None:
    assert due_after_send_ms(1) == ACK_DUE_MS
    for attempt, delay_ms in enumerate(RETRY_DELAYS_MS, 2):
        assert due_after_send_ms(attempt, lambda low, _: low) == delay_ms * RETRY_JITTER_MIN
        assert due_after_send_ms(attempt, lambda _, high: high) == delay_ms * RETRY_JITTER_MAX
    assert SENDS_MAX == 4


def test_a_small_tenant_may_retry() -> None:
    budget = RetryBudget(lambda: 0.0)
    assert budget.allow("t", retry=False)
    assert all(budget.allow("t", retry=True) for _ in range(RETRY_BUDGET_FLOOR_ITEMS))
    assert not budget.allow("t", retry=True)


def test_a_big_tenant_may_retry_a_share_of_its_sends() -> None:
    budget = RetryBudget(lambda: 0.0)
    sends = 100 * RETRY_BUDGET_FLOOR_ITEMS
    for _ in range(sends):
        budget.allow("t", retry=False)
    allowed = sum(budget.allow("t", retry=True) for _ in range(sends))
    assert allowed == sends * RETRY_BUDGET_PERCENT // 100


def test_the_budget_comes_back_and_belongs_to_one_tenant() -> None:
    now_s = 0.0
    budget = RetryBudget(lambda: now_s)
    while budget.allow("t", retry=True):
        pass
    assert budget.allow("other", retry=True)
    now_s = RETRY_BUDGET_WINDOW_MS / 1000 * 0.6
    assert not budget.allow("t", retry=True), "half a window later the retries still count"
    now_s = RETRY_BUDGET_WINDOW_MS / 1000 * 1.1
    assert budget.allow("t", retry=True)
