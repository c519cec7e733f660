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
    if (index >= row_tiles * g.n_tiles)
        return false;
    int band = index / (8 * row_tiles), inside = index - band * 8 * row_tiles;
    int band_width = g.n_tiles - band * 8;
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

// 16 bytes of a row whose rows are not aligned: `left` values are left of the row at `from` (none if less than 1),
// then zeros. Not asynchronous.
template <class T>
static __device__ __forceinline__ void gemm_copy_values(void *shared, const T *from, int left)
{
    constexpr int count = 16 / (int)sizeof(T);
    uint32_t *to = static_cast<uint32_t *>(shared);
#pragma unroll 1
    for (int word = 0; word < 4; word++) {
        uint32_t bits = 0;
#pragma unroll 1
        for (int i = 0; i < count / 4; i++) {
            int at = word * (count / 4) + i;
            if (at < left)
                bits |= (uint32_t)from[at] << (8 * (int)sizeof(T) * i);
        }
        to[word] = bits;
    }
}

// Address of a row: one multiplication of 32 bits, for no row is as long as 2 GiB.
template <class T>
static __device__ __forceinline__ const T *gemm_row(const void *base, int row, int64_t stride)
{
    return reinterpret_cast<const T *>(static_cast<const char *>(base) +
                                       (int64_t)row * (int)(stride * (int)sizeof(T)));
}

// ---- operands ---------------------------------------------------------------------------------------------------

