"""C side of session: its fields, and what the carrier calls without going through Python."""

from libc.stdint cimport int32_t, int64_t, uint32_t

from gateway._fast.outbox cimport CLASSES, Outbox
from gateway._fast.utf8 cimport Utf8
from gateway._fast.window cimport Window

cdef enum Phase:
    PHASE_AWAIT_AUTH = 0
    PHASE_RESUMING = 1
    PHASE_LIVE = 2
    PHASE_CLOSING = 3
    PHASE_CLOSED = 4

cdef enum:
    LANES = 6  # codes.LANE_COUNT

cdef class Session:
    cdef:
        readonly str tenant
        readonly str user
        readonly str device
        readonly bytes tag
        unsigned char _id[16]
        public int64_t connection_epoch
        public int64_t token_expiry_ms
        public int64_t token_issued_s
        public int64_t token_digest
        readonly int phase
        readonly int close_code
        readonly bint close_sent
        readonly bint close_received
        readonly bint binary  # the last message was; stays False while limits.MESSAGES_TEXT_ONLY
        public bint blocked

        # Outgoing frames, ready to write. Owned here; NULL while nothing is queued.
        Outbox* _outbox
        Py_ssize_t _out_bytes
        uint32_t _frames[CLASSES]  # queued so far, per class
        int _pongs_unsent

        Window _window
        int64_t _at[LANES]
        int64_t _want[LANES]

        # A message in parts; _parts is None while none is open.
        list _parts
        Py_ssize_t _parts_bytes
        int64_t _parts_since_ms
        Utf8 _text

        # Budgets in thousandths of a frame, so that a millisecond of refill is a whole number.
        int64_t _frames_milli
        int64_t _pings_milli
        int64_t _refilled_ms
        int _ack_credit
        int _bad_frames

        uint32_t _ping_number
        int32_t place  # in fanout's Crowd, whose it is
        int64_t _pinged_ms
        int64_t _pong_due_ms
        int64_t _rtt_ms

    cpdef object feed(self, int opcode, bint fin, int rsv, bytes payload, int64_t now_ms)
    cpdef object close(self, int code, str reason)
    cpdef object end(self)
    cdef void sent(self, Py_ssize_t count) noexcept
    cdef bint held(self, int64_t now_ms) except -1
    cdef bint stale(self, int64_t now_ms) noexcept
    cpdef void put_back(self) noexcept
    cdef bint relieved(self) noexcept
    cdef void discard(self) noexcept

    cdef int _frame(self, int opcode, const char* payload, Py_ssize_t count, int frame_class=*) except -1
    cdef int _refill(self, int64_t now_ms) except -1
    cdef int _control(self, int opcode, bint fin, bytes payload, int64_t now_ms) except -1
    cdef object _data(self, int opcode, bint fin, bytes payload, int64_t now_ms)
    cdef object _append(self, bint fin, bytes payload)
    cdef int _pong(self, bytes payload, int64_t now_ms) except -1
    cdef int _peer_close(self, bytes payload) except -1
    cdef int _violate(self, int code, str reason) except -1
    cdef int _lane(self, int lane) except -1
    cdef const char* _item(self, int lane, bytes ident) except NULL
    cdef int _write_item(self, int lane, const char* body, Py_ssize_t count) except -1
    cdef int _write_new(
        self, int lane, int64_t seq, const char* ident, const char* body, Py_ssize_t count, bint again=*,
    ) except -1
    cdef int find_written(self, const char* ident) noexcept
    cdef int offer_bytes(
        self, int lane, int64_t seq, int64_t prev, const char* ident,
        const char* body, Py_ssize_t count, bint retry,
    ) except -1
    cpdef bint wanted(self) noexcept
    cpdef int window_free(self) noexcept
