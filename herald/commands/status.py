"""`herald status`: what became of a notification."""

import uuid
from typing import Any, Final

import click

from herald.commands.common import json_option, run_async, settings_of, tenant_option
from herald.console import print_json
from herald.errors import OK, Failed
from notification.codes import STATUS_TEXT
from notification.ids import check_token, parse_uuid7

_TEXTS: Final = {int(code): text for code, text in STATUS_TEXT.items()}


@click.command(
    epilog="""\b
Examples:
  herald status --tenant demo --id 01936b5e-4c00-7000-8000-000000000001
  herald status --tenant demo --id 01936b5e-4c00-7000-8000-000000000001 --json
"""
)
@tenant_option
@click.option("--id", "ident", required=True, metavar="UUID", help="Id of the notification.")
@json_option
@click.pass_context
def status(context: click.Context, tenant: str, ident: str, as_json: bool) -> int:
    """Print the status and the history of a notification, per user."""
    from herald.operations import notification_status

    settings = settings_of(context)
    check_token(tenant, "--tenant")
    wanted: uuid.UUID = parse_uuid7(ident, "--id")
    rows = run_async(notification_status(settings, tenant, wanted))
    if not rows:
        raise Failed(f"tenant {tenant!r} has no notification {ident}")
    for row in rows:
        if as_json:
            print_json(row)
        else:
            _print(row)
    return OK


def _print(row: dict[str, Any]) -> None:
    click.echo(f"{row['id']}  user {row['user_id']}  {click.style(row['status'], bold=True)}")
    if row["delivered_users"] is not None:
        click.echo(f"  acknowledged by {row['delivered_users']:,} users, read by {row['read_users']:,}")
    for entry in row["history"]:
        text = _TEXTS.get(entry["status_code"], "")
        click.echo(f"  {entry['at']}  {entry['status']:<10} {entry['status_code']}  {text}".rstrip())
