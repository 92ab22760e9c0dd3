"""The snapshot survives a process and says when it cannot be read."""

import fcntl
import os
from pathlib import Path

import pytest

from tuning import snapshot
from tuning.errors import TuneError
from tuning.settings import Ask
from tuning.snapshot import Snapshot


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(snapshot, "FOLDER", tmp_path / "state")
    monkeypatch.setattr(snapshot, "PATH", tmp_path / "state" / "snapshot.json")
    return snapshot.PATH


def test_it_comes_back_as_it_was(place: Path) -> None:
    held = Snapshot("2026-01-01T00:00:00+00:00", "6.8", Ask(login="alice", force=True), {"a": "1"}, {"a": "2"})
    held.files_before["/etc/x"] = None
    held.save()
    assert snapshot.load() == held
    assert place.stat().st_mode & 0o777 == 0o600
    assert not held.empty()
    snapshot.forget()
    assert snapshot.load() is None
    assert not place.parent.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "ask": {"x": 1}}'])
def test_a_damaged_one_is_named(place: Path, text: str) -> None:
    place.parent.mkdir()
    place.write_text(text)
    with pytest.raises(TuneError, match=r"snapshot.json is damaged"):
        snapshot.load()


def test_one_of_another_version_is_named(place: Path) -> None:
    place.parent.mkdir()
    place.write_text('{"format": 2}')
    with pytest.raises(TuneError, match="another version"):
        snapshot.load()


def test_only_one_tune_at_a_time(place: Path) -> None:
    with snapshot.alone():
        other = os.open(place.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        with pytest.raises(TuneError, match="another tune is at work"), snapshot.alone():
            raise AssertionError("both are at work")
    assert not place.parent.exists()
