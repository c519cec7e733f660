// What every kernel file starts from: launching, shared memory, conversions, exp, reductions inside a warp.
//
// Elementary arithmetic follows core/numbers.h and core/dtype.c step by step, so that ops whose order the
// contract fixes give the bits of the CPU reference. Builds use -fmad=false (or -ffp-contract=off): only
// fmaf fuses. Division and square root are IEEE: never the fast-math versions.
#ifndef RONDO_BACKEND_CUDA_KERNEL_CUH
#define RONDO_BACKEND_CUDA_KERNEL_CUH

#include "backend_cuda/gpu.h"
#include "core/numbers.h"

#include <stdint.h>

// Emulated and HIP builds bring their own; see tests/simt and backend_hip.
#ifndef LAUNCH
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                           \
    kernel<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__)
#endif
// The launch of an op's kernel, which begins with wait_for_previous(): its blocks may come while the launch before it
// in the stream ends, and wait there. From sm_90 on; elsewhere, and as HIP, an ordinary launch.
#ifndef LAUNCH_NEXT
#ifdef RONDO_HIP
#define LAUNCH_NEXT(device, kernel, grid, block, shared, ...)                                      \
    LAUNCH(kernel, grid, block, shared, (device)->stream, __VA_ARGS__)
#else
#define LAUNCH_NEXT(device, kernel, grid, block, shared, ...)                                      \
    launch_next((device), (kernel), dim3(grid), dim3(block), (shared), __VA_ARGS__)
#endif
#endif
#ifndef DYN_SHARED
#define DYN_SHARED(type, name)                                                                     \
    extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];                       \
    type *name = reinterpret_cast<type *>(dynamic_shared_memory)
#endif
#ifndef SHARED_ARRAY
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]
#endif
#ifndef WARP_SIZE // a constant: 32, and 64 in builds for AMD's wide waves
#define WARP_SIZE 32
#endif
// Warp operations take whole warps. HIP and emulated builds of 64 lanes map these.
#ifndef WARP_XOR
#define WARP_XOR(value, mask) __shfl_xor_sync(0xffffffffu, (value), (mask))
#define WARP_READ(value, lane) __shfl_sync(0xffffffffu, (value), (lane))
#define WARP_UP(value, delta) __shfl_up_sync(0xffffffffu, (value), (delta))
#define WARP_DOWN(value, delta) __shfl_down_sync(0xffffffffu, (value), (delta))
#define WARP_ANY(predicate) __any_sync(0xffffffffu, (predicate))
#define WARP_BALLOT(predicate) __ballot_sync(0xffffffffu, (predicate)) // uint32_t, or uint64_t
#define WARP_SYNC() __syncwarp()
#endif

// One line after every launch: counts it, and keeps the first error of the device.
#define GPU_LAUNCHED(device, what) GPU(launched)((device), cudaGetLastError(), (what))

// Lets launches of a kernel have `bytes` of dynamic shared memory, where that may be more than 48 KiB. What is allowed
// belongs to the kernel and not to a launch, so it is always all that the device has: what other threads are about to
// launch, and what has been recorded, may need more than this launch. Not for kernels with SHARED_ARRAY: devices, if not
// the emulator, refuse what leaves no room for it. False: the device has failed.
template <class... P>
static inline bool allow_shared_memory(struct gpu_device *device, void (*kernel)(P...),
                                       size_t bytes, const char *what)
{
    size_t allowed = bytes < device->shared_limit ? device->shared_limit : bytes;
    return !GPU(failed)(device,
                        cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)allowed),
                        what);
}

#if defined(__CUDACC__) && !defined(RONDO_HIP)
template <class... P, class... A>
static inline void launch_next(const struct gpu_device *device, void (*kernel)(P...), dim3 grid,
                               dim3 block, size_t shared, A &&...arguments)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = device->stream;
    config.attrs = &attribute;
    config.numAttrs = device->overlaps ? 1 : 0;
    cudaLaunchKernelEx(&config, kernel, static_cast<A &&>(arguments)...);
}
#endif

static inline struct gpu_device *gpu_device_of(struct rondo_device *device)
{
    return reinterpret_cast<struct gpu_device *>(device);
}

static __host__ __device__ __forceinline__ int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

// ---- numbers --------------------------------------------------------------------------------------

static __device__ __forceinline__ float bits_f32(uint32_t bits)
{
    return __uint_as_float(bits);
}

static __device__ __forceinline__ uint32_t f32_bits(float x)
{
    return __float_as_uint(x);
}

static __device__ __forceinline__ float bf16_f32(uint16_t bits)
{
    return bits_f32((uint32_t)bits << 16);
}

