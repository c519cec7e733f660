// gemm in exactly the order of core/ops.h, by FMA: for f32 activations, and for pairs of dtypes that have no tensor
// core path (f16 and f32 weights, quantised x with bf16 weights). Gives the bits of cpu:ref.
//
// Slabs of x and W pass through shared memory as f32: a quarter of a block of K each, that is 32 channels in runs of
// 4. A thread holds RowsM x RowsN outputs. The next slab is on its way in registers while this one is used. Two
// tiles: 64 x 64 with 4 x 4 outputs a thread, and 8 x 32 with one for few rows.
//
// Version 2. Checked under emulation, never run on a device. Large tile: 8 loads from shared memory for 16 FMA, and
// the sums of quarters that wait are spilled (500 bytes a thread, touched once in 32 channels): predicted 35 % of the
// FMA rate; not made for speed.
#include "backend_cuda/gemm_tile.cuh"
#include "backend_cuda/router.cuh"

namespace
{

constexpr int threads = 256, slab = RONDO_BLOCK / RONDO_QUARTERS;
constexpr int loaders = threads / slab; // rows that are loaded at once

template <int TileM, int TileN, int RowsM, int RowsN> struct f32_shape {
    static constexpr int tile_m = TileM, tile_n = TileN, rows_m = RowsM, rows_n = RowsN;
    static constexpr int step_m = TileM / RowsM,
                         step_n = TileN / RowsN; // between a thread's outputs
    static constexpr int x_loads = TileM / loaders, w_loads = TileN / loaders;
    // One value more in a row: threads of a warp store along columns.
    static constexpr int x_pitch = TileM + 1, w_pitch = TileN + 1;
    static constexpr int shared_bytes = slab * (x_pitch + w_pitch) * (int)sizeof(float);
    static_assert(step_m * step_n == threads, "a thread for each set of outputs");
};

__device__ __forceinline__ float load_value(const void *row, int dtype, int k)
{
    switch (dtype) {
    case RONDO_F32:
        return static_cast<const float *>(row)[k];
    case RONDO_BF16:
        return bf16_f32(static_cast<const uint16_t *>(row)[k]);
    case RONDO_F16:
        return f16_f32(static_cast<const uint16_t *>(row)[k]);
    default:
        return e4m3_f32_nan(static_cast<const uint8_t *>(row)[k]);
    }
}

__device__ __forceinline__ int value_size(int dtype)
{
    return dtype == RONDO_F32 ? 4 : dtype == RONDO_F8_E4M3 ? 1 : 2;
}

// Where a thread's loads come from; NULL: no such row.
template <class S> struct f32_source {
    const char *x[S::x_loads], *w[S::w_loads];
};

template <class S>
__device__ __forceinline__ void find_source(const gemm_launch &g, const gemm_tile &tile,
                                            f32_source<S> &source)
{
    const gemm_part &part = g.part[tile.part];
    int first = (int)threadIdx.x / slab;
#pragma unroll
    for (int i = 0; i < S::x_loads; i++) {
        int row = first + i * loaders;
        source.x[i] = row < tile.rows ? g.x + gemm_input_row(g, tile.row + row) * g.x_stride *
                                                  value_size(g.x_dtype)
                                      : NULL;
    }
#pragma unroll
    for (int i = 0; i < S::w_loads; i++) {
        int n = tile.n + first + i * loaders;
        source.w[i] = n < part.n ? part.weight + tile.expert * part.weight_step +
                                       (int64_t)n * g.k * value_size(part.weight_dtype)
                                 : NULL;
    }
}

template <class S> struct f32_slab {
    float x[S::x_loads], w[S::w_loads];
};

// Channel i of quarter j of the block that begins at k0.
__device__ __forceinline__ int quarter_channel(int k0, int j, int i)
{
    constexpr int run = RONDO_QUARTER_RUN;
    return k0 + (i / run * RONDO_QUARTERS + j) * run + i % run;
}

// How many channels of the quarter are there in a row of K: the first ones.
__device__ __forceinline__ int quarter_size(int K, int k0, int j)
{
    constexpr int run = RONDO_QUARTER_RUN, stripe = run * RONDO_QUARTERS;
    int whole = (K - k0) / stripe, rest = (K - k0) % stripe - j * run;
    return min(slab, whole * run + min(max(rest, 0), run));
}

template <class S>
__device__ __forceinline__ void load_slab(const gemm_launch &g, const f32_source<S> &source,
                                          int weight_dtype, int at, f32_slab<S> &loaded)
{
    int k0 = at / RONDO_BLOCK * RONDO_BLOCK;
    int k = quarter_channel(k0, (at - k0) / slab, (int)threadIdx.x % slab);
#pragma unroll
    for (int i = 0; i < S::x_loads; i++)
        loaded.x[i] = source.x[i] && k < g.k ? load_value(source.x[i], g.x_dtype, k) : 0.0f;
#pragma unroll
    for (int i = 0; i < S::w_loads; i++)
        loaded.w[i] = source.w[i] && k < g.k ? load_value(source.w[i], weight_dtype, k) : 0.0f;
}

// a += the products of one k.
template <class S>
__device__ __forceinline__ void multiply(float (&a)[S::rows_m][S::rows_n], const float *x,
                                         const float *w)
{
    float wide[S::rows_n];
#pragma unroll
    for (int j = 0; j < S::rows_n; j++)
        wide[j] = w[j * S::step_n];
#pragma unroll
    for (int i = 0; i < S::rows_m; i++)
#pragma unroll
        for (int j = 0; j < S::rows_n; j++)
            a[i][j] = fmaf(x[i * S::step_m], wide[j], a[i][j]);
}

// Sums of the outputs of a thread over a quarter of a block, over the first two, and over the third.
template <class S> struct f32_sums {
    float a[S::rows_m][S::rows_n], first_two[S::rows_m][S::rows_n], third[S::rows_m][S::rows_n];
};

// After quarter j of a block: with the last one, a becomes the sum of all.
template <class S> __device__ __forceinline__ void add_quarter(f32_sums<S> &sums, int j)
{
#pragma unroll
    for (int m = 0; m < S::rows_m; m++)
#pragma unroll
        for (int n = 0; n < S::rows_n; n++) {
            float &a = sums.a[m][n], &first_two = sums.first_two[m][n], &third = sums.third[m][n];
            if (j == RONDO_QUARTERS - 1) {
                a = first_two + (third + a);
                continue;
            }
            if (j == 2)
                third = a;
            else
                first_two = j == 0 ? a : first_two + a;
            a = 0.0f;
        }
}

// The end of 128 of K: y = fma(a, scale of x * block scale of W, y).
template <class S>
__device__ __forceinline__ void promote(const gemm_launch &g, const gemm_tile &tile, int block,
                                        int m, int n, float (&a)[S::rows_m][S::rows_n],
                                        float (&y)[S::rows_m][S::rows_n])
{
    const gemm_part &part = g.part[tile.part];
#pragma unroll
    for (int i = 0; i < S::rows_m; i++) {
        int row = m + i * S::step_m;
        float x_scale = 1.0f;
        if (g.x_scale && row < tile.rows)
            x_scale = g.x_scale[gemm_input_row(g, tile.row + row) * g.x_scale_stride + block];
#pragma unroll
        for (int j = 0; j < S::rows_n; j++) {
            int channel = tile.n + n + j * S::step_n;
            float scale = x_scale;
            if (part.scales == GEMM_SCALES_BLOCK && channel < part.n)
                scale = x_scale * part.scale[tile.expert * part.scale_step +
                                             channel / RONDO_BLOCK * part.scale_stride + block];
            y[i][j] = fmaf(a[i][j], scale, y[i][j]);
            a[i][j] = 0.0f;
        }
    }
}

template <class S>
__device__ __forceinline__ void sum_tile(const gemm_launch &g, const gemm_tile &tile, float *shared,
                                         int m, int n, float (&y)[S::rows_m][S::rows_n])
{
    float *xs = shared, *ws = shared + slab * S::x_pitch; // [slab][pitch]
    int column = (int)threadIdx.x % slab, row = (int)threadIdx.x / slab;
    int weight_dtype = g.part[tile.part].weight_dtype;
    f32_source<S> source;
    f32_slab<S> loaded;
    f32_sums<S> sums = {};
    find_source(g, tile, source);
    load_slab<S>(g, source, weight_dtype, 0, loaded);
    int end = (int)ceil_div(g.k, RONDO_BLOCK) * RONDO_BLOCK;
    for (int at = 0; at < end; at += slab) {
        __syncthreads(); // all are done with the slab before
#pragma unroll
        for (int i = 0; i < S::x_loads; i++)
            xs[column * S::x_pitch + row + i * loaders] = loaded.x[i];
#pragma unroll
        for (int i = 0; i < S::w_loads; i++)
            ws[column * S::w_pitch + row + i * loaders] = loaded.w[i];
        __syncthreads();
        if (at + slab < end)
            load_slab<S>(g, source, weight_dtype, at + slab, loaded);
        int k0 = at / RONDO_BLOCK * RONDO_BLOCK, quarter = (at - k0) / slab;
        int size = quarter_size(g.k, k0, quarter);
        if (size == slab) {
#pragma unroll 8
            for (int k = 0; k < slab; k++)
                multiply<S>(sums.a, xs + k * S::x_pitch + m, ws + k * S::w_pitch + n);
        } else { // no product past K: adding 0 turns -0 into 0
            for (int k = 0; k < size; k++)
                multiply<S>(sums.a, xs + k * S::x_pitch + m, ws + k * S::w_pitch + n);
        }
        add_quarter<S>(sums, quarter);
        if (quarter == RONDO_QUARTERS - 1)
            promote<S>(g, tile, k0 / RONDO_BLOCK, m, n, sums.a, y);
    }
}

template <class S, class Route>
static __global__ void __launch_bounds__(threads, 2) gemm_f32(gemm_launch g, Route route)
{
    wait_for_previous();
    DYN_SHARED(unsigned char, shared);
    int *first = reinterpret_cast<int *>(shared + S::shared_bytes);
    int m = (int)threadIdx.x / S::step_n, n = (int)threadIdx.x % S::step_n;
    gemm_list_tiles(g, S::tile_m, first);
    gemm_tile tile;
    for (int index = (int)blockIdx.x; gemm_find_tile(g, first, S::tile_m, S::tile_n, index, tile);
         index += (int)gridDim.x) {
        float y[S::rows_m][S::rows_n] = {};
        sum_tile<S>(g, tile, reinterpret_cast<float *>(shared), m, n, y);
        const gemm_part &part = g.part[tile.part];
#pragma unroll
        for (int i = 0; i < S::rows_m; i++)
#pragma unroll
            for (int j = 0; j < S::rows_n; j++) {
                int row = m + i * S::step_m, channel = tile.n + n + j * S::step_n;
                if (row < tile.rows && channel < part.n)
                    gemm_store(part, g.residual, tile.row + row, channel,
                               gemm_finish(part, tile.expert, channel, y[i][j]));
            }
        if (Route::routes && tile.part == 0)
            gemm_router_tile(route, tile.row / S::tile_m, tile.row, tile.rows,
                             reinterpret_cast<int32_t *>(shared));
    }
}

template <class S, class Route> void launch(gpu_device *device, gemm_launch *g, Route route)
{
    unsigned blocks = gemm_count_tiles(g, S::tile_m, S::tile_n, 4 * device->multiprocessors);
    size_t bytes = S::shared_bytes + gemm_list_bytes(g);
    LAUNCH_NEXT(device, (gemm_f32<S, Route>), blocks, threads, bytes, *g, route);
    GPU_LAUNCHED(device, "gemm");
}

} // namespace

void GPU(gemm_launch_f32)(gpu_device *device, gemm_launch *g)
{
    int rows = g->offsets ? g->expected_rows / g->n_experts : g->rows;
    if (g->route)
        launch<f32_shape<8, 32, 1, 1>>(device, g, gemm_routes(*g, 32));
    else if (rows <= 16)
        launch<f32_shape<8, 32, 1, 1>>(device, g, gemm_no_router());
    else
        launch<f32_shape<64, 64, 4, 4>>(device, g, gemm_no_router());
}
