"""The engine's memory: a slot per accepted socket, in chunks that never move. Inline C for socket_set.pyx.

A slot outlives its sockets: `generation` rises each time one leaves, so that a handle (generation and index) that
was given out for an earlier socket finds nothing. Buffers are malloc'd, exist only while they hold something, and
belong to their slot. Handles, not pointers, cross into Python.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove

cdef enum:
    CHUNK_SLOTS = 1_024
    NONE = -1
    QUEUES = 3

cdef enum SlotState:
    SLOT_FREE = 0
    SLOT_PROXY = 1  # the PROXY header is not whole yet
    SLOT_HEAD = 2  # the request is not whole yet
    SLOT_JUDGED = 3  # the doorkeeper has the request, and has not answered yet; nothing is read
    SLOT_OPEN = 4  # a WebSocket; `owner` is its connection
    SLOT_ENDING = 5  # nobody's any more: sends what is left, then FIN, and waits for the peer's

cdef enum RefusalName:
    REFUSAL_NONE = 0
    REFUSAL_STRANGER = 1  # no trusted proxy, where only those may connect
    REFUSAL_CROWDED = 2  # its address holds too many sockets

cdef enum QueueName:
    QUEUE_NONE = 0
    QUEUE_HEADS = 1  # the request must come within the head deadline
    QUEUE_CLOSING = 2  # the peer must answer our close frame, or end TCP, within CLOSE_DEADLINE_MS

cdef struct Buffer:  # its bytes follow the struct
    Py_ssize_t start  # of what is left
    Py_ssize_t end
    Py_ssize_t capacity

cdef struct Slot:
    Buffer* kept  # read and not used: part of a head or of a frame; NULL while there is none
    Buffer* outbox  # to be sent once the socket takes it; NULL while there is none
    void* owner  # EngineConnection, a reference of the slot's; NULL unless SLOT_OPEN
    int64_t since_ms  # accepted; once in QUEUE_CLOSING: since when
    int fd
    uint32_t generation
    int32_t index
    int32_t before  # neighbours in `queue`; `after` of a free slot is the next free one
    int32_t after
    uint32_t interest  # what epoll watches
    int32_t ticket  # of the client's address (peers.pyx)
    uint8_t state
    uint8_t queue
    uint8_t refusal  # RefusalName: what the request will be answered, known before it came
    uint8_t full  # SLOT_OPEN: the socket did not take all that the session had

cdef struct Queue:
    int32_t first
    int32_t last

cdef struct Table:
    Slot** chunks
    int32_t chunks_count
    int32_t free
    int32_t used
    Queue queues[QUEUES]


cdef inline void table_start(Table* self) noexcept nogil:
    cdef int i
    self.chunks = NULL
    self.chunks_count = self.used = 0
    self.free = NONE
    for i in range(QUEUES):
        self.queues[i].first = self.queues[i].last = NONE


cdef inline void table_free(Table* self) noexcept nogil:
    """Every slot must be free."""
    cdef int32_t i
    for i in range(self.chunks_count):
        free(self.chunks[i])
    free(self.chunks)
    table_start(self)


cdef inline Slot* slot_at(Table* self, int32_t index) noexcept nogil:
    """`index` must be below chunks_count * CHUNK_SLOTS."""
    return self.chunks[index // CHUNK_SLOTS] + index % CHUNK_SLOTS


cdef inline uint64_t slot_handle(Slot* slot) noexcept nogil:
    return <uint64_t>slot.generation << 32 | <uint32_t>slot.index


cdef inline Slot* slot_find(Table* self, uint64_t handle) noexcept nogil:
    """The slot while its socket is still the one the handle was made for; else NULL."""
    cdef uint32_t index = <uint32_t>handle
    cdef Slot* slot
    if index >= <uint32_t>self.chunks_count * CHUNK_SLOTS:
        return NULL
    slot = slot_at(self, <int32_t>index)
    if slot.state == SLOT_FREE or slot.generation != <uint32_t>(handle >> 32):
        return NULL
    return slot


cdef inline Slot* slot_take(Table* self, int fd, int64_t now_ms) noexcept nogil:
    """A slot for an accepted socket, in SLOT_HEAD, without a ticket; NULL without memory."""
    cdef Slot* slot
    cdef Slot* chunk
    cdef Slot** chunks
    cdef int32_t i
    if self.free == NONE:
        chunks = <Slot**>realloc(self.chunks, (self.chunks_count + 1) * sizeof(Slot*))
        if chunks == NULL:
            return NULL
        self.chunks = chunks
        chunk = <Slot*>calloc(CHUNK_SLOTS, sizeof(Slot))
        if chunk == NULL:
            return NULL
        chunks[self.chunks_count] = chunk
        for i in range(CHUNK_SLOTS):
            chunk[i].index = self.chunks_count * CHUNK_SLOTS + i
            chunk[i].after = chunk[i].index + 1 if i + 1 < CHUNK_SLOTS else NONE
            chunk[i].before = NONE
            chunk[i].fd = -1
        self.free = chunk[0].index
        self.chunks_count += 1
    slot = slot_at(self, self.free)
    self.free = slot.after
    self.used += 1
    slot.after = slot.before = NONE
    slot.fd = fd
    slot.since_ms = now_ms
    slot.interest = 0
    slot.ticket = NONE
    slot.state = SLOT_HEAD
    slot.queue = QUEUE_NONE
    slot.refusal = REFUSAL_NONE
    slot.full = False
    return slot


cdef inline void slot_give(Table* self, Slot* slot) noexcept nogil:
    """Back to the free ones. Its socket is closed, owner and ticket are gone, it is in no queue."""
    free(slot.kept)
    free(slot.outbox)
    slot.kept = slot.outbox = NULL
    slot.fd = -1
    slot.state = SLOT_FREE
    slot.generation += 1
    slot.after = self.free
    self.free = slot.index
    self.used -= 1


# --- queues: everybody in one waits equally long, so first in is first due ----------
cdef inline void queue_leave(Table* self, Slot* slot) noexcept nogil:
    cdef Queue* queue = &self.queues[slot.queue]
    if slot.queue == QUEUE_NONE:
        return
    if slot.before == NONE:
        queue.first = slot.after
    else:
        slot_at(self, slot.before).after = slot.after
    if slot.after == NONE:
        queue.last = slot.before
    else:
        slot_at(self, slot.after).before = slot.before
    slot.before = slot.after = NONE
    slot.queue = QUEUE_NONE


cdef inline void queue_join(Table* self, Slot* slot, int name, int64_t now_ms) noexcept nogil:
    """Leave the present queue, and wait in another from now on."""
    cdef Queue* queue = &self.queues[name]
    queue_leave(self, slot)
    slot.queue = name
    slot.since_ms = now_ms
    slot.before = queue.last
    if queue.last == NONE:
        queue.first = slot.index
    else:
        slot_at(self, queue.last).after = slot.index
    queue.last = slot.index


# --- buffers ------------------------------------------------------------------------
cdef inline char* buffer_bytes(Buffer* self) noexcept nogil:
    """What is left in it, `buffer_count` bytes."""
    return <char*>(self + 1) + self.start


cdef inline Py_ssize_t buffer_count(Buffer* self) noexcept nogil:
    return 0 if self == NULL else self.end - self.start


cdef inline bint buffer_set(Buffer** self, const char* data, Py_ssize_t count) noexcept nogil:
    """Hold exactly these bytes, which must not lie in the buffer; with none, no buffer. False without memory."""
    if count == 0 or (self[0] != NULL and self[0].capacity < count):
        free(self[0])
        self[0] = NULL
    if count == 0:
        return True
    if self[0] == NULL:
        self[0] = <Buffer*>malloc(sizeof(Buffer) + count)
        if self[0] == NULL:
            return False
        self[0].capacity = count
    self[0].start = 0
    self[0].end = count
    memcpy(buffer_bytes(self[0]), data, count)
    return True


cdef inline bint buffer_append(Buffer** self, const char* data, Py_ssize_t count) noexcept nogil:
    """False without memory; the buffer stays as it was."""
    cdef Buffer* grown = self[0]
    cdef Py_ssize_t held = buffer_count(grown)
    if grown == NULL:
        return buffer_set(self, data, count)
    if grown.start > 0:
        memmove(grown + 1, buffer_bytes(grown), held)
        grown.start, grown.end = 0, held
    if held + count > grown.capacity:
        grown = <Buffer*>realloc(grown, sizeof(Buffer) + held + count)
        if grown == NULL:
            return False
        grown.capacity = held + count
        self[0] = grown
    memcpy(buffer_bytes(grown) + held, data, count)
    grown.end = held + count
    return True
