"""`herald tenant`: who may publish and connect."""

from pathlib import Path

import click

from herald.commands.common import json_option, run_async, settings_of
from herald.console import print_json
from herald.errors import OK
from herald.tokens import AUDIENCE
from notification.errors import InvalidInput
from notification.ids import check_token
from notification.limits import TENANT_TITLE_CHARS_MAX
from notification.messages import EdgeKey

ALGORITHMS = ("RS256", "ES256", "EdDSA")


@click.group()
def tenant() -> None:
    """Make and list tenants."""


@tenant.command(
    epilog="""\b
Examples:
  herald tenant create shop --origin https://shop.example.com
  herald tenant create shop --public-key idp.pem --algorithm RS256 \\
      --issuer https://id.example.com --audience notifications --kid 2026-11
  herald tenant create shop --issuer https://id.example.com --audience notifications \\
      --jwks-url https://id.example.com/.well-known/jwks.json
"""
)
@click.argument("name")
@click.option("--title", metavar="TEXT", help="Name for people.  [default: NAME]")
@click.option("--origin", "origins", multiple=True, metavar="ORIGIN", help="Allowed web page origin (repeat it).")
@click.option("--public-key", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="PEM public key of the issuer.  [default: a new HS256 secret, issuer_NAME.key]")  # fmt: skip
@click.option("--algorithm", type=click.Choice(ALGORITHMS), help="The public key's only algorithm.")
@click.option("--jwks-url", metavar="URL", help="Where the issuer publishes its keys (JWKS, https).")
@click.option("--issuer", metavar="ISS", help="`iss` of the tokens.  [default: herald:NAME]")
@click.option("--audience", metavar="AUD", default=AUDIENCE, show_default=True, help="`aud` of the tokens.")
@click.option("--kid", metavar="KID", default="", help="`kid` of the key.  [default: tokens without kid]")
@json_option
@click.pass_context
def create(
    context: click.Context, name: str, title: str | None, origins: tuple[str, ...], public_key: Path | None,
    algorithm: str | None, jwks_url: str | None, issuer: str | None, audience: str, kid: str, as_json: bool,
) -> int:  # fmt: skip
    """Make tenant NAME (1 to 64 of A-Z a-z 0-9 _ -) and say which keys its tokens are checked with.

    That is a new HS256 secret, or the public key of its identity provider, or those that the provider publishes
    (--jwks-url): RS256, ES256 and EdDSA keys, fetched each 5 minutes and when a token names one that is new.
    """
    from herald import operations
    from herald.tokens import issuer_of

    settings = settings_of(context)
    check_token(name, "NAME")
    if (public_key is None) != (algorithm is None):
        raise click.UsageError("--public-key and --algorithm go together")
    if jwks_url is not None and (issuer is None or public_key is not None or kid):
        raise click.UsageError("--jwks-url needs --issuer, and goes with neither --public-key nor --kid")
    if (public_key, jwks_url) == (None, None) and (issuer, audience, kid) != (None, AUDIENCE, ""):
        raise click.UsageError("--issuer, --audience and --kid belong to a --public-key (or --jwks-url)")
    if title is not None and not 1 <= len(title) <= TENANT_TITLE_CHARS_MAX:
        raise InvalidInput("--title", f"must be 1 to {TENANT_TITLE_CHARS_MAX} characters")
    allowed = [operations.check_origin(origin) for origin in origins]
    if jwks_url is not None:
        making = operations.create_published_tenant(
            settings, name, title or name, allowed, issuer or "", audience, jwks_url
        )
    else:
        pem = b"" if public_key is None else operations.read_public_key(public_key, algorithm or "")
        key = EdgeKey(issuer or issuer_of(name), audience, kid, algorithm or "HS256", pem)
        making = operations.create_tenant(settings, name, title or name, allowed, key)
    made = run_async(making)
    if as_json:
        print_json(made)
    else:
        how = made["algorithm"] or f"the keys at {made['jwks_url']}"
        click.echo(f"tenant {name} made; its tokens are checked with {how}, issuer {made['issuer']}")
        if made["secret_file"]:
            click.echo(f"secret: {made['secret_file']}; a token: herald token --tenant {name} --user ann")
    return OK


@tenant.command(
    "list",
    epilog="""\b
Examples:
  herald tenant list
  herald tenant list --json
""",
)
@json_option
@click.pass_context
def list_tenants(context: click.Context, as_json: bool) -> int:
    """Print every tenant."""
    from herald import operations

    rows = run_async(operations.list_tenants(settings_of(context)))
    for row in rows:
        if as_json:
            print_json(row)
        else:
            click.echo(f"{row['tenant_id']:<24} {row['status']:<10} {row['created_at']}  {row['title']}")
    return OK
