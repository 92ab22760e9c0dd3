"""The texts of the files, and writing them."""

from pathlib import Path

import pytest

from tuning import files
from tuning.errors import TuneError
from tuning.settings import HUGE_PAGES, Ask


def test_each_kind_of_setting_has_its_file() -> None:
    values = {"net.core.somaxconn": "16384", HUGE_PAGES: "madvise"}
    made = files.wanted(values, Ask(unit="edge.service", login="alice"), limits=True)
    texts = {str(path): text.split("\n", 1)[1] for path, text in made.items()}
    assert texts == {
        "/etc/sysctl.d/99-zz-herald-tuning.conf": "-net.core.somaxconn = 16384\n",
        "/etc/tmpfiles.d/90-herald-tuning.conf": f"w {HUGE_PAGES} - - - - madvise\n",
        "/etc/systemd/system/edge.service.d/90-herald-tuning.conf": "[Service]\nLimitNOFILE=262144\n",
        "/etc/security/limits.d/90-herald-tuning.conf": "alice soft nofile 262144\nalice hard nofile 262144\n",
    }
    assert files.wanted({}, Ask(), limits=False) == {}


def test_keys_of_a_module_wait_for_it_at_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "initstate"
    monkeypatch.setattr(files, "_TRACKING_MODULE", mark)
    values = {"net.netfilter.nf_conntrack_max": "400000"}
    assert files.MODULES not in files.wanted(values, Ask(), limits=False)
    mark.touch()
    assert files.wanted(values, Ask(), limits=False)[files.MODULES].endswith("nf_conntrack\n")


def test_a_file_is_written_whole_with_the_folders_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    assert files.write(path, "one\n", 0o600) == [tmp_path / "a", tmp_path / "a" / "b"]
    assert (files.read(path), path.stat().st_mode & 0o777) == ("one\n", 0o600)
    assert files.write(path, "two\n") == []
    assert [each.name for each in path.parent.iterdir()] == ["file"]
    files.remove(path)
    assert files.read(path) is None
    files.remove_folders([tmp_path / "a", tmp_path / "a" / "b"])
    assert not (tmp_path / "a").exists()


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(TuneError, match="taken cannot be written"):
        files.write(tmp_path / "taken", "text")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]
    with pytest.raises(TuneError, match="cannot be read"):
        files.read(tmp_path)
    with pytest.raises(TuneError, match="cannot be removed"):
        files.remove(tmp_path)
    (tmp_path / "taken" / "theirs").touch()
    files.remove_folders([tmp_path / "taken"])
    assert (tmp_path / "taken" / "theirs").exists()
