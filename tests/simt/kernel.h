/* What kernels are written in, as nvcc provides it: function markers, thread indices, barriers, warp operations,
 * bit casts, arithmetic intrinsics. Functions are static, so that translation units of different warp sizes can be
 * linked together. */
#ifndef SIMT_KERNEL_H
#define SIMT_KERNEL_H

#include "atomic.h"
#include "block.h"
#include "launch.h"
#include "warp.h"

#include <cmath>
#include <cstring>
#include <math.h>
#include <type_traits>

// ---- markers --------------------------------------------------------------------------------------

#define __global__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __cluster_dims__(...)
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
// Kernels declare shared memory by DYN_SHARED and SHARED_ARRAY; this keeps other code compiling, unchecked.
#define __shared__ static thread_local

// ---- the thread -----------------------------------------------------------------------------------

#define threadIdx (simt::current->index)
#define blockIdx (simt::current->position->index)
#define blockDim (simt::current->position->block_dim)
#define gridDim (simt::current->position->grid_dim)
#define warpSize SIMT_WARP_SIZE
#ifndef WARP_SIZE
#define WARP_SIZE SIMT_WARP_SIZE
#endif

// Fibers switch only where they wait, so there is nothing to order but what the compiler may move.
#define __threadfence_block() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#define __threadfence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define __threadfence_system() __atomic_thread_fence(__ATOMIC_SEQ_CST)

static inline void __nanosleep(unsigned nanoseconds, simt::Here here = simt::Here())
{
    (void)nanoseconds;
    simt::wait("__nanosleep", here);
}

[[noreturn]] static inline void __trap(simt::Here here = simt::Here())
{
    simt::fail_at(here, 719 /* cudaErrorLaunchFailure */, "__trap");
}

static inline long long clock64()
{
    return (long long)simt::clock_ticks();
}

// ---- loads and stores with hints ------------------------------------------------------------------

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcg(const T *p)
{
    return *p;
}
template <class T> static inline T __ldca(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcs(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcv(const T *p)
{
    return *p;
}
template <class T> static inline void __stcg(T *p, T value)
{
    *p = value;
}
template <class T> static inline void __stcs(T *p, T value)
{
    *p = value;
}
template <class T> static inline void __stwt(T *p, T value)
{
    *p = value;
}

// ---- bits -----------------------------------------------------------------------------------------

namespace simt
{
namespace
{
template <class To, class From> inline To bit_cast(From from)
{
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace
} // namespace simt

static inline int __float_as_int(float x)
{
    return simt::bit_cast<int>(x);
}
static inline unsigned __float_as_uint(float x)
{
    return simt::bit_cast<unsigned>(x);
}
static inline float __int_as_float(int x)
{
    return simt::bit_cast<float>(x);
}
static inline float __uint_as_float(unsigned x)
{
    return simt::bit_cast<float>(x);
}
static inline long long __double_as_longlong(double x)
{
    return simt::bit_cast<long long>(x);
}
static inline double __longlong_as_double(long long x)
{
    return simt::bit_cast<double>(x);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline unsigned __brev(unsigned x)
{
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}
static inline unsigned long long __brevll(unsigned long long x)
{
    return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32));
}
// Selector digits 0-7 choose bytes of x (0-3) and y (4-7); bit 3 of a digit spreads that byte's sign.
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned digit = selector >> 4 * i & 15, byte = (unsigned)(both >> 8 * (digit & 7)) & 255;
        if (digit & 8)
            byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * i;
    }
    return result;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    unsigned long long both = (unsigned long long)high << 32 | low;
    return (unsigned)(both << (shift & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    unsigned long long both = (unsigned long long)high << 32 | low;
    return (unsigned)(both >> (shift & 31));
}

// ---- arithmetic -----------------------------------------------------------------------------------
//
// The approximate functions of the hardware (__expf, rsqrtf, ...) are the accurate ones here: tests that compare
// bits must not depend on them.

#define SIMT_ROUNDED(name, type, parameters, expression)                                           \
    static inline type name parameters                                                             \
    {                                                                                              \
        return expression;                                                                         \
    }
SIMT_ROUNDED(__fadd_rn, float, (float a, float b), a + b)
SIMT_ROUNDED(__fsub_rn, float, (float a, float b), a - b)
SIMT_ROUNDED(__fmul_rn, float, (float a, float b), a *b)
SIMT_ROUNDED(__fdiv_rn, float, (float a, float b), a / b)
SIMT_ROUNDED(__fdividef, float, (float a, float b), a / b)
SIMT_ROUNDED(__fmaf_rn, float, (float a, float b, float c), fmaf(a, b, c))
SIMT_ROUNDED(__fsqrt_rn, float, (float a), sqrtf(a))
SIMT_ROUNDED(__frcp_rn, float, (float a), 1.0f / a)
SIMT_ROUNDED(__frsqrt_rn, float, (float a), (float)(1.0 / sqrt((double)a)))
SIMT_ROUNDED(simt_rsqrtf, float, (float a), (float)(1.0 / sqrt((double)a)))
SIMT_ROUNDED(__saturatef, float, (float a), a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f)
SIMT_ROUNDED(__dadd_rn, double, (double a, double b), a + b)
SIMT_ROUNDED(__dmul_rn, double, (double a, double b), a *b)
SIMT_ROUNDED(__fma_rn, double, (double a, double b, double c), fma(a, b, c))
SIMT_ROUNDED(__float2int_rn, int, (float a), (int)lrintf(a))
SIMT_ROUNDED(__float2int_rz, int, (float a), (int)a)
SIMT_ROUNDED(__float2int_rd, int, (float a), (int)floorf(a))
SIMT_ROUNDED(__float2int_ru, int, (float a), (int)ceilf(a))
SIMT_ROUNDED(__float2uint_rn, unsigned, (float a), (unsigned)llrintf(a))
SIMT_ROUNDED(__int2float_rn, float, (int a), (float)a)
SIMT_ROUNDED(__uint2float_rn, float, (unsigned a), (float)a)
SIMT_ROUNDED(__mulhi, int, (int a, int b), (int)((long long)a *b >> 32))
SIMT_ROUNDED(__umulhi, unsigned, (unsigned a, unsigned b),
             (unsigned)((unsigned long long)a *b >> 32))
#undef SIMT_ROUNDED
// C libraries have, or hide, functions of these names, so macros.
#define rsqrtf(x) simt_rsqrtf(x)
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)

// As CUDA's overloads: the common type, a number rather than NaN.
template <class A, class B> static inline constexpr std::common_type_t<A, B> min(A a, B b)
{
    typedef std::common_type_t<A, B> T;
    if constexpr (std::is_floating_point_v<T>)
        return std::fmin((T)a, (T)b);
    else
        return (T)b < (T)a ? (T)b : (T)a;
}
template <class A, class B> static inline constexpr std::common_type_t<A, B> max(A a, B b)
{
    typedef std::common_type_t<A, B> T;
    if constexpr (std::is_floating_point_v<T>)
        return std::fmax((T)a, (T)b);
    else
        return (T)a < (T)b ? (T)b : (T)a;
}

#endif
