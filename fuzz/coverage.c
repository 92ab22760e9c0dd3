/* Edge coverage for code built with gcc's -fsanitize-coverage=trace-pc. Preloaded before the extensions.
 *
 * An edge is a pair of basic blocks, named by a hash of their addresses; how often it was taken counts in
 * classes (1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128+), as in AFL. Single-threaded, as what it watches is.
 */
#include <stdint.h>
#include <string.h>

#define EDGES 65536 /* a power of two; the extensions have some thousand blocks */

static uint8_t hits[EDGES];
static uint8_t seen[EDGES]; /* classes seen so far, one bit each */
static uint32_t before;

void __sanitizer_cov_trace_pc(void)
{
    uint64_t here = (uint64_t)(uintptr_t)__builtin_return_address(0) * 0x9E3779B97F4A7C15u;
    uint32_t block = (uint32_t)(here >> 40);
    uint32_t edge = (block ^ before) & (EDGES - 1);
    if (hits[edge] != UINT8_MAX)
        hits[edge]++;
    before = block >> 1;
}

static uint8_t class_of(uint8_t count)
{
    if (count < 4)
        return (uint8_t)(1u << (count - 1));
    if (count < 8)
        return 8;
    if (count < 16)
        return 16;
    if (count < 32)
        return 32;
    return count < 128 ? 64 : 128;
}

/* Forget everything seen. */
void coverage_reset(void)
{
    memset(seen, 0, sizeof seen);
}

/* What runs from here on counts. */
void coverage_begin(void)
{
    memset(hits, 0, sizeof hits);
    before = 0;
}

/* How many edges (and, with `classes`, new classes of known edges) ran for the first time since the reset. */
int coverage_end(int classes)
{
    int fresh = 0;
    for (size_t word = 0; word < EDGES; word += 8) {
        uint64_t eight;
        memcpy(&eight, hits + word, 8);
        if (eight == 0)
            continue;
        for (size_t i = word; i < word + 8; i++) {
            uint8_t kind;
            if (hits[i] == 0)
                continue;
            kind = class_of(hits[i]);
            fresh += classes ? (seen[i] & kind) == 0 : seen[i] == 0;
            seen[i] |= kind;
        }
    }
    return fresh;
}

/* Edges seen since the reset. */
int coverage_edges(void)
{
    int count = 0;
    for (size_t i = 0; i < EDGES; i++)
        count += seen[i] != 0;
    return count;
}
