/* What floor.c and load.c share: time, WebSocket frames (RFC 6455 section 5.2), the accept key, growing buffers. */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { OP_TEXT = 1, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };
enum { FRAME_HEADER_BYTES_MAX = 14, ACCEPT_BYTES = 28 };

static inline uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static inline void *grown(void *old, size_t bytes) {
    void *memory = realloc(old, bytes);
    if (memory == NULL) die("realloc");
    return memory;
}

/* Every descriptor that the system grants. */
static inline void raise_descriptors(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static inline void pin_to(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0) die("sched_setaffinity");
}

/* A byte queue: [start, end) of data is what waits. */
struct buffer {
    char *data;
    size_t start, end, size;
};

static inline size_t buffer_count(const struct buffer *buffer) { return buffer->end - buffer->start; }

/* Room for `count` more bytes behind the end. */
static inline char *buffer_room(struct buffer *buffer, size_t count) {
    if (buffer->start > 0 && buffer->start == buffer->end) buffer->start = buffer->end = 0;
    if (buffer->end + count > buffer->size) {
        memmove(buffer->data, buffer->data + buffer->start, buffer_count(buffer));
        buffer->end -= buffer->start;
        buffer->start = 0;
        if (buffer->end + count > buffer->size) {
            buffer->size = (buffer->end + count) * 2;
            buffer->data = grown(buffer->data, buffer->size);
        }
    }
    return buffer->data + buffer->end;
}

static inline void buffer_add(struct buffer *buffer, const void *data, size_t count) {
    memcpy(buffer_room(buffer, count), data, count);
    buffer->end += count;
}

/* --- frames ------------------------------------------------------------- */
struct frame {
    int opcode;
    char *payload;
    size_t count;
};

/* The frame at data, its payload unmasked in place: its whole size, 0 when it is not all there yet. */
static inline size_t frame_read(char *data, size_t count, struct frame *frame) {
    const uint8_t *head = (const uint8_t *)data;
    if (count < 2) return 0;
    size_t at = 2, length = head[1] & 127;
    if (length == 126) {
        if (count < 4) return 0;
        length = (size_t)head[2] << 8 | head[3];
        at = 4;
    } else if (length == 127) {
        if (count < 10) return 0;
        length = 0;
        for (int i = 2; i < 10; i++) length = length << 8 | head[i];
        at = 10;
    }
    int masked = head[1] & 128;
    if (masked) at += 4;
    if (count < at || count - at < length) return 0;
    frame->opcode = head[0] & 15;
    frame->payload = data + at;
    frame->count = length;
    if (masked) {
        uint32_t key;
        uint64_t two, word;
        size_t i = 0;
        memcpy(&key, data + at - 4, 4);
        two = (uint64_t)key << 32 | key;
        for (; i + 8 <= length; i += 8) {
            memcpy(&word, frame->payload + i, 8);
            word ^= two;
            memcpy(frame->payload + i, &word, 8);
        }
        for (; i < length; i++) frame->payload[i] ^= ((char *)&key)[i & 3];
    }
    return at + length;
}

/* Writes a server's (unmasked) frame header; its size. */
static inline size_t frame_header(char *to, int opcode, size_t count) {
    to[0] = (char)(0x80 | opcode);
    if (count < 126) {
        to[1] = (char)count;
        return 2;
    }
    to[1] = 126;
    to[2] = (char)(count >> 8);
    to[3] = (char)count;
    return 4;
}

/* Writes a client's whole frame of fewer than 126 bytes; its size. */
static inline size_t frame_masked(char *to, int opcode, const char *payload, size_t count, uint32_t key) {
    to[0] = (char)(0x80 | opcode);
    to[1] = (char)(0x80 | count);
    memcpy(to + 2, &key, 4);
    for (size_t i = 0; i < count; i++) to[6 + i] = payload[i] ^ to[2 + (i & 3)];
    return 6 + count;
}

/* --- Sec-WebSocket-Accept ------------------------------------------------ */
static inline uint32_t rotate(uint32_t word, int count) { return word << count | word >> (32 - count); }

static inline void sha1_block(uint32_t *state, const uint8_t *block) {
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
        uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
        uint32_t next = rotate(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* The answer to a 24-byte Sec-WebSocket-Key: ACCEPT_BYTES of base64 (RFC 6455 section 4.2.2). */
static inline void accept_key(const char *key, char *accept) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t blocks[128] = {0}, digest[21] = {0};
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    memcpy(blocks, key, 24);
    memcpy(blocks + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    blocks[60] = 0x80;
    blocks[126] = 60 * 8 >> 8;
    blocks[127] = 60 * 8 & 255;
    sha1_block(state, blocks);
    sha1_block(state, blocks + 64);
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i & 3)));
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int j = 0; j < 4; j++) accept[4 * i + j] = alphabet[three >> (18 - 6 * j) & 63];
    }
    accept[27] = '=';
}

/* --- numbers of the bus --------------------------------------------------- */
static inline uint32_t get_u32(const void *data) {
    const uint8_t *at = data;
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline uint16_t get_u16(const void *data) {
    const uint8_t *at = data;
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline void put_u32(void *data, uint32_t value) {
    uint8_t *at = data;
    at[0] = (uint8_t)(value >> 24), at[1] = (uint8_t)(value >> 16), at[2] = (uint8_t)(value >> 8), at[3] = (uint8_t)value;
}

#endif
