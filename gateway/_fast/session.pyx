"""The protocol core of one connection: RFC 6455 duties above the frame header, lanes, window, rate.

Sans-I/O: no clock, no socket, no JSON. Buffers: `_outbox` and `_window` belong to the session (PyMem) and live at
most until end(). A carrier may write the pieces of `_outbox` itself and then call sent(); any call that queues may
move them. `payload` and `body` arguments are only read during the call, save the parts of a fragmented message,
which are kept as they are.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from gateway._fast.framing cimport CONTROL_BYTES_MAX, REASON_BYTES_MAX, close_code_may_arrive
from gateway._fast.framing cimport OP_BINARY, OP_CLOSE, OP_CONTINUATION, OP_PING, OP_PONG, OP_TEXT
from gateway._fast.outbox cimport CLASS_FIRST, CLASS_LAST
from gateway._fast.outbox cimport outbox_add, outbox_copy, outbox_free, outbox_sent, outbox_take_out
from gateway._fast.utf8 cimport utf8_more, utf8_whole
from gateway._fast.window cimport Written, lane_class, window_clear, window_find, window_find_written
from gateway._fast.window cimport window_insert, window_place, window_put_back, window_remove

from notification import limits as _limits

cdef enum:
    PING_BYTES = 4
    # codes.ReceiptCode
    _WRITTEN = 0
    _FULL = 2

AWAIT_AUTH = PHASE_AWAIT_AUTH
RESUMING = PHASE_RESUMING
LIVE = PHASE_LIVE
CLOSING = PHASE_CLOSING
CLOSED = PHASE_CLOSED

WRITTEN = _WRITTEN
FULL = _FULL

LANE_COUNT = LANES

# codes.Closes, which this package must not import; a test holds them equal.
NORMAL = (1000, "")
PROTOCOL_ERROR = (1002, "protocol error")
UNSUPPORTED_DATA = (1003, "text frames only")
INVALID_TEXT = (1007, "invalid UTF-8")
TOO_BIG = (1009, "message too big")
BAD_FRAMES = (4400, "bad frames")
TOO_SLOW = (4410, "too slow")
TOO_FAST = (4429, "too fast")

cdef:
    int _UNACKED_COUNT_MAX = _limits.UNACKED_PER_CONNECTION_MAX
    Py_ssize_t _MESSAGE_BYTES_MAX = _limits.FRAME_BYTES_MAX
    Py_ssize_t _PARTS_COUNT_MAX = _limits.FRAGMENTS_MAX
    int64_t _MESSAGE_OPEN_MS_MAX = _limits.MESSAGE_OPEN_MS_MAX
    int64_t _PONG_DUE_MS = _limits.PONG_DUE_MS
    int64_t _FRAMES_PER_S = _limits.CLIENT_FRAMES_PER_S_MAX
    int64_t _FRAMES_MILLI_MAX = _limits.CLIENT_FRAMES_BURST_MAX * 1_000
    int64_t _PINGS_PER_S = _limits.CLIENT_PINGS_PER_S_MAX
    int64_t _PINGS_MILLI_MAX = _limits.CLIENT_PINGS_BURST_MAX * 1_000
    int _PONGS_UNSENT_MAX = _limits.CLIENT_PINGS_BURST_MAX
    bint _TEXT_ONLY = _limits.MESSAGES_TEXT_ONLY
    int _BAD_FRAMES_MAX = _limits.BAD_FRAMES_MAX
    Py_ssize_t _UNSENT_BYTES_MAX = _limits.WRITE_BUFFER_BYTES_MAX
    Py_ssize_t _UNSENT_BYTES_LOW = _limits.WRITE_BUFFER_BYTES_MAX // 4
    int64_t _UNSENT_MS_MAX = _limits.UNSENT_MS_MAX


@cython.no_gc  # holds text and bytes only, which make no cycles: 16 bytes less, and nothing to visit
cdef class Session:
    """One connection's protocol state; session.pyi is its contract. Not thread-safe: one event loop owns it."""

    def __init__(self, int64_t now_ms):
        cdef int lane
        self.tenant = self.user = self.device = ""
        self.tag = b""
        self.phase = PHASE_AWAIT_AUTH
        self._frames_milli = _FRAMES_MILLI_MAX
        self._pings_milli = _PINGS_MILLI_MAX
        self._refilled_ms = now_ms
        self._rtt_ms = -1
        for lane in range(LANES):
            self._at[lane] = -1
            self._want[lane] = -1

    def __dealloc__(self):
        outbox_free(&self._outbox)
        window_clear(&self._window)

    def authenticate(
        self, str tenant not None, str user not None, str device not None, bytes session_id not None,
        bytes tag not None, int64_t connection_epoch, int64_t token_expiry_ms,
    ):
        """Set who this is; AWAIT_AUTH -> RESUMING. A later phase stays as it is. ValueError: id of another size."""
        if PyBytes_GET_SIZE(session_id) != sizeof(self._id):
            raise ValueError("session_id must be 16 bytes")
        self.tenant = tenant
        self.user = user
        self.device = device
        memcpy(self._id, PyBytes_AS_STRING(session_id), sizeof(self._id))
        self.tag = tag
        self.connection_epoch = connection_epoch
        self.token_expiry_ms = token_expiry_ms
        if self.phase == PHASE_AWAIT_AUTH:
            self.phase = PHASE_RESUMING

    @property
    def session_id(self):  # made when it is asked for: as an object it was a tenth of an idle connection
        return PyBytes_FromStringAndSize(<char*>self._id, sizeof(self._id)).hex()

    # --- frames in ----------------------------------------------------------
    cpdef object feed(self, int opcode, bint fin, int rsv, bytes payload, int64_t now_ms):
        """One unmasked frame in; a whole valid text message out, or None. See session.pyi for the violations."""
        if payload is None:
            raise TypeError("payload must be bytes")
        if self.phase == PHASE_CLOSED or self.close_received:
            return None
        if self.phase == PHASE_CLOSING:  # after our close only the peer's counts (RFC 6455 §1.4)
            if opcode == OP_CLOSE:
                self.close_received = True
                if self.close_sent:
                    self.phase = PHASE_CLOSED
            return None
        self._refill(now_ms)
        if self._parts is not None and now_ms - self._parts_since_ms > _MESSAGE_OPEN_MS_MAX:
            self._violate(TOO_BIG[0], TOO_BIG[1])
        elif rsv != 0:  # no extension was negotiated
            self._violate(PROTOCOL_ERROR[0], PROTOCOL_ERROR[1])
        elif opcode >= 0x8:
            self._control(opcode, fin, payload, now_ms)
        else:
            return self._data(opcode, fin, payload, now_ms)
        return None

    cdef int _refill(self, int64_t now_ms) except -1:
        cdef int64_t elapsed_ms = now_ms - self._refilled_ms
        if elapsed_ms <= 0:
            return 0
        self._refilled_ms = now_ms
        self._frames_milli = min(_FRAMES_MILLI_MAX, self._frames_milli + elapsed_ms * _FRAMES_PER_S)
        self._pings_milli = min(_PINGS_MILLI_MAX, self._pings_milli + elapsed_ms * _PINGS_PER_S)
        return 0

    cdef object _data(self, int opcode, bint fin, bytes payload, int64_t now_ms):
        if (opcode == OP_TEXT or opcode == OP_BINARY and not _TEXT_ONLY) and self._parts is None:
            self.binary = opcode == OP_BINARY
            if self._ack_credit > 0:
                self._ack_credit -= 1
            elif self._frames_milli >= 1_000:
                self._frames_milli -= 1_000
            else:
                self._violate(TOO_FAST[0], TOO_FAST[1])
                return None
            if not fin:
                self._parts = []
                self._parts_bytes = 0
                self._parts_since_ms = now_ms
                self._text.due = 0
                return self._append(fin, payload)
            if PyBytes_GET_SIZE(payload) > _MESSAGE_BYTES_MAX:
                self._violate(TOO_BIG[0], TOO_BIG[1])
            elif not self.binary and not utf8_whole(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)):
                self._violate(INVALID_TEXT[0], INVALID_TEXT[1])
            else:
                return payload
        elif opcode == OP_CONTINUATION and self._parts is not None:
            return self._append(fin, payload)
        elif opcode == OP_BINARY and self._parts is None:
            self._violate(UNSUPPORTED_DATA[0], UNSUPPORTED_DATA[1])
        else:
            self._violate(PROTOCOL_ERROR[0], PROTOCOL_ERROR[1])
        return None

    cdef object _append(self, bint fin, bytes payload):
        cdef Py_ssize_t count = PyBytes_GET_SIZE(payload)
        self._parts.append(payload)
        self._parts_bytes += count
        if self._parts_bytes > _MESSAGE_BYTES_MAX or len(self._parts) > _PARTS_COUNT_MAX:
            self._violate(TOO_BIG[0], TOO_BIG[1])
        elif (
            not self.binary and not utf8_more(&self._text, <const unsigned char*>PyBytes_AS_STRING(payload), count)
            or fin and self._text.due
        ):
            self._violate(INVALID_TEXT[0], INVALID_TEXT[1])
        elif fin:
            whole = b"".join(self._parts)
            self._parts = None
            return whole
        return None

    cdef int _control(self, int opcode, bint fin, bytes payload, int64_t now_ms) except -1:
        cdef Py_ssize_t count = PyBytes_GET_SIZE(payload)
        if not fin or count > CONTROL_BYTES_MAX:
            self._violate(PROTOCOL_ERROR[0], PROTOCOL_ERROR[1])
        elif opcode == OP_PING:
            if self._pings_milli < 1_000:
                self._violate(TOO_FAST[0], TOO_FAST[1])
            elif self._pongs_unsent >= _PONGS_UNSENT_MAX:  # it asks, but does not read
                self._violate(TOO_SLOW[0], TOO_SLOW[1])
            else:
                self._pings_milli -= 1_000
                self._pongs_unsent += 1
                self._frame(OP_PONG, PyBytes_AS_STRING(payload), count)
        elif opcode == OP_PONG:
            self._pong(payload, now_ms)
        elif opcode == OP_CLOSE:
            self._peer_close(payload)
        else:
            self._violate(PROTOCOL_ERROR[0], PROTOCOL_ERROR[1])
        return 0

    cdef int _pong(self, bytes payload, int64_t now_ms) except -1:
        if self._pong_due_ms and payload == self._ping_number.to_bytes(PING_BYTES, "big"):
            self._pong_due_ms = 0
            self._rtt_ms = now_ms - self._pinged_ms
        elif self._pings_milli >= 1_000:  # unsolicited pongs are allowed (RFC 6455 §5.5.3), floods are not
            self._pings_milli -= 1_000
        else:
            self._violate(TOO_FAST[0], TOO_FAST[1])
        return 0

    cdef int _peer_close(self, bytes payload) except -1:
        cdef const unsigned char* data = <const unsigned char*>PyBytes_AS_STRING(payload)
        cdef Py_ssize_t count = PyBytes_GET_SIZE(payload)
        cdef int code
        self.close_received = True
        if count == 0:
            self._violate(NORMAL[0], NORMAL[1])
            return 0
        code = data[0] << 8 | data[1] if count >= 2 else 0
        if not close_code_may_arrive(code):
            self._violate(PROTOCOL_ERROR[0], PROTOCOL_ERROR[1])
        elif not utf8_whole(<const char*>data + 2, count - 2):
            self._violate(INVALID_TEXT[0], INVALID_TEXT[1])
        else:
            self._violate(code, "")
        return 0

    # --- frames out ---------------------------------------------------------
    cdef int _frame(self, int opcode, const char* payload, Py_ssize_t count, int frame_class=CLASS_FIRST) except -1:
        """Queue one unmasked frame, FIN set (RFC 6455 §5.2). `payload` is copied."""
        self._out_bytes += outbox_add(&self._outbox, frame_class, opcode, payload, count)
        self._frames[frame_class] += 1
        return 0

    def send(self, bytes frame not None, bint binary=False, bint last=False):
        """Queue a server frame outside lanes and window. Nothing after a close was queued."""
        if self.phase < PHASE_CLOSING:
            self._frame(
                OP_BINARY if binary else OP_TEXT, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame),
                CLASS_LAST if last else CLASS_FIRST,
            )

    def ping(self, int64_t now_ms):
        """Queue a PING whose payload is its number; pong_due_ms() counts from now."""
        if self._parts is not None and now_ms - self._parts_since_ms > _MESSAGE_OPEN_MS_MAX:
            self._violate(TOO_BIG[0], TOO_BIG[1])
        if self.phase >= PHASE_CLOSING:
            return
        self._ping_number += 1
        cdef bytes payload = self._ping_number.to_bytes(PING_BYTES, "big")
        self._pinged_ms, self._pong_due_ms = now_ms, now_ms + _PONG_DUE_MS
        self._frame(OP_PING, PyBytes_AS_STRING(payload), PING_BYTES)

    def pong_due_ms(self):
        return self._pong_due_ms

    def take_rtt_ms(self):
        """Round trip of the last ping that was answered, once; -1 = none since it was asked."""
        rtt_ms, self._rtt_ms = self._rtt_ms, -1
        return rtt_ms

    def bad_frame(self):
        """Count a frame the policy rejected; True (and close 4400 queued) when it was one too many."""
        self._bad_frames += 1
        if self._bad_frames < _BAD_FRAMES_MAX:
            return False
        self._violate(BAD_FRAMES[0], BAD_FRAMES[1])
        return True

    cdef int _violate(self, int code, str reason) except -1:
        """Queue a close frame once and forget an open message."""
        cdef bytes payload = code.to_bytes(2, "big")
        self._parts = None
        if self.phase >= PHASE_CLOSING:
            return 0
        if reason:
            payload += reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore").encode()
        self._frame(OP_CLOSE, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), CLASS_LAST)
        self.close_code = code
        self.phase = PHASE_CLOSING
        return 0

    cpdef object close(self, int code, str reason):
        """Queue a close frame once; later calls do nothing. Phase CLOSING. `reason` is cut to 123 bytes."""
        if not close_code_may_arrive(code):
            raise ValueError(f"{code} is not a close code that may be sent")
        self._violate(code, reason)

    cpdef object end(self):
        """The socket is gone: CLOSED, nothing is queued or kept any more."""
        self.discard()
        self.phase = PHASE_CLOSED
        self._parts = None
        self._pong_due_ms = 0
        window_clear(&self._window)

    def pending(self):
        """Bytes queued."""
        return self._out_bytes

    def take(self, bytes_max=None):
        """The queued frames in the order they have to leave, at most `bytes_max` bytes, which count as sent."""
        cdef Py_ssize_t count = self._out_bytes if bytes_max is None else min(self._out_bytes, bytes_max)
        cdef bytes out = PyBytes_FromStringAndSize(NULL, count)
        outbox_copy(self._outbox, PyBytes_AS_STRING(out), count)
        self.sent(count)
        return out

    cdef void sent(self, Py_ssize_t count) noexcept:
        """The first `count` bytes of what was queued are on their way."""
        if count:
            outbox_sent(&self._outbox, count)
            self._out_bytes -= count
        if self._outbox == NULL or self._outbox.queues[CLASS_FIRST].waiting == 0:
            self._pongs_unsent = 0
        if self._out_bytes == 0 and self.phase == PHASE_CLOSING:
            self.close_sent = True
            if self.close_received:
                self.phase = PHASE_CLOSED

    cdef bint held(self, int64_t now_ms) except -1:
        """The socket is full. Above the high-water mark lanes wait in the log; True: even so it became too much."""
        if self._outbox != NULL and self._outbox.full_since_ms == 0:
            self._outbox.full_since_ms = now_ms
        if self.phase >= PHASE_CLOSING or self._out_bytes <= _UNSENT_BYTES_MAX:
            return False
        if not self.blocked:
            self.blocked = True
            self._outbox.bytes_max = self._out_bytes + _UNSENT_BYTES_MAX
        elif self._out_bytes > self._outbox.bytes_max:
            self._violate(TOO_SLOW[0], TOO_SLOW[1])  # never sent: tells the policy why
            return True
        return False

    cdef bint stale(self, int64_t now_ms) noexcept:
        """The socket takes bytes again: put_back() and True if something waited for that for too long."""
        cdef bint over = self._outbox != NULL and 0 < self._outbox.full_since_ms <= now_ms - _UNSENT_MS_MAX
        if over:
            self.put_back()
        return over

    cpdef void put_back(self) noexcept:
        """What waits of the lanes goes back to the log, and a fill brings what has not expired or been replaced."""
        window_put_back(&self._window, self._outbox, self._frames, self._at, self._want)
        if self._outbox != NULL:
            self._out_bytes -= outbox_take_out(&self._outbox)

    cdef bint relieved(self) noexcept:
        """The socket took some: True when that ended blocking."""
        if not self.blocked or self._out_bytes > _UNSENT_BYTES_LOW:
            return False
        self.blocked = False
        return True

    cdef void discard(self) noexcept:
        """Empty the queue and free it."""
        outbox_free(&self._outbox)
        self._out_bytes = self._pongs_unsent = 0

    # --- lanes and window ---------------------------------------------------
    cdef int _lane(self, int lane) except -1:
        if lane < 0 or lane >= LANES:
            raise ValueError(f"lane must be 0 to {LANES - 1}")
        return lane

    cdef const char* _item(self, int lane, bytes ident) except NULL:
        self._lane(lane)
        if PyBytes_GET_SIZE(ident) != 16:
            raise ValueError("ident must be 16 bytes")
        return PyBytes_AS_STRING(ident)

    cdef int _write_item(self, int lane, const char* body, Py_ssize_t count) except -1:
        """Queue a notification in its lane's class; its ack will cost no rate budget."""
        self._frame(OP_TEXT, body, count, lane_class(lane))
        self._ack_credit = min(self._ack_credit + 1, _UNACKED_COUNT_MAX)
        return 0

    cdef int _write_new(
        self, int lane, int64_t seq, const char* ident, const char* body, Py_ssize_t count, bint again=False,
    ) except -1:
        """... and note it in the window, where its frame will be on the wire."""
        cdef int index = window_place(&self._window, lane, self._outbox, self._frames)
        window_insert(&self._window, index, lane, seq, ident, self._frames[lane_class(lane)], again)
        return self._write_item(lane, body, count)

    cdef int find_written(self, const char* ident) noexcept:
        """Index of a 16-byte id in the window; -1 if it is absent, or waits in the queue still."""
        return window_find_written(&self._window, ident, self._outbox, self._frames)

    def offer(
        self, int lane, int64_t seq, int64_t prev, bytes ident not None, bytes body not None, bint retry=False,
    ):
        """A live item from the bus: WRITTEN, or FULL and remembered as wanted. ValueError: lane or id malformed."""
        cdef const char* raw = self._item(lane, ident)
        return self.offer_bytes(lane, seq, prev, raw, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), retry)

    cdef int offer_bytes(
        self, int lane, int64_t seq, int64_t prev, const char* ident,
        const char* body, Py_ssize_t count, bint retry,
    ) except -1:
        """offer() of a lane below LANES and 16 bytes of id; everything pointed to is copied."""
        if self.phase != PHASE_RESUMING and self.phase != PHASE_LIVE:
            return _FULL
        if seq <= self._at[lane]:
            # While blocked the first copy has not even left the socket's buffer.
            if self.blocked:
                return _WRITTEN
            if self.find_written(ident) >= 0:
                self._write_item(lane, body, count)
            elif retry and self.window_free() > 0 and window_find(&self._window, ident) < 0:
                # The client's cursor says that it has this one, but no ack of it has arrived: ask again.
                self._write_new(lane, seq, ident, body, count, True)
            return _WRITTEN
        if (
            self.phase == PHASE_LIVE and self._at[lane] >= prev and self._at[lane] >= 0
            and self._want[lane] <= self._at[lane] and self.window_free() > 0
        ):
            self._write_new(lane, seq, ident, body, count)
            self._at[lane] = seq
            return _WRITTEN
        self._want[lane] = max(self._want[lane], seq)
        return _FULL

    def fill(self, int lane, int64_t seq, int64_t prev, bytes ident not None, bytes body not None):
        """An owed item from the log, in lane order (so `prev` needs no look). False: no room, nothing queued."""
        cdef const char* raw = self._item(lane, ident)
        if self.phase != PHASE_RESUMING and self.phase != PHASE_LIVE:
            return False
        if seq <= self._at[lane]:
            return True
        if self.window_free() == 0:
            return False
        self._write_new(lane, seq, raw, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        self._at[lane] = seq
        return True

    def advance(self, int lane, int64_t seq):
        """The lane is complete up to `seq`; never moves back."""
        self._at[lane] = max(self._at[self._lane(lane)], seq)

    def set_at(self, int lane, int64_t seq):
        """Start of a lane from a cursor."""
        self._at[self._lane(lane)] = seq

    def begin_live(self):
        """RESUMING -> LIVE. Other phases stay."""
        if self.phase == PHASE_RESUMING:
            self.phase = PHASE_LIVE

    def ack(self, bytes ident not None):
        """(lane, seq) of a written, unacked id (16 bytes); else None. Frees its place."""
        cdef int i = window_find(&self._window, PyBytes_AS_STRING(ident)) if PyBytes_GET_SIZE(ident) == 16 else -1
        if i < 0:
            return None
        found = (self._window.entries[i].lane, self._window.entries[i].seq)
        window_remove(&self._window, i, 1)
        return found

    def ack_upto(self, bytes ident not None):
        """[(id, lane, seq)] written up to and with `ident`, in wire order; None: not written, or acked."""
        cdef Written* one
        cdef int i, last = self.find_written(PyBytes_AS_STRING(ident)) if PyBytes_GET_SIZE(ident) == 16 else -1
        if last < 0:
            return None
        found = []
        for i in range(last + 1):
            one = &self._window.entries[i]
            found.append((PyBytes_FromStringAndSize(<char*>one.ident, 16), one.lane, one.seq))
        window_remove(&self._window, 0, last + 1)
        return found

    def at(self):
        """Per lane, the seq up to which this connection has everything; -1 = nothing known."""
        cdef int lane
        return [self._at[lane] for lane in range(LANES)]

    cpdef bint wanted(self) noexcept:
        """Some lane was offered beyond at()."""
        cdef int lane
        for lane in range(LANES):
            if self._want[lane] > self._at[lane]:
                return True
        return False

    cpdef int window_free(self) noexcept:
        """Places left of UNACKED_PER_CONNECTION_MAX; 0 while blocked."""
        return 0 if self.blocked else _UNACKED_COUNT_MAX - self._window.count

    def unacked(self):
        return self._window.count
