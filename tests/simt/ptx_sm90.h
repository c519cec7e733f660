/* Twins of the instructions of backend_cuda/ptx_sm90.cuh, which includes this file in emulated builds.
 *
 * Lazy, tiles arrive only when no thread can go on without them, and products of warpgroups are done when their
 * group is waited for; otherwise both are done where they are issued. Products add in ascending k, one fused
 * multiply-add each. Mistakes that a device leaves undefined are reported: barriers that were not initialised or get
 * too many arrivals, misaligned targets, descriptors that differ inside a warpgroup, products without a fence. */
#ifndef SIMT_PTX_SM90_H
#define SIMT_PTX_SM90_H

#include "block.h"

#include <cuda.h>

namespace simt
{

void mbarrier_init(uint64_t *barrier, int arrivals, Here here);
void mbarrier_init_fence();
void mbarrier_arrive(uint64_t *barrier, int bytes, Here here); // and expect
void mbarrier_wait(uint64_t *barrier, int parity, Here here);
void copy_async_arrive(uint64_t *barrier, Here here);

// early: before wait_for_previous, too.
void tma_load(void *shared, const CUtensorMap *map, uint64_t *barrier, unsigned rank, const int *at,
              bool early, Here here);
void bulk_load(void *shared, const void *global, int bytes, uint64_t *barrier, Here here);
void fence_async_proxy();

bool elect_one(Here here);

uint64_t wgmma_matrix(const void *shared, Here here);
void wgmma_fence(Here here);
void wgmma_commit(Here here);
void wgmma_wait(unsigned pending, Here here);
// columns: N. a_registers: 4 of each thread, or null when `a` is a matrix in shared memory.
void wgmma(bool bf16, unsigned columns, float *d, const uint32_t *a_registers, uint64_t a,
           uint64_t b, bool accumulate, Here here);

} // namespace simt

static inline void mbarrier_init(uint64_t *barrier, int arrivals, simt::Here here = simt::Here())
{
    simt::mbarrier_init(barrier, arrivals, here);
}

static inline void mbarrier_init_fence()
{
    simt::mbarrier_init_fence();
}

static inline void mbarrier_arrive(uint64_t *barrier, simt::Here here = simt::Here())
{
    simt::mbarrier_arrive(barrier, 0, here);
}

static inline void mbarrier_arrive_expect(uint64_t *barrier, int bytes,
                                          simt::Here here = simt::Here())
{
    simt::mbarrier_arrive(barrier, bytes, here);
}

static inline void mbarrier_wait(uint64_t *barrier, int parity, simt::Here here = simt::Here())
{
    simt::mbarrier_wait(barrier, parity, here);
}

static inline void copy_async_arrive(uint64_t *barrier, simt::Here here = simt::Here())
{
    simt::copy_async_arrive(barrier, here);
}

static inline void tma_load_2d(void *shared, const CUtensorMap *map, uint64_t *barrier, int x,
                               int y, simt::Here here = simt::Here())
{
    const int at[2] = {x, y};
    simt::tma_load(shared, map, barrier, 2, at, false, here);
}

static inline void tma_load_3d(void *shared, const CUtensorMap *map, uint64_t *barrier, int x,
                               int y, int z, simt::Here here = simt::Here())
{
    const int at[3] = {x, y, z};
    simt::tma_load(shared, map, barrier, 3, at, false, here);
}

static inline void tma_load_3d_early(void *shared, const CUtensorMap *map, uint64_t *barrier, int x,
                                     int y, int z, simt::Here here = simt::Here())
{
    const int at[3] = {x, y, z};
    simt::tma_load(shared, map, barrier, 3, at, true, here);
}

static inline void tma_prefetch_map(const CUtensorMap *map)
{
    (void)map;
}

static inline void bulk_load(void *shared, const void *global, int bytes, uint64_t *barrier,
                             simt::Here here = simt::Here())
{
    simt::bulk_load(shared, global, bytes, barrier, here);
}

static inline void fence_async_proxy()
{
    simt::fence_async_proxy();
}

static inline bool elect_one(simt::Here here = simt::Here())
{
    return simt::elect_one(here);
}

template <int N> static inline void registers_more()
{
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "setmaxnreg");
}

template <int N> static inline void registers_fewer()
{
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "setmaxnreg");
}

static inline uint64_t wgmma_matrix(const void *shared, simt::Here here = simt::Here())
{
    return simt::wgmma_matrix(shared, here);
}

static inline void wgmma_fence(simt::Here here = simt::Here())
{
    simt::wgmma_fence(here);
}

static inline void wgmma_commit(simt::Here here = simt::Here())
{
    simt::wgmma_commit(here);
}

template <int N> static inline void wgmma_wait(simt::Here here = simt::Here())
{
    simt::wgmma_wait(N, here);
}

template <int COUNT> static inline void wgmma_settle(float (&d)[COUNT])
{
    (void)d;
}

template <int COUNT>
static inline void wgmma_e4m3(float (&d)[COUNT], uint64_t a, uint64_t b, bool accumulate,
                              simt::Here here = simt::Here())
{
    simt::wgmma(false, 2 * COUNT, d, nullptr, a, b, accumulate, here);
}

template <int COUNT>
static inline void wgmma_bf16(float (&d)[COUNT], uint64_t a, uint64_t b, bool accumulate,
                              simt::Here here = simt::Here())
{
    simt::wgmma(true, 2 * COUNT, d, nullptr, a, b, accumulate, here);
}

template <int COUNT>
static inline void wgmma_bf16(float (&d)[COUNT], const uint32_t (&a)[4], uint64_t b,
                              bool accumulate, simt::Here here = simt::Here())
{
    simt::wgmma(true, 2 * COUNT, d, a, 0, b, accumulate, here);
}

#endif
