"""How commands print: JSON lines on stdout, one-line errors and progress on stderr."""

import contextlib
import datetime
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click


def print_json(value: dict[str, Any]) -> None:
    """One compact JSON object per line; flushed, so that a pipe sees it at once."""
    click.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def iso_ms(unix_ms: int) -> str:
    """`2026-11-23T20:52:38.123Z`."""
    seconds, millis = divmod(unix_ms, 1_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{millis:03d}Z"


def iso_time(moment: datetime.datetime) -> str:
    """An aware datetime in the same form."""
    return iso_ms(round(moment.timestamp() * 1_000))


def close_stdout() -> None:
    """Give up on what stdout has not taken: Python would fail on it again at exit, with a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def file_fault(error: OSError) -> str:
    """`users.txt: No such file or directory`: the file where the error names one, and the reason in words."""
    reason = error.strerror or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else f"reading or writing failed: {reason}"


def plain(text: str) -> str:
    """Text of others as a terminal may show it: what is not printable is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def quiet_logs() -> None:
    """What modules of the worker, and aiokafka, log while they retry is for a service's log, not for a terminal."""
    import structlog

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextlib.contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr when that is a terminal; what is given back is told how much of `total` is done by now."""
    from rich.console import Console
    from rich.progress import Progress

    # stdout stays our own: it may be a pipe of JSON lines.
    console = Console(stderr=True)
    with Progress(console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def complain(text: str) -> None:
    """One line on stderr. Through sys.stderr as it is now: a progress bar there moves out of the way."""
    print(f"error: {text}", file=sys.stderr)
