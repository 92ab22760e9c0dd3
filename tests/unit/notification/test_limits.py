"""notification.limits: every bound says its unit; relations are asserted when the module is imported."""

import re
import subprocess
import sys
from pathlib import Path

from notification import limits

BOUNDS = {name: value for name, value in vars(limits).items() if name.isupper()}
# What a number counts; a name without one of these leaves the reader to guess.
UNITS = {
    "ACTIONS", "ATTEMPTS", "BACKLOG", "BYTES", "CHARS", "CLIENTS", "COMMANDS", "CONNECTION", "CONNECTIONS",
    "COUNT", "CRASHES", "DAYS", "DEPTH", "DESCRIPTORS", "DEVICES", "DOORS", "ENTRIES", "FLIGHT", "FRAGMENTS",
    "FRAMES", "ITEMS", "JITTER", "LANE", "MESSAGES", "MS", "PERCENT", "PINGS", "RATIO", "RECEIPTS",
    "RECORDS", "REQUESTS", "ROWS", "S", "SLOTS", "TASKS", "USERS", "WEIGHTS",
}  # fmt: skip


def test_every_bound_names_its_unit() -> None:
    unnamed = [name for name in BOUNDS if not set(name.split("_")) & UNITS]
    assert unnamed == []


def test_every_bound_is_a_positive_number() -> None:
    for name, value in BOUNDS.items():
        for number in value if isinstance(value, tuple) else (value,):
            assert number > 0, name


def test_a_broken_relation_stops_the_import(tmp_path: Path) -> None:
    source = Path(limits.__file__).read_text()
    broken = re.sub(r"^PONG_DUE_MS: Final = [\d_]+", "PONG_DUE_MS: Final = 99_000", source, flags=re.M)
    assert broken != source
    file = tmp_path / "broken.py"
    file.write_text(broken)
    result = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)
    assert "AssertionError" in result.stderr
