from libc.stdint cimport uint8_t, uint64_t

from gateway._fast.registry cimport Registry

cdef class Router:
    cdef:
        Registry _registry
        object _nudge
        object _welcomed
        list _dirty  # connections that flush() is to flush; one may stand here twice
        Py_ssize_t _frames
        Py_ssize_t _refused

    cdef int _item(self, const uint8_t* item, bint draining, uint64_t database_ms) except -1
    cdef int _control(self, object held, const uint8_t* body, Py_ssize_t body_bytes) except -1
    cdef int _offer(
        self, object connection, const uint8_t* item, const uint8_t* body, Py_ssize_t body_bytes,
    ) except -1
