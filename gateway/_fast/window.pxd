"""What one connection was written and has not acked, in the order of the wire. Inline C for session.pyx.

`entries` is PyMem owned by the Window: NULL until the first write, grown by doubling (its user bounds `count`),
freed by window_clear(), and by the removal of the last entry if it had grown: an idle connection stays small.
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int16_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memmove

from gateway._fast.outbox cimport Outbox

cdef enum:
    ENTRIES_MIN = 8
    PRIORITIES = 3  # of a lane number: codes.Lane

cdef struct Written:
    uint8_t ident[16]
    int64_t seq
    int16_t lane
    int16_t again  # the lane had passed it: it was asked for the ack alone
    uint32_t frame  # its number among the frames of its class, from 0, as the session counts them

cdef struct Window:
    Written* entries
    int count
    int capacity


cdef inline int lane_class(int lane) noexcept:
    """The class of a lane's frames in the outbox: behind control, before what overtakes nothing."""
    return 1 + lane % PRIORITIES


cdef inline void window_clear(Window* self) noexcept:
    PyMem_Free(self.entries)
    self.entries = NULL
    self.count = self.capacity = 0


cdef inline int window_find(Window* self, const char* ident) noexcept:
    """Index of a 16-byte id, -1 if absent. Oldest first: acks come in write order."""
    cdef int i
    for i in range(self.count):
        if memcmp(self.entries[i].ident, ident, 16) == 0:
            return i
    return -1


cdef inline int window_insert(
    Window* self, int index, int lane, int64_t seq, const char* ident, uint32_t frame, bint again,
) except -1:
    """Put a copy before entry `index`, at most `count`. MemoryError leaves the window as it was."""
    cdef int capacity
    cdef Written* grown
    if self.count == self.capacity:
        capacity = max(self.capacity * 2, ENTRIES_MIN)
        grown = <Written*>PyMem_Realloc(self.entries, capacity * sizeof(Written))
        if grown == NULL:
            raise MemoryError()
        self.entries = grown
        self.capacity = capacity
    memmove(self.entries + index + 1, self.entries + index, (self.count - index) * sizeof(Written))
    memcpy(self.entries[index].ident, ident, 16)
    self.entries[index].lane = <int16_t>lane
    self.entries[index].again = again
    self.entries[index].seq = seq
    self.entries[index].frame = frame
    self.count += 1
    return 0


cdef inline bint window_waits(Window* self, int index, Outbox* box, const uint32_t* frames) noexcept:
    """Is nothing of an entry on the wire yet? `frames`: how many were ever put into the outbox, per class."""
    cdef int frame_class = lane_class(self.entries[index].lane)
    cdef uint32_t later = frames[frame_class] - 1 - self.entries[index].frame  # put there behind it
    return box != NULL and later < box.queues[frame_class].waiting


cdef inline int window_find_written(
    Window* self, const char* ident, Outbox* box, const uint32_t* frames,
) noexcept:
    """window_find(), but -1 also for what waits still."""
    cdef int index = window_find(self, ident)
    return -1 if index >= 0 and window_waits(self, index, box, frames) else index


cdef inline int window_place(Window* self, int lane, Outbox* box, const uint32_t* frames) noexcept:
    """Where an item of this lane that is queued now will be on the wire: before what it overtakes."""
    cdef int index = self.count
    while (
        index > 0 and lane_class(self.entries[index - 1].lane) > lane_class(lane)
        and window_waits(self, index - 1, box, frames)
    ):
        index -= 1
    return index


cdef inline void window_remove(Window* self, int first, int count) noexcept:
    """Remove entries [first, first + count), which must exist."""
    self.count -= count
    memmove(self.entries + first, self.entries + first + count, (self.count - first) * sizeof(Written))
    if self.count == 0 and self.capacity > ENTRIES_MIN:
        window_clear(self)


cdef inline void window_put_back(
    Window* self, Outbox* box, const uint32_t* frames, int64_t* at, int64_t* want,
) noexcept:
    """Forget what waits: its lanes are complete up to before it (`at`), wanted up to where they were (`want`)."""
    cdef int kept = 0
    cdef int i
    cdef Written* one
    for i in range(self.count):
        one = &self.entries[i]
        if not window_waits(self, i, box, frames):
            self.entries[kept] = one[0]
            kept += 1
        elif not one.again:
            want[one.lane] = max(want[one.lane], at[one.lane])
            at[one.lane] = min(at[one.lane], one.seq - 1)
    window_remove(self, kept, self.count - kept)
