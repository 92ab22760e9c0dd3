"""The `herald` command as a user runs it, against the whole running system."""

import asyncio
import base64
import json
import os
import pty
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer

from herald.client import HeraldClient
from herald.producer import EventProducer
from notification.frames import StateFrame
from notification.names import TOPICS
from notification.settings import FIELDS, Settings
from tests.conftest import Mint
from tests.unit.herald.documented import documented, same_shape

pytestmark = pytest.mark.stack

WAIT_S = 30.0


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Herald = Callable[..., Result]


@pytest.fixture
def folder(system: Settings, tmp_path: Path) -> Path:
    """A folder with the herald.toml of the running system."""
    values = {name: getattr(system, name) for name in FIELDS}
    values["data_dir"] = str(Path(system.data_dir).resolve())
    (tmp_path / "herald.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    )
    assert tomllib.loads((tmp_path / "herald.toml").read_text()) == values
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "herald", *arguments]


def environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HERALD_")}
    return inherited | {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def herald(folder: Path) -> Herald:
    def run(*arguments: str, stdin: str = "") -> Result:
        done = subprocess.run(
            command(*arguments), cwd=folder, env=environment(), input=stdin, capture_output=True, text=True,
            timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def listening(folder: Path, tenant: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `herald listen --json` processes and ends them."""
    started: list[subprocess.Popen[str]] = []

    def start(user: str, *more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command("listen", "--tenant", tenant, "--user", user, "--json", *more), cwd=folder, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # A background job of a shell ignores SIGINT and hands that down; a terminal's does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def becomes(herald: Herald, tenant: str, ident: str, status: str) -> dict[str, Any]:
    """Ask `herald status` until it says so."""
    deadline = time.monotonic() + WAIT_S
    row: dict[str, Any] = {}
    while time.monotonic() < deadline:
        result = herald("status", "--tenant", tenant, "--id", ident, "--json")
        if result.code == 0:
            (row,) = result.rows
            if row["status"] == status:
                return row
        time.sleep(0.2)
    raise AssertionError(f"{ident} is {row or result.err}, not {status}")


def test_send_listen_status(herald: Herald, tenant: str, listening: Callable[..., subprocess.Popen[str]]) -> None:
    listener = listening("ann", "--device", "phone", "--count", "1", "--timeout", "25")
    sent = herald(
        "send", "--tenant", tenant, "--user", "ann", "--priority", "high", "--title", "Hällo", "--body", "World",
        "--json",
    )  # fmt: skip
    assert (sent.code, sent.err) == (0, "")
    out, err = listener.communicate(timeout=WAIT_S)
    assert listener.returncode == 0, err
    (heard,) = [json.loads(line) for line in out.splitlines()]
    assert same_shape(heard, documented("cli-listen"))
    assert heard["id"] == sent.rows[0]["id"]
    assert heard["payload"] == {"title": "Hällo", "body": "World"}
    assert (heard["priority"], heard["lane"], heard["user_id"]) == ("high", "direct.high", "ann")
    row = becomes(herald, tenant, heard["id"], "DELIVERED")
    assert same_shape(row, documented("cli-status"))
    times = [entry["at"] for entry in row["history"]]
    assert times == sorted(times)
    assert row["history"][0]["status"] == "ACCEPTED"
    plain = herald("status", "--tenant", tenant, "--id", heard["id"])
    assert "DELIVERED" in plain.out
    assert "a device of the user acknowledged it" in plain.out


def test_who_was_away_gets_it_later_and_once(herald: Herald, tenant: str) -> None:
    sent = herald("send", "--tenant", tenant, "--user", "bob", "--title", "T", "--body", "B").out.strip()
    becomes(herald, tenant, sent, "PARKED")
    listen = ("listen", "--tenant", tenant, "--user", "bob", "--device", "d", "--json")
    first = herald(*listen, "--count", "1", "--timeout", "20")
    assert [row["id"] for row in first.rows] == [sent]
    becomes(herald, tenant, sent, "DELIVERED")


def test_too_few_in_time_is_a_failure(herald: Herald, tenant: str) -> None:
    result = herald("listen", "--tenant", tenant, "--user", "nobody", "--count", "2", "--timeout", "1", "--json")
    assert (result.code, result.out) == (1, "")
    assert result.err == "error: 0 of 2 notifications came within 1 s\n"
    assert herald("listen", "--tenant", tenant, "--user", "nobody", "--timeout", "5").code == 0


def test_a_file_with_bad_lines_sends_the_good_ones(herald: Herald, folder: Path, tenant: str) -> None:
    good = [{"user_id": "eve", "payload": {"title": f"T{number}", "body": "B"}} for number in range(5)]
    lines = [json.dumps(event) for event in good]
    lines.insert(2, '{"user_id": "eve", "payload": {"title": "T"}}')
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    sent = herald("send", "--file", "events.jsonl", "--tenant", tenant, "--json")
    assert sent.code == 1
    assert sent.err.splitlines()[-1] == "sent 5, rejected 1"
    rejected = [row for row in sent.rows if row["status"] == "rejected"]
    assert [(row["line"], row["field"]) for row in rejected] == [(3, "payload.body")]
    ids = {row["id"] for row in sent.rows if row["status"] == "sent"}
    heard = herald("listen", "--tenant", tenant, "--user", "eve", "--count", "5", "--timeout", "20", "--json")
    assert {row["id"] for row in heard.rows} == ids


def test_stdin_is_a_file_too(herald: Herald, tenant: str) -> None:
    event = json.dumps({"user_id": "kim", "payload": {"title": "T", "body": "B"}})
    sent = herald("send", "--file", "-", "--tenant", tenant, "--json", stdin=event)
    assert (sent.code, len(sent.rows)) == (0, 1)


def test_a_tenant_made_here_can_connect_and_is_listed(herald: Herald, tenant: str) -> None:
    name = f"{tenant}_new"
    made = herald("tenant", "create", name, "--title", "The Shop", "--origin", "https://shop.example.com", "--json")
    assert made.code == 0, made.err
    assert same_shape(made.rows[0], documented("cli-tenant-create"))
    listed = {row["tenant_id"]: row for row in herald("tenant", "list", "--json").rows}
    assert same_shape(listed[name], documented("cli-tenant-list"))
    assert (listed[name]["title"], listed[name]["origins"]) == ("The Shop", ["https://shop.example.com"])
    assert name in herald("tenant", "list").out
    again = herald("tenant", "create", name)
    assert again.code == 1
    assert "exists already" in again.err
    sent = herald("send", "--tenant", name, "--user", "ann", "--title", "T", "--body", "B").out.strip()
    deadline = time.monotonic() + WAIT_S  # gateways learn of a tenant within seconds
    while (
        heard := herald("listen", "--tenant", name, "--user", "ann", "--count", "1", "--timeout", "10", "--json")
    ).code:
        assert time.monotonic() < deadline, heard.err
    assert heard.rows[0]["id"] == sent


def test_a_segment_is_filled_from_a_file_and_sent_to(herald: Herald, folder: Path, tenant: str) -> None:
    at = ("--tenant", tenant)
    made = herald("segment", "create", "vip", *at, "--json")
    assert same_shape(made.rows[0], documented("cli-segment")), made.err
    (folder / "users.txt").write_text("ann\nbob\n")
    added = herald("segment", "add", "vip", *at, "@users.txt", "eve", "ann", "--json")
    assert same_shape(added.rows[0], documented("cli-segment-change")), added.err
    assert (added.rows[0]["changed"], added.rows[0]["members"]) == (3, 3)
    removed = herald("segment", "remove", "vip", *at, "bob")
    assert removed.out == "1 of 1 users removed from segment vip; 2 are in it now\n"
    shown = herald("segment", "show", "vip", *at, "--json").rows
    assert all(same_shape(row, documented("cli-segment-show")) for row in shown)
    assert [row["user_id"] for row in shown] == ["ann", "eve"]
    sent = herald("send", *at, "--segment", "vip", "--title", "T", "--body", "B")
    assert (sent.code, sent.err) == (0, "sent 2, rejected 0\n")
    heard = herald("listen", *at, "--user", "eve", "--count", "1", "--timeout", "20", "--json")
    assert [row["id"] for row in heard.rows] == [sent.out.strip()]
    gone = herald("send", *at, "--segment", "vips", "--title", "T", "--body", "B")
    assert (gone.code, gone.err) == (1, "error: segment: vips does not exist\n")


def test_a_token_of_another_key_is_refused_in_one_line(herald: Herald, folder: Path, tenant: str) -> None:
    (folder / "bad.jwt").write_text("eyJhbGciOiJIUzI1NiJ9.e30.AAAA")
    result = herald("listen", "--tenant", tenant, "--user", "ann", "--token-file", "bad.jwt", "--timeout", "5")
    assert result.code == 1
    assert result.err == "error: the gateway refused the connection: HTTP 401 (token)\n"


def test_a_printed_token_connects(herald: Herald, folder: Path, tenant: str) -> None:
    token = herald("token", "--tenant", tenant, "--user", "ann", "--device", "pad").out
    (folder / "ann.jwt").write_text(token)
    result = herald("listen", "--tenant", tenant, "--user", "ann", "--token-file", "ann.jwt", "--timeout", "1")
    assert (result.code, result.err) == (0, "")


def test_an_unknown_notification_is_a_failure(herald: Herald, tenant: str) -> None:
    ident = "01936b5e-4c00-7000-8000-000000000001"
    result = herald("status", "--tenant", tenant, "--id", ident)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"error: tenant '{tenant}' has no notification {ident}\n"


def test_an_id_after_the_year_9999_is_refused_in_one_line(herald: Herald, tenant: str) -> None:
    result = herald("status", "--tenant", tenant, "--id", "ffffffff-ffff-7fff-bfff-ffffffffffff")
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: --id: must be a UUID of version 7 whose time is not after the year 9999\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_one_line(folder: Path, tenant: str, unbuffered: str) -> None:
    users = [option for user in ("ann", "bob", "eve") for option in ("--user", user)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("send", "--tenant", tenant, *users, "--title", "T", "--body", "B", "--json"), cwd=folder,
            env=environment() | {"PYTHONUNBUFFERED": unbuffered}, stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=WAIT_S, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: reading or writing failed: No space left on device\n")


def test_ctrl_c_ends_listening_quietly(
    listening: Callable[..., subprocess.Popen[str]], herald: Herald, tenant: str
) -> None:
    process = listening("zoe")
    herald("send", "--tenant", tenant, "--user", "zoe", "--title", "T", "--body", "B")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["user_id"] == "zoe"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err.strip()) == (130, "")


def letters_of(herald: Herald, tenant: str, count: int) -> list[dict[str, Any]]:
    """Ask `herald dlq list` until the tenant has so many."""
    deadline = time.monotonic() + WAIT_S
    while len(rows := herald("dlq", "list", "--tenant", tenant, "--json").rows) < count:
        assert time.monotonic() < deadline, rows
    return rows


def test_a_dead_letter_is_listed_shown_and_replayed_once_its_cause_is_gone(
    herald: Herald, folder: Path, system: Settings, tenant: str
) -> None:
    name = f"{tenant}_late"
    sent = herald("send", "--tenant", name, "--user", "ann", "--title", "Late", "--body", "B").out.strip()
    (row,) = letters_of(herald, name, 1)
    assert same_shape(row, documented("cli-dlq-list"))
    assert (row["reason"], row["tenant_id"], row["topic"]) == ("unknown_tenant", name, TOPICS[1])
    letter = herald("dlq", "show", row["letter"], "--json").rows[0]
    assert same_shape(letter, documented("cli-dlq-show"))
    assert {field: letter[field] for field in row} == row
    assert (letter["key"], letter["obstacle"]) == (f"{name}:ann", None)
    assert json.loads(letter["value"])["id"] == sent
    assert base64.b64decode(letter["value_base64"]).decode() == letter["value"]
    assert "Late" in herald("dlq", "show", row["letter"]).out

    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    asked = subprocess.run(
        command("dlq", "replay", row["letter"]), cwd=folder, env=environment(), stdin=theirs, capture_output=True,
        text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "1 to send again (1 unknown_tenant). Go on?" in asked.stderr
    assert asked.stderr.endswith("nothing was sent\n")

    assert herald("tenant", "create", name).code == 0
    asyncio.run(produce(system, TOPICS[0], f"{name}:ann", b"\xffnot JSON"))
    letters_of(herald, name, 2)
    replayed = herald("dlq", "replay", "--tenant", name, "--yes", "--json")
    assert replayed.code == 1
    assert replayed.err.splitlines()[-1] == "replayed 1, kept 1"
    done, kept = sorted(replayed.rows, key=lambda row: row["status"], reverse=True)
    assert same_shape(done, documented("cli-dlq-replayed"))
    assert same_shape(kept, documented("cli-dlq-kept"))
    assert (done["letter"], done["id"], done["topic"]) == (row["letter"], sent, TOPICS[1])
    assert kept["error"].startswith("would be rejected again: not_json")
    becomes(herald, name, sent, "PARKED")


async def produce(settings: Settings, topic: str, key: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_servers, acks="all") as producer:
        await producer.send_and_wait(topic, value, key.encode())


def test_a_letter_that_is_not_there_is_a_failure(herald: Herald) -> None:
    for arguments in (("show", "0-999999"), ("replay", "0-999999", "--yes")):
        result = herald("dlq", *arguments)
        assert (result.code, result.out) == (1, "")
        assert result.err == "error: LETTER: 0-999999 is not (or no longer) in notifications.dlq\n"


async def test_the_client_resumes_pages_and_marks_read(
    system: Settings, tenant: str, mint: Mint, herald: Herald
) -> None:
    url = f"ws://127.0.0.1:{system.gateway_port}/ws/connect"

    async def token() -> str:
        return mint(tenant, "ann")

    async def send(title: str) -> str:
        result = await asyncio.to_thread(
            herald, "send", "--tenant", tenant, "--user", "ann", "--title", title, "--body", "B"
        )
        return result.out.strip()

    async with asyncio.timeout(60):
        async with HeraldClient(url, token, device="tab") as client:
            one = await send("one")
            first = await anext(aiter(client))
            assert first.id == one
            await client.ack(first)
            await asyncio.wait_for(client.wait_resumed(), 10)
            cursor = client.cursor
        two = await send("two")
        states = []
        async with HeraldClient(url, token, device="tab", cursor=cursor, on_state=states.append) as client:
            second = await anext(aiter(client))
            assert second.id == two  # and not the first again
            await client.ack(second)
            page = await client.page(limit=10)
            assert [json.loads(bytes(item.n))["id"] for item in page.items] == [two, one]
            await client.set_state([one], "read")
            while not states:  # noqa: ASYNC110 - a callback's list has no event
                await asyncio.sleep(0.05)
            assert (states[0].ids, states[0].to) == ([one], "read")
            assert client.counters is not None
            assert client.counters.unread == 1


async def test_a_recalled_one_goes_from_the_device_that_has_it(
    system: Settings, tenant: str, mint: Mint, herald: Herald
) -> None:
    async def token() -> str:
        return mint(tenant, "rae")

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(herald, arguments[0], "--tenant", tenant, *arguments[1:])

    url = f"ws://127.0.0.1:{system.gateway_port}/ws/connect"
    told: asyncio.Queue[StateFrame] = asyncio.Queue()
    async with asyncio.timeout(90), HeraldClient(url, token, device="tab", on_state=told.put_nowait) as client:
        sent = (await run("send", "--user", "rae", "--title", "Oops", "--body", "B")).out.strip()
        assert (await anext(aiter(client))).id == sent
        recalled = await run("recall", sent, "--user", "rae", "--json")
        assert same_shape(recalled.rows[0], documented("cli-recall") | {"user_id": "rae"})
        assert (recalled.code, recalled.rows[0]["recalled"]) == (0, 1)
        state = await told.get()
        assert (state.ids, state.to, state.unread) == ([sent], "recalled", 0)
        assert (await client.page()).items == []
    [row] = (await run("status", "--id", sent, "--json")).rows
    assert row["recalled_at"] is not None
    assert {"status": "CANCELLED", "status_code": 410} in [
        {"status": entry["status"], "status_code": entry["status_code"]} for entry in row["history"]
    ]
    assert (await run("recall", sent)).out == f"{sent} recalled before\n"
    unknown = await run("recall", "01936b5e-4c00-7000-8000-000000000001")
    assert (unknown.code, unknown.err) == (
        1, f"error: tenant '{tenant}' has no notification 01936b5e-4c00-7000-8000-000000000001\n"
    )  # fmt: skip


def test_what_a_user_turned_off_is_cancelled(herald: Herald, tenant: str) -> None:
    user = ("--tenant", tenant, "--user", "pat")
    assert herald("preferences", "show", *user).out == "user pat has set nothing and gets everything\n"
    assert herald("preferences", "set", *user, "--type", "promotional", "off").out.split() == [
        "type", "promotional", "off"
    ]  # fmt: skip
    shown = herald("preferences", "set", *user, "--topic", "order-news", "on", "--json").rows
    assert shown == [documented("cli-preferences") | {"tenant_id": tenant, "user_id": "pat"}]
    assert herald("preferences", "show", *user, "--json").rows == shown
    offer = ("send", *user, "--type", "promotional", "--title", "T", "--body", "B")
    row = becomes(herald, tenant, herald(*offer).out.strip(), "CANCELLED")
    assert [entry["status_code"] for entry in row["history"]] == [411]
    becomes(herald, tenant, herald(*offer, "--topic", "order-news").out.strip(), "PARKED")
    refused = herald("preferences", "set", *user, "--type", "system_alert", "off")
    assert (refused.code, "system_alert always comes" in refused.err) == (2, True)


async def test_the_producer_is_idempotent_where_the_broker_can(system: Settings) -> None:
    async with EventProducer(system) as producer:
        assert producer.idempotent == (os.environ.get("KAFKA") == "apache")
