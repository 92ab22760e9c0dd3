"""The items of a packed batch to the sessions they are for, without an object per item; router.pyi is its contract.

The wire format is notification/batch.py's; a test holds this reader to it. The message is only read, and only
during the call: sessions copy what they queue.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from gateway._fast.registry cimport Registry
from gateway._fast.session cimport PHASE_LIVE, PHASE_RESUMING, Session

from notification import limits as _limits

cdef enum:
    # codes.ReceiptCode, which this package must not import; a test holds them equal.
    WRITTEN = 0
    NO_CONNECTION = 1
    FULL = 2
    STALE = 3
    EXPIRED = 4
    # The head of an item: where its fields lie.
    AT_KIND = 0
    AT_LANE = 1
    AT_ATTEMPT = 2
    AT_TAG_BYTES = 3
    AT_BODY_BYTES = 4
    AT_SEQ = 8
    AT_PREV = 16
    AT_EXPIRY = 24
    AT_IDENT = 32
    AT_TAG = 48
    KIND_CONTROL = 1  # batch.CONTROL
    LANES_COUNT = 6  # codes.LANE_COUNT

HEAD_BYTES = AT_TAG

cdef Py_ssize_t _UNSENT_BYTES_MAX = _limits.WRITE_BUFFER_BYTES_MAX


cdef inline uint32_t _u32(const uint8_t* at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline uint64_t _u64(const uint8_t* at) noexcept nogil:
    return <uint64_t>_u32(at) << 32 | _u32(at + 4)


cdef bint _adds_up(const uint8_t* data, Py_ssize_t at, Py_ssize_t end, Py_ssize_t count) noexcept nogil:
    """Do `count` items from `at` on end exactly at `end`?"""
    cdef Py_ssize_t _index
    for _index in range(count):
        if at + AT_TAG > end:
            return False
        at += AT_TAG + data[at + AT_TAG_BYTES] + <Py_ssize_t>_u32(data + at + AT_BODY_BYTES)
        if at > end:
            return False
    return at == end


cdef inline bint _takes(Session session):
    return session.phase == PHASE_LIVE or session.phase == PHASE_RESUMING


cdef object _takers(object held):
    """Of what the registry holds for a tag: the connections that take items; None if there are none."""
    cdef list takers
    if held is None:
        return None
    if type(held) is not tuple:
        return held if _takes(<Session?>held.session) else None
    takers = [connection for connection in <tuple>held if _takes(<Session?>connection.session)]
    return tuple(takers) if takers else None


cdef class Router:
    """One per process; routes one batch at a time, and writes those of a turn together."""

    def __init__(self, Registry registry not None, nudge not None, welcomed not None):
        self._registry = registry
        self._nudge = nudge
        self._welcomed = welcomed
        self._dirty = []

    def route(
        self, bytes message not None, Py_ssize_t start, Py_ssize_t count, uint64_t database_ms, bint draining,
    ):
        """(codes, frames written, items of no lane), or None if the items do not add up to the message."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(message)
        cdef Py_ssize_t end = PyBytes_GET_SIZE(message)
        cdef const uint8_t* item = data + start
        cdef Py_ssize_t index
        cdef bytes codes
        if start < 0 or count < 0 or not _adds_up(data, start, end, count):
            return None
        codes = PyBytes_FromStringAndSize(NULL, count)
        self._frames = self._refused = 0
        for index in range(count):
            PyBytes_AS_STRING(codes)[index] = self._item(item, draining, database_ms)
            item += AT_TAG + item[AT_TAG_BYTES] + <Py_ssize_t>_u32(item + AT_BODY_BYTES)
        return codes, self._frames, self._refused

    def flush(self):
        """Write what was routed since the last time: one write per connection."""
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    cdef int _item(self, const uint8_t* item, bint draining, uint64_t database_ms) except -1:
        """One item to everybody it is for; its code."""
        cdef const uint8_t* body = item + AT_TAG + item[AT_TAG_BYTES]
        cdef Py_ssize_t body_bytes = _u32(item + AT_BODY_BYTES)
        cdef uint64_t expiry_ms = _u64(item + AT_EXPIRY)
        cdef Py_ssize_t before = self._frames
        cdef bytes tag = PyBytes_FromStringAndSize(<const char*>item + AT_TAG, item[AT_TAG_BYTES])
        held = _takers(self._registry.held(tag))
        if held is None:
            return STALE if draining else NO_CONNECTION
        if expiry_ms and database_ms >= expiry_ms:
            return EXPIRED
        if item[AT_KIND] == KIND_CONTROL:
            return self._control(held, body, body_bytes)
        if item[AT_LANE] >= LANES_COUNT or (_u64(item + AT_SEQ) | _u64(item + AT_PREV)) >> 63:
            self._refused += 1
            return FULL
        if type(held) is tuple:
            for connection in <tuple>held:
                self._offer(connection, item, body, body_bytes)
        else:
            self._offer(held, item, body, body_bytes)
        return WRITTEN if self._frames > before else FULL

    cdef int _offer(
        self, object connection, const uint8_t* item, const uint8_t* body, Py_ssize_t body_bytes,
    ) except -1:
        cdef Session session = <Session>connection.session
        cdef bint idle = session._out_bytes == 0
        cdef int code = session.offer_bytes(
            item[AT_LANE], <int64_t>_u64(item + AT_SEQ), <int64_t>_u64(item + AT_PREV),
            <const char*>item + AT_IDENT, <const char*>body, body_bytes, item[AT_ATTEMPT] > 1,
        )
        if code != WRITTEN:
            self._nudge(connection)
            return 0
        self._frames += 1
        if idle:
            self._dirty.append(connection)
        elif session._out_bytes > _UNSENT_BYTES_MAX:
            connection.flush()
        return 0

    cdef int _control(self, object held, const uint8_t* body, Py_ssize_t body_bytes) except -1:
        """A frame outside lanes, to every device that has its welcome."""
        cdef Session session
        cdef bint idle
        cdef bytes frame = PyBytes_FromStringAndSize(<const char*>body, body_bytes)
        for connection in held if type(held) is tuple else (held,):
            if not self._welcomed(connection):
                continue
            session = <Session>connection.session
            idle = session._out_bytes == 0
            session.send(frame, False, True)  # it may speak of notifications that wait
            if idle:
                self._dirty.append(connection)
            elif session._out_bytes > _UNSENT_BYTES_MAX:
                connection.flush()
        return WRITTEN
