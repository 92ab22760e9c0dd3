from libc.stdint cimport int32_t, int64_t
from picows.picows cimport WSFrame, WSListener, WSTransport

from gateway._fast.acks cimport Acks
from gateway._fast.peers cimport Peers
from gateway._fast.session cimport Session

cdef class Connection(WSListener):
    cdef:
        readonly Session session
        public str peer
        readonly int64_t opened_ms
        public int64_t deadline_ms
        public object ready
        public object state
        Peers _peers  # None: not counted, or not any more
        int32_t _ticket  # of the client's address there
        object _policy
        Acks _acks  # the policy's
        WSTransport _transport  # None before the upgrade and after the end
        object _close_timer  # None until our close frame is written
        bint _full
        bint _aborted
        int _ignored  # frames behind our close

    cpdef on_ws_connected(self, WSTransport transport)
    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame)
    cpdef on_ws_disconnected(self, WSTransport transport)
    cpdef pause_writing(self)
    cpdef resume_writing(self)
    cpdef flush(self)
    cpdef abort(self)
    cpdef bint is_open(self)
    cdef int _message(self, bytes text) except -1
    cdef int _write(self, WSTransport transport) except -1
    cdef object _settle(self)
    cdef object _start_close_timer(self)
