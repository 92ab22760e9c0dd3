"""Descriptor limits outside the kernel: systemd's for a unit, pam_limits' for a login."""

import re
import subprocess
from pathlib import Path
from typing import Final

from tuning.errors import TuneError
from tuning.settings import NOFILE, Ask

_UNIT: Final = re.compile(r"[A-Za-z0-9:_.@-]+\.service")
_LOGIN: Final = re.compile(r"[a-z_][a-z0-9_-]*")
_LOGIN_FILE: Final = Path("/etc/security/limits.d/90-herald-tuning.conf")
_WAIT_S_MAX: Final = 30.0


def check(ask: Ask) -> None:
    """Names become parts of paths and lines. Raises TuneError."""
    if not _UNIT.fullmatch(ask.unit):
        raise TuneError(f"--unit {ask.unit}: expected a name like herald-gateway.service")
    if ask.login is not None and not _LOGIN.fullmatch(ask.login):
        raise TuneError(f"--login {ask.login}: expected a user's name")


def limit(unit: str) -> str | None:
    """The hard LimitNOFILE that systemd would start the unit with, known or not; None: systemd does not answer."""
    try:
        shown = _systemctl("show", "--property=LimitNOFILE", "--value", unit).strip()
    except TuneError:  # no bus, as in a container: the row says that systemd does not run
        return None
    return shown if shown == "infinity" or shown.isdecimal() else None


def login_limit(user: str) -> int | None:
    """What our file says of the user's logins; None without one."""
    try:
        text = _LOGIN_FILE.read_text("utf-8")
    except FileNotFoundError:
        return None
    found = re.search(rf"^{re.escape(user)} hard nofile (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def drop_in(ask: Ask) -> tuple[Path, str]:
    """Path and lines for the unit."""
    path = Path("/etc/systemd/system", f"{ask.unit}.d", "90-herald-tuning.conf")
    return path, f"[Service]\nLimitNOFILE={NOFILE}\n"


def login_file(user: str) -> tuple[Path, str]:
    """Path and lines for a login."""
    return _LOGIN_FILE, f"{user} soft nofile {NOFILE}\n{user} hard nofile {NOFILE}\n"


def reload() -> None:
    """Let systemd read its units anew. Raises TuneError."""
    _systemctl("daemon-reload")


def _systemctl(*words: str) -> str:
    try:
        done = subprocess.run(
            ["systemctl", *words], capture_output=True, text=True, check=True, timeout=_WAIT_S_MAX
        )
    except subprocess.CalledProcessError as error:
        raise TuneError(f"systemctl {words[0]}: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TuneError(f"systemctl {words[0]}: {error}") from error
    return done.stdout
