"""What all users of aiokafka here need: a producer as ours are, and an end that does not hang."""

import asyncio

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from notification.limits import KAFKA_REQUEST_DEADLINE_MS

_log = structlog.get_logger("kafka")


async def start_producer(servers: str, request_bytes_max: int, deadline_ms: int) -> AIOKafkaProducer:
    """A producer that waits for all in-sync replicas, `deadline_ms` for one request.

    Idempotent where the broker can; the embedded one answers an error at once. Raises KafkaError.
    """

    async def start(idempotent: bool) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=servers,
            acks="all",
            enable_idempotence=idempotent,
            max_request_size=request_bytes_max,
            request_timeout_ms=deadline_ms,
        )
        try:
            await producer.start()
        except BaseException:  # a cancelled start as well
            await stop_client(producer)
            raise
        return producer

    try:
        return await start(idempotent=True)
    except KafkaError as error:
        if error.retriable:
            raise
        _log.info("producer_not_idempotent", error=type(error).__name__)
    return await start(idempotent=False)


async def stop_client(part: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop a client of aiokafka; where Kafka is away it may hang, or end in the CancelledError of its own tasks."""
    task = asyncio.ensure_future(part.stop())
    await asyncio.wait({task}, timeout=KAFKA_REQUEST_DEADLINE_MS / 1000)
    if not task.done() or task.cancelled() or task.exception() is not None:
        task.cancel()
        _log.info("kafka_client_not_closed", client=type(part).__name__)
