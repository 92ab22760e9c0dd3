from libc.stdint cimport int64_t

from gateway._fast.acks cimport Acks
from gateway._fast.doors cimport Doors
from gateway._fast.session cimport Session
from gateway._fast.slots cimport Slot

cdef class Engine(Doors):
    cdef:
        object _policy
        Acks _acks  # the policy's
        list _gone  # connections whose socket is gone and whose policy does not know it yet
        bint _reaping
        list _held  # connections whose 101 waits for their first frame

    cdef int _hold(self, EngineConnection connection) except -1
    cpdef object _release(self)
    cdef int _send(self, Slot* slot, Session session) except -1
    cdef int _message(self, EngineConnection connection, bytes text) except -1
    cdef int _fault(self, EngineConnection connection, int code, str reason) except -1
    cdef object _failed(self, EngineConnection connection, object error)
    cdef object _reap_soon(self)

cdef class EngineConnection:
    cdef:
        readonly Session session
        public object ready
        public object state
        readonly int64_t opened_ms
        public int64_t deadline_ms
        Engine _engine
        Slot* _slot  # NULL once the socket is another's or nobody's
        str _peer
        bint _clean
        bint _greeting  # the 101 waits in the slot's outbox, and nothing was sent yet

    cpdef flush(self)
    cpdef abort(self)
    cpdef bint is_open(self)
