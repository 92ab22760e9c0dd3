"""C side of proxy: what the engine calls without going through Python."""

from libc.stdint cimport uint8_t

from gateway._fast.address cimport Address

cdef Py_ssize_t proxy_header(const uint8_t* data, Py_ssize_t count, Address* source, bint* told) noexcept nogil
