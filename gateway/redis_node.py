"""One Redis server as a pipeline sees it: commands that outlive connections, and the task that keeps one open.

A Link is one TCP connection; a Node owns the Exchange whose commands the links carry. What an error reply means is
for the pipeline above (gateway/pipeline.py, gateway/redis_cluster.py) to say.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import structlog

from gateway._fast.exchange import Exchange
from gateway._fast.resp import ProtocolError, Refusal
from notification.errors import HeraldError, Unavailable
from notification.lifecycle import essential
from notification.limits import REDIS_REPLY_MS_MAX, REDIS_RETRY_MS, REDIS_RETRY_MS_MAX, REDIS_WRITE_BYTES_MAX
from notification.redis_address import Place, RedisAddress

_log = structlog.get_logger("redis")

Argument = str | bytes | int
Told = Callable[[Any], None]
# Who waits for a reply: a call's future, or the `told` of a push.
Waiter = asyncio.Future[Any] | Told | None

# Errors that pass: the server loads, has become a replica, is full. The commands stay and are sent again.
PASSING: Final = frozenset(
    ("LOADING", "READONLY", "OOM", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "BUSY", "NOREPLICAS")
)


class PipelineError(HeraldError):
    """Redis refused a command; the text is its error reply."""


def answer(waiter: Waiter, value: Any) -> None:
    """Hand a reply to who waits for it; an error goes to calls alone."""
    if isinstance(waiter, asyncio.Future):
        if waiter.done():
            return
        if isinstance(value, Refusal):
            waiter.set_exception(PipelineError(value.text))
        else:
            waiter.set_result(value)
    elif waiter is not None and not isinstance(value, Refusal):
        waiter(value)


def fail(waiters: list[Any], text: str) -> None:
    """Calls that get no reply any more."""
    for waiter in waiters:
        if isinstance(waiter, asyncio.Future) and not waiter.done():
            waiter.set_exception(Unavailable(text))


class Link(asyncio.Protocol):
    """One TCP connection: first ask()s, then, after carry(), the commands of an Exchange, one write per flush."""

    def __init__(self) -> None:
        self._exchange = Exchange()
        self._refused: Callable[[Waiter, Refusal], None] = self._answer_refused
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._ended = False
        self.heard_s = time.monotonic()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def carry(self, exchange: Exchange, refused: Callable[[Waiter, Refusal], None]) -> None:
        """Greeted: from now on these commands; `refused` decides on each error (forget() it, or end())."""
        self._exchange = exchange
        self._refused = refused

    async def ask(self, *command: Argument) -> Any:
        """One command and its reply, a Refusal too. Raises Unavailable when the connection ends before it."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._exchange.put(command, reply, once=True)
        self.flush()
        await asyncio.wait((reply, self.lost), return_when=asyncio.FIRST_COMPLETED)
        if not reply.done():
            raise Unavailable("Redis ended the connection")
        try:
            return reply.result()
        except PipelineError as error:
            return Refusal(str(error))

    def flush(self) -> None:
        """Write what waits, as far as the socket takes it."""
        if self._transport is None or self._ended:
            return
        if not self._exchange.sent:
            self.heard_s = time.monotonic()  # nothing was due until now
        while not self._paused and (out := self._exchange.take(REDIS_WRITE_BYTES_MAX)):
            self._transport.write(out)

    @property
    def stalled(self) -> bool:
        """A reply is due, and nothing has come for REDIS_REPLY_MS_MAX."""
        return self._exchange.sent > 0 and (time.monotonic() - self.heard_s) * 1_000 > REDIS_REPLY_MS_MAX

    def end(self) -> None:
        """Drop the connection; what comes yet is not heard."""
        self._ended = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self.heard_s = time.monotonic()
        exchange = self._exchange
        exchange.feed(data)
        try:
            while (reply := exchange.next()) is not None:
                waiter, value = reply
                if isinstance(value, Refusal):
                    self._refused(waiter, value)
                    if self._ended:
                        return
                else:
                    answer(waiter, value)
        except ProtocolError as error:
            _log.warning("redis_protocol_error", reason=str(error))
            self.end()

    def _answer_refused(self, waiter: Waiter, refusal: Refusal) -> None:
        self._exchange.forget()
        answer(waiter, refusal)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        if not self.lost.done():
            self.lost.set_result(None)


async def open_link(place: Place, tls: bool = False) -> Link:
    """Connect. Raises OSError or TimeoutError, the latter after REDIS_REPLY_MS_MAX."""
    try:
        async with asyncio.timeout(REDIS_REPLY_MS_MAX / 1_000):
            _, link = await asyncio.get_running_loop().create_connection(Link, *place, ssl=tls or None)
    except UnicodeError as error:  # a server may name others as it likes
        raise OSError("not a host name") from error
    return link


