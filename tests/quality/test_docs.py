"""docs/ is held to the code: tables equal, examples decode, links resolve, commands parse."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import msgspec
import pytest
from prometheus_client.metrics import MetricWrapperBase

from herald.cli import cli
from notification import codes, frames
from tests.quality import tables
from tests.quality.tree import ROOT, named

PAGES = sorted((ROOT / "docs").glob("*.md")) + sorted(ROOT.glob("*.md"))
EXAMPLE = re.compile(r"^```json ([\w-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\!)\[[^\]\n]+\]\(([^)\s]+)\)")


def examples(kind: str) -> list[str]:
    """The JSON texts of all blocks marked ```json KIND."""
    return [text for page in PAGES for found, text in EXAMPLE.findall(page.read_text("utf-8")) if found == kind]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tables_are_those_of_the_code(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text == tables.renewed(text), "run `python -m tests.quality.tables`"


@pytest.mark.parametrize("name", sorted(tables.TABLES))
def test_every_table_is_printed_once(name: str) -> None:
    marks = [page for page in PAGES for _ in re.findall(f"<!-- table: {name} -->", page.read_text("utf-8"))]
    assert len(marks) == 1


def test_dead_letter_reasons_are_those_of_the_worker() -> None:
    from worker.admission import Reason

    assert set(tables.DEAD_LETTERS) == set(Reason)


def test_status_table_has_every_code() -> None:
    printed = re.findall(r"^\| (\d+) \|", tables.status_codes(), re.MULTILINE)
    assert [int(code) for code in printed] == sorted(codes.StatusCode)


def test_a_code_that_nothing_writes_is_called_reserved() -> None:
    written = "".join(path.read_text("utf-8") for path in sorted((ROOT / "worker").rglob("*.py")))
    for code, meaning in codes.STATUS_TEXT.items():
        if meaning.startswith("reserved"):
            assert not re.search(rf"\b{code.name}\b|Status\.{code.name.split('_')[0]}\b", written), code


def test_every_metric_is_in_a_table() -> None:
    from notification import telemetry

    shown = tables.gateway_metrics() + tables.worker_metrics()
    declared = [name for name in vars(telemetry) if isinstance(getattr(telemetry, name), MetricWrapperBase)]
    assert declared
    for name in declared:
        (family,) = getattr(telemetry, name).describe()
        assert f"| `{family.name}" in shown, name


def test_events_pass_the_worker_and_its_schema() -> None:
    from worker import event

    schema = json.loads((ROOT / "worker" / "event.schema.json").read_text("utf-8"))
    shown = examples("event")
    assert shown
    for text in shown:
        event.check(event.decode(text.encode()))
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_state_changes_pass_their_schema() -> None:
    schema = json.loads((ROOT / "worker" / "status.schema.json").read_text("utf-8"))
    (shown,) = examples("status")
    change = json.loads(shown)
    jsonschema.Draft202012Validator(schema).validate(change)
    assert list(change) == schema["required"]
    assert codes.StatusCode(change["status_code"]).name.startswith(change["status"])


def test_the_confluent_example_makes_an_event() -> None:
    from worker import event

    text = (ROOT / "docs" / "events.md").read_text("utf-8")
    (producing, _consuming) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    made = re.sub(r"^producer.*$", "", producing, flags=re.MULTILINE)  # the event alone: nothing is connected
    names: dict[str, Any] = {}
    exec(made, names)
    event.check(event.decode(json.dumps(names["event"]).encode()))


def test_client_frames_decode_and_none_is_left_out() -> None:
    shown = {type(frames.decode_client(text.encode())) for text in examples("client-frame")}
    assert shown == set(frames.ClientFrame.__args__)


def test_server_frames_decode_with_no_field_too_many_and_none_is_left_out() -> None:
    shown = set()
    for text in examples("server-frame"):
        frame = frames.decode_server(text)
        shown.add(type(frame))
        known = {field.encode_name for field in msgspec.structs.fields(type(frame))} | {"t"}
        assert set(json.loads(text)) <= known, text
        if isinstance(frame, frames.Notification):
            msgspec.json.decode(frame.p, type=frames.Payload)
        if isinstance(frame, frames.PageFrame):
            assert [frames.decode_server(item.n) for item in frame.items]
    assert shown == set(frames.ServerFrame.__args__)


def test_error_frames_name_known_codes() -> None:
    for text in examples("server-frame"):
        frame = frames.decode_server(text)
        if isinstance(frame, frames.ErrorFrame):
            assert frame.code in codes.ERRORS


def test_the_cursor_example_is_that_cursor() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    (shown,) = re.findall(r"^    (eyJlc\w+)$", text, re.MULTILINE)
    (written,) = re.findall(r'`(\{"epoch".*?\}\})` is', text)
    assert frames.cursor_from_text(shown) == msgspec.json.decode(written, type=frames.Cursor)


def anchors(page: Path) -> set[str]:
    """The heading anchors of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for target in LINK.findall(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists() or (anchor and other.suffix == ".md" and anchor not in anchors(other)):
            broken.append(target)
    assert broken == []


def shown_commands() -> Iterator[tuple[str, str]]:
    """(page, command line) of every `herald ...` in shell blocks and help epilogs."""
    for page in PAGES:
        for block in SHELL.findall(page.read_text("utf-8")):
            yield from ((named(page), line) for line in lines_of(block))
    for name, command in commands(cli, "herald"):
        yield from ((name, line) for line in lines_of(command.epilog or ""))


def lines_of(block: str) -> list[str]:
    joined = block.replace("\\\n", " ").splitlines()
    lines = (re.sub(r"^(\w+=\S+ )*", "", line.strip().removeprefix("$ ")) for line in joined)
    return [line for line in lines if line.startswith("herald ") and not line.startswith("herald COMMAND")]


def commands(group: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, group
    if isinstance(group, click.Group):
        for child, command in group.commands.items():
            yield from commands(command, f"{name} {child}")


def test_every_command_has_help_and_examples() -> None:
    for name, command in commands(cli, "herald"):
        assert command.help, name
        if not isinstance(command, click.Group):
            assert "Examples:" in (command.epilog or ""), name
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{name} {option.opts}"


@pytest.mark.parametrize(("page", "line"), sorted(set(shown_commands())))
def test_shown_commands_parse(page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shown command line is taken by the real parser (files it names exist)."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.split(" | ")[0].split("#")[0])[1:]
    for word in words:
        if re.fullmatch(r"[\w-]+\.(pem|jsonl|jwt|txt|toml)", word):
            (tmp_path / word).write_text("")
    if "/etc/herald.toml" in words:
        (tmp_path / "herald.toml").write_text("")
        words[words.index("/etc/herald.toml")] = "herald.toml"
    command: click.Command = cli
    context = command.make_context("herald", list(words), resilient_parsing=False)
    while isinstance(command, click.Group):
        name, child, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert child is not None, page
        command = child
        context = command.make_context(name, rest, parent=context)
