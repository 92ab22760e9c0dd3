"""The request before the WebSocket: HTTP/1.1 request heads in, parsed or refused, and the answers' bytes out.

Sans-I/O. Stricter than RFC 9112 wants a server to be, because nothing that a client of ours sends needs leniency,
and what two parsers read differently is how requests are smuggled: lines end in CRLF and only so, a line is never
folded, no blank stands before a colon, a head has one Host and announces no body. Arguments are only read during
the call.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeLatin1

from gateway._fast.sha1 cimport SHA1_BASE64_BYTES, SHA1_TEXT_BYTES_MAX, sha1_base64

from notification import limits as _limits

MALFORMED = 400
METHOD = 405
HEADERS_TOO_LARGE = 431

Parsed = tuple[str, str, str, dict[str, list[str]]]

cdef enum:
    _MALFORMED = 400
    _HEADERS_TOO_LARGE = 431
    CR = 0x0D
    LF = 0x0A
    # Classes of a byte, as bits.
    IN_TOKEN = 1  # RFC 9110 §5.6.2
    IN_VALUE = 2  # field-content and blanks, RFC 9110 §5.5
    IN_TARGET = 4  # origin-form, RFC 9112 §3.2.1; printable, and no fragment
    IN_HOST = 8  # uri-host [":" port], RFC 3986 §3.2.2
    UPPER = 16

cdef:
    Py_ssize_t _HEAD_BYTES_MAX = _limits.HEADER_BYTES_MAX
    Py_ssize_t _LINES_COUNT_MAX = _limits.HEADERS_COUNT_MAX
    unsigned char _CLASS[256]
    bytes _GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


cdef int _classify() except -1:
    cdef int byte
    for byte in range(256):
        char = chr(byte)
        _CLASS[byte] = 0
        if byte < 0x80 and (char.isalnum() or char in "!#$%&'*+-.^_`|~"):
            _CLASS[byte] |= IN_TOKEN
        if byte >= 0x20 and byte != 0x7F or char == "\t":
            _CLASS[byte] |= IN_VALUE
        if 0x21 <= byte <= 0x7E and char != "#":
            _CLASS[byte] |= IN_TARGET
        if byte < 0x80 and (char.isalnum() or char in "-._~%!$&'()*+,;=:[]"):
            _CLASS[byte] |= IN_HOST
        if 0x41 <= byte <= 0x5A:
            _CLASS[byte] |= UPPER
    return 0


_classify()


cdef inline bint _all(const unsigned char* text, Py_ssize_t count, int wanted) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        if not _CLASS[text[i]] & wanted:
            return False
    return True


cdef inline Py_ssize_t _find(const unsigned char* text, Py_ssize_t count, unsigned char byte) noexcept nogil:
    """Index of a byte; `count` if it is absent."""
    cdef Py_ssize_t i
    for i in range(count):
        if text[i] == byte:
            return i
    return count


cdef Py_ssize_t find_end(const unsigned char* data, Py_ssize_t count, Py_ssize_t checked) noexcept nogil:
    """head_end() of upgrade.pyi. Looks back at most three bytes from `checked`."""
    cdef Py_ssize_t i
    cdef unsigned char byte
    for i in range(checked, count):
        if i >= _HEAD_BYTES_MAX + 4:
            return -_HEADERS_TOO_LARGE
        byte = data[i]
        if byte == LF:
            if i < 2 or data[i - 1] != CR:
                return -_MALFORMED
            if i >= 3 and data[i - 2] == LF:
                return i + 1
        elif i > 0 and data[i - 1] == CR:
            return -_MALFORMED
        elif byte != CR and not _CLASS[byte] & IN_VALUE:
            return -_MALFORMED
    return 0


def head_end(const unsigned char[::1] data not None, Py_ssize_t checked=0):
    """Bytes of the head with its empty line; 0: not whole yet; negative: a refusal. See upgrade.pyi."""
    if checked < 0:
        raise ValueError("checked must not be negative")
    if data.shape[0] == 0:
        return 0
    return find_end(&data[0], data.shape[0], checked)


def parse(bytes head not None):
    """(method, path, query, headers) or a refusal's status. See upgrade.pyi."""
    return parse_head(<const unsigned char*>PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))


