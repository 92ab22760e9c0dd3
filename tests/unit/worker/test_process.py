"""`python -m worker`: its usage, and how it ends when the servers stay away."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devstack.ports import free_ports
from worker.__main__ import main
from worker.database import ROLES as DATABASE_ROLES
from worker.process import ROLES

# STARTUP_DEADLINE_S is a minute; a test waits shorter.
START = (
    "import sys, notification.limits as l; l.STARTUP_DEADLINE_S = {}; "
    "from worker.__main__ import main; sys.exit(main({}))"
)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Settings that point at ports where nobody listens."""
    (tmp_path / "master.key").write_text("0" * 63 + "1")
    for role in DATABASE_ROLES:
        (tmp_path / f"postgres_{role}.password").write_text("x")
    kafka, nats, redis, postgres = free_ports(4)
    return os.environ | {
        "HERALD_SECRETS_DIR": str(tmp_path), "HERALD_KAFKA_PORT": str(kafka), "HERALD_NATS_PORT": str(nats),
        "HERALD_REDIS_PORT": str(redis), "HERALD_POSTGRES_PORT": str(postgres),
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["dispatch", "nonsense"]])
def test_wrong_usage_names_the_roles(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "roles: dispatch, receipts, inbox, status;" in capsys.readouterr().err


@pytest.mark.parametrize("role", ROLES)
def test_servers_that_stay_away_end_it_with_one_clear_line(environ: dict[str, str], role: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", START.format(1, [role])], env=environ, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 1
    said = [line for line in ended.stderr.splitlines() if line.startswith("worker: ")]
    assert len(said) == 1
    assert "did not answer within 1 s" in said[0]
    assert "Traceback" not in ended.stderr


def test_a_missing_secret_is_named(environ: dict[str, str]) -> None:
    Path(environ["HERALD_SECRETS_DIR"], "master.key").unlink()
    ended = subprocess.run(
        [sys.executable, "-m", "worker", "inbox"], env=environ, capture_output=True, text=True, timeout=30
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "master.key" in ended.stderr


def test_a_taken_port_of_its_metrics_is_named(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        ended = subprocess.run(
            [sys.executable, "-m", "worker", "inbox"], env=environ | {"HERALD_WORKER_METRICS": address},
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"worker: worker_metrics: cannot listen on {address}: address already in use")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(("option", "module"), [("-h", "worker"), ("--help", "worker"), ("--help", "gateway")])
def test_help_is_a_usage(option: str, module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module, option], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"usage: python -m {module} ")


def test_it_can_be_stopped_while_it_waits_for_servers(environ: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", START.format(60, list(ROLES))],
        env=environ, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    while "server_away" not in process.stderr.readline():
        assert process.poll() is None
    began_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=20)
    assert process.returncode == 0
    assert time.monotonic() - began_s < 10
    assert "Traceback" not in rest
