"""`python -m fuzz`: every target for SECONDS each in a process of its own, under sanitisers; `make fuzz` calls it.

A finding (a sanitiser's abort, an exception, a difference from the twin, an input that runs too long) is written to
fuzz/findings with what the process said, and the exit status is 1.
"""

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fuzz import build
from fuzz.state import State
from fuzz.target import FOLDER, names

FINDINGS: Final = FOLDER / "findings"
HANG_S: Final = 60.0  # for one input; every one takes milliseconds on an idle machine
_POLL_S: Final = 0.25
_CONSOLE: Final = Console()


class Result(NamedTuple):
    """Of one target's run."""

    name: str
    executions: int
    inputs: int
    edges: int
    seconds: float
    finding: Path | None


def fuzz(name: str, seconds: float, seed: int) -> Result:
    """Run one target and watch it."""
    state = State(build.FOLDER / f"{name}.state", create=True)
    log = build.FOLDER / f"{name}.log"
    command = [sys.executable, "-m", "fuzz.worker", name, str(seconds), str(seed)]
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=build.environment(), cwd=build.ROOT, stdout=output, stderr=output)
    try:
        hung = _watch(name, process, state, seconds)
    finally:
        process.kill()
        process.wait()
    last = state.read()
    finding = None
    if hung or process.returncode != 0:
        finding = _write_finding(name, last.data, "the input runs too long\n" if hung else log.read_text("utf-8"))
    return Result(name, last.executions, last.inputs, last.edges, time.monotonic() - began, finding)


def _watch(name: str, process: "subprocess.Popen[bytes]", state: State, seconds: float) -> bool:
    """Show progress until it ends; whether it had to be given up."""
    columns = ("{task.description:14}", "{task.fields[rate]:>8} runs/s", "{task.fields[inputs]:>5} inputs")
    with Progress(
        TextColumn(columns[0]), BarColumn(), TimeRemainingColumn(), *map(TextColumn, columns[1:]),
        console=_CONSOLE, disable=not _CONSOLE.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task(name, total=seconds, rate="", inputs="")
        began = moved = time.monotonic()
        executions = 0
        while process.poll() is None:
            time.sleep(_POLL_S)
            now, seen = time.monotonic(), state.read()
            if seen.executions != executions:
                executions, moved = seen.executions, now
            rate = f"{executions / (now - began):,.0f}"
            progress.update(task, completed=min(now - began, seconds), rate=rate, inputs=f"{seen.inputs:,}")
            if now - moved > HANG_S:
                return True
    return False


def _write_finding(name: str, data: bytes, said: str) -> Path:
    """The input, and beside it what the process said."""
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(said, "utf-8")
    return path


def keep(name: str) -> None:
    """Minimise what build/fuzz/corpus and fuzz/corpus hold into fuzz/corpus. Raises CalledProcessError."""
    State(build.FOLDER / f"{name}.state", create=True)
    command = [sys.executable, "-m", "fuzz.worker", name, "0", "0"]
    subprocess.run(command, env=build.environment(), cwd=build.ROOT, check=True)


def main() -> int:
    """The exit status: 1 with a finding."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names())}; all by default")
    parser.add_argument("--seconds", type=float, default=60, help="for each target (60)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the mutations")
    parser.add_argument("--keep", action="store_true", help="then minimise what was found into fuzz/corpus")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.targets) - set(names()))
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(names())}")
    _CONSOLE.print("building the extensions with AddressSanitizer and UndefinedBehaviorSanitizer", highlight=False)
    build.build()
    _CONSOLE.print(f"{chosen.seconds:g} s for each target, seed {chosen.seed}", highlight=False)
    results = []
    for name in chosen.targets or names():
        results.append(fuzz(name, chosen.seconds, chosen.seed))
        _say(results[-1])
        if chosen.keep and results[-1].finding is None:
            keep(name)
    found = sum(result.finding is not None for result in results)
    executions = sum(result.executions for result in results)
    seconds = sum(result.seconds for result in results)
    print(f"fuzz: {len(results)} targets, {executions:,} executions in {seconds:,.0f} s, {found} findings")
    return 1 if found else 0


def _say(result: Result) -> None:
    _CONSOLE.print(
        f"  {result.name:14}{result.executions:>12,} executions {result.executions / result.seconds:>8,.0f}/s"
        f"{result.inputs:>6} inputs{result.edges:>7} edges", highlight=False,
    )  # fmt: skip
    if result.finding is not None:
        said = result.finding.with_suffix(".txt").read_text("utf-8").splitlines()
        start = next((index for index, line in enumerate(said) if "ERROR: AddressSanitizer" in line), -20)
        _CONSOLE.print("\n".join(said[start:][:20]), markup=False, highlight=False)
        _CONSOLE.print(f"  FINDING: {result.finding.relative_to(build.ROOT)}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
