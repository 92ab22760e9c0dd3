"""fuzz/state: what one process writes, another reads."""

from pathlib import Path

from fuzz.state import State
from fuzz.target import INPUT_BYTES_MAX


def test_the_last_input_and_the_counts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.state"
    watcher = State(path, create=True)
    assert watcher.read() == (0, 0, 0, b"")
    fuzzer = State(path)
    fuzzer.write(7, 3, 99, b"x" * INPUT_BYTES_MAX)
    assert watcher.read() == (7, 3, 99, b"x" * INPUT_BYTES_MAX)
    fuzzer.write(8, 3, 99, b"y")
    assert watcher.read() == (8, 3, 99, b"y")
