"""The Kafka producer of `herald send`: acks=all, idempotent where the broker knows how."""

import asyncio
import logging
from typing import Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, UnknownError, UnsupportedVersionError
from aiokafka.structs import RecordMetadata

from herald.errors import server_down
from notification.errors import HeraldError
from notification.names import TOPIC_PREFIX
from notification.settings import Settings

START_TIMEOUT_S: Final = 10.0
REQUEST_TIMEOUT_MS: Final = 15_000  # one record, retries included


class NotAccepted(HeraldError):
    """Kafka did not acknowledge an event: it may or may not be stored; sending it again with its id is safe."""


class EventProducer:
    """`async with EventProducer(settings) as producer`. Raises herald.errors.Failed when Kafka is down."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self.idempotent = False

    async def __aenter__(self) -> Self:
        # aiokafka logs each failed attempt; the one line that says what to do is ours.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                self._producer = await self._start(idempotent=True)
                self.idempotent = True
        except (UnknownError, UnsupportedVersionError):
            # The embedded broker (Tansu) answers InitProducerId with an error; acks=all still holds there.
            self._producer = await self._start(idempotent=False)
        except (KafkaConnectionError, TimeoutError, OSError) as error:
            raise server_down("Kafka", self._settings.kafka_servers, "kafka", self._settings) from error
        return self

    async def _start(self, idempotent: bool) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._settings.kafka_servers, client_id="herald-send", acks="all",
            enable_idempotence=idempotent, linger_ms=2, request_timeout_ms=REQUEST_TIMEOUT_MS,
        )  # fmt: skip
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def __aexit__(self, *_: object) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def publish(self, priority: str, key: bytes, record: bytes) -> RecordMetadata:
        """Send one event and wait for the broker's acknowledgement. Raises NotAccepted."""
        assert self._producer is not None
        try:
            return await self._producer.send_and_wait(TOPIC_PREFIX + priority, value=record, key=key)
        except KafkaError as error:
            raise NotAccepted(f"Kafka did not acknowledge: {type(error).__name__}") from error
