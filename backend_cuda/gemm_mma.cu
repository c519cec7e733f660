// gemm for many rows: tiles of 128 x 128 or 64 x 64 outputs on tensor cores, a pipeline of cp.async stages.
//
// A block makes a tile of TN channels x TM rows of x. Per stage of `depth` values of K it copies TN rows of W and
// TM rows of x into shared memory, rows padded by 16 bytes (an odd number of 16-byte units: ldmatrix meets no
// bank conflict), and with the last stage of each 128 of K the scales. Warps hold two sets of f32 accumulators:
// of the current 128 of K, and the promoted sum. FP8 that the product can not take is widened to bf16 between
// shared memory and the product, exactly. Outputs go through shared memory, so that rows are written whole.
//
// Version 1. Checked under emulation, never run on a device.
// Large: 8 warps of 32 x 64 (2 x 4 tiles of 16 x 16), 64 + 64 accumulators a lane, 215 registers (e4m3 on sm_90, where
// it runs through f16: 255, of which 24 bytes are spilled); one block on a multiprocessor, 84 KiB of shared memory so
// that sm_89 and sm_120 (99 KiB) hold it. Per 16 of K a warp reads 6 x 512 bytes for 16 products of m16n8k16: on sm_80
// 24 of 32 cycles of shared memory, so tensor cores are the limit; predicted 65 % of the bf16 rate on sm_80, of the FP8
// rate on sm_89 45 % (promotion: 64 FMA a lane per 64 products, and one block cannot hide its start and end), 40 % of
// wgmma's rate on sm_90.
// On AMD, whose blocks have 64 KiB: 4 waves of 64 x 32 in tiles of 128 x 64.
// Small: 4 warps of 32 x 32, 144 registers (e4m3 on sm_90: 162), three blocks on a multiprocessor; for products with
// fewer large tiles than multiprocessors.
#include "backend_cuda/gemm_tile.cuh"

