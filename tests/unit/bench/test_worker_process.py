"""bench/worker_process.py: what a worker's CPU time counts to."""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.worker_process import Notes, Recorder, Sample, Timed, part_of, read_notes

SITE = "/lib/python3.11/site-packages"


def stack(*innermost_first: str) -> Iterator[str]:
    return iter(innermost_first)


def test_a_stack_counts_to_the_innermost_part_that_has_a_name() -> None:
    assert part_of(stack("/src/worker/store.py", "/src/worker/intake.py")) == "worker/store.py"
    assert part_of(stack(f"{SITE}/asyncpg/connection.py", "/src/worker/store.py")) == "PostgreSQL client"
    assert part_of(stack("/lib/python3.11/uuid.py", "/src/notification/ids.py")) == "notification/ids.py"
    assert part_of(stack("/lib/python3.11/asyncio/runners.py")).startswith("event loop")
    assert part_of(stack("/lib/asyncio/runners.py", "/src/worker/process.py")).startswith("event loop")
    assert part_of(stack()).startswith("event loop")


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.observe(0.25)
    recorder.sample(0, sys._getframe())
    file = tmp_path / "notes"
    file.write_bytes(msgspec.msgpack.encode(recorder.notes))
    notes = read_notes(file)
    assert notes == recorder.notes == Notes([Timed(notes.transactions[0].at_s, 0.25)], notes.samples)
    assert isinstance(notes.samples[0], Sample)
