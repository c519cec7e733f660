// Device functions over the instructions of Hopper: barriers in shared memory, tiles copied by the copy engine,
// products of warpgroups. For sources that are compiled for sm_90a alone.
//
// As in ptx.cuh, each has a twin that the emulator executes (tests/simt/ptx_sm90.h), and layouts are those of the
// PTX manual, chapters "tensors" and "asynchronous warpgroup level matrix instructions".
#ifndef RONDO_BACKEND_CUDA_PTX_SM90_CUH
#define RONDO_BACKEND_CUDA_PTX_SM90_CUH

#include "backend_cuda/ptx.cuh"

#include <cuda.h> // CUtensorMap

#if defined(RONDO_SIMT)
#include "tests/simt/ptx_sm90.h"
#else

// ---- barriers in shared memory ---------------------------------------------------------------------------------

// A phase of the barrier is over when `arrivals` arrivals and all bytes announced for it have come; then the
// next one begins, with the same count. Phases are numbered from 0.
static __device__ __forceinline__ void mbarrier_init(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}

// After the inits, before the block's barrier: lets the copy engine see them.
static __device__ __forceinline__ void mbarrier_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void mbarrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}

// Announces bytes that the copy engine will bring in this phase, and arrives.
static __device__ __forceinline__ void mbarrier_arrive_expect(uint64_t *barrier, int bytes)
{
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
        "r"(bytes)
        : "memory");
}

// Until the current phase is not the one of this parity: parity 0 waits for the end of phases 0, 2, ...;
// parity 1 passes at once on a fresh barrier.
static __device__ __forceinline__ void mbarrier_wait(uint64_t *barrier, int parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "WAIT_%=:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra WAIT_%=;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

// An arrival that comes when all copy_async_* that this thread has issued are complete. It is one of those that
// the barrier was initialised for.
static __device__ __forceinline__ void copy_async_arrive(uint64_t *barrier)
{
    asm volatile(
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
        : "memory");
}

// ---- the copy engine -------------------------------------------------------------------------------------------

// Copies the box of the map at coordinates (in elements, innermost first) into shared memory; what lies outside
// of the tensor becomes zeros, and counts as bytes too. One thread issues it. The target is aligned to 128 bytes,
// with 128-byte swizzle to 1024: byte b of the box then stands at b ^ (b >> 3 & 0x70).
static __device__ __forceinline__ void tma_load_2d(void *shared, const CUtensorMap *map,
                                                   uint64_t *barrier, int x, int y)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier))
                 : "memory");
}

static __device__ __forceinline__ void tma_load_3d(void *shared, const CUtensorMap *map,
                                                   uint64_t *barrier, int x, int y, int z)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier))
                 : "memory");
}

// The same, also before wait_for_previous: of memory that no launch writes.
static __device__ __forceinline__ void tma_load_3d_early(void *shared, const CUtensorMap *map,
                                                         uint64_t *barrier, int x, int y, int z)
{
    tma_load_3d(shared, map, barrier, x, y, z);
}

