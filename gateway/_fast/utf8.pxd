"""UTF-8 validation (RFC 3629) of a text that comes in pieces. Inline C for session.pyx; keeps nothing."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef struct Utf8:
    # Where the text stands between two pieces: continuation bytes still due, and the range of the next one.
    uint8_t due
    uint8_t low
    uint8_t high


cdef inline bint utf8_more(Utf8* state, const unsigned char* text, Py_ssize_t count) noexcept nogil:
    """Take the next `count` bytes of a text (RFC 3629); False at the first byte that no valid text has there."""
    cdef Py_ssize_t i = 0
    cdef unsigned char byte
    cdef uint64_t eight
    while i < count:
        byte = text[i]
        i += 1
        if state.due:
            if byte < state.low or byte > state.high:
                return False
            state.due -= 1
            state.low, state.high = 0x80, 0xBF
        elif byte < 0x80:
            while i + 8 <= count:  # most text is ASCII
                memcpy(&eight, text + i, 8)
                if eight & <uint64_t>0x8080808080808080:
                    break
                i += 8
        else:
            state.low, state.high = 0x80, 0xBF
            if 0xC2 <= byte <= 0xDF:
                state.due = 1
            elif 0xE0 <= byte <= 0xEF:
                state.due = 2
                if byte == 0xE0:
                    state.low = 0xA0  # shorter forms exist
                elif byte == 0xED:
                    state.high = 0x9F  # surrogates
            elif 0xF0 <= byte <= 0xF4:
                state.due = 3
                if byte == 0xF0:
                    state.low = 0x90
                elif byte == 0xF4:
                    state.high = 0x8F  # beyond U+10FFFF
            else:
                return False
    return True


cdef inline bint utf8_whole(const char* text, Py_ssize_t count) noexcept nogil:
    cdef Utf8 state
    state.due = state.low = state.high = 0
    return utf8_more(&state, <const unsigned char*>text, count) and state.due == 0
