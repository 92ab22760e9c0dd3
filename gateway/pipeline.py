"""The road to Redis: commands packed in C, one write per loop tick, replies that nobody waits for make no object.

`push` is kept until Redis answered it and is sent again, in order, after an outage; `call` waits for its reply and
fails while Redis is away. RedisPipeline is one server or the master that Sentinels name, gateway/redis_cluster.py a
cluster; tests/twins/pipeline.py is the memory twin under the same contract tests.
"""

import asyncio
from typing import Any, Protocol

import structlog

from gateway._fast.resp import Refusal
from gateway.redis_node import PASSING, Argument, Node, PipelineError, Told, Waiter, answer
from gateway.redis_sentinel import find_master
from notification import telemetry
from notification.errors import Unavailable
from notification.limits import PIPELINE_BYTES_MAX, PIPELINE_COMMANDS_MAX
from notification.redis_address import Kind, Place, RedisAddress

__all__ = ["Argument", "Pipeline", "PipelineError", "RedisPipeline", "Told", "refuse"]

_log = structlog.get_logger("pipeline")


class Pipeline(Protocol):
    """Commands in order: all of them on one server, those of a key on a cluster."""

    @property
    def connected(self) -> bool:
        """Redis answers now."""

    @property
    def queued(self) -> int:
        """Commands without a reply yet, at most PIPELINE_COMMANDS_MAX."""

    def push(self, *command: Argument, told: Told | None = None) -> bool:
        """Queue a command that survives outages; False = dropped, PIPELINE_COMMANDS_MAX or _BYTES_MAX wait.

        `told` hears the reply when it comes, unless it is an error (logged and counted); it must not raise.
        """

    async def call(self, *command: Argument) -> Any:
        """Send and wait. Raises Unavailable (away, or lost before the reply) or PipelineError."""

    async def settled(self) -> None:
        """Wait until every command has been answered. Raises Unavailable when Redis is away."""

    async def close(self) -> None:
        """Give up what is unsent and disconnect."""


def refuse(node: Node, waiter: Waiter, refusal: Refusal) -> None:
    """What an error reply of a server means: for now (kept, asked again over a new connection), or for good."""
    if refusal.code in PASSING:
        _log.warning("redis_refuses_now", error=refusal.code)
        node.drop()
        return
    packed, _, once = node.exchange.refused()
    node.exchange.forget()
    if not once:
        name = packed.split(b"\r\n", 3)[2].decode("ascii", "replace")[:20]
        # The reply's text may quote the command's arguments, keys of users among them.
        _log.error("redis_refused_command", command=name, error=refusal.code)
        telemetry.REDIS_REFUSED.inc()
    answer(waiter, refusal)


class RedisPipeline:
    """Pipeline over one connection that it keeps open, to a server or to the master that Sentinels name."""

    def __init__(self, address: RedisAddress) -> None:
        assert address.kind is not Kind.CLUSTER
        self._address = address
        self._node = Node(address, self._locate, refuse, self._changed)
        self._exchange = self._node.exchange
        self._first = asyncio.Event()

    async def start(self, timeout_s: float) -> None:
        """Connect and keep connected. Raises Unavailable when the first connect takes over `timeout_s`."""
        self._node.start()
        try:
            async with asyncio.timeout(timeout_s):
                await self._first.wait()
        except TimeoutError as error:
            await self.close()
            raise Unavailable(f"{self._address} did not answer within {timeout_s:g} s") from error

    @property
    def connected(self) -> bool:
        return self._node.connected

    @property
    def queued(self) -> int:
        return len(self._exchange)

    def push(self, *command: Argument, told: Told | None = None) -> bool:
        exchange = self._exchange
        if len(exchange) >= PIPELINE_COMMANDS_MAX or exchange.waiting_bytes >= PIPELINE_BYTES_MAX:
            return False
        exchange.put(command, told)
        self._node.wake()
        return True

    async def call(self, *command: Argument) -> Any:
        if not self._node.connected or len(self._exchange) >= PIPELINE_COMMANDS_MAX:
            raise Unavailable("Redis is away")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._exchange.put(command, reply, once=True)
        self._node.wake()
        return await reply

    async def settled(self) -> None:
        await self.call("PING")  # answered after everything before it

    async def close(self) -> None:
        await self._node.close()

    async def _locate(self) -> Place:
        address = self._address
        return await find_master(address) if address.kind is Kind.SENTINEL else address.places[0]

    def _changed(self, node: Node) -> None:
        if node.connected:
            self._first.set()
