"""The bus: NATS behind one small interface; tests/twins/bus.py is its memory twin under the same contract tests.

NATS is a hint that may drop anything: nothing here is ever the only copy of a notification.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import nats
import nats.aio.client
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from notification import telemetry
from notification.errors import BusError, BusTimeout, NoResponders, Unavailable
from notification.limits import (
    BUS_PENDING_BYTES_MAX,
    BUS_PENDING_MESSAGES_MAX,
    BUS_READ_BYTES_MAX,
    STARTUP_DEADLINE_S,
)

_OF_ONE_SUBJECT: Final = "permissions violation"  # the one -ERR after which the server keeps the connection
_CLOSE_S: Final = 5.0  # what running handlers get to answer

# nats-py's 32 KB would end a turn of the loop, and with it the sharing of writes, after a part of one batch.
nats.aio.client.DEFAULT_BUFFER_SIZE = BUS_READ_BYTES_MAX

_log = structlog.get_logger("bus")

# Called with the subject and the bytes; what it returns (if not None) is the reply to a request.
Handler = Callable[[str, bytes], Awaitable[bytes | None]]


class Served(Protocol):
    """What serve() began."""

    async def stop(self) -> None:
        """No further message is handled; nothing where the bus is closed. At most once."""


class Bus(Protocol):
    """Publish, request, serve. Payloads are bytes up to BUS_MESSAGE_BYTES_MAX."""

    returned: Callable[[], None]  # called when the bus is back after it was away: what came meanwhile is lost

    @property
    def connected(self) -> bool:
        """False while the bus is known to be away."""

    async def publish(self, subject: str, payload: bytes) -> None:
        """Fire and forget. While the bus is away it is dropped and counted, never queued without bound."""

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Ask and wait. Raises NoResponders, BusTimeout or Unavailable (all but the last are BusError)."""

    async def serve(self, subject: str, handler: Handler, queue: str = "", concurrent: bool = False) -> Served:
        """Call `handler` for each message; with `queue` one member of the group gets each message. `*` in a subject
        stands for one token.

        Messages of one subject are handled one after the other, in order; `concurrent` handles each in a
        task of its own (the handler bounds them).
        """

    async def close(self) -> None:
        """Stop serving, let running handlers answer, disconnect."""


class _Client(Client):
    """nats-py closes for good at almost any -ERR: a slow consumer, an expired login. We come again."""

    async def _process_err(self, err_msg: str) -> None:
        error = nats.errors.Error(err_msg)
        await self._error_cb(error)
        if _OF_ONE_SUBJECT not in err_msg:
            await self._process_op_err(error)


class _Subscribed:
    """Served over NATS Core."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def stop(self) -> None:
        # While the bus is away or closes this only forgets it here; the server does with the connection.
        with contextlib.suppress(nats.errors.Error):
            await self._subscription.unsubscribe()


class NatsBus:
    """Bus over NATS Core."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.returned: Callable[[], None] = _nothing
        self._running: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(cls, url: str, name: str) -> "NatsBus":
        """Connect, waiting up to STARTUP_DEADLINE_S for the server. Raises Unavailable."""

        server = f"NATS at {without_login(url)}"
        said: set[type[Exception]] = set()  # each kind of error once per outage: it comes every second

        async def on_error(error: Exception) -> None:
            if isinstance(error, nats.errors.SlowConsumerError):
                telemetry.BUS_DROPPED.inc()
            if type(error) not in said:
                said.add(type(error))
                _log.warning("bus_error", server=server, error=type(error).__name__)

        async def on_disconnect() -> None:
            _log.warning("bus_disconnected")

        async def on_reconnect() -> None:
            said.clear()
            _log.info("bus_reconnected")
            bus.returned()

        client = _Client()
        bus = cls(client)
        try:
            # With reconnects unbounded nats-py also retries the first connect for ever: the deadline is ours.
            async with asyncio.timeout(STARTUP_DEADLINE_S):
                await client.connect(
                    servers=url.split(","), name=name, max_reconnect_attempts=-1,
                    reconnect_time_wait=1, connect_timeout=2, ping_interval=5, max_outstanding_pings=2,
                    error_cb=on_error, disconnected_cb=on_disconnect, reconnected_cb=on_reconnect,
                    pending_size=BUS_PENDING_BYTES_MAX,
                )  # fmt: skip
        except (OSError, nats.errors.Error, TimeoutError) as error:
            raise Unavailable(f"{server} did not answer within {STARTUP_DEADLINE_S} s") from error
        return bus

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected)

    async def publish(self, subject: str, payload: bytes) -> None:
        if not self._client.is_connected:
            telemetry.BUS_DROPPED.inc()
            return
        try:
            await self._client.publish(subject, payload)
        except nats.errors.Error as error:  # it closed, or its buffer filled, between the check and the call
            telemetry.BUS_DROPPED.inc()
            _log.warning("bus_publish_dropped", error=type(error).__name__)

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        if not self._client.is_connected:
            raise Unavailable("NATS is away")
        try:
            reply: Msg = await self._client.request(subject, payload, timeout=timeout_s)
        except nats.errors.NoRespondersError as error:
            raise NoResponders(subject) from error
        except (nats.errors.TimeoutError, TimeoutError) as error:
            raise BusTimeout(subject) from error
        except nats.errors.Error as error:
            raise BusError(f"{subject}: {type(error).__name__}") from error
        return reply.data

    async def serve(self, subject: str, handler: Handler, queue: str = "", concurrent: bool = False) -> Served:
        async def answer(message: Msg) -> None:
            reply = await handler(message.subject, message.data)
            if reply is not None and message.reply:
                await message.respond(reply)

        async def on_message(message: Msg) -> None:
            if not concurrent:
                await answer(message)
                return
            task = asyncio.create_task(answer(message))
            self._running.add(task)
            task.add_done_callback(self._finished)

        subscription = await self._client.subscribe(
            subject, queue=queue, cb=on_message,
            pending_msgs_limit=BUS_PENDING_MESSAGES_MAX, pending_bytes_limit=BUS_PENDING_BYTES_MAX,
        )  # fmt: skip
        return _Subscribed(subscription)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("bus_error", error=type(error).__name__)

    async def close(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSE_S)
        if self._client.is_connected:
            await self._client.drain()
        else:
            await self._client.close()


def _nothing() -> None:
    """Until somebody asks to be told."""


def without_login(url: str) -> str:
    """Server URLs as a log or a user may see them."""
    return ",".join(part.rpartition("@")[2].removeprefix("nats://") for part in url.split(","))
