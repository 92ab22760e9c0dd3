"""Both ends are foreign: other producers, another WebSocket client, a token from the issuer at the demo port."""

import asyncio
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message, Producer
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from herald import events
from herald.producer import EventProducer
from notification import ids, names
from notification.settings import Settings
from tests.stack.route import status_becomes

pytestmark = pytest.mark.stack

TENANT = "demo"
PARTITIONER = "murmur2_random"  # docs/events.md: the rule of Kafka's Java clients
CODECS = ("gzip", "snappy", "lz4", "zstd")
Produce = Callable[[Settings, str, bytes, bytes], object]


def with_confluent_kafka(settings: Settings, topic: str, key: bytes, value: bytes, codec: str = "none") -> int:
    failures = []
    partitions = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(error)
        else:
            partitions.append(message.partition())

    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_servers, "acks": "all", "compression.type": codec,
            "partitioner": PARTITIONER,
        }
    )  # fmt: skip
    producer.produce(topic, value, key, on_delivery=delivered)
    assert producer.flush(20) == 0
    assert failures == []
    return int(partitions[0])


def with_codec(codec: str) -> Produce:
    def produce(settings: Settings, topic: str, key: bytes, value: bytes) -> None:
        with_confluent_kafka(settings, topic, key, value, codec)

    return produce


def with_kcat(settings: Settings, topic: str, key: bytes, value: bytes) -> None:
    assert os.environ.get("KAFKA") == "apache", "kcat needs Apache Kafka: make test-kafka"
    subprocess.run(
        ["kcat", "-P", "-b", settings.kafka_servers, "-t", topic, "-k", key.decode(),
         "-X", f"partitioner={PARTITIONER}"],
        input=value + b"\n", check=True, timeout=30, capture_output=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "produce",
    [
        with_confluent_kafka,
        *map(with_codec, CODECS),
        pytest.param(with_kcat, marks=pytest.mark.kafka),
    ],
    ids=["confluent-kafka", *CODECS, "kcat"],
)
@pytest.mark.parametrize("priority", ["high", "low"])
async def test_a_foreign_event_reaches_a_foreign_client(system: Settings, produce: Produce, priority: str) -> None:
    user = f"user-{ids.new_uuid7()}"
    event = {
        "id": str(ids.new_uuid7()), "tenant_id": TENANT, "user_id": user, "type": "service", "ttl": 600,
        "payload": {"title": "Größe ✓", "body": "from elsewhere " * 50},
    }  # fmt: skip
    token = await asyncio.to_thread(issue, system, user)
    url = f"ws://127.0.0.1:{system.gateway_port}/ws/connect?device=foreign"
    async with (
        asyncio.timeout(30),
        connect(
            url, additional_headers={"Authorization": f"Bearer {token}"}, subprotocols=[Subprotocol("herald.v1")]
        ) as socket,
    ):
        assert socket.subprotocol == "herald.v1"
        await frame_of(socket, "resumed")
        value = json.dumps(event).encode()
        await asyncio.to_thread(produce, system, names.TOPIC_PREFIX + priority, f"{TENANT}:{user}".encode(), value)
        frame = await frame_of(socket, "n")
        assert frame["id"] == event["id"]
        assert frame["p"] == event["payload"]
        assert frame["lane"] == f"direct.{priority}"
        await socket.send(json.dumps({"t": "ack", "ids": [event["id"]]}))
        await status_becomes(system, TENANT, str(event["id"]), "DELIVERED")


async def test_a_state_of_an_id_after_the_year_9999_is_answered_at_once(system: Settings) -> None:
    token = await asyncio.to_thread(issue, system, f"user-{ids.new_uuid7()}")
    url = f"ws://127.0.0.1:{system.gateway_port}/ws/connect?device=foreign"
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(url, additional_headers=headers, subprotocols=[Subprotocol("herald.v1")]) as socket:
        await frame_of(socket, "resumed")
        started_s = time.monotonic()
        beyond = "ffffffff-ffff-7fff-bfff-ffffffffffff"
        await socket.send(json.dumps({"t": "state", "ids": [beyond], "to": "read"}))
        assert (await asyncio.wait_for(frame_of(socket, "error"), 10))["code"] == "bad_frame"
        assert time.monotonic() - started_s < 1.9


async def test_a_foreign_producer_puts_a_user_where_ours_does(system: Settings) -> None:
    """Else a user's events of two producers would be in two partitions, and in no order."""
    topic = names.TOPIC_PREFIX + "low"
    chosen = set()
    async with EventProducer(system) as producer:
        for _ in range(8):
            user = f"user-{ids.new_uuid7()}"
            fields = {
                "tenant_id": TENANT,
                "user_id": user,
                "type": "service",
                "payload": {"title": "T", "body": "B"},
            }
            one, other = (events.build(fields, "low") for _ in range(2))
            ours = (await producer.publish("low", one.key, one.record)).partition
            key = names.record_key(TENANT, user)
            theirs = await asyncio.to_thread(with_confluent_kafka, system, topic, key, other.record)
            assert theirs == ours
            chosen.add(ours)
    assert len(chosen) > 1  # the keys spread: not everything goes to one partition


def issue(settings: Settings, user: str) -> str:
    """A token from the issuer, as the page of a tenant's own application asks for it."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{settings.demo_port}/token",
        json.dumps({"user": user}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["token"])


async def frame_of(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """The next frame of that kind; others are passed over."""
    while True:
        frame: dict[str, Any] = json.loads(await socket.recv())
        if frame["t"] == kind:
            return frame
