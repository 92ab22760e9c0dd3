"""Herald's Kafka topics, made where they are missing."""

import asyncio
import time
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from notification import names
from notification.errors import Unavailable
from notification.limits import KAFKA_RETENTION_MS, STARTUP_DEADLINE_S
from notification.settings import Settings

BROKER_DEFAULT_REPLICATION: Final = -1
_CONFIGURATION: Final = {
    "retention.ms": str(KAFKA_RETENTION_MS),
    "message.timestamp.type": "LogAppendTime",  # expiry counts from the broker's clock, not the producer's
}


async def create_topics(settings: Settings) -> None:
    """Create the topics that are missing; raises Unavailable when Kafka does not answer in time."""
    deadline_s = time.monotonic() + STARTUP_DEADLINE_S
    replication = BROKER_DEFAULT_REPLICATION if settings.kafka else 1
    wanted = dict.fromkeys((*names.TOPICS, names.TOPIC_STATUS), settings.kafka_partitions) | {names.TOPIC_DEAD: 1}
    while True:
        try:
            await _create(settings.kafka_servers, wanted, replication)
            return
        except KafkaError as error:
            if time.monotonic() > deadline_s:
                raise Unavailable(
                    f"Kafka at {settings.kafka_servers} did not create the topics within {STARTUP_DEADLINE_S} s: "
                    f"{type(error).__name__}"
                ) from error
        await asyncio.sleep(0.2)


async def _create(servers: str, wanted: dict[str, int], replication: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=10_000)
    try:
        await admin.start()
        present = set(await admin.list_topics())
        missing = [
            NewTopic(topic, partitions, replication, topic_configs=_CONFIGURATION)
            for topic, partitions in wanted.items()
            if topic not in present
        ]
        if not missing:
            return
        answer = await admin.create_topics(missing)
        for _topic, code, *_text in answer.topic_errors:
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                raise error(_topic)
    finally:
        await admin.close()
