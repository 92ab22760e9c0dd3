"""Pings and their answers: what the wheel finds due of a connection where nothing else happens, without Python.

A connection has one deadline at a time, the earliest thing that may happen to it; an entry of the wheel that fires
before it is an old one. `_packed` is PyMem, owned here until it is handed out.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcpy

from gateway._fast.msgpack cimport TEXT_HEAD_BYTES_MAX, UINT_BYTES_MAX, pack_array_head, pack_text, pack_uint
from gateway._fast.session cimport PHASE_AWAIT_AUTH, PHASE_CLOSING, Session
from gateway._fast.wheel cimport Wheel

from notification import limits as _limits

cdef enum:
    SPREAD = 40_503  # odd and near 2^16 / golden ratio: consecutive connects ping far apart
    CLIENT_ID_BYTES_MAX = 512
    PACKED_BYTES_MIN = 4_096
    HEADS_BYTES_MAX = 1 + TEXT_HEAD_BYTES_MAX + UINT_BYTES_MAX

cdef:
    Py_ssize_t _CLIENTS_COUNT_MAX = _limits.HEALTH_PING_CLIENTS_MAX


cdef class Pulse:
    """pulse.pyi is its contract."""

    def __init__(
        self, Wheel wheel not None, answered not None,
        int64_t heartbeat_ms, int64_t auth_deadline_ms, int64_t close_deadline_ms,
    ):
        self._wheel = wheel
        self._answered = answered
        self._heartbeat_ms = heartbeat_ms
        self._auth_deadline_ms = auth_deadline_ms
        self._close_deadline_ms = close_deadline_ms
        self._full = []

    def __dealloc__(self):
        PyMem_Free(self._packed)

    @classmethod
    def __class_getitem__(cls, item):
        """Generic for type checkers only."""
        return cls

    def arm(self, connection not None, int64_t now_ms):
        """Set the next deadline, after any change. See pulse.pyi."""
        self._arm(connection, connection.session, now_ms)

    def beat(self, int64_t now_ms):
        """Ping who is due for it; everything else that is due. See pulse.pyi."""
        cdef Session session
        cdef int64_t deadline_ms
        others = []
        for item in self._wheel.advance(now_ms):
            deadline_ms = item.deadline_ms
            if deadline_ms > now_ms:
                continue
            held = getattr(item, "session", None)
            if held is None or not self._quiet(held, now_ms) or not item.is_open():
                others.append(item)
                continue
            session = held
            if session._rtt_ms >= 0:
                self._note(session, session._rtt_ms)
                session._rtt_ms = -1
            if deadline_ms == self._slot_ms(session, deadline_ms):
                session.ping(now_ms)
                item.flush()
            self._arm(item, session, now_ms)
        return others

    def take(self):
        """Arrays of (client id, round trip). See pulse.pyi."""
        if self._count:
            self._close_pack()
        full = self._full
        self._full = []
        return full

    cdef bint _quiet(self, Session session, int64_t now_ms) except -1:
        """Authenticated, its token good, and no pong overdue."""
        return (
            PHASE_AWAIT_AUTH < session.phase < PHASE_CLOSING
            and not (session.token_expiry_ms and now_ms >= session.token_expiry_ms)
            and not (session._pong_due_ms and now_ms >= session._pong_due_ms)
        )

    cdef int _arm(self, object connection, Session session, int64_t now_ms) except -1:
        cdef int64_t due_ms
        if session.phase >= PHASE_CLOSING:
            due_ms = now_ms + self._close_deadline_ms
        elif session.phase == PHASE_AWAIT_AUTH:
            due_ms = <int64_t>connection.opened_ms + self._auth_deadline_ms
        else:
            due_ms = self._slot_ms(session, now_ms + 1)
            if session._pong_due_ms:
                due_ms = min(due_ms, session._pong_due_ms)
            if session.token_expiry_ms:
                due_ms = min(due_ms, session.token_expiry_ms)
        connection.deadline_ms = due_ms
        self._wheel.arm(connection, due_ms)
        return 0

    cdef int64_t _slot_ms(self, Session session, int64_t from_ms) except -1:
        """The connection's first ping time at or after `from_ms`: one phase of its own in each heartbeat."""
        cdef int64_t phase_ms = session.connection_epoch % self._heartbeat_ms * SPREAD % self._heartbeat_ms
        return from_ms + (phase_ms - from_ms) % self._heartbeat_ms

    # --- round trips --------------------------------------------------------
    cdef int _note(self, Session session, int64_t rtt_ms) except -1:
        """Append (names.client_id, round trip)."""
        cdef Py_ssize_t device_bytes
        cdef Py_ssize_t tag_bytes = PyBytes_GET_SIZE(session.tag)
        cdef const char* device = PyUnicode_AsUTF8AndSize(session.device, &device_bytes)
        cdef char[CLIENT_ID_BYTES_MAX] text
        cdef char* colon
        cdef uint8_t* at
        self._answered(rtt_ms)
        if tag_bytes + 1 + device_bytes > CLIENT_ID_BYTES_MAX:
            raise ValueError("tag and device are longer than any client id")
        memcpy(text, PyBytes_AS_STRING(session.tag), tag_bytes)
        colon = <char*>memchr(text, c":", tag_bytes)
        if colon != NULL:
            colon[0] = c"."
        text[tag_bytes] = c"."
        memcpy(text + tag_bytes + 1, device, device_bytes)
        self._grow(HEADS_BYTES_MAX + tag_bytes + 1 + device_bytes)
        at = pack_array_head(self._packed + self._bytes, 2)
        at = pack_text(at, text, tag_bytes + 1 + device_bytes)
        at = pack_uint(at, <uint64_t>rtt_ms)
        self._bytes = at - self._packed
        self._count += 1
        if self._count == _CLIENTS_COUNT_MAX:
            self._close_pack()
        return 0

    cdef int _close_pack(self) except -1:
        """Put an array's head before what was noted."""
        cdef uint8_t head[5]
        cdef Py_ssize_t head_bytes = pack_array_head(head, self._count) - head
        cdef bytes packed = PyBytes_FromStringAndSize(NULL, head_bytes + self._bytes)
        memcpy(PyBytes_AS_STRING(packed), head, head_bytes)
        memcpy(PyBytes_AS_STRING(packed) + head_bytes, self._packed, self._bytes)
        self._full.append(packed)
        self._bytes = self._count = 0
        return 0

    cdef int _grow(self, Py_ssize_t more) except -1:
        """Room for `more` bytes. MemoryError leaves everything as it was."""
        cdef Py_ssize_t capacity
        cdef uint8_t* grown
        if self._bytes + more > self._capacity:
            capacity = max(self._capacity * 2, self._bytes + more, PACKED_BYTES_MIN)
            grown = <uint8_t*>PyMem_Realloc(self._packed, capacity)
            if grown == NULL:
                raise MemoryError()
            self._packed = grown
            self._capacity = capacity
        return 0
