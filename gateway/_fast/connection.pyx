"""The picows carrier: adapts a Session to a WebSocket transport (uvloop's, 2 KB read buffer).

The server must be made with enable_auto_ping=False, enable_auto_pong=False (the session answers pings),
use_aiofastnet=False and max_frame_size=FRAME_BYTES_MAX. picows checks frame headers itself: at a fault it sends
its close frame, ignores later ones and disconnects; the session then learns of it in on_ws_disconnected only.

Buffers: a frame's payload lies in picows' read buffer until on_ws_frame returns, so it is copied. What flush()
writes stays the session's; the transport copies what the socket does not take at once: a slice at most.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t
from picows.picows cimport WSFrame, WSListener, WSTransport
from posix.uio cimport iovec

from gateway._fast.framing cimport OP_CLOSE
from gateway._fast.outbox cimport PIECES, outbox_pieces
from gateway._fast.peers cimport PEER_UNCOUNTED, Peers
from gateway._fast.session cimport PHASE_CLOSED, PHASE_CLOSING, PHASE_LIVE, Session
from gateway._fast.sockets cimport monotonic_ms, unix_ms

from notification import limits as _limits

cdef:
    # What the transport buffers leaves first in, first out: it says that the socket is full as soon as it buffers,
    # and all but a slice waits in the session. (Below TLS, uvloop's TCP transport holds its own 64 KB too.)
    object _HIGH_WATER_BYTES = 1  # uvloop pauses a TCP transport above it, a TLS transport from it on
    object _LOW_WATER_BYTES = 0
    Py_ssize_t _SLICE_BYTES = _limits.WRITE_BUFFER_BYTES_MAX // 4
    object _CLOSE_DEADLINE_S = _limits.CLOSE_DEADLINE_MS / 1_000
    int _IGNORED_FRAMES_MAX = _limits.IGNORED_FRAMES_MAX


cdef class Connection(WSListener):
    """One socket; carrier.Connection is its contract."""

    def __init__(self, policy not None, int64_t now_ms, Peers peers=None, int32_t ticket=PEER_UNCOUNTED):
        if peers is not None and ticket >= peers._capacity:
            raise ValueError("no such ticket")
        self.session = Session(now_ms)
        self._peers = peers
        self._ticket = ticket
        self.peer = ""
        self.opened_ms = now_ms
        self._policy = policy
        self._acks = policy.acks

    cpdef on_ws_connected(self, WSTransport transport):
        """picows: the 101 is written."""
        self._transport = transport
        # Read once, at the door; kept, they would cost 2 KB for the connection's whole life.
        transport.request = None
        transport.response = None
        transport.underlying_transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES, low=_LOW_WATER_BYTES)
        if not self.peer:
            address = transport.underlying_transport.get_extra_info("peername")
            if isinstance(address, tuple):
                self.peer = address[0]
        try:
            self._policy.opened(self)
        finally:
            self.ready = None
        self.flush()

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        """picows: one frame, unmasked in place. Replies go out once per read, after its last frame."""
        if self._aborted:
            return
        if self.session.phase >= PHASE_CLOSING and <int>frame.msg_type != <int>OP_CLOSE:
            self._ignored += 1  # behind our close only the peer's counts; a flood is left to the close deadline
            if self._ignored == _IGNORED_FRAMES_MAX and not transport.underlying_transport.is_closing():
                transport.underlying_transport.pause_reading()
            return
        text = self.session.feed(
            frame.msg_type, frame.fin, frame.rsv1 << 2 | frame.rsv2 << 1 | frame.rsv3,
            PyBytes_FromStringAndSize(frame.payload_ptr, frame.payload_size), monotonic_ms(),
        )
        if text is not None:
            self._message(text)
        if frame.last_in_buffer or self.session.phase >= PHASE_CLOSING:
            self.flush()

    cdef int _message(self, bytes text) except -1:
        """To the policy; an ack in its usual form not, while nothing is owed that it could make room for."""
        cdef Py_ssize_t acked = -1
        if self.state is None and self.session.phase == PHASE_LIVE:
            acked = self._acks.ack(self.session, text, unix_ms())
        if acked < 0:
            self._policy.message(self, text)
        elif acked > 0 and self.session.wanted():
            self._policy.acked(self)
        return 0

    cpdef on_ws_disconnected(self, WSTransport transport):
        """picows: the socket is gone. Called once for each on_ws_connected."""
        cdef bint clean = self.session.close_sent and self.session.close_received
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        if (
            self.session.close_code == 0
            and transport.close_handshake is not None and transport.close_handshake.sent is not None
        ):
            self.session.close_code = <int>transport.close_handshake.sent.code  # picows found the fault
        self.session.end()
        if self._peers is not None:
            self._peers.give(self._ticket)
            self._peers = None
        self._transport = None
        self._policy.closed(self, clean)

    cpdef pause_writing(self):
        """picows: the socket is full."""
        self._full = True

    cpdef resume_writing(self):
        """picows: the socket took everything."""
        cdef bint told = self.session.stale(monotonic_ms())
        self._full = False
        self.flush()
        told = self.session.relieved() or told or self.state is not None and self.session._out_bytes == 0
        if told and self.is_open():
            self._policy.writable(self)
            self.flush()

    cpdef flush(self):
        """One write of everything the session queued; see carrier.py."""
        cdef Session session = self.session
        cdef WSTransport transport = self._transport
        if transport is None:
            return
        if transport.is_disconnected or self._aborted:
            # _fast_write() does not look: the descriptor's number may be another user's socket by now.
            session.discard()
            return
        if session._out_bytes:
            if transport.is_close_frame_sent:  # ours, or picows' at a fault: nothing may follow it
                session.discard()
                self._start_close_timer()
                return
            self._write(transport)
            if self._full and session.held(monotonic_ms()):
                self.abort()
                return
        if session.close_sent:
            self._settle()
        elif session.phase == PHASE_CLOSING:
            self._start_close_timer()

    cdef int _write(self, WSTransport transport) except -1:
        """Hand frames to the transport until the socket is full."""
        cdef Session session = self.session
        cdef iovec pieces[PIECES]
        cdef bytes piece
        while session._out_bytes and not self._full and not transport.is_disconnected:
            if outbox_pieces(session._outbox, pieces) == 1 and session._out_bytes <= _SLICE_BYTES:
                transport._fast_write(<char*>pieces[0].iov_base, pieces[0].iov_len)
                session.sent(session._out_bytes)
            else:
                piece = session.take(_SLICE_BYTES)
                transport._fast_write(PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
        return 0

    cdef object _settle(self):
        """Our close frame is out: await the peer's for CLOSE_DEADLINE_MS; with both, the server ends TCP first."""
        self._transport.is_close_frame_sent = True
        self._start_close_timer()
        if self.session.phase == PHASE_CLOSED:
            self._transport.underlying_transport.close()

    cdef object _start_close_timer(self):
        if self._close_timer is None:
            self._close_timer = self._transport._loop.call_later(_CLOSE_DEADLINE_S, self.abort)

    def congested(self):
        """What waits went above its high-water mark and is not below the low one yet."""
        return self._transport is not None and self.session.blocked

    def close(self, int code, str reason not None):
        """Queue our close frame and flush. ValueError: `code` may not be sent."""
        self.session.close(code, reason)
        self.flush()

    cpdef abort(self):
        """Drop the socket now, unsent bytes with it."""
        if self._transport is not None and not self._aborted:
            self._aborted = True
            self.session.discard()
            self._transport.underlying_transport.abort()

    cpdef bint is_open(self):
        """Connected, and no close is queued, sent or received."""
        return (
            self._transport is not None and not self._aborted and not self._transport.is_disconnected
            and not self._transport.is_close_frame_sent and self.session.phase < PHASE_CLOSING
        )
