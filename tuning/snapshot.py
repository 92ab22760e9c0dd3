"""The snapshot: what was there before the first apply, so that a rollback gives exactly that back."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tuning import files
from tuning.errors import TuneError
from tuning.settings import Ask

FOLDER: Final = Path("/var/lib/herald-tuning")
PATH: Final = FOLDER / "snapshot.json"
_FORMAT: Final = 1


@dataclass
class Snapshot:
    """Values by sysctl name or path, texts by path; None: there was no such file."""

    taken: str
    """UTC, ISO 8601, of the first apply."""
    kernel: str
    ask: Ask
    values_before: dict[str, str] = field(default_factory=dict)
    values_set: dict[str, str] = field(default_factory=dict)
    files_before: dict[str, str | None] = field(default_factory=dict)
    files_set: dict[str, str] = field(default_factory=dict)
    folders_made: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Before anything that it tells about is changed. Raises TuneError."""
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1)
        made = files.write(PATH, text + "\n", 0o600)
        self.folders_made += [str(folder) for folder in made if folder != FOLDER]

    def empty(self) -> bool:
        """Nothing left to give back."""
        return not self.values_before and not self.files_before


def load() -> Snapshot | None:
    """None: nothing was applied here. Raises TuneError."""
    text = files.read(PATH)
    if text is None:
        return None
    try:
        held: dict[str, Any] = json.loads(text)
        if held.pop("format") != _FORMAT:
            raise TuneError(f"{PATH} is of another version of tune: use that one")
        return Snapshot(**{**held, "ask": Ask(**held["ask"])})
    except (ValueError, KeyError, TypeError) as error:
        raise TuneError(f"{PATH} is damaged ({error}): it holds the former values; mend or move it") from error


def forget() -> None:
    """The rollback is complete. Raises TuneError."""
    files.remove(PATH)
    files.remove_folders([FOLDER])


@contextmanager
def alone() -> Iterator[None]:
    """One tune changes the machine at a time. Raises TuneError."""
    made = not FOLDER.exists()
    try:
        FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(FOLDER, os.O_RDONLY)
    except OSError as error:
        raise TuneError(f"no place for the snapshot: {FOLDER}: {error.strerror}; nothing was changed") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise TuneError("another tune is at work on this machine") from None
    finally:
        os.close(handle)
        if made and not PATH.exists():
            files.remove_folders([FOLDER])