cdef object parse_head(const unsigned char* head, Py_ssize_t count):
    """parse() of upgrade.pyi."""
    cdef Py_ssize_t lines = 0
    cdef Py_ssize_t i
    cdef Py_ssize_t line_bytes
    cdef dict headers = {}
    if count > _HEAD_BYTES_MAX:
        return HEADERS_TOO_LARGE
    for i in range(count - 1):
        lines += head[i] == CR and head[i + 1] == LF
    if lines > _LINES_COUNT_MAX:
        return HEADERS_TOO_LARGE
    i = _line_bytes(head, count)
    first = _request_line(head, i)
    if first is None:
        return MALFORMED
    while i < count:
        i += 2  # the CRLF before this line
        line_bytes = _line_bytes(head + i, count - i)
        if not _header(headers, head + i, line_bytes):
            return MALFORMED
        i += line_bytes
    method, path, query = first
    if method != "GET":
        return METHOD
    if not _one_host(headers.get("host")) or _announces_body(headers):
        return MALFORMED
    return method, path, query, headers


cdef inline Py_ssize_t _line_bytes(const unsigned char* text, Py_ssize_t count) noexcept nogil:
    """Bytes up to the next CRLF, or all."""
    cdef Py_ssize_t i
    for i in range(count - 1):
        if text[i] == CR and text[i + 1] == LF:
            return i
    return count


cdef object _request_line(const unsigned char* line, Py_ssize_t count):
    """(method, path, query), None if malformed."""
    cdef Py_ssize_t method = _find(line, count, b" ")
    cdef const unsigned char* target = line + method + 1
    cdef Py_ssize_t target_bytes
    cdef Py_ssize_t path
    if method == 0 or count - method - 1 < 1 or not _all(line, method, IN_TOKEN):
        return None
    target_bytes = _find(target, count - method - 1, b" ")
    if line[method + 1 + target_bytes:count] != b" HTTP/1.1":
        return None
    if target_bytes == 0 or target[0] != b"/" or not _all(target, target_bytes, IN_TARGET):
        return None
    path = _find(target, target_bytes, b"?")
    query = ""
    if path < target_bytes:
        query = PyUnicode_DecodeASCII(<char*>target + path + 1, target_bytes - path - 1, NULL)
    return PyUnicode_DecodeASCII(<char*>line, method, NULL), PyUnicode_DecodeASCII(<char*>target, path, NULL), query


cdef bint _header(dict headers, const unsigned char* line, Py_ssize_t count) except -1:
    """Add one header line; False if it is malformed."""
    cdef Py_ssize_t name_bytes = _find(line, count, b":")
    cdef Py_ssize_t start = name_bytes + 1
    if name_bytes == 0 or name_bytes == count or not _all(line, name_bytes, IN_TOKEN):
        return False
    if not _all(line + start, count - start, IN_VALUE):
        return False
    while start < count and (line[start] == b" " or line[start] == b"\t"):
        start += 1
    while start < count and (line[count - 1] == b" " or line[count - 1] == b"\t"):
        count -= 1
    name = PyUnicode_DecodeASCII(<char*>line, name_bytes, NULL).lower()
    value = PyUnicode_DecodeLatin1(<char*>line + start, count - start, NULL)
    values = headers.get(name)
    if values is None:
        headers[name] = [value]
    else:
        (<list>values).append(value)
    return True


cdef bint _one_host(list values) except -1:
    """RFC 9112 §3.2: exactly one, and of the characters that a host may have."""
    cdef bytes host
    if values is None or len(values) != 1:
        return False
    host = (<str>values[0]).encode("latin-1")
    return _all(<const unsigned char*>PyBytes_AS_STRING(host), PyBytes_GET_SIZE(host), IN_HOST)


cdef bint _announces_body(dict headers) except -1:
    return "transfer-encoding" in headers or headers.get("content-length", ["0"]) != ["0"]


def accept(str key not None):
    """Sec-WebSocket-Accept of a key. See upgrade.pyi."""
    cdef char base64[SHA1_BASE64_BYTES]
    cdef bytes text = key.encode("ascii") + _GUID
    if PyBytes_GET_SIZE(text) > SHA1_TEXT_BYTES_MAX:
        raise ValueError("a key has 24 characters")
    sha1_base64(PyBytes_AS_STRING(text), <int>PyBytes_GET_SIZE(text), base64)
    return PyUnicode_DecodeASCII(base64, SHA1_BASE64_BYTES, NULL)


def switching(str key not None, str subprotocol):
    """The 101 response. See upgrade.pyi."""
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol is not None else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept(key)}\r\n{chosen}\r\n"
    ).encode("ascii")


def answer(int status, str phrase not None, str content_type not None, bytes body not None, tuple headers not None):
    """A whole response that ends the connection. See upgrade.pyi."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n{lines}\r\n"
    )
    return head.encode("ascii") + body
