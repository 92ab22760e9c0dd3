"""A device of one user, as a Locust user: connects, acks after a think time, drops, comes back with its cursor.

Rows of Locust's tables: `connect` (TCP connect to `welcome`), `resume` (the same with a cursor, to `resumed`),
`deliver high|medium|low` (from the moment that the event was due at the publisher), `replay` (the same of events
that fell due while the device was away), `ack` (to the answer of a PING right behind it: the gateway has taken it)
and `ping`. A notification that comes again is acked again and no row. What a refusal (429, 503) costs is part of
`connect`: the clock runs from the first attempt.
"""

import base64
import json
import math
import random
import time
from typing import Any, ClassVar, Final, NamedTuple

import gevent
import websocket
from locust import User, task
from locust.exception import StopUser
from websocket import ABNF, WebSocketBadStatusException, WebSocketException, WebSocketTimeoutException

from bench.locust.ledger import LEDGER
from bench.locust.shapes import TENANT
from herald.tokens import mint
from notification.frames import CONNECT_PATH, SUBPROTOCOL
from notification.settings import Settings, load

PROTOCOL: Final = "WebSocket"  # Locust's column "Type"
SETTINGS: Final[Settings] = load()[0]
_OPEN_S: Final = 20.0
_TOKEN_S: Final = 86_400
_PING_EVERY_S: Final = 10.0
_ANSWER_S: Final = 10.0  # a PING without its PONG by then is a failure
_SPREAD_S: Final = (0.5, 30.0)  # of full jitter: the first attempt's, the most
_ACK_AFTER_S: Final = 1.0  # PINGs behind acks: at most one a second


class Manners(NamedTuple):
    """How people use the app. Times in seconds; `stays_s` is the mean of an exponential distribution."""

    think_s: tuple[float, float] = (0.2, 2.0)
    stays_s: float = 60.0
    away_s: tuple[float, float] = (0.5, 5.0)


class _Refused(Exception):
    """By status; `retry_s` is what the server asked for, if it did."""

    def __init__(self, status: int, retry_s: float | None) -> None:
        super().__init__(f"HTTP {status}")
        self.retry_s = retry_s


