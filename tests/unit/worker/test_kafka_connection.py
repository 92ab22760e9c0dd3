"""A request on a connection that is closed is an error that aiokafka lives with, on uvloop as on asyncio's loop."""

import asyncio
import struct
from collections.abc import Callable
from typing import Final

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from worker import kafka_connection

METADATA_API: Final = struct.pack(">hihhh", 0, 1, 3, 0, 1)  # no error, one API: number, first and last version


async def _server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers the question for its API versions, then nothing."""
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    correlation_id = (await reader.readexactly(size))[4:8]
    writer.write(struct.pack(">i", len(correlation_id + METADATA_API)) + correlation_id + METADATA_API)
    await reader.read()
    writer.close()


async def _on_connection(act: Callable[[AIOKafkaConnection], None]) -> None:
    server = await asyncio.start_server(_server, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        connection = await create_conn(host, port, request_timeout_ms=5_000)
        connection._read_task.cancel()  # the reader that has not run yet: in the next turn it would close all
        connection._writer.transport.abort()
        await connection._closed_fut
        act(connection)
        connection.close()


def _ours(connection: AIOKafkaConnection) -> None:
    with pytest.raises(KafkaConnectionError, match=f"{connection.host}:{connection.port} is closed"):
        kafka_connection.send(connection, MetadataRequest([]))
    assert not connection.connected()


def _as_it_comes(connection: AIOKafkaConnection) -> None:
    """What the module is for: the day this raises no RuntimeError, it can go."""
    with pytest.raises(RuntimeError, match="closed"):
        kafka_connection._send(connection, MetadataRequest([]))


@pytest.mark.parametrize("act", [_ours, _as_it_comes])
def test_a_closed_connection(act: Callable[[AIOKafkaConnection], None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_on_connection(act))
