from libc.stdint cimport int64_t, uint8_t

from gateway._fast.session cimport Session
from gateway._fast.window cimport Written

cdef class Acks:
    cdef:
        object _collected  # called when receipts wait; None: nobody is told
        uint8_t* _packed  # PyMem; NULL while nothing is collected
        Py_ssize_t _bytes
        Py_ssize_t _capacity
        Py_ssize_t _count

    cpdef Py_ssize_t ack(self, Session session, bytes text, int64_t at_ms) except -2
    cdef Py_ssize_t _take_places(self, Session session, bytes text, int64_t at_ms) except -2
    cdef int _tell(self, Py_ssize_t before) except -1
    cdef int _upto(self, Session session, int last, int64_t at_ms) except -1
    cdef int _put(self, Session session, const Written* written, int64_t at_ms) except -1
    cdef int _grow(self, Py_ssize_t more) except -1
