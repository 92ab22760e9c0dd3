from cpython.object cimport PyObject

from gateway._fast.resp cimport Chunk, Walk

cdef struct Command:
    PyObject* waiter  # a reference of the exchange's; NULL: nobody waits
    Py_ssize_t count  # its bytes
    int slot
    bint once

cdef class Exchange:
    cdef Chunk _out  # the bytes of `_commands`, in their order
    cdef Chunk _commands  # Command after Command
    cdef Chunk _in  # replies not read yet
    cdef Walk _walk  # where the first of them stands
    cdef Py_ssize_t _sent_bytes  # of `_out`: handed out by take()
    cdef Py_ssize_t _sent  # of `_commands`
    cdef bint _refused  # the last reply was an error: the first command waits for forget()

    cdef Py_ssize_t _len(self) noexcept
    cdef Command* _first(self) noexcept
    cdef int _append(self, Py_ssize_t count, object waiter, int slot, bint once) except -1
    cdef int _pop(self) except -1
    cdef int _hear_nothing(self) except -1
