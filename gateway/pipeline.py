"""The road to Redis: commands packed by hiredis, one write per loop tick, one connection.

`push` is kept until Redis answered it and is sent again, in order, after an outage; `call` waits for
its reply and fails while Redis is away. tests/twins/pipeline.py is the memory twin under the same contract tests.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

import hiredis
import structlog

from notification.errors import HeraldError, SettingsError, Unavailable
from notification.limits import (
    PIPELINE_COMMANDS_MAX,
    REDIS_REPLY_MS_MAX,
    REDIS_RETRY_MS,
    REDIS_RETRY_MS_MAX,
)

_log = structlog.get_logger("pipeline")

Argument = str | bytes | int
Told = Callable[[Any], None]
_pack: Final[Callable[[tuple[Argument, ...]], bytes]] = hiredis.pack_command  # type: ignore[assignment]

# Errors that pass: the server loads, is a replica, is full. The commands stay queued and are sent again.
_PASSING: Final = (
    "LOADING", "READONLY", "OOM", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "BUSY", "NOREPLICAS",
)  # fmt: skip


class PipelineError(HeraldError):
    """Redis refused a command; the text is its error reply."""


class Pipeline(Protocol):
    """Commands in order on one connection."""

    @property
    def connected(self) -> bool:
        """Redis answers now."""

    @property
    def queued(self) -> int:
        """Commands without a reply yet, at most PIPELINE_COMMANDS_MAX."""

    def push(self, *command: Argument, told: Told | None = None) -> bool:
        """Queue a command that survives outages; False = dropped, the queue is full.

        `told` hears the reply when it comes, unless it is an error (which is logged); it must not raise.
        """

    async def call(self, *command: Argument) -> Any:
        """Send and wait. Raises Unavailable (away, or lost before the reply) or PipelineError."""

    async def close(self) -> None:
        """Give up what is unsent and disconnect."""


class _Command:
    __slots__ = ("packed", "reply", "told")

    def __init__(self, packed: bytes, reply: "asyncio.Future[Any] | None", told: Told | None = None) -> None:
        self.packed = packed
        self.reply = reply
        self.told = told


class _Address:
    """A parsed redis:// or rediss:// URL. Raises SettingsError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise SettingsError("redis: must be redis://[user:password@]host:port/db")
        try:
            self.port = parts.port or 6379
            self.database = int(parts.path.strip("/") or "0")
        except ValueError as error:
            raise SettingsError("redis: port and database must be numbers") from error
        self.host = parts.hostname
        self.tls = parts.scheme == "rediss"
        self.user = unquote(parts.username or "")
        self.password = unquote(parts.password or "")

    def greeting(self) -> list[bytes]:
        """The commands every connection starts with; each must be answered OK."""
        commands: list[tuple[Argument, ...]] = []
        if self.password:
            commands.append(("AUTH", self.user, self.password) if self.user else ("AUTH", self.password))
        commands.append(("SELECT", self.database))
        return [_pack(command) for command in commands]


class _Link(asyncio.Protocol):
    """One TCP connection: bytes to replies."""

    def __init__(self, pipeline: "RedisPipeline") -> None:
        self._pipeline = pipeline
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _MORE:
                if not self._pipeline.replied(reply):
                    return
        except hiredis.ProtocolError:
            _log.warning("redis_protocol_error")
            self._pipeline.drop_link()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


_MORE: Final = object()


