"""What a run of cases ended in: a table for people, JSON and Markdown for files."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Final

from rich.table import Table

from tests.faults.run import Case, Result

_COLUMNS: Final = (
    "case", "sent", "received", "expired", "twice", "lost", "wrong", "gap s", "late P95 s", "latest s", "MiB",
    "verdict",
)  # fmt: skip


def row_of(result: Result) -> tuple[str, ...]:
    """One line of the table."""
    counts = result.counts
    others = sum(count for name, count in counts.wrong.items() if name != "lost")
    return (
        result.case, str(counts.sent), str(counts.received), str(counts.expired), str(counts.duplicates),
        str(counts.lost), str(others), f"{counts.longest_gap_s:.1f}", f"{result.recovery_p95_s:.2f}",
        f"{result.recovery_s:.2f}" + (f" (<= {result.recovery_s_max:.0f})" if result.recovery_s_max else ""),
        f"{result.memory_growth_bytes / 2**20:.0f}", "; ".join(_failures(result)) or "passed",
    )  # fmt: skip


def _failures(result: Result) -> list[str]:
    return [*result.broken, *([result.late] if result.late else [])]


def table(results: Sequence[Result]) -> Table:
    """For a terminal."""
    made = Table(title="faults", title_justify="left")
    for number, column in enumerate(_COLUMNS):
        made.add_column(column, justify="left" if number in (0, len(_COLUMNS) - 1) else "right")
    for result in results:
        made.add_row(*row_of(result))
    return made


def as_json(results: Sequence[Result], seed: int) -> str:
    """Everything, with the seed that plays it again."""
    document: dict[str, Any] = {"seed": seed, "cases": [dataclasses.asdict(result) for result in results]}
    return json.dumps(document, indent=2) + "\n"


def as_markdown(results: Sequence[Result], cases: Sequence[Case], seed: int) -> str:
    """The table of docs/reliability.md."""
    says = {case.name: case.says for case in cases}
    lines = [
        f"Seed {seed}. {verdict(results)}", "",
        "| " + " | ".join((_COLUMNS[0], "fault", *_COLUMNS[1:])) + " |",
        "|---" * (len(_COLUMNS) + 1) + "|",
    ]  # fmt: skip
    for result in results:
        name, *others = row_of(result)
        lines.append("| " + " | ".join((name, says[name], *others)) + " |")
    return "\n".join(lines) + "\n"


def verdict(results: Sequence[Result]) -> str:
    """The last line of a run."""
    failed = [result.case for result in results if _failures(result)]
    sent = sum(result.counts.sent for result in results)
    lost = sum(result.counts.lost for result in results)
    word = f"FAILED: {', '.join(failed)}" if failed else "PASSED"
    return f"{len(results)} cases, {sent} accepted, {lost} lost: {word}"
