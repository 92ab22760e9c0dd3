"""RESP 2 and 3, the wire of Redis and Valkey: commands into bytes, bytes into replies. Sans-I/O, keeps nothing.

A reply is walked first (resp.pxd), which finds every fault and bound; a value is made only of a reply that was
walked whole, and only when somebody wants it. Arguments are only read during the call.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLong, PyLong_Check
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_Check, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.stdlib cimport strtod
from libc.string cimport memchr, memcpy

from gateway._fast.resp cimport (
    BAD_END, BAD_LINE, BAD_NUMBER, BAD_TYPE, TOO_BIG, TOO_DEEP, WALK_MORE, Chunk, Walk, chunk_free, chunk_reserve,
    number_of, put_count, walk,
)

from notification import limits as _limits

SLOTS_COUNT = 16_384

cdef:
    Py_ssize_t _BYTES_MAX = _limits.REDIS_REPLY_BYTES_MAX
    int _DEPTH_MAX = _limits.REDIS_REPLY_DEPTH_MAX
    uint16_t _CRC[256]

_REASONS = {
    BAD_TYPE: "a type that is none",
    BAD_NUMBER: "a length that is none",
    BAD_END: "a text that does not end where it should",
    BAD_LINE: "a line that is no value of its type",
    TOO_BIG: "a reply over REDIS_REPLY_BYTES_MAX",
    TOO_DEEP: "a reply over REDIS_REPLY_DEPTH_MAX",
}


cdef int _fill_crc() except -1:
    """CRC-16/XMODEM, which Redis Cluster hashes keys with."""
    cdef unsigned int byte
    cdef unsigned int crc
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ (0x1021 if crc & 0x8000 else 0)
        _CRC[byte] = <uint16_t>(crc & 0xFFFF)
    return 0


_fill_crc()


class ProtocolError(Exception):
    """The server sent what is no reply, or one beyond the bounds; the text says what."""


cdef class Refusal:
    """An error reply. See resp.pyi."""

    def __init__(self, str text not None):
        self.text = text

    @property
    def code(self):
        """The first word: MOVED, READONLY, ERR."""
        return self.text.partition(" ")[0]

    def __repr__(self):
        return f"Refusal({self.text!r})"

    def __eq__(self, other):
        return isinstance(other, Refusal) and (<Refusal>other).text == self.text

    def __hash__(self):
        return hash(self.text)


cdef Py_ssize_t reply_bytes_max() noexcept nogil:
    return _BYTES_MAX


cdef int reply_depth_max() noexcept nogil:
    return _DEPTH_MAX


cdef str reason_of(int step):
    """What a negative step of walk() means."""
    return _REASONS[step]


cdef inline int _put_text(Chunk* out, const char* text, Py_ssize_t count) except -1:
    """One argument: its length, itself."""
    cdef char* at
    chunk_reserve(out, count + 24)
    at = put_count(out.data + out.end, 36, <uint64_t>count)
    memcpy(at, text, count)
    at += count
    at[0] = 13
    at[1] = 10
    out.end = at + 2 - out.data
    return 0


cdef int _put_number(Chunk* out, int64_t number) except -1:
    """An int as its decimal text: a length of one or two digits comes before it."""
    cdef char text[24]
    cdef char* end
    if number < 0:
        text[0] = 45
        end = put_count(text, 45, <uint64_t>0 - <uint64_t>number)
        return _put_text(out, text, end - text - 2)
    end = put_count(text, 32, <uint64_t>number)
    return _put_text(out, text + 1, end - text - 3)


cdef int pack_into(Chunk* out, tuple command) except -1:
    """Append a command; on an error `out` holds what it did before."""
    cdef Py_ssize_t before = out.end - out.start
    cdef Py_ssize_t size
    cdef const char* text
    try:
        chunk_reserve(out, 24)
        out.end = put_count(out.data + out.end, 42, <uint64_t>len(command)) - out.data
        for argument in command:
            if PyBytes_CheckExact(argument):
                _put_text(out, PyBytes_AS_STRING(argument), PyBytes_GET_SIZE(argument))
            elif PyUnicode_Check(argument):
                text = PyUnicode_AsUTF8AndSize(argument, &size)
                _put_text(out, text, size)
            elif PyLong_Check(argument):
                _put_number(out, PyLong_AsLongLong(argument))
            else:
                raise TypeError(f"a command is made of str, bytes and int, not {type(argument).__name__}")
    except BaseException:
        out.end = out.start + before
        raise
    return 0


cdef object value_of(const char* data, Py_ssize_t* at):
    """The value that begins at `at`, which moves behind it. Only of a reply that was walked whole."""
    cdef const char* line = data + at[0]
    cdef Py_ssize_t count = <const char*>memchr(line, 13, reply_bytes_max()) - line
    cdef char mark = line[0]
    cdef int64_t number = 0
    at[0] += count + 2
    if mark == 43:  # +
        return PyBytes_FromStringAndSize(line + 1, count - 1)
    if mark == 45:  # -
        return Refusal(PyUnicode_DecodeUTF8(line + 1, count - 1, "replace"))
    if mark == 95:  # _
        return None
    if mark == 35:  # #
        return line[1] == 116
    if mark == 44:  # ,
        return strtod(line + 1, NULL)
    if mark == 40:  # (
        return int(line[1:count])
    number_of(line + 1, count - 1, &number)
    if mark == 58:  # :
        return number
    if number < 0:
        return None
    if mark == 36 or mark == 33 or mark == 61:  # $ ! =
        at[0] += number + 2
        line += count + 2
        if mark == 33:
            return Refusal(PyUnicode_DecodeUTF8(line, number, "replace"))
        if mark == 61:  # "txt:" before the text
            return PyBytes_FromStringAndSize(line + 4, number - 4)
        return PyBytes_FromStringAndSize(line, number)
    if mark == 37:  # %
        return [(value_of(data, at), value_of(data, at)) for _ in range(number)]
    return [value_of(data, at) for _ in range(number)]


def pack(tuple command not None):
    """The bytes of a command. See resp.pyi."""
    cdef Chunk out
    out.data = NULL
    out.start = out.end = out.capacity = 0
    try:
        pack_into(&out, command)
        return PyBytes_FromStringAndSize(out.data, out.end)
    finally:
        chunk_free(&out)


def read_reply(bytes data not None):
    """(value, bytes), None while it goes on, or a reason. See resp.pyi."""
    cdef Walk state
    cdef Py_ssize_t at = 0
    cdef int step
    state.at = state.seen = state.depth = 0
    step = walk(&state, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), _BYTES_MAX, _DEPTH_MAX)
    if step == WALK_MORE:
        return None
    if step < 0:
        return reason_of(step)
    return value_of(PyBytes_AS_STRING(data), &at), at


def slot_of(key not None):
    """The hash slot of a key. See resp.pyi."""
    cdef bytes text = key if PyBytes_CheckExact(key) else (<str?>key).encode()
    cdef const char* at = PyBytes_AS_STRING(text)
    cdef Py_ssize_t count = PyBytes_GET_SIZE(text)
    cdef const char* opened = <const char*>memchr(at, 123, count)
    cdef const char* closed = NULL
    cdef unsigned int crc = 0
    cdef Py_ssize_t i
    if opened != NULL:
        opened += 1
        closed = <const char*>memchr(opened, 125, count - (opened - at))
        if closed != NULL and closed != opened:
            at, count = opened, closed - opened
    for i in range(count):
        crc = (crc << 8 & 0xFF00) ^ _CRC[(crc >> 8) ^ <unsigned char>at[i]]
    return crc % SLOTS_COUNT
