"""The Python client of protocol v1 (`herald.v1`): iterate notifications, ack them, survive reconnects.

    async with HeraldClient(url, token, device="laptop") as client:
        async for n in client:
            keep(n)              # make it safe first,
            await client.ack(n)  # then ack: the cursor follows the acks

Opening (`async with`) waits for the first session and raises a typed error when there is none; afterwards lost
connections are reopened with full jitter, obeying goaway, close codes and Retry-After. Each notification is
yielded once per client object, however often the server repeats it. Keep `cursor` (with `cursor_to_text`) to go
on where this device stopped. What is recalled before the app took it is never yielded.

What it raises: herald/client_errors.py.
"""

import asyncio
import base64
import collections
import contextlib
import json
import logging
import random
import time
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from picows import WSInvalidURL, websockets

from herald.client_errors import ClientError, NotConnected, Refused, SessionEnded, Unreachable
from herald.client_requests import Requests
from herald.lanes import Lanes
from notification.codes import CLOSES, REFUSALS
from notification.frames import (
    RECALLED,
    SUBPROTOCOL,
    Ack,
    ClientFrame,
    Counters,
    CountersFrame,
    Cursor,
    ErrorFrame,
    Goaway,
    Notification,
    Page,
    PageFrame,
    Pong,
    Reauth,
    Resumed,
    ServerFrame,
    SetState,
    State,
    StateFrame,
    Welcome,
    cursor_to_text,
    decode_server,
    encode,
)
from notification.limits import PAGE_ITEMS_DEFAULT, UNACKED_PER_CONNECTION_MAX

# Reconnect delay: U(0, min(cap, base * 2^attempt)), "full jitter", so that a restarted gateway sees no wave.
BACKOFF_BASE_S: Final = 0.5
BACKOFF_CAP_S: Final = 30.0
STABLE_S: Final = 10.0  # a session that lived this long starts the backoff afresh
REAUTH_BEFORE_S: Final = 60.0  # renew the token this long before `exp`, or at half of a shorter life
SEEN_IDS_MAX: Final = 8_192  # remembered to drop repeats; far above UNACKED_PER_CONNECTION_MAX
QUEUE_ITEMS_MAX: Final = 2 * UNACKED_PER_CONNECTION_MAX  # received, not yet taken; then the socket waits
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024  # the largest page: PAGE_ITEMS_MAX payloads with their escapes

_STAYS_CLOSED: Final = frozenset(close.code for close in CLOSES if not close.reconnect)
_TRY_LATER: Final = frozenset(
    refusal.status for refusal in REFUSALS if any(name == "Retry-After" for name, _ in refusal.headers)
)

_log: Final = logging.getLogger("herald.client")

TokenProvider = Callable[[], Awaitable[str]]


class _TryLater(Exception):
    """An attempt failed in a way that a retry may mend; `delay_s` is the server's Retry-After or None."""

    def __init__(self, cause: str, delay_s: float | None = None) -> None:
        super().__init__(cause)
        self.delay_s = delay_s


