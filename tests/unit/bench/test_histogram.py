"""bench/histogram.py: percentiles of what the load generator printed."""

import random

import pytest

from bench.histogram import Histogram, top_us


def index_of(us: int) -> int:
    """histogram_add of native/histogram.h."""
    if us < 32:
        return us
    shift = us.bit_length() - 6
    return 32 * shift + (us >> shift)


def histogram(values: list[int]) -> Histogram:
    buckets: dict[int, int] = {}
    for value in values:
        buckets[index_of(value)] = buckets.get(index_of(value), 0) + 1
    return Histogram.parse(
        {"count": len(values), "max_us": max(values), "buckets": [list(pair) for pair in buckets.items()]}
    )


@pytest.mark.parametrize("us", [0, 1, 31, 32, 33, 63, 64, 65, 1_000, 65_535, 65_536, 10_000_000])
def test_a_bucket_ends_at_or_less_than_a_thirtysecond_above_its_values(us: int) -> None:
    top = top_us(index_of(us))
    assert us <= top <= us + us // 32
    assert index_of(top) == index_of(us)
    assert index_of(top + 1) == index_of(us) + 1


def test_percentiles_are_within_a_bucket_of_the_exact_ones() -> None:
    rng = random.Random(7)
    values = sorted(rng.randrange(100_000) for _ in range(10_000))
    measured = histogram(values)
    for percent in (50, 95, 99):
        exact = values[percent * 100 - 1]
        assert exact <= measured.percentile_us(percent) <= exact * 33 // 32 + 1
    assert measured.percentile_us(100) == values[-1]


def test_nothing_has_percentiles_of_zero() -> None:
    assert Histogram().percentile_us(99) == 0


def test_parts_add_up() -> None:
    whole = Histogram.merge([histogram([10, 20]), histogram([5_000])])
    assert whole.count == 3
    assert whole.percentile_us(50) == 20
    assert whole.summary_ms() == {"p50_ms": 0.02, "p95_ms": 5.0, "p99_ms": 5.0, "max_ms": 5.0}
