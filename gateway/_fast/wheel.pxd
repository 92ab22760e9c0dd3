from libc.stdint cimport int64_t

cdef class Wheel:
    cdef list _slots  # a ring: slot of tick t is t % slot count; each a list of items, or None while empty
    cdef int64_t _tick_ms
    cdef int64_t _next_tick  # the first tick that has not been handed out
    cdef Py_ssize_t _count

    cpdef object arm(self, item, int64_t due_ms)
    cpdef list advance(self, int64_t now_ms)
