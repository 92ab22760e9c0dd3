"""What commands share: settings, and running a coroutine so that Ctrl-C ends it cleanly."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from notification.settings import Settings, load

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def settings_of(context: click.Context) -> Settings:
    """The settings of this run. Raises SettingsError."""
    file: Path | None = context.find_root().obj
    return load(file)[0]


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end; KeyboardInterrupt cancels it, lets its clean-up finish, and is raised again."""
    return asyncio.run(coroutine)


def tenant_option(function: F) -> F:
    """--tenant, the same everywhere."""
    return click.option("--tenant", required=True, metavar="ID", help="Tenant id.")(function)


def json_option(function: F) -> F:
    """--json, the same everywhere."""
    return click.option("--json", "as_json", is_flag=True, help="Stable JSON output (docs/cli.md).")(function)
