"""The plan: each row's value now, its target, and what is to be done about it."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from tuning import card, kernel, service
from tuning.machine import Machine
from tuning.settings import DESCRIPTORS, NOFILE, SETTINGS, Ask, Better, Numbers, Scope, Setting


class State(enum.StrEnum):
    """What a row is."""

    OK = "ok"
    CHANGE = "change"
    BLOCKED = "blocked"  # it should change and cannot here
    FORCE = "force"  # it would take something away: kept without --force
    SKIP = "skip"
    TRY = "try"  # advice


DRIFT = frozenset({State.CHANGE, State.BLOCKED})


@dataclass(frozen=True)
class Line:
    """One row of the plan; values as the kernel prints them, numbers apart by one space."""

    group: str
    key: str
    state: State
    now: str | None
    target: str
    why: str
    source: str
    note: str = ""


def make(machine: Machine, ask: Ask) -> list[Line]:
    """Every row, in the order of the table. Changes nothing."""
    wanted = [each for each in SETTINGS if ask.load_generator or not each.load_generator]
    lines = [_kernel_line(each, machine, ask) for each in wanted]
    lines += [*_limits(machine, ask), *map(_advice, card.advice(machine))]
    groups = list(dict.fromkeys([DESCRIPTORS, *(line.group for line in lines)]))
    return sorted(lines, key=lambda line: groups.index(line.group))


def drifts(lines: Iterable[Line]) -> bool:
    """Whether any row should change."""
    return any(line.state in DRIFT for line in lines)


def aim(setting: Setting, target: Numbers | str, now: str) -> str:
    """The value to set: the target, but nothing of `now` that is as good already."""
    if isinstance(target, str):
        return now if now == "never" else target
    held = kernel.numbers(now)
    if len(held) != len(target):
        return " ".join(map(str, target))
    chosen: Numbers
    if setting.better is Better.WIDER:
        chosen = (min(held[0], target[0]), max(held[1], target[1]))
    else:
        best = max if setting.better is Better.HIGHER else min
        chosen = tuple(best(pair) for pair in zip(held, target, strict=True))
    return " ".join(map(str, chosen))


def _kernel_line(setting: Setting, machine: Machine, ask: Ask) -> Line:
    target = setting.target(machine, ask)
    shown = target if isinstance(target, str) else " ".join(map(str, target))
    reading = kernel.read(setting.key)
    now = reading.value and " ".join(reading.value.split())
    state, note = State.SKIP, reading.locked or ""
    if now is not None:
        shown = aim(setting, target, now)
        state, note = _state(setting, machine, ask, reading, kernel.same(now, shown))
    return Line(setting.group, setting.key, state, now, shown, setting.why, setting.source, note)


def _state(setting: Setting, machine: Machine, ask: Ask, reading: kernel.Reading, held: bool) -> tuple[State, str]:
    if held:
        return State.OK, ""
    if machine.container and setting.scope is Scope.HOST:
        return State.SKIP, f"the host's, and this is a container ({machine.container}): run tune there"
    if reading.fixed:
        return State.SKIP, reading.locked or ""
    if setting.better in (Better.LOWER, Better.WORD) and not ask.force:
        return State.FORCE, "takes something away: kept without --force"
    if reading.locked and machine.root:
        return State.BLOCKED, reading.locked
    return State.CHANGE, "processes see it after their next start" if setting.restart else ""


def limit_key(ask: Ask) -> str:
    """The key of the unit's row."""
    return f"LimitNOFILE of {ask.unit}"


def _limits(machine: Machine, ask: Ask) -> list[Line]:
    """The descriptor limits that systemd and pam_limits give."""
    why = f"A connection is a descriptor. {NOFILE:,} lets one process hold them all while its neighbours restart."
    key = limit_key(ask)
    now = service.limit(ask.unit) if machine.systemd else None
    if now is None:
        note = "systemd does not run here: start the gateway with `ulimit -n 262144`"
        line = Line(DESCRIPTORS, key, State.SKIP, None, str(NOFILE), why, "systemd.exec(5)", note)
    else:
        good = now == "infinity" or int(now) >= NOFILE
        line = Line(
            DESCRIPTORS, key, State.OK if good else State.CHANGE, now, now if good else str(NOFILE), why,
            "systemd.exec(5)", "" if good else f"restart {ask.unit} afterwards",
        )  # fmt: skip
    if ask.login is None:
        return [line]
    held = service.login_limit(ask.login)
    good = held is not None and held >= NOFILE
    return [
        line,
        Line(
            DESCRIPTORS, f"nofile of {ask.login}'s logins", State.OK if good else State.CHANGE,
            None if held is None else str(held), str(max(held or 0, NOFILE)),
            "For a gateway or a load generator started from a shell; services have the row above.",
            "limits.conf(5)", "" if good else "at the next login",
        ),
    ]  # fmt: skip


def _advice(row: card.Advice) -> Line:
    return Line(row.group, row.key, State.TRY, row.now, row.target, row.why, row.source, row.command)
