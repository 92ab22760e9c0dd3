"""The engine: sockets of one process in an epoll set of its own, below uvloop.

uvloop watches one descriptor, the set's (add_reader), so that it still runs everything: a turn takes a bounded number
of events and returns, and NATS, Redis and timers have theirs. The set is level-triggered: what a turn leaves is
reported again in the next one, in a fair order.

An accepted socket is a Slot (slots.pxd) and nothing else until its request was judged; then a Slot and an
EngineConnection with its Session. None has a buffer, a timer or a transport of its own: everybody reads into one
buffer, a part of a head or frame is kept only while it is a part, an outbox exists only while the socket is full, and
deadlines are two queues in which all wait equally long.

Ownership: the slot holds a reference to its connection until the socket is gone; the connection points at the slot
until then. `_buffer` holds what one recv() brought and is used up before the next; it may be overwritten by upgrade(),
which a turn calls only after it is done with the head. After any call into the policy or the doorkeeper a slot may
be another's: its generation is compared first.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from gateway._fast cimport sockets
from gateway._fast.framing cimport (
    FRAME_FAULT,
    FRAME_HEADER_BYTES_MAX,
    FrameHeader,
    frame_header,
    frame_unmask,
)
from gateway._fast.session cimport PHASE_CLOSED, PHASE_CLOSING, Session
from gateway._fast.slots cimport (
    CHUNK_SLOTS,
    NONE,
    QUEUE_CLOSING,
    QUEUE_HEADS,
    SLOT_ENDING,
    SLOT_HEAD,
    SLOT_JUDGED,
    SLOT_OPEN,
    Slot,
    buffer_append,
    buffer_bytes,
    buffer_count,
    buffer_set,
    queue_join,
    queue_leave,
    slot_at,
    slot_find,
    slot_give,
    slot_handle,
    slot_take,
    table_free,
    table_start,
)
from gateway._fast.upgrade cimport find_end, parse_head

from gateway._fast.session import PROTOCOL_ERROR, TOO_BIG
from gateway._fast.upgrade import MALFORMED
from notification import limits as _limits

# codes.Closes, which this package must not import; a test holds them equal.
TOO_SLOW = (4410, "too slow")
INTERNAL = (1011, "internal error")

cdef enum:
    EVENTS_PER_CALL_MAX = 256

cdef:
    uint64_t _LISTENER = <uint32_t>NONE  # the handle that is no slot's
    Py_ssize_t _READ_BYTES = _limits.ENGINE_READ_BYTES
    Py_ssize_t _FRAME_BYTES_MAX = _limits.FRAME_BYTES_MAX
    Py_ssize_t _TAIL_BYTES_MAX = _limits.FRAME_BYTES_MAX + FRAME_HEADER_BYTES_MAX
    # A head that is not whole, or a frame that is not, and one read behind it.
    Py_ssize_t _BUFFER_BYTES = (
        max(_limits.HEADER_BYTES_MAX + 4, _limits.FRAME_BYTES_MAX + FRAME_HEADER_BYTES_MAX) + _limits.ENGINE_READ_BYTES
    )
    Py_ssize_t _UNSENT_BYTES_MAX = _limits.WRITE_BUFFER_BYTES_MAX
    Py_ssize_t _UNSENT_BYTES_LOW = _limits.WRITE_BUFFER_BYTES_MAX // 4
    int _EVENTS_MAX = min(_limits.ENGINE_EVENTS_PER_TURN_MAX, EVENTS_PER_CALL_MAX)
    int _ACCEPTS_MAX = _limits.ENGINE_ACCEPTS_PER_TURN_MAX
    int _BACKLOG = _limits.LISTEN_BACKLOG
    int64_t _CLOSE_DEADLINE_MS = _limits.CLOSE_DEADLINE_MS
    object _ACCEPT_PAUSE_S = _limits.ENGINE_ACCEPT_PAUSE_MS / 1_000


cdef int64_t _now_ms() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000 + now.tv_nsec // 1_000_000


cdef class Engine:
    """Accepts, reads, writes and closes for one process; engine.pyi is its contract."""

    def __cinit__(self):
        table_start(&self._table)
        self._epoll = self._listening = -1

    def __init__(
        self, loop not None, policy not None, doorkeeper not None, Py_ssize_t sockets_max, int64_t head_deadline_ms,
    ):
        self._loop = loop
        self._policy = policy
        self._doorkeeper = doorkeeper
        self.sockets_max = sockets_max
        self.head_deadline_ms = head_deadline_ms
        self._gone = []
        self._buffer = <char*>malloc(_BUFFER_BYTES)
        if self._buffer == NULL:
            raise MemoryError()
        self._epoll = sockets.epoll_create1(sockets.EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(sockets.errno, "epoll_create1")
        loop.add_reader(self._epoll, self.turn)

    def __dealloc__(self):
        # Connections hold the engine: with none left, only slots without an owner can be in use.
        cdef Slot* slot
        cdef int i
        for i in range(self._table.chunks_count * CHUNK_SLOTS):
            slot = slot_at(&self._table, i)
            if slot.fd >= 0:
                sockets.close_descriptor(slot.fd)
                free(slot.kept)
                free(slot.outbox)
        table_free(&self._table)
        free(self._buffer)
        if self._epoll >= 0:
            sockets.close_descriptor(self._epoll)

    # --- from outside -------------------------------------------------------
    def listen(self, sock not None):
        """Accept from a listening, non-blocking socket."""
        cdef sockets.epoll_event event
        if sock.family in (sockets.AF_INET, sockets.AF_INET6):
            sock.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        event.events = sockets.EPOLLIN
        event.data.u64 = _LISTENER
        if sockets.epoll_ctl(self._epoll, sockets.EPOLL_CTL_ADD, sock.fileno(), &event) != 0:
            raise OSError(sockets.errno, "epoll_ctl")
        self._listener = sock
        self._listening = sock.fileno()

    def stop_listening(self):
        """Accept what waits, then close the listening socket."""
        cdef int rounds
        if self._listening < 0:
            return
        for rounds in range(_BACKLOG // _ACCEPTS_MAX + 1):
            if self._accept() < _ACCEPTS_MAX:
                break
        if self._accept_timer is not None:
            self._accept_timer.cancel()
            self._accept_timer = None
        self._listening = -1
        self._listener.close()
        self._listener = None

    def close(self):
        """Drop every socket, tell the policy, leave the loop."""
        cdef Slot* slot
        cdef int i
        if self._epoll < 0:
            return
        if self._listener is not None:
            self._listening = -1
            self._listener.close()
            self._listener = None
        for i in range(self._table.chunks_count * CHUNK_SLOTS):
            slot = slot_at(&self._table, i)
            if slot.fd >= 0:
                self._drop(slot, True)
        self._reap()
        for timer in (self._timer, self._accept_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._accept_timer = None
        self._loop.remove_reader(self._epoll)
        sockets.close_descriptor(self._epoll)
        self._epoll = -1

    def doors(self):
        """Sockets that are no connection."""
        return self._table.used - self._open

    def connections(self):
        """Sockets past the upgrade."""
        return self._open

    def answer(self, uint64_t handle, bytes data not None):
        """Send a response and end the socket. False: the handle is stale."""
        cdef Slot* slot = slot_find(&self._table, handle)
        if slot == NULL or slot.state > SLOT_JUDGED:
            return False
        buffer_set(&slot.kept, NULL, 0)
        slot.state = SLOT_ENDING
        if self._write(slot, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)):
            self._end(slot)
        return True

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
        queue_leave(&self._table, slot)
        slot.state = SLOT_OPEN
        slot.owner = <void*>connection
        Py_INCREF(connection)
        self._open += 1
        if not self._write(slot, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)):
            connection.session.end()  # never opened: nobody is to hear of its end
            self._gone.remove(connection)
            return False
        self._watch(slot)
        try:
            self._policy.opened(connection)
        except Exception as error:  # a fault of ours ends this connection only, as in message()
            self._failed(connection, error)
        finally:
            connection.ready = None
        connection.flush()
        slot = slot_find(&self._table, handle)
        if slot != NULL and slot.state == SLOT_OPEN and slot.kept != NULL:
            count = buffer_count(slot.kept)
            memcpy(self._buffer, buffer_bytes(slot.kept), count)
            self._read_frames(slot, count)
        return True

    # --- a turn -------------------------------------------------------------
    cpdef object turn(self):
        """What the loop calls when the epoll set has events."""
        cdef sockets.epoll_event events[EVENTS_PER_CALL_MAX]
        cdef Slot* slot
        cdef int i
        cdef int count
        if self._epoll < 0:
            return
        self._in_turn = True
        try:
            count = sockets.epoll_wait(self._epoll, events, _EVENTS_MAX, 0)
            for i in range(max(count, 0)):
                if events[i].data.u64 == _LISTENER:
                    self._accept()
                    continue
                slot = slot_find(&self._table, events[i].data.u64)
                if slot != NULL:
                    self._event(slot, events[i].events)
        finally:
            self._in_turn = False
            self._reap()

    cdef int _accept(self) except -1:
        """Accept a bounded number; how many came."""
        cdef sockets.epoll_event event
        cdef Slot* slot
        cdef int accepted = 0
        cdef int fd
        cdef int tries
        for tries in range(_ACCEPTS_MAX):
            if self._listening < 0:
                break
            fd = sockets.accept4(self._listening, NULL, NULL, sockets.SOCK_NONBLOCK | sockets.SOCK_CLOEXEC)
            if fd < 0:
                if sockets.errno == sockets.EAGAIN:
                    break
                if (
                    sockets.errno == sockets.EMFILE or sockets.errno == sockets.ENFILE
                    or sockets.errno == sockets.ENOBUFS or sockets.errno == sockets.ENOMEM
                ):
                    self._pause_accepting()
                    break
                continue  # that client is gone already
            slot = slot_take(&self._table, fd, _now_ms())
            if slot == NULL:
                sockets.close_descriptor(fd)
                self._pause_accepting()
                break
            event.events = slot.interest = sockets.EPOLLIN
            event.data.u64 = slot_handle(slot)
            if sockets.epoll_ctl(self._epoll, sockets.EPOLL_CTL_ADD, fd, &event) != 0:
                self._drop(slot, True)
                self._pause_accepting()
                break
            accepted += 1
            self._wait(slot, QUEUE_HEADS)
            if self._table.used > self.sockets_max:
                self._doorkeeper.overloaded(slot_handle(slot))
        return accepted

    cdef object _pause_accepting(self):
        """Out of descriptors or memory: accepting at once would fail again, and spin. Clients wait in the backlog."""
        cdef sockets.epoll_event event
        if self._accept_timer is None and self._listening >= 0:
            event.events = 0
            event.data.u64 = _LISTENER
            sockets.epoll_ctl(self._epoll, sockets.EPOLL_CTL_MOD, self._listening, &event)
            self._accept_timer = self._loop.call_later(_ACCEPT_PAUSE_S, self._accept_again)

    def _accept_again(self):
        cdef sockets.epoll_event event
        self._accept_timer = None
        if self._listening >= 0:
            event.events = sockets.EPOLLIN
            event.data.u64 = _LISTENER
            sockets.epoll_ctl(self._epoll, sockets.EPOLL_CTL_MOD, self._listening, &event)

    cdef int _event(self, Slot* slot, unsigned int events) except -1:
        cdef uint32_t generation = slot.generation
        try:
            if events & sockets.EPOLLOUT and slot.outbox != NULL:
                self._writable(slot)
            if slot.generation != generation:
                return 0
            if slot.state == SLOT_JUDGED:
                if events & (sockets.EPOLLERR | sockets.EPOLLHUP):
                    self._drop(slot, True)
            elif events & (sockets.EPOLLIN | sockets.EPOLLERR | sockets.EPOLLHUP):
                self._readable(slot)
        except Exception as error:  # whatever it was, it was this socket's: the others go on
            self._loop.call_exception_handler({"message": "engine: a socket was dropped", "exception": error})
            if slot.generation == generation:
                self._drop(slot, True)
        return 0

    # --- reading ------------------------------------------------------------
    cdef int _readable(self, Slot* slot) except -1:
        cdef Py_ssize_t held = buffer_count(slot.kept)
        cdef Py_ssize_t count
        if held:
            memcpy(self._buffer, buffer_bytes(slot.kept), held)
        count = sockets.recv(slot.fd, self._buffer + held, _READ_BYTES, 0)
        if count > 0:
            if slot.state == SLOT_OPEN:
                self._read_frames(slot, held + count)
            elif slot.state == SLOT_HEAD:
                self._read_head(slot, held, held + count)
        elif count == 0 or (sockets.errno != sockets.EAGAIN and sockets.errno != sockets.EINTR):
            self._drop(slot, False)
        return 0

    cdef int _read_head(self, Slot* slot, Py_ssize_t checked, Py_ssize_t count) except -1:
        cdef Py_ssize_t end = find_end(<unsigned char*>self._buffer, count, checked)
        cdef uint32_t generation = slot.generation
        if end == 0:
            return self._keep(slot, 0, count)
        if end < 0:
            outcome = -end
            end = count
        elif count - end > _TAIL_BYTES_MAX:
            outcome = MALFORMED
            end = count
        else:
            outcome = parse_head(<unsigned char*>self._buffer, end - 4)
        self._keep(slot, end, count)
        slot.state = SLOT_JUDGED
        self._doorkeeper.request(slot_handle(slot), outcome)
        if slot.generation == generation and slot.state == SLOT_JUDGED:
            self._watch(slot)  # it will be answered later
        return 0

    cdef int _read_frames(self, Slot* slot, Py_ssize_t count) except -1:
        """Everything whole among the first `count` bytes of the buffer; the rest is kept."""
        cdef EngineConnection connection = <EngineConnection>slot.owner
        cdef Session session = connection.session
        cdef uint32_t generation = slot.generation
        cdef uint8_t* data = <uint8_t*>self._buffer
        cdef FrameHeader header
        cdef Py_ssize_t at = 0
        cdef int64_t now_ms = _now_ms()
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
                    self._policy.message(connection, text)
                except Exception as error:  # a fault of ours ends this connection only
                    self._failed(connection, error)
                if slot.generation != generation or slot.state != SLOT_OPEN:
                    return 0
        self._keep(slot, at, count)
        connection.flush()
        return 0

    cdef int _keep(self, Slot* slot, Py_ssize_t start, Py_ssize_t count) except -1:
        """Keep bytes [start, count) of the buffer for the next read."""
        if not buffer_set(&slot.kept, self._buffer + start, count - start):
            raise MemoryError()
        return 0

    # --- writing ------------------------------------------------------------
    cdef int _write(self, Slot* slot, const char* data, Py_ssize_t count) except -1:
        """Send now, or behind what waits already. False: the socket is gone, and so is the slot."""
        cdef Py_ssize_t sent = 0
        if slot.outbox == NULL:
            sent = sockets.send(slot.fd, data, count, sockets.MSG_NOSIGNAL)
            if sent == count:
                return True
            if sent < 0:
                if sockets.errno != sockets.EAGAIN and sockets.errno != sockets.EINTR:
                    self._drop(slot, False)
                    return False
                sent = 0
        if not buffer_append(&slot.outbox, data + sent, count - sent):
            raise MemoryError()
        self._watch(slot)
        if slot.state == SLOT_OPEN and buffer_count(slot.outbox) > _UNSENT_BYTES_MAX:
            slot.paused = True
            (<EngineConnection>slot.owner).session.blocked = True
        return True

    cdef int _writable(self, Slot* slot) except -1:
        cdef EngineConnection connection
        cdef Py_ssize_t sent = sockets.send(
            slot.fd, buffer_bytes(slot.outbox), buffer_count(slot.outbox), sockets.MSG_NOSIGNAL
        )
        if sent < 0:
            if sockets.errno != sockets.EAGAIN and sockets.errno != sockets.EINTR:
                self._drop(slot, False)
            return 0
        slot.outbox.start += sent
        if buffer_count(slot.outbox) == 0:
            buffer_set(&slot.outbox, NULL, 0)
            self._watch(slot)
            if slot.state == SLOT_ENDING:
                sockets.shutdown(slot.fd, sockets.SHUT_WR)
        if slot.state == SLOT_OPEN and slot.paused and buffer_count(slot.outbox) <= _UNSENT_BYTES_LOW:
            connection = <EngineConnection>slot.owner
            slot.paused = False
            connection.session.blocked = False
            connection.flush()
            if connection.is_open() and not connection.congested():
                try:
                    self._policy.writable(connection)
                except Exception as error:  # a fault of ours ends this connection only, as in message()
                    self._failed(connection, error)
                connection.flush()
        return 0

    cdef int _watch(self, Slot* slot) except -1:
        """Let epoll watch what the slot waits for."""
        cdef sockets.epoll_event event
        cdef uint32_t interest = 0 if slot.state == SLOT_JUDGED else sockets.EPOLLIN
        if slot.outbox != NULL:
            interest |= sockets.EPOLLOUT
        if interest != slot.interest:
            event.events = slot.interest = interest
            event.data.u64 = slot_handle(slot)
            if sockets.epoll_ctl(self._epoll, sockets.EPOLL_CTL_MOD, slot.fd, &event) != 0:
                raise OSError(sockets.errno, "epoll_ctl")
        return 0

    # --- ends ---------------------------------------------------------------
    cdef int _end(self, Slot* slot) except -1:
        """All is said: FIN behind the last bytes. A close now, with input unread, would reset them away."""
        self._disown(slot)
        slot.state = SLOT_ENDING
        buffer_set(&slot.kept, NULL, 0)
        if slot.outbox == NULL:
            sockets.shutdown(slot.fd, sockets.SHUT_WR)
        self._watch(slot)
        return self._wait(slot, QUEUE_CLOSING)

    cdef int _drop(self, Slot* slot, bint reset) except -1:
        """Close the socket now; the slot is free afterwards."""
        if reset:
            sockets.reset_on_close(slot.fd)
        sockets.close_descriptor(slot.fd)
        self._disown(slot)
        queue_leave(&self._table, slot)
        slot_give(&self._table, slot)
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
        connection.session.close(code, reason)
        connection.flush()
        if connection._slot != NULL:
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

    # --- deadlines ----------------------------------------------------------
    cdef int _wait(self, Slot* slot, int queue) except -1:
        """Drop the socket unless the slot leaves the queue in time."""
        if slot.queue != queue:
            queue_join(&self._table, slot, queue, _now_ms())
            self._arm()
        return 0

    cdef object _arm(self):
        """One timer of the loop for all deadlines; none while nobody waits."""
        cdef int64_t due_ms = 0
        cdef int64_t delay_ms
        cdef int64_t since_ms
        cdef int name
        for name in (QUEUE_HEADS, QUEUE_CLOSING):
            if self._table.queues[name].first != NONE:
                since_ms = slot_at(&self._table, self._table.queues[name].first).since_ms
                delay_ms = self.head_deadline_ms if name == QUEUE_HEADS else _CLOSE_DEADLINE_MS
                due_ms = min(due_ms, since_ms + delay_ms) if due_ms else since_ms + delay_ms
        if due_ms == 0 or (self._timer is not None and self._timer_due_ms <= due_ms):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_ms = due_ms
        self._timer = self._loop.call_later(max(due_ms - _now_ms(), 1) / 1_000, self._expire)

    def _expire(self):
        """Drop whoever is overdue."""
        cdef int64_t now_ms = _now_ms()
        cdef int64_t delay_ms
        cdef Slot* slot
        cdef int name
        self._timer = None
        for name in (QUEUE_HEADS, QUEUE_CLOSING):
            delay_ms = self.head_deadline_ms if name == QUEUE_HEADS else _CLOSE_DEADLINE_MS
            while self._table.queues[name].first != NONE:
                slot = slot_at(&self._table, self._table.queues[name].first)
                if slot.since_ms + delay_ms > now_ms:
                    break
                self._drop(slot, True)
        self._arm()


cdef class EngineConnection:
    """One socket past the upgrade; carrier.Connection is its contract."""

    def __init__(self):
        raise TypeError("Engine.upgrade() makes connections")

    @property
    def peer(self):
        if self._peer is None:
            return sockets.peer_address(self._slot.fd) if self._slot != NULL else ""
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
        if session._out_bytes:
            if slot.paused and session.phase < PHASE_CLOSING:
                if session._out_bytes > _UNSENT_BYTES_MAX:
                    session.close(TOO_SLOW[0], TOO_SLOW[1])  # never sent: tells closed() why
                    self.abort()
                return
            if not self._engine._write(slot, session._out, session._out_bytes):
                session.discard()
                return
            session.sent()
        if session.close_sent:
            if session.phase == PHASE_CLOSED:
                self._engine._end(slot)
            else:
                self._engine._wait(slot, QUEUE_CLOSING)

    def congested(self):
        """The outbox went above its high-water mark and is not below the low one yet."""
        return self._slot != NULL and self._slot.paused

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
