"""The sockets of one process in an epoll set of its own, below uvloop; what they are before they are WebSockets.

uvloop watches one descriptor, the set's (add_reader), so that it still runs everything: a turn takes a bounded
number of events and returns, and NATS, Redis and timers have theirs. The set is level-triggered: what a turn leaves
is reported again in the next one, in a fair order.

An accepted socket is a Slot (slots.pxd) and nothing else: no transport, no timer, no buffer of its own. All read
into one buffer; a part of a head or frame is kept only while it is a part; a slot's outbox exists only while the
socket is full and nobody owns it; deadlines are two queues in which all wait equally long.

Ownership: `_buffer` holds what one recv() brought and is used up before the next; the engine's upgrade() may
overwrite it, which a turn calls only when it is done with the head. After any call into the doorkeeper or the
policy a slot may be another socket's: its generation is compared first.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from gateway._fast cimport sockets
from gateway._fast.address cimport Address, address_from_socket
from gateway._fast.framing cimport FRAME_HEADER_BYTES_MAX
from gateway._fast.slots cimport (
    CHUNK_SLOTS, NONE, QUEUE_CLOSING, QUEUE_HEADS, SLOT_ENDING, SLOT_HEAD, SLOT_JUDGED, SLOT_OPEN, Slot,
    buffer_append, buffer_bytes, buffer_count, buffer_set, queue_join, queue_leave, slot_at, slot_find, slot_give,
    slot_handle, slot_take, table_free, table_start,
)
from gateway._fast.sockets cimport monotonic_ms

from notification import limits as _limits

cdef enum:
    EVENTS_PER_CALL_MAX = 256

cdef:
    uint64_t _LISTENER = <uint32_t>NONE  # the handle that is no slot's
    Py_ssize_t _READ_BYTES = _limits.ENGINE_READ_BYTES
    # A head that is not whole, or a frame that is not, and one read behind it.
    Py_ssize_t _BUFFER_BYTES = _limits.ENGINE_READ_BYTES + max(
        _limits.HEADER_BYTES_MAX + 4, _limits.FRAME_BYTES_MAX + FRAME_HEADER_BYTES_MAX
    )
    int _EVENTS_MAX = min(_limits.ENGINE_EVENTS_COUNT_MAX, EVENTS_PER_CALL_MAX)
    int _ACCEPTS_MAX = _limits.ENGINE_ACCEPTS_COUNT_MAX
    int _BACKLOG = _limits.LISTEN_BACKLOG
    int64_t _CLOSE_DEADLINE_MS = _limits.CLOSE_DEADLINE_MS
    object _ACCEPT_PAUSE_S = _limits.ENGINE_ACCEPT_PAUSE_MS / 1_000


cdef class SocketSet:
    """Accepts, reads heads, answers, and ends sockets; socket_set.pyi is its contract."""

    def __cinit__(self):
        table_start(&self._table)
        self._epoll = self._listening = -1

    def __init__(self, loop not None, Py_ssize_t sockets_max, int64_t head_deadline_ms):
        self._loop = loop
        self.sockets_max = sockets_max
        self.head_deadline_ms = head_deadline_ms
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
        cdef int _round
        if self._listening < 0:
            return
        for _round in range(_BACKLOG // _ACCEPTS_MAX + 1):
            if self._accept() < _ACCEPTS_MAX:
                break
        if self._accept_timer is not None:
            self._accept_timer.cancel()
            self._accept_timer = None
        self._unlisten()

    cdef int _unlisten(self) except -1:
        """Close the listening socket; others may hold it too, so that closing alone does not end its events."""
        sockets.epoll_ctl(self._epoll, sockets.EPOLL_CTL_DEL, self._listening, NULL)
        self._listening = -1
        self._listener.close()
        self._listener = None
        return 0

    def close(self):
        """Drop every socket, tell the policy, leave the loop."""
        cdef Slot* slot
        cdef int i
        if self._epoll < 0:
            return
        if self._listener is not None:
            self._unlisten()
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
        cdef sockets.sockaddr_storage peer
        cdef sockets.socklen_t peer_bytes
        cdef Address address
        cdef Slot* slot
        cdef bint told
        cdef int accepted = 0
        cdef int fd
        cdef int _try
        for _try in range(_ACCEPTS_MAX):
            if self._listening < 0:
                break
            peer_bytes = sizeof(peer)
            fd = sockets.accept4(
                self._listening, <sockets.sockaddr*>&peer, &peer_bytes, sockets.SOCK_NONBLOCK | sockets.SOCK_CLOEXEC
            )
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
            slot = slot_take(&self._table, fd, monotonic_ms())
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
            told = address_from_socket(&address, &peer)
            self._admit(slot, told, &address)
        return accepted

    cdef object _pause_accepting(self):
        """Out of descriptors or memory: accepting at once would spin. Clients wait in the backlog."""
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
            if events & sockets.EPOLLOUT:
                if slot.outbox != NULL:
                    self._writable(slot)
                elif slot.full:
                    self._drained(slot)
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
        # What is kept leaves room for one read; if it ever did not, the socket would be dropped, not the bound.
        count = sockets.recv(slot.fd, self._buffer + held, min(_READ_BYTES, _BUFFER_BYTES - held), 0)
        if count > 0:
            if slot.state == SLOT_OPEN:
                self._read_open(slot, held + count)
            elif slot.state <= SLOT_HEAD:
                self._read_door(slot, held, held + count)
        elif count == 0 or (sockets.errno != sockets.EAGAIN and sockets.errno != sockets.EINTR):
            self._drop(slot, False)
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
        return True

    cdef int _writable(self, Slot* slot) except -1:
        """Send of what waits; the slot may be free afterwards."""
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
            elif slot.state == SLOT_OPEN:
                self._drained(slot)
        return 0

    cdef int _watch(self, Slot* slot) except -1:
        """Let epoll watch what the slot waits for."""
        cdef sockets.epoll_event event
        cdef uint32_t interest = 0 if slot.state == SLOT_JUDGED else sockets.EPOLLIN
        if slot.outbox != NULL or slot.full:
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
        slot.full = False
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
        self._forget(slot)
        queue_leave(&self._table, slot)
        slot_give(&self._table, slot)
        return 0

    # --- what doors do with new ones ----------------------------------------
    cdef int _admit(self, Slot* slot, bint told, const Address* address) except -1:
        """A socket was accepted; `told`: its peer has this address."""
        return 0

    cdef int _read_door(self, Slot* slot, Py_ssize_t checked, Py_ssize_t count) except -1:
        """`count` bytes of a socket that is no connection lie in the buffer, the first `checked` seen before."""
        return 0

    cdef int _forget(self, Slot* slot) except -1:
        """The socket is closed."""
        return 0

    # --- what the engine does with open ones --------------------------------
    cdef int _read_open(self, Slot* slot, Py_ssize_t count) except -1:
        """`count` bytes of an open socket lie in the buffer."""
        return 0

    cdef int _drained(self, Slot* slot) except -1:
        """An open socket that was full takes bytes again."""
        return 0

    cdef int _disown(self, Slot* slot) except -1:
        """The slot's owner, if it has one, loses its socket."""
        return 0

    cpdef object _reap(self):
        """Nothing is under way any more: tell who is gone."""

    # --- deadlines ----------------------------------------------------------
    cdef int _wait(self, Slot* slot, int queue) except -1:
        """Drop the socket unless the slot leaves the queue in time."""
        if slot.queue != queue:
            queue_join(&self._table, slot, queue, monotonic_ms())
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
        self._timer = self._loop.call_later(max(due_ms - monotonic_ms(), 1) / 1_000, self._expire)

    def _expire(self):
        """Drop whoever is overdue."""
        cdef int64_t now_ms = monotonic_ms()
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
