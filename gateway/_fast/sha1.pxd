"""SHA-1 (RFC 3174) of a short text, in base64: what Sec-WebSocket-Accept is made of. Inline C for upgrade.pyx.

SHA-1 proves nothing here: RFC 6455 §4.2.2 asks for it to show that the server speaks WebSocket.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    SHA1_TEXT_BYTES_MAX = 119  # two blocks less the padding
    SHA1_BASE64_BYTES = 28


cdef inline uint32_t _rotate(uint32_t word, int count) noexcept nogil:
    return word << count | word >> (32 - count)


cdef inline void _sha1_block(uint32_t* state, const uint8_t* block) noexcept nogil:
    cdef uint32_t w[80]
    cdef uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f, k, next_a
    cdef int i
    for i in range(16):
        w[i] = (
            <uint32_t>block[4 * i] << 24 | <uint32_t>block[4 * i + 1] << 16
            | <uint32_t>block[4 * i + 2] << 8 | <uint32_t>block[4 * i + 3]
        )
    for i in range(16, 80):
        w[i] = _rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1)
    for i in range(80):
        if i < 20:
            f, k = (b & c) | (~b & d), 0x5A827999
        elif i < 40:
            f, k = b ^ c ^ d, 0x6ED9EBA1
        elif i < 60:
            f, k = (b & c) | (b & d) | (c & d), <uint32_t>0x8F1BBCDC
        else:
            f, k = b ^ c ^ d, <uint32_t>0xCA62C1D6
        next_a = _rotate(a, 5) + f + e + k + w[i]
        e, d, c, b, a = d, c, _rotate(b, 30), a, next_a
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e


cdef inline void sha1_base64(const char* text, int count, char* base64) noexcept nogil:
    """The base64 of SHA-1 of at most SHA1_TEXT_BYTES_MAX bytes; writes SHA1_BASE64_BYTES."""
    cdef const char* alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef uint32_t state[5]
    cdef uint8_t blocks[128]
    cdef uint8_t digest[21]
    cdef uint32_t three
    cdef int whole = 128 if count > 55 else 64
    cdef int i
    state[0], state[1], state[2] = 0x67452301, <uint32_t>0xEFCDAB89, <uint32_t>0x98BADCFE
    state[3], state[4] = 0x10325476, <uint32_t>0xC3D2E1F0
    memset(blocks, 0, sizeof(blocks))
    memcpy(blocks, text, count)
    blocks[count] = 0x80
    for i in range(8):
        blocks[whole - 1 - i] = <uint8_t>((<uint64_t>count * 8 >> (8 * i)) & 0xFF)
    for i in range(whole // 64):
        _sha1_block(state, blocks + 64 * i)
    for i in range(20):
        digest[i] = <uint8_t>((state[i // 4] >> (24 - 8 * (i % 4))) & 0xFF)
    digest[20] = 0
    for i in range(7):
        three = <uint32_t>digest[3 * i] << 16 | <uint32_t>digest[3 * i + 1] << 8 | digest[3 * i + 2]
        base64[4 * i] = alphabet[three >> 18]
        base64[4 * i + 1] = alphabet[three >> 12 & 63]
        base64[4 * i + 2] = alphabet[three >> 6 & 63]
        base64[4 * i + 3] = alphabet[three & 63]
    base64[27] = b"="