// Nearest even; NaN stays a (quiet) NaN.
static __device__ __forceinline__ uint16_t f32_bf16(float x)
{
    uint32_t bits = f32_bits(x);
    if (x != x)
        return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

// Half precision of weights in files.
static __device__ __forceinline__ float f16_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, exponent = (bits >> 10) & 0x1fu;
    uint32_t mantissa = bits & 0x3ffu;
    if (exponent == 31)
        return bits_f32(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return bits_f32(sign | (exponent + 112) << 23 | mantissa << 13);
}

// The code's bits placed as those of a float are the value times 2^-120, subnormals included. NaN codes give
// 480; files with NaN weights are refused at load, and quantised activations that are NaN are not hidden:
// see e4m3_f32_nan.
static __device__ __forceinline__ float e4m3_f32(uint8_t code)
{
    return bits_f32((uint32_t)(code & 0x80) << 24 | (uint32_t)(code & 0x7f) << 20) * 0x1p120f;
}

static __device__ __forceinline__ float e4m3_f32_nan(uint8_t code)
{
    return (code & 0x7f) == 0x7f ? bits_f32(0x7fc00000u) : e4m3_f32(code);
}

// Nearest even, saturating to 448; NaN gives 0x7f. The steps of rondo_f32_to_e4m3_row.
static __device__ __forceinline__ uint8_t f32_e4m3(float x)
{
    uint32_t bits = f32_bits(x), magnitude = bits & 0x7fffffffu;
    uint32_t subnormal = f32_bits(bits_f32(magnitude) + 0x1p14f) - 0x46800000u;
    uint32_t normal = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
    uint32_t code = magnitude < 0x3c800000u ? subnormal : normal;
    code = magnitude >= 0x43e00000u ? 0x7eu : code;
    code |= bits >> 24 & 0x80u;
    return (uint8_t)(magnitude > 0x7f800000u ? 0x7fu : code);
}

// rondo_exp of core/numbers.h, to the bit for every x, with fewer instructions: 1.5 * 2^23 added and taken away
// rounds to an integer, whose low bits then stand in the sum; and as neither factor nor result is subnormal or
// infinite, 2^n multiplies by being added to the exponent.
static __device__ __forceinline__ float exp_f32(float x)
{
    float inside = fminf(fmaxf(x, RONDO_EXP_LOW), RONDO_EXP_HIGH);
    float shifted = inside * RONDO_EXP_LOG2E + 12582912.0f;
    float n = shifted - 12582912.0f;
    float r = fmaf(n, -RONDO_EXP_LN2_HIGH, inside);
    r = fmaf(n, -RONDO_EXP_LN2_LOW, r);
    float p = fmaf(RONDO_EXP_C0, r, RONDO_EXP_C1);
    p = fmaf(p, r, RONDO_EXP_C2);
    p = fmaf(p, r, RONDO_EXP_C3);
    p = fmaf(p, r, RONDO_EXP_C4);
    p = fmaf(p, r, RONDO_EXP_C5);
    float e = fmaf(p * r, r, r) + 1.0f;
    return x != x ? x : bits_f32(f32_bits(e) + (f32_bits(shifted) << 23));
}

static __device__ __forceinline__ float sigmoid_f32(float x)
{
    return 1.0f / (1.0f + exp_f32(-x));
}

static __device__ __forceinline__ float silu_f32(float x)
{
    return x * sigmoid_f32(x);
}

// ---- activations: f32 in mode f32, bf16 otherwise --------------------------------------------------

static __device__ __forceinline__ float load_act(const float *p)
{
    return *p;
}

static __device__ __forceinline__ float load_act(const uint16_t *p)
{
    return bf16_f32(*p);
}

static __device__ __forceinline__ void store_act(float *p, float x)
{
    *p = x;
}

static __device__ __forceinline__ void store_act(uint16_t *p, float x)
{
    *p = f32_bf16(x);
}

// ---- inside a warp ---------------------------------------------------------------------------------

// Sum of 16 lanes in the order of rondo_sum_tree16; every lane of an aligned group of 16 gets it.
static __device__ __forceinline__ float sum_tree16(float lane)
{
    lane += WARP_XOR(lane, 8);
    lane += WARP_XOR(lane, 4);
    lane += WARP_XOR(lane, 2);
    return lane + WARP_XOR(lane, 1);
}

static __device__ __forceinline__ float warp_max(float x)
{
    for (int mask = WARP_SIZE / 2; mask; mask /= 2)
        x = fmaxf(x, WARP_XOR(x, mask));
    return x;
}

#endif
