"""micro: each piece of the gateway's compiled code, in CPU µs per operation of this process.

A part's contestants run once a round in random order; a ratio is taken within a round.
"""

from typing import Any, NamedTuple

from bench.micro import pieces, redis, tokens
from bench.report import Progress
from bench.rounds import Figures, order


class Options(NamedTuple):
    """`operations`: of a turn; tokens are fewer, since PyJWT and the public keys are slow."""

    rounds: int = 5
    operations: int = 20_000
    tokens: int = 1_000


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report: a figure per part and contestant, its ratio to the first of its part. Raises ValueError."""
    if min(options) < 1:
        raise ValueError("--rounds, --operations and --tokens must be at least 1")
    report: dict[str, Any] = {}
    async with redis.parts(options.operations) as with_valkey:
        parts = [*pieces.parts(options.operations), *tokens.parts(options.tokens), *with_valkey]
        with progress.step("turns", options.rounds * sum(len(part.turns) for part in parts)) as advance:
            for part in parts:
                names = list(part.turns)
                figures = Figures(names)
                for _, name in order(names, options.rounds):
                    figures.add(name, await part.turns[name]())
                    advance()
                report |= {f"{part.name}: {name}": figure for name, figure in figures.report(names[0]).items()}
    return {
        "bench": "micro", "unit": "µs of CPU per operation", "options": options._asdict(), "figures": report,
        "ratios": "to the first of the same part",
    }  # fmt: skip
