"""Upstream's whole view: an event goes in, what became of it comes out of notifications.status."""

import asyncio
import contextlib
import json
import os
import subprocess

import pytest

from notification import names
from notification.codes import Status
from notification.settings import Settings
from tests.conftest import Mint
from tests.stack.route import App, Upstream, history_holds
from tests.stack.statuses import SCHEMA, StatusReader, by_user
from worker.status_topic import StateChange

pytestmark = pytest.mark.stack


def test_the_schema_knows_every_field_and_status() -> None:
    assert list(SCHEMA["properties"]) == list(StateChange.__struct_fields__) == SCHEMA["required"]
    assert SCHEMA["properties"]["status"]["enum"] == [str(status) for status in Status]


async def test_an_upstream_service_hears_what_became_of_its_notifications(
    system: Settings, tenant: str, mint: Mint
) -> None:
    async with Upstream(system) as upstream, StatusReader(system, tenant) as reader:
        parked = await upstream.send(tenant, "bob|x@y", "While away", priority="low")
        async with contextlib.aclosing(await App(system, mint(tenant, "ann"), "phone").open()) as app:
            read = await upstream.send(tenant, "ann", "Hello")
            await app.notification()
            await history_holds(system, tenant, read, "DISPATCHED", "DELIVERED")
            await app.send({"t": "state", "ids": [read], "to": "read"})
            await app.frame("state")
        wanted = {(parked, status) for status in ("ACCEPTED", "PARKED")}
        wanted |= {(read, status) for status in ("ACCEPTED", "DISPATCHED", "DELIVERED", "READ")}
        changes = await reader.until(lambda found: wanted <= {(one["id"], one["status"]) for one in found})
    assert all(numbers == sorted(numbers) for numbers in by_user(changes).values())
    assert [change["status"] for change in changes if change["id"] == parked][:2] == ["ACCEPTED", "PARKED"]
    of_read = [change["status"] for change in changes if change["id"] == read]
    assert (of_read[0], of_read[-1]) == ("ACCEPTED", "READ")


@pytest.mark.kafka
async def test_kcat_reads_it(system: Settings, tenant: str) -> None:
    assert os.environ.get("KAFKA") == "apache", "kcat needs Apache Kafka: make test-kafka"
    async with Upstream(system) as upstream:
        ident = await upstream.send(tenant, "ann", "Hello")
    async with StatusReader(system, tenant) as reader:
        await reader.until(lambda changes: any(change["status"] == "PARKED" for change in changes))
    command = ["kcat", "-C", "-b", system.kafka_servers, "-t", names.TOPIC_STATUS, "-e", "-q", "-f", "%k %s\n"]
    read = await asyncio.to_thread(subprocess.run, command, check=True, timeout=60, capture_output=True, text=True)
    lines = [line.split(" ", 1) for line in read.stdout.splitlines() if line.startswith(f"{tenant}:ann ")]
    statuses = [json.loads(value)["status"] for _, value in lines if ident in value]
    assert list(dict.fromkeys(statuses)) == ["ACCEPTED", "PARKED"]
