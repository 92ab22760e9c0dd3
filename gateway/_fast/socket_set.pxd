from libc.stdint cimport int64_t

from gateway._fast.address cimport Address
from gateway._fast.slots cimport Slot, Table

cdef class SocketSet:
    cdef:
        public Py_ssize_t sockets_max
        public int64_t head_deadline_ms
        object _loop
        object _listener  # the listening socket, to keep it open
        object _timer
        object _accept_timer
        int64_t _timer_due_ms
        Table _table
        char* _buffer
        int _epoll
        int _listening  # descriptor; -1 when nothing is accepted
        Py_ssize_t _open  # slots in SLOT_OPEN
        bint _in_turn

    cpdef object turn(self)
    cdef int _unlisten(self) except -1
    cdef int _accept(self) except -1
    cdef object _pause_accepting(self)
    cdef int _event(self, Slot* slot, unsigned int events) except -1
    cdef int _readable(self, Slot* slot) except -1
    cdef int _keep(self, Slot* slot, Py_ssize_t start, Py_ssize_t count) except -1
    cdef int _write(self, Slot* slot, const char* data, Py_ssize_t count) except -1
    cdef int _writable(self, Slot* slot) except -1
    cdef int _watch(self, Slot* slot) except -1
    cdef int _end(self, Slot* slot) except -1
    cdef int _drop(self, Slot* slot, bint reset) except -1
    cdef int _wait(self, Slot* slot, int queue) except -1
    cdef object _arm(self)

    cdef int _admit(self, Slot* slot, bint told, const Address* address) except -1
    cdef int _read_door(self, Slot* slot, Py_ssize_t checked, Py_ssize_t count) except -1
    cdef int _forget(self, Slot* slot) except -1
    cdef int _read_open(self, Slot* slot, Py_ssize_t count) except -1
    cdef int _drained(self, Slot* slot) except -1
    cdef int _disown(self, Slot* slot) except -1
    cpdef object _reap(self)
