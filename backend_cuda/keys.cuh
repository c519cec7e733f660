// The order of logits as one integer each: what argmax and candidates compare.
//
// A value and its index make 64 bits, greater for greater values and, among equals, for lower indices; 0 is a NaN, or
// nothing. No two logits of a row are equal as keys, so that the largest of them do not depend on the order of the
// comparisons.
#ifndef RONDO_BACKEND_CUDA_KEYS_CUH
#define RONDO_BACKEND_CUDA_KEYS_CUH

#include "backend_cuda/kernel.cuh"

static __device__ __forceinline__ uint64_t key_of(float value, int64_t index)
{
    uint32_t bits = f32_bits(value + 0.0f); // -0 and 0 are one
    uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return value == value ? (uint64_t)ascending << 32 | (0xffffffffu - (uint32_t)index) : 0;
}

static __device__ __forceinline__ int32_t key_index(uint64_t key)
{
    return (int32_t)(0xffffffffu - (uint32_t)key);
}

// Of a key other than 0.
static __device__ __forceinline__ float key_value(uint64_t key)
{
    uint32_t ascending = (uint32_t)(key >> 32);
    return bits_f32(ascending & 0x80000000u ? ascending ^ 0x80000000u : ~ascending);
}

static __device__ __forceinline__ uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static __device__ __forceinline__ uint64_t warp_xor_64(uint64_t x, int mask)
{
    uint32_t high = WARP_XOR((uint32_t)(x >> 32), mask), low = WARP_XOR((uint32_t)x, mask);
    return (uint64_t)high << 32 | low;
}

// Largest key of an aligned group of `lanes` lanes, a power of two, to each of them. Whole warps.
static __device__ __forceinline__ uint64_t lanes_largest(uint64_t key, int lanes)
{
    for (int mask = lanes / 2; mask; mask /= 2)
        key = larger(key, warp_xor_64(key, mask));
    return key;
}

#endif
