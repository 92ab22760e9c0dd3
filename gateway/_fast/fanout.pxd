from libc.stdint cimport int64_t

cdef class Crowd:
    cdef list _connections  # each session's `place` is where its connection stands

cdef class Fanout:
    cdef:
        object _nudge
        object _welcomed
        list _dirty  # connections that flush() is to flush; one may stand here twice

    cdef int _written(self, object connection, bint idle) except -1
