"""The mechanical parts of verifying a JWT: base64url, the compact form, doubled names, what was verified lately.

No policy and no cryptography: which key, which algorithm and which claims is gateway/tokens.py. Strict where
RFC 7515 §2 and RFC 4648 §3.5 allow a choice, so that one token has one spelling: no padding, no byte outside the
alphabet, no bit set that the decoded bytes do not hold.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.unicode cimport (
    PyUnicode_1BYTE_DATA, PyUnicode_1BYTE_KIND, PyUnicode_DecodeASCII, PyUnicode_GET_LENGTH, PyUnicode_KIND,
)
from libc.string cimport memchr, memcmp

from notification import limits as _limits

cdef enum:
    NOT_BASE64URL = 0xFF
    NAMES_COUNT_MAX = 64  # compared pairwise: what has more of them is judged by a parser

ctypedef struct Name:
    const unsigned char* text
    Py_ssize_t count

cdef:
    Py_ssize_t _TOKEN_BYTES_MAX = _limits.TOKEN_BYTES_MAX
    unsigned char _SEXTET[256]  # the six bits that a character stands for


cdef int _tabulate() except -1:
    cdef int byte
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for byte in range(256):
        _SEXTET[byte] = <unsigned char>(alphabet.index(byte) if byte in alphabet else NOT_BASE64URL)
    return 0


_tabulate()


cdef bytes _decode(const unsigned char* text, Py_ssize_t count):
    """base64url() of jwt.pyi."""
    cdef Py_ssize_t spare = count % 4
    cdef Py_ssize_t i
    cdef unsigned char a = 0, b = 0, c = 0, d = 0
    cdef unsigned char* out
    if spare == 1:
        return None
    decoded = PyBytes_FromStringAndSize(NULL, count // 4 * 3 + (spare - 1 if spare else 0))
    out = <unsigned char*>PyBytes_AS_STRING(decoded)
    for i in range(0, count - spare, 4):
        a, b, c, d = _SEXTET[text[i]], _SEXTET[text[i + 1]], _SEXTET[text[i + 2]], _SEXTET[text[i + 3]]
        if (a | b | c | d) & 0xC0:
            return None
        out[0] = <unsigned char>(a << 2 | b >> 4)
        out[1] = <unsigned char>((b & 0x0F) << 4 | c >> 2)
        out[2] = <unsigned char>((c & 0x03) << 6 | d)
        out += 3
    if spare:
        a, b = _SEXTET[text[count - spare]], _SEXTET[text[count - spare + 1]]
        c = _SEXTET[text[count - 1]] if spare == 3 else 0
        # The last character's lowest bits belong to no byte: they are 0 in the one canonical spelling.
        if (a | b | c) & 0xC0 or (c & 0x03 if spare == 3 else b & 0x0F):
            return None
        out[0] = <unsigned char>(a << 2 | b >> 4)
        if spare == 3:
            out[1] = <unsigned char>((b & 0x0F) << 4 | c >> 2)
    return decoded


def base64url(str text not None):
    """Decode; None if it is not strict base64url. See jwt.pyi."""
    if PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND:
        return None
    return _decode(<const unsigned char*>PyUnicode_1BYTE_DATA(text), PyUnicode_GET_LENGTH(text))


def split(str token not None):
    """(header, claims, signed, signature) of a compact JWS, or None. See jwt.pyi."""
    cdef Py_ssize_t count = PyUnicode_GET_LENGTH(token)
    cdef const unsigned char* text
    cdef const unsigned char* first
    cdef const unsigned char* second
    cdef Py_ssize_t header_count, signed_count
    if count > _TOKEN_BYTES_MAX or PyUnicode_KIND(token) != PyUnicode_1BYTE_KIND:
        return None
    text = <const unsigned char*>PyUnicode_1BYTE_DATA(token)
    first = <const unsigned char*>memchr(text, b".", count)
    if first is NULL or first == text:
        return None
    header_count = first - text
    second = <const unsigned char*>memchr(first + 1, b".", count - header_count - 1)
    if second is NULL or second == first + 1:
        return None
    signed_count = second - text
    if signed_count + 1 == count or not _in_alphabet(text, header_count):
        return None
    claims = _decode(first + 1, signed_count - header_count - 1)
    if claims is None:
        return None
    signature = _decode(second + 1, count - signed_count - 1)
    if signature is None:
        return None
    header = PyUnicode_DecodeASCII(<const char*>text, header_count, NULL)
    return header, claims, PyBytes_FromStringAndSize(<const char*>text, signed_count), signature


cdef bint _in_alphabet(const unsigned char* text, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    cdef unsigned char wrong = 0
    for i in range(count):
        wrong |= _SEXTET[text[i]]
    return not wrong & 0xC0


def distinct(bytes json not None):
    """Are the names of a JSON object surely different? See jwt.pyi."""
    cdef Name names[NAMES_COUNT_MAX]
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(json)
    cdef const unsigned char* end = at + PyBytes_GET_SIZE(json)
    cdef const unsigned char* start = at
    cdef Py_ssize_t depth = 0, found = 0, count = 0
    cdef bint escaped = False
    while at < end:
        if at[0] == b'"':
            at += 1
            start = at
            at = _string_end(at, end)
            count = at - start
        elif at[0] == b"{" or at[0] == b"[":
            depth += 1
        elif at[0] == b"}" or at[0] == b"]":
            depth -= 1
        elif at[0] == b":" and depth == 1:  # the last string was a name
            escaped = memchr(start, b"\\", count) is not NULL
            if escaped or found == NAMES_COUNT_MAX or _among(names, found, start, count):
                return False
            names[found].text, names[found].count = start, count
            found += 1
        at += 1
    return True


cdef inline const unsigned char* _string_end(const unsigned char* at, const unsigned char* end) noexcept nogil:
    """The quote that closes a string, or `end`."""
    while at < end and at[0] != b'"':
        at += 2 if at[0] == b"\\" else 1
    return at if at < end else end


cdef bint _among(const Name* names, Py_ssize_t found, const unsigned char* text, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(found):
        if names[i].count == count and names[i].text[0] == text[0] and memcmp(names[i].text, text, count) == 0:
            return True
    return False


cdef class Recent:
    """The values put or got lately, by text; bounded in entries and in characters. See jwt.pyi.

    Two generations: when the young one holds half of a bound it becomes the old one, and what was old is forgotten.
    So nothing is ever searched for the oldest entry, and there is no list beside the dicts to keep in order.
    """

    def __cinit__(self, Py_ssize_t entries_max, Py_ssize_t chars_max):
        self._entries_max = entries_max // 2
        self._chars_max = chars_max // 2
        self._young = {}
        self._old = {}
        self._chars = 0

    @classmethod
    def __class_getitem__(cls, item):
        """Generic for type checkers only."""
        return cls

    def get(self, str key not None):
        """The value, now among the young; None if it was forgotten. See jwt.pyi."""
        cdef PyObject* found = PyDict_GetItem(self._young, key)
        if found is not NULL:
            return <object>found
        value = self._old.pop(key, None)
        if value is not None:
            self.put(key, value)
        return value

    cpdef object put(self, str key, object value):
        """Keep a value. See jwt.pyi."""
        if PyUnicode_GET_LENGTH(key) > self._chars_max:
            return
        if len(self._young) >= self._entries_max or self._chars + PyUnicode_GET_LENGTH(key) > self._chars_max:
            self._old = self._young
            self._young = {}
            self._chars = 0
        if PyDict_GetItem(self._young, key) is NULL:
            self._old.pop(key, None)
            self._chars += PyUnicode_GET_LENGTH(key)
        self._young[key] = value

    def __len__(self):
        return len(self._young) + len(self._old)
