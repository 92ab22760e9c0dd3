from gateway._fast.address cimport Address
from gateway._fast.peers cimport Peers
from gateway._fast.slots cimport Slot
from gateway._fast.socket_set cimport SocketSet

cdef class Doors(SocketSet):
    cdef:
        object _doorkeeper
        Peers _peers
        bint _proxied  # a PROXY header comes first
        dict _claimed  # handle -> address, of doors whose client is not their socket's peer

    cdef int _flood(self, Slot* slot) except -1
    cdef int _read_proxy(self, Slot* slot, Py_ssize_t count) except -1
    cdef bint _claim(self, Slot* slot, const Address* address) except -1
    cdef int _read_head(self, Slot* slot, Py_ssize_t checked, Py_ssize_t count) except -1
