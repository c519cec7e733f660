// What the tensor core kernels of softmax_attention share. Whatever decides a row's bits is here, so that prefill,
// decode, trees and any split of a prompt give the same.
//
// Order for a row and a 64-block, with s = scale * log2(e):
//   x_j: tile products over 16 channels each, in ascending order, from 0; times s. Not seen: -inf.
//   m' = max(m, max_j x_j); p_j = exp2(x_j - m'); f = exp2(m - m'); m starts as -inf.
//   l = fma(l, f, sum_j p_j), the sum as in core/ops.h.
//   o = o * f, then tile products over 16 positions each, in ascending order, of p rounded to bf16.
// A row that sees nothing of a block keeps its bits: f is 1, every p is 0. Values of positions that it does not
// see are multiplied by 0: where they are not finite, the row is not either; positions that no row of the tile
// sees are read as 0. Results get + 0, so that a zero has no sign that depended on such blocks.
#ifndef RONDO_BACKEND_CUDA_SOFTMAX_ATTENTION_TILE_CUH
#define RONDO_BACKEND_CUDA_SOFTMAX_ATTENTION_TILE_CUH

#include "backend_cuda/softmax_attention.cuh"
#include "backend_cuda/tile.cuh"

#define ATTENTION_TILES (RONDO_CHUNK / 16) // of the positions of a block

// Rows in shared memory stand head_dim + 8 values apart: free of bank conflicts.
#define ATTENTION_STRIDE(HD) ((HD) + 8)
#define ATTENTION_BLOCK(HD) (RONDO_CHUNK * ATTENTION_STRIDE(HD))

struct attention_fast {
    static __device__ __forceinline__ float exp(float x)
    {
        return exp2_approx(x);
    }
    // A zero has no sign that could depend on blocks which a row does not see.
    static __device__ __forceinline__ float finish(float out)
    {
        return out + 0.0f;
    }
};

// Starts copying the rows of `tile` of q to shared memory; rows that do not exist are zeros.
template <int HD>
static __device__ __forceinline__ void
attention_load_queries(uint16_t *shared, const attention_args &a, const attention_tile &tile,
                       int32_t head, int32_t capacity)
{
    const int32_t units = HD / 8;
    for (int32_t i = (int32_t)threadIdx.x; i < capacity * units; i += (int32_t)blockDim.x) {
        int32_t r = i / units, column = i % units * 8;
        bool exists = r < tile.rows;
        int32_t row = tile.row + (exists ? r : 0);
        int64_t at = (tile.sequence.first_token + row / a.group) * a.q_stride +
                     (int64_t)(head * a.group + row % a.group) * HD + column;
        copy_async_16(shared + r * ATTENTION_STRIDE(HD) + column, (const uint16_t *)a.q + at,
                      exists);
    }
}

// Starts copying the 64 rows of keys, or of values, of a step. page: of the block. Rows that no query row of the
// tile sees become zeros.
template <int HD>
static __device__ __forceinline__ void
attention_load_block(uint16_t *shared, const attention_args &a, const attention_tile &tile,
                     const attention_step &step, int32_t page, int32_t head, bool is_value)
{
    const int32_t units = HD / 8;
    const uint16_t *fresh = (const uint16_t *)(is_value ? a.v : a.k) + (int64_t)head * HD;
    const int64_t stride = is_value ? a.v_stride : a.k_stride;
    const uint16_t *old = (const uint16_t *)(is_value ? a.cache_v : a.cache_k) +
                          attention_page_row(a, page < 0 ? 0 : page, head, 0);
    const int32_t first = step.block * RONDO_CHUNK;
#pragma unroll 1
    for (int32_t i = (int32_t)threadIdx.x; i < RONDO_CHUNK * units; i += (int32_t)blockDim.x) {
        int32_t row = i / units, column = i % units * 8;
        const uint16_t *from = old + row * HD + column;
        bool exists = true;
        if (first + row >= tile.sequence.start) {
            int32_t token = attention_token(a, tile, step, first + row);
            exists = token >= 0;
            from = fresh + (exists ? token : tile.sequence.first_token) * stride + column;
        }
        copy_async_16(shared + row * ATTENTION_STRIDE(HD) + column, from, exists);
    }
}

// Waits for all groups of copies but the `n` youngest, at most 2.
static __device__ __forceinline__ void attention_wait_but(int32_t n)
{
    if (n == 0)
        copy_async_wait<0>();
    else if (n == 1)
        copy_async_wait<1>();
    else
        copy_async_wait<2>();
}

