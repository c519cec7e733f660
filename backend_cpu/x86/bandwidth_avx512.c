/* Read bandwidth, AVX512: four streams of vector loads, prefetched some pages ahead. */
#include "backend_cpu/bandwidth.h"

#include <immintrin.h>

#define AHEAD 2048 /* bytes; prefetches past the end are harmless */

uint64_t rondo_bandwidth_sum_avx512(const void *data, size_t size)
{
    const char *stream[4];
    __m512i sum[4];
    size_t part = size / 4;
    for (int s = 0; s < 4; s++) {
        stream[s] = (const char *)data + (size_t)s * part;
        sum[s] = _mm512_setzero_si512();
    }
    for (size_t at = 0; at < part; at += 256) {
        for (int s = 0; s < 4; s++) {
            for (size_t i = 0; i < 256; i += 64)
                _mm_prefetch(stream[s] + at + AHEAD + i, _MM_HINT_T0);
            for (size_t i = 0; i < 256; i += 64)
                sum[s] =
                    _mm512_add_epi64(sum[s], _mm512_load_si512((const void *)(stream[s] + at + i)));
        }
    }
    uint64_t lanes[64 / 8], total = 0;
    sum[0] = _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3]));
    _mm512_storeu_si512((void *)lanes, sum[0]);
    for (int i = 0; i < 64 / 8; i++)
        total += lanes[i];
    return total;
}
