"""A part: one piece of work and who does it; and how a piece of work is timed."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

Turn = Callable[[], Awaitable[float]]  # does the work once and says what it cost: CPU µs per operation


class Part(NamedTuple):
    """`turns`: the contestants; ratios are to the first of them."""

    name: str
    turns: Mapping[str, Turn]


def timed(prepare: Callable[[], Callable[[], object]], count: int) -> Turn:
    """A turn of synchronous work; `prepare` makes it ready each time, unmeasured, `count` operations a turn."""

    async def turn() -> float:
        work = prepare()
        started_ns = time.process_time_ns()
        work()
        return (time.process_time_ns() - started_ns) / count / 1_000

    return turn


def each(function: Callable[[str], object], texts: Sequence[str]) -> Callable[[], None]:
    """The work of calling `function` with every text."""

    def work() -> None:
        for text in texts:
            function(text)

    return work
