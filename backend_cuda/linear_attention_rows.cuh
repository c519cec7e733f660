// Few rows of one head against its state: what decoding and draft trees share.
//
// A block has one head of one sequence; a warp has a strip of 32 value columns of it, for all of d. The state goes
// from global memory straight into the registers of its products: lanes take four columns that lie side by side, so
// that loads have 16 bytes, and columns of results are permuted alike (strip_column).
#ifndef RONDO_BACKEND_CUDA_LINEAR_ATTENTION_ROWS_CUH
#define RONDO_BACKEND_CUDA_LINEAR_ATTENTION_ROWS_CUH

#include "backend_cuda/linear_attention.cuh"

// Blocks of 16 rows of a strip that are on their way while one is used: 2 KiB each.
#define STATES_AHEAD 4

// Rows of shared memory, in values.
template <int D> struct row_strides {
    static constexpr int X = D + ROW_PAD;     // of q, k, v
    static constexpr int W = CHUNK + ROW_PAD; // of weights
};

// Column of a strip that column n of the first of its two tiles stands for; the second tile has the next one.
static __device__ __forceinline__ int strip_column(int n)
{
    return n % 8 * 4 + n / 8 * 2;
}

// What a lane has of 16 rows of a strip: value i of the B operands of both tiles.
struct state_block {
    float x[TILE_AB][2];
};

// `state`: first row, first column of the strip; rows D apart.
template <int D>
static __device__ __forceinline__ void load_state_block(state_block &block, const float *state)
{
#ifdef RONDO_HIP
#pragma unroll
    for (int i = 0; i < TILE_AB; i++) {
        float2 x = *(const float2 *)(state + tile_b_k(i) * D + strip_column(tile_b_column(i)));
        block.x[i][0] = x.x;
        block.x[i][1] = x.y;
    }
#else
    // Values i and i + 4 are of columns n and n + 8, which stand side by side.
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float4 x = *(const float4 *)(state + tile_b_k(i) * D + strip_column(tile_b_column(i)));
        block.x[i][0] = x.x;
        block.x[i][1] = x.y;
        block.x[i + 4][0] = x.z;
        block.x[i + 4][1] = x.w;
    }
#endif
}

template <int D> struct states_ahead {
    state_block block[STATES_AHEAD];

    __device__ __forceinline__ void begin(const float *state)
    {
#pragma unroll
        for (int n = 0; n < STATES_AHEAD; n++)
            load_state_block<D>(block[n], state + n * 16 * D);
    }
};

// sum += q S for the strip and TILES tiles of 16 rows; mask(row) says which rows take part, and
// uses_mask is false where that is all. `ahead` has begun.
template <int D, int TILES, bool uses_mask, class MASK>
static __device__ __forceinline__ void multiply_state(tile_c (&sum)[TILES][2],
                                                      states_ahead<D> &ahead, const float *state,
                                                      const uint16_t *q, MASK mask)
{
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        state_block &block = ahead.block[step % STATES_AHEAD];
        tile_b high[2], low[2];
#pragma unroll
        for (int t = 0; t < 2; t++)
#pragma unroll
            for (int p = 0; p < TILE_AB / 2; p++) {
                uint32_t h, l;
                split_2(block.x[2 * p][t], block.x[2 * p + 1][t], h, l);
                tile_set_b2(high[t], p, h);
                tile_set_b2(low[t], p, l);
            }
        if (step + STATES_AHEAD < D / 16)
            load_state_block<D>(block, state + (step + STATES_AHEAD) * 16 * D);
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            tile_a a;
            tile_load_a(a, q + m * 16 * row_strides<D>::X + step * 16, row_strides<D>::X);
            if (uses_mask)
#pragma unroll
                for (int p = 0; p < TILE_AB / 2; p++)
                    if (!mask(m * 16 + tile_a_row(2 * p)))
                        tile_set_a2(a, p, 0);
#pragma unroll
            for (int t = 0; t < 2; t++) {
                tile_mma(sum[m][t], a, high[t]);
                tile_mma(sum[m][t], a, low[t]);
            }
        }
    }
}

// Scores of 16 rows of q with 16 rows of k, both in shared memory.
template <int D>
static __device__ __forceinline__ void multiply_keys(tile_c &score, const uint16_t *q,
                                                     const uint16_t *k)
{
    tile_clear(score);
#pragma unroll 2
    for (int step = 0; step < D / 16; step++) {
        tile_a a;
        tile_b b;
        tile_load_a(a, q + step * 16, row_strides<D>::X);
        tile_load_b(b, k + step * 16, row_strides<D>::X);
        tile_mma(score, a, b);
    }
}

// The B operands of 16 rows of values, for the strip's two tiles; row(j) is the address of the first column
// of row j, j = 0..15, or NULL for zeros.
template <class ROW> static __device__ __forceinline__ void load_values(tile_b (&b)[2], ROW row)
{
#pragma unroll
    for (int p = 0; p < TILE_AB / 2; p++) {
        int j = tile_b_k(2 * p), column = strip_column(tile_b_column(2 * p));
        const uint16_t *row0 = row(j), *row1 = row(j + 1);
        uint32_t x = row0 ? *(const uint32_t *)(row0 + column) : 0;
        uint32_t y = row1 ? *(const uint32_t *)(row1 + column) : 0;
        tile_set_b2(b[0], p, (x & 0xffffu) | y << 16);
        tile_set_b2(b[1], p, x >> 16 | (y & 0xffff0000u));
    }
}

// The chunk whose k and v stand in shared memory folded into the warp's strip: to = fold(from), `from` NULL for zeros.
// All pointers are those of the strip's first column.
template <int D>
static __device__ __forceinline__ void fold_strip(float *to, const float *from, const uint16_t *k,
                                                  const uint16_t *v, const float *decay_power)
{
    constexpr int X = row_strides<D>::X;
    for (int d = 0; d < D; d += 16) {
        tile_c u[2];
        tile_clear(u[0]);
        tile_clear(u[1]);
#pragma unroll
        for (int j = 0; j < CHUNK; j += 16) {
            tile_a high, low;
            load_decayed_keys(high, low, k + j * X + d, X, decay_power, j);
#pragma unroll
            for (int t = 0; t < 2; t++) {
                tile_b b;
                tile_load_b_transposed(b, v + j * X + t * 16, X);
                tile_mma(u[t], high, b);
                tile_mma(u[t], low, b);
            }
        }
#pragma unroll
        for (int t = 0; t < 2; t++) {
            tile_c state;
            tile_clear(state);
            if (from)
                load_tile(state, from + d * D + t * 16, D);
            fold_tile(state, u[t], decay_power[CHUNK]);
            store_tile(to + d * D + t * 16, D, state, 0, 16);
        }
    }
}

// out = sum * scale for rows [0, rows) of the strip; `out` is row 0, the strip's first column.
template <int TILES>
static __device__ __forceinline__ void
store_output(float *out, int64_t stride, const tile_c (&sum)[TILES][2], int rows, float scale)
{
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int i = 0; i < TILE_C; i++) {
            int row = m * 16 + tile_row(i);
            if (row < rows) {
                float2 x = {sum[m][0].r[i] * scale + 0.0f, sum[m][1].r[i] * scale + 0.0f};
                *(float2 *)(out + row * stride + strip_column(tile_column(i))) = x;
            }
        }
}

#endif
