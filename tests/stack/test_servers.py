"""The embedded servers: they serve, keep their data, name a taken port, and never outlive their parent."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from devstack.children import Child, environment
from devstack.ports import free_ports
from devstack.servers import PostgreSQL, Servers, Tansu, Valkey
from notification import names
from notification.errors import SettingsError, Unavailable
from notification.settings import Settings

pytestmark = pytest.mark.stack

SCRIPT = """
import asyncio, sys
from devstack.servers import Servers
from notification.settings import load

async def main():
    servers = Servers(load()[0])
    await servers.start()
    print("started", *(server.child.process.pid for server in servers.embedded), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def settings_in(folder: Path) -> Settings:
    kafka, redis_port, postgres, nats = free_ports(4)
    return Settings(
        kafka_port=kafka, redis_port=redis_port, postgres_port=postgres, nats_port=nats, data_dir=str(folder)
    )


async def test_they_keep_their_data_over_a_restart(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    for expected in (None, "kept"):
        valkey, postgres = Valkey(settings), PostgreSQL(settings)
        await valkey.start()
        await postgres.start()
        try:
            async with redis.asyncio.from_url(settings.redis_url, decode_responses=True) as client:
                assert await client.get("note") == expected
                await client.set("note", "kept")
            connection = await asyncpg.connect(settings.postgres_dsn)
            try:
                assert (await connection.fetchval("SELECT to_regclass('note')::text")) == (expected and "note")
                await connection.execute("CREATE TABLE IF NOT EXISTS note ()")
            finally:
                await connection.close()
        finally:
            await postgres.stop()
            await valkey.stop()
        assert valkey.child.returncode == 0
        assert postgres.child.returncode == 0


async def test_postgres_asks_every_role_but_the_owner_for_a_password(servers: Settings) -> None:
    owner = await asyncpg.connect(servers.postgres_dsn)
    try:
        await owner.execute("DROP ROLE IF EXISTS passer_by")
        await owner.execute("CREATE ROLE passer_by LOGIN PASSWORD 'right'")
        dsn = f"postgresql://passer_by:wrong@127.0.0.1:{servers.postgres_port}/postgres"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn)
        await (await asyncpg.connect(dsn.replace("wrong", "right"))).close()
    finally:
        await owner.execute("DROP ROLE IF EXISTS passer_by")
        await owner.close()


async def test_the_topics_exist(servers: Settings) -> None:
    from confluent_kafka.admin import AdminClient

    topics = AdminClient({"bootstrap.servers": servers.kafka_servers}).list_topics(timeout=10).topics
    for topic in (*names.TOPICS, names.TOPIC_STATUS):
        assert len(topics[topic].partitions) == servers.kafka_partitions
    assert names.TOPIC_DEAD in topics


@pytest.mark.parametrize("key", ["kafka_port", "redis_port", "postgres_port", "nats_port"])
async def test_a_taken_port_is_named_with_its_holder_and_its_setting(tmp_path: Path, key: str) -> None:
    settings = settings_in(tmp_path)
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", getattr(settings, key)))
        holder.listen()
        servers = Servers(settings)
        with pytest.raises(SettingsError) as caught:
            await servers.start()
    text = str(caught.value)
    assert str(getattr(settings, key)) in text
    assert f"(pid {os.getpid()})" in text
    assert f"HERALD_{key.upper()}" in text
    assert f"`{key} = PORT` in herald.toml" in text
    assert not any(server._child is not None and server.child.running for server in servers.embedded)


async def test_a_server_that_dies_at_start_shows_its_last_log_lines(tmp_path: Path) -> None:
    class Broken(Tansu):
        async def _prepare(self) -> Child:
            return Child("broken", [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], self.log)

    with pytest.raises(Unavailable, match=r"broken ended with exit code 3(.|\n)*the reason"):
        await Broken(settings_in(tmp_path)).start()


async def test_a_child_that_ignores_the_stop_signal_is_killed(tmp_path: Path) -> None:
    child = Child(
        "deaf", ["bash", "-c", "trap '' TERM; echo up; sleep 60 & wait; wait"], tmp_path / "log", stop_s=0.2
    )
    child.start()
    async with asyncio.timeout(10):
        while not child.log_tail():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
    assert await child.stop() == -signal.SIGKILL


def test_nothing_survives_a_killed_parent(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=environment(settings), stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()[1:]]
        parent.kill()
    assert len(pids) == 4
    deadline_s = time.monotonic() + 10
    while any(map(lives, pids)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert [pid for pid in pids if lives(pid)] == []


def test_they_run_as_an_ordinary_user(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = settings_in(home / "data")
    as_user = []
    if os.geteuid() == 0:
        shutil.chown(home, "nobody")
        # DAC_OVERRIDE: the interpreter itself may lie in a folder of root.
        as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=+dac_override",
                   "--ambient-caps=+dac_override", "--"]  # fmt: skip
    variables = environment(settings) | {"HOME": str(home), "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        [*as_user, sys.executable, "-c", SCRIPT], env=variables, stdout=subprocess.PIPE, cwd=home
    ) as parent:
        assert parent.stdout is not None
        pids = parent.stdout.readline().split()[1:]
        owners = {Path(f"/proc/{pid.decode()}").stat().st_uid for pid in pids}
        parent.kill()
    assert len(pids) == 4
    assert owners == {home.stat().st_uid}


def lives(pid: int) -> bool:
    """Whether the process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
