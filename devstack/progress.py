"""Shows what is being started: a live spinner per step on a terminal, one line per finished step elsewhere."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """Steps that may run at the same time. As a context manager it owns the live display."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Steps":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """One step; it is shown as done only when its body ends without an exception."""
        begin_s = time.monotonic()
        task = self._progress.add_task(text, total=1)
        yield
        self._progress.update(task, completed=1)
        if not self._console.is_terminal:
            self._console.print(f"  {text}: {time.monotonic() - begin_s:.1f} s", highlight=False)
