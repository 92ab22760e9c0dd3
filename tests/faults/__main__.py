"""`python -m tests.faults`: break every part while notifications flow; the ledger says what came of it.

With KAFKA=apache in the environment: the faults of Kafka itself. Exit status 1 when a promise was broken.
"""

import asyncio
import contextlib
import logging
import os
import random
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Final

import click
import structlog
from rich.console import Console

from bench.report import Progress
from tests.conftest import kafka_kind
from tests.faults import report
from tests.faults.cases import EVERYWHERE, KAFKA_CASES
from tests.faults.run import Case, Result, play, unfinished

CASES: Final = KAFKA_CASES if os.environ.get("KAFKA") == "apache" else EVERYWHERE


def _chosen(names: tuple[str, ...]) -> list[Case]:
    """Cases whose name holds one of the words; all without words. Raises click.UsageError."""
    cases = [case for case in CASES if not names or any(name in case.name for name in names)]
    if not cases:
        raise click.UsageError("no case has such a name; --list shows all")
    return cases


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--list", "only_list", is_flag=True, help="Name the cases and stop.")
@click.option("--seed", type=int, default=None, help="Play a run again: what is random is drawn from it.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the report there.")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path), help="Write the table there.")
def main(
    names: tuple[str, ...], only_list: bool, seed: int | None, json_file: Path | None, markdown_file: Path | None
) -> None:
    """Play the cases whose name holds one of NAMES (default: all), one after the other."""
    cases = _chosen(names)
    if only_list:
        for case in cases:
            print(f"{case.name}: {case.says}")
        return
    if seed is None:
        seed = random.randrange(2**32)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    shown, results = Console(stderr=True), list[Result]()
    with Progress(shown) as progress, progress.step("cases", len(cases)) as advance:
        for case in cases:
            results.append(_play(case, seed))
            advance()
            shown.print("  ".join(report.row_of(results[-1])), markup=False, highlight=False, soft_wrap=True)
    for file, text in (
        (json_file, report.as_json(results, seed)), (markdown_file, report.as_markdown(results, CASES, seed)),
    ):  # fmt: skip
        if file is not None:
            file.write_text(text, "utf-8")
    Console().print(report.table(results))
    print(f"seed {seed}")
    print(report.verdict(results))
    sys.exit(any(result.broken or result.late for result in results))


def _play(case: Case, seed: int) -> Result:
    """A case that does not come to its end is a failed one; the others are played all the same."""
    try:
        return _play_in_folder(case, seed)
    except Exception as error:
        traceback.print_exception(error)
        return unfinished(case, seed, error)


def _play_in_folder(case: Case, seed: int) -> Result:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herald-faults-")))
        return asyncio.run(play(case, seed, folder, kafka_kind()))


if __name__ == "__main__":
    main()
