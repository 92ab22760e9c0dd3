"""RFC 6455 frame headers of clients, their masks, close codes. Inline C for engine and session; keeps nothing."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    # Opcodes of RFC 6455 §5.2.
    OP_CONTINUATION = 0x0
    OP_TEXT = 0x1
    OP_BINARY = 0x2
    OP_CLOSE = 0x8
    OP_PING = 0x9
    OP_PONG = 0xA
    CONTROL_BYTES_MAX = 125  # §5.5
    REASON_BYTES_MAX = 123  # a close frame's payload less its code
    FRAME_HEADER_BYTES_MAX = 14
    FRAME_FAULT = 1002  # codes.Closes.PROTOCOL_ERROR
    FRAME_TOO_BIG = 1009  # codes.Closes.TOO_BIG

cdef struct FrameHeader:
    Py_ssize_t payload_bytes
    uint8_t opcode
    uint8_t rsv
    bint fin
    uint8_t mask[4]


cdef inline int frame_header(
    const uint8_t* data, Py_ssize_t count, Py_ssize_t payload_bytes_max, FrameHeader* header,
) noexcept nogil:
    """Read the header at `data`: its length in bytes; 0 when more bytes are needed; negative: the close code.

    -FRAME_FAULT: not masked (§5.1), a length in more bytes than it needs or with its highest bit set (§5.2);
    -FRAME_TOO_BIG: over `payload_bytes_max`. Both are known before any payload is. Opcode, RSV and FIN are the
    session's to judge.
    """
    cdef uint64_t payload_bytes
    cdef int at = 2
    cdef int i
    if count < 2:
        return 0
    if not data[1] & 0x80:
        return -FRAME_FAULT
    payload_bytes = data[1] & 0x7F
    if payload_bytes == 126:
        if count < 4:
            return 0
        payload_bytes = <uint64_t>data[2] << 8 | data[3]
        if payload_bytes < 126:
            return -FRAME_FAULT
        at = 4
    elif payload_bytes == 127:
        if count < 10:
            return 0
        payload_bytes = 0
        for i in range(2, 10):
            payload_bytes = payload_bytes << 8 | data[i]
        if payload_bytes < 65_536 or payload_bytes >> 63:
            return -FRAME_FAULT
        at = 10
    if payload_bytes > <uint64_t>payload_bytes_max:
        return -FRAME_TOO_BIG
    if count < at + 4:
        return 0
    header.payload_bytes = <Py_ssize_t>payload_bytes
    header.opcode = data[0] & 0x0F
    header.rsv = data[0] >> 4 & 0x7
    header.fin = data[0] >> 7
    memcpy(header.mask, data + at, 4)
    return at + 4


cdef inline void frame_unmask(uint8_t* payload, Py_ssize_t count, const uint8_t* mask) noexcept nogil:
    """Undo the mask in place (§5.3)."""
    cdef Py_ssize_t i = 0
    cdef uint32_t four
    cdef uint64_t eight
    cdef uint64_t word
    memcpy(&four, mask, 4)
    eight = <uint64_t>four << 32 | four
    while i + 8 <= count:
        memcpy(&word, payload + i, 8)
        word ^= eight
        memcpy(payload + i, &word, 8)
        i += 8
    while i < count:
        payload[i] ^= mask[i & 3]
        i += 1


cdef inline bint close_code_may_arrive(int code) noexcept nogil:
    """Codes a peer may put into a close frame: RFC 6455 §7.4.1, §7.4.2 and the IANA registry (1012-1014)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
