"""`herald listen`: a user's notifications as they arrive, acknowledged after they are printed."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

import click

from herald.commands.common import json_option, run_async, settings_of, tenant_option
from herald.console import file_fault, iso_ms, print_json
from herald.errors import OK, Failed
from notification.errors import InvalidInput
from notification.frames import CONNECT_PATH, Notification
from notification.settings import Settings

OPEN_TIMEOUT_S: Final = 5.0
TOKEN_LIFETIME_S: Final = 3_600


@click.command(
    short_help="Print a user's notifications as they arrive.",
    epilog="""\b
Examples:
  herald listen --tenant demo --user ann
  herald listen --tenant demo --user ann --device laptop --count 1 --timeout 10 --json
  herald listen --tenant shop --user ann --url wss://push.example.com/ws/connect --token-file ann.jwt
""",
)
@tenant_option
@click.option("--user", required=True, metavar="ID", help="User id.")
@click.option("--device", metavar="ID", help="Device id.  [default: one for this run]")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Stop after N notifications.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
              help="Stop after this long; with --count it is a failure (1) if they did not all come.")  # fmt: skip
@click.option("--url", metavar="URL", help=f"Gateway.  [default: ws://gateway_host:gateway_port{CONNECT_PATH}]")
@click.option("--token-file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Token, read again at each connect.  [default: signed with issuer_TENANT.key]")  # fmt: skip
@json_option
@click.pass_context
def listen(
    context: click.Context, tenant: str, user: str, device: str | None, count: int | None,
    timeout_s: float | None, url: str | None, token_file: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Print a user's notifications as they arrive; each is acknowledged once it is printed.

    First comes everything that the user has not read, also what an earlier run printed: none remembers what it had.
    Lost connections are reopened.
    """
    from herald.client import HeraldClient
    from herald.client_errors import Unreachable

    settings = settings_of(context)
    address = url or f"{settings.gateway_scheme}://{_host(settings)}:{settings.gateway_port}{CONNECT_PATH}"

    async def token() -> str:
        return _token(settings, tenant, user, device, token_file)

    async def run() -> int:
        await token()  # a missing secret is told before anything is opened
        printed, opened = 0, False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                client = HeraldClient(address, token, device=device, open_timeout_s=OPEN_TIMEOUT_S)
                async with client:
                    opened = True
                    async for n in client:
                        _print(tenant, user, n, as_json)
                        await client.ack(n)
                        printed += 1
                        if printed == count:
                            return OK
        if count is not None:
            raise Failed(f"{printed} of {count} notifications came within {timeout_s:g} s")
        if not opened:
            raise Unreachable(address, f"no session within {timeout_s:g} s")
        return OK

    return run_async(_explained(run(), url, settings))


async def _explained(running: Any, url: str | None, settings: Settings) -> int:
    """A gateway that does not answer is named with its address and setting."""
    from herald.client_errors import Unreachable

    try:
        return int(await running)
    except Unreachable as error:
        place = "--url" if url else "settings gateway_host, gateway_port (HERALD_GATEWAY_HOST, HERALD_GATEWAY_PORT)"
        raise Failed(f"{error}; is it running (`make run`)? The address comes from {place}") from error


def _host(settings: Settings) -> str:
    """Where to reach a gateway that listens on `gateway_host`: the wildcard addresses mean this machine."""
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - looked up, not bound
    host = wildcards.get(settings.gateway_host, settings.gateway_host)
    return f"[{host}]" if ":" in host else host


def _token(settings: Settings, tenant: str, user: str, device: str | None, file: Path | None) -> str:
    from herald.tokens import mint

    if file is None:
        return mint(settings, tenant, user, device, TOKEN_LIFETIME_S)[0]
    try:
        return file.read_text("ascii").strip()
    except OSError as error:
        raise InvalidInput("--token-file", file_fault(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidInput("--token-file", f"{file}: must hold a token, which is ASCII") from error


def _print(tenant: str, user: str, n: Notification, as_json: bool) -> None:
    import msgspec

    payload = msgspec.json.decode(n.p)
    if as_json:
        row: dict[str, Any] = {
            "id": n.id, "tenant_id": tenant, "user_id": user, "lane": n.lane, "seq": n.seq, "type": n.type,
            "priority": n.priority, "sent_at": iso_ms(n.sent_at), "expires_at": iso_ms(n.expires_at),
            "payload": payload,
        }  # fmt: skip
        if n.collapse is not None:
            row["collapse_key"] = n.collapse
        print_json(row)
        return
    time = click.style(iso_ms(n.sent_at)[11:19], dim=True)
    priority = click.style(f"{n.priority:6}", fg={"high": "red", "medium": "yellow"}.get(n.priority))
    click.echo(f"{time} {priority} {click.style(_plain(payload['title']), bold=True)}  {_plain(payload['body'])}")


def _plain(text: str) -> str:
    """One line without control characters: a notification must not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
