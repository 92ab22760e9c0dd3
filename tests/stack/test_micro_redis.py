"""bench.micro_redis: what its report holds. How fast anything is, is not a test's business."""

import json
import subprocess
import sys

import pytest

from bench import micro_redis

pytestmark = pytest.mark.stack


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bench.micro_redis", "--commands", "200", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_report() -> None:
    ended = run("--rounds", "2", "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert set(report["parts"]) == set(micro_redis.BASES)
    for part, base in micro_redis.BASES.items():
        for name, figure in report["parts"][part].items():
            assert len(figure["values"]) == 2
            assert figure["low"] <= figure["median"] <= figure["high"]
            assert (figure["ratio"] is None) == (name == base)


def test_a_wrong_option() -> None:
    ended = run("--rounds", "0")
    assert ended.returncode == 2
    assert "--rounds must be at least 1" in ended.stderr
