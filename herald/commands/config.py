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
    from rich.console import Console
    from rich.table import Table

    table = Table("key", "value", "source", "doc", box=None, pad_edge=False, header_style="bold")
    for key, value, source, doc in rows:
        table.add_row(key, str(value).lower() if isinstance(value, bool) else str(value), source, doc)
    # Texts hold brackets and addresses: nothing in them is markup. A pipe gets whole lines.
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 240).print(table)


def _shown(value: str | int | bool) -> str | int | bool:
    """Addresses without the login: everything between `://` and the last `@`, and a `password` parameter."""
    if not isinstance(value, str):
        return value
    return re.sub(r"password=[^&]*", "password=***", re.sub(r"://.*@", "://***@", value))
