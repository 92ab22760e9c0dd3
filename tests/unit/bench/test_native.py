"""bench/native.py and the load generator's own words."""

from pathlib import Path

import pytest

from bench import feeds, native, proc
from bench.load import Load
from notification.errors import SettingsError, Unavailable


def test_the_c_parts_compile_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "BUILD", tmp_path)
    first = native.program("floor")
    made_ns = first.stat().st_mtime_ns
    assert native.program("floor") == first
    assert first.stat().st_mtime_ns == made_ns


def test_a_machine_without_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "BUILD", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="apt-get install gcc"):
        native.program("load")


async def test_a_refused_connect_is_counted(tmp_path: Path) -> None:
    feeds.write_heads(tmp_path / "heads", [1], "d", b"0" * 32)
    async with Load(1, tmp_path / "heads", proc.cores()[1]) as load:
        with pytest.raises(Unavailable, match="3 of 3 clients"):
            await load.connect_all(3)


async def test_a_generator_that_ends_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="heads: No such file"):
        async with Load(1, tmp_path / "heads", proc.cores()[1]):
            pass