static __device__ __forceinline__ void tma_prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Bytes in a row: both addresses and the size are multiples of 16.
static __device__ __forceinline__ void bulk_load(void *shared, const void *global, int bytes,
                                                 uint64_t *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

// Between ordinary accesses of this thread to shared memory and those of the copy engine and wgmma.
static __device__ __forceinline__ void fence_async_proxy()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- roles -----------------------------------------------------------------------------------------------------

// True in one lane of a whole warp.
static __device__ __forceinline__ bool elect_one()
{
    uint32_t elected;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "elect.sync _|p, 0xffffffff;\n"
                 "selp.b32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(elected));
    return elected != 0;
}

// Registers a thread may use from here on: a multiple of 8; all warps of a warpgroup say the same.
template <int N> static __device__ __forceinline__ void registers_more()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void registers_fewer()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

// ---- products of a warpgroup -----------------------------------------------------------------------------------

// A matrix in shared memory as wgmma takes it: rows (of A: m; of B: n) of 128 bytes of k with 128-byte swizzle,
// groups of 8 rows 1024 bytes apart, aligned to 1024. Steps along k inside the 128 bytes are added as bytes / 16.
static __device__ __forceinline__ uint64_t wgmma_matrix(const void *shared)
{
    return (uint64_t)((shared_address(shared) & 0x3ffff) >> 4) | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

// Before the first product of a sequence, and when registers of accumulators or of A were written.
static __device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most the N youngest groups are under way; after it, wgmma_settle the registers that are read.
template <int N> static __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Keeps the compiler from moving uses of the registers across this point.
template <int COUNT> static __device__ __forceinline__ void wgmma_settle(float (&d)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

// d = A B (+ d if accumulate): 64 rows m, N columns n. A and B are matrices in shared memory, or A is in registers.
// Value i of a thread is row 16 * (warp % 4) + g + 8 * (i / 2 % 2), column 8 * (i / 4) + 2t + i % 2. A in
// registers: warp w has rows 16 w .. 16 w + 15, laid out as A of mma_m16n8k16_bf16.
//   wgmma_e4m3(d, a, b, accumulate)     k 32
//   wgmma_bf16(d, a, b, accumulate)     k 16
// Overloads for N = 8, 16, 32, 64, 128, 256: N is twice the length of d.
#define WGMMA_LIST_4 "%0, %1, %2, %3"
#define WGMMA_LIST_8 WGMMA_LIST_4 ", %4, %5, %6, %7"
#define WGMMA_LIST_16 WGMMA_LIST_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_LIST_32                                                                              \
    WGMMA_LIST_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "  \
                  "%31"
#define WGMMA_LIST_64                                                                              \
    WGMMA_LIST_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "  \
                  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "    \
                  "%62, %63"
#define WGMMA_LIST_128                                                                             \
    WGMMA_LIST_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, "  \
                  "%79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, "    \
                  "%94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, " \
                  "%108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, " \
                  "%121, %122, %123, %124, %125, %126, %127"
#define WGMMA_OPERANDS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_OPERANDS_8(d, i) WGMMA_OPERANDS_4(d, i), WGMMA_OPERANDS_4(d, i + 4)
#define WGMMA_OPERANDS_16(d, i) WGMMA_OPERANDS_8(d, i), WGMMA_OPERANDS_8(d, i + 8)
#define WGMMA_OPERANDS_32(d, i) WGMMA_OPERANDS_16(d, i), WGMMA_OPERANDS_16(d, i + 16)
#define WGMMA_OPERANDS_64(d, i) WGMMA_OPERANDS_32(d, i), WGMMA_OPERANDS_32(d, i + 32)
#define WGMMA_OPERANDS_128(d, i) WGMMA_OPERANDS_64(d, i), WGMMA_OPERANDS_64(d, i + 64)
#define WGMMA_PREDICATE(operand)                                                                   \
    "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, " operand ", 0;\n"
// P0, P1, ...: the numbers of the operands after the accumulators.
#define WGMMA_SHAPE(N, COUNT, P0, P1, P2, P3, P4, P5)                                              \
    static __device__ __forceinline__ void wgmma_e4m3(float(&d)[COUNT], uint64_t a, uint64_t b,    \
                                                      bool accumulate)                             \
    {                                                                                              \
        asm volatile(WGMMA_PREDICATE(P2) "wgmma.mma_async.sync.aligned.m64n" #N                    \
                                         "k32.f32.e4m3.e4m3 {" WGMMA_LIST_##COUNT                  \
                     "}, " P0 ", " P1 ", accumulate, 1, 1;\n}"                                     \
                     : WGMMA_OPERANDS_##COUNT(d, 0)                                                \
                     : "l"(a), "l"(b), "r"((int)accumulate));                                      \
    }                                                                                              \
    static __device__ __forceinline__ void wgmma_bf16(float(&d)[COUNT], uint64_t a, uint64_t b,    \
                                                      bool accumulate)                             \
    {                                                                                              \
        asm volatile(WGMMA_PREDICATE(P2) "wgmma.mma_async.sync.aligned.m64n" #N                    \
                                         "k16.f32.bf16.bf16 {" WGMMA_LIST_##COUNT                  \
                     "}, " P0 ", " P1 ", accumulate, 1, 1, 0, 0;\n}"                               \
                     : WGMMA_OPERANDS_##COUNT(d, 0)                                                \
                     : "l"(a), "l"(b), "r"((int)accumulate));                                      \
    }                                                                                              \
    static __device__ __forceinline__ void wgmma_bf16(float(&d)[COUNT], const uint32_t(&a)[4],     \
                                                      uint64_t b, bool accumulate)                 \
    {                                                                                              \
        asm volatile(WGMMA_PREDICATE(P5) "wgmma.mma_async.sync.aligned.m64n" #N                    \
                                         "k16.f32.bf16.bf16 {" WGMMA_LIST_##COUNT                  \
                     "}, {" P0 ", " P1 ", " P2 ", " P3 "}, " P4 ", accumulate, 1, 1, 0;\n}"        \
                     : WGMMA_OPERANDS_##COUNT(d, 0)                                                \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate));  \
    }
WGMMA_SHAPE(8, 4, "%4", "%5", "%6", "%7", "%8", "%9")
WGMMA_SHAPE(16, 8, "%8", "%9", "%10", "%11", "%12", "%13")
WGMMA_SHAPE(32, 16, "%16", "%17", "%18", "%19", "%20", "%21")
WGMMA_SHAPE(64, 32, "%32", "%33", "%34", "%35", "%36", "%37")
WGMMA_SHAPE(128, 64, "%64", "%65", "%66", "%67", "%68", "%69")
WGMMA_SHAPE(256, 128, "%128", "%129", "%130", "%131", "%132", "%133")
#undef WGMMA_SHAPE

#endif
#endif