namespace
{

template <class X, class W, class Math, int TileN, int TileM, int WarpsN, int WarpsM, int Depth,
          int Stages, int Blocks>
struct tile_shape {
    typedef X x_type;
    typedef W w_type;
    typedef Math math;
    static constexpr int tile_n = TileN, tile_m = TileM, depth = Depth, stages = Stages;
    static constexpr int blocks = Blocks; // on a multiprocessor
    static constexpr int warps_n = WarpsN;
    static constexpr int threads = WarpsN * WarpsM * WARP_SIZE;
    static constexpr int tiles_n = TileN / WarpsN / 16, tiles_m = TileM / WarpsM / 16; // of a warp
    // Bytes. A stage: rows of W, rows of x, scales of the rows of x, scale of W.
    static constexpr int w_pitch = Depth * (int)sizeof(W) + 16,
                         x_pitch = Depth * (int)sizeof(X) + Math::input_padding;
    static constexpr int w_bytes = TileN * w_pitch, x_bytes = TileM * x_pitch;
    static constexpr int stage_bytes = w_bytes + x_bytes + (TileM + 4) * (int)sizeof(float);
    static constexpr int out_pitch = TileN + 4; // values
    static constexpr int out_bytes = TileM * out_pitch * (int)sizeof(float);
    static constexpr int shared_bytes =
        Stages * stage_bytes > out_bytes ? Stages *stage_bytes : out_bytes;
    // 16-byte units in a row, and in a stage for each thread.
    static constexpr int w_row_units = Depth * (int)sizeof(W) / 16;
    static constexpr int x_row_units = Depth * (int)sizeof(X) / 16;
    static constexpr int w_units = TileN * w_row_units / threads;
    static constexpr int x_units = TileM * x_row_units / threads;
    static_assert(TileN <= RONDO_BLOCK && RONDO_BLOCK % TileN == 0,
                  "a tile has one block scale per 128 of K");
    static_assert(RONDO_BLOCK % Depth == 0 && Depth % Math::k == 0, "stages divide 128 of K");
    static_assert(TileN * w_row_units % threads == 0 && TileM * x_row_units % threads == 0 &&
                      TileM <= threads && stage_bytes % 16 == 0,
                  "units and scales find their threads");
};

// What a thread copies for each stage of one tile: units of 16 bytes. Rows past the end are the last one again:
// what comes of them is not stored.
template <class S> struct tile_source {
    const typename S::w_type *w[S::w_units]; // row and column of each unit, at k = 0
    const typename S::x_type *x[S::x_units];
    int w_left, x_left;        // values from there to the end of the row
    const float *weight_scale; // of the tile's first 128 of K, or NULL
    const float *x_scale;      // of row threadIdx.x of the tile, or NULL
    int weight_rows;           // of the tile that exist
};

template <class S>
__device__ __forceinline__ void find_source(const gemm_launch &g, const gemm_tile &tile,
                                            tile_source<S> &source)
{
    typedef typename S::w_type W;
    typedef typename S::x_type X;
    const gemm_part &part = g.part[tile.part];
    const char *weight = part.weight + tile.expert * part.weight_step;
    int thread = (int)threadIdx.x;
    int w_column = thread % S::w_row_units * (16 / (int)sizeof(W));
    int x_column = thread % S::x_row_units * (16 / (int)sizeof(X));
#pragma unroll
    for (int i = 0; i < S::w_units; i++) {
        int n = tile.n + (thread + i * S::threads) / S::w_row_units;
        source.w[i] = gemm_row<W>(weight, n < part.n ? n : part.n - 1, g.k) + w_column;
    }
#pragma unroll
    for (int i = 0; i < S::x_units; i++) {
        int row = (thread + i * S::threads) / S::x_row_units;
        row = gemm_input_row(g, tile.row + (row < tile.rows ? row : tile.rows - 1));
        source.x[i] = gemm_row<X>(g.x, row, g.x_stride) + x_column;
    }
    source.w_left = g.k - w_column;
    source.x_left = g.k - x_column;
    source.weight_rows = part.n - tile.n;
    source.weight_scale =
        part.scales != GEMM_SCALES_BLOCK
            ? NULL
            : part.scale + tile.expert * part.scale_step + tile.n / RONDO_BLOCK * part.scale_stride;
    source.x_scale = NULL;
    if (g.x_scale && thread < S::tile_m)
        source.x_scale = gemm_row<float>(
            g.x_scale, gemm_input_row(g, tile.row + (thread < tile.rows ? thread : tile.rows - 1)),
            g.x_scale_stride);
}

// Starts the copies of values k .. k + depth.
template <class S>
__device__ __forceinline__ void load_stage(const gemm_launch &g, const tile_source<S> &source,
                                           unsigned char *stage, int k)
{
    constexpr int w_step = S::threads / S::w_row_units * S::w_pitch;
    constexpr int x_step = S::threads / S::x_row_units * S::x_pitch;
    int thread = (int)threadIdx.x, w_left = source.w_left - k, x_left = source.x_left - k;
    unsigned char *w = stage + thread / S::w_row_units * S::w_pitch + thread % S::w_row_units * 16;
    unsigned char *x =
        stage + S::w_bytes + thread / S::x_row_units * S::x_pitch + thread % S::x_row_units * 16;
    if (g.weight_vectors && g.x_vectors) {
#pragma unroll
        for (int i = 0; i < S::w_units; i++)
            copy_async_16(w + i * w_step, source.w[i] + k, w_left > 0);
#pragma unroll
        for (int i = 0; i < S::x_units; i++)
            gemm_copy_input<typename S::math>(x + i * x_step, source.x[i] + k, x_left > 0);
    } else {
#pragma unroll
        for (int i = 0; i < S::w_units; i++)
            gemm_copy_values(w + i * w_step, source.w[i] + k, w_left);
#pragma unroll
        for (int i = 0; i < S::x_units; i++)
            gemm_copy_input_values<typename S::math>(x + i * x_step, source.x[i] + k, x_left);
    }
    if ((k + S::depth) % RONDO_BLOCK != 0 && k + S::depth < g.k)
        return;
    float *scales = reinterpret_cast<float *>(stage + S::w_bytes + S::x_bytes);
    int block = k / RONDO_BLOCK;
    if (source.x_scale)
        copy_async_4(scales + thread, source.x_scale + block, true);
    if (source.weight_scale && thread == 0)
        copy_async_4(scales + S::tile_m, source.weight_scale + block, true);
}

// One warp's accumulators.
template <class S> struct tile_sums {
    tile_c part[S::tiles_n][S::tiles_m]; // of the current 128 of K
    tile_c sum[S::tiles_n][S::tiles_m];
};

template <class S>
__device__ __forceinline__ void multiply_stage(tile_sums<S> &sums, const unsigned char *stage,
                                               int warp_n, int warp_m)
{
    typedef typename S::w_type W;
    typedef typename S::x_type X;
    const unsigned char *w = stage + warp_n * S::tiles_n * 16 * S::w_pitch;
    const unsigned char *x = stage + S::w_bytes + warp_m * S::tiles_m * 16 * S::x_pitch;
#pragma unroll(S::math::unroll)
    for (int k = 0; k < S::depth; k += S::math::k) {
        typename S::math::weight_type a[S::tiles_n];
#pragma unroll
        for (int i = 0; i < S::tiles_n; i++)
            S::math::load_weight(a[i], reinterpret_cast<const W *>(w + i * 16 * S::w_pitch) + k,
                                 S::w_pitch);
#pragma unroll
        for (int j = 0; j < S::tiles_m; j++) {
            typename S::math::input_type b;
            S::math::load_input(b, reinterpret_cast<const X *>(x + j * 16 * S::x_pitch) + k,
                                S::x_pitch);
#pragma unroll
            for (int i = 0; i < S::tiles_n; i++)
                S::math::multiply(sums.part[i][j], a[i], b);
        }
    }
}

// The sums of 128 of K, scaled, onto those before.
template <class S>
__device__ __forceinline__ void promote(const gemm_launch &g, tile_sums<S> &sums,
                                        const unsigned char *stage, bool block_scales, int warp_m)
{
    const float *scales = reinterpret_cast<const float *>(stage + S::w_bytes + S::x_bytes);
    float weight_scale = block_scales ? scales[S::tile_m] : 1.0f;
    scales += warp_m * S::tiles_m * 16;
#pragma unroll
    for (int j = 0; j < S::tiles_m; j++)
#pragma unroll
        for (int r = 0; r < TILE_C; r++) {
            float scale = weight_scale;
            if (sizeof(typename S::x_type) == 1)
                scale = scales[j * 16 + tile_column(r)] * weight_scale *
                        gemm_product_scale<typename S::math>();
#pragma unroll
            for (int i = 0; i < S::tiles_n; i++) {
                sums.sum[i][j].r[r] = fmaf(sums.part[i][j].r[r], scale, sums.sum[i][j].r[r]);
                sums.part[i][j].r[r] = 0.0f;
            }
        }
}

// By way of shared memory, which no copy may use any more.
template <class S>
__device__ __forceinline__ void store_tile(const gemm_launch &g, const gemm_tile &tile,
                                           const tile_sums<S> &sums, unsigned char *shared,
                                           int warp_n, int warp_m)
{
    float *out = reinterpret_cast<float *>(shared);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < S::tiles_n; i++)
#pragma unroll
        for (int j = 0; j < S::tiles_m; j++)
#pragma unroll
            for (int r = 0; r < TILE_C; r++) {
                int row = (warp_m * S::tiles_m + j) * 16 + tile_column(r);
                int n = (warp_n * S::tiles_n + i) * 16 + tile_row(r);
                out[row * S::out_pitch + n] = sums.sum[i][j].r[r];
            }
    __syncthreads();
    const gemm_part &part = g.part[tile.part];
    constexpr int fours = S::tile_n / 4;
    for (int item = (int)threadIdx.x; item < tile.rows * fours; item += S::threads) {
        int row = item / fours, n = item % fours * 4;
        if (tile.n + n < part.n)
            gemm_store_four(part, g.residual, tile.expert, tile.row + row, tile.n + n,
                            out + row * S::out_pitch + n);
    }
}

