"""`herald send`: notifications into Kafka, from options or from a file of JSON lines."""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from herald.commands.common import json_option, run_async, settings_of
from herald.console import complain, print_json, progress
from herald.errors import FAILED, OK
from herald.events import Event
from notification.errors import Conflict, InvalidInput
from notification.ids import TENANT, check_token, new_uuid7
from notification.names import PRIORITIES
from notification.settings import Settings

IN_FLIGHT_MAX: Final = 500  # events awaiting Kafka's acknowledgement; bounds memory, and what Ctrl-C leaves open
TYPES: Final = ("system_alert", "service", "promotional")


class Outcome:
    """Counts and prints what became of each event. `quiet`: ids are not printed (files and segments, without
    --json)."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.started = 0
        self.sent = 0
        self.rejected = 0
        self.broken = False  # Kafka stopped acknowledging: no further line is tried
        self._as_json = as_json
        self._quiet = quiet

    def accepted(self, event: Event) -> None:
        self.sent += 1
        if self._as_json:
            to = {"user_id": event.user} if event.audience is None else {"audience": event.audience}
            print_json(
                {"status": "sent", "id": event.id, "tenant_id": event.tenant, **to, "priority": event.priority}
            )
        elif not self._quiet:
            click.echo(event.id)

    def refused(self, line: int | None, field: str, reason: str) -> None:
        self.rejected += 1
        if self._as_json:
            print_json({"status": "rejected", "line": line, "field": field, "error": reason})
        complain(f"{f'line {line}: ' if line is not None else ''}{field}: {reason}")

    def summary(self) -> str:
        text = f"sent {self.sent}, rejected {self.rejected}"
        if self.sent + self.rejected < self.started:
            text += f", unconfirmed {self.started - self.sent - self.rejected}"
        return text


@click.command(
    epilog="""\b
Examples:
  herald send --tenant demo --user ann --title "Order 7 shipped" --body "Arrives on Friday"
  herald send --tenant demo --user ann --user bob --priority high --type system_alert \\
      --title "Sign-in from Oslo" --body "Was it you?" --action "It was me=https://example.com/ok" --ttl 600
  herald send --tenant demo --user @users.txt --title Hi --body There --json
  herald send --tenant demo --segment vip --title "The doors are open" --body "Until midnight"
  herald send --tenant demo --tenant-wide --type system_alert --title "Back soon" --body "We close at ten"
  herald send --file events.jsonl
