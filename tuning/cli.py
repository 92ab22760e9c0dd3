"""`tuning/tune`: the command line. Exit 0 in order, 2 drift, 1 error; nothing is changed without --yes."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any, Final, NoReturn

from tuning import change, machine, plan, probe, service, show, snapshot, verify
from tuning.change import Done
from tuning.errors import TuneError
from tuning.machine import Machine
from tuning.settings import BACKLOG, Ask

OK: Final = 0
ERROR: Final = 1
DRIFT: Final = 2
_NUMBER_MAX: Final = 1_000_000

_ABOUT: Final = """\
Kernel settings for a machine that holds many WebSocket connections.

  plan      what stands, what should, and why (the default)
  apply     set it now and for the next boot, after a snapshot; then verify
  verify    read everything again and open connections for real
  rollback  give back what was there before the first apply

apply and rollback only say what they would do until they are given --yes. A
value that is better already stays; one that would be lowered stays too, unless
--force. docs/tuning.md explains each row."""
_EXITS: Final = "Exit status: 0 in order, 2 something should change or has drifted, 1 error."


class _Parser(argparse.ArgumentParser):
    """A wrong command line is an error, not drift: exit 1."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ERROR, f"tune: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    options = _parser().parse_args(arguments)
    ask = Ask(options.connections, options.unit, options.login, options.load_generator, options.force)
    try:
        service.check(ask)
        return _COMMANDS[options.command](machine.read(), ask, options)
    except TuneError as error:
        print(f"tune: {error}", file=sys.stderr)
        return ERROR
    except BrokenPipeError:  # `tune plan | head`: what was read is enough
        sys.stderr.close()
        return ERROR


def _parser() -> _Parser:
    parser = _Parser(
        prog="tune", description=_ABOUT, epilog=_EXITS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=_COMMANDS, default="plan")
    add = parser.add_argument
    defaults = Ask()
    add("--yes", action="store_true", help="apply, rollback: do it (root)")
    add("--force", action="store_true", help="apply: rows that lower a value too; rollback: also over what others "
        "changed since")  # fmt: skip
    add("--connections", type=_number, default=defaults.connections, metavar="N",
        help="how many clients this machine is to hold (default: 100000)")  # fmt: skip
    add("--unit", default=defaults.unit, metavar="NAME.service",
        help=f"the gateway's systemd unit, for LimitNOFILE (default: {defaults.unit})")  # fmt: skip
    add("--login", metavar="USER", help="the same limit for logins of this user (limits.d)")
    add("--load-generator", action="store_true", help="this machine opens connections: widen its port range")
    add("--open", type=_number, default=BACKLOG, metavar="N",
        help=f"apply, verify: open so many connections on loopback, 0 for none (default: {BACKLOG})")  # fmt: skip
    add("--json", action="store_true", help="for machines")
    return parser


def _number(text: str) -> int:
    digits = text.replace(",", "")
    number = int(digits) if digits.isdecimal() else _NUMBER_MAX + 1
    if number > _NUMBER_MAX:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {_NUMBER_MAX:,}, not {text}")
    return number


def _plan(found: Machine, ask: Ask, options: argparse.Namespace) -> int:
    lines = plan.make(found, ask)
    drift = plan.drifts(lines)
    if options.json:
        _print_json(show.report(found, lines))
        return DRIFT if drift else OK
    print(show.machine(found, ask.connections))
    print(show.rows(lines))
    print(f"\n{show.counts(lines)} Nothing was changed.")
    if drift:
        print(show.container_help(lines) or f"Next: sudo tuning/tune apply{_same(options)} --yes")
    return DRIFT if drift else OK


def _same(options: argparse.Namespace) -> str:
    """The options that a next command must repeat."""
    defaults = Ask()
    words = [
        f" --connections {options.connections}" if options.connections != defaults.connections else "",
        f" --unit {options.unit}" if options.unit != defaults.unit else "",
        f" --login {options.login}" if options.login else "",
        " --load-generator" if options.load_generator else "",
        " --force" if options.force else "",
    ]
    return "".join(words)


def _apply(found: Machine, ask: Ask, options: argparse.Namespace) -> int:
    if not options.yes:
        return _plan(found, ask, options)
    lines = plan.make(found, ask)
    blocked = [line.key for line in lines if line.state is plan.State.BLOCKED]
    if blocked and not any(line.state is plan.State.CHANGE for line in lines):
        raise TuneError(
            f"nothing can be changed here ({lines[_first_blocked(lines)].note}); nothing was changed\n"
            + show.container_help(lines)
        )
    done = change.apply(found, ask)
    verdict = verify.judge(found, ask, _opened(options))
    return _end(
        found, done, verdict, options, f"The snapshot is {snapshot.PATH}; back: sudo tuning/tune rollback --yes"
    )


def _first_blocked(lines: list[plan.Line]) -> int:
    return next(at for at, line in enumerate(lines) if line.state is plan.State.BLOCKED)


def _verify(found: Machine, ask: Ask, options: argparse.Namespace) -> int:
    return _end(found, Done(), verify.judge(found, ask, _opened(options)), options, "")


def _opened(options: argparse.Namespace) -> probe.Opened | None:
    return probe.open_connections(options.open) if options.open else None


def _end(found: Machine, done: Done, verdict: verify.Verdict, options: argparse.Namespace, hint: str) -> int:
    status = ERROR if done.failed else OK if verdict.in_order() else DRIFT
    if options.json:
        opened = asdict(verdict.opened) if verdict.opened else None
        more = {"drifted": verdict.drifted, "opened": opened, "done": asdict(done), "exit": status}
        _print_json(show.report(found, verdict.lines, **more))
        return status
    _print_done(done)
    off = [line for line in verdict.lines if line.state in plan.DRIFT]
    if off:
        print(f"Not as it should be:{show.rows(off)}\n")
    for text in verdict.drifted:
        print(f"drift: {text}")
    print(f"Read again: {show.counts(verdict.lines)}")
    if verdict.opened:
        print(show.opened(verdict.opened, found.root))
    print("In order." if status == OK else "Drift." if status == DRIFT else "Not all of it was done.")
    if hint and done.said:
        print(hint)
    return status


def _rollback(found: Machine, ask: Ask, options: argparse.Namespace) -> int:
    held = snapshot.load()
    if held is None:
        done = Done(said=["nothing was applied here: nothing to give back"])
    elif options.yes:
        done = change.rollback(found, ask.force)
    else:
        done = Done(said=_would_give_back(held))
    status = ERROR if done.failed else DRIFT if done.left or (held and not options.yes) else OK
    if options.json:
        _print_json({"done": asdict(done), "exit": status})
    else:
        _print_done(done)
    return status


def _would_give_back(held: snapshot.Snapshot) -> list[str]:
    values = [f"would set {key} = {before}" for key, before in reversed(held.values_before.items())]
    texts = [f"would {'remove' if text is None else 'restore'} {path}" for path, text in held.files_before.items()]
    return [
        *values, *texts,
        f"as it was on {held.taken}; nothing was changed. Next: sudo tuning/tune rollback --yes",
    ]  # fmt: skip


def _print_done(done: Done) -> None:
    for text in done.said:
        print(text)
    for text in done.left:
        print(f"left: {text}")
    for text in done.failed:
        print(f"failed: {text}", file=sys.stderr)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=1))


_COMMANDS: Final = {"plan": _plan, "apply": _apply, "verify": _verify, "rollback": _rollback}
