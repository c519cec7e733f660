// One warp's product of 16 x 16 x 16, bf16 in and f32 out: what kernels are written in that run on mma.sync,
// on AMD's matrix instructions and in the emulator alike.
//
//   tile_c c; tile_clear(c);
//   tile_a a; tile_load_a(a, x, stride);   tile_b b; tile_load_b(b, w, stride);   tile_mma(c, a, b);
//   for (int i = 0; i < TILE_C; i++) out[tile_row(i)][tile_column(i)] = c.r[i];
//
// All functions are of whole warps. Sums run in ascending k in the emulator; the order inside one product is the
// hardware's own on a device, the same for every element and every call.
#ifndef RONDO_BACKEND_CUDA_TILE_CUH
#define RONDO_BACKEND_CUDA_TILE_CUH

#include "backend_cuda/ptx.cuh"

#if defined(RONDO_HIP)
#include "backend_hip/tile.cuh"
#else

// Values of a lane: of the product, and of an operand (pairs of consecutive k share a register).
#define TILE_C (256 / WARP_SIZE)
#define TILE_AB 8

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
    return (int)(threadIdx.x % WARP_SIZE);
}

// ---- where things are ------------------------------------------------------------------------------------------

// Row m and column n of c.r[i] of this lane.
static __device__ __forceinline__ int tile_row(int i)
{
    return tile_lane() / 4 + (i & 2) * 4;
}

static __device__ __forceinline__ int tile_column(int i)
{
    return tile_lane() % 4 * 2 + (i & 1) + (i & 4) * 2;
}

// Rows of a lane: c.r[i] is of the lane's row tile_slot(i), 0 .. TILE_ROWS - 1, and that one is row
// tile_slot_row(slot).
#define TILE_ROWS 2

static __host__ __device__ __forceinline__ constexpr int tile_slot(int i)
{
    return i >> 1 & 1;
}

static __device__ __forceinline__ int tile_slot_row(int slot)
{
    return tile_lane() / 4 + slot * 8;
}

// Row and k of the lane's value i of A, column and k of its value i of B. Values 2p and 2p + 1 are the low and
// the high half of pair p; the k of the second is one more.
static __device__ __forceinline__ int tile_a_row(int i)
{
    return tile_lane() / 4 + (i & 2) * 4;
}

static __device__ __forceinline__ int tile_a_k(int i)
{
    return tile_lane() % 4 * 2 + (i & 1) + (i & 4) * 2;
}

static __device__ __forceinline__ int tile_b_column(int i)
{
    return tile_lane() / 4 + (i & 4) * 2;
}

static __device__ __forceinline__ int tile_b_k(int i)
{
    return tile_lane() % 4 * 2 + (i & 1) + (i & 2) * 4;
}

// ---- operands --------------------------------------------------------------------------------------------------

// Operands made in registers: pair p of the lane, bf16 bits, lower k in the lower half.
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

// From shared memory whose rows are 16-byte aligned: stride in values, a multiple of 8. Strides of an odd
// number of 16-byte units are free of bank conflicts.
// A[m][k] at shared[m * stride + k].
static __device__ __forceinline__ void tile_load_a(tile_a &a, const uint16_t *shared, int stride)
{
    int lane = tile_lane();
    load_matrix_4(a.r, shared + (lane % 16) * stride + lane / 16 * 8);
}

// A[m][k] at shared[k * stride + m].
static __device__ __forceinline__ void tile_load_a_transposed(tile_a &a, const uint16_t *shared,
                                                              int stride)
{
    int lane = tile_lane();
    load_matrix_4_transposed(a.r, shared + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
}

// B[k][n] at shared[n * stride + k]: weights, keys.
static __device__ __forceinline__ void tile_load_b(tile_b &b, const uint16_t *shared, int stride)
{
    int lane = tile_lane();
    load_matrix_4(b.r, shared + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
}

// B[k][n] at shared[k * stride + n]: values.
static __device__ __forceinline__ void tile_load_b_transposed(tile_b &b, const uint16_t *shared,
                                                              int stride)
{
    int lane = tile_lane();
    load_matrix_4_transposed(b.r, shared + (lane % 16) * stride + lane / 16 * 8);
}

// ---- products --------------------------------------------------------------------------------------------------

static __device__ __forceinline__ void tile_clear(tile_c &c)
{
#pragma unroll
    for (int i = 0; i < TILE_C; i++)
        c.r[i] = 0;
}

// c += A B.
static __device__ __forceinline__ void tile_mma(tile_c &c, const tile_a &a, const tile_b &b)
{
    mma_m16n8k16_bf16(c.r, a.r, b.r);
    mma_m16n8k16_bf16(c.r + 4, a.r, b.r + 2);
}

// Largest value of each of the lane's rows of a product.
static __device__ __forceinline__ void tile_row_max(float (&row)[TILE_ROWS], const tile_c &c)
{
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++) {
        float x = fmaxf(fmaxf(c.r[2 * slot], c.r[2 * slot + 1]),
                        fmaxf(c.r[2 * slot + 4], c.r[2 * slot + 5]));
        x = fmaxf(x, WARP_XOR(x, 1));
        row[slot] = fmaxf(x, WARP_XOR(x, 2));
    }
}

// Sum of each of the lane's rows of a product, in the order of rondo_sum_tree16 over its columns.
static __device__ __forceinline__ void tile_row_sum(float (&row)[TILE_ROWS], const tile_c &c)
{
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++) {
        float even = c.r[2 * slot] + c.r[2 * slot + 4];
        float odd = c.r[2 * slot + 1] + c.r[2 * slot + 5];
        even += WARP_XOR(even, 2);
        odd += WARP_XOR(odd, 2);
        even += WARP_XOR(even, 1);
        odd += WARP_XOR(odd, 1);
        row[slot] = even + odd;
    }
}

// Values of shared memory that a warp needs as scratch for tile_a_from_c.
#define TILE_SCRATCH 0

// c rounded to bf16, as the A operand of a next product. scratch: 256 values of shared memory of the warp's own,
// 16-byte aligned, for devices where lanes must trade; may be overwritten.
static __device__ __forceinline__ void tile_a_from_c(tile_a &a, const tile_c &c, uint16_t *scratch)
{
    (void)scratch;
#pragma unroll
    for (int p = 0; p < TILE_AB / 2; p++)
        a.r[p] = pack_bf16(c.r[2 * p], c.r[2 * p + 1]);
}

#endif
#endif
