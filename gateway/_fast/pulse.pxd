from libc.stdint cimport int64_t, uint8_t

from gateway._fast.session cimport Session
from gateway._fast.wheel cimport Wheel

cdef class Pulse:
    cdef:
        Wheel _wheel
        object _answered
        int64_t _heartbeat_ms
        int64_t _auth_deadline_ms
        int64_t _close_deadline_ms
        list _full  # arrays of as many round trips as a message may have
        uint8_t* _packed  # round trips behind them, without an array's head
        Py_ssize_t _bytes
        Py_ssize_t _capacity
        Py_ssize_t _count

    cdef bint _quiet(self, Session session, int64_t now_ms) except -1
    cdef int _arm(self, object connection, Session session, int64_t now_ms) except -1
    cdef int64_t _slot_ms(self, Session session, int64_t from_ms) except -1
    cdef int _note(self, Session session, int64_t rtt_ms) except -1
    cdef int _close_pack(self) except -1
    cdef int _grow(self, Py_ssize_t more) except -1
