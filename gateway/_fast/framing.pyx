"""RFC 6455 frame headers of clients, and their masks: the Python side of framing.pxd, for tests and fuzzing."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from gateway._fast.framing cimport FrameHeader, frame_header, frame_unmask


def read_frame(bytes data not None, Py_ssize_t payload_bytes_max):
    """The frame at the front, 0, or a negative close code. See framing.pyi."""
    cdef FrameHeader header
    cdef int at = frame_header(
        <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), payload_bytes_max, &header
    )
    cdef bytes payload
    if at <= 0:
        return at
    if PyBytes_GET_SIZE(data) - at < header.payload_bytes:
        return 0
    payload = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + at, header.payload_bytes)
    if header.payload_bytes > 1:  # CPython shares bytes of length 0 and 1
        frame_unmask(<uint8_t*>PyBytes_AS_STRING(payload), header.payload_bytes, header.mask)
    elif header.payload_bytes == 1:
        payload = bytes([payload[0] ^ header.mask[0]])
    return header.opcode, bool(header.fin), header.rsv, payload, at + header.payload_bytes