class RedisPipeline:
    """Pipeline over one Redis or Valkey connection that it keeps open."""

    def __init__(self, url: str) -> None:
        self._address = _Address(url)
        self._greeting = self._address.greeting()
        self._waiting: deque[_Command] = deque()  # not written on this connection yet
        self._sent: deque[_Command] = deque()  # written, no reply yet
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._greeted_left = 0
        self._connected = False
        self._flushing = False
        self._closed = False
        self._progress = 0.0
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()

    async def start(self, timeout_s: float) -> None:
        """Connect and keep connected. Raises Unavailable when the first connect takes over `timeout_s`."""
        self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(timeout_s):
                await self._first.wait()
        except TimeoutError as error:
            await self.close()
            where = f"{self._address.host}:{self._address.port}"
            raise Unavailable(f"Redis at {where} did not answer within {timeout_s:g} s") from error

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def queued(self) -> int:
        return len(self._waiting) + len(self._sent)

    def push(self, *command: Argument, told: Told | None = None) -> bool:
        if self.queued >= PIPELINE_COMMANDS_MAX:
            return False
        self._put(_Command(_pack(command), None, told))
        return True

    async def call(self, *command: Argument) -> Any:
        if not self._connected or self.queued >= PIPELINE_COMMANDS_MAX:
            raise Unavailable("Redis is away")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(_Command(_pack(command), reply))
        return await reply

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._disconnect()

    def _put(self, command: _Command) -> None:
        self._waiting.append(command)
        if self._connected and not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is None or not self._connected:
            return
        if not self._sent:
            self._progress = time.monotonic()
        self._out.clear()
        while self._waiting:
            command = self._waiting.popleft()
            self._out.append(command.packed)
            self._sent.append(command)
        if self._out:
            self._transport.write(b"".join(self._out))

    def replied(self, reply: Any) -> bool:
        """The link read one reply; they come in the order of the commands. False = the link is given up."""
        self._progress = time.monotonic()
        if self._greeted_left:
            return self._greet(reply)
        if not self._sent:
            self.drop_link()
            return False
        error = isinstance(reply, hiredis.ReplyError)
        command = self._sent[0]
        if error and command.reply is None and str(reply).startswith(_PASSING):
            _log.warning("redis_refuses_now", error=str(reply).split(" ", 1)[0])
            self.drop_link()  # the command stays first in line and is sent again after the pause
            return False
        self._sent.popleft()
        if command.reply is None:
            if error:
                _log.error("redis_refused_command", error=str(reply))
            elif command.told is not None:
                command.told(reply)
        elif not command.reply.done():
            if error:
                command.reply.set_exception(PipelineError(str(reply)))
            else:
                command.reply.set_result(reply)
        return True

    def _greet(self, reply: Any) -> bool:
        if isinstance(reply, hiredis.ReplyError):
            _log.error("redis_refused_login", error=str(reply))
            self.drop_link()
            return False
        self._greeted_left -= 1
        if self._greeted_left == 0:
            self._connected = True
            self._first.set()
            self._flush()
        return True

    def drop_link(self) -> None:
        """End the connection; the run loop opens another one."""
        if self._transport is not None:
            self._transport.abort()

    async def _run(self) -> None:
        pause_ms = REDIS_RETRY_MS
        while not self._closed:
            link = await self._open()
            if link is not None:
                if await self._serve(link):
                    pause_ms = REDIS_RETRY_MS
                _log.warning("redis_away", queued=self.queued)
            await asyncio.sleep(pause_ms / 1_000)
            pause_ms = min(pause_ms * 2, REDIS_RETRY_MS_MAX)

    async def _open(self) -> _Link | None:
        address = self._address
        try:
            async with asyncio.timeout(REDIS_REPLY_MS_MAX / 1_000):
                transport, link = await asyncio.get_running_loop().create_connection(
                    lambda: _Link(self), address.host, address.port, ssl=address.tls or None
                )
        except (OSError, TimeoutError) as error:
            _log.debug("redis_connect_failed", error=type(error).__name__)
            return None
        self._transport = transport
        self._greeted_left = len(self._greeting)
        self._progress = time.monotonic()
        transport.write(b"".join(self._greeting))
        return link

    async def _serve(self, link: _Link) -> bool:
        """Watch a connection until it is lost or stalls; True if it ever served."""
        served = False
        while not link.lost.done():
            await asyncio.wait((link.lost,), timeout=REDIS_REPLY_MS_MAX / 4_000)
            served = served or self._connected
            stalled = (time.monotonic() - self._progress) * 1_000 > REDIS_REPLY_MS_MAX
            if (self._sent or self._greeted_left) and stalled:
                _log.warning("redis_stalled")
                self.drop_link()
        self._disconnect()
        return served

    def _disconnect(self) -> None:
        """Calls in flight fail; pushes go back to the head of the queue, in order."""
        self._connected = False
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        kept = []
        for command in (*self._sent, *self._waiting):
            if command.reply is None:
                kept.append(command)
            elif not command.reply.done():
                command.reply.set_exception(Unavailable("Redis went away before it answered"))
        self._sent.clear()
        self._waiting = deque(kept)
