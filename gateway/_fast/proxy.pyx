"""The PROXY protocol header, versions 1 and 2: bytes in, the client's address out. Sans-I/O.

From the specification by HAProxy Technologies, "The PROXY protocol, versions 1 & 2" (2020/03/05), §2. Version 1
is judged once its line has ended, bytes that no line may have at once; version 2 byte by byte. What a header says
beside the source address is not used: ports and the destination of version 1 are checked, TLVs are passed over by
length. Arguments are only read during the call.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy

from gateway._fast.address cimport Address, address_from_ipv4, address_from_text, address_to_text
from gateway._fast.sockets cimport AF_INET, AF_INET6

from notification import limits as _limits

MALFORMED = 400

cdef enum:
    _MALFORMED = 400
    V1_BYTES_MAX = 107  # with CRLF, §2.1
    V1_FIELD_BYTES_MAX = 45  # INET6_ADDRSTRLEN less its zero
    V2_HEAD_BYTES = 16
    IPV4_BYTES = 12  # two addresses, two ports
    IPV6_BYTES = 36
    UNIX_BYTES = 216

cdef:
    Py_ssize_t _HEADER_BYTES_MAX = _limits.PROXY_HEADER_BYTES_MAX
    const char* _V1 = b"PROXY "
    const char* _V2 = b"\r\n\r\n\x00\r\nQUIT\n"
    Py_ssize_t _V1_BYTES = 6
    Py_ssize_t _V2_BYTES = 12


cdef Py_ssize_t proxy_header(
    const uint8_t* data, Py_ssize_t count, Address* source, bint* told
) noexcept nogil:
    """parse() of proxy.pyi; `told`: `source` holds the client's address."""
    told[0] = False
    if count == 0:
        return 0
    if memcmp(data, _V1, min(count, _V1_BYTES)) == 0:
        return _version_1(data, count, source, told)
    if memcmp(data, _V2, min(count, _V2_BYTES)) == 0:
        return _version_2(data, count, source, told)
    return -_MALFORMED


cdef Py_ssize_t _version_1(const uint8_t* data, Py_ssize_t count, Address* source, bint* told) noexcept nogil:
    cdef Py_ssize_t end
    for end in range(1, min(count, V1_BYTES_MAX)):
        if data[end] == c"\n":
            break
        if data[end - 1] == c"\r" or ((data[end] < 0x20 or data[end] > 0x7E) and data[end] != c"\r"):
            return -_MALFORMED
    else:
        return -_MALFORMED if count >= V1_BYTES_MAX else 0
    if data[end - 1] != c"\r" or not _line(data, end - 1, source, told):
        return -_MALFORMED
    return end + 1


cdef bint _line(const uint8_t* line, Py_ssize_t count, Address* source, bint* told) noexcept nogil:
    """`count` bytes of a version 1 line without its CRLF, printable all of them."""
    cdef Address other
    cdef Py_ssize_t at = _V1_BYTES
    cdef int family
    if count >= at + 7 and memcmp(line + at, b"UNKNOWN", 7) == 0:
        return count == at + 7 or line[at + 7] == c" "  # whatever follows, §2.1
    if count < at + 5 or memcmp(line + at, b"TCP", 3) != 0 or line[at + 4] != c" ":
        return False
    if line[at + 3] != c"4" and line[at + 3] != c"6":
        return False
    family = AF_INET if line[at + 3] == c"4" else AF_INET6
    at += 5
    if not _address_field(line, count, &at, family, source) or not _address_field(line, count, &at, family, &other):
        return False
    told[0] = True
    return _port_field(line, count, &at) and _port_field(line, count, &at) and at == count + 1


cdef Py_ssize_t _field_end(const uint8_t* line, Py_ssize_t count, Py_ssize_t start) noexcept nogil:
    """Where the field that begins at `start` ends: at the next blank, or with the line."""
    cdef Py_ssize_t end = start
    while end < count and line[end] != c" ":
        end += 1
    return end


cdef bint _address_field(
    const uint8_t* line, Py_ssize_t count, Py_ssize_t* at, int family, Address* address
) noexcept nogil:
    """Read one field; `at` is behind its blank then."""
    cdef char text[V1_FIELD_BYTES_MAX + 1]
    cdef Py_ssize_t end = _field_end(line, count, at[0])
    if end >= count or end - at[0] > V1_FIELD_BYTES_MAX:
        return False
    memcpy(text, line + at[0], end - at[0])
    text[end - at[0]] = 0
    at[0] = end + 1
    return address_from_text(address, family, text)


cdef bint _port_field(const uint8_t* line, Py_ssize_t count, Py_ssize_t* at) noexcept nogil:
    """0 to 65535, without leading zeros; `at` is behind its blank or the line's end then."""
    cdef Py_ssize_t start = at[0]
    cdef Py_ssize_t end
    cdef Py_ssize_t i
    cdef int port = 0
    if start > count:
        return False
    end = _field_end(line, count, start)
    if not 1 <= end - start <= 5 or (line[start] == c"0" and end - start > 1):
        return False
    for i in range(start, end):
        if not c"0" <= line[i] <= c"9":
            return False
        port = port * 10 + line[i] - c"0"
    at[0] = end + 1
    return port <= 65_535


cdef Py_ssize_t _version_2(const uint8_t* data, Py_ssize_t count, Address* source, bint* told) noexcept nogil:
    cdef Py_ssize_t body
    cdef int family
    if count > 12 and data[12] != 0x20 and data[12] != 0x21:  # version 2, LOCAL or PROXY
        return -_MALFORMED
    if count < V2_HEAD_BYTES:
        return 0
    body = data[14] << 8 | data[15]
    if V2_HEAD_BYTES + body > _HEADER_BYTES_MAX:
        return -_MALFORMED
    if data[12] == 0x21:
        # The family and transport that §2.2 knows; each needs its addresses whole, TLVs may follow.
        family = data[13] >> 4
        if data[13] != 0 and not (1 <= family <= 3 and 1 <= (data[13] & 0x0F) <= 2):
            return -_MALFORMED
        if body < (0 if family == 0 else IPV4_BYTES if family == 1 else IPV6_BYTES if family == 2 else UNIX_BYTES):
            return -_MALFORMED
    if count < V2_HEAD_BYTES + body:
        return 0
    if data[12] == 0x21 and data[13] == 0x11:
        address_from_ipv4(source, data + V2_HEAD_BYTES)
        told[0] = True
    elif data[12] == 0x21 and data[13] == 0x21:
        memcpy(source.data, data + V2_HEAD_BYTES, sizeof(source.data))
        told[0] = True
    return V2_HEAD_BYTES + body


def parse(const unsigned char[::1] data not None):
    """(bytes of the header, client's address) or where it stands. See proxy.pyi."""
    cdef Address source
    cdef bint told
    cdef Py_ssize_t used
    if data.shape[0] == 0:
        return 0, ""
    used = proxy_header(&data[0], data.shape[0], &source, &told)
    return used, address_to_text(&source) if used > 0 and told else ""
