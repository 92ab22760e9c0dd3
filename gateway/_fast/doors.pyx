"""The engine's doors: what an accepted socket is until its request is judged.

Each is counted to its client's address, tells in a PROXY header who that is where one must come, sends a request
head, and waits for the doorkeeper's answer or the upgrade.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memmove

from gateway._fast.address cimport Address, address_from_text_any, address_to_text, peer_address
from gateway._fast.framing cimport FRAME_HEADER_BYTES_MAX
from gateway._fast.peers cimport PEER_FLOODING, Peers
from gateway._fast.proxy cimport proxy_header
from gateway._fast.slots cimport (
    QUEUE_HEADS, REFUSAL_CROWDED, REFUSAL_NONE, REFUSAL_STRANGER, SLOT_ENDING, SLOT_HEAD, SLOT_JUDGED, SLOT_PROXY,
    Slot, buffer_set, slot_find, slot_handle,
)
from gateway._fast.socket_set cimport SocketSet
from gateway._fast.upgrade cimport find_end, parse_head

from notification import limits as _limits

# Statuses of codes.Refusals, which this package must not import; a test holds them equal.
MALFORMED = 400
TOO_MANY = 429

cdef enum:
    _MALFORMED = 400
    _TOO_MANY = 429

cdef:
    Py_ssize_t _TAIL_BYTES_MAX = _limits.FRAME_BYTES_MAX + FRAME_HEADER_BYTES_MAX


cdef class Doors(SocketSet):
    """doors.pyi is its contract."""

    def __init__(
        self, loop not None, doorkeeper not None, Py_ssize_t sockets_max, int64_t head_deadline_ms,
        Peers peers=None, bint proxied=False,
    ):
        self._doorkeeper = doorkeeper
        self._peers = Peers((), 0) if peers is None else peers
        self._proxied = proxied
        self._claimed = {}
        SocketSet.__init__(self, loop, sockets_max, head_deadline_ms)

    # --- from outside -------------------------------------------------------
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

    def peer(self, uint64_t handle):
        """The client's address as far as it is known. See socket_set.pyi."""
        cdef Slot* slot = slot_find(&self._table, handle)
        return "" if slot == NULL else self._claimed.get(handle) or peer_address(slot.fd)

    def claim(self, uint64_t handle, str address not None):
        """The client is this one. False: its address holds too many sockets. See socket_set.pyi."""
        cdef Slot* slot = slot_find(&self._table, handle)
        cdef Address parsed
        if slot == NULL or slot.state > SLOT_JUDGED or not address_from_text_any(&parsed, address):
            return True
        return self._claim(slot, &parsed)

    # --- new sockets --------------------------------------------------------
    cdef int _admit(self, Slot* slot, bint told, const Address* address) except -1:
        """A new socket. Refusals but overload wait for the request: many clients hear no answer before it."""
        if told:
            slot.ticket = self._peers.take(address)
        if slot.ticket == PEER_FLOODING:
            return self._flood(slot)
        self._wait(slot, QUEUE_HEADS)
        if self._table.used > self.sockets_max:
            self._doorkeeper.overloaded(slot_handle(slot))
        elif self._peers.over(slot.ticket):
            slot.refusal = REFUSAL_CROWDED
        elif self._proxied and told and self._peers.trusted(address):
            slot.state = SLOT_PROXY
        elif self._proxied:
            slot.refusal = REFUSAL_STRANGER
        return 0

    cdef int _forget(self, Slot* slot) except -1:
        self._peers.give(slot.ticket)
        if self._claimed:
            self._claimed.pop(slot_handle(slot), None)
        return 0

    # --- reading ------------------------------------------------------------
    cdef int _read_door(self, Slot* slot, Py_ssize_t checked, Py_ssize_t count) except -1:
        return self._read_head(slot, checked, count) if slot.state == SLOT_HEAD else self._read_proxy(slot, count)

    cdef int _read_proxy(self, Slot* slot, Py_ssize_t count) except -1:
        """`count` bytes lie in the buffer, a PROXY header first of all."""
        cdef Address source
        cdef bint told
        cdef Py_ssize_t used = proxy_header(<unsigned char*>self._buffer, count, &source, &told)
        if used == 0:
            return self._keep(slot, 0, count)
        self._keep(slot, 0, 0)
        if used < 0:
            slot.state = SLOT_JUDGED
            self._doorkeeper.request(slot_handle(slot), _MALFORMED)
            return 0
        slot.state = SLOT_HEAD
        if told and not self._claim(slot, &source):
            if slot.ticket == PEER_FLOODING:
                return self._flood(slot)
            slot.refusal = REFUSAL_CROWDED
        if count > used:
            memmove(self._buffer, self._buffer + used, count - used)
            self._read_head(slot, 0, count - used)
        return 0

    cdef bint _claim(self, Slot* slot, const Address* address) except -1:
        """Count the socket to another address. False: that holds too many."""
        self._peers.give(slot.ticket)
        slot.ticket = self._peers.take(address)
        self._claimed[slot_handle(slot)] = address_to_text(address)
        return slot.ticket != PEER_FLOODING and not self._peers.over(slot.ticket)

    cdef int _flood(self, Slot* slot) except -1:
        """The address holds so many that not even an answer is due."""
        self._drop(slot, True)
        self._doorkeeper.flooding()
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
            outcome = _MALFORMED
            end = count
        elif slot.refusal != REFUSAL_NONE:
            outcome = _TOO_MANY if slot.refusal == REFUSAL_CROWDED else _MALFORMED
        else:
            outcome = parse_head(<unsigned char*>self._buffer, end - 4)
        self._keep(slot, end, count)
        slot.state = SLOT_JUDGED
        self._doorkeeper.request(slot_handle(slot), outcome)
        if slot.generation == generation and slot.state == SLOT_JUDGED:
            self._watch(slot)  # it will be answered later
        return 0
