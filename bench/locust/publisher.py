"""The upstream service of a profile: events at an open-loop rate, each due at its time whatever the system does.

An event's payload says when it was due, so a publisher or a broker that falls behind shows in `deliver`.
"""

import dataclasses
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import gevent
from confluent_kafka import KafkaError, Message, Producer

from bench.locust.ledger import LEDGER
from notification.ids import new_uuid7
from notification.names import PRIORITIES, TOPIC_PREFIX, record_key
from notification.settings import Settings

TICK_S: Final = 0.01
_FLUSH_S: Final = 10.0
_TITLE: Final = "Your order is on its way"
_TTL_S: Final = 3_600


@dataclasses.dataclass(frozen=True)
class Stream:
    """Events of one tenant. `rate`: per second, given the seconds since the start; `mix`: weights of PRIORITIES."""

    tenant: str
    rate: Callable[[float], float]
    mix: Sequence[float] = (0.1, 0.6, 0.3)
    type: str = "service"


class Publisher:
    """Runs as a greenlet from start() to stop()."""

    def __init__(self, settings: Settings, streams: Sequence[Stream]) -> None:
        self._producer = Producer({
            "bootstrap.servers": settings.kafka_servers, "acks": "all", "linger.ms": 2,
            "client.id": "herald-locust",
        })  # fmt: skip
        self._streams = streams
        self._began_s = 0.0
        self._running: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """From now on events fall due."""
        self._began_s = time.time()
        self._running = gevent.spawn(self._run)

    def stop(self) -> None:
        """No further event; returns when Kafka has answered for all, or raises TimeoutError."""
        if self._running is not None:
            self._running.kill()
            self._running = None
        deadline_s = time.monotonic() + _FLUSH_S
        while len(self._producer):
            self._producer.poll(0)
            gevent.sleep(TICK_S)
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"Kafka did not answer for {len(self._producer)} events")

    def to_all(self, tenant: str, priority: str, type_: str) -> None:
        """One event to every user of the tenant, all due now."""
        now_s = time.time()
        for user in LEDGER.users(tenant):
            self._publish(tenant, user, priority, type_, now_s)

    def _run(self) -> None:
        due_s = [self._began_s] * len(self._streams)
        while True:
            now_s = time.time()
            for place, stream in enumerate(self._streams):
                while due_s[place] <= now_s:
                    self._one(stream, due_s[place])
                    rate = stream.rate(due_s[place] - self._began_s)
                    due_s[place] += random.expovariate(rate) if rate > 0 else TICK_S
            self._producer.poll(0)
            gevent.sleep(TICK_S)

    def _one(self, stream: Stream, due_s: float) -> None:
        users = LEDGER.users(stream.tenant)
        if users and stream.rate(due_s - self._began_s) > 0:
            priority = random.choices(PRIORITIES, stream.mix)[0]
            self._publish(stream.tenant, random.choice(users), priority, stream.type, due_s)

    def _publish(self, tenant: str, user: str, priority: str, type_: str, due_s: float) -> None:
        ident = str(new_uuid7())
        event = {"id": ident, "tenant_id": tenant, "user_id": user, "type": type_, "ttl": _TTL_S,
                 "payload": {"title": _TITLE, "body": f"{due_s * 1_000:.1f}"}}  # fmt: skip

        def answered(error: KafkaError | None, _message: Message) -> None:
            if error is None:
                LEDGER.accept(ident, tenant, user)
            else:
                LEDGER.not_accepted += 1

        self._producer.produce(
            TOPIC_PREFIX + priority, key=record_key(tenant, user), value=json.dumps(event).encode(),
            on_delivery=answered,
        )  # fmt: skip
