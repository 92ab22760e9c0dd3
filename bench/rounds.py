"""Rounds: every contestant once per round in random order, ratios within a round, then median and range.

A machine drifts (its clock, its neighbours); what ran side by side drifts together, so only such pairs are divided.
"""

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The middle and the ends of a figure over its rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def shown(self, digits: int = 2) -> str:
        """`12.34 (11.90 to 13.02)`; without the range when there was one round."""
        middle = f"{self.median:,.{digits}f}"
        return middle if self.rounds == 1 else f"{middle} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError when there is none."""
    if not values:
        raise ValueError("no rounds were measured")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(candidate: Sequence[float], base: Sequence[float]) -> list[float]:
    """candidate / base, round by round. Raises ValueError when they are not of the same rounds, or a base is 0."""
    if len(candidate) != len(base):
        raise ValueError(f"{len(candidate)} rounds against {len(base)}")
    if 0 in base:
        raise ValueError("the base of a ratio is 0")
    return [value / under for value, under in zip(candidate, base, strict=True)]


def order(names: Sequence[str], rounds: int, seed: int | None = None) -> Iterator[tuple[int, str]]:
    """(round from 0, name): all names in each round, shuffled anew."""
    shuffle = random.Random(seed).shuffle  # noqa: S311 - no secret
    for number in range(rounds):
        names_now = list(names)
        shuffle(names_now)
        yield from ((number, name) for name in names_now)


class Figures:
    """A figure per contestant and round."""

    def __init__(self, names: Sequence[str]) -> None:
        self._values: dict[str, list[float]] = {name: [] for name in names}

    def add(self, name: str, value: float) -> None:
        self._values[name].append(value)

    def values(self, name: str) -> list[float]:
        return list(self._values[name])

    def spread(self, name: str) -> Spread:
        return spread(self._values[name])

    def ratio(self, name: str, base: str) -> Spread:
        """Of `name` to `base`, over the rounds."""
        return spread(ratios(self._values[name], self._values[base]))

    def report(self, base: str | None) -> Mapping[str, Mapping[str, object]]:
        """For --json: per contestant its spread, its rounds, and its ratio to the base; None: there is no ratio
        between them."""
        return {
            name: {
                **self.spread(name)._asdict(),
                "values": values,
                "ratio": self.ratio(name, base)._asdict() if base not in (None, name) else None,
            }
            for name, values in self._values.items()
        }
