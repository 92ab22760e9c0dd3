"""What the next boot will set: the last file that names a key wins (sysctl.d(5))."""

import re
from pathlib import Path
from typing import Final, NamedTuple

_FOLDERS: Final = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
_LINE: Final = re.compile(r"^\s*-?\s*([^#;=\s][^=]*?)\s*=\s*(.*?)\s*$")


class Said(NamedTuple):
    """A key's value and the file that has the last word on it."""

    value: str
    path: Path


def said(top: Path = Path("/")) -> dict[str, Said]:
    """By key, with dots. /etc/sysctl.conf counts as the last, as procps reads it."""
    by_name: dict[str, Path] = {}
    for folder in _FOLDERS:
        for path in sorted((top / folder).glob("*.conf")):
            by_name.setdefault(path.name, path)
    found: dict[str, Said] = {}
    for path in [*(by_name[name] for name in sorted(by_name)), top / "etc/sysctl.conf"]:
        for line in _lines(path):
            match = _LINE.match(line)
            if match:
                found[_dotted(match[1])] = Said(match[2], path)
    return found


def _dotted(key: str) -> str:
    """`net/core/somaxconn` -> `net.core.somaxconn`: the first of / and . is the separator."""
    separators = re.findall(r"[/.]", key)
    return key.replace("/", ".") if separators and separators[0] == "/" else key


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:  # absent, or a link to nothing: no boot reads it either
        return []