// The ring of 64-blocks in shared memory: `stages` rounds of P steps, each with keys and values.
template <int HD, int P> struct attention_ring {
    static constexpr int32_t fewest = 1; // stages
    uint16_t *memory;
    int32_t stages;

    __host__ __device__ static constexpr size_t bytes(int32_t stages)
    {
        return (size_t)stages * P * 2 * ATTENTION_BLOCK(HD) * sizeof(uint16_t);
    }

    __device__ __forceinline__ uint16_t *keys(int32_t step) const
    {
        return memory + step % (stages * P) * 2 * ATTENTION_BLOCK(HD);
    }
    __device__ __forceinline__ uint16_t *values(int32_t step) const
    {
        return keys(step) + ATTENTION_BLOCK(HD);
    }

    // Starts copying the steps of a round that exist, as a group of copies.
    __device__ __forceinline__ void load(const attention_args &a, const attention_tile &tile,
                                         const attention_steps &steps, int32_t round,
                                         int32_t head) const
    {
        for (int32_t i = round * P; i < round * P + P && i < steps.n; i++) {
            attention_step step = attention_step_at(tile, steps, i);
            int32_t page = attention_page(a, tile, step.block);
            attention_load_block<HD>(keys(i), a, tile, step, page, head, false);
            attention_load_block<HD>(values(i), a, tile, step, page, head, true);
        }
        copy_async_commit();
    }

    // Before round 0. What was copied before belongs to its group.
    __device__ __forceinline__ void begin(const attention_args &a, const attention_tile &tile,
                                          const attention_steps &steps, int32_t head) const
    {
        for (int32_t round = 0; round + 1 < stages; round++)
            load(a, tile, steps, round, head);
    }

    // Before a round is computed: it has come, and all threads have done the one before it, whose place is filled
    // anew. All threads of the block.
    __device__ __forceinline__ void next(const attention_args &a, const attention_tile &tile,
                                         const attention_steps &steps, int32_t round,
                                         int32_t head) const
    {
        if (stages == 1) {
            __syncthreads();
            load(a, tile, steps, round, head);
            copy_async_wait<0>();
        } else {
            attention_wait_but(stages - 2);
        }
        __syncthreads();
        if (stages > 1)
            load(a, tile, steps, round + stages - 1, head);
    }
};

// Dot products of a block become p_j; m and l move on. limit: of the lane's rows, see attention_limit; f: what the
// results so far are to be multiplied by.
static __device__ __forceinline__ void
attention_softmax(tile_c (&x)[ATTENTION_TILES], const int32_t (&limit)[TILE_ROWS], float scale,
                  float (&m)[TILE_ROWS], float (&l)[TILE_ROWS], float (&f)[TILE_ROWS])
{
    float largest[TILE_ROWS], sum[TILE_ROWS], base[TILE_ROWS];
    tile_c all;
#pragma unroll
    for (int n = 0; n < ATTENTION_TILES; n++)
#pragma unroll
        for (int i = 0; i < TILE_C; i++) {
            if (n * 16 + tile_column(i) > limit[tile_slot(i)])
                x[n].r[i] = -INFINITY;
            all.r[i] = n == 0 ? x[n].r[i] : fmaxf(all.r[i], x[n].r[i]);
        }
    tile_row_max(largest, all);
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++) {
        float next = fmaxf(m[slot], largest[slot] * scale);
        base[slot] = next == -INFINITY ? 0.0f : next;
        f[slot] = attention_fast::exp(m[slot] - base[slot]);
        m[slot] = next;
    }
#pragma unroll
    for (int n = 0; n < ATTENTION_TILES; n++)
#pragma unroll
        for (int i = 0; i < TILE_C; i++) {
            x[n].r[i] = attention_fast::exp(x[n].r[i] * scale - base[tile_slot(i)]);
            all.r[i] = n == 0 ? x[n].r[i] : all.r[i] + x[n].r[i];
        }
    tile_row_sum(sum, all);
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++)
        l[slot] = fmaf(l[slot], f[slot], sum[slot]);
}

// o = o * f for 16 channels.
static __device__ __forceinline__ void attention_scale(tile_c &o, const float (&f)[TILE_ROWS])
{
#pragma unroll
    for (int i = 0; i < TILE_C; i++)
        o.r[i] *= f[tile_slot(i)];
}

#endif
