"""devstack/children.py"""

import os
import sys
from pathlib import Path

import pytest

from devstack.children import LOG_TAIL_LINES, Child, environment
from notification.settings import Settings, load


def python(code: str, log: Path) -> Child:
    return Child("child", [sys.executable, "-c", code], log)


async def test_wait_tells_the_exit_code_or_that_it_still_runs(tmp_path: Path) -> None:
    child = python("import time; time.sleep(0.3); raise SystemExit(7)", tmp_path / "log")
    assert child.returncode is None
    assert await child.stop() is None
    child.start()
    assert await child.wait(0.01) is None
    assert child.running
    assert await child.wait(10) == 7
    assert await child.wait(0) == 7
    assert await child.stop() == 7


async def test_what_it_said_last_goes_into_the_error(tmp_path: Path) -> None:
    child = python("print(*range(100), sep='\\n'); raise SystemExit(1)", tmp_path / "log")
    assert child.log_tail() == ""
    child.start()
    await child.wait(10)
    lines = str(child.died()).splitlines()
    assert "child ended with exit code 1" in lines[0]
    assert [line.strip() for line in lines[1:]] == [str(number) for number in range(100 - LOG_TAIL_LINES, 100)]


async def test_the_tail_is_of_this_run_and_cannot_steer_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier run\n")
    said = "\\x1b[2m12:00\\x1b[0m \\x1b]0;title\\x07\\x1b[31;1mred\\x1b[m\\tnew\\rline\\r\\nlast"
    child = python(f"print('{said}')", log)
    assert child.log_tail() == "    of an earlier run"
    child.start()
    await child.wait(10)
    assert child.log_tail() == "    12:00 red\tnewline\n    last"
    assert log.read_text().startswith("of an earlier run\n")
    child.start()
    await child.wait(10)
    assert child.log_tail() == "    12:00 red\tnewline\n    last"
    log.write_text("cut\n")
    assert child.log_tail() == "    cut"


def test_the_environment_of_a_child_holds_exactly_our_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HERALD_GATEWAY_PORT", "1")
    monkeypatch.setenv("HERALD_NO_SUCH_SETTING", "1")
    settings = Settings(gateway_port=9_000, log_json=False, redis="redis://there/0")
    variables = environment(settings)
    assert load(tmp_path / "none.toml", variables)[0] == settings
    assert variables["PATH"] == os.environ["PATH"]
