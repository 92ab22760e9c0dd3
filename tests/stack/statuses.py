"""An upstream service that reads notifications.status, with aiokafka: from its beginning, one tenant's records."""

import asyncio
import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import jsonschema
from aiokafka import AIOKafkaConsumer

from notification import names
from notification.settings import Settings
from tests.stack.route import WAIT_S

SCHEMA: Final = json.loads(Path("worker/status.schema.json").read_text("utf-8"))
_CHECKER: Final = jsonschema.Draft202012Validator(SCHEMA)
Change = dict[str, Any]


class StatusReader:
    """`changes`: the tenant's so far, each held to the schema, in the order of Kafka within a partition."""

    def __init__(self, settings: Settings, tenant: str, topic: str = names.TOPIC_STATUS) -> None:
        self._tenant = tenant
        self._consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=settings.kafka_servers, auto_offset_reset="earliest", enable_auto_commit=False
        )
        self.changes: list[Change] = []
        self._partitions: dict[str, set[int]] = collections.defaultdict(set)

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def until(self, enough: Callable[[list[Change]], bool]) -> list[Change]:
        """Read until `enough(changes)`; the changes."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not enough(self.changes):
                    for records in (await self._consumer.getmany(timeout_ms=500)).values():
                        for record in records:
                            self._take(record.partition, record.key, json.loads(record.value))
        except TimeoutError:
            raise AssertionError(f"only these came in {WAIT_S} s: {self.changes}") from None
        return self.changes

    def _take(self, partition: int, key: bytes, change: Change) -> None:
        if change["tenant_id"] != self._tenant:
            return
        _CHECKER.validate(change)
        assert key == names.record_key(change["tenant_id"], change["user_id"])
        self._partitions[change["user_id"]].add(partition)
        assert len(self._partitions[change["user_id"]]) == 1, "a user's changes are in one partition"
        self.changes.append(change)


def by_user(changes: list[Change]) -> dict[str, list[int]]:
    """The numbers of each user's changes, as they came."""
    numbers: dict[str, list[int]] = collections.defaultdict(list)
    for change in changes:
        numbers[change["user_id"]].append(change["history_id"])
    return numbers