class Device(User):
    """One device of a user of its own. A profile derives from it and may set `tenant`, `prefix` and `manners`."""

    abstract = True
    tenant: ClassVar[str] = TENANT
    prefix: ClassVar[str] = ""  # of its rows
    manners: ClassVar[Manners] = Manners()

    def on_start(self) -> None:
        """Called by Locust when the user begins."""
        self.name = LEDGER.enter(self.tenant)
        self._cursor: dict[str, Any] = {}
        self._socket: websocket.WebSocket | None = None
        self._unacked: list[str] = []
        self._asked: dict[bytes, tuple[str, float]] = {}  # PING's payload -> row, when
        self._live = False  # `resumed` was heard
        self._live_s = math.inf  # when, in Unix seconds
        self._leave_s = 0.0

    def on_stop(self) -> None:
        """Called by Locust when the user ends."""
        LEDGER.leave(self.tenant, self.name)
        self.drop()

    @task
    def live(self) -> None:
        """One session and the pause after it; Locust calls it again and again."""
        self._come()
        self._session()
        gevent.sleep(self.pause_s())

    def pause_s(self) -> float:
        """How long it stays away after a session."""
        return random.uniform(*self.manners.away_s)

    def drop(self) -> None:
        """The network is gone: no close frame."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.shutdown()  # type: ignore[no-untyped-call]

    # --- coming -------------------------------------------------------------
    def _come(self) -> None:
        """Connect, as often as it takes."""
        row = "resume" if self._cursor else "connect"
        began_s = time.monotonic()
        attempt = 0
        while True:
            try:
                self._connect()
                break
            except _Refused as error:
                LEDGER.refusals[str(error)] += 1
                pause_s = error.retry_s
            except (OSError, WebSocketException) as error:
                self._since(row, began_s, error)
                pause_s = None
            attempt += 1
            most_s = min(_SPREAD_S[1], _SPREAD_S[0] * 2**attempt)
            gevent.sleep((pause_s or 0) * random.uniform(1, 2) or random.uniform(0, most_s))
        self._row, self._began_s = row, began_s

    def _connect(self) -> None:
        url = (
            f"{SETTINGS.gateway_scheme}://{SETTINGS.gateway_host}:{SETTINGS.gateway_port}{CONNECT_PATH}?device=app"
        )
        if self._cursor:
            text = json.dumps(self._cursor, separators=(",", ":")).encode()
            url += "&cursor=" + base64.urlsafe_b64encode(text).rstrip(b"=").decode()
        token, _ = mint(SETTINGS, self.tenant, self.name, None, _TOKEN_S)
        try:
            self._socket = websocket.create_connection(
                url, timeout=_OPEN_S, subprotocols=[SUBPROTOCOL], suppress_origin=True,
                header=[f"Authorization: Bearer {token}"],
            )  # fmt: skip
        except WebSocketBadStatusException as error:
            if error.status_code not in (429, 503):
                self._fire("connect", 0, error)
                raise StopUser from error
            asked = (error.resp_headers or {}).get("retry-after")
            raise _Refused(error.status_code, float(asked) if asked else None) from error

    # --- one session --------------------------------------------------------
    def _session(self) -> None:
        """Until it leaves of itself, or the server or the network ends it."""
        self._live = False
        self._live_s = math.inf
        self._unacked, self._asked = [], {}
        self._leave_s = time.monotonic() + random.expovariate(1 / self.manners.stays_s)
        ping_s = time.monotonic() + random.uniform(0, _PING_EVERY_S)
        ack_s = 0.0
        while self._socket is not None:
            now_s = time.monotonic()
            if self._live and now_s >= self._leave_s:
                self.drop()
                return
            if self._unacked and now_s >= ack_s:
                self._ack()
                ack_s = now_s + max(_ACK_AFTER_S, random.uniform(*self.manners.think_s))
            if now_s >= ping_s:
                self._ping("ping")
                ping_s = now_s + _PING_EVERY_S
            due_s = min(ping_s, ack_s if self._unacked else ping_s, self._leave_s if self._live else ping_s)
            self._hear(max(0.001, due_s - time.monotonic()))

    def _hear(self, wait_s: float) -> None:
        """One frame, if one comes in time."""
        socket = self._socket
        assert socket is not None
        socket.settimeout(wait_s)
        try:
            opcode, data = socket.recv_data(control_frame=True)
        except WebSocketTimeoutException:
            self._overdue()
            return
        except (OSError, WebSocketException) as error:
            if self._socket is socket:  # else it was dropped meanwhile
                self._end(type(error).__name__)
            return
        if opcode == ABNF.OPCODE_TEXT:
            self._take(json.loads(data))
        elif opcode == ABNF.OPCODE_PONG:
            if (asked := self._asked.pop(bytes(data), None)) is not None:
                self._since(*asked)
        elif opcode == ABNF.OPCODE_CLOSE:
            self._end(str(int.from_bytes(data[:2], "big")))

    def _take(self, frame: dict[str, Any]) -> None:
        match frame["t"]:
            case "welcome":
                if frame["recovered"] is not True or self._cursor.get("epoch") != frame["epoch"]:
                    self._cursor = {"epoch": frame["epoch"], "at": {}}
                if self._row == "connect":
                    self._since("connect", self._began_s)
            case "n":
                if LEDGER.take(frame["id"]):
                    due_s = float(frame["p"]["body"]) / 1_000
                    row = "replay" if due_s < self._live_s else f"deliver {frame['priority']}"
                    self._fire(row, (time.time() - due_s) * 1_000)
                self._unacked.append(frame["id"])
                self._at(frame["lane"], frame["seq"])
            case "resumed":
                self._live = True
                self._live_s = min(self._live_s, time.time())
                for lane, seq in frame["at"].items():
                    self._at(lane, seq)
                if self._row == "resume":
                    self._since("resume", self._began_s)
            case "goaway":
                self._leave_s = min(self._leave_s, time.monotonic() + frame["delay_ms"] / 1_000)

    def _at(self, lane: str, seq: int) -> None:
        at = self._cursor["at"]
        at[lane] = max(seq, at.get(lane, 0))

    def _ack(self) -> None:
        ids, self._unacked = self._unacked[:256], self._unacked[256:]
        self._send(json.dumps({"t": "ack", "ids": ids}), ABNF.OPCODE_TEXT)
        self._ping("ack")

    def _ping(self, row: str) -> None:
        mark = random.randbytes(8)
        self._asked[mark] = row, time.monotonic()
        self._send(mark, ABNF.OPCODE_PING)

    def _send(self, data: str | bytes, opcode: int) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(data, opcode)
        except (OSError, WebSocketException) as error:
            self._end(type(error).__name__)

    def _overdue(self) -> None:
        now_s = time.monotonic()
        for mark, (row, asked_s) in list(self._asked.items()):
            if now_s - asked_s > _ANSWER_S:
                del self._asked[mark]
                self._since(row, asked_s, TimeoutError("no PONG"))

    def _end(self, why: str) -> None:
        LEDGER.ends[why] += 1
        self.drop()

    def _since(self, row: str, began_s: float, error: Exception | None = None) -> None:
        self._fire(row, (time.monotonic() - began_s) * 1_000, error)

    def _fire(self, row: str, took_ms: float, error: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type=PROTOCOL, name=self.prefix + row, response_time=took_ms, response_length=0,
            exception=error, context={},
        )  # fmt: skip