async def log_in(link: Link, user: str, password: str) -> bool:
    """False when the server refuses the login; without a password there is none. Raises Unavailable."""
    if not password:
        return True
    reply = await link.ask("AUTH", *((user,) if user else ()), password)
    if isinstance(reply, Refusal):
        _log.error("redis_refused_login", command="AUTH", error=reply.code)
    return not isinstance(reply, Refusal)


async def greet(link: Link, address: RedisAddress) -> bool:
    """Log in; False when it is refused, or the server is not the master that a Sentinel says it is.

    Raises Unavailable.
    """
    if not await log_in(link, address.user, address.password):
        return False
    # Also finds out who is still loading or wants a login.
    if isinstance(reply := await link.ask("SELECT", address.database), Refusal):
        _log.error("redis_refused_login", command="SELECT", error=reply.code)
        return False
    role = await link.ask("ROLE") if address.master else [b"master"]
    if not isinstance(role, list) or role[:1] != [b"master"]:
        _log.warning("redis_not_master", error=role.code if isinstance(role, Refusal) else "")
        return False
    return True


class Node:
    """A server whose place `locate` finds anew for each connection; commands go into `exchange`, then wake().

    `refused(node, waiter, refusal)` decides on an error reply: node.exchange.forget(), or node.drop() to have the
    command sent again. `changed(node)`: it came up, went away, or did not come up.
    """

    def __init__(
        self,
        address: RedisAddress,
        locate: Callable[[], Awaitable[Place]],
        refused: Callable[["Node", Waiter, Refusal], None],
        changed: Callable[["Node"], None],
    ) -> None:
        self.exchange = Exchange()
        self.connected = False
        self.held = False  # nothing is sent for the time being
        self.place: Place = ("", 0)  # of the last connection
        self._address = address
        self._locate = locate
        self._refused = refused
        self._changed = changed
        self._link: Link | None = None
        self._flushing = False
        self._doubtful = False  # the server refused for now: no reason to come back sooner
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect, and connect again after every loss."""
        self._task = essential(self._run())

    async def close(self) -> None:
        """Disconnect for good; calls fail, and what is unsent is given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._away()
        self.exchange.clear()

    def wake(self) -> None:
        """The exchange has got commands: they leave in one write, once this turn of the loop is over."""
        if self.connected and not self._flushing and not self.held:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self.connected and self._link is not None and not self.held:
            self._link.flush()

    def drop(self) -> None:
        """End the connection because the server refuses for now; the next one comes after a pause."""
        self._doubtful = True
        if self._link is not None:
            self._link.end()

    async def _run(self) -> None:
        pause_ms = REDIS_RETRY_MS
        while True:
            if await self._connect():
                await self._serve()
                _log.warning("redis_away", queued=len(self.exchange))
                if not self._doubtful:
                    pause_ms = REDIS_RETRY_MS
            self._changed(self)
            await asyncio.sleep(pause_ms * random.uniform(0.5, 1.5) / 1_000)  # noqa: S311 - jitter, not a secret
            pause_ms = min(pause_ms * 2, REDIS_RETRY_MS_MAX)

    async def _connect(self) -> bool:
        """Find the server, connect, log in; whether it now takes commands."""
        try:
            self.place = await self._locate()
            link = self._link = await open_link(self.place, self._address.tls)
            async with asyncio.timeout(REDIS_REPLY_MS_MAX / 1_000):
                accepted = await greet(link, self._address)
        except (OSError, TimeoutError, Unavailable) as error:
            _log.debug("redis_connect_failed", error=type(error).__name__)
            accepted = False
        if not accepted:
            self._end_link()
            return False
        self.connected = True
        self._doubtful = False
        link.carry(self.exchange, self._on_refused)
        self._changed(self)
        self._flush()
        return True

    def _on_refused(self, waiter: Waiter, refusal: Refusal) -> None:
        self._refused(self, waiter, refusal)

    async def _serve(self) -> None:
        """Until the link is lost or stalls."""
        link = self._link
        assert link is not None
        while not link.lost.done():
            await asyncio.wait((link.lost,), timeout=REDIS_REPLY_MS_MAX / 4_000)
            if link.stalled and not link.lost.done():
                _log.warning("redis_stalled")
                link.end()
        self._away()

    def _away(self) -> None:
        """Without a connection calls fail; pushes stay, in order."""
        self.connected = False
        self._end_link()
        fail(self.exchange.rewind(), "Redis went away before it answered")

    def _end_link(self) -> None:
        if self._link is not None:
            self._link.end()
            self._link = None
