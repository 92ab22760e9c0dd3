"""One target in one process: `python -m fuzz.worker TARGET SECONDS SEED`, in the environment of fuzz.build.

Coverage guides it: an input that runs an edge for the first time (or another number of times) becomes a parent.
New inputs go to build/fuzz/corpus; with SECONDS 0 the smallest set with the same edges replaces fuzz/corpus.
Ends with 0, or in the middle of an input that is a finding.
"""

import ctypes
import gc
import hashlib
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fuzz import build
from fuzz.mutate import Mutator
from fuzz.state import State
from fuzz.target import CORPUS, INPUT_BYTES_MAX, Target, kept, load

FOUND: Final = build.FOLDER / "corpus"
CORPUS_BYTES_MAX: Final = 20_000  # of one target in fuzz/corpus; larger sets stay below build/
_REPAIRED: Final = 0.9
_COLLECT_EVERY: Final = 2_000  # executions between runs of Python's collector, which would look like coverage


class Coverage:
    """fuzz/coverage.c, preloaded into this process."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self.reset, self.begin = library.coverage_reset, library.coverage_begin
        self.end, self.edges = library.coverage_end, library.coverage_edges


class Fuzzer:
    """Parents, and the executions of their children."""

    def __init__(self, target: Target, state: State, chance: random.Random) -> None:
        self._target = target
        self._state = state
        self._chance = chance
        self._coverage = Coverage()
        self._bytes_max = min(target.bytes_max, INPUT_BYTES_MAX)
        self._mutator = Mutator(chance, target.words, self._bytes_max)
        self._parents: list[bytes] = []
        self._executions = self._edges = 0

    def execute(self, data: bytes, classes: bool = True) -> bool:
        """Run one input; whether it did anything new."""
        self._state.write(self._executions, len(self._parents), self._edges, data)
        self._coverage.begin()
        self._target.run(data)
        fresh = bool(self._coverage.end(classes))
        self._executions += 1
        if self._executions % _COLLECT_EVERY == 0:
            gc.collect()
        if fresh:
            self._edges = self._coverage.edges()
        return fresh

    def learn(self, inputs: Iterable[bytes]) -> None:
        """Run known inputs; each that adds something is a parent."""
        self._parents += [data for data in inputs if self.execute(data[: self._bytes_max])]
        self._parents = self._parents or list(self._target.seeds)

    def run(self, seconds: float, folder: Path) -> None:
        """Children of parents until the time is over."""
        ends = time.monotonic() + seconds
        folder.mkdir(parents=True, exist_ok=True)
        while time.monotonic() < ends:
            child = self._mutator.mutate(self._parent(), self._chance.choice(self._parents))
            if self._target.repair is not None and self._chance.random() < _REPAIRED:
                child = self._target.repair(child)
            if self.execute(child):
                self._parents.append(child)
                (folder / _name(child)).write_bytes(child)
        self._state.write(self._executions, len(self._parents), self._edges, b"")

    def _parent(self) -> bytes:
        """One of the newest half of the time: they are explored least. Of two the shorter one: it runs faster."""
        some = self._parents[-16:] if self._chance.random() < 0.5 else self._parents
        return min(self._chance.choice(some), self._chance.choice(some), key=len)

    def keep(self, inputs: Iterable[bytes], folder: Path) -> None:
        """Replace a folder's inputs by the smallest ones that reach every edge of all inputs."""
        chosen: dict[str, bytes] = {}
        for data in sorted(set(inputs), key=lambda data: (len(data), data)):
            if self.execute(data, classes=False) and sum(map(len, chosen.values())) + len(data) < CORPUS_BYTES_MAX:
                chosen[_name(data)] = data
        for path in folder.glob("*"):
            path.unlink()
        if chosen:
            folder.mkdir(parents=True, exist_ok=True)
        for name, data in chosen.items():
            (folder / name).write_bytes(data)


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def main(name: str, seconds: float, seed: int) -> None:
    """Fuzz, or with no seconds keep what was found."""
    build.use_sanitised()
    target = load(name)
    build.check_sanitised()
    gc.disable()
    fuzzer = Fuzzer(target, State(build.FOLDER / f"{name}.state"), random.Random(seed))
    known = [*target.seeds, *kept(name), *(path.read_bytes() for path in sorted((FOUND / name).glob("*")))]
    if seconds > 0:
        fuzzer.learn(known)
        fuzzer.run(seconds, FOUND / name)
    else:
        fuzzer.keep(known, CORPUS / name)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
