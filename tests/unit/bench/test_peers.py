"""bench/peers.py: what is fetched, and what is said when it cannot be had."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bench import peers
from notification.errors import Unavailable


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(peers, "FOLDER", tmp_path / "peers")
    monkeypatch.setattr(peers, "UWS", tmp_path / "peers" / peers.UWS.name)
    return tmp_path


def test_the_library_is_taken_out_of_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert argv[:4] == [sys.executable, "-m", "pip", "download"]
        with tarfile.open(Path(argv[argv.index("--dest") + 1]) / "socketify-0.0.31.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo(f"socketify-0.0.31/src/socketify/{peers.UWS.name}")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"ELF"))
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    assert not peers.uws_is_here()
    assert peers.fetch().read_bytes() == b"ELF"
    assert peers.uws_is_here()


def test_a_registry_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 1, "", "ERROR: no such package\n")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(Unavailable, match="no such package"):
        peers.fetch()
    assert not peers.uws_is_here()
