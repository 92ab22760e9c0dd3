"""`python -m devstack run`: see devstack/run.py."""

import asyncio
import dataclasses
import logging
import sys
from typing import Final

import click
from rich.console import Console

from devstack.servers import Kafka, Tansu
from notification import telemetry
from notification.errors import HeraldError
from notification.settings import load

WORKER_METRICS: Final = "127.0.0.1:8082"  # where nothing else is said: there is one worker process here


@click.group()
def main() -> None:
    """Herald's development system: real servers, embedded."""


@main.command()
@click.option(
    "--kafka",
    type=click.Choice(["tansu", "apache"]),
    default="tansu",
    envvar="KAFKA",
    show_default=True,
    help="Which embedded Kafka: Tansu needs nothing, Apache needs Java 17 and Maven.",
)
def run(kafka: str) -> None:
    """Start everything, print READY, run until Ctrl-C or SIGTERM."""
    from devstack import run as composition

    console = Console()
    try:
        settings, _ = load()
        if not settings.worker_metrics:
            settings = dataclasses.replace(settings, worker_metrics=WORKER_METRICS)
        telemetry.configure(settings.log_level, b"devstack", settings.log_json and not sys.stderr.isatty())
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each failed try; we name what stays down
        asyncio.run(composition.run(settings, console, _kafka(kafka)))
    except HeraldError as error:
        console.print(f"cannot run: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _kafka(name: str) -> type[Kafka]:
    if name == "apache":
        from devstack.apache import ApacheKafka

        return ApacheKafka
    return Tansu


if __name__ == "__main__":
    main()
