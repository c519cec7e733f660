// What backend_cuda/ptx.cuh offers, on AMD devices: copies into shared memory, done at once.
//
// There are no matrix loads, no products by fragment layout and no barriers of part of a block here: kernels that
// run on both kinds of device use backend_cuda/tile.cuh and __syncthreads.
#ifndef RONDO_BACKEND_HIP_PTX_CUH
#define RONDO_BACKEND_HIP_PTX_CUH

#include "backend_cuda/kernel.cuh"

// Plain loads and stores. The compiler keeps several in flight when a loop is unrolled; visible to other threads
// after the barrier that a kernel has after copy_async_wait anyway.
static __device__ __forceinline__ void copy_async_4(void *shared, const void *global, bool valid)
{
    *(uint32_t *)shared = valid ? *(const uint32_t *)global : 0;
}

static __device__ __forceinline__ void copy_async_8(void *shared, const void *global, bool valid)
{
    *(uint2 *)shared = valid ? *(const uint2 *)global : make_uint2(0, 0);
}

static __device__ __forceinline__ void copy_async_16(void *shared, const void *global, bool valid)
{
    *(uint4 *)shared = valid ? *(const uint4 *)global : make_uint4(0, 0, 0, 0);
}

static __device__ __forceinline__ void copy_async_commit()
{
}

// Launches follow one another anyway.
static __device__ __forceinline__ void wait_for_previous()
{
}

template <int N> static __device__ __forceinline__ void copy_async_wait()
{
}

static __device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    return (uint32_t)f32_bf16(low) | (uint32_t)f32_bf16(high) << 16;
}

static __device__ __forceinline__ uint32_t pack_e4m3(float low, float high)
{
    return (uint32_t)f32_e4m3(low) | (uint32_t)f32_e4m3(high) << 8;
}

static __device__ __forceinline__ float exp2_approx(float x)
{
#if defined(__HIP_DEVICE_COMPILE__)
    return x < -126.0f ? 0.0f : __builtin_amdgcn_exp2f(x);
#else
    return x < -126.0f ? 0.0f : exp2f(x);
#endif
}

static __device__ __forceinline__ float reciprocal_approx(float x)
{
#if defined(__HIP_DEVICE_COMPILE__)
    return __builtin_amdgcn_rcpf(x);
#else
    return 1.0f / x;
#endif
}

#endif
