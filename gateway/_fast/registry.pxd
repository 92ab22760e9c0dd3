cdef class Registry:
    cdef dict _users  # tag -> one connection, or a tuple of them oldest first
    cdef Py_ssize_t _count

    cdef object held(self, bytes tag)  # None, the one connection, or a tuple of them
