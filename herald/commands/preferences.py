"""`herald preferences`: what a user wants to get."""

from typing import Any, Final

import click

from herald.commands.common import json_option, run_async, settings_of, tenant_option
from herald.console import print_json
from herald.errors import OK
from notification.ids import check_token, check_user

_WANTED: Final = {"on": True, "off": False, "default": None}


@click.group()
def preferences() -> None:
    """Show and set what a user wants to get, by type and by topic."""


@preferences.command(
    epilog="""\b
Examples:
  herald preferences show --tenant demo --user ann
  herald preferences show --tenant demo --user ann --json
"""
)
@tenant_option
@click.option("--user", required=True, metavar="ID", help="User id.")
@json_option
@click.pass_context
def show(context: click.Context, tenant: str, user: str, as_json: bool) -> int:
    """Print what a user has turned on and off; everything else is wanted."""
    from herald import operations

    check_token(tenant, "--tenant")
    check_user(user, "--user")
    _print(run_async(operations.preferences(settings_of(context), tenant, user)), as_json)
    return OK


@preferences.command(
    "set",
    epilog="""\b
Examples:
  herald preferences set --tenant demo --user ann --type promotional off
  herald preferences set --tenant demo --user ann --topic order-news on --json
  herald preferences set --tenant demo --user ann --type promotional default
""",
)
@tenant_option
@click.option("--user", required=True, metavar="ID", help="User id.")
@click.option("--type", "kind", metavar="TYPE", help="service or promotional; system_alert always comes.")
@click.option("--topic", metavar="TOPIC", help="A topic, of whatever type; it decides over the type.")
@click.argument("wanted", type=click.Choice(list(_WANTED)), metavar="on|off|default")
@json_option
@click.pass_context
def set_preference(
    context: click.Context, tenant: str, user: str, kind: str | None, topic: str | None, wanted: str, as_json: bool
) -> int:
    """Turn a type or a topic on or off for a user, or forget what was set (default).

    What Herald takes from then on obeys it: what is not wanted is stored as CANCELLED and never sent.
    """
    from herald import operations

    if (kind is None) == (topic is None):
        raise click.UsageError("give one of --type and --topic")
    check_token(tenant, "--tenant")
    check_user(user, "--user")
    if topic is not None:
        check_token(topic, "--topic")
    row = run_async(operations.set_preference(settings_of(context), tenant, user, _WANTED[wanted], kind, topic))
    _print(row, as_json)
    return OK


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    settings = [
        f"{kind:<6} {name:<24} {'on' if wanted else 'off'}"
        for kind, name in (("type", "types"), ("topic", "topics"))
        for name, wanted in sorted(row[name].items())
    ]
    click.echo("\n".join(settings) or f"user {row['user_id']} has set nothing and gets everything")
