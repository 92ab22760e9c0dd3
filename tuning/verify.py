"""Verifying: the rows read again, what apply wrote, what the next boot will set, and connections really opened."""

from dataclasses import dataclass
from pathlib import Path

from tuning import boot, files, kernel, plan, snapshot
from tuning.machine import Machine
from tuning.plan import Line
from tuning.probe import Opened
from tuning.settings import SETTINGS, Ask
from tuning.snapshot import Snapshot


@dataclass(frozen=True)
class Verdict:
    """In order when no row drifts, nothing drifted beside them, and all connections came in."""

    lines: list[Line]
    drifted: list[str]
    opened: Opened | None

    def in_order(self) -> bool:
        return not plan.drifts(self.lines) and not self.drifted and (self.opened is None or self.opened.whole())


def judge(machine: Machine, ask: Ask, opened: Opened | None) -> Verdict:
    """With what apply was asked for, where it was run; else with `ask`. Raises TuneError."""
    held = snapshot.load()
    lines = plan.make(machine, held.ask if held else ask)
    return Verdict(lines, [*_files(held), *_next_boot(held)] if held else [], opened)


def _files(held: Snapshot) -> list[str]:
    wrong = []
    for name, text in held.files_set.items():
        now = files.read(Path(name))
        if now != text:
            wrong.append(f"{name} is {'gone' if now is None else 'changed'}: the next boot is another")
    return wrong


def _next_boot(held: Snapshot) -> list[str]:
    """Keys that another file sets lower after ours."""
    table = {setting.key: setting for setting in SETTINGS}
    wrong = []
    for key, (value, path) in boot.said().items():
        ours = held.values_set.get(key)
        if ours is None or path == files.SYSCTL or not value.replace(" ", "").replace("\t", "").isdecimal():
            continue
        target = kernel.numbers(ours)
        if not kernel.same(plan.aim(table[key], target, value), value):
            wrong.append(f"{path} sets {key} = {value} at boot, after our file: take that line out")
    return wrong
