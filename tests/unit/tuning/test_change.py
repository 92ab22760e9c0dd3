"""When the kernel or a disk says no in the middle: what was done is told, and can be taken back."""

from pathlib import Path

import pytest

from tests.unit.tuning.test_settings import C5_2XLARGE
from tuning import change, files, kernel, service, snapshot
from tuning.errors import TuneError
from tuning.settings import Ask

VALUES = {"net.core.somaxconn": "128", "net.ipv4.tcp_migrate_req": "0", "fs.nr_open": "1024"}


class Kernel:
    """A dict of values; `refuses` is a key that takes no other."""

    def __init__(self, refuses: str = "") -> None:
        self.values = dict(VALUES)
        self.refuses = refuses

    def read(self, key: str) -> kernel.Reading:
        return kernel.Reading(self.values.get(key), None if key in self.values else "not here")

    def write(self, key: str, value: str) -> str:
        if key == self.refuses:
            raise TuneError(f"{key} = {value}: Invalid argument")
        self.values[key] = value
        return value


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    twin = Kernel()
    monkeypatch.setattr(kernel, "read", lambda key: twin.read(key))
    monkeypatch.setattr(kernel, "write", lambda key, value: twin.write(key, value))
    monkeypatch.setattr(service, "limit", lambda _unit: "524288")
    monkeypatch.setattr(snapshot, "FOLDER", tmp_path / "state")
    monkeypatch.setattr(snapshot, "PATH", tmp_path / "state" / "snapshot.json")
    monkeypatch.setattr(files, "SYSCTL", tmp_path / "sysctl.d" / "ours.conf")
    return twin


def test_a_value_that_the_kernel_refuses_is_told_and_the_others_are_set(held: Kernel) -> None:
    held.refuses = "net.ipv4.tcp_migrate_req"
    done = change.apply(C5_2XLARGE, Ask())
    assert done.failed == ["net.ipv4.tcp_migrate_req = 1: Invalid argument"]
    assert held.values == {**VALUES, "net.core.somaxconn": "16384", "fs.nr_open": "1048576"}
    assert "migrate" not in files.SYSCTL.read_text()
    held.refuses = ""
    assert change.rollback(C5_2XLARGE, force=False).failed == []
    assert held.values == VALUES
    assert not files.SYSCTL.parent.exists()
    assert not snapshot.FOLDER.exists()


def test_a_value_that_cannot_be_given_back_stays_in_the_snapshot(held: Kernel) -> None:
    change.apply(C5_2XLARGE, Ask())
    held.refuses = "fs.nr_open"
    assert change.rollback(C5_2XLARGE, force=False).failed == ["fs.nr_open = 1024: Invalid argument"]
    left = snapshot.load()
    assert left is not None
    assert left.values_before == {"fs.nr_open": "1024"}
    held.refuses = ""
    change.rollback(C5_2XLARGE, force=False)
    assert held.values == VALUES
    assert snapshot.load() is None


def test_a_folder_that_takes_no_file_leaves_values_until_boot_and_a_way_back(held: Kernel) -> None:
    files.SYSCTL.parent.write_text("a file where the folder should be")
    done = change.apply(C5_2XLARGE, Ask())
    assert len(done.failed) == 1
    assert "the values hold until the next boot" in done.failed[0]
    assert held.values["net.core.somaxconn"] == "16384"
    change.rollback(C5_2XLARGE, force=False)
    assert held.values == VALUES


def test_nothing_is_changed_before_the_snapshot_is_on_disk(held: Kernel, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(TuneError, match="nothing was changed"):
        change.apply(C5_2XLARGE, Ask())
    assert held.values == VALUES


def test_a_killed_apply_is_taken_back(held: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(change, "_write_files", killed)
    with pytest.raises(KeyboardInterrupt):
        change.apply(C5_2XLARGE, Ask())
    assert held.values != VALUES
    assert change.rollback(C5_2XLARGE, force=False).left == []
    assert held.values == VALUES
