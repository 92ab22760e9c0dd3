/* Counts of microseconds in logarithmic buckets, 32 to each power of two (3 % wide); bench/histogram.py reads them. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include "wire.h"

enum { BUCKETS = 1024 };

struct histogram {
    uint64_t count, max_us;
    uint64_t buckets[BUCKETS];
};

static inline void histogram_add(struct histogram *histogram, uint64_t us) {
    uint64_t index = us;
    if (us >= 32) {
        int shift = 58 - __builtin_clzll(us);
        index = 32 * (uint64_t)shift + (us >> shift);
    }
    histogram->buckets[index < BUCKETS ? index : BUCKETS - 1]++;
    histogram->count++;
    if (us > histogram->max_us) histogram->max_us = us;
}

/* {"count":n,"max_us":n,"buckets":[[index,count],...]} */
static inline void histogram_print(FILE *to, const struct histogram *histogram) {
    const char *comma = "";
    fprintf(to, "{\"count\":%lu,\"max_us\":%lu,\"buckets\":[", histogram->count, histogram->max_us);
    for (int i = 0; i < BUCKETS; i++)
        if (histogram->buckets[i]) {
            fprintf(to, "%s[%d,%lu]", comma, i, histogram->buckets[i]);
            comma = ",";
        }
    fprintf(to, "]}");
}

#endif
