"""The commands of one Redis connection in the order of the wire, and their replies. Sans-I/O.

A command is bytes in one buffer and 32 bytes in another until its reply has come; a reply that nobody waits for is
walked over and makes no object. Waiters are owned until their reply is handed out, rewind(), drain() or clear().
The garbage collector does not see through an exchange: who drops one calls clear() first.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF, Py_XINCREF
from libc.string cimport memcpy, memmove, memset

from gateway._fast.exchange cimport Command
from gateway._fast.resp cimport (
    WALK_MORE, Chunk, chunk_free, chunk_pass, chunk_reserve, pack_into, reason_of, reply_bytes_max, reply_depth_max,
    value_of, walk,
)

from gateway._fast.resp import ProtocolError


cdef class Exchange:
    """exchange.pyi is its contract."""

    def __dealloc__(self):
        cdef Command* command = self._first()
        for _ in range(self._len()):
            Py_XDECREF(command.waiter)
            command += 1
        chunk_free(&self._commands)
        chunk_free(&self._out)
        chunk_free(&self._in)

    def __len__(self):
        return self._len()

    cdef Py_ssize_t _len(self) noexcept:
        return (self._commands.end - self._commands.start) // <Py_ssize_t>sizeof(Command)

    cdef Command* _first(self) noexcept:
        return <Command*>(self._commands.data + self._commands.start)

    @property
    def waiting_bytes(self):
        """Of all commands without a reply."""
        return self._out.end - self._out.start

    @property
    def sent(self):
        """Commands that take() has handed out."""
        return self._sent

    def put(self, tuple command not None, waiter=None, int slot=-1, bint once=False):
        """Queue a command. See exchange.pyi."""
        cdef Py_ssize_t before = self._out.end - self._out.start
        pack_into(&self._out, command)
        self._append(self._out.end - self._out.start - before, waiter, slot, once)

    def put_packed(self, bytes packed not None, waiter=None, int slot=-1, bint once=False):
        """Queue the bytes of a command. See exchange.pyi."""
        cdef Py_ssize_t count = PyBytes_GET_SIZE(packed)
        chunk_reserve(&self._out, count)
        memcpy(self._out.data + self._out.end, PyBytes_AS_STRING(packed), count)
        self._out.end += count
        self._append(count, waiter, slot, once)

    cdef int _append(self, Py_ssize_t count, object waiter, int slot, bint once) except -1:
        """Note the command whose `count` bytes have just been written; without memory they go again."""
        cdef Command* command
        try:
            chunk_reserve(&self._commands, sizeof(Command))
        except MemoryError:
            self._out.end -= count
            raise
        command = <Command*>(self._commands.data + self._commands.end)
        command.waiter = NULL if waiter is None else <PyObject*>waiter
        command.count = count
        command.slot = slot
        command.once = once
        Py_XINCREF(command.waiter)
        self._commands.end += sizeof(Command)
        return 0

    cdef int _pop(self) except -1:
        """Drop the first command, which was sent, without its waiter's reference."""
        cdef Py_ssize_t count = self._first().count
        chunk_pass(&self._out, count)
        chunk_pass(&self._commands, sizeof(Command))
        self._sent_bytes -= count
        self._sent -= 1
        return 0

    def take(self, Py_ssize_t bytes_max):
        """The bytes to write next. See exchange.pyi."""
        cdef Py_ssize_t commands = self._len()
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t before = self._sent_bytes
        cdef Command* command = self._first() + self._sent
        while self._sent < commands and (count == 0 or count + command.count <= bytes_max):
            count += command.count
            self._sent += 1
            command += 1
        self._sent_bytes += count
        return PyBytes_FromStringAndSize(self._out.data + self._out.start + before, count)

    def feed(self, bytes data not None):
        """Take bytes of the connection. See exchange.pyi."""
        cdef Py_ssize_t count = PyBytes_GET_SIZE(data)
        chunk_reserve(&self._in, count)
        memcpy(self._in.data + self._in.end, PyBytes_AS_STRING(data), count)
        self._in.end += count

    def next(self):
        """The next reply that matters. See exchange.pyi."""
        cdef const char* data
        cdef int step
        cdef Py_ssize_t at
        cdef Command* command
        if self._refused:
            raise ValueError("forget() the refused command first, or rewind()")
        while self._in.start < self._in.end:
            data = self._in.data + self._in.start
            step = walk(&self._walk, data, self._in.end - self._in.start, reply_bytes_max(), reply_depth_max())
            if step == WALK_MORE:
                return None
            if step < 0:
                raise ProtocolError(reason_of(step))
            at = self._walk.at
            if data[0] == 62:  # > what the server says unasked
                self._hear_nothing()
                chunk_pass(&self._in, at)
                continue
            if self._sent == 0:
                raise ProtocolError("a reply to no command")
            command = self._first()
            value = None
            if data[0] == 45 or data[0] == 33 or command.waiter != NULL:  # - !
                self._refused = data[0] == 45 or data[0] == 33
                at = 0
                value = value_of(data, &at)
            self._hear_nothing()
            chunk_pass(&self._in, at)
            command = self._first()  # making a value may collect garbage, whose end may queue a command
            waiter = <object>command.waiter if command.waiter != NULL else None
            if self._refused:
                return waiter, value
            Py_XDECREF(command.waiter)
            self._pop()
            if waiter is not None:
                return waiter, value
        return None

    cdef int _hear_nothing(self) except -1:
        """Be ready for the first byte of a reply."""
        memset(&self._walk, 0, sizeof(self._walk))
        return 0

    def refused(self):
        """The command of the last error reply. See exchange.pyi."""
        cdef Command* command = self._first()
        if not self._refused:
            raise ValueError("no command was refused")
        packed = PyBytes_FromStringAndSize(self._out.data + self._out.start, command.count)
        return packed, command.slot, bool(command.once)

    def forget(self):
        """Drop the refused command. See exchange.pyi."""
        cdef Command* command = self._first()
        if not self._refused:
            raise ValueError("no command was refused")
        Py_XDECREF(command.waiter)
        self._pop()
        self._refused = False

    def rewind(self):
        """Start anew on another connection. See exchange.pyi."""
        cdef Py_ssize_t commands = self._len()
        cdef Command* command = self._first()
        cdef Command* kept = command
        cdef char* start = self._out.data + self._out.start
        cdef char* read = start
        cdef char* write = start
        cdef Py_ssize_t count
        lost = []
        for _ in range(commands):
            count = command.count
            if command.once:
                if command.waiter != NULL:
                    lost.append(<object>command.waiter)
                    Py_XDECREF(command.waiter)
            else:
                if write != read:
                    memmove(write, read, count)
                write += count
                kept[0] = command[0]
                kept += 1
            read += count
            command += 1
        self._out.end -= read - write
        self._commands.end -= <char*>command - <char*>kept
        self._sent = self._sent_bytes = 0
        self._refused = False
        self._hear_nothing()
        chunk_pass(&self._in, self._in.end - self._in.start)
        return lost

    def drain(self):
        """Empty it: every command without a reply. See exchange.pyi."""
        cdef Command* command
        cdef Py_ssize_t at = self._out.start
        cdef Py_ssize_t i
        drained = []
        for i in range(self._len()):
            command = self._first() + i
            packed = PyBytes_FromStringAndSize(self._out.data + at, command.count)
            at += command.count
            waiter = <object>command.waiter if command.waiter != NULL else None
            drained.append((packed, waiter, command.slot, bool(command.once)))
        self.clear()
        return drained

    def clear(self):
        """Drop every command and every byte heard. See exchange.pyi."""
        cdef Chunk commands = self._commands
        cdef Command* command = self._first()
        cdef Py_ssize_t count = self._len()
        memset(&self._commands, 0, sizeof(Chunk))
        chunk_free(&self._out)
        chunk_free(&self._in)
        self._sent = self._sent_bytes = 0
        self._refused = False
        self._hear_nothing()
        for _ in range(count):  # last: what a waiter's end runs may look at the exchange
            Py_XDECREF(command.waiter)
            command += 1
        chunk_free(&commands)
