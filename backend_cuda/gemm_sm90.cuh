// The kernel of gemm_sm90.cu: out = x W^T by tensor copies and warpgroup products, in one of several tile shapes.
//
// A block is three warpgroups. The first brings tiles of x and of weights, 128 bytes of K at a time, into a ring of
// stages; the other two multiply. Each of them has 64 rows of operand A and all columns of operand B:
//   large M:  A = 128 rows of x,       B = 256 or 128 rows of weights
//   small M:  A = 2 x R weight rows,   B = 64 or 32 rows of x        (R = 64, 32, 16, 8: enough blocks for the device)
// The order of a sum is the same in all of them: products of 128 of K in ascending k into registers of their own,
// then one fma with the scales into the sum. So a row of out has the same bits whatever M is.
//
// Blocks walk the tiles of all groups (experts; one group when dense) and parts with a stride of the grid, so the
// copies of the next tile run while the last one is stored.
#ifndef RONDO_BACKEND_CUDA_GEMM_SM90_CUH
#define RONDO_BACKEND_CUDA_GEMM_SM90_CUH

#include "backend_cuda/gemm.h"
#include "backend_cuda/ptx_sm90.cuh"
#include "backend_cuda/router.cuh"

namespace
{

enum {
    SM90_THREADS = 384,
    SM90_GROUPS = 2,         // warpgroups that multiply
    SM90_SLAB = 128,         // bytes of K in a stage
    SM90_PRODUCT = 32,       // bytes of K in one wgmma
    SM90_LAG = 2,            // stages that gathered rows may be under way
    SM90_BAND = 16,          // tiles of x that are walked together, for the L2 cache
    SM90_MAX_EXPERTS = 1024, // tile counts of all are kept in shared memory
    SM90_ROUTE_BARRIER = 1,  // of the warpgroups that multiply
};

struct sm90_part {
    const float *block_scale, *row_scale, *bias; // of group 0, or NULL
    int64_t block_scale_stride, block_scale_step, row_scale_step, bias_step;
    char *out;
    int64_t out_stride; // bytes
    int32_t n, first_tile;
    uint8_t out_is_bf16, vectors; // vectors: 16 bytes of a row of out may be stored at once
};

struct sm90_arguments {
    CUtensorMap x;         // {k, rows}
    CUtensorMap weight[4]; // {k, n, groups}
    sm90_part part[4];
    const char *x_rows; // gathered by this, not through the map
    int64_t x_stride;   // bytes
    const float *x_scale;
    int64_t x_scale_stride;
    const int32_t *offsets, *gather;
    int32_t groups, rows, k_bytes, n_parts, tiles_n, blocks; // blocks: of 128 of K
    int32_t weight_rows;                                     // of a box
    uint8_t residual;
};

// T: uint8_t (e4m3) or uint16_t (bf16). X_IS_A: see above. The B tile is HALVES x COLUMNS rows; each half has sums of
// its own, and weight rows of a half share a block scale.
template <class T_, bool X_IS_A_, int COLUMNS_, int HALVES_, int STAGES_, bool GATHER_>
struct Sm90_shape {
    typedef T_ T;
    static constexpr bool X_IS_A = X_IS_A_, GATHER = GATHER_, SCALED = sizeof(T) == 1;
    static constexpr int COLUMNS = COLUMNS_, HALVES = HALVES_, STAGES = STAGES_;
    static constexpr int SUMS = COLUMNS / 2;                          // of a thread, in a half
    static constexpr int SLABS = RONDO_BLOCK * sizeof(T) / SM90_SLAB; // stages of a block of K
    static constexpr int A_ROWS = 64 * SM90_GROUPS, B_ROWS = COLUMNS * HALVES;
    static constexpr int X_ROWS = X_IS_A ? A_ROWS : B_ROWS;
    static constexpr int A_BYTES = A_ROWS * SM90_SLAB, STAGE = A_BYTES + B_ROWS * SM90_SLAB;
    static constexpr int SCALES = SCALED ? X_ROWS + 4 : 0; // of x, then of weights, of a stage
    static constexpr int PRODUCER_THREADS = GATHER ? 128 : 32;
    // Arrivals that fill a stage: every producer thread, and the one that announces bytes of tensor copies.
    static constexpr int FULL = GATHER || SCALED ? PRODUCER_THREADS + 1 : 1;
    static constexpr int EMPTY = 4 * SM90_GROUPS; // one a warp
    static constexpr size_t SHARED =
        (size_t)STAGES * STAGE + STAGES * SCALES * sizeof(float) + 2 * STAGES * sizeof(uint64_t);
};

// Shared memory of a block.
template <class S> struct Sm90_ring {
    unsigned char *stages;
    float *scales;
    uint64_t *full, *empty;
    // [groups + 1], then sums of warps: with offsets; [1 + GROUPED_PAIRS] to route logits
    int32_t *tiles_before;

    __device__ __forceinline__ explicit Sm90_ring(unsigned char *shared)
        : stages(shared), scales(reinterpret_cast<float *>(shared + S::STAGES * S::STAGE)),
          full(reinterpret_cast<uint64_t *>(scales + S::STAGES * S::SCALES)),
          empty(full + S::STAGES), tiles_before(reinterpret_cast<int32_t *>(empty + S::STAGES))
    {
    }
    __device__ __forceinline__ unsigned char *a(int stage) const
    {
        return stages + stage * S::STAGE;
    }
    __device__ __forceinline__ unsigned char *b(int stage) const
    {
        return a(stage) + S::A_BYTES;
    }
    __device__ __forceinline__ unsigned char *x(int stage) const
    {
        return S::X_IS_A ? a(stage) : b(stage);
    }
    __device__ __forceinline__ unsigned char *weights(int stage) const
    {
        return S::X_IS_A ? b(stage) : a(stage);
    }
    __device__ __forceinline__ float *x_scales(int stage) const
    {
        return scales + stage * S::SCALES;
    }
    __device__ __forceinline__ float *weight_scales(int stage) const
    {
        return x_scales(stage) + S::X_ROWS;
    }
};

// A place in the ring: producers and consumers each count through the same stages.
template <class S> struct Sm90_place {
    int stage = 0, parity = 0;

    __device__ __forceinline__ void next()
    {
        if (++stage == S::STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// ---- which tile ------------------------------------------------------------------------------------------------

struct Sm90_tile {
    int group, part;
    int first_row, end_row; // of x (of out): first of the tile, end of the group
    int first_n;            // weight row
};

// Walks the tiles of a block in order of number.
template <class S> class Sm90_walk
{
  public:
    __device__ __forceinline__ Sm90_walk(const sm90_arguments &arguments_,
                                         const int32_t *tiles_before_)
        : arguments(arguments_), tiles_before(tiles_before_), number((int)blockIdx.x), group(0)
    {
    }

    // False when there are no more.
    __device__ __forceinline__ bool next(Sm90_tile &tile)
    {
        const int tiles_n = arguments.tiles_n;
        int before = 0, tiles_x, start = 0, end = arguments.rows;
        if (arguments.offsets) {
            if (number >= tiles_before[arguments.groups] * tiles_n)
                return false;
            find_group();
            before = tiles_before[group];
            tiles_x = tiles_before[group + 1] - before;
            start = arguments.offsets[group];
            end = arguments.offsets[group + 1];
        } else {
            tiles_x = (arguments.rows + S::X_ROWS - 1) / S::X_ROWS;
            if (number >= tiles_x * tiles_n)
                return false;
        }
        int i = number - before * tiles_n, band = i / (SM90_BAND * tiles_n) * SM90_BAND;
        int in_band = i - band * tiles_n;
        int height = tiles_x - band < SM90_BAND ? tiles_x - band : SM90_BAND;
        tile.group = group;
        tile.first_row = start + (band + in_band % height) * S::X_ROWS;
        tile.end_row = end;
        int tile_n = in_band / height;
        tile.part = 0;
        while (tile.part + 1 < arguments.n_parts &&
               tile_n >= arguments.part[tile.part + 1].first_tile)
            tile.part++;
        int weight_rows = S::X_IS_A ? S::B_ROWS : SM90_GROUPS * arguments.weight_rows;
        tile.first_n = (tile_n - arguments.part[tile.part].first_tile) * weight_rows;
        number += (int)gridDim.x;
        return true;
    }

  private:
    const sm90_arguments &arguments;
    const int32_t *tiles_before;
    int number, group;

    // The group of tile `number`, which is not before `group`. With few rows most groups are empty: by halves, for a
    // look at one after the other takes 40 clocks each.
    __device__ __forceinline__ void find_group()
    {
        const int tile = number / arguments.tiles_n;
        if (tile < tiles_before[group + 1])
            return;
        int end = arguments.groups;
        while (end - group > 1) {
            const int middle = (group + end) / 2;
            if (tiles_before[middle] <= tile)
                group = middle;
            else
                end = middle;
        }
    }
};

// Sum of the values of this lane and those below.
static __device__ __forceinline__ int sm90_sum_lanes(int sum)
{
    for (int delta = 1; delta < 32; delta *= 2) {
        int other = WARP_UP(sum, delta);
        sum += (int)threadIdx.x % 32 >= delta ? other : 0;
    }
    return sum;
}

// tiles_before[g] = tiles of x that the groups before g have. Every warp sums up 32 groups of a round; what the warps
// before it have it sums itself. sums: [SM90_THREADS / 32].
template <class S>
static __device__ __forceinline__ void sm90_count_tiles(const sm90_arguments &arguments,
                                                        int32_t *tiles_before, int32_t *sums)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int carry = 0;
    if (threadIdx.x == 0)
        tiles_before[0] = 0;
    for (int first = 0; first < arguments.groups; first += SM90_THREADS) {
        const int g = first + (int)threadIdx.x;
        int tiles = 0;
        if (g < arguments.groups)
            tiles = (arguments.offsets[g + 1] - arguments.offsets[g] + S::X_ROWS - 1) / S::X_ROWS;
        const int sum = sm90_sum_lanes(tiles);
        if (lane == 31)
            sums[warp] = sum;
        __syncthreads();
        const int warps = sm90_sum_lanes(lane < SM90_THREADS / 32 ? sums[lane] : 0);
        const int before = warp ? WARP_READ(warps, warp - 1) : 0;
        if (g < arguments.groups)
            tiles_before[g + 1] = carry + before + sum;
        carry += WARP_READ(warps, 31);
        __syncthreads();
    }
}

// ---- bringing tiles --------------------------------------------------------------------------------------------

// Weights of a stage, and the announcement of all that tensor copies bring to it: one thread. EARLY: before
// wait_for_previous.
template <class S, bool EARLY>
static __device__ __forceinline__ void sm90_copy_weights(const sm90_arguments &arguments,
                                                         const Sm90_ring<S> &ring,
                                                         const Sm90_tile &tile, int stage, int slab)
{
    constexpr int BOXES = S::X_IS_A ? 1 : SM90_GROUPS;
    const int k = slab * (SM90_SLAB / (int)sizeof(typename S::T)), rows = arguments.weight_rows;
    uint64_t *full = &ring.full[stage];
    mbarrier_arrive_expect(full, (BOXES * rows + (S::GATHER ? 0 : S::X_ROWS)) * SM90_SLAB);
    for (int i = 0; i < BOXES; i++) {
        unsigned char *to = ring.weights(stage) + i * 64 * SM90_SLAB;
        const CUtensorMap *map = &arguments.weight[tile.part];
        if (EARLY)
            tma_load_3d_early(to, map, full, k, tile.first_n + i * rows, tile.group);
        else
            tma_load_3d(to, map, full, k, tile.first_n + i * rows, tile.group);
    }
}

// x of a stage, where it is not gathered: one thread.
template <class S>
static __device__ __forceinline__ void sm90_copy_x(const sm90_arguments &arguments,
                                                   const Sm90_ring<S> &ring, const Sm90_tile &tile,
                                                   int stage, int slab)
{
    const int k = slab * (SM90_SLAB / (int)sizeof(typename S::T));
    if (!S::GATHER)
        tma_load_2d(ring.x(stage), &arguments.x, &ring.full[stage], k, tile.first_row);
}

// Slabs of the first tile whose weights sm90_begin_weights brings; with groups the tile follows from what the launch
// before makes.
template <class S>
static __device__ __forceinline__ int sm90_early_slabs(const sm90_arguments &arguments)
{
    const int slabs = arguments.blocks * S::SLABS;
    return arguments.offsets ? 0 : slabs < S::STAGES ? slabs : S::STAGES;
}

// Weights depend on no launch: as many as there are stages are under way while the one before ends. By the thread that
// has set up the barriers.
template <class S>
static __device__ __forceinline__ void sm90_begin_weights(const sm90_arguments &arguments,
                                                          const Sm90_ring<S> &ring)
{
    Sm90_walk<S> walk(arguments, ring.tiles_before);
    Sm90_tile tile;
    const int slabs = sm90_early_slabs<S>(arguments);
    if (slabs && walk.next(tile))
        for (int slab = 0; slab < slabs; slab++)
            sm90_copy_weights<S, true>(arguments, ring, tile, slab, slab);
}

// Scales of a block of K: the threads of the producer share them.
template <class S>
static __device__ __forceinline__ void
sm90_copy_scales(const sm90_arguments &arguments, const Sm90_ring<S> &ring, const Sm90_tile &tile,
                 int stage, int block, int thread)
{
    const sm90_part &part = arguments.part[tile.part];
    float *to = ring.x_scales(stage);
    for (int i = thread; i < S::X_ROWS; i += S::PRODUCER_THREADS) {
        int row = tile.first_row + i;
        bool valid = row < tile.end_row;
        int64_t from = S::GATHER && valid ? arguments.gather[row] : row;
        copy_async_4(to + i,
                     arguments.x_scale + (valid ? from * arguments.x_scale_stride + block : 0),
                     valid);
    }
    constexpr int SCALES = S::X_IS_A ? S::HALVES : 1;
    if (part.block_scale && thread < SCALES) {
        int n = tile.first_n + thread * S::COLUMNS;
        bool valid = n < part.n;
        const float *scales = part.block_scale + tile.group * part.block_scale_step;
        copy_async_4(ring.weight_scales(stage) + thread,
                     scales + (valid ? n / RONDO_BLOCK * part.block_scale_stride + block : 0),
                     valid);
    }
}

// Rows of x that stand anywhere: eight threads copy the 128 bytes of a row, swizzled as the copy engine would.
template <class S> struct Sm90_gather {
    static constexpr int ROWS = S::X_ROWS * 8 / S::PRODUCER_THREADS; // of a thread
    int32_t row[ROWS];                                               // of x; -1: none

    __device__ __forceinline__ void begin(const sm90_arguments &arguments, const Sm90_tile &tile,
                                          int thread)
    {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            int r = tile.first_row + thread / 8 + i * (S::PRODUCER_THREADS / 8);
            row[i] = r < tile.end_row ? arguments.gather[r] : -1;
        }
    }
    __device__ __forceinline__ void copy(const sm90_arguments &arguments, unsigned char *to,
                                         int slab, int thread) const
    {
        const int unit = thread % 8, at = slab * SM90_SLAB + unit * 16;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            int r = thread / 8 + i * (S::PRODUCER_THREADS / 8);
            bool valid = row[i] >= 0 && at < arguments.k_bytes;
            copy_async_16(to + r * SM90_SLAB + (unit ^ (r & 7)) * 16,
                          arguments.x_rows + (valid ? row[i] * arguments.x_stride + at : 0), valid);
        }
    }
};

// The rows of a stage are complete: shown to the tensor cores, then counted.
template <class S>
static __device__ __forceinline__ void sm90_publish(const Sm90_ring<S> &ring, Sm90_place<S> &place)
{
    fence_async_proxy();
    mbarrier_arrive(&ring.full[place.stage]);
    place.next();
}

template <class S>
static __device__ void sm90_produce(const sm90_arguments &arguments, const Sm90_ring<S> &ring)
{
    const int thread = (int)threadIdx.x;
    if (thread >= S::PRODUCER_THREADS)
        return;
    const bool issues = thread < 32 && elect_one();
    const int slabs = arguments.blocks * S::SLABS;
    Sm90_walk<S> walk(arguments, ring.tiles_before);
    Sm90_tile tile;
    Sm90_place<S> place, published;
    int lag = 0, early = sm90_early_slabs<S>(arguments);
    while (walk.next(tile)) {
        Sm90_gather<S> gather;
        if (S::GATHER)
            gather.begin(arguments, tile, thread);
        for (int slab = 0; slab < slabs; slab++) {
            mbarrier_wait(&ring.empty[place.stage], place.parity ^ 1);
            if (issues && !early)
                sm90_copy_weights<S, false>(arguments, ring, tile, place.stage, slab);
            if (issues)
                sm90_copy_x<S>(arguments, ring, tile, place.stage, slab);
            early -= early > 0;
            if (S::SCALED)
                sm90_copy_scales<S>(arguments, ring, tile, place.stage, slab, thread);
            if (S::GATHER) {
                gather.copy(arguments, ring.x(place.stage), slab, thread);
                copy_async_commit();
                if (lag == SM90_LAG) {
                    copy_async_wait<SM90_LAG>();
                    sm90_publish<S>(ring, published);
                } else {
                    lag++;
                }
            } else if (S::SCALED) {
                copy_async_arrive(&ring.full[place.stage]);
            }
            place.next();
        }
    }
    if (S::GATHER) {
        copy_async_wait<0>();
        for (; lag; lag--)
            sm90_publish<S>(ring, published);
    }
}

// ---- products --------------------------------------------------------------------------------------------------

template <int SUMS>
static __device__ __forceinline__ void sm90_multiply(const uint8_t *, float (&d)[SUMS], uint64_t a,
                                                     uint64_t b, bool accumulate)
{
    wgmma_e4m3(d, a, b, accumulate);
}

template <int SUMS>
static __device__ __forceinline__ void sm90_multiply(const uint16_t *, float (&d)[SUMS], uint64_t a,
                                                     uint64_t b, bool accumulate)
{
    wgmma_bf16(d, a, b, accumulate);
}

// What a warpgroup that multiplies knows of its tile.
struct Sm90_lane {
    int group; // which of the warpgroups that multiply
    int row;   // of A, in the tile: the lane's first; the other one is 8 below
    int t;     // lane % 4: columns 8 j + 2 t and the next of B
    int warp_lane;
};

template <class S> class Sm90_product
{
  public:
    float sum[S::HALVES][S::SUMS];

    __device__ __forceinline__ Sm90_product(const Sm90_ring<S> &ring_, const Sm90_lane &lane_)
        : ring(ring_), lane(lane_)
    {
    }

    // The whole sum of a tile. `place` is that of its first stage, and is moved past its last.
    __device__ __forceinline__ void run(Sm90_place<S> &place, int blocks, bool block_scales,
                                        bool second_half)
    {
        scaled = block_scales;
#pragma unroll
        for (int half = 0; half < S::HALVES; half++) {
#pragma unroll
            for (int i = 0; i < S::SUMS; i++)
                sum[half][i] = 0;
        }
        if (S::HALVES == 1)
            overlapped(place, blocks);
        else
            in_turn(place, blocks, second_half);
    }

    // No row or no weight of the tile is this warpgroup's: only lets the stages go.
    __device__ __forceinline__ void skip(Sm90_place<S> &place, int blocks)
    {
        for (int slab = 0; slab < blocks * S::SLABS; slab++) {
            mbarrier_wait(&ring.full[place.stage], place.parity);
            release(place);
        }
    }

  private:
    const Sm90_ring<S> &ring;
    const Sm90_lane lane;
    bool scaled;

    __device__ __forceinline__ void release(Sm90_place<S> &place)
    {
        WARP_SYNC();
        if (lane.warp_lane == 0)
            mbarrier_arrive(&ring.empty[place.stage]);
        place.next();
    }

    // Starts the products of a block of K, the stages from `place` on.
    __device__ __forceinline__ void start(Sm90_place<S> &place, int half, float (&d)[S::SUMS])
    {
        if (half == 0) {
            Sm90_place<S> ahead = place;
#pragma unroll
            for (int slab = 0; slab < S::SLABS; slab++) {
                mbarrier_wait(&ring.full[ahead.stage], ahead.parity);
                ahead.next();
            }
        }
        wgmma_fence();
#pragma unroll
        for (int slab = 0; slab < S::SLABS; slab++) {
            uint64_t a = wgmma_matrix(ring.a(place.stage) + lane.group * 64 * SM90_SLAB);
            uint64_t b = wgmma_matrix(ring.b(place.stage) + half * S::COLUMNS * SM90_SLAB);
#pragma unroll
            for (int k = 0; k < SM90_SLAB / SM90_PRODUCT; k++)
                sm90_multiply((const typename S::T *)nullptr, d, a + k * (SM90_PRODUCT / 16),
                              b + k * (SM90_PRODUCT / 16), slab + k > 0);
            place.next();
        }
        wgmma_commit();
    }

    // sum = fma(products of the block of K, scales, sum).
    __device__ __forceinline__ void promote(int stage, int half, const float (&d)[S::SUMS])
    {
        if (!S::SCALED) {
#pragma unroll
            for (int i = 0; i < S::SUMS; i++)
                sum[half][i] += d[i];
            return;
        }
        const float *x_scales = ring.x_scales(stage);
        const float weight_scale = scaled ? ring.weight_scales(stage)[half] : 1.0f;
        if (S::X_IS_A) {
            const float upper = x_scales[lane.row] * weight_scale,
                        lower = x_scales[lane.row + 8] * weight_scale;
#pragma unroll
            for (int i = 0; i < S::SUMS; i++)
                sum[half][i] = fmaf(d[i], i & 2 ? lower : upper, sum[half][i]);
        } else {
#pragma unroll
            for (int i = 0; i < S::SUMS; i += 4) {
                const float *columns = x_scales + 2 * i + 2 * lane.t;
                const float left = columns[0] * weight_scale, right = columns[1] * weight_scale;
                sum[half][i] = fmaf(d[i], left, sum[half][i]);
                sum[half][i + 1] = fmaf(d[i + 1], right, sum[half][i + 1]);
                sum[half][i + 2] = fmaf(d[i + 2], left, sum[half][i + 2]);
                sum[half][i + 3] = fmaf(d[i + 3], right, sum[half][i + 3]);
            }
        }
    }

    // The scales of a block of K are in its last slab's stage (e4m3 has one slab).
    __device__ __forceinline__ void finish(Sm90_place<S> &place, const float (&d)[S::SUMS])
    {
        promote(place.stage, 0, d);
#pragma unroll
        for (int slab = 0; slab < S::SLABS; slab++)
            release(place);
    }

    // One half: the next block's products run while the last one's are added.
    __device__ __forceinline__ void overlapped(Sm90_place<S> &place, int blocks)
    {
        float even[S::SUMS], odd[S::SUMS];
        Sm90_place<S> done = place;
        start(place, 0, even);
        for (int block = 1;; block += 2) {
            if (block == blocks) {
                wgmma_wait<0>();
                wgmma_settle(even);
                finish(done, even);
                break;
            }
            start(place, 0, odd);
            wgmma_wait<1>();
            wgmma_settle(even);
            finish(done, even);
            if (block + 1 == blocks) {
                wgmma_wait<0>();
                wgmma_settle(odd);
                finish(done, odd);
                break;
            }
            start(place, 0, even);
            wgmma_wait<1>();
            wgmma_settle(odd);
            finish(done, odd);
        }
    }

    // Two halves, whose sums leave no registers for two sets of products: the other warpgroup's run meanwhile.
    __device__ __forceinline__ void in_turn(Sm90_place<S> &place, int blocks, bool second_half)
    {
        for (int block = 0; block < blocks; block++) {
            Sm90_place<S> first = place;
#pragma unroll
            for (int half = 0; half < S::HALVES; half++) {
                if (half && !second_half)
                    continue;
                float d[S::SUMS];
                place = first;
                start(place, half, d);
                wgmma_wait<0>();
                wgmma_settle(d);
                promote(first.stage, half, d);
            }
#pragma unroll
            for (int slab = 0; slab < S::SLABS; slab++)
                release(first);
        }
    }
};

// ---- storing ---------------------------------------------------------------------------------------------------

// Trades registers between the four lanes of a quad: p[i] of lane t becomes p[t] of lane i.
static __device__ __forceinline__ void sm90_transpose_quad(uint32_t (&p)[4], int t)
{
#pragma unroll
    for (int mask = 1; mask <= 2; mask *= 2) {
        const bool high = t & mask;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & mask)
                continue;
            uint32_t other = WARP_XOR(high ? p[i] : p[i + mask], mask);
            (high ? p[i] : p[i + mask]) = other;
        }
    }
}

