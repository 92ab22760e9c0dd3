"""aiokafka on uvloop: a request on a connection that has just closed is a KafkaConnectionError.

asyncio ignores a write to a closed transport, uvloop raises RuntimeError. aiokafka expects neither: the error ends
its metadata task for good, and the consumer then waits without end and without a word
(https://github.com/aio-libs/aiokafka/issues/1038, open with aiokafka 0.14).
"""

from collections.abc import Awaitable
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_send = AIOKafkaConnection.send


def send(connection: AIOKafkaConnection, request: Any, expect_response: bool = True) -> Awaitable[Any]:
    """AIOKafkaConnection.send; raises KafkaConnectionError also where uvloop says that the transport is closed."""
    try:
        answer: Awaitable[Any] = _send(connection, request, expect_response)
    except RuntimeError as error:
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {connection.host}:{connection.port} is closed") from error
    return answer


def install() -> None:
    """Make every connection of this process send so."""
    AIOKafkaConnection.send = send
