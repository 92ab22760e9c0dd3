"""One frame of an audience to a tenant's connections here, without an object each; fanout.pyi is its contract.

`ident`, `body` and `frame` are only read during the call: sessions copy what they queue. That costs a small part of
the write that follows it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t

from gateway._fast.session cimport LANES, PHASE_LIVE, PHASE_RESUMING, Session

from notification import limits as _limits

cdef enum:
    WRITTEN = 0  # codes.ReceiptCode

cdef Py_ssize_t _UNSENT_BYTES_MAX = _limits.WRITE_BUFFER_BYTES_MAX


cdef const uint8_t* _bits(list connections, Py_ssize_t start, Py_ssize_t stop, bytes entitled) except? NULL:
    """Where the bits of a slice are; NULL = everybody."""
    if not 0 <= start <= stop <= len(connections):
        raise ValueError("not a slice of the connections")
    if entitled is None:
        return NULL
    if PyBytes_GET_SIZE(entitled) * 8 < stop - start:
        raise ValueError("fewer bits than connections")
    return <const uint8_t*>PyBytes_AS_STRING(entitled)


cdef inline bint _may(const uint8_t* bits, Py_ssize_t index) noexcept nogil:
    return bits == NULL or bits[index >> 3] & (0x80 >> (index & 7))


cdef class Crowd:
    """fanout.pyi is its contract. Owns a reference to each connection until leave()."""

    def __init__(self):
        self._connections = []

    @classmethod
    def __class_getitem__(cls, item):
        """Generic for type checkers only."""
        return cls

    def join(self, connection not None):
        (<Session?>connection.session).place = <int>len(self._connections)
        self._connections.append(connection)

    def leave(self, connection not None):
        """The last one takes its place."""
        cdef int place = (<Session?>connection.session).place
        if place >= len(self._connections) or self._connections[place] is not connection:
            return False
        last = self._connections.pop()
        if last is not connection:
            self._connections[place] = last
            (<Session>last.session).place = place
        return True

    def connections(self):
        return self._connections[:]

    def __len__(self):
        return len(self._connections)


cdef class Fanout:
    """One per process."""

    def __init__(self, nudge not None, welcomed not None):
        self._nudge = nudge
        self._welcomed = welcomed
        self._dirty = []

    def offer(
        self, list connections not None, Py_ssize_t start, Py_ssize_t stop, int lane, int64_t seq, int64_t prev,
        bytes ident not None, bytes body not None, bytes entitled,
    ):
        """(frames queued, connections that it was passed over for)."""
        cdef const uint8_t* bits = _bits(connections, start, stop, entitled)
        cdef Py_ssize_t index
        cdef Py_ssize_t frames = 0
        cdef Py_ssize_t passed = 0
        cdef Session session
        cdef bint idle
        if not 0 <= lane < LANES or PyBytes_GET_SIZE(ident) != 16:
            raise ValueError("lane or ident malformed")
        for index in range(start, stop):
            connection = connections[index]
            session = <Session?>connection.session
            if session.phase != PHASE_LIVE and session.phase != PHASE_RESUMING or session._at[lane] >= seq:
                continue
            if (
                not _may(bits, index - start)
                and session.phase == PHASE_LIVE and session._at[lane] >= prev and session._at[lane] >= 0
            ):
                session._at[lane] = seq
                passed += 1
                continue
            # Who is not entitled lacks something before it, and so is only told to want it.
            idle = session._out_bytes == 0
            if session.offer_bytes(
                lane, seq, prev, PyBytes_AS_STRING(ident), PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), False,
            ) == WRITTEN:
                frames += 1
                self._written(connection, idle)
            else:
                self._nudge(connection)
        return frames, passed

    def send(
        self, list connections not None, Py_ssize_t start, Py_ssize_t stop, bytes frame not None, bytes entitled,
    ):
        """A frame outside lanes."""
        cdef const uint8_t* bits = _bits(connections, start, stop, entitled)
        cdef Py_ssize_t index
        cdef Session session
        cdef bint idle
        for index in range(start, stop):
            connection = connections[index]
            session = <Session?>connection.session
            if session.phase != PHASE_LIVE and session.phase != PHASE_RESUMING:
                continue
            if _may(bits, index - start) and self._welcomed(connection):
                idle = session._out_bytes == 0
                session.send(frame, False, True)  # it may speak of notifications that wait
                self._written(connection, idle)

    cdef int _written(self, object connection, bint idle) except -1:
        """Something was queued for it, which had nothing queued before if it was `idle`."""
        if idle:
            self._dirty.append(connection)
        elif (<Session>connection.session)._out_bytes > _UNSENT_BYTES_MAX:
            connection.flush()
        return 0

    def flush(self):
        """Write what was queued since the last time."""
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()
