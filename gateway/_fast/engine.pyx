"""The engine: WebSocket connections on the sockets of socket_set, past their doors, without asyncio transports.

An idle connection is a slot, an EngineConnection and its Session. The slot holds a reference to its connection
until the socket is gone; the connection points at the slot until then, so that it never touches the descriptor's
next owner. The policy hears of an end when nothing else is under way: at the end of the turn, or from the loop.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.uio cimport iovec

from gateway._fast.address cimport peer_address
from gateway._fast.doors cimport Doors
from gateway._fast.framing cimport FRAME_FAULT, FrameHeader, frame_header, frame_unmask
from gateway._fast.outbox cimport PIECES, outbox_pieces
from gateway._fast.peers cimport Peers
from gateway._fast.session cimport PHASE_CLOSED, PHASE_CLOSING, PHASE_LIVE, PHASE_RESUMING, Session
from gateway._fast.slots cimport (
    QUEUE_CLOSING, SLOT_JUDGED, SLOT_OPEN, Slot, buffer_append, buffer_bytes, buffer_count, buffer_set,
    queue_leave, slot_find,
)
from gateway._fast.sockets cimport EAGAIN, EINTR, errno, monotonic_ms, send_pieces, unix_ms

from gateway._fast.session import PROTOCOL_ERROR, TOO_BIG
from notification import limits as _limits

# codes.Closes, which this package must not import; a test holds them equal.
INTERNAL = (1011, "internal error")

cdef:
    Py_ssize_t _FRAME_BYTES_MAX = _limits.FRAME_BYTES_MAX
    object _UPGRADE_HOLD_S = _limits.UPGRADE_HOLD_MS / 1_000


cdef class Engine(Doors):
    """Accepts, reads, writes and closes for one process; engine.pyi is its contract."""

    def __init__(
        self, loop not None, policy not None, doorkeeper not None, Py_ssize_t sockets_max, int64_t head_deadline_ms,
        Peers peers=None, bint proxied=False,
    ):
        self._policy = policy
        self._acks = policy.acks
        self._gone = []
        self._held = []
        Doors.__init__(self, loop, doorkeeper, sockets_max, head_deadline_ms, peers, proxied)

    def connections(self):
        """Sockets past the upgrade."""
        return self._open

    def upgrade(self, uint64_t handle, bytes data not None, ready):
        """Send the 101 and make a connection of the socket. False: the handle is stale."""
        cdef Slot* slot = slot_find(&self._table, handle)
        cdef EngineConnection connection
        cdef Py_ssize_t count
        if slot == NULL or slot.state != SLOT_JUDGED:
            return False
        connection = EngineConnection.__new__(EngineConnection)
        connection.session = Session(slot.since_ms)
        connection.opened_ms = slot.since_ms
        connection.ready = ready
        connection._engine = self
        connection._slot = slot
        if self._claimed:
            connection._peer = self._claimed.pop(handle, None)
        queue_leave(&self._table, slot)
        slot.state = SLOT_OPEN
        slot.owner = <void*>connection
        Py_INCREF(connection)
        self._open += 1
        self._watch(slot)
        if not buffer_append(&slot.outbox, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)):
            raise MemoryError()
        connection._greeting = True
        try:
            self._policy.opened(connection)
        except Exception as error:  # a fault of ours ends this connection only, as in message()
            self._failed(connection, error)
        finally:
            connection.ready = None
        if connection.session.phase == PHASE_RESUMING and connection.session._out_bytes == 0:
            self._hold(connection)
        else:
            connection.flush()
        slot = slot_find(&self._table, handle)
        if slot != NULL and slot.state == SLOT_OPEN and slot.kept != NULL:
            count = buffer_count(slot.kept)
            memcpy(self._buffer, buffer_bytes(slot.kept), count)
            self._read_open(slot, count)
        return True

    cdef int _read_open(self, Slot* slot, Py_ssize_t count) except -1:
        """Everything whole among the first `count` bytes of the buffer; the rest is kept."""
        cdef EngineConnection connection = <EngineConnection>slot.owner
        cdef Session session = connection.session
        cdef uint32_t generation = slot.generation
        cdef uint8_t* data = <uint8_t*>self._buffer
        cdef FrameHeader header
        cdef Py_ssize_t at = 0
        cdef int64_t now_ms = monotonic_ms()
        cdef int header_bytes
        while at < count and session.phase != PHASE_CLOSED and not session.close_received:
            header_bytes = frame_header(data + at, count - at, _FRAME_BYTES_MAX, &header)
            if header_bytes < 0:
                close = PROTOCOL_ERROR if header_bytes == -FRAME_FAULT else TOO_BIG
                return self._fault(connection, close[0], close[1])
            if header_bytes == 0 or count - at - header_bytes < header.payload_bytes:
                break
            at += header_bytes
            frame_unmask(data + at, header.payload_bytes, header.mask)
            text = session.feed(
                header.opcode, header.fin, header.rsv,
                PyBytes_FromStringAndSize(<char*>data + at, header.payload_bytes), now_ms,
            )
            at += header.payload_bytes
            if text is not None:
                try:
                    self._message(connection, text)
                except Exception as error:  # a fault of ours ends this connection only
                    self._failed(connection, error)
                if slot.generation != generation or slot.state != SLOT_OPEN:
                    return 0
        # Nothing is heard behind a close frame, so nothing of it is kept.
        self._keep(slot, count if session.close_received or session.phase == PHASE_CLOSED else at, count)
        connection.flush()
        return 0

    cdef int _message(self, EngineConnection connection, bytes text) except -1:
        """To the policy; an ack in its usual form not, while nothing is owed that it could make room for."""
        cdef Session session = connection.session
        cdef Py_ssize_t acked = -1
        if connection.state is None and session.phase == PHASE_LIVE:
            acked = self._acks.ack(session, text, unix_ms())
        if acked < 0:
            self._policy.message(connection, text)
        elif acked > 0 and session.wanted():
            self._policy.acked(connection)
        return 0

    cdef int _hold(self, EngineConnection connection) except -1:
        """The 101 leaves with the first frame, in one send; alone once UPGRADE_HOLD_MS is over."""
        self._held.append(connection)
        if len(self._held) == 1:
            self._loop.call_later(_UPGRADE_HOLD_S, self._release)
        return 0

    cpdef object _release(self):
        """Nobody waits any longer. (Who came meanwhile waits a little less.)"""
        cdef EngineConnection connection
        cdef list held = self._held
        self._held = []
        for connection in held:
            try:
                connection.flush()
            except Exception as error:  # the others wait too
                self._failed(connection, error)

    cdef int _send(self, Slot* slot, Session session) except -1:
        """What is left of the 101, then what the session queued, as far as the socket takes it. False: the socket
        is gone, and so is the slot."""
        cdef iovec pieces[PIECES + 1]
        cdef Py_ssize_t head = buffer_count(slot.outbox)
        cdef Py_ssize_t sent
        if head:
            pieces[0].iov_base = buffer_bytes(slot.outbox)
            pieces[0].iov_len = head
        sent = send_pieces(slot.fd, pieces, (head > 0) + outbox_pieces(session._outbox, pieces + (head > 0)))
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self._drop(slot, False)
                return False
            sent = 0
        if head:
            head = min(head, sent)
            sent -= head
            slot.outbox.start += head
            if buffer_count(slot.outbox) == 0:
                buffer_set(&slot.outbox, NULL, 0)
        session.sent(sent)
        slot.full = session._out_bytes > 0 or slot.outbox != NULL
        self._watch(slot)
        return True

    cdef int _drained(self, Slot* slot) except -1:
        """An open socket that was full takes bytes again."""
        cdef EngineConnection connection = <EngineConnection>slot.owner
        cdef Session session = connection.session
        cdef bint told = session.stale(monotonic_ms())
        slot.full = False
        connection.flush()
        if connection._slot == NULL:
            return 0
        self._watch(slot)
        told = session.relieved() or told or connection.state is not None and session._out_bytes == 0
        if told and connection.is_open():
            try:
                self._policy.writable(connection)
            except Exception as error:  # a fault of ours ends this connection only, as in message()
                self._failed(connection, error)
            connection.flush()
        return 0

    cdef int _disown(self, Slot* slot) except -1:
        """The connection has no socket any more; the policy hears of it when nothing else is under way."""
        cdef EngineConnection connection
        if slot.owner == NULL:
            return 0
        connection = <EngineConnection>slot.owner
        connection._clean = connection.session.close_sent and connection.session.close_received
        connection._slot = NULL
        slot.owner = NULL
        Py_DECREF(connection)
        self._open -= 1
        self._gone.append(connection)
        self._reap_soon()
        return 0

    cdef int _fault(self, EngineConnection connection, int code, str reason) except -1:
        """What comes cannot be told apart any more: our close frame is the last word, nothing is read behind it."""
        cdef Session session = connection.session
        cdef bytes left
        session.close(code, reason)
        connection.flush()
        if connection._slot != NULL:
            if session._out_bytes:
                left = session.take()
                if not buffer_append(&connection._slot.outbox, PyBytes_AS_STRING(left), PyBytes_GET_SIZE(left)):
                    raise MemoryError()
            self._end(connection._slot)
        return 0

    cdef object _failed(self, EngineConnection connection, object error):
        """The policy raised."""
        self._loop.call_exception_handler({"message": "engine: the policy failed", "exception": error})
        self._fault(connection, INTERNAL[0], INTERNAL[1])

    cdef object _reap_soon(self):
        if not self._in_turn and not self._reaping:
            self._reaping = True
            self._loop.call_soon(self._reap)

    cpdef object _reap(self):
        """Tell the policy which sockets are gone."""
        cdef EngineConnection connection
        self._reaping = False
        while self._gone:
            connection = self._gone.pop()
            connection.session.end()
            try:
                self._policy.closed(connection, bool(connection._clean))
            except Exception as error:  # the others' ends must be told too
                self._loop.call_exception_handler({"message": "engine: the policy failed", "exception": error})


@cython.no_gc  # a cycle through `state` or `ready` is the policy's to break in closed(): 16 bytes less a connection
cdef class EngineConnection:
    """One socket past the upgrade; carrier.Connection is its contract."""

    def __init__(self):
        raise TypeError("Engine.upgrade() makes connections")

    @property
    def peer(self):
        if self._peer is None:
            return peer_address(self._slot.fd) if self._slot != NULL else ""
        return self._peer

    @peer.setter
    def peer(self, str address not None):
        self._peer = address

    cpdef flush(self):
        """One write of everything the session queued."""
        cdef Session session = self.session
        cdef Slot* slot = self._slot
        if slot == NULL:
            session.discard()
            return
        if (session._out_bytes or self._greeting) and not slot.full:
            self._greeting = False
            if not self._engine._send(slot, session):
                session.discard()
                return
        if slot.full and session.held(monotonic_ms()):
            self.abort()
        elif session.close_sent and session.phase == PHASE_CLOSED:
            self._engine._end(slot)
        elif session.phase == PHASE_CLOSING:
            self._engine._wait(slot, QUEUE_CLOSING)

    def congested(self):
        """What waits went above its high-water mark and is not below the low one yet."""
        return self._slot != NULL and self.session.blocked

    def close(self, int code, str reason not None):
        """Queue our close frame and flush. ValueError: `code` may not be sent."""
        self.session.close(code, reason)
        self.flush()

    cpdef abort(self):
        """Drop the socket now, unsent bytes with it."""
        if self._slot != NULL:
            self.session.discard()
            self._engine._drop(self._slot, True)

    cpdef bint is_open(self):
        """Connected, and no close is queued, sent or received."""
        return self._slot != NULL and self.session.phase < PHASE_CLOSING