template <class S>
static __global__ void __launch_bounds__(S::threads, S::blocks) gemm_mma(gemm_launch g)
{
    wait_for_previous();
    if (!S::math::available)
        return;
    DYN_SHARED(unsigned char, shared);
    int *first = reinterpret_cast<int *>(shared + S::shared_bytes);
    int warp = (int)threadIdx.x / WARP_SIZE, warp_n = warp % S::warps_n, warp_m = warp / S::warps_n;
    int steps = (g.k + S::depth - 1) / S::depth;
    gemm_list_tiles(g, S::tile_m, first);
    gemm_tile tile;
    for (int index = (int)blockIdx.x; gemm_find_tile(g, first, S::tile_m, S::tile_n, index, tile);
         index += (int)gridDim.x) {
        tile_source<S> source;
        tile_sums<S> sums;
        find_source(g, tile, source);
#pragma unroll
        for (int i = 0; i < S::tiles_n; i++)
#pragma unroll
            for (int j = 0; j < S::tiles_m; j++) {
                tile_clear(sums.part[i][j]);
                tile_clear(sums.sum[i][j]);
            }
        bool active =
            warp_m * S::tiles_m * 16 < tile.rows && warp_n * S::tiles_n * 16 < source.weight_rows;
        for (int step = 0; step < S::stages - 1; step++) {
            if (step < steps)
                load_stage<S>(g, source, shared + step * S::stage_bytes, step * S::depth);
            copy_async_commit();
        }
        int slot = 0, next = S::stages - 1; // of this step, and of the one to load
        for (int step = 0; step < steps; step++) {
            copy_async_wait<S::stages - 2>();
            __syncthreads(); // the stage is there for all; all are done with the one before it
            if (step + S::stages - 1 < steps)
                load_stage<S>(g, source, shared + next * S::stage_bytes,
                              (step + S::stages - 1) * S::depth);
            copy_async_commit();
            const unsigned char *stage = shared + slot * S::stage_bytes;
            if (active) {
                multiply_stage<S>(sums, stage, warp_n, warp_m);
                if ((step + 1) * S::depth % RONDO_BLOCK == 0 || step == steps - 1)
                    promote<S>(g, sums, stage, source.weight_scale != NULL, warp_m);
            }
            slot = slot + 1 == S::stages ? 0 : slot + 1;
            next = next + 1 == S::stages ? 0 : next + 1;
        }
        store_tile<S>(g, tile, sums, shared, warp_n, warp_m);
        __syncthreads(); // before the next tile's copies
    }
}

