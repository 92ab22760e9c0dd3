"""`herald segment`: named lists of a tenant's users, to send to as one."""

from typing import Any

import click

from herald.commands.common import json_option, run_async, settings_of, tenant_option
from herald.console import print_json, progress
from herald.errors import OK
from notification.ids import check_token

_users = click.argument("users", nargs=-1, required=True, metavar="USER|@FILE...")


@click.group()
def segment() -> None:
    """Lists of a tenant's users to send to."""


@segment.command(
    epilog="""\b
Examples:
  herald segment create vip --tenant demo
"""
)
@click.argument("name", metavar="ID")
@tenant_option
@json_option
@click.pass_context
def create(context: click.Context, name: str, tenant: str, as_json: bool) -> int:
    """Make the empty segment ID (1 to 64 of A-Z a-z 0-9 _ -)."""
    from herald import operations

    _check(tenant, name)
    row = run_async(operations.create_segment(settings_of(context), tenant, name))
    if as_json:
        print_json(row)
    else:
        click.echo(f"segment {name} of tenant {tenant} made")
    return OK


@segment.command(
    epilog="""\b
Examples:
  herald segment delete vip --tenant demo
"""
)
@click.argument("name", metavar="ID")
@tenant_option
@click.pass_context
def delete(context: click.Context, name: str, tenant: str) -> int:
    """Delete segment ID. What was sent to it stays with those who were in it."""
    from herald import operations

    _check(tenant, name)
    run_async(operations.delete_segment(settings_of(context), tenant, name))
    click.echo(f"segment {name} of tenant {tenant} deleted")
    return OK


@segment.command(
    "list",
    epilog="""\b
Examples:
  herald segment list --tenant demo
  herald segment list --tenant demo --json
""",
)
@tenant_option
@json_option
@click.pass_context
def list_segments(context: click.Context, tenant: str, as_json: bool) -> int:
    """Print every segment of a tenant and how many users are in it."""
    from herald import operations

    check_token(tenant, "--tenant")
    for row in run_async(operations.list_segments(settings_of(context), tenant)):
        if as_json:
            print_json(row)
        else:
            click.echo(f"{row['segment_id']:<24} {row['members']:>9}  {row['created_at']}")
    return OK


@segment.command(
    epilog="""\b
Examples:
  herald segment show vip --tenant demo
  herald segment show vip --tenant demo --json
"""
)
@click.argument("name", metavar="ID")
@tenant_option
@json_option
@click.pass_context
def show(context: click.Context, name: str, tenant: str, as_json: bool) -> int:
    """Print the users in segment ID, one a line, as `add` and `remove` take them from a file."""
    from herald import operations

    def one(row: dict[str, Any]) -> None:
        if as_json:
            print_json(row)
        else:
            click.echo(row["user_id"])

    _check(tenant, name)
    run_async(operations.show_segment(settings_of(context), tenant, name, one))
    return OK


@segment.command(
    epilog="""\b
Examples:
  herald segment add vip --tenant demo ann bob
  herald segment add vip --tenant demo @users.txt --json
"""
)
@click.argument("name", metavar="ID")
@_users
@tenant_option
@json_option
@click.pass_context
def add(context: click.Context, name: str, users: tuple[str, ...], tenant: str, as_json: bool) -> int:
    """Put users into segment ID, all of them or none: ids, or files with one id a line."""
    return _change(context, tenant, name, users, as_json, add=True)


@segment.command(
    epilog="""\b
Examples:
  herald segment remove vip --tenant demo ann
  herald segment remove vip --tenant demo @left.txt --json
"""
)
@click.argument("name", metavar="ID")
@_users
@tenant_option
@json_option
@click.pass_context
def remove(context: click.Context, name: str, users: tuple[str, ...], tenant: str, as_json: bool) -> int:
    """Take users out of segment ID, all of them or none: ids, or files with one id a line."""
    return _change(context, tenant, name, users, as_json, add=False)


def _change(
    context: click.Context, tenant: str, name: str, values: tuple[str, ...], as_json: bool, add: bool
) -> int:
    from herald import events, operations

    settings = settings_of(context)
    _check(tenant, name)
    users = list(dict.fromkeys(events.users(values, "USER")))
    with progress("adding" if add else "removing", len(users)) as told:
        row = run_async(operations.change_segment(settings, tenant, name, users, add, told))
    if as_json:
        print_json(row)
    else:
        what = "added to" if add else "removed from"
        click.echo(f"{row['changed']} of {len(users)} users {what} segment {name}; {row['members']} are in it now")
    return OK


def _check(tenant: str, name: str) -> None:
    check_token(tenant, "--tenant")
    check_token(name, "ID")
