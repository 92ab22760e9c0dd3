"""`herald revoke`: tokens that are to count no more."""

import click

from herald.commands.common import json_option, run_async, settings_of, tenant_option
from herald.console import print_json
from herald.errors import OK
from notification.ids import check_token, check_user
from notification.limits import REVOCATION_S_DEFAULT
from notification.messages import JTI, TENANT, USER


@click.command(
    short_help="Refuse tokens and close their connections.",
    epilog="""\b
Examples:
  herald revoke --tenant shop --jti 0b7a6f0e-6a51-4a53-9c1d-6f1f6ad5c9f3
  herald revoke --tenant shop --user ann --json
  herald revoke --tenant shop --all --expires-in 86400
""",
)
@tenant_option
@click.option("--jti", metavar="JTI", help="The one token with this `jti`.")
@click.option("--user", metavar="ID", help="Every token of this user that was issued (`iat`) until now.")
@click.option("--all", "everybody", is_flag=True, help="Every token of the tenant that was issued until now.")
@click.option(
    "--expires-in", "life_s", type=click.IntRange(1, REVOCATION_S_DEFAULT), default=REVOCATION_S_DEFAULT,
    show_default=True, metavar="SECONDS", help="How long to refuse them: at least as long as the tokens live.",
)  # fmt: skip
@json_option
@click.pass_context
def revoke(
    context: click.Context, tenant: str, jti: str | None, user: str | None, everybody: bool, life_s: int,
    as_json: bool,
) -> int:  # fmt: skip
    """Refuse tokens and close the connections that came with them (4403), everywhere within 5 seconds.

    A token that is issued after the command has ended is good again. A token that does not say when it was issued
    (no `iat`) is refused as long as a revocation of its user or tenant lasts.
    """
    from herald import operations

    if (jti is not None) + (user is not None) + everybody != 1:
        raise click.UsageError("give one of --jti, --user and --all")
    check_token(tenant, "--tenant")
    if user is not None:
        check_user(user, "--user")
    kind, value = (JTI, jti) if jti is not None else (USER, user) if user is not None else (TENANT, "")
    row = run_async(operations.revoke(settings_of(context), tenant, kind, value or "", life_s))
    if as_json:
        print_json(row)
    else:
        what = {JTI: "the token", USER: f"all tokens of user {user}", TENANT: "all tokens"}[kind]
        click.echo(f"{what} of tenant {tenant} revoked until {row['expires_at']}; gateways know within 5 seconds")
    return OK
