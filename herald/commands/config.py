"""`herald config`: what the settings are and where they come from."""

import re
import sys
from pathlib import Path

import click

from herald.commands.common import json_option
from herald.console import print_json
from notification.settings import FIELDS, load


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command(
    epilog="""\b
Examples:
  herald config check
  HERALD_GATEWAY_PORT=9000 herald config check
  herald --config /etc/herald.toml config check --json
"""
)
@json_option
@click.pass_context
def check(context: click.Context, as_json: bool) -> None:
    """Check herald.toml and HERALD_* variables; print every setting, its value and its source.

    Passwords inside addresses are not shown; secret files are not read.
    """
    file: Path | None = context.find_root().obj
    settings, sources = load(file)
    rows = [(key, _shown(getattr(settings, key)), sources[key], str(FIELDS[key].metadata["doc"])) for key in FIELDS]
    if as_json:
        for key, value, source, doc in rows:
            print_json({"key": key, "value": value, "source": source, "doc": doc})
        return
    texts = [
        (key, str(value).lower() if isinstance(value, bool) else str(value), *rest) for key, value, *rest in rows
    ]
    if not sys.stdout.isatty():  # a pipe gets whole lines, for cut and awk
        for row in texts:
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("key", "value", "source", "doc"):
        table.add_column(name, overflow="fold")
    for row in texts:
        table.add_row(*row)
    # Texts hold brackets and addresses: nothing in them is markup.
    Console(markup=False, highlight=False).print(table)


def _shown(value: str | int | bool) -> str | int | bool:
    """Addresses without the login: everything between `://` and the last `@`, and a `password` parameter."""
    if not isinstance(value, str):
        return value
    return re.sub(r"password=[^&]*", "password=***", re.sub(r"://.*@", "://***@", value))
