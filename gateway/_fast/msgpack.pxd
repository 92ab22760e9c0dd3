"""What receipts need of MessagePack, written in its shortest form as msgspec does. Inline C; keeps nothing."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    TEXT_HEAD_BYTES_MAX = 5
    UINT_BYTES_MAX = 9


cdef inline uint8_t* pack_big_endian(uint8_t* at, uint64_t value, int count) noexcept nogil:
    cdef int i
    for i in range(count):
        at[i] = <uint8_t>(value >> (8 * (count - 1 - i)))
    return at + count


cdef inline uint8_t* pack_uint(uint8_t* at, uint64_t value) noexcept nogil:
    if value < 0x80:
        at[0] = <uint8_t>value
        return at + 1
    if value <= 0xFF:
        at[0] = 0xCC
        return pack_big_endian(at + 1, value, 1)
    if value <= 0xFFFF:
        at[0] = 0xCD
        return pack_big_endian(at + 1, value, 2)
    if value >> 32 == 0:
        at[0] = 0xCE
        return pack_big_endian(at + 1, value, 4)
    at[0] = 0xCF
    return pack_big_endian(at + 1, value, 8)


cdef inline uint8_t* pack_text(uint8_t* at, const char* text, Py_ssize_t count) noexcept nogil:
    """`count` bytes of UTF-8, below 2**32."""
    if count < 32:
        at[0] = <uint8_t>(0xA0 | count)
        at += 1
    elif count <= 0xFF:
        at[0] = 0xD9
        at = pack_big_endian(at + 1, count, 1)
    elif count <= 0xFFFF:
        at[0] = 0xDA
        at = pack_big_endian(at + 1, count, 2)
    else:
        at[0] = 0xDB
        at = pack_big_endian(at + 1, count, 4)
    memcpy(at, text, count)
    return at + count


cdef inline uint8_t* pack_array_head(uint8_t* at, uint64_t count) noexcept nogil:
    """`count` below 2**32."""
    if count < 16:
        at[0] = <uint8_t>(0x90 | count)
        return at + 1
    if count <= 0xFFFF:
        at[0] = 0xDC
        return pack_big_endian(at + 1, count, 2)
    at[0] = 0xDD
    return pack_big_endian(at + 1, count, 4)
