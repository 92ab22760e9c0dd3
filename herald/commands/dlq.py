"""`herald dlq`: records that could not be taken."""

import sys
from typing import Any

import click

from herald.commands.common import json_option, run_async, settings_of
from herald.console import complain, plain, print_json
from herald.dead_letters import LIST_COUNT_MAX, Plan
from herald.errors import FAILED, OK, Failed


@click.group()
def dlq() -> None:
    """Look at dead letters, and send them again."""


@dlq.command(
    "list",
    epilog="""\b
Examples:
  herald dlq list
  herald dlq list --tenant shop --reason unknown_tenant --json
""",
)
@click.option("--tenant", metavar="ID", default="", help="Only letters that name this tenant.")
@click.option("--reason", metavar="REASON", default="", help="Only letters of this reason (docs/events.md).")
@click.option("--limit", type=click.IntRange(1, LIST_COUNT_MAX), default=100, show_default=True, metavar="COUNT",
              help="At most so many, the newest.")  # fmt: skip
@json_option
@click.pass_context
def list_letters(context: click.Context, tenant: str, reason: str, limit: int, as_json: bool) -> int:
    """Print the dead letters that Kafka still keeps, oldest first."""
    from herald import dead_letters

    wanted = dead_letters.Wanted.of((), tenant, reason)
    rows, count = run_async(dead_letters.listed(settings_of(context), wanted, limit))
    for row in rows:
        if as_json:
            print_json(row)
        else:
            size = "?" if row["bytes"] is None else row["bytes"]
            about = f"{row['reason'] or '?':<18}{row['tenant_id'] or '-':<20} {size:>8} B"
            click.echo(plain(f"{row['letter']:<8} {row['buried_at']}  {about}  {row['detail'] or ''}"))
    if count > len(rows):
        click.echo(f"the newest {len(rows)} of {count}; --limit shows more", err=True)
    return OK


@dlq.command(
    epilog="""\b
Examples:
  herald dlq show 0-17
  herald dlq show 0-17 --json
"""
)
@click.argument("letter")
@json_option
@click.pass_context
def show(context: click.Context, letter: str, as_json: bool) -> int:
    """Print one dead letter, what it holds, and whether a replay may help."""
    from herald import dead_letters

    row = run_async(dead_letters.shown(settings_of(context), dead_letters.Wanted.of([letter])))
    if as_json:
        print_json(row)
    else:
        _print(row)
    return OK


def _print(row: dict[str, Any]) -> None:
    for name, value in row.items():
        if name not in ("value", "value_base64", "obstacle") and value is not None:
            click.echo(f"{name:<14}{plain(str(value))}")
    if row["value"] is not None:
        click.echo(f"{'value':<14}{plain(row['value'])}")
    elif row["value_base64"] is not None:
        click.echo(f"{'value_base64':<14}{row['value_base64']}")
    click.echo(f"{'replay':<14}{plain(row['obstacle'] or 'may help, once the cause is gone')}")


@dlq.command(
    epilog="""\b
Examples:
  herald dlq replay 0-17 0-18
  herald dlq replay --tenant shop --reason unknown_tenant
  herald dlq replay --all --yes --json
"""
)
@click.argument("letters", nargs=-1, metavar="[LETTER]...")
@click.option("--tenant", metavar="ID", default="", help="All letters that name this tenant.")
@click.option("--reason", metavar="REASON", default="", help="All letters of this reason (docs/events.md).")
@click.option("--all", "everything", is_flag=True, help="All letters.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def replay(
    context: click.Context, letters: tuple[str, ...], tenant: str, reason: str, everything: bool, yes: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Send dead letters to the topics that they came from again, once the cause of their rejection is gone.

    A replay is a new record: it comes after what was sent since, and its time to live counts from now. What would
    be rejected again is kept back, above all ids older than 24 hours by now: their sender has to send them anew.
    """
    from herald import dead_letters

    if sum((bool(letters), bool(tenant or reason), everything)) != 1:
        raise click.UsageError("give letters, or --tenant and --reason, or --all")
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask: give --yes")
    settings = settings_of(context)
    wanted = dead_letters.Wanted.of(letters, tenant, reason)
    if not yes and not _agreed(run_async(dead_letters.planned(settings, wanted))):
        click.echo("nothing was sent", err=True)
        return FAILED

    def tell(row: dict[str, Any]) -> None:
        if as_json:
            print_json(row)
        elif row["status"] == "replayed":
            click.echo(f"{row['letter']:<8} {row['id']}  to {row['topic']} {row['partition']} at {row['offset']}")
        if row["status"] == "kept":
            complain(f"{row['letter']}: {plain(row['error'])}")

    outcome = run_async(dead_letters.replayed(settings, wanted, tell))
    sent = outcome.sent.total()
    if sent + outcome.kept == 0:
        raise Failed("no dead letter matches")
    click.echo(f"replayed {sent}, kept {outcome.kept}", err=True)
    return FAILED if outcome.kept else OK


def _agreed(plan: Plan) -> bool:
    """Ask, unless there is nothing to send: then what follows says why."""
    count = plan.sent.total()
    if count == 0:
        return True
    reasons = ", ".join(f"{number} {plain(reason)}" for reason, number in sorted(plan.sent.items()))
    kept = f"; {plan.kept} would be rejected again and are kept" if plan.kept else ""
    return click.confirm(f"{count} to send again ({reasons}){kept}. Go on?", err=True)
