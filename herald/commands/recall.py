"""`herald recall`: a notification that is taken back."""

import click

from herald.commands.common import json_option, run_async, settings_of, tenant_option
from herald.console import print_json
from herald.errors import OK
from notification.ids import check_token, check_user, parse_uuid7


@click.command(
    short_help="Take a notification back.",
    epilog="""\b
Examples:
  herald recall --tenant demo 01936b5e-4c00-7000-8000-000000000001
  herald recall --tenant demo 01936b5e-4c00-7000-8000-000000000001 --user ann --json
""",
)
@tenant_option
@click.argument("ident", metavar="ID")
@click.option("--user", metavar="ID", help="From this user alone.  [default: everybody it went to]")
@json_option
@click.pass_context
def recall(context: click.Context, tenant: str, ident: str, user: str | None, as_json: bool) -> int:
    """Take notification ID back: it is sent no more, and devices that have it hide it.

    Connected devices hide it at once, the others when they load the inbox anew. It cannot be undone.
    """
    from herald import operations

    check_token(tenant, "--tenant")
    wanted = parse_uuid7(ident, "ID")
    if user is not None:
        check_user(user, "--user")
    row = run_async(operations.recall(settings_of(context), tenant, wanted, user))
    if as_json:
        print_json(row)
    else:
        count = row["recalled"]
        users = "1 recipient" if count == 1 else f"{count} recipients"
        click.echo(f"{ident} recalled {f'from {users}' if count else 'before'}")
    return OK