// ---- launching ----------------------------------------------------------------------------------------------------

template <class S> void launch_tiles(gpu_device *device, gemm_launch *g)
{
    unsigned blocks =
        gemm_count_tiles(g, S::tile_m, S::tile_n, (int64_t)device->multiprocessors * S::blocks);
    size_t bytes = S::shared_bytes + gemm_list_bytes(g);
    if (!allow_shared_memory(device, gemm_mma<S>, bytes, "gemm"))
        return;
    LAUNCH_NEXT(device, (gemm_mma<S>), blocks, S::threads, bytes, *g);
    GPU_LAUNCHED(device, "gemm");
}

// Large tiles, if there are enough of them to fill the device.
template <class X, class W, class Math, int Depth, int Stages>
void launch_family(gpu_device *device, gemm_launch *g)
{
#ifdef RONDO_HIP
    typedef tile_shape<X, W, Math, 128, 64, 2, 2, Depth, Stages, 1> large; // in 64 KiB
#else
    typedef tile_shape<X, W, Math, 128, 128, 4, 2, Depth, Stages, 1> large;
#endif
    typedef tile_shape<X, W, Math, 64, 64, 2, 2, Depth, Stages, 3> small;
    int64_t wide = 0;
    for (int p = 0; p < g->n_parts; p++)
        wide += ceil_div(g->part[p].n, 128);
    int64_t rows = g->offsets ? ceil_div(g->expected_rows, g->n_experts) : g->rows;
    bool many = ceil_div(g->expected_rows, large::tile_m) * wide >= device->multiprocessors;
    bool fits = large::shared_bytes + gemm_list_bytes(g) <= device->shared_limit;
    if (rows > 64 && many && fits)
        launch_tiles<large>(device, g);
    else
        launch_tiles<small>(device, g);
}

} // namespace

void GPU(gemm_launch_mma)(gpu_device *device, gemm_family family, gemm_launch *g)
{
    switch (family) {
    case GEMM_BF16_BF16:
        launch_family<uint16_t, uint16_t, gemm_math_bf16, 32, 4>(device, g);
        break;
    case GEMM_BF16_E4M3:
        launch_family<uint16_t, uint8_t, gemm_math_widen<uint16_t>, 64, 3>(device, g);
        break;
    case GEMM_E4M3_WIDEN:
        launch_family<uint8_t, uint8_t, gemm_math_widen<uint8_t>, 64, 4>(device, g);
        break;
    case GEMM_E4M3_E4M3:
        launch_family<uint8_t, uint8_t, gemm_math_e4m3, 64, 4>(device, g);
        break;
    default:
        break;
    }
}

// The compute capability that the code which the device runs was compiled for; 0: no code, or AMD's.
static int code_version()
{
    cudaFuncAttributes code = {};
#ifndef RONDO_HIP
    typedef tile_shape<uint8_t, uint8_t, gemm_math_e4m3, 64, 64, 2, 2, 64, 4, 3> shape;
    if (cudaFuncGetAttributes(&code, gemm_mma<shape>) != cudaSuccess)
        cudaGetLastError(); // the first launch will say why
#endif
    return code.ptxVersion;
}

int GPU(gemm_multiplies_e4m3)(const gpu_device *device)
{
    if (device->fp8 == GPU_FP8_NONE)
        return 0;
#ifdef RONDO_HIP
    return 1; // code is for one device alone
#else
    return code_version() >= 89;
#endif
}

int GPU(gemm_waits)(const gpu_device *device)
{
    return device->capability >= 90 && code_version() >= 90;
}
