"""`herald token`: a token signed with the tenant's secret."""

import click

from herald.commands.common import json_option, settings_of, tenant_option
from herald.console import iso_ms, print_json
from herald.tokens import LIFETIME_S_DEFAULT, LIFETIME_S_MAX, mint


@click.command(
    short_help="Print a token of a user, for development and tests.",
    epilog="""\b
Examples:
  herald token --tenant demo --user ann
  herald token --tenant demo --user ann --device laptop --expires-in 300 --json
""",
)
@tenant_option
@click.option("--user", required=True, metavar="ID", help="User id: the token's `sub`.")
@click.option("--device", metavar="ID", help="Device id: the token's `did`.")
@click.option(
    "--expires-in", "lifetime_s", type=click.IntRange(1, LIFETIME_S_MAX), default=LIFETIME_S_DEFAULT,
    show_default=True, metavar="SECONDS", help="Life of the token.",
)  # fmt: skip
@json_option
@click.pass_context
def token(
    context: click.Context, tenant: str, user: str, device: str | None, lifetime_s: int, as_json: bool
) -> None:
    """Print a token of a user, signed with the secret file issuer_TENANT.key.

    For development and tests: in production the tenant's identity provider signs tokens.
    """
    text, expiry_s = mint(settings_of(context), tenant, user, device, lifetime_s)
    if as_json:
        print_json({"token": text, "expires_at": iso_ms(expiry_s * 1_000)})
    else:
        click.echo(text)
