"""Doing it: apply and rollback. The snapshot is on disk before anything changes."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tuning import files, kernel, plan, service, snapshot
from tuning.errors import TuneError
from tuning.machine import Machine
from tuning.plan import Line, State
from tuning.settings import SETTINGS, Ask
from tuning.snapshot import Snapshot

_KERNEL_KEYS = frozenset(setting.key for setting in SETTINGS)


@dataclass
class Done:
    """What came of it, a line each."""

    said: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """What somebody else changed meanwhile: not touched."""


def apply(machine: Machine, ask: Ask) -> Done:
    """Set every row of state `change`, now and for the next boot. Raises TuneError where it cannot begin."""
    if not machine.root:
        raise TuneError("apply needs root: sudo tuning/tune apply --yes; nothing was changed")
    done = Done()
    with snapshot.alone():
        lines = [line for line in plan.make(machine, ask) if line.state is State.CHANGE]
        held = snapshot.load()
        if not lines:
            return done
        held = held or Snapshot(datetime.now(UTC).isoformat(timespec="seconds"), machine.kernel, ask)
        held.ask = ask
        _remember(held, lines)
        held.save()
        for line in lines:
            if line.key in _KERNEL_KEYS:
                _set(held, line, done)
        held.save()
        limits = any(line.key == plan.limit_key(ask) for line in lines)
        limits = limits or str(service.drop_in(ask)[0]) in held.files_before
        _write_files(held, files.wanted(held.values_set, ask, limits), machine, done)
    return done


def _remember(held: Snapshot, lines: list[Line]) -> None:
    """The values of before the first apply; those of an earlier one stay."""
    for line in lines:
        if line.key in _KERNEL_KEYS and line.now is not None:
            held.values_before.setdefault(line.key, line.now)
            held.values_set[line.key] = line.target


def _set(held: Snapshot, line: Line, done: Done) -> None:
    try:
        held.values_set[line.key] = " ".join(kernel.write(line.key, line.target).split())
    except TuneError as error:
        done.failed.append(str(error))
        del held.values_set[line.key]
        if line.now == held.values_before[line.key]:
            del held.values_before[line.key]
        else:  # an earlier apply changed it
            held.values_set[line.key] = line.now or ""
    else:
        done.said.append(f"{line.key} = {held.values_set[line.key]} (was {line.now})")


def _write_files(held: Snapshot, wanted: dict[Path, str], machine: Machine, done: Done) -> None:
    for path, text in wanted.items():
        try:
            before = files.read(path)
            if before == text:
                continue
            held.files_before.setdefault(str(path), before)
            held.files_set[str(path)] = text
            held.save()
            held.folders_made += [str(folder) for folder in files.write(path, text)]
            done.said.append(f"wrote {path}")
        except TuneError as error:
            done.failed.append(f"{error}: the values hold until the next boot")
    _reload(held.files_set, machine, done)
    if held.empty():  # every one was refused
        snapshot.forget()
    else:
        held.save()


def _reload(paths: dict[str, str], machine: Machine, done: Done) -> None:
    if machine.systemd and any(path.startswith("/etc/systemd/") for path in paths):
        try:
            service.reload()
        except TuneError as error:
            done.failed.append(str(error))


def rollback(machine: Machine, force: bool) -> Done:
    """Give back what was there; what somebody else changed since stays, but for `force`. Raises TuneError."""
    if not machine.root:
        raise TuneError("rollback needs root: sudo tuning/tune rollback --yes; nothing was changed")
    done = Done()
    with snapshot.alone():
        held = snapshot.load()
        if held is None:
            return done
        written = dict(held.files_set)
        for path in list(held.files_before):
            _give_back_file(held, path, force, done)
        _reload(written, machine, done)
        for key in reversed(list(held.values_before)):
            _give_back_value(held, key, force, done)
        files.remove_folders([Path(folder) for folder in held.folders_made])
        if held.empty():
            snapshot.forget()
        else:
            held.save()
    return done


def _give_back_value(held: Snapshot, key: str, force: bool, done: Done) -> None:
    before, now = held.values_before[key], kernel.read(key).value
    if now is None:
        done.said.append(f"{key} is no longer there: nothing to give back")
    elif kernel.same(now, before):
        done.said.append(f"{key} = {before} already")
    elif not kernel.same(now, held.values_set.get(key, before)) and not force:
        done.left.append(f"{key} = {now}: not what apply set, so it stays; --force gives back {before}")
        return
    else:
        try:
            kernel.write(key, before)
        except TuneError as error:
            done.failed.append(str(error))
            return
        done.said.append(f"{key} = {before} again")
    del held.values_before[key]
    held.values_set.pop(key, None)


def _give_back_file(held: Snapshot, name: str, force: bool, done: Done) -> None:
    path, before = Path(name), held.files_before[name]
    try:
        now = files.read(path)
        if now not in (before, held.files_set[name]) and not force:
            done.left.append(
                f"{path}: somebody changed or removed it, so it stays so; --force gives back the old one"
            )
            return
        if now is not None and before is None:
            files.remove(path)
        elif before is not None and now != before:
            files.write(path, before)
    except TuneError as error:
        done.failed.append(str(error))
        return
    done.said.append(f"{path} is {'gone' if before is None else 'as before'}")
    del held.files_before[name]
    del held.files_set[name]
