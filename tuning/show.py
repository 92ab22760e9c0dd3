"""What an operator reads: the rows with their reasons, what was done, and what to do next."""

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from tuning import plan
from tuning.machine import Machine
from tuning.plan import Line, State
from tuning.probe import Opened

_WIDTH_MAX: Final = 110
_INDENT: Final = 10
_KEY_CHARS: Final = 36
_SAID: Final = {
    State.OK: "in order",
    State.CHANGE: "to change",
    State.BLOCKED: "that cannot be changed here",
    State.FORCE: "kept without --force",
    State.SKIP: "skipped",
    State.TRY: "to try",
}
_COLOURS: Final = {State.OK: "32", State.CHANGE: "1;33", State.BLOCKED: "1;31", State.TRY: "36"}


def width() -> int:
    """Of a line, at most; what is piped is 110 wide."""
    return min(_WIDTH_MAX, shutil.get_terminal_size((_WIDTH_MAX, 24)).columns)


def machine(found: Machine, connections: int) -> str:
    """What this machine is, and what it is tuned for."""
    card = found.card
    parts = [
        f"{found.cores} cores", f"{found.memory_bytes / 2**30:.1f} GiB", f"Linux {found.kernel}",
        f"{card.name} ({card.driver}, receive queues: {card.rx_queues})" if card else "no network card seen",
        *([f"in a container ({found.container})"] if found.container else []),
    ]  # fmt: skip
    text = f"For {connections:,} connections on this machine: {', '.join(parts)}."
    return textwrap.fill(text, width(), break_on_hyphens=False, break_long_words=False)


def rows(lines: Iterable[Line]) -> str:
    """Group by group: state, key, now -> target; below it the reason, the source and what hinders."""
    out: list[str] = []
    group = ""
    for line in lines:
        if line.group != group:
            group = line.group
            out += ["", group]
        out.append(_row(line))
        out += _wrapped(f"{line.why} [{line.source}]")
        if line.note:
            out += _wrapped(f"> {line.note}")
    return "\n".join(out)


def _row(line: Line) -> str:
    state = f"{line.state.value:<8}"
    if sys.stdout.isatty() and line.state in _COLOURS:
        state = f"\x1b[{_COLOURS[line.state]}m{state}\x1b[0m"
    if line.state is State.OK:
        change = f"{line.now}"
    elif line.now is None:
        change = f"- -> {line.target}"
    else:
        change = f"{line.now} -> {line.target}"
    gap = " " * max(2, _KEY_CHARS - len(line.key))
    if _INDENT + len(line.key) + len(gap) + len(change) > width():
        gap = "\n" + " " * (_INDENT + 2)
    return f"  {state}{line.key}{gap}{change}"


def _wrapped(text: str) -> list[str]:
    pad = " " * (_INDENT + 2)
    return textwrap.wrap(text, width(), initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False)


def counts(lines: Iterable[Line]) -> str:
    """`3 rows in order, 2 to change.`"""
    number = Counter(line.state for line in lines)
    return ", ".join(f"{number[state]} {text}" for state, text in _SAID.items() if number[state]) + "."


def container_help(lines: Iterable[Line]) -> str:
    """How a container is given what it cannot set for itself; empty where nothing is blocked."""
    blocked = [line for line in lines if line.state is State.BLOCKED and line.key.startswith("net.")]
    if not blocked:
        return ""
    flags = [f'  --sysctl "{line.key}={line.target}"' for line in blocked]
    return "\n".join(["Give these to the container (Kubernetes: securityContext.sysctls of the pod):", *flags])


def opened(done: Opened, root: bool) -> str:
    """What opening connections came to, with the reason where not all came in."""
    text = (
        f"Opened {done.accepted:,} of {done.asked:,} connections on loopback in {done.seconds:.1f} s; "
        f"{done.waited_most:,} waited at once in a backlog of {done.backlog:,}."
    )
    if done.whole():
        return text
    if done.tried < done.asked:
        way = "even root may not raise it here (CAP_SYS_RESOURCE)" if root else "run it with sudo"
        return f"{text}\nThe descriptor limit ended it ({done.tried:,} for this user): {way}."
    return f"{text}\nThe backlog was full: net.core.somaxconn is {done.backlog:,}."


def report(found: Machine, lines: list[Line], **more: Any) -> dict[str, Any]:
    """For --json."""
    return {
        "machine": asdict(found), "rows": [asdict(line) for line in lines], "drift": plan.drifts(lines), **more,
    }  # fmt: skip
