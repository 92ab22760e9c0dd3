"""What a fuzz target is, and how two implementations are compared."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
CORPUS: Final = FOLDER / "corpus"
INPUT_BYTES_MAX: Final = 65_536


@dataclass(frozen=True)
class Target:
    """`run(data)` must return for every input: what it raises is a finding, and so is a sanitiser's abort.

    `seeds` are inputs to begin with, `words` what the mutator puts in whole. `repair` makes an input reach deeper
    than chance would (a checksum); it is applied to most inputs, never to all.
    """

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    bytes_max: int = 4_096
    repair: Callable[[bytes], bytes] | None = None


class Difference(AssertionError):
    """An extension and its twin do not agree."""


def same(what: str, ours: object, twins: object) -> None:
    """Raises Difference unless both are equal, type and value."""
    if ours != twins or type(ours) is not type(twins):
        raise Difference(f"{what}: extension {ours!r}, twin {twins!r}")


def outcome(function: Callable[..., Any], *arguments: object, raising: tuple[type[Exception], ...] = ()) -> object:
    """What a call returns, or the type of what it raises if that is one of `raising`."""
    try:
        return function(*arguments)
    except raising as error:
        return type(error)


def names() -> list[str]:
    """Every target: a module of fuzz/targets."""
    return sorted(path.stem for path in (FOLDER / "targets").glob("*.py") if path.stem != "__init__")


def load(name: str) -> Target:
    """The target of a name. Imports what it tests."""
    target = importlib.import_module(f"fuzz.targets.{name}").TARGET
    assert isinstance(target, Target)
    return target


def kept(name: str) -> list[bytes]:
    """The inputs of fuzz/corpus for a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
