"""A hashed timer wheel: one loop timer for all connections; re-arming is one list append.

Time is cut into ticks of `tick_ms`; an item of tick t is due once the clock has reached the start of tick t.
"""


cdef class Wheel:
    """wheel.pyi is its contract. Owns a reference to each item until advance() hands it out."""

    def __init__(self, int64_t tick_ms, Py_ssize_t slots, int64_t now_ms):
        if tick_ms < 1 or slots < 2:
            raise ValueError("a wheel needs tick_ms of at least 1 and at least 2 slots")
        self._slots = [None] * slots
        self._tick_ms = tick_ms
        self._next_tick = now_ms // tick_ms + 1
        self._count = 0

    @classmethod
    def __class_getitem__(cls, item):
        """Generic for type checkers only."""
        return cls

    cpdef object arm(self, item, int64_t due_ms):
        """Fire at or after `due_ms`, at most one tick late; at the horizon if it lies beyond."""
        cdef Py_ssize_t slots = len(self._slots)
        cdef int64_t tick = -(-due_ms // self._tick_ms)  # rounded up: never early
        tick = min(max(tick, self._next_tick), self._next_tick + slots - 1)
        cdef Py_ssize_t index = tick % slots
        held = self._slots[index]
        if held is None:
            self._slots[index] = [item]
        else:
            (<list>held).append(item)
        self._count += 1

    cpdef list advance(self, int64_t now_ms):
        """Items whose slot has passed, in slot order; each is forgotten."""
        cdef Py_ssize_t slots = len(self._slots)
        cdef int64_t last = now_ms // self._tick_ms
        cdef int64_t tick
        cdef list due = []
        cdef Py_ssize_t index
        # After a long stall one round visits every slot; more would find them empty.
        for tick in range(self._next_tick, min(last, self._next_tick + slots - 1) + 1):
            index = tick % slots
            held = self._slots[index]
            if held is not None:
                due.extend(<list>held)
                self._slots[index] = None
        self._next_tick = max(self._next_tick, last + 1)
        self._count -= len(due)
        return due

    def __len__(self):
        return self._count
