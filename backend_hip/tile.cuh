// The tiles of backend_cuda/tile.cuh on AMD devices: the same functions over the layouts of matrix.cuh.
#ifndef RONDO_BACKEND_HIP_TILE_CUH
#define RONDO_BACKEND_HIP_TILE_CUH

#include "backend_hip/matrix.cuh"

#define TILE_C MATRIX_C
#define TILE_AB MATRIX_AB

struct tile_a {
    uint32_t r[TILE_AB / 2];
};
struct tile_b {
    uint32_t r[TILE_AB / 2];
};
struct tile_c {
    float r[TILE_C];
};

static __device__ __forceinline__ int tile_lane()
{
    return matrix_lane();
}

// ---- where things are ------------------------------------------------------------------------------------------

static __device__ __forceinline__ int tile_row(int i)
{
    return matrix_c_row(i);
}

static __device__ __forceinline__ int tile_column(int i)
{
    (void)i;
    return matrix_c_column();
}

// A lane's values of a product are all of different rows.
#define TILE_ROWS TILE_C

static __host__ __device__ __forceinline__ constexpr int tile_slot(int i)
{
    return i;
}

static __device__ __forceinline__ int tile_slot_row(int slot)
{
    return matrix_c_row(slot);
}

static __device__ __forceinline__ int tile_a_row(int i)
{
    (void)i;
    return matrix_ab_line();
}

static __device__ __forceinline__ int tile_a_k(int i)
{
    return matrix_ab_k() + i;
}

static __device__ __forceinline__ int tile_b_column(int i)
{
    (void)i;
    return matrix_ab_line();
}

static __device__ __forceinline__ int tile_b_k(int i)
{
    return matrix_ab_k() + i;
}

// ---- operands --------------------------------------------------------------------------------------------------

static __device__ __forceinline__ void tile_set_a2(tile_a &a, int pair, uint32_t bf16x2)
{
    a.r[pair] = bf16x2;
}

static __device__ __forceinline__ void tile_set_b2(tile_b &b, int pair, uint32_t bf16x2)
{
    b.r[pair] = bf16x2;
}

static __device__ __forceinline__ uint32_t tile_pack(uint16_t low, uint16_t high)
{
    return (uint32_t)low | (uint32_t)high << 16;
}

// The lane's values of its line: 8 or 16 aligned bytes.
static __device__ __forceinline__ void tile_load_line(uint32_t *r, const uint16_t *shared,
                                                      int stride)
{
    const uint16_t *from = shared + matrix_ab_line() * stride + matrix_ab_k();
#if WARP_SIZE == 64
    uint2 v = *(const uint2 *)from;
    r[0] = v.x, r[1] = v.y;
#else
    uint4 v = *(const uint4 *)from;
    r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
#endif
}

static __device__ __forceinline__ void tile_load_column(uint32_t *r, const uint16_t *shared,
                                                        int stride)
{
    const uint16_t *from = shared + matrix_ab_k() * stride + matrix_ab_line();
#pragma unroll
    for (int p = 0; p < TILE_AB / 2; p++)
        r[p] = tile_pack(from[2 * p * stride], from[(2 * p + 1) * stride]);
}

static __device__ __forceinline__ void tile_load_a(tile_a &a, const uint16_t *shared, int stride)
{
    tile_load_line(a.r, shared, stride);
}

static __device__ __forceinline__ void tile_load_a_transposed(tile_a &a, const uint16_t *shared,
                                                              int stride)
{
    tile_load_column(a.r, shared, stride);
}

static __device__ __forceinline__ void tile_load_b(tile_b &b, const uint16_t *shared, int stride)
{
    tile_load_line(b.r, shared, stride);
}

static __device__ __forceinline__ void tile_load_b_transposed(tile_b &b, const uint16_t *shared,
                                                              int stride)
{
    tile_load_column(b.r, shared, stride);
}

// ---- products --------------------------------------------------------------------------------------------------

static __device__ __forceinline__ void tile_clear(tile_c &c)
{
#pragma unroll
    for (int i = 0; i < TILE_C; i++)
        c.r[i] = 0;
}

static __device__ __forceinline__ void tile_mma(tile_c &c, const tile_a &a, const tile_b &b)
{
    matrix_multiply(c.r, a.r, b.r);
}

// The columns of a row are in 16 neighbouring lanes.
static __device__ __forceinline__ void tile_row_max(float (&row)[TILE_ROWS], const tile_c &c)
{
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++) {
        float x = c.r[slot];
        for (int mask = 8; mask; mask /= 2)
            x = fmaxf(x, WARP_XOR(x, mask));
        row[slot] = x;
    }
}

static __device__ __forceinline__ void tile_row_sum(float (&row)[TILE_ROWS], const tile_c &c)
{
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++)
        row[slot] = sum_tree16(c.r[slot]);
}

#define TILE_SCRATCH 256

// Lanes of the product hold columns, lanes of the operand rows: they trade through shared memory.
static __device__ __forceinline__ void tile_a_from_c(tile_a &a, const tile_c &c, uint16_t *scratch)
{
    WARP_SYNC();
#pragma unroll
    for (int i = 0; i < TILE_C; i++)
        scratch[tile_row(i) * 16 + tile_column(i)] = f32_bf16(c.r[i]);
    WARP_SYNC();
    tile_load_line(a.r, scratch, 16);
}

#endif
