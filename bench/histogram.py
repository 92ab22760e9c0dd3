"""The histograms of the load generator (native/histogram.h): microseconds, 32 buckets to a power of two."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

_PER_DOUBLING: Final = 32


def top_us(index: int) -> int:
    """The largest value that falls into a bucket."""
    if index < _PER_DOUBLING:
        return index
    shift = index // _PER_DOUBLING - 1
    return ((index % _PER_DOUBLING + _PER_DOUBLING + 1) << shift) - 1


class Histogram:
    """Counts per bucket; several generators' histograms add up."""

    def __init__(self, count: int = 0, max_us: int = 0, buckets: Mapping[int, int] | None = None) -> None:
        self.count = count
        self.max_us = max_us
        self._buckets = dict(buckets or {})

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> "Histogram":
        """What the generator printed, decoded from JSON."""
        return cls(value["count"], value["max_us"], dict(value["buckets"]))

    @classmethod
    def merge(cls, parts: Iterable["Histogram"]) -> "Histogram":
        whole = cls()
        for part in parts:
            whole.count += part.count
            whole.max_us = max(whole.max_us, part.max_us)
            for index, count in part._buckets.items():
                whole._buckets[index] = whole._buckets.get(index, 0) + count
        return whole

    def percentile_us(self, percent: float) -> int:
        """The least bucket end that `percent` of the values do not exceed; 0 of nothing."""
        rank = percent / 100 * self.count
        seen = 0
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            if seen >= rank:
                return min(top_us(index), self.max_us)
        return self.max_us

    def summary_ms(self) -> dict[str, float]:
        """P50, P95, P99 and the maximum, in ms."""
        named = {f"p{percent}_ms": self.percentile_us(percent) / 1_000 for percent in (50, 95, 99)}
        return {**named, "max_ms": self.max_us / 1_000}
