"""C side of upgrade: what the engine calls without going through Python."""

cdef Py_ssize_t find_end(const unsigned char* data, Py_ssize_t count, Py_ssize_t checked) noexcept nogil
cdef object parse_head(const unsigned char* head, Py_ssize_t count)
