/* Kernels of the read bandwidth measurement: the sum of `size` bytes at `data` as 64-bit words,
 * for use of the loads. `size` is a multiple of 1024, `data` is 256-byte aligned. */
#ifndef RONDO_BACKEND_CPU_BANDWIDTH_H
#define RONDO_BACKEND_CPU_BANDWIDTH_H

#include <stddef.h>
#include <stdint.h>

uint64_t rondo_bandwidth_sum_avx2(const void *data, size_t size);
uint64_t rondo_bandwidth_sum_avx512(const void *data, size_t size);

#endif