class HeraldClient:
    """One device of one user. Not thread-safe; use it inside one event loop.

    `url`: ws:// or wss:// with the path (`/ws/connect`). `token`: called before each connect and reauth.
    `device`: 1-64 of A-Z a-z 0-9 _ -, or None for one that lives as long as its connection. `cursor`: what the
    device already has. `open_timeout_s`: how long the first session may take.
    `on_state`: called with each `state` frame: read, seen, archived on any device, or `recalled` (hide it).
    """

    def __init__(
        self,
        url: str,
        token: TokenProvider,
        *,
        device: str | None = None,
        cursor: Cursor | None = None,
        open_timeout_s: float = 10.0,
        on_state: Callable[[StateFrame], None] | None = None,
    ) -> None:
        self.counters: Counters | None = None
        self.welcome: Welcome | None = None
        self._url = url
        self._token = token
        self._device = device
        self._open_timeout_s = open_timeout_s
        self._on_state = on_state
        self._lanes = Lanes(cursor)
        self._queue: asyncio.Queue[Notification | None] = asyncio.Queue(QUEUE_ITEMS_MAX)
        self._seen: collections.OrderedDict[str, bool] = collections.OrderedDict()  # id -> acked, or recalled
        self._requests = Requests(self._send)
        self._socket: websockets.ClientConnection | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._resumed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timers: set[asyncio.Task[None]] = set()
        self._failure: ClientError | None = None
        self._closing = False
        self._goaway_at: float | None = None  # monotonic seconds

    # --- life -------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(self._open_timeout_s):
                await asyncio.shield(self._opened)
        except TimeoutError:
            await self.close()
            raise self._failure or Unreachable(self._url, "no session in time") from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close with 1000; iteration ends."""
        if self._task is None:
            return
        self._closing = True
        task, self._task = self._task, None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if self._opened.done() and not self._opened.cancelled():
            self._opened.exception()  # read, so that the loop does not report it

    async def __aiter__(self) -> AsyncIterator[Notification]:
        """Notifications in the order of arrival, each once. Raises what ended the session, if not close()."""
        while True:
            frame = await self._queue.get()
            if frame is None:
                if self._failure is not None:
                    raise self._failure
                return
            if self._seen.get(frame.id):  # recalled meanwhile
                await self.ack(frame)
            else:
                yield frame

    async def wait_resumed(self) -> None:
        """Until everything owed at the connect has been received."""
        await self._resumed.wait()

    @property
    def cursor(self) -> Cursor | None:
        """Up to where everything was received and acked; None before the first session."""
        return self._lanes.cursor()

    # --- requests ---------------------------------------------------------------
    async def ack(self, *notifications: Notification) -> None:
        """The app has these safe. While disconnected it is remembered, and sent when the server repeats them."""
        ids = []
        for n in notifications:
            self._seen[n.id] = True
            if self._lanes.acked(n.id):
                ids.append(n.id)
        if ids and self._socket is not None:
            with contextlib.suppress(NotConnected):  # the cursor moved on; the server learns it at the resume
                await self._send(Ack(ids=ids))

    async def set_state(self, ids: list[str], to: State) -> None:
        """Mark notifications on every device of the user. Returns when it is done, or 5 s later if the answer was
        lost; one request is under way at a time, and asked again while the server is busy. Raises NotConnected,
        ServerBusy."""
        await self._requests.set_state(SetState(ids=ids, to=to))

    async def page(self, before: str | None = None, limit: int = PAGE_ITEMS_DEFAULT) -> PageFrame:
        """Inbox rows before the id `before`, newest first; as set_state() for the rest."""
        return await self._requests.page(Page(before=before, limit=limit))

    async def _send(self, frame: ClientFrame) -> None:
        if self._socket is None:
            raise NotConnected("the connection is down")
        try:
            await self._socket.send(encode(frame).decode())
        except websockets.ConnectionClosed as error:
            raise NotConnected("the connection was lost") from error

    # --- the connection ---------------------------------------------------------
    async def _run(self) -> None:
        """Keep a session until it may not be reopened. Ends the iteration with None."""
        attempt = 0
        try:
            while True:
                began = time.monotonic()
                delay_s: float | None = None
                try:
                    delay_s = await self._session()
                except _TryLater as error:
                    delay_s = error.delay_s
                    if not self._opened.done():
                        self._failure = Unreachable(self._url, str(error))
                if self._closing:  # the cancellation may have been lost in a wait_for that was just done
                    return self._end(None)
                attempt = 0 if time.monotonic() - began >= STABLE_S else attempt + 1
                if delay_s is None:
                    ceiling_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt, 16))
                    delay_s = random.uniform(0, ceiling_s)  # noqa: S311 - jitter, not a secret
                await asyncio.sleep(delay_s)
        except ClientError as error:
            self._end(error)
        except asyncio.CancelledError:
            self._end(None)
            raise
        except Exception as error:  # the token provider's or the app's callback's: theirs to see, never lost
            self._end(ClientError(f"the client stopped: {type(error).__name__}: {error}"))

    def _end(self, error: ClientError | None) -> None:
        self._failure = error if error is not None else self._failure
        if not self._opened.done():
            if error is not None:
                self._opened.set_exception(error)
            else:
                self._opened.cancel()
        if self._queue.full():
            self._queue.get_nowait()  # unacked, so the server repeats it; the end must fit
        self._queue.put_nowait(None)

    def _address(self) -> str:
        query = {"device": self._device} if self._device else {}
        cursor = self._lanes.cursor()
        if cursor is not None:
            query["cursor"] = cursor_to_text(cursor)
        return f"{self._url}?{urllib.parse.urlencode(query)}" if query else self._url

    async def _session(self) -> float | None:
        """One connection, start to end. Returns seconds to wait, None = backoff. Raises ClientError, _TryLater."""
        token = await self._token()
        socket = await self._open(token)
        self._goaway_at = None
        try:
            if socket.subprotocol != SUBPROTOCOL:
                raise Refused(101, "subprotocol")
            self._socket = socket
            self._later(_reauth_in_s(token), self._reauth)
            while True:
                await self._on_frame(decode_server(await socket.recv()))
        except websockets.ConnectionClosed as error:
            return self._after_close(error)
        except msgspec.DecodeError as error:
            raise SessionEnded(1002, "the server sent a frame that is not of herald.v1") from error
        finally:
            self._socket = None
            self._resumed.clear()
            for timer in self._timers:
                timer.cancel()
            self._requests.cut()
            await socket.close()

    async def _open(self, token: str) -> websockets.ClientConnection:
        try:
            return await websockets.connect(
                self._address(), subprotocols=[websockets.Subprotocol(SUBPROTOCOL)], compression=None,
                additional_headers={"Authorization": f"Bearer {token}"}, max_size=MESSAGE_BYTES_MAX,
                open_timeout=self._open_timeout_s, close_timeout=1, proxy=None,
            )  # fmt: skip
        except websockets.InvalidStatus as error:
            status = int(error.response.status_code)
            if status in _TRY_LATER:
                after = error.response.headers.get("Retry-After", "")
                # Spread the herd that was told the same second.
                delay_s = int(after) * random.uniform(1, 2) if after.isdecimal() else None  # noqa: S311
                raise _TryLater(f"HTTP {status}", delay_s) from error
            raise Refused(status, _refusal_code(status, error.response.body)) from error
        except (websockets.InvalidURI, WSInvalidURL) as error:
            raise Unreachable(self._url, "not a ws:// or wss:// address") from error
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            raise _TryLater(str(error) or type(error).__name__) from error
        except AssertionError as error:  # picows's word for a peer that closes before its answer
            raise _TryLater("closed during the handshake") from error

    def _after_close(self, error: websockets.ConnectionClosed) -> float | None:
        close = error.rcvd
        code = int(getattr(close.code, "value", close.code)) if close is not None else 1006
        if self._goaway_at is not None:
            return max(0.0, self._goaway_at - time.monotonic())
        if code in _STAYS_CLOSED:
            raise SessionEnded(code, close.reason or "")
        if not self._opened.done():
            self._failure = SessionEnded(code, (close.reason if close else "") or "connection lost")
        return None

    # --- frames -----------------------------------------------------------------
    async def _on_frame(self, frame: ServerFrame) -> None:
        match frame:
            case Notification():
                await self._on_notification(frame)
            case Welcome():
                self.welcome = frame
                if frame.epoch != self._lanes.epoch:
                    self.counters = None  # another log: its `rev` begins anew
                self._lanes.begin(frame.epoch, keep=frame.recovered is not False)
                self._failure = None
                if not self._opened.done():
                    self._opened.set_result(None)
            case Resumed():
                self._lanes.complete(frame.at, frame.recovered)
                self._count(frame.counters)
                self._resumed.set()
            case CountersFrame():
                self._count(Counters(frame.unread, frame.rev))
            case StateFrame():
                self._count(Counters(frame.unread, frame.rev))
                if frame.to == RECALLED:  # a notification that its frame may have overtaken counts as had
                    for ident in frame.ids:
                        self._remember(ident, True)
                if self._on_state is not None:
                    self._on_state(frame)
            case PageFrame():
                self._count(frame.counters)
            case Goaway():
                self._goaway_at = time.monotonic() + frame.delay_ms / 1000
                self._later(frame.delay_ms / 1000, self._leave)
            case ErrorFrame() | Pong():
                pass
        self._requests.told(frame)

    async def _on_notification(self, frame: Notification) -> None:
        self._lanes.received(frame)
        acked = self._seen.get(frame.id)
        if acked is None:
            self._remember(frame.id, False)
            await self._queue.put(frame)
        elif acked:
            self._lanes.acked(frame.id)
            with contextlib.suppress(NotConnected):  # the reader sees the close next
                await self._send(Ack(ids=[frame.id]))

    def _remember(self, ident: str, done: bool) -> None:
        self._seen[ident] = done
        if len(self._seen) > SEEN_IDS_MAX:
            self._seen.popitem(last=False)

    def _count(self, counters: Counters) -> None:
        """The highest rev counts; within one only expiry changes the count, so the lowest is the latest."""
        held = self.counters
        if held is None or (counters.rev, -counters.unread) > (held.rev, -held.unread):
            self.counters = counters

    # --- timers of one connection -----------------------------------------------
    def _later(self, delay_s: float | None, act: Callable[[], Awaitable[None]]) -> None:
        if delay_s is None:
            return

        async def wait() -> None:
            await asyncio.sleep(delay_s)
            await act()

        timer = asyncio.create_task(wait())
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)

    async def _reauth(self) -> None:
        try:
            token = await self._token()
        except Exception as error:  # the provider's own; the session lives on until the server closes 4401
            _log.warning("token provider failed: %s: %s", type(error).__name__, error)
            return
        with contextlib.suppress(NotConnected):  # the next connect asks for a token anyway
            await self._send(Reauth(token=token))
            self._later(_reauth_in_s(token), self._reauth)

    async def _leave(self) -> None:
        if self._socket is not None:
            await self._socket.close()


def _reauth_in_s(token: str) -> float | None:
    """Seconds until the token should be renewed, from its unverified `exp`; None if it says nothing we can read."""
    try:
        part = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        left_s = float(claims["exp"]) - time.time()
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return max(1.0, left_s - REAUTH_BEFORE_S, left_s / 2 if left_s < 2 * REAUTH_BEFORE_S else 0.0)


def _refusal_code(status: int, body: bytes | None) -> str:
    """The fixed body's `error`; where the body did not arrive, the first code of that status."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body or b"")["error"])
    return next((refusal.code for refusal in REFUSALS if refusal.status == status), "unknown")
