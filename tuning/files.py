"""The files that keep the settings over a boot: their text, and writing them whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tuning import service
from tuning.errors import TuneError
from tuning.settings import NOFILE, Ask

SYSCTL: Final = Path("/etc/sysctl.d/99-zz-herald-tuning.conf")  # after 99-sysctl.conf, which is /etc/sysctl.conf
WORDS: Final = Path("/etc/tmpfiles.d/90-herald-tuning.conf")
MODULES: Final = Path("/etc/modules-load.d/90-herald-tuning.conf")
_HEAD: Final = "# Written by Herald's `tuning/tune apply`. `tuning/tune rollback --yes` takes it away.\n"
_TRACKING_MODULE: Final = Path("/sys/module/nf_conntrack/initstate")


def wanted(values: Mapping[str, str], ask: Ask, limits: bool) -> dict[Path, str]:
    """Path -> text for the kernel's values by key; `limits`: LimitNOFILE of the unit is ours too."""
    made: dict[Path, str] = {}
    sysctls = {key: value for key, value in values.items() if not key.startswith("/")}
    words = {key: value for key, value in values.items() if key.startswith("/")}
    tracking = any(key.startswith("net.netfilter.") for key in sysctls)
    if sysctls:
        # "-": a key that this boot's kernel does not have is no error (sysctl.d(5))
        made[SYSCTL] = "".join(f"-{key} = {value}\n" for key, value in sysctls.items())
    if tracking and _TRACKING_MODULE.exists():
        # systemd sets sysctls after it loaded these; the keys would not be there yet (sysctl.d(5), EXAMPLES)
        made[MODULES] = "nf_conntrack\n"
    if words:
        made[WORDS] = "".join(f"w {key} - - - - {value}\n" for key, value in words.items())
    if limits:
        path, text = service.drop_in(ask)
        made[path] = text
    if ask.login is not None and (service.login_limit(ask.login) or 0) <= NOFILE:
        path, text = service.login_file(ask.login)
        made[path] = text
    return {path: _HEAD + text for path, text in made.items()}


def read(path: Path) -> str | None:
    """Its text; None where there is none. Raises TuneError."""
    try:
        return path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise TuneError(f"{path} cannot be read: {error}") from error


def write(path: Path, text: str, mode: int = 0o644) -> list[Path]:
    """The whole file or nothing of it; the folders that were made for it, outermost first. Raises TuneError."""
    missing = [folder for folder in reversed(path.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text, mode)
    except OSError as error:
        remove_folders(missing)
        raise TuneError(f"{path} cannot be written: {error.strerror}") from error
    return missing


def _replace(path: Path, text: str, mode: int) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".herald-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove(path: Path) -> None:
    """Raises TuneError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise TuneError(f"{path} cannot be removed: {error.strerror}") from error


def remove_folders(folders: list[Path]) -> None:
    """Those that are empty, innermost first."""
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        with contextlib.suppress(OSError):  # somebody put something there: it stays
            folder.rmdir()
