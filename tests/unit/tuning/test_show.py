"""What is printed fits the terminal and says each row's state."""

import pytest

from tuning import show
from tuning.plan import Line, State
from tuning.probe import Opened

LINES = [
    Line("Connects", "net.core.somaxconn", State.BLOCKED, "128", "16384", "Why not.", "a source", "read-only"),
    Line("Connects", "net.ipv4.tcp_rmem", State.OK, "1 2 3", "1 2 3", "Because " * 40, "a source"),
    Line("Else", "/sys/kernel/mm/transparent_hugepage/enabled", State.SKIP, None, "madvise", "Why.", "a source"),
]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_rows_fit(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = show.rows(LINES)
    assert max(map(len, text.splitlines())) <= min(columns, 110)
    assert text.splitlines()[1] == "Connects"
    assert "128 -> 16384" in text
    assert "> read-only" in text
    assert "1 2 3 ->" not in text
    assert "- -> madvise" in text


def test_counts_name_what_there_is() -> None:
    assert show.counts(LINES) == "1 in order, 1 that cannot be changed here, 1 skipped."


def test_a_container_is_told_its_flags() -> None:
    assert '--sysctl "net.core.somaxconn=16384"' in show.container_help(LINES)
    assert show.container_help(LINES[1:]) == ""


@pytest.mark.parametrize(
    ("opened", "said"),
    [
        (Opened(10, 10, 10, 10, 16_384, 10, 0.1), "Opened 10 of 10 connections"),
        (Opened(10, 5, 5, 5, 16_384, 5, 0.1), "The descriptor limit ended it (5 for this user): even root may not"),
        (Opened(10, 10, 5, 5, 4, 5, 0.1), "The backlog was full: net.core.somaxconn is 4"),
    ],
)
def test_opened_says_what_ended_it(opened: Opened, said: str) -> None:
    assert said in show.opened(opened, root=True)
    assert opened.whole() == (opened.accepted == 10)