// Whether one of four codes is NaN, as those of activations may be: in the upper bits of bytes.
static __device__ __forceinline__ uint32_t gemm_nan_codes(uint32_t codes)
{
    return ((codes & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
}

// widen_e4m3 of activations, whose NaN stay NaN.
template <int Pair> static __device__ __forceinline__ uint32_t gemm_widen_nan(uint32_t codes)
{
    uint32_t nan = gemm_nan_codes(codes) >> 16 * Pair;
    return widen_e4m3<Pair>(codes) | (nan & 0x80u ? 0x7fc0u : 0u) |
           (nan & 0x8000u ? 0x7fc00000u : 0u);
}

#ifndef RONDO_HIP
// The first half of tile_load_b.
static __device__ __forceinline__ void gemm_load_narrow(uint32_t (&r)[2], const uint16_t *shared,
                                                        int stride)
{
    int lane = tile_lane();
    load_matrix_2(r, shared + lane % 8 * stride + lane / 8 % 2 * 8);
}
#endif

// What multiplies: the K of one step; operands of 16 rows by that K, from rows `pitch` bytes apart in shared memory;
// bytes that rows of x are padded by so that loads meet no bank conflict (rows of W by 16); steps to unroll.

// `narrow` operands are of 8 rows of x: their products are the first half of c.

// bf16 by bf16.
struct gemm_math_bf16 {
    typedef tile_a weight_type;
    typedef tile_b input_type;
    struct narrow_type {
        uint32_t r[2];
    };
    static constexpr int k = 16, input_padding = 16, unroll = 8;
    static constexpr bool available = true;

    static __device__ __forceinline__ void load_weight(tile_a &a, const uint16_t *shared, int pitch)
    {
        tile_load_a(a, shared, pitch / 2);
    }

    static __device__ __forceinline__ void load_input(tile_b &b, const uint16_t *shared, int pitch)
    {
        tile_load_b(b, shared, pitch / 2);
    }

    static __device__ __forceinline__ void multiply(tile_c &c, const tile_a &a, const tile_b &b)
    {
        tile_mma(c, a, b);
    }

#ifndef RONDO_HIP
    static __device__ __forceinline__ void load_input(narrow_type &b, const uint16_t *shared,
                                                      int pitch)
    {
        gemm_load_narrow(b.r, shared, pitch / 2);
    }

    static __device__ __forceinline__ void multiply(tile_c &c, const tile_a &a,
                                                    const narrow_type &b)
    {
        mma_m16n8k16_bf16(c.r, a.r, b.r);
    }
#endif
};

#ifdef RONDO_HIP
// e4m3 widened to bf16, by bf16 (X = uint16_t) or e4m3 (uint8_t).
template <class X> struct gemm_math_widen : gemm_math_bf16 {
    using gemm_math_bf16::load_input;

    static __device__ __forceinline__ void load_weight(tile_a &a, const uint8_t *shared, int pitch)
    {
#pragma unroll
        for (int p = 0; p < TILE_AB / 2; p++) {
            const uint8_t *at = shared + tile_a_row(2 * p) * pitch + tile_a_k(2 * p);
            tile_set_a2(a, p, widen_e4m3<0>(*reinterpret_cast<const uint16_t *>(at)));
        }
    }

    static __device__ __forceinline__ void load_input(tile_b &b, const uint8_t *shared, int pitch)
    {
#pragma unroll
        for (int p = 0; p < TILE_AB / 2; p++) {
            const uint8_t *at = shared + tile_b_column(2 * p) * pitch + tile_b_k(2 * p);
            tile_set_b2(b, p, gemm_widen_nan<0>(*reinterpret_cast<const uint16_t *>(at)));
        }
    }
};

// e4m3 by e4m3: a lane has eight codes of its line. In waves of 64 the product is of FNUZ codes: weights hold no -0
// (write_codes of the device sees to it), inputs are rewritten on their way into shared memory.
struct gemm_math_e4m3 {
    struct weight_type {
        uint32_t r[2];
    };
    struct input_type {
        uint32_t r[2];
    };
    struct narrow_type {
    };
    static constexpr int k = MATRIX_E4M3_K, input_padding = 16, unroll = 4;
    static constexpr bool available = MATRIX_HAS_E4M3; // never launched where not

    static __device__ __forceinline__ void load(uint32_t (&r)[2], const uint8_t *shared, int pitch)
    {
        const uint8_t *from = shared + matrix_ab_line() * pitch + matrix_lane() / 16 * 8;
        uint2 codes = *reinterpret_cast<const uint2 *>(from);
        r[0] = codes.x, r[1] = codes.y;
    }

    static __device__ __forceinline__ void load_weight(weight_type &a, const uint8_t *shared,
                                                       int pitch)
    {
        load(a.r, shared, pitch);
    }

    static __device__ __forceinline__ void load_input(input_type &b, const uint8_t *shared,
                                                      int pitch)
    {
        load(b.r, shared, pitch);
    }

    static __device__ __forceinline__ void multiply(tile_c &c, const weight_type &a,
                                                    const input_type &b)
    {
        matrix_multiply_e4m3(c.r, a.r, b.r);
    }
};
#else
// The same, of 32 of K. Codes are loaded as fragments of bf16 with two codes in the place of a value: a lane gets
// k 4t .. 4t + 3 (and 16 more). It takes the first two for the lower and the last two for the upper half of the
// product's K: both operands have their K in this order.
template <class X> struct gemm_math_widen {
    struct weight_type {
        tile_a half[2];
    };
    struct input_type {
        tile_b half[2];
    };
    struct narrow_type {
        uint32_t half[2][2];
    };
    static constexpr int k = 32, input_padding = sizeof(X) == 2 ? 32 : 16, unroll = 4;
    static constexpr bool available = true;

    static __device__ __forceinline__ void load_weight(weight_type &a, const uint8_t *shared,
                                                       int pitch)
    {
        tile_a codes;
        tile_load_a(codes, reinterpret_cast<const uint16_t *>(shared), pitch / 2);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a.half[i / 2].r[i % 2] = widen_e4m3<0>(codes.r[i]);
            a.half[i / 2].r[i % 2 + 2] = widen_e4m3<1>(codes.r[i]);
        }
    }

    static __device__ __forceinline__ void load_input(input_type &b, const uint8_t *shared,
                                                      int pitch)
    {
        tile_b codes;
        tile_load_b(codes, reinterpret_cast<const uint16_t *>(shared), pitch / 2);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            b.half[i % 2].r[i / 2 * 2] = widen_e4m3<0>(codes.r[i]);
            b.half[i % 2].r[i / 2 * 2 + 1] = widen_e4m3<1>(codes.r[i]);
        }
        if (gemm_nan_codes(codes.r[0]) | gemm_nan_codes(codes.r[1]) | gemm_nan_codes(codes.r[2]) |
            gemm_nan_codes(codes.r[3])) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                b.half[i % 2].r[i / 2 * 2] = gemm_widen_nan<0>(codes.r[i]);
                b.half[i % 2].r[i / 2 * 2 + 1] = gemm_widen_nan<1>(codes.r[i]);
            }
        }
    }

    static __device__ __forceinline__ void load_input(input_type &b, const uint16_t *shared,
                                                      int pitch)
    {
        int lane = tile_lane();
        const uint16_t *row = shared + lane / 4 * (pitch / 2) + lane % 4 * 4;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint2 four =
                *reinterpret_cast<const uint2 *>(row + i / 2 * 8 * (pitch / 2) + i % 2 * 16);
            b.half[i % 2].r[i / 2 * 2] = four.x;
            b.half[i % 2].r[i / 2 * 2 + 1] = four.y;
        }
    }

    static __device__ __forceinline__ void load_input(narrow_type &b, const uint8_t *shared,
                                                      int pitch)
    {
        uint32_t codes[2];
        gemm_load_narrow(codes, reinterpret_cast<const uint16_t *>(shared), pitch / 2);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            b.half[i][0] = gemm_widen_nan<0>(codes[i]);
            b.half[i][1] = gemm_widen_nan<1>(codes[i]);
        }
    }

    static __device__ __forceinline__ void load_input(narrow_type &b, const uint16_t *shared,
                                                      int pitch)
    {
        int lane = tile_lane();
        const uint16_t *row = shared + lane / 4 * (pitch / 2) + lane % 4 * 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint2 four = *reinterpret_cast<const uint2 *>(row + i * 16);
            b.half[i][0] = four.x;
            b.half[i][1] = four.y;
        }
    }

    static __device__ __forceinline__ void multiply(tile_c &c, const weight_type &a,
                                                    const narrow_type &b)
    {
        mma_m16n8k16_bf16(c.r, a.half[0].r, b.half[0]);
        mma_m16n8k16_bf16(c.r, a.half[1].r, b.half[1]);
    }

    static __device__ __forceinline__ void multiply(tile_c &c, const weight_type &a,
                                                    const input_type &b)
    {
        tile_mma(c, a.half[0], b.half[0]);
        tile_mma(c, a.half[1], b.half[1]);
    }
};

