"""The frames one connection has not been sent yet, first those of the highest class. Inline C for session.pyx.

Frames leave in the order of their class, first in first out within one; a frame that is partly on the wire is
finished first. Of the classes between the first and the last one all others can be taken out again. All memory is
PyMem, owned by the Outbox, which exists only while something waits in it: an idle connection has none. Payloads are
copied; the pieces of outbox_pieces() are valid until the next call.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove
from posix.uio cimport iovec

cdef enum:
    CLASSES = 5  # control, HIGH, MEDIUM, LOW, what overtakes nothing
    CLASS_FIRST = 0
    CLASS_LAST = 4
    PIECES = CLASSES + 1
    HEADER_BYTES_MAX = 10  # server to client: no mask
    QUEUE_BYTES_MIN = 256

cdef struct Queue:
    char* data
    Py_ssize_t start  # of what is left
    Py_ssize_t end
    Py_ssize_t capacity
    uint32_t waiting  # frames of which nothing is on the wire

cdef struct Outbox:
    Queue queues[CLASSES]
    Py_ssize_t owed_bytes  # of the frame that is partly on the wire; it leads its queue
    int owed_class
    Py_ssize_t bytes_max  # while the session is blocked: more than this is too much
    int64_t full_since_ms  # what waits longest does so since then; 0 = the socket was not full yet


cdef inline void outbox_free(Outbox** self) noexcept:
    cdef int i
    if self[0] != NULL:
        for i in range(CLASSES):
            PyMem_Free(self[0].queues[i].data)
        PyMem_Free(self[0])
        self[0] = NULL


cdef inline int _room(Queue* queue, Py_ssize_t more) except -1:
    """Make room for `more` bytes at the end. MemoryError leaves the queue as it was."""
    cdef Py_ssize_t held = queue.end - queue.start
    cdef Py_ssize_t capacity
    cdef char* grown
    if queue.end + more <= queue.capacity:
        return 0
    if queue.start:
        memmove(queue.data, queue.data + queue.start, held)
        queue.start, queue.end = 0, held
    if held + more > queue.capacity:
        capacity = max(queue.capacity * 2, held + more, QUEUE_BYTES_MIN)
        grown = <char*>PyMem_Realloc(queue.data, capacity)
        if grown == NULL:
            raise MemoryError()
        queue.data = grown
        queue.capacity = capacity
    return 0


cdef inline Py_ssize_t outbox_add(
    Outbox** self, int frame_class, int opcode, const char* payload, Py_ssize_t count,
) except -1:
    """Append one unmasked frame, FIN set (RFC 6455 §5.2); its length."""
    cdef Queue* queue
    cdef uint8_t* head
    cdef Py_ssize_t before
    cdef int shift
    if self[0] == NULL:
        self[0] = <Outbox*>PyMem_Calloc(1, sizeof(Outbox))
        if self[0] == NULL:
            raise MemoryError()
    queue = &self[0].queues[frame_class]
    _room(queue, HEADER_BYTES_MAX + count)
    before = queue.end
    head = <uint8_t*>queue.data + before
    head[0] = <uint8_t>(0x80 | opcode)
    if count < 126:
        head[1] = <uint8_t>count
        head += 2
    elif count < 65_536:
        head[1] = 126
        head[2] = <uint8_t>(count >> 8)
        head[3] = <uint8_t>(count & 0xFF)
        head += 4
    else:
        head[1] = 127
        for shift in range(8):
            head[2 + shift] = <uint8_t>((<uint64_t>count >> (56 - 8 * shift)) & 0xFF)
        head += 10
    memcpy(head, payload, count)
    queue.end = <char*>head + count - queue.data
    queue.waiting += 1
    return queue.end - before


cdef inline int outbox_pieces(Outbox* self, iovec* pieces) noexcept:
    """What waits, in the order it has to leave, as at most PIECES pieces; how many."""
    cdef int count = 0
    cdef int i
    cdef Py_ssize_t start
    if self == NULL:
        return 0
    if self.owed_bytes:
        pieces[0].iov_base = self.queues[self.owed_class].data + self.queues[self.owed_class].start
        pieces[0].iov_len = self.owed_bytes
        count = 1
    for i in range(CLASSES):
        start = self.queues[i].start
        if self.owed_bytes and i == self.owed_class:
            start += self.owed_bytes
        if start < self.queues[i].end:
            pieces[count].iov_base = self.queues[i].data + start
            pieces[count].iov_len = self.queues[i].end - start
            count += 1
    return count


cdef inline void outbox_copy(Outbox* self, char* out, Py_ssize_t count) noexcept:
    """Copy the first `count` bytes of the pieces, which hold as many."""
    cdef iovec pieces[PIECES]
    cdef int pieces_count = outbox_pieces(self, pieces)
    cdef Py_ssize_t part
    cdef int i
    for i in range(pieces_count):
        part = min(<Py_ssize_t>pieces[i].iov_len, count)
        memcpy(out, pieces[i].iov_base, part)
        out += part
        count -= part


cdef inline Py_ssize_t _frame_bytes(const uint8_t* frame) noexcept nogil:
    """The length of a frame that outbox_add() made."""
    cdef uint64_t count = frame[1]
    cdef int i
    if count < 126:
        return 2 + <Py_ssize_t>count
    if count == 126:
        return 4 + (frame[2] << 8 | frame[3])
    count = 0
    for i in range(2, 10):
        count = count << 8 | frame[i]
    return 10 + <Py_ssize_t>count


cdef inline Py_ssize_t _leave(Outbox* self, int frame_class, Py_ssize_t count) noexcept:
    """Up to `count` bytes of a queue that begins with a whole frame have left; how many."""
    cdef Queue* queue = &self.queues[frame_class]
    cdef Py_ssize_t at = queue.start
    cdef Py_ssize_t stop
    if count >= queue.end - queue.start:
        count = queue.end - queue.start
        queue.waiting = 0
        queue.start = queue.end
        return count
    stop = queue.start + count
    while at < stop:
        at += _frame_bytes(<const uint8_t*>queue.data + at)
        queue.waiting -= 1
    queue.start = stop
    self.owed_bytes = at - stop
    self.owed_class = frame_class
    return count


cdef inline void _tidy(Outbox** self) noexcept:
    """Free what is empty. With nothing left, no outbox."""
    cdef Queue* queue
    cdef bint empty = True
    cdef int i
    for i in range(CLASSES):
        queue = &self[0].queues[i]
        if queue.start == queue.end and queue.data != NULL:
            PyMem_Free(queue.data)
            queue.data = NULL
            queue.start = queue.end = queue.capacity = 0
        empty = empty and queue.data == NULL
    if empty:
        outbox_free(self)


cdef inline Py_ssize_t outbox_take_out(Outbox** self) noexcept:
    """Forget the frames between the first class and the last of which nothing is on the wire; how many bytes."""
    cdef Outbox* box = self[0]
    cdef Queue* queue
    cdef Py_ssize_t kept
    cdef Py_ssize_t out = 0
    cdef int i
    for i in range(CLASS_FIRST + 1, CLASS_LAST):
        queue = &box.queues[i]
        kept = queue.start + (box.owed_bytes if box.owed_class == i else 0)
        out += queue.end - kept
        queue.end = kept
        queue.waiting = 0
    box.full_since_ms = 0
    _tidy(self)
    return out


cdef inline void outbox_sent(Outbox** self, Py_ssize_t count) noexcept:
    """The first `count` bytes of the pieces, which hold as many, have left. With nothing left, no outbox."""
    cdef Outbox* box = self[0]
    cdef Py_ssize_t owed = min(box.owed_bytes, count)
    cdef int i
    if owed:
        box.queues[box.owed_class].start += owed
        box.owed_bytes -= owed
        count -= owed
    for i in range(CLASSES):
        if count:
            count -= _leave(box, i, count)
    _tidy(self)