// A value of out: y in, what is stored out.
static __device__ __forceinline__ float sm90_value(const float *out, float y, bool residual)
{
    return residual ? *out + y : y;
}

static __device__ __forceinline__ void sm90_store(const sm90_part &part, int64_t row, int n,
                                                  float y, bool residual)
{
    char *at = part.out + row * part.out_stride;
    if (part.out_is_bf16) {
        reinterpret_cast<uint16_t *>(at)[n] = f32_bf16(y);
    } else {
        float *out = reinterpret_cast<float *>(at) + n;
        *out = sm90_value(out, y, residual);
    }
}

// Sums of a row and COLUMNS weights from n on: values 4 j, 4 j + 1 of y are weights 8 j + 2 t and the next. All
// lanes of a warp come here; `valid`: the row is there.
template <int COLUMNS>
static __device__ __forceinline__ void sm90_store_row(const sm90_part &part, bool valid,
                                                      int64_t row, int n, const float *y, int t,
                                                      bool residual)
{
    if (part.vectors && part.out_is_bf16) {
#pragma unroll
        for (int i = 0; i < COLUMNS / 2; i += 16) {
            uint32_t p[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                p[j] = pack_bf16(y[i + 4 * j], y[i + 4 * j + 1]);
            sm90_transpose_quad(p, t);
            const int column = n + 2 * i + 8 * t;
            if (valid && column < part.n)
                *reinterpret_cast<uint4 *>(part.out + row * part.out_stride + column * 2) =
                    make_uint4(p[0], p[1], p[2], p[3]);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i += 4) {
        const int column = n + 2 * i + 2 * t;
        if (!valid || column >= part.n)
            continue;
        if (part.vectors) {
            float2 *out = reinterpret_cast<float2 *>(part.out + row * part.out_stride + column * 4);
            float2 old = residual ? *out : make_float2(0, 0);
            *out = residual ? make_float2(old.x + y[i], old.y + y[i + 1])
                            : make_float2(y[i], y[i + 1]);
        } else {
            sm90_store(part, row, column, y[i], residual);
            if (column + 1 < part.n)
                sm90_store(part, row, column + 1, y[i + 1], residual);
        }
    }
}

// Row scale and bias of weight n.
static __device__ __forceinline__ float sm90_finish(const sm90_part &part, int group, int n,
                                                    float y)
{
    if (part.row_scale)
        y *= part.row_scale[group * part.row_scale_step + n];
    if (part.bias)
        y += part.bias[group * part.bias_step + n];
    return y;
}

// Columns of the product are weights.
template <class S>
static __device__ __forceinline__ void sm90_store_rows(const sm90_arguments &arguments,
                                                       const Sm90_tile &tile, const Sm90_lane &lane,
                                                       float (&sum)[S::HALVES][S::SUMS])
{
    const sm90_part &part = arguments.part[tile.part];
    const int row = tile.first_row + lane.row;
#pragma unroll
    for (int half = 0; half < S::HALVES; half++) {
        const int n = tile.first_n + half * S::COLUMNS;
        if (n >= part.n)
            continue;
        if (part.row_scale || part.bias) {
#pragma unroll
            for (int i = 0; i < S::SUMS; i++) {
                int column = n + i / 4 * 8 + 2 * lane.t + (i & 1);
                if (column < part.n)
                    sum[half][i] = sm90_finish(part, tile.group, column, sum[half][i]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i += 2)
            sm90_store_row<S::COLUMNS>(part, row + 4 * i < tile.end_row, row + 4 * i, n,
                                       &sum[half][i], lane.t, arguments.residual);
    }
}

// Rows of the product are weights.
template <class S>
static __device__ __forceinline__ void
sm90_store_columns(const sm90_arguments &arguments, const Sm90_tile &tile, const Sm90_lane &lane,
                   float (&sum)[S::HALVES][S::SUMS])
{
    const sm90_part &part = arguments.part[tile.part];
    const int in_group = lane.row - lane.group * 64;
#pragma unroll
    for (int below = 0; below < 2; below++) {
        const int n = tile.first_n + lane.group * arguments.weight_rows + in_group + 8 * below;
        if (in_group + 8 * below >= arguments.weight_rows || n >= part.n)
            continue;
#pragma unroll
        for (int i = 2 * below; i < S::SUMS; i += 4) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int row = tile.first_row + 2 * (i & ~3) + 2 * lane.t + j;
                if (row < tile.end_row)
                    sm90_store(part, row, n, sm90_finish(part, tile.group, n, sum[0][i + j]),
                               arguments.residual);
            }
        }
    }
}

// The end of a tile of logits, by both warpgroups; tiles_before is not used by dense products, and passes on who is
// last, and the ids.
template <class S>
static __device__ void sm90_route(const gemm_router &route, const Sm90_ring<S> &ring,
                                  const Sm90_tile &tile)
{
    const int thread = (int)threadIdx.x - 128, rows = tile.end_row - tile.first_row;
    gemm_router_stored();
    named_barrier_sync(SM90_ROUTE_BARRIER, 128 * SM90_GROUPS);
    if (thread == 0)
        ring.tiles_before[0] = gemm_router_last(route, tile.first_row / S::X_ROWS);
    named_barrier_sync(SM90_ROUTE_BARRIER, 128 * SM90_GROUPS);
    if (!ring.tiles_before[0])
        return;
    gemm_router_stored();
    gemm_router_rows(route, tile.first_row, rows < S::X_ROWS ? rows : S::X_ROWS, thread / 32,
                     4 * SM90_GROUPS, ring.tiles_before + 1);
    if (!route.group.offsets)
        return;
    named_barrier_sync(SM90_ROUTE_BARRIER, 128 * SM90_GROUPS);
    gemm_router_group(route, ring.tiles_before + 1, thread, 128 * SM90_GROUPS);
}

template <class S>
static __device__ void sm90_route(const gemm_no_router &, const Sm90_ring<S> &, const Sm90_tile &)
{
}

template <class S, class Route>
static __device__ void sm90_consume(const sm90_arguments &arguments, const Sm90_ring<S> &ring,
                                    const Route &route)
{
    const int thread = (int)threadIdx.x - 128, in_group = thread % 128;
    const Sm90_lane lane = {thread / 128,
                            thread / 128 * 64 + in_group / 32 * 16 + in_group % 32 / 4, thread % 4,
                            thread % 32};
    Sm90_walk<S> walk(arguments, ring.tiles_before);
    Sm90_tile tile;
    Sm90_place<S> place;
    while (walk.next(tile)) {
        const sm90_part &part = arguments.part[tile.part];
        const bool idle = S::X_IS_A ? tile.first_row + lane.group * 64 >= tile.end_row
                                    : tile.first_n + lane.group * arguments.weight_rows >= part.n;
        Sm90_product<S> product(ring, lane);
        if (idle)
            product.skip(place, arguments.blocks);
        else
            product.run(place, arguments.blocks, part.block_scale,
                        tile.first_n + S::COLUMNS < part.n);
        if (!idle && S::X_IS_A)
            sm90_store_rows<S>(arguments, tile, lane, product.sum);
        else if (!idle)
            sm90_store_columns<S>(arguments, tile, lane, product.sum);
        if (Route::routes && tile.part == 0)
            sm90_route(route, ring, tile);
    }
}

// ---- the kernel ------------------------------------------------------------------------------------------------

// Weight rows that no copy brings (R < 64) take part in products whose results are dropped; they are zero.
template <class S>
static __device__ __forceinline__ void sm90_clear_unused(const sm90_arguments &arguments,
                                                         const Sm90_ring<S> &ring)
{
    const int unused = (64 - arguments.weight_rows) * (SM90_SLAB / 16);
    for (int i = (int)threadIdx.x; i < unused * SM90_GROUPS * S::STAGES; i += SM90_THREADS) {
        int unit = i % unused, group = i / unused % SM90_GROUPS, stage = i / unused / SM90_GROUPS;
        unsigned char *rows =
            ring.weights(stage) + (group * 64 + arguments.weight_rows) * SM90_SLAB;
        reinterpret_cast<uint4 *>(rows)[unit] = make_uint4(0, 0, 0, 0);
    }
    fence_async_proxy();
}

template <class S, class Route>
static __global__ void __launch_bounds__(SM90_THREADS, 1)
    gemm_sm90_kernel(const __grid_constant__ sm90_arguments arguments,
                     const __grid_constant__ Route route)
{
    DYN_SHARED(unsigned char, shared);
    Sm90_ring<S> ring(shared);
    if (threadIdx.x == 0) {
        if (!S::GATHER)
            tma_prefetch_map(&arguments.x);
        for (int p = 0; p < arguments.n_parts; p++)
            tma_prefetch_map(&arguments.weight[p]);
        for (int i = 0; i < S::STAGES; i++) {
            mbarrier_init(&ring.full[i], S::FULL);
            mbarrier_init(&ring.empty[i], S::EMPTY);
        }
        mbarrier_init_fence();
        fence_async_proxy(); // this thread's copies meet no barrier of the block first
        sm90_begin_weights<S>(arguments, ring);
    }
    if (!S::X_IS_A)
        sm90_clear_unused(arguments, ring);
    wait_for_previous();
    if (arguments.offsets)
        sm90_count_tiles<S>(arguments, ring.tiles_before, ring.tiles_before + arguments.groups + 1);
    else
        __syncthreads();
    if (threadIdx.x < 128) {
        registers_fewer<72>();
        sm90_produce(arguments, ring);
    } else {
        registers_more<216>();
        sm90_consume(arguments, ring, route);
    }
}

} // namespace

#endif
