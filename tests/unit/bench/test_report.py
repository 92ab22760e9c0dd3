"""bench/report.py: the tables that a person reads."""

from io import StringIO

from rich.console import Console

from bench.report import Progress, show
from bench.rounds import Figures


def shown(report: dict[str, object]) -> str:
    console = Console(file=StringIO(), width=160)
    show(console, report)
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def test_a_report_of_rounds_shows_median_range_and_ratio() -> None:
    figures = Figures(["floor", "engine"])
    for floor, engine in ((5.0, 10.0), (4.0, 10.0)):
        figures.add("floor", floor)
        figures.add("engine", engine)
    text = shown({"bench": "hotpath", "unit": "µs", "figures": figures.report("floor"), "inbox": "stand-in",
                  "disconnect": figures.report("floor"), "busy": {"floor": 0.98}})  # fmt: skip
    assert "10.00 (10.00 to 10.00)" in text
    assert "2.25 (2.00 to 2.50)" in text
    assert "inbox: stand-in" in text
    assert "disconnect: floor 4.50 (4.00 to 5.00), engine 10.00" in text
    assert "busy: floor 0.980" in text


def test_figures_that_are_not_compared_have_no_ratio_and_shares_have_bars() -> None:
    figures = Figures(["cpu", "bytes"])
    figures.add("cpu", 60.0)
    figures.add("bytes", 2_200.0)
    shares = {"title": "where it goes", "parts": {"store": 40.0, "router": 20.0}}
    text = shown({"bench": "worker", "unit": "each", "figures": figures.report(None), "shares": shares})
    assert "2,200.00" in text
    assert "ratio" not in text
    lines = {line.split()[1]: line.count("█") for line in text.splitlines() if "█" in line}
    assert lines["store"] == 2 * lines["router"] > 0


def test_a_report_without_rounds_shows_every_figure() -> None:
    text = shown(
        {"bench": "idle", "unit": "per connection", "figures": {"engine": {"rss": 924.6, "cpu": 0.5, "n": 12_000}}}
    )
    assert "925" in text
    assert "0.500" in text
    assert "12,000" in text


def test_progress_is_silent_where_nobody_looks() -> None:
    console = Console(file=StringIO())
    with Progress(console) as progress, progress.step("work", 2) as advance:
        advance()
        advance()
    file = console.file
    assert isinstance(file, StringIO)
    assert file.getvalue() == ""
