/* Operations of a warp as kernels call them: shuffles, votes, barriers. */
#ifndef SIMT_WARP_H
#define SIMT_WARP_H

#include "block.h"
#include "launch.h"

#include <cstring>

namespace simt
{

enum class Shuffle { index, up, down, exchange };

// One value of up to 8 bytes a lane.
Arrival shuffle(mask_t mask, Shuffle kind, uint64_t value, int operand, int width, Here here);
mask_t ballot(mask_t mask, bool predicate, const char *what, Here here);
mask_t match_any(mask_t mask, uint64_t value, Here here);
Arrival warp_barrier(mask_t mask, Here here);
mask_t active_lanes();
// Sum, minimum, maximum, and, or, xor of 32-bit values: '+', '<', '>', '&', '|', '^'; signed '<' and '>': 'l', 'g'.
uint32_t warp_reduce(mask_t mask, char operation, uint32_t value, Here here);

namespace
{

constexpr mask_t all_lanes = ~(mask_t)0;

template <class T>
inline T shuffle_value(mask_t mask, Shuffle kind, T value, int operand, int width, Here here)
{
    static_assert(sizeof(T) <= 8, "shuffles move up to 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    shuffle(mask, kind, bits, operand, width, here).go();
    bits = (uint64_t)current->warp->deposit[current->lane];
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

} // namespace
} // namespace simt

template <class T>
static inline T __shfl_sync(simt::mask_t mask, T value, int lane, int width = SIMT_WARP_SIZE,
                            simt::Here here = simt::Here())
{
    return simt::shuffle_value(mask, simt::Shuffle::index, value, lane, width, here);
}

template <class T>
static inline T __shfl_up_sync(simt::mask_t mask, T value, unsigned delta,
                               int width = SIMT_WARP_SIZE, simt::Here here = simt::Here())
{
    return simt::shuffle_value(mask, simt::Shuffle::up, value, (int)delta, width, here);
}

template <class T>
static inline T __shfl_down_sync(simt::mask_t mask, T value, unsigned delta,
                                 int width = SIMT_WARP_SIZE, simt::Here here = simt::Here())
{
    return simt::shuffle_value(mask, simt::Shuffle::down, value, (int)delta, width, here);
}

template <class T>
static inline T __shfl_xor_sync(simt::mask_t mask, T value, int lanes, int width = SIMT_WARP_SIZE,
                                simt::Here here = simt::Here())
{
    return simt::shuffle_value(mask, simt::Shuffle::exchange, value, lanes, width, here);
}

#if SIMT_WARP_SIZE == 64
typedef uint64_t simt_ballot_t;
#else
typedef unsigned simt_ballot_t;
#endif

static inline simt_ballot_t __ballot_sync(simt::mask_t mask, int predicate,
                                          simt::Here here = simt::Here())
{
    return (simt_ballot_t)simt::ballot(mask, predicate != 0, "__ballot_sync", here);
}

static inline int __any_sync(simt::mask_t mask, int predicate, simt::Here here = simt::Here())
{
    return simt::ballot(mask, predicate != 0, "__any_sync", here) != 0;
}

static inline int __all_sync(simt::mask_t mask, int predicate, simt::Here here = simt::Here())
{
    return simt::ballot(mask, predicate == 0, "__all_sync", here) == 0;
}

template <class T>
static inline simt_ballot_t __match_any_sync(simt::mask_t mask, T value,
                                             simt::Here here = simt::Here())
{
    static_assert(sizeof(T) <= 8, "");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return (simt_ballot_t)simt::match_any(mask, bits, here);
}

static inline void __syncwarp(simt::mask_t mask = simt::all_lanes, simt::Here here = simt::Here())
{
    simt::warp_barrier(mask, here).go();
}

static inline simt_ballot_t __activemask()
{
    return (simt_ballot_t)simt::active_lanes();
}

static inline unsigned __reduce_add_sync(simt::mask_t mask, unsigned value,
                                         simt::Here here = simt::Here())
{
    return simt::warp_reduce(mask, '+', value, here);
}

static inline unsigned __reduce_min_sync(simt::mask_t mask, unsigned value,
                                         simt::Here here = simt::Here())
{
    return simt::warp_reduce(mask, '<', value, here);
}

static inline unsigned __reduce_max_sync(simt::mask_t mask, unsigned value,
                                         simt::Here here = simt::Here())
{
    return simt::warp_reduce(mask, '>', value, here);
}

static inline int __reduce_add_sync(simt::mask_t mask, int value, simt::Here here = simt::Here())
{
    return (int)simt::warp_reduce(mask, '+', (unsigned)value, here);
}

static inline int __reduce_min_sync(simt::mask_t mask, int value, simt::Here here = simt::Here())
{
    return (int)simt::warp_reduce(mask, 'l', (unsigned)value, here);
}

static inline int __reduce_max_sync(simt::mask_t mask, int value, simt::Here here = simt::Here())
{
    return (int)simt::warp_reduce(mask, 'g', (unsigned)value, here);
}

static inline unsigned __reduce_and_sync(simt::mask_t mask, unsigned value,
                                         simt::Here here = simt::Here())
{
    return simt::warp_reduce(mask, '&', value, here);
}

static inline unsigned __reduce_or_sync(simt::mask_t mask, unsigned value,
                                        simt::Here here = simt::Here())
{
    return simt::warp_reduce(mask, '|', value, here);
}

static inline unsigned __reduce_xor_sync(simt::mask_t mask, unsigned value,
                                         simt::Here here = simt::Here())
{
    return simt::warp_reduce(mask, '^', value, here);
}

// What backend_cuda/kernel.cuh uses: operations of the whole warp, of either width.
#define WARP_XOR(value, mask) __shfl_xor_sync(simt::all_lanes, (value), (mask))
#define WARP_READ(value, lane) __shfl_sync(simt::all_lanes, (value), (lane))
#define WARP_UP(value, delta) __shfl_up_sync(simt::all_lanes, (value), (delta))
#define WARP_DOWN(value, delta) __shfl_down_sync(simt::all_lanes, (value), (delta))
#define WARP_ANY(predicate) __any_sync(simt::all_lanes, (predicate))
#define WARP_BALLOT(predicate) __ballot_sync(simt::all_lanes, (predicate))
#define WARP_SYNC() __syncwarp()

// ---- the block ------------------------------------------------------------------------------------

static inline void __syncthreads(simt::Here here = simt::Here())
{
    simt::barrier_block(here).go();
}

static inline int __syncthreads_count(int predicate, simt::Here here = simt::Here())
{
    return simt::barrier_reduce(predicate, 'c', here);
}

static inline int __syncthreads_and(int predicate, simt::Here here = simt::Here())
{
    return simt::barrier_reduce(predicate, 'a', here);
}

static inline int __syncthreads_or(int predicate, simt::Here here = simt::Here())
{
    return simt::barrier_reduce(predicate, 'o', here);
}

#endif
