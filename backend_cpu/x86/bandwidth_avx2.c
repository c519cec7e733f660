/* Read bandwidth, AVX2: four streams of vector loads, prefetched some pages ahead. */
#include "backend_cpu/bandwidth.h"

#include <immintrin.h>

#define AHEAD 2048 /* bytes; prefetches past the end are harmless */

uint64_t rondo_bandwidth_sum_avx2(const void *data, size_t size)
{
    const char *stream[4];
    __m256i sum[4];
    size_t part = size / 4;
    for (int s = 0; s < 4; s++) {
        stream[s] = (const char *)data + (size_t)s * part;
        sum[s] = _mm256_setzero_si256();
    }
    for (size_t at = 0; at < part; at += 256) {
        for (int s = 0; s < 4; s++) {
            for (size_t i = 0; i < 256; i += 64)
                _mm_prefetch(stream[s] + at + AHEAD + i, _MM_HINT_T0);
            for (size_t i = 0; i < 256; i += 32)
                sum[s] =
                    _mm256_add_epi64(sum[s], _mm256_load_si256((const void *)(stream[s] + at + i)));
        }
    }
    uint64_t lanes[32 / 8], total = 0;
    sum[0] = _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3]));
    _mm256_storeu_si256((void *)lanes, sum[0]);
    for (int i = 0; i < 32 / 8; i++)
        total += lanes[i];
    return total;
}
