// What the tensor core kernels of gemm share: the walk over tiles of all experts and parts, copies of rows into
// shared memory, operands of 16 x 16 tiles from bf16 and e4m3, and the end of an output.
//
// Weights are always the first operand (rows of the product), rows of x the second (columns). So every kernel,
// whatever its tile, does the same instructions in the same order for an output: for each 128 of K a new sum from
// 0, over ascending k; then y = fma(sum, scale of x * block scale of W, y). Results are the same bits for any
// number of rows.
#ifndef RONDO_BACKEND_CUDA_GEMM_TILE_CUH
#define RONDO_BACKEND_CUDA_GEMM_TILE_CUH

#include "backend_cuda/gemm.h"
#include "backend_cuda/tile.cuh"

// ---- the walk ---------------------------------------------------------------------------------------------------

// One block's piece of the output: rows [row, row + rows), channels [n, n + TN) of a part.
struct gemm_tile {
    int part, expert;
    int n;
    int row, rows;
};

// first[e] = tiles of the experts before e, first[E] = all of them; tiles have `height` rows. By the whole
// block; first: [E + 1] in shared memory. Dense products have no list.
static __device__ void gemm_list_tiles(const gemm_launch &g, int height, int *first)
{
    if (!g.offsets)
        return;
    if (threadIdx.x < WARP_SIZE) {
        int lane = (int)threadIdx.x, total = 0;
        for (int base = 0; base < g.n_experts; base += WARP_SIZE) {
            int e = base + lane, sum = 0;
            if (e < g.n_experts)
                sum = (g.offsets[e + 1] - g.offsets[e] + height - 1) / height * g.n_tiles;
            for (int distance = 1; distance < WARP_SIZE; distance *= 2) {
                int below = WARP_UP(sum, distance);
                sum += lane >= distance ? below : 0;
            }
            if (e < g.n_experts)
                first[e + 1] = total + sum;
            total += WARP_READ(sum, WARP_SIZE - 1);
        }
        if (lane == 0)
            first[0] = 0;
    }
    __syncthreads();
}

// Tile number `index` of the launch; false when there are not so many. Tiles of an expert stand in bands of 8
// tiles of N, by rows inside a band: blocks that run together share weights and rows of x.
static __device__ bool gemm_find_tile(const gemm_launch &g, const int *first, int height, int width,
                                      int index, gemm_tile &tile)
{
    int begin = 0, end = g.rows, expert = 0;
    if (g.offsets) {
        if (index >= first[g.n_experts])
            return false;
        int high = g.n_experts;
        while (high - expert > 1) {
            int middle = (expert + high) / 2;
            if (first[middle] <= index)
                expert = middle;
            else
                high = middle;
        }
        index -= first[expert];
        begin = g.offsets[expert];
        end = g.offsets[expert + 1];
    }
    int row_tiles = (end - begin + height - 1) / height;
    int band = index / (8 * row_tiles), inside = index - band * 8 * row_tiles;
    int band_width = g.n_tiles - band * 8;
    if (band_width <= 0)
        return false;
    band_width = band_width < 8 ? band_width : 8;
    int row_tile = inside / band_width, n_tile = band * 8 + inside - row_tile * band_width;
    int part = 0;
    while (part + 1 < g.n_parts && n_tile >= g.part[part + 1].first_tile)
        part++;
    tile.part = part;
    tile.expert = expert;
    tile.n = (n_tile - g.part[part].first_tile) * width;
    tile.row = begin + row_tile * height;
    tile.rows = end - tile.row < height ? end - tile.row : height;
    return true;
}

// Row of x that an output row reads.
static __device__ __forceinline__ int gemm_input_row(const gemm_launch &g, int row)
{
    return g.gather ? g.gather[row] : row;
}

// For the host: counts tiles of N, and returns the blocks to launch. Products with experts have no more tiles than
// `resident` blocks walk over; how many they have only the device knows.
static inline unsigned gemm_count_tiles(gemm_launch *g, int height, int width, int64_t resident)
{
    g->n_tiles = 0;
    for (int p = 0; p < g->n_parts; p++) {
        g->part[p].first_tile = g->n_tiles;
        g->n_tiles += (int)ceil_div(g->part[p].n, width);
    }
    if (!g->offsets)
        return (unsigned)(ceil_div(g->rows, height) * g->n_tiles);
    int64_t used = g->rows < g->n_experts ? g->rows : g->n_experts;
    int64_t tiles = (g->rows / height + used) * g->n_tiles;
    return (unsigned)(tiles < resident ? tiles : resident);
}

// Shared memory that gemm_list_tiles needs.
static inline size_t gemm_list_bytes(const gemm_launch *g)
{
    return g->offsets ? ((size_t)g->n_experts + 1) * sizeof(int) : 0;
}

// ---- copies -----------------------------------------------------------------------------------------------------

// 16 bytes of a row, from value k on, into shared memory; zeros past K and when !valid. `row` must be an
// address that may be read. With `vectors` the copy is asynchronous.
template <class T>
static __device__ __forceinline__ void gemm_copy_unit(void *shared, const T *row, int k, int width,
                                                      bool valid, bool vectors)
{
    constexpr int count = 16 / (int)sizeof(T);
    if (vectors) {
        bool inside = valid && k < width;
        copy_async_16(shared, inside ? row + k : row, inside);
        return;
    }
    uint32_t *to = static_cast<uint32_t *>(shared);
#pragma unroll 1
    for (int word = 0; word < 4; word++) {
        uint32_t bits = 0;
#pragma unroll 1
        for (int i = 0; i < count / 4; i++) {
            int at = k + word * (count / 4) + i;
            if (valid && at < width)
                bits |= (uint32_t)row[at] << (8 * (int)sizeof(T) * i);
        }
        to[word] = bits;
    }
}

