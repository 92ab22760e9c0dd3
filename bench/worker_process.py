"""`python -m bench.worker_process FILE ROLE...`: a worker as in production that also notes, for the bench, how long
each storing transaction took and what its CPU time was spent on; both are in FILE once it has stopped.

The kernel interrupts it with each tick of its CPU time (4 ms as a rule), and it notes which part it was in: under
1 % of what is measured.
"""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from notification import telemetry
from notification.settings import load
from worker.process import run

_EVERY_S: Final = 0.001
_PACKAGES: Final = {
    "aiokafka": "Kafka client", "redis": "Redis client", "nats": "NATS client", "asyncpg": "PostgreSQL client",
    "prometheus_client": "metrics",
}  # fmt: skip
_OURS: Final = ("worker", "notification")
_LOOP_FILE: Final = "/asyncio/runners.py"  # what is farther out began the loop
_LOOP: Final = "event loop, and compiled code that it calls"


class Timed(msgspec.Struct, array_like=True):
    """A storing transaction: when it was over (time.monotonic) and how long it took."""

    at_s: float
    took_s: float


class Sample(msgspec.Struct, array_like=True):
    """What the process was doing at a moment (time.monotonic)."""

    at_s: float
    part: str


class Notes(msgspec.Struct):
    """What FILE holds."""

    transactions: list[Timed]
    samples: list[Sample]


class Recorder:
    """Takes the place of a Histogram, and of SIGPROF's default."""

    def __init__(self) -> None:
        self.notes = Notes([], [])

    def observe(self, seconds: float) -> None:
        self.notes.transactions.append(Timed(time.monotonic(), seconds))

    def sample(self, _signal: int, frame: FrameType | None) -> None:
        self.notes.samples.append(Sample(time.monotonic(), part_of(file for file in _files(frame))))


def _files(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back


def part_of(files: Iterator[str]) -> str:
    """What a stack belongs to, innermost file first: one of our modules or a client library, whichever comes first.
    The standard library and compiled code count to whoever called them."""
    for file in files:
        path = Path(file)
        if file.endswith(_LOOP_FILE):
            break
        if path.parent.name in _OURS:
            return f"{path.parent.name}/{path.name}"
        for folder in path.parts:
            if folder in _PACKAGES:
                return _PACKAGES[folder]
    return _LOOP


def read_notes(path: Path) -> Notes:
    """What a process left behind that has ended."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Notes)


def main(arguments: list[str]) -> int:
    """Run the roles until SIGTERM."""
    file, *roles = arguments
    settings, _sources = load()
    recorder = Recorder()
    telemetry.STORE_SECONDS = recorder  # type: ignore[assignment]  # all of it that the worker uses
    signal.signal(signal.SIGPROF, recorder.sample)
    signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)
    run(settings, roles)
    signal.setitimer(signal.ITIMER_PROF, 0)
    Path(file).write_bytes(msgspec.msgpack.encode(recorder.notes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
