"""Acks of all connections, from the client's text to packed receipts, without an object each; acks.pyi.

What a receipt looks like is notification/messages.py's (AckReceipt), what an ack says is notification/frames.py's
(Ack); tests hold this writer and this reader to them. `_packed` is PyMem, owned here until take(), which frees it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from gateway._fast.msgpack cimport (
    TEXT_HEAD_BYTES_MAX, UINT_BYTES_MAX, pack_array_head, pack_text, pack_uint,
)
from gateway._fast.session cimport Session
from gateway._fast.window cimport Written, window_find, window_remove

from notification import limits as _limits

cdef enum:
    IDENT_BYTES = 16
    UUID_CHARS = 36
    IDS_COUNT_MAX = 256
    RECEIPT_FIELDS = 7
    PACKED_BYTES_MIN = 4_096
    # The array's head, lane, seq, id and time.
    FIXED_BYTES_MAX = 5 + 3 * UINT_BYTES_MAX + 2 + IDENT_BYTES

if _limits.UNACKED_PER_CONNECTION_MAX != IDS_COUNT_MAX:  # frames.IDS_PER_FRAME_MAX
    raise ImportError("an ack may name as many ids as a window holds")

cdef:
    Py_ssize_t _RECEIPTS_COUNT_MAX = _limits.RECEIPTS_PER_ENTRY_MAX
    bytes _IDS = b'{"t":"ack","ids":["'
    bytes _UPTO = b'{"t":"ack","upto":"'
    bytes _BETWEEN = b'","'
    bytes _IDS_END = b'"]}'
    bytes _UPTO_END = b'"}'


cdef inline int _nibble(uint8_t char) noexcept nogil:
    """The value of a hexadecimal digit; -1 if it is none."""
    if c"0" <= char <= c"9":
        return char - c"0"
    char |= 0x20
    if c"a" <= char <= c"f":
        return char - c"a" + 10
    return -1


cdef bint _uuid(const uint8_t* text, char* ident) noexcept nogil:
    """Read 36 characters in the form 8-4-4-4-12 into 16 bytes."""
    cdef int at = 0
    cdef int i
    cdef int high
    cdef int low
    for i in range(IDENT_BYTES):
        if i == 4 or i == 6 or i == 8 or i == 10:
            if text[at] != c"-":
                return False
            at += 1
        high = _nibble(text[at])
        low = _nibble(text[at + 1])
        if high < 0 or low < 0:
            return False
        ident[i] = <char>(high << 4 | low)
        at += 2
    return True


cdef inline bint _starts(bytes text, Py_ssize_t at, bytes part) noexcept:
    """Whether `part` stands at `at`, where it must fit."""
    return memcmp(PyBytes_AS_STRING(text) + at, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part)) == 0


cdef Py_ssize_t _ids(bytes text, char* idents) noexcept:
    """Read an ack by ids into `idents`, which has room for IDS_COUNT_MAX; how many, 0 for any other text."""
    cdef Py_ssize_t step = UUID_CHARS + PyBytes_GET_SIZE(_BETWEEN)
    cdef Py_ssize_t at = PyBytes_GET_SIZE(_IDS)
    # The end is as long as what stands between two ids.
    cdef Py_ssize_t count = (PyBytes_GET_SIZE(text) - at) // step
    cdef Py_ssize_t i
    if count < 1 or count > IDS_COUNT_MAX or PyBytes_GET_SIZE(text) != at + count * step:
        return 0
    if not _starts(text, 0, _IDS):
        return 0
    for i in range(count):
        if not _uuid(<const uint8_t*>PyBytes_AS_STRING(text) + at, idents + i * IDENT_BYTES):
            return 0
        if not _starts(text, at + UUID_CHARS, _BETWEEN if i + 1 < count else _IDS_END):
            return 0
        at += step
    return count


cdef bint _upto_ident(bytes text, char* ident) noexcept:
    """Read an ack of everything up to an id."""
    cdef Py_ssize_t at = PyBytes_GET_SIZE(_UPTO)
    return (
        PyBytes_GET_SIZE(text) == at + UUID_CHARS + PyBytes_GET_SIZE(_UPTO_END)
        and _starts(text, 0, _UPTO) and _starts(text, at + UUID_CHARS, _UPTO_END)
        and _uuid(<const uint8_t*>PyBytes_AS_STRING(text) + at, ident)
    )


cdef class Acks:
    """One per process."""

    def __init__(self, collected=None):
        self._collected = collected

    def __dealloc__(self):
        PyMem_Free(self._packed)

    def __len__(self):
        return self._count

    cpdef Py_ssize_t ack(self, Session session, bytes text, int64_t at_ms) except -2:
        """How many a message acknowledged; -1: it is not an ack in its usual form."""
        cdef Py_ssize_t before = self._count
        cdef Py_ssize_t count
        if session is None or text is None:
            raise TypeError("session and text must not be None")
        count = self._take_places(session, text, at_ms)
        if count > 0:
            self._tell(before)
        return count

    cdef Py_ssize_t _take_places(self, Session session, bytes text, int64_t at_ms) except -2:
        """Collect receipts and free the places in the window: how many, -1 as ack()."""
        cdef char idents[IDS_COUNT_MAX * IDENT_BYTES]
        cdef Py_ssize_t before = self._count
        cdef Py_ssize_t count = _ids(text, idents)
        cdef Py_ssize_t i
        cdef int found
        if count == 0:
            if not _upto_ident(text, idents):
                return -1
            return self._upto(session, session.find_written(idents), at_ms)
        for i in range(count):
            found = window_find(&session._window, idents + i * IDENT_BYTES)
            if found >= 0:
                self._put(session, &session._window.entries[found], at_ms)
                window_remove(&session._window, found, 1)
        return self._count - before

    def put(self, Session session not None, int lane, int64_t seq, bytes ident not None, int64_t at_ms):
        """Collect the receipt of an ack that came in another form."""
        cdef Written written
        if PyBytes_GET_SIZE(ident) != IDENT_BYTES:
            raise ValueError("ident must be 16 bytes")
        memcpy(written.ident, PyBytes_AS_STRING(ident), IDENT_BYTES)
        written.lane = lane
        written.seq = seq
        self._put(session, &written, at_ms)
        self._tell(self._count - 1)

    cdef int _tell(self, Py_ssize_t before) except -1:
        """Receipts came to the `before` that waited."""
        if self._collected is not None and (before == 0 or self._count >= _RECEIPTS_COUNT_MAX):
            self._collected()
        return 0

    def take(self):
        """A MessagePack array of everything collected, which is forgotten."""
        cdef uint8_t head[5]
        cdef Py_ssize_t head_bytes = pack_array_head(head, self._count) - head
        cdef bytes packed = PyBytes_FromStringAndSize(NULL, head_bytes + self._bytes)
        memcpy(PyBytes_AS_STRING(packed), head, head_bytes)
        if self._bytes:
            memcpy(PyBytes_AS_STRING(packed) + head_bytes, self._packed, self._bytes)
        PyMem_Free(self._packed)
        self._packed = NULL
        self._bytes = self._capacity = self._count = 0
        return packed

    cdef int _upto(self, Session session, int last, int64_t at_ms) except -1:
        """Collect receipts of the window's entries up to `last`, then free their places; how many."""
        cdef int i
        for i in range(last + 1):
            self._put(session, &session._window.entries[i], at_ms)
        if last >= 0:
            window_remove(&session._window, 0, last + 1)
        return last + 1

    cdef int _put(self, Session session, const Written* written, int64_t at_ms) except -1:
        """Append an AckReceipt: [tenant, user, device, lane, seq, id, at_ms]."""
        cdef Py_ssize_t counts[3]
        cdef const char* texts[3]
        cdef uint8_t* at
        cdef int i
        tenant, user, device = session.tenant, session.user, session.device
        texts[0] = PyUnicode_AsUTF8AndSize(tenant, &counts[0])
        texts[1] = PyUnicode_AsUTF8AndSize(user, &counts[1])
        texts[2] = PyUnicode_AsUTF8AndSize(device, &counts[2])
        self._grow(FIXED_BYTES_MAX + 3 * TEXT_HEAD_BYTES_MAX + counts[0] + counts[1] + counts[2])
        at = pack_array_head(self._packed + self._bytes, RECEIPT_FIELDS)
        for i in range(3):
            at = pack_text(at, texts[i], counts[i])
        at = pack_uint(at, <uint64_t>written.lane)
        at = pack_uint(at, <uint64_t>written.seq)
        at[0] = 0xC4  # bytes, at most 255
        at[1] = IDENT_BYTES
        memcpy(at + 2, written.ident, IDENT_BYTES)
        at = pack_uint(at + 2 + IDENT_BYTES, <uint64_t>at_ms)
        self._bytes = at - self._packed
        self._count += 1
        return 0

    cdef int _grow(self, Py_ssize_t more) except -1:
        """Room for `more` bytes. MemoryError leaves everything as it was."""
        cdef Py_ssize_t capacity
        cdef uint8_t* grown
        if self._bytes + more > self._capacity:
            capacity = max(self._capacity * 2, self._bytes + more, PACKED_BYTES_MIN)
            grown = <uint8_t*>PyMem_Realloc(self._packed, capacity)
            if grown == NULL:
                raise MemoryError()
            self._packed = grown
            self._capacity = capacity
        return 0
