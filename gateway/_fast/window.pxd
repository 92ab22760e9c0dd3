"""What one connection was written and has not acked, in write order. Inline C for session.pyx.

`entries` is PyMem owned by the Window: NULL until the first write, grown by doubling (its user bounds `count`),
freed by window_clear(), and by the removal of the last entry if it had grown: an idle connection stays small.
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp, memcpy, memmove

cdef enum:
    ENTRIES_MIN = 8

cdef struct Written:
    uint8_t ident[16]
    int64_t seq
    int lane

cdef struct Window:
    Written* entries
    int count
    int capacity


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


cdef inline int window_add(Window* self, int lane, int64_t seq, const char* ident) except -1:
    """Append a copy. MemoryError leaves the window as it was."""
    cdef int capacity
    cdef Written* grown
    if self.count == self.capacity:
        capacity = max(self.capacity * 2, ENTRIES_MIN)
        grown = <Written*>PyMem_Realloc(self.entries, capacity * sizeof(Written))
        if grown == NULL:
            raise MemoryError()
        self.entries = grown
        self.capacity = capacity
    memcpy(self.entries[self.count].ident, ident, 16)
    self.entries[self.count].lane = lane
    self.entries[self.count].seq = seq
    self.count += 1
    return 0


cdef inline void window_remove(Window* self, int first, int count) noexcept:
    """Remove entries [first, first + count), which must exist."""
    self.count -= count
    memmove(self.entries + first, self.entries + first + count, (self.count - first) * sizeof(Written))
    if self.count == 0 and self.capacity > ENTRIES_MIN:
        window_clear(self)
