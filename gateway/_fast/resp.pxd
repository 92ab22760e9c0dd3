"""RESP 2 and 3, the wire of Redis and Valkey: commands packed, replies walked. Inline C for exchange.pyx.

Whoever holds a Chunk owns its bytes (malloc'd) and calls chunk_free(). A Walk only remembers where it stands; the
bytes are the caller's.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    CHUNK_BYTES_MIN = 4_096
    CHUNK_BYTES_KEPT_MAX = 1_048_576  # an empty chunk that had grown beyond this gives its memory back
    WALK_LEVELS = 16  # room for REDIS_REPLY_DEPTH_MAX
    NUMBER_BYTES_MAX = 128  # of a double's or a big number's text

cdef enum Step:
    WALK_MORE = 0
    WALK_WHOLE = 1
    BAD_TYPE = -1
    BAD_NUMBER = -2
    BAD_END = -3
    BAD_LINE = -4
    TOO_BIG = -5
    TOO_DEEP = -6

cdef struct Chunk:
    char* data
    Py_ssize_t start  # what lies before it is done with
    Py_ssize_t end
    Py_ssize_t capacity

cdef struct Walk:
    Py_ssize_t at  # the element to look at, counted from the reply's first byte
    Py_ssize_t seen  # bytes of its line that are known to hold no CR
    Py_ssize_t left[WALK_LEVELS]  # elements still due per open aggregate
    int depth


cdef inline void chunk_free(Chunk* self) noexcept nogil:
    free(self.data)
    self.data = NULL
    self.start = self.end = self.capacity = 0


cdef inline int chunk_reserve(Chunk* self, Py_ssize_t count) except -1:
    """Make room for `count` bytes after `end`; what `data` pointed at may move. MemoryError changes nothing."""
    cdef Py_ssize_t held = self.end - self.start
    cdef Py_ssize_t capacity
    cdef char* grown
    if self.capacity - self.end >= count:
        return 0
    if self.start >= held and self.capacity - held >= count:  # each byte moves once per byte that was done with
        memcpy(self.data, self.data + self.start, held)
        self.start, self.end = 0, held
        return 0
    capacity = max(self.capacity * 2, self.end + count, CHUNK_BYTES_MIN)
    grown = <char*>realloc(self.data, capacity)
    if grown == NULL:
        raise MemoryError()
    self.data = grown
    self.capacity = capacity
    return 0


cdef inline void chunk_pass(Chunk* self, Py_ssize_t count) noexcept nogil:
    """The first `count` bytes are done with."""
    self.start += count
    if self.start == self.end:
        self.start = self.end = 0
        if self.capacity > CHUNK_BYTES_KEPT_MAX:
            chunk_free(self)


cdef inline char* put_count(char* at, char mark, uint64_t number) noexcept nogil:
    """`mark`, a number from 0, CRLF; at most 22 bytes. Where it ends."""
    cdef char digits[20]
    cdef int count = 0
    at[0] = mark
    at += 1
    while True:
        digits[count] = <char>(48 + number % 10)
        number //= 10
        count += 1
        if number == 0:
            break
    while count:
        count -= 1
        at[0] = digits[count]
        at += 1
    at[0] = 13
    at[1] = 10
    return at + 2


cdef inline bint number_of(const char* text, Py_ssize_t count, int64_t* number) noexcept nogil:
    """Read a decimal int64, with or without a sign; False if it is none."""
    cdef bint negative = count > 0 and text[0] == 45
    cdef Py_ssize_t i = 1 if negative or (count > 0 and text[0] == 43) else 0
    cdef uint64_t value = 0
    if count == i or count - i > 19:  # of which every number fits a uint64
        return False
    while i < count:
        if text[i] < 48 or text[i] > 57:
            return False
        value = value * 10 + <uint64_t>(text[i] - 48)
        i += 1
    if value > <uint64_t>0x7FFFFFFFFFFFFFFF + negative:
        return False
    number[0] = <int64_t>(0 - value) if negative else <int64_t>value
    return True


cdef inline Py_ssize_t digits_at(const char* text, Py_ssize_t i, Py_ssize_t count) noexcept nogil:
    """Where the digits that begin at `i` end."""
    while i < count and 48 <= text[i] <= 57:
        i += 1
    return i


cdef inline bint is_decimal(const char* text, Py_ssize_t count, bint whole) noexcept nogil:
    """Whether it is a signed number: digits, and unless `whole` a fraction and an exponent, or inf, or nan."""
    cdef Py_ssize_t i = 1 if count and (text[0] == 45 or text[0] == 43) else 0
    cdef Py_ssize_t after
    if not whole and count - i == 3 and (memcmp(text + i, b"inf", 3) == 0 or memcmp(text + i, b"nan", 3) == 0):
        return True
    after = digits_at(text, i, count)
    if after == i:
        return False
    if not whole and after < count and text[after] == 46:
        after = digits_at(text, after + 1, count)
    if not whole and after < count and (text[after] | 32) == 101:
        i = after + 1
        if i < count and (text[i] == 45 or text[i] == 43):
            i += 1
        after = digits_at(text, i, count)
        if after == i:
            return False
    return after == count


cdef inline bint is_scalar(const char* line, Py_ssize_t count) noexcept nogil:
    """Whether a line of a type that has nothing but its line is well-formed; `count` without its CRLF."""
    cdef int64_t number
    cdef char mark = line[0]
    if mark == 43 or mark == 45:  # + -
        return memchr(line, 10, count) == NULL
    if mark == 58:  # :
        return number_of(line + 1, count - 1, &number)
    if mark == 95:  # _
        return count == 1
    if mark == 35:  # #
        return count == 2 and (line[1] == 116 or line[1] == 102)
    return count <= NUMBER_BYTES_MAX and is_decimal(line + 1, count - 1, mark == 40)  # ( or ,


cdef inline int _element(
    Walk* self, const char* data, Py_ssize_t count, Py_ssize_t bytes_max, int depth_max,
) noexcept nogil:
    """Pass the element at `at`, or its header where elements follow (then one more level is open)."""
    cdef const char* line = data + self.at
    cdef Py_ssize_t held = count - self.at
    cdef Py_ssize_t room = bytes_max - self.at
    cdef char mark
    cdef int64_t number = 0
    cdef Py_ssize_t line_bytes
    cdef const char* found
    if held < 1:
        return WALK_MORE
    mark = line[0]
    if memchr(b"+-:$*_#,(!=%~>", mark, 14) == NULL:
        return BAD_TYPE
    found = <const char*>memchr(line + self.seen, 13, held - self.seen)
    if found == NULL:
        self.seen = held
        return TOO_BIG if held > room else WALK_MORE
    line_bytes = found - line
    if line_bytes + 2 > room:
        return TOO_BIG
    if line_bytes + 1 == held:
        self.seen = line_bytes
        return WALK_MORE
    if found[1] != 10:
        return BAD_END
    if memchr(b"+-:_#,(", mark, 7) != NULL:
        if not is_scalar(line, line_bytes):
            return BAD_LINE
        self.at += line_bytes + 2
        self.seen = 0
        return WALK_WHOLE
    if line_bytes == 3 and line[1] == 45 and line[2] == 49 and (mark == 36 or mark == 42):  # RESP 2's nil
        self.at += 5
        self.seen = 0
        return WALK_WHOLE
    if line_bytes < 2 or line[1] < 48 or line[1] > 57 or not number_of(line + 1, line_bytes - 1, &number):
        return BAD_NUMBER
    room -= line_bytes + 2
    if mark == 36 or mark == 33 or mark == 61:  # $ ! =
        if number > room - 2:
            return TOO_BIG
        if held < line_bytes + 4 + number:
            self.seen = line_bytes
            return WALK_MORE
        found += 2 + number
        if found[0] != 13 or found[1] != 10 or (mark == 61 and (number < 4 or line[line_bytes + 5] != 58)):
            return BAD_END
        self.at += line_bytes + 4 + number
        self.seen = 0
        return WALK_WHOLE
    if mark == 62 and (self.at or number == 0):  # a push has a kind, and lies in nothing
        return BAD_TYPE
    if mark == 37 and number <= room:
        number *= 2
    if number > room // 3:  # no element is shorter than three bytes
        return TOO_BIG
    self.at += line_bytes + 2
    self.seen = 0
    if number:
        if self.depth == depth_max:
            return TOO_DEEP
        self.left[self.depth] = <Py_ssize_t>number + 1  # with this header, which counts as passed next
        self.depth += 1
    return WALK_WHOLE


cdef inline int walk(
    Walk* self, const char* data, Py_ssize_t count, Py_ssize_t bytes_max, int depth_max,
) noexcept nogil:
    """Go on through the reply whose first `count` bytes lie at `data`, the same ones as before and more.

    WALK_WHOLE: it is data[:at]. WALK_MORE: it goes on in bytes to come. Negative: this is no reply, or one beyond
    the bounds; that shows as soon as the bytes tell. Each byte is looked at once.
    """
    cdef int step
    while True:
        step = _element(self, data, count, bytes_max, depth_max)
        if step != WALK_WHOLE:
            return step
        while self.depth:
            self.left[self.depth - 1] -= 1
            if self.left[self.depth - 1]:
                break
            self.depth -= 1
        if self.depth == 0:
            return WALK_WHOLE


cdef int pack_into(Chunk* out, tuple command) except -1
cdef object value_of(const char* data, Py_ssize_t* at)
cdef str reason_of(int step)
cdef Py_ssize_t reply_bytes_max() noexcept nogil
cdef int reply_depth_max() noexcept nogil

cdef class Refusal:
    cdef readonly str text