"""
)
@click.option("--tenant", metavar="ID", help="Tenant id.")
@click.option("--user", "user_values", multiple=True, metavar="ID|@FILE", help="User id (repeat it), or a file.")
@click.option("--segment", metavar="ID", help="Everybody in this segment, by one id (`herald segment`).")
@click.option("--tenant-wide", is_flag=True, help="Everybody of the tenant, those who first come later included.")
@click.option("--priority", type=click.Choice(PRIORITIES), default="medium", show_default=True, help="Kafka topic.")
@click.option("--type", "kind", type=click.Choice(TYPES), default="service", show_default=True, help="Kind.")
@click.option("--title", help="Headline.")
@click.option("--body", help="Text.")
@click.option("--image", metavar="URL", help="Picture, https.")
@click.option("--action", "actions", multiple=True, metavar="LABEL=URL", help="A button (repeat it).")
@click.option("--data", metavar="JSON", help="The app's own object.")
@click.option("--ttl", type=int, metavar="SECONDS", help="Time to live.  [default: a week]")
@click.option("--collapse-key", metavar="KEY", help="Of one key only the newest waits for a device.")
@click.option("--topic", metavar="TOPIC", help="What it is about: users may turn a topic off.")
@click.option("--id", "ident", metavar="UUID", help="UUIDv7 to send under; a repeat of the same event is harmless.")
@click.option(
    "--file", "file", type=click.File("rb"), metavar="events.jsonl",
    help="One event per line (docs/events.md), `-` = stdin; other options fill what a line leaves out.",
)  # fmt: skip
@json_option
@click.pass_context
def send(context: click.Context, /, file: BinaryIO | None, as_json: bool, **options: Any) -> int:
    """Send notifications through Kafka (acks=all).

    Prints the id of each; with --json a line per event. Every event is checked first with the worker's rules;
    what breaks one is rejected by field (and line), the rest is sent, and the exit code is then 1.
    """
    settings = settings_of(context)
    counted = file is not None or options["segment"] is not None
    outcome = Outcome(as_json, quiet=counted)
    if file is None:
        events = list(_from_options(options, settings))
        if counted and not as_json:
            click.echo(events[0].id)
        numbered: Iterator[tuple[int | None, Event]] = _until_broken(events, outcome)
    else:
        taken = ("title", "body", "image", "actions", "data", "ident", "segment", "tenant_wide")
        if any(options[name] for name in taken):
            raise click.UsageError(
                "--file takes the payload, the id and the users from the lines, not from options"
            )
        numbered = _from_file(file, options, outcome)
    try:
        run_async(_send(settings, numbered, outcome))
    finally:
        if counted:
            click.echo(outcome.summary(), err=True)
    return FAILED if outcome.rejected else OK


def _until_broken(events: list[Event], outcome: Outcome) -> Iterator[tuple[int | None, Event]]:
    """The events of a command line, as long as Kafka acknowledges."""
    for number, event in enumerate(events):
        if outcome.broken:
            complain(f"stopped after {number} of {len(events)}: Kafka does not acknowledge")
            return
        outcome.started += 1
        yield None, event


def _from_options(options: dict[str, Any], settings: Settings) -> Iterator[Event]:
    """All events of a command line, or InvalidInput: nothing is sent before all are right."""
    from herald import events

    for name, given in (
        ("--tenant", options["tenant"]),
        ("--user", options["segment"] or options["tenant_wide"] or options["user_values"]),
        ("--title", options["title"]), ("--body", options["body"]),
    ):  # fmt: skip
        if given is None or given == ():
            raise click.UsageError(f"Missing option '{name}' (or --file).")
    if not options["title"].strip():
        raise InvalidInput("--title", "must not be empty")
    payload = events.payload(
        options["title"], options["body"], options["image"], options["actions"], options["data"]
    )
    ident = options["ident"]
    if options["segment"] is not None or options["tenant_wide"]:
        everyone = _audience(options, settings)
        ident = ident or str(new_uuid7())
    else:
        everyone = [{"user_id": user} for user in dict.fromkeys(events.users(options["user_values"], "--user"))]
        if ident is not None and len(everyone) > 1:
            raise click.UsageError("--id names one notification: give one --user")
    for to in everyone:
        fields = {"tenant_id": options["tenant"], **to, **_envelope(options), "payload": payload}
        if ident is not None:
            fields["id"] = ident
        yield events.build(fields, options["priority"])


def _audience(options: dict[str, Any], settings: Settings) -> list[dict[str, str]]:
    """Whom the events go to: the members of a small segment each, a larger one or the tenant as one.

    Raises InvalidInput: a segment that has nobody or that does not exist.
    """
    from herald import operations

    if bool(options["user_values"]) + (options["segment"] is not None) + options["tenant_wide"] > 1:
        raise click.UsageError("give one of --user, --segment and --tenant-wide")
    if options["tenant_wide"]:
        return [{"audience": TENANT}]
    segment = check_token(options["segment"], "--segment")
    tenant = check_token(options["tenant"], "--tenant")
    members = run_async(operations.expand_segment(settings, tenant, segment))
    if members is None:
        return [{"segment_id": segment}]
    if not members:
        raise Conflict("segment", f"{segment} has no members")
    return [{"user_id": user} for user in members]


def _envelope(options: dict[str, Any]) -> dict[str, Any]:
    named = {
        "type": options["kind"], "ttl": options["ttl"], "collapse_key": options["collapse_key"],
        "topic": options["topic"],
    }  # fmt: skip
    return {name: value for name, value in named.items() if value is not None}


def _from_file(file: BinaryIO, options: dict[str, Any], outcome: Outcome) -> Iterator[tuple[int, Event]]:
    """The good lines of a file with their numbers; bad ones go to `outcome`. Shows progress on a terminal."""
    from herald import events

    defaults = _envelope(options)
    if options["tenant"]:
        defaults["tenant_id"] = options["tenant"]
    if options["user_values"]:
        everyone = list(events.users(options["user_values"], "--user"))
        if len(everyone) != 1:
            raise click.UsageError("with --file, --user is the default of lines without user_id: give one")
        defaults["user_id"] = everyone[0]
    for number, line in enumerate(_with_progress(file), 1):
        if outcome.broken:
            complain(f"stopped before line {number}: Kafka does not acknowledge")
            return
        if not line.strip():
            continue
        outcome.started += 1
        try:
            yield number, events.from_line(line, defaults, options["priority"])
        except InvalidInput as error:
            outcome.refused(number, error.field, error.rule)


def _with_progress(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; a bar on stderr when that is a terminal."""
    name = getattr(file, "name", "-")
    total = Path(name).stat().st_size if isinstance(name, str) and Path(name).is_file() else None
    done = 0
    with progress("sending", total) as told:
        for line in file:
            yield line
            done += len(line)
            told(done)


async def _send(settings: Settings, events: Iterable[tuple[int | None, Event]], outcome: Outcome) -> None:
    """Produce with at most IN_FLIGHT_MAX unacknowledged; each event's fate is printed."""
    from herald.producer import EventProducer, NotAccepted

    async def one(producer: EventProducer, line: int | None, event: Event) -> None:
        try:
            await producer.publish(event.priority, event.key, event.record)
        except NotAccepted as error:
            outcome.broken = True
            outcome.refused(line, event.id, str(error))
        else:
            outcome.accepted(event)

    async with EventProducer(settings) as producer:
        waiting: set[asyncio.Task[None]] = set()
        try:
            for line, event in events:
                waiting.add(asyncio.create_task(one(producer, line, event)))
                if len(waiting) >= IN_FLIGHT_MAX:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.gather(*done)
            await asyncio.gather(*waiting)
        except OSError:  # stdout takes no more: what is under way is awaited, and told no further
            await asyncio.gather(*waiting, return_exceptions=True)
            raise
