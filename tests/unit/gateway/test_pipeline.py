"""RedisPipeline against a server that misbehaves on purpose; good days: tests/contract/test_pipeline.py."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import hiredis
import pytest

from gateway.pipeline import PipelineError, RedisPipeline
from gateway.redis_node import open_link
from notification.errors import Unavailable
from notification.redis_address import parse


class Server:
    """A Redis that answers +OK to everything, unless told otherwise."""

    def __init__(self) -> None:
        self.got: list[list[bytes]] = []  # commands besides the greeting
        self.greetings: list[list[bytes]] = []
        self.answer: bytes | None = b"+OK\r\n"  # None = silence
        self.greeting_answer = b"+OK\r\n"
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.sleep(0.02)

    def cut(self) -> None:
        """End every connection at once."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        parser = hiredis.Reader()
        while data := await self._read(reader):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                greeting = command[0] in (b"AUTH", b"SELECT")
                (self.greetings if greeting else self.got).append(command)
                answer = self.greeting_answer if greeting else self.answer
                if answer is not None:
                    writer.write(answer)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(65_536)
        except ConnectionError:
            return b""

    def numbers(self) -> list[int]:
        return [int(command[1]) for command in self.got]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.redis_node.REDIS_RETRY_MS", 10)
    monkeypatch.setattr("gateway.redis_node.REDIS_REPLY_MS_MAX", 200)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def pipeline(server: Server) -> AsyncIterator[RedisPipeline]:
    pipeline = RedisPipeline(parse(f"redis://127.0.0.1:{server.port}/3"))
    await pipeline.start(2)
    yield pipeline
    await pipeline.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.005)


async def test_it_logs_in_and_selects(server: Server) -> None:
    pipeline = RedisPipeline(parse(f"redis://us%40er:pa%3Ass@127.0.0.1:{server.port}/3"))
    await pipeline.start(2)
    assert server.greetings == [[b"AUTH", b"us@er", b"pa:ss"], [b"SELECT", b"3"]]
    await pipeline.close()


async def test_a_server_that_is_down_at_start(server: Server) -> None:
    await server.stop()
    pipeline = RedisPipeline(parse(f"redis://127.0.0.1:{server.port}"))
    with pytest.raises(Unavailable, match=rf"Redis at 127.0.0.1:{server.port} did not answer within 0.2 s"):
        await pipeline.start(0.2)


async def test_a_refused_login_is_not_a_connection(server: Server) -> None:
    server.greeting_answer = b"-WRONGPASS invalid\r\n"
    pipeline = RedisPipeline(parse(f"redis://:x@127.0.0.1:{server.port}"))
    with pytest.raises(Unavailable):
        await pipeline.start(0.2)


async def test_one_write_per_tick(pipeline: RedisPipeline, server: Server) -> None:
    for number in range(100):
        pipeline.push("N", number)
    assert pipeline.queued == 100
    await until(lambda: pipeline.queued == 0)
    assert server.numbers() == list(range(100))


async def test_pushes_without_a_reply_are_sent_again_in_order(pipeline: RedisPipeline, server: Server) -> None:
    server.answer = None
    for number in range(5):
        pipeline.push("N", number)
    await until(lambda: len(server.got) == 5)
    server.got.clear()
    server.answer = b"+OK\r\n"
    server.cut()
    pipeline.push("N", 5)
    await until(lambda: pipeline.queued == 0)
    assert server.numbers() == [0, 1, 2, 3, 4, 5]


async def test_an_outage_keeps_pushes_and_fails_calls(pipeline: RedisPipeline, server: Server) -> None:
    server.answer = None
    call = asyncio.create_task(pipeline.call("N", 99))
    await until(lambda: server.got)
    await server.stop()
    with pytest.raises(Unavailable):
        await call
    await until(lambda: not pipeline.connected)
    with pytest.raises(Unavailable):
        await pipeline.call("N", 98)
    for number in range(3):
        assert pipeline.push("N", number)
    server.got.clear()
    server.answer = b"+OK\r\n"
    await server.start()
    await until(lambda: pipeline.queued == 0)
    assert server.numbers() == [0, 1, 2]


@pytest.mark.parametrize("error", [b"-LOADING wait\r\n", b"-OOM full\r\n", b"-READONLY replica\r\n"])
async def test_errors_that_pass_keep_the_command(pipeline: RedisPipeline, server: Server, error: bytes) -> None:
    server.answer = error
    pipeline.push("N", 1)
    pipeline.push("N", 2)
    await until(lambda: len(server.got) > 3)  # tried again
    server.answer = b"+OK\r\n"
    await until(lambda: pipeline.queued == 0)
    assert server.numbers()[-2:] == [1, 2]


async def test_errors_that_stay_do_not_block_the_others(pipeline: RedisPipeline, server: Server) -> None:
    server.answer = b"-WRONGTYPE no\r\n"
    pipeline.push("N", 1)
    with pytest.raises(PipelineError, match="WRONGTYPE"):
        await pipeline.call("N", 2)
    assert pipeline.queued == 0
    assert server.numbers() == [1, 2]


async def test_a_server_that_hangs_is_left(pipeline: RedisPipeline, server: Server) -> None:
    server.answer = None
    pipeline.push("N", 1)
    await until(lambda: len(server.got) >= 2)  # sent again over a new connection
    server.answer = b"+OK\r\n"
    await until(lambda: pipeline.queued == 0)


async def test_bytes_that_are_no_reply_end_the_connection(pipeline: RedisPipeline, server: Server) -> None:
    server.answer = b"?what\r\n"
    pipeline.push("N", 1)
    await until(lambda: len(server.got) >= 2)
    server.answer = b"+OK\r\n"
    await until(lambda: pipeline.queued == 0)


async def test_the_queue_is_bounded(
    pipeline: RedisPipeline, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.pipeline.PIPELINE_COMMANDS_MAX", 3)
    await server.stop()
    assert [pipeline.push("N", number) for number in range(5)] == [True, True, True, False, False]
    assert pipeline.queued == 3
    await server.start()
    await until(lambda: pipeline.queued == 0)
    assert server.numbers() == [0, 1, 2]
    assert pipeline.push("N", 9)


async def test_a_place_that_is_no_host_name_is_one_that_cannot_be_reached() -> None:
    with pytest.raises(OSError, match="not a host name"):
        await open_link(("a..b", 6379))
