// Device functions over the instructions that have no C++ form: asynchronous copies, matrix loads, tensor core
// products of one warp, barriers of part of a block. ptx_sm90.cuh has those of Hopper. No other file holds
// inline PTX.
//
// Each has a twin that the emulator executes (tests/simt/ptx.h); AMD builds take what exists there from
// backend_hip/ptx.cuh. Fragment layouts are those of the PTX manual, chapter "warp-level matrix instructions";
// rondo-check --layouts compares them with a device. In the comments g = lane / 4 and t = lane % 4.
#ifndef RONDO_BACKEND_CUDA_PTX_CUH
#define RONDO_BACKEND_CUDA_PTX_CUH

#include "backend_cuda/kernel.cuh"

#if defined(RONDO_HIP)
#include "backend_hip/ptx.cuh"
#elif defined(RONDO_SIMT)
#include "tests/simt/ptx.h"
#else

// Address of shared memory as instructions take it.
static __device__ __forceinline__ uint32_t shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

// ---- asynchronous copies: global to shared memory, complete after copy_async_wait and a barrier -------------

// Each thread copies 4, 8 or 16 bytes, both ends aligned to that size, or writes zeros when !valid; `global` is
// not read then.
static __device__ __forceinline__ void copy_async_4(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(valid ? 4 : 0)
                 : "memory");
}

static __device__ __forceinline__ void copy_async_8(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(valid ? 8 : 0)
                 : "memory");
}

static __device__ __forceinline__ void copy_async_16(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
                 : "memory");
}

// Closes a group of the thread's copies.
static __device__ __forceinline__ void copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most the N youngest groups of this thread are under way.
template <int N> static __device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- matrices from shared memory into fragments --------------------------------------------------------------

// ldmatrix: 8x8 matrices of 16-bit values. Lane 8*i + j gives the address of row j (16 bytes, aligned) of
// matrix i; the addresses of lanes past the last matrix are not used. r[i] of a lane is row g, columns 2t and
// 2t + 1 of matrix i; transposed: rows 2t and 2t + 1 of column g.
static __device__ __forceinline__ void load_matrix_1(uint32_t (&r)[1], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void load_matrix_2(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void load_matrix_4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void load_matrix_1_transposed(uint32_t (&r)[1], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void load_matrix_2_transposed(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void load_matrix_4_transposed(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// ---- products of one warp --------------------------------------------------------------------------------------

// c += A B. A is 16 x 16: a[0] = row g, k 2t and 2t+1; a[1] = row g+8, same k; a[2], a[3] = the same rows, k + 8.
// B is 16 x 8: b[0] = k 2t and 2t+1 of column g; b[1] = k + 8. C is 16 x 8: c[0], c[1] = row g, columns 2t and
// 2t+1; c[2], c[3] = row g+8. The lower half of a register has the lower k.
static __device__ __forceinline__ void mma_m16n8k16_bf16(float *c, const uint32_t *a,
                                                         const uint32_t *b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c += A B of e4m3. A is 16 x 32: a[0] = row g, k 4t..4t+3; a[1] = row g+8; a[2], a[3] = k + 16. B is 32 x 8:
// b[0] = k 4t..4t+3 of column g; b[1] = k + 16. C as above. A trap below sm_89; sm_90 runs it through
// f16.
static __device__ __forceinline__ void mma_m16n8k32_e4m3(float *c, const uint32_t *a,
                                                         const uint32_t *b)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
    __trap();
#else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Two values rounded to bf16, nearest even, `low` in the lower half. NaN gives 0x7fff.
static __device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Products of the two pairs of bf16, rounded to the nearest even.
static __device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, uint32_t b)
{
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
    return product;
}

// 2^x to 2 ulp; results below 2^-126 are 0, that of 0 is 1.
static __device__ __forceinline__ float exp2_approx(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x, at most one unit in the last place off, for 2^-126 <= |x| < 2^126.
static __device__ __forceinline__ float reciprocal_approx(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two values rounded to e4m3 as f32_e4m3 does it, `low` in the lower byte. One instruction from sm_89 on.
static __device__ __forceinline__ uint32_t pack_e4m3(float low, float high)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t packed;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return (uint32_t)f32_e4m3(low) | (uint32_t)f32_e4m3(high) << 8;
#endif
}

// ---- launches that follow one another --------------------------------------------------------------------------

// Until launches before this one are over and what they stored can be seen; from here on the launch behind this one may
// begin (LAUNCH_NEXT). By all threads, before they read or write what other launches write or read: as every launch
// waits for the one before it, all that came earlier is over then, too.
static __device__ __forceinline__ void wait_for_previous()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n"
                 "griddepcontrol.launch_dependents;" ::
                     : "memory");
#endif
}

// ---- barriers of part of a block -------------------------------------------------------------------------------

// Barrier 1..15 (0 is that of __syncthreads) of `threads`, a multiple of the warp size: sync waits for all of
// them, arrive only counts as having come.
static __device__ __forceinline__ void named_barrier_sync(int id, int threads)
{
    asm volatile("barrier.cta.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

static __device__ __forceinline__ void named_barrier_arrive(int id, int threads)
{
    asm volatile("barrier.cta.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#endif

// ---- codes -------------------------------------------------------------------------------------------------------

// Codes 2 * Pair and 2 * Pair + 1 of four e4m3 codes as bf16, exactly. A code's bits, placed as those of a bf16,
// are the value times 2^-120, subnormals included. NaN codes give 480.
template <int Pair> static __device__ __forceinline__ uint32_t widen_e4m3(uint32_t codes)
{
#ifdef RONDO_HIP
    uint32_t low = f32_bits(e4m3_f32((uint8_t)(codes >> 16 * Pair)));
    uint32_t high = f32_bits(e4m3_f32((uint8_t)(codes >> (16 * Pair + 8))));
    return low >> 16 | (high & 0xffff0000u);
#else
    uint32_t apart = __byte_perm(codes, 0, Pair ? 0x3424 : 0x1404); // each at the top of its half
    return multiply_bf16x2((apart & 0x80008000u) | (apart & 0x7f007f00u) >> 4, 0x7b807b80u);
#endif
}

#endif
