"""fuzz/worker: guided by coverage, here of a target that reports its own."""

import random
from pathlib import Path

import pytest

from fuzz import worker
from fuzz.state import State
from fuzz.target import Difference, Target

WANTED = b"deep"


class Steps:
    """Coverage of `run`: how many bytes of WANTED were right, each step an edge."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.now: set[int] = set()

    def begin(self) -> None:
        self.now = set()

    def end(self, classes: bool) -> int:
        fresh = self.now - self.seen
        self.seen |= self.now
        return len(fresh)

    def edges(self) -> int:
        return len(self.seen)


@pytest.fixture
def fuzzer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> worker.Fuzzer:
    steps = Steps()
    monkeypatch.setattr(worker, "Coverage", lambda: steps)

    def run(data: bytes) -> None:
        for index, byte in enumerate(WANTED):
            if data[index : index + 1] != bytes([byte]):
                return
            steps.now.add(index)
        raise Difference("found")

    return worker.Fuzzer(
        Target(run, (b"xxxx",), bytes_max=8), State(tmp_path / "state", create=True), random.Random(1)
    )


def test_it_climbs_to_what_chance_would_not_find(fuzzer: worker.Fuzzer, tmp_path: Path) -> None:
    fuzzer.learn([b"xxxx"])
    with pytest.raises(Difference, match="found"):
        fuzzer.run(60, tmp_path / "found")
    assert State(tmp_path / "state").read().data.startswith(WANTED)
    assert {path.read_bytes()[:1] for path in (tmp_path / "found").iterdir()} == {b"d"}


def test_it_stops_in_time(fuzzer: worker.Fuzzer, tmp_path: Path) -> None:
    fuzzer.learn([b"xxxx"])
    fuzzer.run(0, tmp_path / "found")
    assert State(tmp_path / "state").read().data == b""


def test_only_the_smallest_inputs_are_kept(fuzzer: worker.Fuzzer, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "old").write_bytes(b"old")
    fuzzer.keep([b"dxxxxxx", b"dx", b"dex", b"zzzz", b"dexxx"], kept)
    assert sorted(path.read_bytes() for path in kept.iterdir()) == [b"dex", b"dx"]
