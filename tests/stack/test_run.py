"""`python -m devstack run`, which `make run` calls: READY, what it serves, and that it leaves nothing behind."""

import asyncio
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from rich.console import Console

from devstack.children import environment
from devstack.ports import free_ports
from devstack.run import run
from devstack.secrets import DEMO_TENANT
from notification import names
from notification.errors import Unavailable
from notification.ids import new_uuid7
from notification.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

READY_S_MAX = 60.0
STOP_S_MAX = 30.0
WARM_S_MAX = 15.0  # what a newcomer is promised


class Running:
    """One `python -m devstack run` in a folder of its own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self._out = folder / "out"
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "devstack", "run"],
                env=environment(settings), cwd=folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self._out.read_text("utf-8")

    def wait_for(self, pattern: str, timeout_s: float) -> str:
        deadline_s = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.text, re.MULTILINE)):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline_s, self.text
            time.sleep(0.05)
        return found[0]

    def ready(self) -> None:
        self.wait_for(r"^READY in .*(\n.*)+^Ctrl-C", READY_S_MAX)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.process.wait(STOP_S_MAX)

    def processes(self) -> dict[int, str]:
        """Every living process that was started with this data folder: number and command line."""
        mark = f"HERALD_DATA_DIR={self.settings.data_dir}".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it ended meanwhile
                continue
        return found


def settings_in(folder: Path) -> Settings:
    ports = free_ports(7)
    return Settings(
        kafka_port=ports[0], nats_port=ports[1], redis_port=ports[2], postgres_port=ports[3],
        gateway_port=ports[4], demo_port=ports[5], gateway_processes=2, data_dir=str(folder / "data"),
        worker_metrics=f"127.0.0.1:{ports[6]}",
    )  # fmt: skip


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    system = Running(settings_in(tmp_path), tmp_path)
    yield system
    if system.process.poll() is None:
        system.process.kill()
        system.process.wait()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


def test_ready_says_where_everything_is_and_a_signal_stops_all(running: Running, tmp_path: Path) -> None:
    running.ready()
    text, settings = running.text, running.settings
    answers = {url: get(url) for url in re.findall(r"http://\S+", text)}
    assert "herald_store_seconds_bucket" in answers[f"http://{settings.worker_metrics}/metrics"]
    assert f"ws://127.0.0.1:{settings.gateway_port}/ws/connect" in text
    assert "herald_connections" in get(f"http://127.0.0.1:{settings.gateway_port}/metrics")
    assert ("it forgets them when it stops" in text) == (os.environ.get("KAFKA") != "apache")

    herald = re.findall(r"^  (\S+/herald (?:listen|send|status) [^#\n]*)", text, re.MULTILINE)
    assert len(herald) == 3
    sent = call(herald[1] + " --json", settings)
    ident = json.loads(sent)["id"]
    heard = json.loads(call(herald[0] + " --count 1 --json", settings))
    assert heard["id"] == ident
    status = json.loads(call(herald[2].replace("--id ID", f"--id {ident}") + " --json", settings))
    assert status["id"] == ident

    assert len(running.processes()) >= 7
    assert running.stop() == 0, running.text
    assert running.processes() == {}
    assert "Traceback" not in running.text

    again = Running(settings, tmp_path)
    again.ready()
    assert float(again.wait_for(r"^READY in \S+", 1).split()[-1]) <= WARM_S_MAX
    assert json.loads(call(herald[2].replace("--id ID", f"--id {ident}") + " --json", settings))["id"] == ident
    assert again.stop(signal.SIGINT) == 0, again.text
    assert again.processes() == {}


def test_a_crashed_worker_is_reported_and_started_again_and_a_killed_devstack_leaves_nothing(
    running: Running,
) -> None:
    running.ready()
    worker = next(pid for pid, command in running.processes().items() if "-m worker" in command)
    os.kill(worker, signal.SIGKILL)
    running.wait_for("worker ended with exit code -9", 10)
    deadline_s = time.monotonic() + 30
    while not any("-m worker" in command for command in running.processes().values()):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    running.process.kill()
    running.process.wait()
    while left := running.processes():
        assert time.monotonic() < deadline_s + 30, left
        time.sleep(0.1)


def test_all_that_a_restarted_kafka_took_arrives(running: Running, tmp_path: Path) -> None:
    """The embedded Kafka forgets all: its new log may be longer than the old position before the worker looks."""
    running.ready()
    produce(running.settings, "before", 6)
    wait_for_stored(running.settings, "before", 6)
    for number in range(2):
        kafka = next(pid for pid, command in running.processes().items() if re.search("tansu|kafka.Kafka", command))
        os.kill(kafka, signal.SIGKILL)
        while kafka in running.processes():
            time.sleep(0.005)
        produce(running.settings, f"after{number}", 12)
        wait_for_stored(running.settings, f"after{number}", 12)
    assert running.stop() == 0, running.text

    again = Running(running.settings, tmp_path)
    try:
        produce(running.settings, "again", 12)  # from the moment Kafka listens: before the worker runs
        again.ready()
        wait_for_stored(running.settings, "again", 12)
        assert again.stop() == 0, again.text
    finally:
        if again.process.poll() is None:
            again.process.kill()
            again.process.wait()
    assert "Traceback" not in running.text + again.text


def produce(settings: Settings, user: str, count: int) -> None:
    """Send `count` events to partition 0, each acknowledged, as soon as Kafka takes them."""

    async def send() -> None:
        async with asyncio.timeout(READY_S_MAX):
            sent = 0
            while sent < count:
                try:
                    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_servers, acks="all") as producer:
                        while sent < count:
                            event = {"id": str(new_uuid7()), "tenant_id": DEMO_TENANT, "user_id": user,
                                     "type": "service", "payload": {"title": "T", "body": str(sent)}}  # fmt: skip
                            key = f"{DEMO_TENANT}:{user}".encode()
                            value = json.dumps(event).encode()
                            async with asyncio.timeout(3):
                                await producer.send_and_wait(names.TOPICS[0], value, key, partition=0)
                            sent += 1
                except (KafkaError, TimeoutError, AssertionError):  # not up yet, or its topics are not made yet
                    await asyncio.sleep(0.005)

    asyncio.run(send())


def wait_for_stored(settings: Settings, user: str, count: int) -> None:
    async def stored() -> int:
        owner = await asyncpg.connect(settings.postgres_dsn)
        try:
            query = "SELECT count(DISTINCT notification_id) FROM notifications WHERE entity_id = $1"
            found: int = await owner.fetchval(query, user)
            return found
        finally:
            await owner.close()

    deadline_s = time.monotonic() + 40
    while (found := asyncio.run(stored())) != count:
        assert time.monotonic() < deadline_s, f"{found} of {count} for {user}"
        time.sleep(0.1)


def test_a_signal_while_starting_stops_what_was_started(running: Running) -> None:
    running.wait_for("NATS on port", READY_S_MAX)
    assert running.stop() == 0
    assert running.processes() == {}
    assert "Traceback" not in running.text


def test_a_second_one_on_the_same_data_is_refused(running: Running, tmp_path: Path) -> None:
    running.wait_for("NATS on port", READY_S_MAX)
    others = dataclasses.replace(settings_in(tmp_path), data_dir=running.settings.data_dir)
    text = refused(others, tmp_path)
    assert f"(pid {running.process.pid})" in text
    assert "HERALD_DATA_DIR" in text


@pytest.mark.parametrize("key", ["gateway_port", "demo_port", "postgres_port", "worker_metrics"])
def test_a_taken_port_is_named_with_the_setting_that_changes_it(tmp_path: Path, key: str) -> None:
    settings = settings_in(tmp_path)
    port = settings.worker_metrics_at[1] if key == "worker_metrics" else getattr(settings, key)
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        text = refused(settings, tmp_path)
    assert f"127.0.0.1:{port}" in text
    assert f"HERALD_{key.upper()}" in text
    assert f"{key} = PORT" in text


def test_an_unknown_setting_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "herald.toml").write_text("gateway_prot = 9000\n")
    text = refused(settings_in(tmp_path), tmp_path)
    assert "gateway_prot" in text
    assert "'gateway_port'" in text


async def test_a_server_that_stays_down_is_named(tmp_path: Path) -> None:
    down = free_ports(2)
    settings = dataclasses.replace(
        settings_in(tmp_path),
        redis=f"redis://user:secret@127.0.0.1:{down[0]}/0",
        nats=f"nats://127.0.0.1:{down[1]}",
    )
    with pytest.raises(Unavailable) as caught:
        await run(settings, Console(file=(tmp_path / "out").open("w")), startup_s=1.0)
    text = str(caught.value)
    assert f"Redis at 127.0.0.1:{down[0]}" in text
    assert f"NATS at nats://127.0.0.1:{down[1]}" in text or f"NATS at 127.0.0.1:{down[1]}" in text
    assert "secret" not in text
    assert "Kafka" not in text


def refused(settings: Settings, folder: Path) -> str:
    """What it says when it cannot start; it exits with 1, without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "devstack", "run"],
        env=environment(settings), cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    assert "Traceback" not in text
    assert "READY" not in text
    return text


def call(command: str, settings: Settings) -> str:
    done = subprocess.run(
        ["bash", "-c", command], env=environment(settings), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
