"""herald.cli: exit codes, one-line errors, help."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from notification.settings import FIELDS
from tests.unit.herald.conftest import Herald
from tests.unit.herald.documented import documented, same_shape


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--help"], ["send", "--help"], ["listen", "-h"], ["token", "--help"], ["status", "--help"],
        ["tenant", "--help"], ["tenant", "create", "--help"], ["tenant", "list", "--help"], ["config", "--help"],
        ["config", "check", "--help"], ["recall", "--help"], ["preferences", "show", "--help"],
        ["preferences", "set", "--help"], ["revoke", "--help"], ["dlq", "--help"], ["dlq", "list", "--help"],
        ["dlq", "show", "--help"], ["dlq", "replay", "--help"], ["segment", "--help"],
        ["segment", "create", "--help"], ["segment", "delete", "--help"], ["segment", "list", "--help"],
        ["segment", "show", "--help"], ["segment", "add", "--help"], ["segment", "remove", "--help"], ["--version"],
    ],
)  # fmt: skip
def test_help_is_there(herald: Herald, arguments: list[str]) -> None:
    result = herald(*arguments)
    text = result.out + result.err
    assert result.code == (0 if arguments else 2)
    assert "herald" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sned"], "No such command 'sned'"),
        (["send"], "Missing option '--tenant'"),
        (["send", "--tenant", "demo", "--user", "ann", "--title", "T"], "Missing option '--body'"),
        (["listen", "--tenant", "demo"], "Missing option '--user'"),
        (["listen", "--tenant", "demo", "--user", "ann", "--count", "0"], "--count"),
        (["token", "--tenant", "a.b", "--user", "ann"], "--tenant: must be 1 to 64 characters of A-Z a-z 0-9 _ -"),
        (["token", "--tenant", "demo", "--user", "a b"], "--user: must be 1 to 128 printable ASCII characters"),
        (["status", "--tenant", "demo", "--id", "7"], "--id: must be a UUID of version 7"),
        (
            ["status", "--tenant", "demo", "--id", "ffffffff-ffff-7fff-bfff-ffffffffffff"],
            "--id: must be a UUID of version 7 whose time is not after the year 9999",
        ),
        (["send", "--tenant", "demo", "--user", "ann", "--title", "", "--body", "B"], "--title: must not be empty"),
        (
            ["send", "--tenant", "demo", "--user", "ann", "--title", " ", "--body", "B"],
            "--title: must not be empty",
        ),
        (["send", "--file", "none.jsonl"], "'none.jsonl': No such file or directory"),
        (
            ["send", "--tenant", "demo", "--user", "@none", "--title", "T", "--body", "B"],
            "--user: none: No such file or directory",
        ),
        (
            ["send", "--tenant", "demo", "--user", "@.", "--title", "T", "--body", "B"],
            "--user: .: Is a directory",
        ),
        (
            ["status", "--tenant", "a b", "--id", "01936b5e-4c00-7000-8000-000000000001"],
            "--tenant: must be 1 to 64",
        ),
        (["tenant", "create", "a b"], "NAME: must be 1 to 64"),
        (["tenant", "create", "shop", "--algorithm", "RS256"], "--public-key and --algorithm go together"),
        (["tenant", "create", "shop", "--issuer", "x"], "belong to a --public-key"),
        (["tenant", "create", "shop", "--jwks-url", "https://id.example.com/"], "--jwks-url needs --issuer"),
        (
            ["tenant", "create", "shop", "--issuer", "i", "--jwks-url", "http://id.example.com/"],
            "--jwks-url: must be https://host",
        ),
        (["tenant", "create", "shop", "--origin", "shop.example.com"], "--origin: must be an origin such as"),
        (["revoke", "--tenant", "shop"], "give one of --jti, --user and --all"),
        (["revoke", "--tenant", "shop", "--user", "ann", "--all"], "give one of --jti, --user and --all"),
        (["revoke", "--tenant", "shop", "--user", "a b"], "--user: must be 1 to 128 printable ASCII characters"),
        (["recall", "--tenant", "shop"], "Missing argument 'ID'"),
        (["recall", "--tenant", "shop", "7"], "ID: must be a UUID of version 7"),
        (["preferences", "set", "--tenant", "t", "--user", "u", "on"], "give one of --type and --topic"),
        (
            ["preferences", "set", "--tenant", "t", "--user", "u", "--topic", "a b", "on"],
            "--topic: must be 1 to 64",
        ),
        (["preferences", "set", "--tenant", "t", "--user", "u", "--topic", "a", "no"], "'no' is not one of"),
        (["preferences", "show", "--tenant", "t", "--user", "a b"], "--user: must be 1 to 128 printable"),
        (["revoke", "--tenant", "a b", "--all"], "--tenant: must be 1 to 64"),
        (["revoke", "--tenant", "shop", "--all", "--expires-in", "0"], "--expires-in"),
        (["dlq", "list", "--reason", "bad"], "--reason: must be one of not_json, schema"),
        (["dlq", "list", "--tenant", "a b"], "--tenant: must be 1 to 64"),
        (["dlq", "list", "--limit", "0"], "--limit"),
        (["dlq", "show", "17"], "LETTER: must be PARTITION-OFFSET, such as 0-17"),
        (["dlq", "replay", "--yes"], "give letters, or --tenant and --reason, or --all"),
        (["dlq", "replay", "0-1", "--all", "--yes"], "give letters, or --tenant and --reason, or --all"),
        (["dlq", "replay", "--all"], "there is no terminal to ask: give --yes"),
        (["segment", "create", "a b", "--tenant", "shop"], "ID: must be 1 to 64"),
        (["segment", "list", "--tenant", "a b"], "--tenant: must be 1 to 64"),
        (["segment", "add", "vip", "--tenant", "shop"], "Missing argument 'USER|@FILE...'"),
        (["segment", "add", "vip", "--tenant", "shop", "a b"], "USER: must be 1 to 128 printable ASCII characters"),
        (["segment", "remove", "vip", "--tenant", "shop", "@none"], "USER: none: No such file or directory"),
        (["token", "--tenant", "demo", "--user", "tenant"], "`tenant` and `segment:...` are reserved"),
        (
            ["send", "--tenant", "demo", "--segment", "a b", "--title", "T", "--body", "B"],
            "--segment: must be 1 to 64",
        ),
        (
            ["send", "--tenant", "demo", "--segment", "vip", "--user", "ann", "--title", "T", "--body", "B"],
            "give one of --user, --segment and --tenant-wide",
        ),
        (["--config", "none.toml", "config", "check"], "none.toml"),
    ],
)
def test_usage_errors_exit_2_and_name_the_fix(herald: Herald, arguments: list[str], says: str) -> None:
    result = herald(*arguments)
    assert result.code == 2
    assert says in result.err
    assert len(result.err.splitlines()) == 1
    assert "Traceback" not in result.err
    assert "Errno" not in result.err


def test_a_wrong_setting_is_one_line(herald: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERALD_GATEWAY_PROT", "1")
    result = herald("config", "check")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [
        "error: HERALD_GATEWAY_PROT: unknown setting 'gateway_prot'; did you mean 'gateway_port'? "
        "(`herald config check` lists all)"
    ]


def test_config_check_shows_values_and_sources_and_no_login(
    herald: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("herald.toml").write_text('gateway_port = 9000\nnats = "nats://a:se%2Ccr@et@h1:4222,nats://t0ken@h2"\n')
    monkeypatch.setenv("HERALD_POSTGRES", "postgresql://owner:hunter2@db/herald?password=hunter3&sslmode=require")
    monkeypatch.setenv("HERALD_REDIS", "sentinel+tls://h/name?sentinel_user=herald&sentinel_password=hunter4")
    monkeypatch.setenv("HERALD_LOG_JSON", "false")
    rows = {row["key"]: row for row in herald("config", "check", "--json").rows}
    assert list(rows) == list(FIELDS)
    example = documented("cli-config")
    assert all(list(row) == list(example) for row in rows.values())
    assert (rows["gateway_port"]["value"], rows["gateway_port"]["source"]) == (9000, "herald.toml")
    assert (rows["log_json"]["value"], rows["log_json"]["source"]) == (False, "HERALD_LOG_JSON")
    table = herald("config", "check").out
    for secret in ("hunter", "se%2Ccr", "et@", "t0ken"):
        assert secret not in table
        assert secret not in str([row["value"] for row in rows.values()])
    assert rows["postgres"]["value"] == "postgresql://***@db/herald?password=***&sslmode=require"
    assert rows["redis"]["value"] == "sentinel+tls://h/name?sentinel_user=herald&sentinel_password=***"
    assert "postgresql://[user:password@]host" not in table  # docs are printed as they are, not as markup
    assert "redis://[user:password@]host:port/db" in table


def test_token_json_has_the_documented_shape(herald: Herald) -> None:
    Path(".herald/secrets").mkdir(parents=True)
    Path(".herald/secrets/issuer_demo.key").write_text("k" * 43)
    result = herald("token", "--tenant", "demo", "--user", "ann", "--json")
    assert result.code == 0
    assert same_shape(result.rows[0], documented("cli-token"))


def test_a_missing_secret_is_named_with_the_way_out(herald: Herald) -> None:
    for command in (["token"], ["listen"]):
        result = herald(*command, "--tenant", "demo", "--user", "ann")
        assert result.code == 2
        assert ".herald/secrets/issuer_demo.key cannot be read" in result.err
        assert "`herald listen --token-file`" in result.err
        assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "variable", "server"),
    [
        (["send", "--tenant", "d", "--user", "u", "--title", "T", "--body", "B"], "HERALD_KAFKA_PORT", "Kafka"),
        (["dlq", "list"], "HERALD_KAFKA_PORT", "Kafka"),
        (["dlq", "replay", "--all", "--yes"], "HERALD_KAFKA_PORT", "Kafka"),
        (["tenant", "list"], "HERALD_POSTGRES_PORT", "PostgreSQL"),
        (["status", "--tenant", "d", "--id", "01936b5e-4c00-7000-8000-000000000001"], "HERALD_POSTGRES_PORT",
         "PostgreSQL"),
        (["recall", "--tenant", "d", "01936b5e-4c00-7000-8000-000000000001"], "HERALD_NATS_PORT", "NATS"),
        (["listen", "--tenant", "d", "--user", "u"], "HERALD_GATEWAY_PORT", "gateway"),
    ],
)  # fmt: skip
def test_a_server_that_is_down_is_named_with_address_and_setting(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variable: str, server: str
) -> None:
    from herald import operations, producer
    from herald.commands import listen

    for module, name in (
        (operations, "CONNECT_TIMEOUT_S"), (producer, "START_TIMEOUT_S"), (listen, "OPEN_TIMEOUT_S"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, 0.5)
    secrets = Path(".herald/secrets")
    secrets.mkdir(parents=True)
    (secrets / "issuer_d.key").write_text("k" * 43)
    (secrets / "postgres_admin.password").write_text("p")
    monkeypatch.setenv(variable, "1")
    result = herald(*arguments)
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert line.startswith(f"error: {server} at ")
    assert "127.0.0.1:1" in line
    assert "does not answer" in line
    assert variable in line
    assert result.out == ""


def test_listening_to_nobody_until_the_timeout_is_a_failure(
    herald: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".herald/secrets").mkdir(parents=True)
    Path(".herald/secrets/issuer_d.key").write_text("k" * 43)
    monkeypatch.setenv("HERALD_GATEWAY_PORT", "1")
    result = herald("listen", "--tenant", "d", "--user", "u", "--timeout", "0.2")
    (line,) = result.err.splitlines()
    assert (result.code, result.out) == (1, "")
    assert line.startswith("error: gateway at ws://127.0.0.1:1/ws/connect does not answer: no session within 0.2 s")
    assert "HERALD_GATEWAY_PORT" in line


def test_a_configured_address_is_blamed_itself(herald: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    from herald import producer

    monkeypatch.setattr(producer, "START_TIMEOUT_S", 0.5)
    monkeypatch.setenv("HERALD_KAFKA", "127.0.0.1:1")
    result = herald("send", "--tenant", "d", "--user", "u", "--title", "T", "--body", "B")
    assert result.code == 1
    assert "setting 'kafka' (HERALD_KAFKA)" in result.err


@pytest.mark.parametrize("signum", [signal.SIGINT])
def test_ctrl_c_is_quiet(tmp_path: Path, signum: signal.Signals) -> None:
    fifo = tmp_path / "events.jsonl"
    os.mkfifo(fifo)  # nobody writes: the command waits
    with subprocess.Popen(
        [sys.executable, "-m", "herald", "send", "--file", str(fifo)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
        cwd=tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        time.sleep(2.0)
        process.send_signal(signum)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m herald config check --json | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["config", "check"], ["config", "check", "--json"], ["--help"]])
def test_a_full_disk_behind_stdout_is_one_line(tmp_path: Path, arguments: list[str], unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "herald", *arguments], stdout=full, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path, check=False,
            env={**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert (result.returncode, result.stderr) == (1, "error: reading or writing failed: No space left on device\n")


def test_help_does_not_load_servers() -> None:
    """`herald --help` stays quick: nothing of the worker, Kafka or NATS is imported."""
    heavy = ("worker", "gateway", "aiokafka", "asyncpg", "nats", "picows")
    code = f"import sys, herald.cli; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
