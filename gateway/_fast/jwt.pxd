"""C side of jwt."""

cdef class Recent:
    cdef dict _young
    cdef dict _old
    cdef Py_ssize_t _entries_max  # of a generation
    cdef Py_ssize_t _chars_max  # of a generation's keys
    cdef Py_ssize_t _chars  # of the young generation's keys

    cpdef object put(self, str key, object value)
