"""Plain-Python twin of gateway/_fast/session.pyx. From RFC 6455 and session.pyi; never used in production."""

import codecs
import struct

from notification import limits
from notification.codes import LANE_COUNT, Close, Closes, ReceiptCode

AWAIT_AUTH, RESUMING, LIVE, CLOSING, CLOSED = range(5)
WRITTEN = int(ReceiptCode.WRITTEN)
FULL = int(ReceiptCode.FULL)

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def _may_arrive(code: int) -> bool:
    return code in {1000, 1001, 1002, 1003} or 1007 <= code <= 1014 or 3000 <= code <= 4999


class _Bucket:
    """A token bucket that starts full; time in ms, tokens in thousandths."""

    def __init__(self, per_s: int, burst: int, now_ms: int) -> None:
        self.per_s, self.most, self.at_ms = per_s, burst * 1000, now_ms
        self.tokens = self.most

    def refill(self, now_ms: int) -> None:
        if now_ms > self.at_ms:
            self.tokens = min(self.most, self.tokens + (now_ms - self.at_ms) * self.per_s)
            self.at_ms = now_ms

    def take(self) -> bool:
        if self.tokens < 1000:
            return False
        self.tokens -= 1000
        return True


class Session:
    def __init__(self, now_ms: int) -> None:
        self.tenant = self.user = self.device = ""
        self._id = bytes(16)
        self.tag = b""
        self.connection_epoch = self.token_expiry_ms = self.token_issued_s = self.token_digest = 0
        self.phase = AWAIT_AUTH
        self.close_code = 0
        self.close_sent = self.close_received = self.blocked = self.binary = False
        self._queues: list[list[bytearray]] = [[], [], [], [], []]  # whole frames: control, HIGH, MEDIUM, LOW, last
        self._started = b""  # the rest of a frame that is partly taken
        self._pongs = 0
        # With the frame (a bytearray is itself only), and whether only its ack was asked for again.
        self._window: list[tuple[bytes, int, int, bytearray, bool]] = []
        self._at = [-1] * LANE_COUNT
        self._want = [-1] * LANE_COUNT
        self._parts: list[bytes] | None = None
        self._parts_since_ms = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._frames = _Bucket(limits.CLIENT_FRAMES_PER_S_MAX, limits.CLIENT_FRAMES_BURST_MAX, now_ms)
        self._pings = _Bucket(limits.CLIENT_PINGS_PER_S_MAX, limits.CLIENT_PINGS_BURST_MAX, now_ms)
        self._ack_credit = self._bad = self._ping_number = self._pinged_ms = self._due_ms = 0
        self._rtt_ms = -1

    def authenticate(
        self, tenant: str, user: str, device: str, session_id: bytes, tag: bytes, connection_epoch: int,
        token_expiry_ms: int,
    ) -> None:  # fmt: skip
        if len(session_id) != 16:
            raise ValueError("session_id must be 16 bytes")
        self.tenant, self.user, self.device = tenant, user, device
        self._id, self.tag = session_id, tag
        self.connection_epoch, self.token_expiry_ms = connection_epoch, token_expiry_ms
        if self.phase == AWAIT_AUTH:
            self.phase = RESUMING

    @property
    def session_id(self) -> str:
        return self._id.hex()

    # --- frames in ----------------------------------------------------------
    def feed(self, opcode: int, fin: bool, rsv: int, payload: bytes, now_ms: int) -> bytes | None:
        if self.phase == CLOSED or self.close_received:
            return None
        if self.phase == CLOSING:
            if opcode == _CLOSE:
                self.close_received = True
                self.phase = CLOSED if self.close_sent else CLOSING
            return None
        self._frames.refill(now_ms)
        self._pings.refill(now_ms)
        if self._open_too_long(now_ms):
            return self._violate(Closes.TOO_BIG)
        if rsv:
            return self._violate(Closes.PROTOCOL_ERROR)
        if opcode >= 0x8:
            return self._control(opcode, fin, payload, now_ms)
        return self._data(opcode, fin, payload, now_ms)

    def _open_too_long(self, now_ms: int) -> bool:
        return self._parts is not None and now_ms - self._parts_since_ms > limits.MESSAGE_OPEN_MS_MAX

    def _data(self, opcode: int, fin: bool, payload: bytes, now_ms: int) -> bytes | None:
        if opcode == _CONTINUATION and self._parts is not None:
            return self._piece(fin, payload)
        if opcode == _BINARY and self._parts is None and limits.MESSAGES_TEXT_ONLY:
            return self._violate(Closes.UNSUPPORTED_DATA)
        if opcode not in (_TEXT, _BINARY) or self._parts is not None:
            return self._violate(Closes.PROTOCOL_ERROR)
        self.binary = opcode == _BINARY
        if self._ack_credit:
            self._ack_credit -= 1
        elif not self._frames.take():
            return self._violate(Closes.TOO_FAST)
        self._parts = []
        self._parts_since_ms = now_ms
        self._decoder.reset()
        return self._piece(fin, payload)

    def _piece(self, fin: bool, payload: bytes) -> bytes | None:
        assert self._parts is not None
        self._parts.append(payload)
        whole = b"".join(self._parts)
        if len(whole) > limits.FRAME_BYTES_MAX or len(self._parts) > limits.FRAGMENTS_MAX:
            return self._violate(Closes.TOO_BIG)
        if not self.binary and not self._text_so_far(payload, fin):
            return self._violate(Closes.INVALID_TEXT)
        if not fin:
            return None
        self._parts = None
        return whole

    def _text_so_far(self, payload: bytes, fin: bool) -> bool:
        try:
            self._decoder.decode(payload, fin)
        except UnicodeDecodeError:
            return False
        # CPython keeps half a surrogate back, for the error handler surrogatepass.
        kept = self._decoder.getstate()[0]
        return not (kept[:1] == b"\xed" and kept[1:2] > b"\x9f")

    def _control(self, opcode: int, fin: bool, payload: bytes, now_ms: int) -> bytes | None:
        if not fin or len(payload) > 125 or opcode not in (_CLOSE, _PING, _PONG):
            self._violate(Closes.PROTOCOL_ERROR)
        elif opcode == _CLOSE:
            self._peer_close(payload)
        elif opcode == _PONG and self._due_ms and payload == struct.pack("!I", self._ping_number):
            self._due_ms, self._rtt_ms = 0, now_ms - self._pinged_ms
        elif self._pings.tokens < 1000:
            self._violate(Closes.TOO_FAST)
        elif opcode == _PONG:
            self._pings.take()
        elif self._pongs >= limits.CLIENT_PINGS_BURST_MAX:
            self._violate(Closes.TOO_SLOW)
        else:
            self._pings.take()
            self._pongs += 1
            self._frame(_PONG, payload)
        return None

    def _peer_close(self, payload: bytes) -> None:
        self.close_received = True
        if not payload:
            self._violate(Closes.NORMAL)
            return
        code = struct.unpack("!H", payload[:2])[0] if len(payload) > 1 else 0
        if not _may_arrive(code):
            self._violate(Closes.PROTOCOL_ERROR)
            return
        try:
            payload[2:].decode()
        except UnicodeDecodeError:
            self._violate(Closes.INVALID_TEXT)
        else:
            self._close(code, "")

    # --- frames out ---------------------------------------------------------
    def _frame(self, opcode: int, payload: bytes, frame_class: int = 0) -> bytearray:
        first, count = 0x80 | opcode, len(payload)
        if count < 126:
            head = struct.pack("!BB", first, count)
        elif count < 1 << 16:
            head = struct.pack("!BBH", first, 126, count)
        else:
            head = struct.pack("!BBQ", first, 127, count)
        frame = bytearray(head + payload)
        self._queues[frame_class].append(frame)
        return frame

    def send(self, frame: bytes, binary: bool = False, last: bool = False) -> None:
        if self.phase < CLOSING:
            self._frame(_BINARY if binary else _TEXT, frame, 4 if last else 0)

    def ping(self, now_ms: int) -> None:
        if self.phase >= CLOSING:
            return
        if self._open_too_long(now_ms):
            self._violate(Closes.TOO_BIG)
            return
        self._ping_number += 1
        self._pinged_ms, self._due_ms = now_ms, now_ms + limits.PONG_DUE_MS
        self._frame(_PING, struct.pack("!I", self._ping_number))

    def pong_due_ms(self) -> int:
        return self._due_ms

    def take_rtt_ms(self) -> int:
        rtt_ms, self._rtt_ms = self._rtt_ms, -1
        return rtt_ms

    def bad_frame(self) -> bool:
        self._bad += 1
        if self._bad < limits.BAD_FRAMES_MAX:
            return False
        self._violate(Closes.BAD_FRAMES)
        return True

    def _violate(self, close: Close) -> bytes | None:
        """Always None: what feed() returns for a frame that is no message."""
        self._close(close.code, close.reason)
        return None

    def _close(self, code: int, reason: str) -> None:
        self._parts = None
        if self.phase >= CLOSING:
            return
        cut = reason.encode()[:123].decode(errors="ignore").encode()
        self._frame(_CLOSE, struct.pack("!H", code) + cut, 4)
        self.close_code = code
        self.phase = CLOSING

    def close(self, code: int, reason: str) -> None:
        if not _may_arrive(code):
            raise ValueError(f"{code} is not a close code that may be sent")
        self._close(code, reason)

    def end(self) -> None:
        self.phase = CLOSED
        self._queues, self._started, self._window, self._parts = [[], [], [], [], []], b"", [], None
        self._pongs = self._due_ms = 0

    def pending(self) -> int:
        return len(self._started) + sum(len(frame) for queue in self._queues for frame in queue)

    def take(self, bytes_max: int | None = None) -> bytes:
        room = self.pending() if bytes_max is None else min(self.pending(), bytes_max)
        out = bytearray()
        while len(out) < room:
            if not self._started:
                self._started = bytes(next(queue for queue in self._queues if queue).pop(0))
            part = self._started[: room - len(out)]
            out += part
            self._started = self._started[len(part) :]
        if not self._queues[0]:
            self._pongs = 0
        if self.phase == CLOSING and not self.pending():
            self.close_sent = True
            if self.close_received:
                self.phase = CLOSED
        return bytes(out)

    def _waits(self, frame: bytearray) -> bool:
        return any(frame is one for queue in self._queues for one in queue)

    # --- lanes and window ---------------------------------------------------
    def _check(self, lane: int, ident: bytes = bytes(16)) -> None:
        if lane not in range(LANE_COUNT):
            raise ValueError(f"lane must be 0 to {LANE_COUNT - 1}")
        if len(ident) != 16:
            raise ValueError("ident must be 16 bytes")

    def _put(self, lane: int, body: bytes) -> bytearray:
        self._ack_credit = min(self._ack_credit + 1, limits.UNACKED_PER_CONNECTION_MAX)
        return self._frame(_TEXT, body, 1 + lane % 3)

    def _put_new(self, lane: int, seq: int, ident: bytes, body: bytes, again: bool = False) -> None:
        """Note it before what it overtakes: frames of a lower class of which nothing was taken."""
        overtaken = [
            index for index, (_, other, _, frame, _) in enumerate(self._window)
            if other % 3 > lane % 3 and self._waits(frame)
        ]  # fmt: skip
        index = overtaken[0] if overtaken else len(self._window)
        self._window.insert(index, (ident, lane, seq, self._put(lane, body), again))

    def put_back(self) -> None:
        kept = []
        for entry in self._window:
            _, lane, seq, frame, again = entry
            if not self._waits(frame):
                kept.append(entry)
            elif not again:
                self._want[lane] = max(self._want[lane], self._at[lane])
                self._at[lane] = min(self._at[lane], seq - 1)
        self._window = kept
        self._queues[1:4] = [], [], []

    def offer(self, lane: int, seq: int, prev: int, ident: bytes, body: bytes, retry: bool = False) -> int:
        self._check(lane, ident)
        if self.phase not in (RESUMING, LIVE):
            return FULL
        at = self._at[lane]
        if seq <= at:
            if self.blocked:
                return WRITTEN
            known = next((one for one in self._window if one[0] == ident), None)
            if known is not None:
                if not self._waits(known[3]):
                    self._put(lane, body)
            elif retry and self.window_free():
                self._put_new(lane, seq, ident, body, again=True)
            return WRITTEN
        in_order = at >= 0 and prev <= at and self._want[lane] <= at
        if self.phase == LIVE and in_order and self.window_free():
            self._put_new(lane, seq, ident, body)
            self._at[lane] = seq
            return WRITTEN
        self._want[lane] = max(self._want[lane], seq)
        return FULL

    def fill(self, lane: int, seq: int, prev: int, ident: bytes, body: bytes) -> bool:
        self._check(lane, ident)
        if self.phase not in (RESUMING, LIVE):
            return False
        if seq <= self._at[lane]:
            return True
        if not self.window_free():
            return False
        self._put_new(lane, seq, ident, body)
        self._at[lane] = seq
        return True

    def advance(self, lane: int, seq: int) -> None:
        self._check(lane)
        self._at[lane] = max(self._at[lane], seq)

    def set_at(self, lane: int, seq: int) -> None:
        self._check(lane)
        self._at[lane] = seq

    def begin_live(self) -> None:
        if self.phase == RESUMING:
            self.phase = LIVE

    def ack(self, ident: bytes) -> tuple[int, int] | None:
        for index, (one, lane, seq, _, _) in enumerate(self._window):
            if one == ident:
                del self._window[index]
                return lane, seq
        return None

    def ack_upto(self, ident: bytes) -> list[tuple[bytes, int, int]] | None:
        for index, (one, _, _, frame, _) in enumerate(self._window):
            if one == ident:
                if self._waits(frame):
                    return None
                found, self._window = self._window[: index + 1], self._window[index + 1 :]
                return [entry[:3] for entry in found]
        return None

    def at(self) -> list[int]:
        return list(self._at)

    def wanted(self) -> bool:
        return any(want > at for want, at in zip(self._want, self._at, strict=True))

    def window_free(self) -> int:
        return 0 if self.blocked else limits.UNACKED_PER_CONNECTION_MAX - len(self._window)

    def unacked(self) -> int:
        return len(self._window)