// ---- operands ---------------------------------------------------------------------------------------------------

// Two e4m3 codes as bf16, exactly. NaN codes are not expected among weights.
static __device__ __forceinline__ uint32_t gemm_widen(uint32_t codes)
{
    uint32_t low = f32_bits(e4m3_f32((uint8_t)codes)),
             high = f32_bits(e4m3_f32((uint8_t)(codes >> 8)));
    return low >> 16 | (high & 0xffff0000u);
}

// The same for activations, whose NaN stay NaN.
static __device__ __forceinline__ uint32_t gemm_widen_nan(uint32_t codes)
{
    uint32_t wide = gemm_widen(codes), nan = ((codes & 0x7f7fu) + 0x0101u) & 0x8080u;
    if (nan)
        wide |= (nan & 0x80u ? 0x7fc0u : 0u) | (nan & 0x8000u ? 0x7fc00000u : 0u);
    return wide;
}

// What multiplies: K of one step, and operands of 16 rows by that K from rows `pitch` bytes apart.
struct gemm_math_bf16 {
    static constexpr int k = 16;
    static constexpr bool available = true;

    static __device__ __forceinline__ void load_weight(tile_a &a, const uint16_t *shared, int pitch)
    {
        tile_load_a(a, shared, pitch / 2);
    }

    static __device__ __forceinline__ void load_weight(tile_a &a, const uint8_t *shared, int pitch)
    {
#pragma unroll
        for (int p = 0; p < TILE_AB / 2; p++) {
            const uint8_t *at = shared + tile_a_row(2 * p) * pitch + tile_a_k(2 * p);
            tile_set_a2(a, p, gemm_widen(*reinterpret_cast<const uint16_t *>(at)));
        }
    }

    static __device__ __forceinline__ void load_input(tile_b &b, const uint16_t *shared, int pitch)
    {
        tile_load_b(b, shared, pitch / 2);
    }

    static __device__ __forceinline__ void load_input(tile_b &b, const uint8_t *shared, int pitch)
    {
#pragma unroll
        for (int p = 0; p < TILE_AB / 2; p++) {
            const uint8_t *at = shared + tile_b_column(2 * p) * pitch + tile_b_k(2 * p);
            tile_set_b2(b, p, gemm_widen_nan(*reinterpret_cast<const uint16_t *>(at)));
        }
    }

    static __device__ __forceinline__ void multiply(tile_c &c, const tile_a &a, const tile_b &b)
    {
        tile_mma(c, a, b);
    }
};

#ifndef RONDO_HIP
// Fragments of e4m3 are those of bf16 with two codes in the place of one value.
struct gemm_math_e4m3 {
    static constexpr int k = 32;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
    static constexpr bool available = false; // never launched
#else
    static constexpr bool available = true;
#endif

    static __device__ __forceinline__ void load_weight(tile_a &a, const uint8_t *shared, int pitch)
    {
        tile_load_a(a, reinterpret_cast<const uint16_t *>(shared), pitch / 2);
    }

    static __device__ __forceinline__ void load_input(tile_b &b, const uint8_t *shared, int pitch)
    {
        tile_load_b(b, reinterpret_cast<const uint16_t *>(shared), pitch / 2);
    }

    static __device__ __forceinline__ void multiply(tile_c &c, const tile_a &a, const tile_b &b)
    {
        mma_m16n8k32_e4m3(c.r, a.r, b.r);
        mma_m16n8k32_e4m3(c.r + 4, a.r, b.r + 2);
    }
};
#endif

// ---- the end of an output -----------------------------------------------------------------------------------------

// Row scale and bias of channel n.
static __device__ __forceinline__ float gemm_finish(const gemm_part &part, int expert, int n,
                                                    float y)
{
    if (part.scales == GEMM_SCALES_ROW)
        y *= part.scale[expert * part.scale_step + n * part.scale_stride];
    if (part.bias)
        y += part.bias[expert * part.bias_step + n];
    return y;
}

static __device__ __forceinline__ void gemm_store(const gemm_part &part, bool residual, int row,
                                                  int n, float y)
{
    int64_t at = row * part.out_stride + n;
    if (part.out_is_bf16) {
        static_cast<uint16_t *>(part.out)[at] = f32_bf16(y);
        return;
    }
    float *out = static_cast<float *>(part.out) + at;
    *out = residual ? *out + y : y;
}

// Four channels from n on of one row; n is a multiple of 4.
static __device__ __forceinline__ void
gemm_store_four(const gemm_part &part, bool residual, int expert, int row, int n, const float *sums)
{
    float y[4];
    int count = part.n - n < 4 ? part.n - n : 4;
#pragma unroll
    for (int i = 0; i < 4; i++)
        y[i] = i < count ? gemm_finish(part, expert, n + i, sums[i]) : 0.0f;
    if (count < 4 || !part.out_vectors) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < count)
                gemm_store(part, residual, row, n + i, y[i]);
        return;
    }
    int64_t at = row * part.out_stride + n;
    if (part.out_is_bf16) {
        uint2 packed = make_uint2(tile_pack(f32_bf16(y[0]), f32_bf16(y[1])),
                                  tile_pack(f32_bf16(y[2]), f32_bf16(y[3])));
        *reinterpret_cast<uint2 *>(static_cast<uint16_t *>(part.out) + at) = packed;
        return;
    }
    float4 *out = reinterpret_cast<float4 *>(static_cast<float *>(part.out) + at);
    float4 old = residual ? *out : make_float4(0, 0, 0, 0);
    if (residual)
        *out = make_float4(old.x + y[0], old.y + y[1], old.z + y[2], old.w + y[3]);
    else
        *out = make_float4(y[0], y[1], y[2], y[3]);
}

#endif