// e4m3 by e4m3. Fragments of e4m3 are those of bf16 with two codes in the place of one value.
struct gemm_math_e4m3 {
    typedef tile_a weight_type;
    typedef tile_b input_type;
    struct narrow_type {
        uint32_t r[2];
    };
    static constexpr int k = 32, input_padding = 16;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
    static constexpr bool available = false; // never launched
#else
    static constexpr bool available = true;
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200
    static constexpr int unroll = 1;         // runs through f16, which takes registers
#else
    static constexpr int unroll = 4;
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

    static __device__ __forceinline__ void load_input(narrow_type &b, const uint8_t *shared,
                                                      int pitch)
    {
        gemm_load_narrow(b.r, reinterpret_cast<const uint16_t *>(shared), pitch / 2);
    }

    static __device__ __forceinline__ void multiply(tile_c &c, const tile_a &a,
                                                    const narrow_type &b)
    {
        mma_m16n8k32_e4m3(c.r, a.r, b.r);
    }
};
#endif

// ---- FNUZ codes -------------------------------------------------------------------------------------------------

// Products of gfx942 are of e4m3fnuz: exponents are biased by 8, so that a code is half of what OCP's code of the
// same bits is, subnormals included, and all of OCP's finite codes (up to 448) have their twin (up to 224). Only
// two differ: -0 (0x80, which FNUZ takes as NaN) becomes 0, and NaN (0x7f and 0xff, numbers to FNUZ) 0x80.
// Products of two such codes are a quarter of what they should be, exactly, and so are sums: scales make up for it.
// Rewritten weights are OCP's still, of the same values, for every other use.
static __host__ __device__ __forceinline__ uint32_t gemm_fnuz_codes(uint32_t codes)
{
    uint32_t magnitude = codes & 0x7f7f7f7fu;
    uint32_t some = magnitude + 0x7f7f7f7fu; // bit 7: not zero
    uint32_t nan = (magnitude + 0x01010101u) & 0x80808080u;
    codes &= some | 0x7f7f7f7fu;
    return (codes & ~(nan - (nan >> 7))) | nan; // 7 bits cleared below a 1
}

template <class Math> struct gemm_is_fnuz {
    static constexpr bool value = false;
};
#if defined(RONDO_HIP) && WARP_SIZE == 64
template <> struct gemm_is_fnuz<gemm_math_e4m3> {
    static constexpr bool value = true;
};
#endif

// What the product's operands lack, for the scales.
template <class Math> static __device__ __forceinline__ constexpr float gemm_product_scale()
{
    return gemm_is_fnuz<Math>::value ? 4.0f : 1.0f;
}

// 16 bytes of a row of x, as copy_async_16.
template <class Math>
static __device__ __forceinline__ void gemm_copy_input(void *shared, const void *global, bool valid)
{
    if (!gemm_is_fnuz<Math>::value) {
        copy_async_16(shared, global, valid);
        return;
    }
    uint4 v = valid ? *static_cast<const uint4 *>(global) : make_uint4(0, 0, 0, 0);
    *static_cast<uint4 *>(shared) = make_uint4(gemm_fnuz_codes(v.x), gemm_fnuz_codes(v.y),
                                               gemm_fnuz_codes(v.z), gemm_fnuz_codes(v.w));
}

template <class Math, class T>
static __device__ __forceinline__ void gemm_copy_input_values(void *shared, const T *from, int left)
{
    gemm_copy_values(shared, from, left);
    if (!gemm_is_fnuz<Math>::value)
        return;
    uint32_t *words = static_cast<uint32_t *>(shared);
#pragma unroll 1
    for (int word = 0; word < 4; word++)
        words[word] = gemm_fnuz_codes(words[word]);
}

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
