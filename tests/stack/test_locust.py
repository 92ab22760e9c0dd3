"""bench/locust: each profile runs against a whole Herald; what it measures here is no figure, so none is judged."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from devstack.children import environment
from devstack.ports import free_ports
from notification.settings import Settings
from tests.quality.tree import ROOT
from tests.stack.test_run import Running, settings_in

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

# Profile -> (scale at which some events are certain, rows that are certain then).
PROFILES = {
    "day": ("0.005", ("connect", "ping")), "burst": ("0.001", ("connect", "deliver low")),
    "storm": ("0.005", ("connect", "resume")), "war": ("0.002", ("connect", "ping")),
}  # fmt: skip


@pytest.fixture(scope="module")
def herald(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """`make run`, with a second tenant."""
    folder = tmp_path_factory.mktemp("locust")
    running = Running(settings_in(folder), folder)
    running.ready()
    try:
        subprocess.run(
            [sys.executable, "-m", "herald", "tenant", "create", "rival"],
            env=environment(running.settings),
            check=True,
        )
        yield running.settings
    finally:
        running.process.terminate()
        running.process.wait(60)


def locust(settings: Settings, profile: str, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "locust", "-f", f"bench/locust/{profile}.py", "--headless", "--only-summary",
         *options],
        cwd=ROOT, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def verdict(said: str) -> dict[str, tuple[str, str]]:
    """Name -> (pass, FAIL or nothing; what was said)."""
    lines = re.findall(r"^  (pass|FAIL|    )  (.{16}\S*) (.*)$", said, re.MULTILINE)
    return {name.strip(): (mark.strip(), text) for mark, name, text in lines}


def test_each_profile_measures_its_rows_and_loses_nothing(herald: Settings) -> None:
    began = {
        name: locust(herald, name, "--scale", scale, "--minutes", "0.2", "--every", "3")
        for name, (scale, _) in PROFILES.items()
    }
    for name, process in began.items():
        said, _ = process.communicate(timeout=120)
        lines = verdict(said)
        assert lines["lost"][0] == "pass", said
        assert lines["not accepted"][0] == "pass", said
        assert re.search(r"P95 at most \d+ ms of \d+ storing transactions", lines["database write"][1]), said
        for row in PROFILES[name][1]:
            assert re.match(r"P95 [\d.]+ ms of \d+, 0 failed", lines[row][1]), (row, said)
        failed = [name for name, (mark, _) in lines.items() if mark == "FAIL"]
        assert process.returncode == (1 if failed else 0), said
        assert f"verdict: {'FAIL' if failed else 'pass'}" in said


def test_what_does_not_come_is_lost_and_fails(herald: Settings) -> None:
    """Users who find no gateway."""
    nowhere = dataclasses.replace(herald, gateway_port=free_ports(1)[0])
    process = locust(nowhere, "burst", "--scale", "0.001", "--minutes", "0.1", "--every", "2", "--settle", "1")
    said, _ = process.communicate(timeout=120)
    lines = verdict(said)
    assert re.match(r"[1-9]\d* of [1-9]", lines["lost"][1]), said
    assert lines["lost"][0] == lines["connect"][0] == "FAIL"
    assert process.returncode == 1


def test_more_than_one_process_is_refused(herald: Settings) -> None:
    said, _ = (process := locust(herald, "burst", "--master")).communicate(timeout=60)
    assert process.returncode != 0
    assert "side by side" in said
    assert "Traceback" not in said
