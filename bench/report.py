"""What a person sees: progress on stderr while it runs, a table at the end."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from bench.rounds import Spread

Advance = Callable[..., None]
_SKIPPED: Final = ("figures", "bench", "options", "unit", "shares")
_BAR_CHARS: Final = 40


class Progress:
    """Bars on a terminal; silent elsewhere."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def step(self, text: str, total: float) -> Iterator[Advance]:
        """One bar; call what it yields for each part done."""
        task = self._bars.add_task(text, total=total)

        def advance(parts: float = 1) -> None:
            self._bars.advance(task, parts)

        yield advance
        self._bars.update(task, completed=total)


def show(console: Console, report: Mapping[str, Any]) -> None:
    """A table of the figures, then what else the report says, one line each."""
    table = Table(title=f"{report['bench']}: {report['unit']}", title_justify="left")
    figures = report["figures"]
    keys = list(next(iter(figures.values())))
    if "median" in keys:
        _spreads(table, figures)
    else:
        _plain(table, figures, keys)
    console.print(table)
    if "shares" in report:
        console.print(_shares(**report["shares"]))
    for key, value in report.items():
        if key not in _SKIPPED:
            console.print(f"{key}: {_line(value)}", markup=False, highlight=False)


def _spreads(table: Table, figures: Mapping[str, Mapping[str, Any]]) -> None:
    related = any(figure["ratio"] for figure in figures.values()) or len(figures) == 1
    for title in ("", "median (range)", "ratio to the first")[: 3 if related else 2]:
        table.add_column(title, no_wrap=True)
    for name, figure in figures.items():
        ratio = figure["ratio"]
        table.add_row(name, _spread(figure), *([_spread(ratio) if ratio else "1"] if related else []))


def _shares(title: str, parts: Mapping[str, float]) -> Table:
    """What a whole consists of, the largest part with the longest bar."""
    table = Table(title=title, title_justify="left", show_header=False)
    longest = max(parts.values(), default=1.0)
    for name, value in parts.items():
        table.add_row(name, f"{value:,.2f}", "█" * round(_BAR_CHARS * value / longest))
    return table


def _spread(value: Mapping[str, Any]) -> str:
    return Spread(value["median"], value["low"], value["high"], value["rounds"]).shown()


def _plain(table: Table, figures: Mapping[str, Mapping[str, Any]], rows: Sequence[str]) -> None:
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row, *(_number(figure[row]) for figure in figures.values()))


def _number(value: Any) -> str:
    return f"{value:,.3f}" if isinstance(value, float) and abs(value) < 100 else f"{value:,.0f}"


def _line(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _number(value) if isinstance(value, int | float) else str(value)
    if all("median" in inner for inner in value.values() if isinstance(inner, Mapping)) and any(
        isinstance(inner, Mapping) for inner in value.values()
    ):
        return ", ".join(f"{name} {_spread(inner)}" for name, inner in value.items())
    return ", ".join(f"{name} {_line(inner)}" for name, inner in value.items())
