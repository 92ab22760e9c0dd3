from libc.stdint cimport int64_t

from gateway._fast.session cimport Session
from gateway._fast.slots cimport Buffer, Slot, Table

cdef class Engine:
    cdef:
        public Py_ssize_t sockets_max
        public int64_t head_deadline_ms
        object _loop
        object _policy
        object _doorkeeper
        object _listener  # the listening socket, to keep it open
        list _gone  # connections whose socket is gone and whose policy does not know it yet
        object _timer
        object _accept_timer
        int64_t _timer_due_ms
        Table _table
        char* _buffer
        int _epoll
        int _listening  # descriptor; -1 when nothing is accepted
        Py_ssize_t _open
        bint _in_turn
        bint _reaping

    cpdef object turn(self)
    cdef int _accept(self) except -1
    cdef object _pause_accepting(self)
    cdef int _event(self, Slot* slot, unsigned int events) except -1
    cdef int _readable(self, Slot* slot) except -1
    cdef int _read_head(self, Slot* slot, Py_ssize_t checked, Py_ssize_t count) except -1
    cdef int _read_frames(self, Slot* slot, Py_ssize_t count) except -1
    cdef int _keep(self, Slot* slot, Py_ssize_t start, Py_ssize_t count) except -1
    cdef int _writable(self, Slot* slot) except -1
    cdef int _write(self, Slot* slot, const char* data, Py_ssize_t count) except -1
    cdef int _watch(self, Slot* slot) except -1
    cdef int _end(self, Slot* slot) except -1
    cdef int _drop(self, Slot* slot, bint reset) except -1
    cdef int _disown(self, Slot* slot) except -1
    cdef int _fault(self, EngineConnection connection, int code, str reason) except -1
    cdef object _failed(self, EngineConnection connection, object error)
    cdef object _reap_soon(self)
    cpdef object _reap(self)
    cdef int _wait(self, Slot* slot, int queue) except -1
    cdef object _arm(self)

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

    cpdef flush(self)
    cpdef abort(self)
    cpdef bint is_open(self)
