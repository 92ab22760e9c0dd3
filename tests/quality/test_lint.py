"""The linters, each with its whole output in the failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.quality.tree import ROOT, files, named


def run(*arguments: str) -> None:
    """Run a tool of this environment from the root; fail with what it said."""
    # cython-lint starts pycodestyle by name: find that of this environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    result = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        pytest.fail(f"{arguments[0]}:\n{result.stdout}{result.stderr}", pytrace=False)


def test_ruff_check() -> None:
    run("ruff", "check", "--output-format", "concise", ".")


def test_ruff_format() -> None:
    run("ruff", "format", "--check", ".")


@pytest.mark.timeout(300)
def test_mypy_strict() -> None:
    run("mypy")


def test_cython_lint() -> None:
    sources = [named(path) for path in files("gateway/_fast", ".pyx", ".pxd")]
    assert sources, "no Cython sources found"
    run("cython_lint.cython_lint", *sources)
