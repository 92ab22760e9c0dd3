"""What upstream services hear of their notifications: the records of names.TOPIC_STATUS.

A record is the JSON of a StateChange (worker/status.schema.json), its key that of an event to this user. So
all that became of a user's notifications is in one partition, in order.
"""

import asyncio
from collections.abc import Sequence

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from notification.limits import BUS_MESSAGE_BYTES_MAX, STATUS_PUBLISH_DEADLINE_MS
from notification.names import TOPIC_STATUS, record_key
from worker.kafka_clients import start_producer, stop_client
from worker.log import LogAway

_encoder = msgspec.json.Encoder()


class StateChange(msgspec.Struct, frozen=True):
    """A row of notification_history. `at`: Unix ms, by the database."""

    history_id: int
    id: str
    tenant_id: str
    user_id: str
    status: str
    status_code: int
    at: int


class StatusTopic:
    """The topic, over a producer of its own: what goes wrong here disturbs no dead letter."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._producer: AIOKafkaProducer | None = None

    async def publish(self, changes: Sequence[StateChange]) -> None:
        """Returns when all in-sync replicas have them.

        Raises LogAway: any of them may be there, or may come yet, before what is published next.
        """
        try:
            async with asyncio.timeout(STATUS_PUBLISH_DEADLINE_MS / 1000):
                producer = self._producer
                if producer is None:
                    producer = self._producer = await start_producer(
                        self._servers, BUS_MESSAGE_BYTES_MAX, STATUS_PUBLISH_DEADLINE_MS
                    )
                acks = [
                    await producer.send(
                        TOPIC_STATUS, _encoder.encode(change), record_key(change.tenant_id, change.user_id)
                    )
                    for change in changes
                ]
                await asyncio.gather(*acks)
        except (KafkaError, TimeoutError) as error:
            if isinstance(error, KafkaError) and not error.retriable:
                await self.close()  # an idempotent producer may have come to an end that it does not leave
            raise LogAway(f"Kafka did not take state changes: {type(error).__name__}") from error

    async def close(self) -> None:
        """Disconnect; publish() connects again."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_client(producer)
