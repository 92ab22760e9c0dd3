"""The sources that the quality gates walk."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("notification", "gateway", "worker", "herald", "devstack", "bench", "tuning")


def files(folder: str, *suffixes: str) -> list[Path]:
    """Files below a folder of the repository with one of the suffixes, sorted; caches left out."""
    found = (path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes and path.is_file())
    return sorted(path for path in found if not {"__pycache__", "node_modules"} & set(path.parts))


def python_sources() -> list[Path]:
    """Every .py of the packages, the tests and the fuzzer."""
    return [path for folder in (*PACKAGES, "tests", "fuzz") for path in files(folder, ".py")]


def module_name(path: Path) -> str:
    """`gateway/_fast/session.pyx` -> `gateway._fast.session`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def named(path: Path) -> str:
    """The path as a test names it."""
    return str(path.relative_to(ROOT))


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) from 1."""
    return enumerate(path.read_text("utf-8").splitlines(), 1)
