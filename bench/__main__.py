"""`python -m bench COMMAND`: measure, print a table or, with --json, the report."""

import json
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import structlog
import uvloop
from rich.console import Console

from bench import (
    attacks,
    connections,
    fanout,
    handshake,
    hotpath,
    idle,
    lanes,
    neighbours,
    peers,
    profile,
    sockets,
    storm,
    worker,
)
from bench.micro import run as micro
from bench.report import Progress, show
from notification.errors import HeraldError

Run = Callable[[Progress], Awaitable[dict[str, Any]]]


def _measure(run: Run, as_json: bool) -> None:
    shown = Console(stderr=True)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        with Progress(shown) as progress:
            report = uvloop.run(_awaited(run, progress))
    except (HeraldError, ValueError) as error:
        shown.print(f"bench: {error}", markup=False, highlight=False)
        sys.exit(1)
    if as_json:
        print(json.dumps(report))
    else:
        show(Console(), report)


async def _awaited(run: Run, progress: Progress) -> dict[str, Any]:
    return await run(progress)


def _names(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(value.split(","))


_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a table.")
_rounds = click.option("--rounds", default=5, show_default=True, help="Interleaved rounds.")


def _contestants(default: tuple[str, ...]) -> Callable[[Any], Any]:
    return click.option(
        "--contestants", default=",".join(default), show_default=True, callback=_names,
        help="Servers to compare: floor; uws (uWebSockets); engine and picows (the gateway's carriers); tls (the "
        "gateway's own TLS); haproxy (TLS in front of the engine).",
    )  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Measure Herald on this machine: the gateway beside a bare C epoll server (the floor), and the worker."""


@cli.command("hotpath")
@_rounds
@_json
@_contestants(hotpath.Options().contestants)
@click.option("--messages", default=100_000, show_default=True, help="Notifications in a round.")
@click.option("--connections", default=1_000, show_default=True)
@click.option("--body-bytes", default=512, show_default=True)
@click.option("--burst", default=1, show_default=True, help="Notifications of a user side by side in a batch.")
@click.option("--in-flight", default=2_048, show_default=True, help="Notifications sent and not acked.")
def _hotpath(as_json: bool, **options: Any) -> None:
    """CPU per delivered and acked notification, at saturation."""
    _measure(lambda progress: hotpath.run(hotpath.Options(**options), progress), as_json)


@cli.command("handshake")
@_rounds
@_json
@_contestants(handshake.Options().contestants)
@click.option("--connections", default=5_000, show_default=True, help="Connects in a round.")
@click.option("--in-flight", default=64, show_default=True, help="Connects at the same time.")
def _handshake(as_json: bool, **options: Any) -> None:
    """CPU per connect with an HS256 token, up to the welcome; and per disconnect."""
    _measure(lambda progress: handshake.run(handshake.Options(**options), progress), as_json)


@cli.command("idle")
@_json
@_contestants(idle.Options().contestants)
@click.option("--connections", default=10_000, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="How long the CPU is watched.")
def _idle(as_json: bool, **options: Any) -> None:
    """Memory and CPU per idle connection."""
    _measure(lambda progress: idle.run(idle.Options(**options), progress), as_json)


@cli.command("fanout")
@_rounds
@_json
@_contestants(fanout.Options().contestants)
@click.option("--connections", default=1_000, show_default=True, help="Who gets each text.")
@click.option("--texts", default=100, show_default=True, help="Texts in a round.")
@click.option("--in-flight", default=1, show_default=True, help="Texts under way at the same time.")
@click.option("--body-bytes", default=512, show_default=True)
def _fanout(as_json: bool, **options: Any) -> None:
    """CPU per frame when many get the same; beside uWebSockets, if `peers` fetched it."""
    _measure(lambda progress: fanout.run(fanout.Options(**options), progress), as_json)


@cli.command("micro")
@_rounds
@_json
@click.option("--operations", default=micro.Options().operations, show_default=True, help="Operations of a turn.")
@click.option("--tokens", default=micro.Options().tokens, show_default=True, help="Tokens of a turn.")
def _micro(as_json: bool, **options: Any) -> None:
    """Each compiled piece beside its Python twin and the library one would take instead."""
    _measure(lambda progress: micro.run(micro.Options(**options), progress), as_json)


@cli.command("worker")
@_rounds
@_json
@click.option("--messages", default=worker.Options().messages, show_default=True, help="Notifications in a round.")
@click.option("--users", default=worker.Options().users, show_default=True)
@click.option("--body-bytes", default=worker.Options().body_bytes, show_default=True)
@click.option("--acks-per-entry", default=worker.Options().acks_per_entry, show_default=True)
def _worker(as_json: bool, **options: Any) -> None:
    """CPU per notification from Kafka to the bus, stored, and per ack; what the storing transaction takes."""
    _measure(lambda progress: worker.run(worker.Options(**options), progress), as_json)


@cli.command("lanes")
@_rounds
@_json
@click.option("--low", default=lanes.Options().low, show_default=True, help="LOW queued at once.")
@click.option("--high", default=lanes.Options().high, show_default=True, help="HIGH at once, in each round.")
@click.option("--per-s", default=lanes.Options().per_s, show_default=True, help="A steady rate, a tenant's share.")
@click.option("--seconds", default=lanes.Options().seconds, show_default=True, help="Of each steady rate.")
@click.option("--users", default=lanes.Options().users, show_default=True, help="Of each tenant.")
@click.option("--body-bytes", default=lanes.Options().body_bytes, show_default=True)
def _lanes(as_json: bool, **options: Any) -> None:
    """HIGH behind a queue of LOW; a tenant beside one at ten times its share."""
    _measure(lambda progress: lanes.run(lanes.Options(**options), progress), as_json)


@cli.command("profile")
@_json
@click.option("--seconds", default=profile.Options().seconds, show_default=True, help="How long each is watched.")
@click.option(
    "--processes", default=",".join(profile.Options().processes), show_default=True, callback=_names,
    help="Of gateway, worker.",
)  # fmt: skip
@click.option(
    "--folder", type=click.Path(path_type=Path), default=profile.Options().folder, show_default=True,
    help="Where the SVG files go.",
)  # fmt: skip
@click.option(
    "--contestant", default=profile.Options().contestant, show_default=True, help="The gateway's carrier."
)
def _profile(as_json: bool, **options: Any) -> None:
    """Flame graphs of a loaded gateway process and of a worker."""
    unknown = set(options["processes"]) - set(profile.Options().processes)
    if unknown:
        raise click.BadParameter(f"no process {', '.join(sorted(unknown))}", param_hint="--processes")
    _measure(lambda progress: profile.run(profile.Options(**options), progress), as_json)


@cli.command("sockets")
@_rounds
@_json
@click.option("--highs", default=sockets.Options().highs, show_default=True, help="HIGH in a turn.")
@click.option(
    "--bytes-per-s", default=sockets.Options().bytes_per_s, show_default=True, help="What the client takes."
)
@click.option("--fill-s", default=sockets.Options().fill_s, show_default=True, help="LOW alone, before.")
@click.option("--connections", default=sockets.Options().connections, show_default=True, help="To be held.")
def _sockets(as_json: bool, **options: Any) -> None:
    """HIGH behind LOW in the kernel, by TCP_NOTSENT_LOWAT; TCP memory per connection. No Herald in it."""
    _measure(lambda progress: sockets.run(sockets.Options(**options), progress), as_json)


@cli.command("peers")
def _peers() -> None:
    """Fetch uWebSockets from PyPI (in socketify, pinned) into .bench/."""
    try:
        print(peers.fetch())
    except HeraldError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(1)


@cli.command("connections")
@_json
@click.option("--count", "connections", default=100_000, show_default=True, help="Connections.")
@click.option("--processes", default=8, show_default=True, help="Gateway processes.")
@click.option("--messages", default=50_000, show_default=True, help="Notifications to random users.")
@click.option("--per-s", default=2_500.0, show_default=True, help="Notifications a second.")
@click.option("--hold-s", default=35.0, show_default=True, help="Seconds to hold them before.")
def _connections(as_json: bool, **options: Any) -> None:
    """Many live connections, notifications to random users: all must arrive. Then a process is killed."""
    _measure(lambda progress: connections.run(connections.Options(**options), progress), as_json)


@cli.command("storm")
@click.option("--rounds", default=storm.Options().rounds, show_default=True, help="Storms, one after the other.")
@_json
@_contestants(storm.Options().contestants)
@click.option(
    "--count", "connections", default=storm.Options().connections, show_default=True,
    help="Clients that come at once.",
)  # fmt: skip
@click.option("--per-s", default=0.0, show_default=True, help="The rate at which they come; 0 = at once.")
def _storm(as_json: bool, **options: Any) -> None:
    """Reconnect storms on one core: how fast the admitted are in, when all are, and what neighbours see."""
    _measure(lambda progress: storm.run(storm.Options(**options), progress), as_json)


@cli.command("neighbours")
@_rounds
@_json
@click.option("--contestant", default="engine", show_default=True, help="The gateway's carrier: engine or picows.")
@click.option("--kinds", default=",".join(attacks.KINDS), show_default=True, callback=_names, help="Who attacks.")
@click.option("--seconds", default=4.0, show_default=True, help="For each kind and round.")
@click.option("--per-s", default=1_000.0, show_default=True, help="Notifications to 200 neighbours.")
@click.option("--visits-per-s", default=500.0, show_default=True, help="Of hostile clients, at most.")
def _neighbours(as_json: bool, **options: Any) -> None:
    """What calm clients notice of hostile ones: P99 of their latency."""
    _measure(lambda progress: neighbours.run(neighbours.Options(**options), progress), as_json)


if __name__ == "__main__":
    cli()
