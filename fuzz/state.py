"""What a fuzzing process shares with the one that watches it: a mapped file that outlives a crash."""

import mmap
import struct
from pathlib import Path
from typing import Final, NamedTuple

from fuzz.target import INPUT_BYTES_MAX

_HEAD: Final = struct.Struct("=QQQI")


class Progress(NamedTuple):
    """`data` is the input that runs now, or ran last."""

    executions: int
    inputs: int
    edges: int
    data: bytes


class State:
    """Written before each execution, read from outside at any moment."""

    def __init__(self, path: Path, create: bool = False) -> None:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(_HEAD.size + INPUT_BYTES_MAX))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def write(self, executions: int, inputs: int, edges: int, data: bytes) -> None:
        self._map[: _HEAD.size + len(data)] = _HEAD.pack(executions, inputs, edges, len(data)) + data

    def read(self) -> Progress:
        executions, inputs, edges, count = _HEAD.unpack_from(self._map)
        return Progress(executions, inputs, edges, self._map[_HEAD.size : _HEAD.size + count])
