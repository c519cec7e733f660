// gemm for few rows (M <= 64, and experts with a handful): reads each weight once, as fast as memory gives.
//
// A block makes a strip of 16 or 32 channels for up to 16, 32 or 64 rows of x. Its warps cut K: warp w takes
// blocks w, w + 4, ... of 128, each with a pipeline of cp.async stages of its own, that only its own lanes wait
// for. Sums of 128 of K meet in shared memory, where threads fold them onto the outputs in ascending K: the order
// of gemm_mma.cu, so the same bits. The weights fill the 16 rows of the product, as there. Blocks stay and
// walk over strips; copies run ahead into the next strip, so memory never waits for an end or a start.
//
// Version 2. Checked under emulation, never run on a device.
// Shared memory of a block, and with the blocks that fit the bytes of weights under way on a multiprocessor (its share
// of the bandwidth at 700 ns is 18 KiB on H100, 13 on A100, 4 on L40):
//                        8 rows                16 rows               32 rows              64 rows
//   e4m3 x e4m3   35 KiB: 48, 48, 24    50 KiB: 48, 36, 12    79 KiB: 24, 24, 12   126 KiB: 16, 16, -
//   bf16 x e4m3   45 KiB: 48, 36, 24    70 KiB: 36, 24, 12    79 KiB: 12, 12,  6   126 KiB:  8,  8, -
//   bf16 x bf16   45 KiB: 64, 48, 32    63 KiB: 48, 32, 16    79 KiB: 24, 24, 12   126 KiB: 16, 16, -
// What has less shared memory than 64 rows take with three stages, as L40, gets two of them.
// Registers on sm_80: 126 of the 128 that four blocks leave, 248 with 64 rows; no spills.
// Predicted share of copy bandwidth: up to 16 rows 75 to 85 % with bf16 weights and on L40, 65 to 75 % with widened
// FP8 on A100 and H100 (N >= 6144): there a kilobyte of weights takes some 250 instructions a warp, of the 300 that
// A100 issues in the time memory gives it. With more rows every strip reads all of x from L2, M times its bytes to 16
// or 32 times those of W: at 64 rows 30 to 40 %.
#include "backend_cuda/gemm_tile.cuh"
#include "backend_cuda/router.cuh"

#include <type_traits>

namespace
{

// Height: rows of x of a strip, 8 or a multiple of 16.
template <class X, class W, class Math, int TilesN, int Height, int Depth, int Stages>
struct strip_shape {
    typedef X x_type;
    typedef W w_type;
    typedef Math math;
    static constexpr bool narrow = Height == 8;
    typedef typename std::conditional<narrow, typename Math::narrow_type,
                                      typename Math::input_type>::type input_type;
    static constexpr int tiles_n = TilesN, tiles_m = narrow ? 1 : Height / 16;
    static constexpr int height = Height, width = TilesN * 16; // rows of x, channels
    static constexpr int depth = Depth, stages = Stages;
    static constexpr int blocks = TilesN * tiles_m <= 2 ? 4 : 2; // on a multiprocessor
    static constexpr int warps = 4, threads = warps * WARP_SIZE;
    // Bytes of a warp's stage: rows of W, rows of x, scales of the rows of x, scale of W.
    static constexpr int w_pitch = Depth * (int)sizeof(W) + 16;
    static constexpr int x_pitch = Depth * (int)sizeof(X) + Math::input_padding;
    static constexpr int w_bytes = width * w_pitch, x_bytes = height * x_pitch;
    static constexpr int stage_bytes = w_bytes + x_bytes + (height + 4) * (int)sizeof(float);
    // Sums of 128 of K of all warps, and their scales. Two sets where they are small: one barrier a round.
    static constexpr int tile_values = narrow ? TILE_C / 2 : TILE_C; // of a lane
    static constexpr int values = TilesN * tiles_m * tile_values;
    static constexpr int sums_values = warps * values * WARP_SIZE, scales_values = warps * height;
    static constexpr int sets = TilesN * tiles_m <= 2 ? 2 : 1;
    static constexpr int pipeline_bytes = warps * Stages * stage_bytes;
    static constexpr int shared_bytes =
        pipeline_bytes + sets * (sums_values + scales_values) * (int)sizeof(float);
    // Units of 16 bytes: of a row, of a stage, and for a lane; rows between a lane's units.
    static constexpr int w_row_units = Depth * (int)sizeof(W) / 16;
    static constexpr int x_row_units = Depth * (int)sizeof(X) / 16;
    static constexpr int w_all = width * w_row_units, x_all = height * x_row_units;
    static constexpr int w_units = (w_all + WARP_SIZE - 1) / WARP_SIZE;
    static constexpr int x_units = (x_all + WARP_SIZE - 1) / WARP_SIZE;
    static constexpr int w_rows = WARP_SIZE / w_row_units, x_rows = WARP_SIZE / x_row_units;
    static constexpr int x_scales = (height + WARP_SIZE - 1) / WARP_SIZE; // of a lane
    static constexpr int outputs = values / warps;                        // of a thread
    static_assert(values % warps == 0 && stage_bytes % 16 == 0, "values and stages divide");
    static_assert(height >= GROUPED_ROWS && sums_values >= GROUPED_PAIRS, "few rows are grouped");
    static_assert(RONDO_BLOCK % Depth == 0 && Depth % Math::k == 0, "stages divide 128 of K");
    static_assert(WARP_SIZE % w_row_units == 0 && WARP_SIZE % x_row_units == 0, "rows divide");
};

// Where a warp's copies are: values [k, k + depth) of a tile are next. Addresses are those of the lane's units at
// k = 0; the lane's rows lie w_rows and x_rows apart.
template <class S> struct strip_cursor {
    bool more;
    int index, k;       // of the tile, of the values
    int w_rows, x_rows; // of the tile
    const typename S::w_type *w;
    const typename S::x_type *x[S::x_units];
    const float *weight_scale;         // of the tile's first 128 of K, or NULL
    const float *x_scale[S::x_scales]; // of rows lane, lane + WARP_SIZE, ... of the tile, or NULL
};

template <class S>
__device__ __forceinline__ void enter_tile(const gemm_launch &g, const int *first,
                                           strip_cursor<S> &cursor)
{
    typedef typename S::w_type W;
    typedef typename S::x_type X;
    gemm_tile tile;
    int warp = (int)threadIdx.x / WARP_SIZE, lane = (int)threadIdx.x % WARP_SIZE;
    cursor.k = warp * RONDO_BLOCK;
    cursor.more =
        cursor.k < g.k && gemm_find_tile(g, first, S::height, S::width, cursor.index, tile);
    if (!cursor.more)
        return;
    const gemm_part &part = g.part[tile.part];
    cursor.w_rows = part.n - tile.n;
    cursor.x_rows = tile.rows;
    cursor.w = gemm_row<W>(part.weight + tile.expert * part.weight_step,
                           tile.n + lane / S::w_row_units, g.k) +
               lane % S::w_row_units * (16 / (int)sizeof(W));
#pragma unroll
    for (int i = 0; i < S::x_units; i++) {
        int row = lane / S::x_row_units + i * S::x_rows;
        row = row < tile.rows ? gemm_input_row(g, tile.row + row) : 0;
        cursor.x[i] =
            gemm_row<X>(g.x, row, g.x_stride) + lane % S::x_row_units * (16 / (int)sizeof(X));
    }
    cursor.weight_scale =
        part.scales != GEMM_SCALES_BLOCK
            ? NULL
            : part.scale + tile.expert * part.scale_step + tile.n / RONDO_BLOCK * part.scale_stride;
#pragma unroll
    for (int i = 0; i < S::x_scales; i++) {
        int row = lane + i * WARP_SIZE;
        cursor.x_scale[i] = NULL;
        if (g.x_scale && row < tile.rows)
            cursor.x_scale[i] =
                gemm_row<float>(g.x_scale, gemm_input_row(g, tile.row + row), g.x_scale_stride);
    }
}

// Starts the copies of the cursor's rows.
template <class S, bool Vectors>
__device__ __forceinline__ void load_rows(const gemm_launch &g, const strip_cursor<S> &cursor,
                                          unsigned char *stage, int lane)
{
    typedef typename S::w_type W;
    typedef typename S::x_type X;
    int w_row = lane / S::w_row_units, x_row = lane / S::x_row_units;
    int w_left = g.k - cursor.k - lane % S::w_row_units * (16 / (int)sizeof(W));
    int x_left = g.k - cursor.k - lane % S::x_row_units * (16 / (int)sizeof(X));
    unsigned char *w = stage + w_row * S::w_pitch + lane % S::w_row_units * 16;
    unsigned char *x = stage + S::w_bytes + x_row * S::x_pitch + lane % S::x_row_units * 16;
#pragma unroll
    for (int i = 0; i < S::w_units; i++) {
        int left = w_row + i * S::w_rows < cursor.w_rows ? w_left : 0;
        const W *from = gemm_row<W>(cursor.w + cursor.k, i * S::w_rows, g.k);
        if (S::w_all % WARP_SIZE && w_row + i * S::w_rows >= S::width)
            break;
        if (Vectors)
            copy_async_16(w + i * S::w_rows * S::w_pitch, from, left > 0);
        else
            gemm_copy_values(w + i * S::w_rows * S::w_pitch, from, left);
    }
#pragma unroll
    for (int i = 0; i < S::x_units; i++) {
        int left = x_row + i * S::x_rows < cursor.x_rows ? x_left : 0;
        if (S::x_all % WARP_SIZE && x_row + i * S::x_rows >= S::height)
            break;
        if (Vectors)
            gemm_copy_input<typename S::math>(x + i * S::x_rows * S::x_pitch,
                                              cursor.x[i] + cursor.k, left > 0);
        else
            gemm_copy_input_values<typename S::math>(x + i * S::x_rows * S::x_pitch,
                                                     cursor.x[i] + cursor.k, left);
    }
}

template <class S>
__device__ __forceinline__ void load_scales(const gemm_launch &g, const strip_cursor<S> &cursor,
                                            float *scales, int lane)
{
    int block = cursor.k / RONDO_BLOCK;
#pragma unroll
    for (int i = 0; i < S::x_scales; i++) {
        int row = lane + i * WARP_SIZE;
        if (g.x_scale && row < S::height)
            copy_async_4(scales + row, cursor.x_scale[i] ? cursor.x_scale[i] + block : g.x_scale,
                         cursor.x_scale[i] != NULL);
    }
    if (cursor.weight_scale && lane == 0)
        copy_async_4(scales + S::height, cursor.weight_scale + block, true);
}

// Starts the copies of the cursor's values, and moves it on: over this warp's blocks of 128, then to the next tile.
template <class S>
__device__ __forceinline__ void load_stage(const gemm_launch &g, const int *first,
                                           strip_cursor<S> &cursor, unsigned char *stage)
{
    int lane = (int)threadIdx.x % WARP_SIZE;
    if (!cursor.more)
        return;
    if (g.weight_vectors && g.x_vectors)
        load_rows<S, true>(g, cursor, stage, lane);
    else
        load_rows<S, false>(g, cursor, stage, lane);
    int next = cursor.k + S::depth;
    if (next % RONDO_BLOCK != 0 && next < g.k) {
        cursor.k = next;
        return;
    }
    load_scales<S>(g, cursor, reinterpret_cast<float *>(stage + S::w_bytes + S::x_bytes), lane);
    cursor.k = cursor.k / RONDO_BLOCK * RONDO_BLOCK + S::warps * RONDO_BLOCK;
    if (cursor.k >= g.k) {
        cursor.index += (int)gridDim.x;
        enter_tile<S>(g, first, cursor);
    }
}

template <class S> struct strip_sums {
    tile_c tile[S::tiles_n][S::tiles_m];
};

template <class S>
__device__ __forceinline__ void multiply_stage(strip_sums<S> &sums, const unsigned char *stage)
{
    typedef typename S::w_type W;
    typedef typename S::x_type X;
    const unsigned char *x = stage + S::w_bytes;
#pragma unroll(S::math::unroll)
    for (int k = 0; k < S::depth; k += S::math::k) {
        typename S::math::weight_type a[S::tiles_n];
#pragma unroll
        for (int i = 0; i < S::tiles_n; i++)
            S::math::load_weight(a[i], reinterpret_cast<const W *>(stage + i * 16 * S::w_pitch) + k,
                                 S::w_pitch);
#pragma unroll
        for (int j = 0; j < S::tiles_m; j++) {
            typename S::input_type b;
            S::math::load_input(b, reinterpret_cast<const X *>(x + j * 16 * S::x_pitch) + k,
                                S::x_pitch);
#pragma unroll
            for (int i = 0; i < S::tiles_n; i++)
                S::math::multiply(sums.tile[i][j], a[i], b);
        }
    }
}

// A warp's sums of 128 of K, for all threads to read.
template <class S>
__device__ __forceinline__ void publish(const strip_sums<S> &sums, const unsigned char *stage,
                                        bool block_scales, float *to, float *to_scales)
{
    const float *scales = reinterpret_cast<const float *>(stage + S::w_bytes + S::x_bytes);
    int warp = (int)threadIdx.x / WARP_SIZE, lane = (int)threadIdx.x % WARP_SIZE;
    float weight_scale = block_scales ? scales[S::height] : 1.0f;
#pragma unroll
    for (int i = 0; i < S::tiles_n; i++)
#pragma unroll
        for (int j = 0; j < S::tiles_m; j++)
#pragma unroll
            for (int r = 0; r < S::tile_values; r++) {
                int value = (i * S::tiles_m + j) * S::tile_values + r;
                to[(warp * S::values + value) * WARP_SIZE + lane] = sums.tile[i][j].r[r];
            }
    for (int row = lane; row < S::height; row += WARP_SIZE)
        to_scales[warp * S::height + row] =
            sizeof(typename S::x_type) == 1
                ? scales[row] * weight_scale * gemm_product_scale<typename S::math>()
                : weight_scale;
}

// Values warp, warp + 4, ... of every lane are this thread's outputs: in tile value / S::tile_values, where
// tile_row and tile_column say.
template <class S>
__device__ __forceinline__ void fold(float (&y)[S::outputs], const float *sums, const float *scales,
                                     int count)
{
    int warp = (int)threadIdx.x / WARP_SIZE, lane = (int)threadIdx.x % WARP_SIZE;
    for (int w = 0; w < count; w++) {
#pragma unroll
        for (int o = 0; o < S::outputs; o++) {
            int value = warp + o * S::warps, tile = value / S::tile_values;
            int row = tile % S::tiles_m * 16 + tile_column(value % S::tile_values);
            y[o] = fmaf(sums[(w * S::values + value) * WARP_SIZE + lane],
                        scales[w * S::height + row], y[o]);
        }
    }
}

template <class S>
__device__ __forceinline__ void store(const gemm_launch &g, const gemm_tile &tile,
                                      const float (&y)[S::outputs])
{
    const gemm_part &part = g.part[tile.part];
    int warp = (int)threadIdx.x / WARP_SIZE;
#pragma unroll
    for (int o = 0; o < S::outputs; o++) {
        int value = warp + o * S::warps, place = value / S::tile_values;
        int row = place % S::tiles_m * 16 + tile_column(value % S::tile_values);
        int n = tile.n + place / S::tiles_m * 16 + tile_row(value % S::tile_values);
        if (row < tile.rows && n < part.n)
            gemm_store(part, g.residual, tile.row + row, n,
                       gemm_finish(part, tile.expert, n, y[o]));
    }
}

// A warp's place in its ring of stages.
struct strip_ring {
    int slot, next; // stage to read, stage to copy into
};

// The sum over this warp's 128 of K from k0 on; leaves `stage` at the last one read, that holds the scales.
template <class S>
__device__ __forceinline__ void
sum_block(const gemm_launch &g, const int *first, strip_cursor<S> &cursor, strip_ring &ring,
          unsigned char *stages, strip_sums<S> &sums, int k0, const unsigned char *&stage)
{
#pragma unroll
    for (int i = 0; i < S::tiles_n; i++)
#pragma unroll
        for (int j = 0; j < S::tiles_m; j++)
            tile_clear(sums.tile[i][j]);
    int end = k0 + RONDO_BLOCK < g.k ? k0 + RONDO_BLOCK : g.k;
    for (int k = k0; k < end; k += S::depth) {
        copy_async_wait<S::stages - 2>();
        WARP_SYNC(); // the stage is there for all lanes; all are done with the one before it
        load_stage<S>(g, first, cursor, stages + ring.next * S::stage_bytes);
        copy_async_commit();
        stage = stages + ring.slot * S::stage_bytes;
        multiply_stage<S>(sums, stage);
        ring.slot = ring.slot + 1 == S::stages ? 0 : ring.slot + 1;
        ring.next = ring.next + 1 == S::stages ? 0 : ring.next + 1;
    }
}

template <class S, class Route>
static __global__ void __launch_bounds__(S::threads, S::blocks)
    gemm_small(gemm_launch g, Route route)
{
    wait_for_previous();
    if (!S::math::available)
        return;
    DYN_SHARED(unsigned char, shared);
    float *sums_of_set = reinterpret_cast<float *>(shared + S::pipeline_bytes);
    int *first = reinterpret_cast<int *>(shared + S::shared_bytes);
    int warp = (int)threadIdx.x / WARP_SIZE, set = 0;
    unsigned char *stages = shared + warp * S::stages * S::stage_bytes;
    gemm_list_tiles(g, S::height, first);
    strip_cursor<S> cursor = {};
    cursor.index = (int)blockIdx.x;
    enter_tile<S>(g, first, cursor);
    for (int i = 0; i < S::stages - 1; i++) {
        load_stage<S>(g, first, cursor, stages + i * S::stage_bytes);
        copy_async_commit();
    }
    strip_ring ring = {0, S::stages - 1};
    gemm_tile tile;
    for (int index = (int)blockIdx.x; gemm_find_tile(g, first, S::height, S::width, index, tile);
         index += (int)gridDim.x) {
        float y[S::outputs];
#pragma unroll
        for (int o = 0; o < S::outputs; o++)
            y[o] = 0.0f;
        for (int k0 = 0; k0 < g.k; k0 += S::warps * RONDO_BLOCK) {
            float *sums = sums_of_set + set * (S::sums_values + S::scales_values);
            float *scales = sums + S::sums_values;
            if (k0 + warp * RONDO_BLOCK < g.k) {
                strip_sums<S> own;
                const unsigned char *stage = stages;
                sum_block<S>(g, first, cursor, ring, stages, own, k0 + warp * RONDO_BLOCK, stage);
                publish<S>(own, stage, g.part[tile.part].scales == GEMM_SCALES_BLOCK, sums, scales);
            }
            __syncthreads();
            int left = (g.k - k0 + RONDO_BLOCK - 1) / RONDO_BLOCK;
            fold<S>(y, sums, scales, left < S::warps ? left : S::warps);
            if (S::sets == 1)
                __syncthreads();
            else
                set ^= 1;
        }
        store<S>(g, tile, y);
        if (Route::routes && tile.part == 0)
            gemm_router_tile(route, tile.row / S::height, tile.row, tile.rows,
                             reinterpret_cast<int32_t *>(sums_of_set));
    }
}

// ---- launching ----------------------------------------------------------------------------------------------------

template <class S, class Route> int launch_strips(gpu_device *device, gemm_launch *g, Route route)
{
    size_t bytes = S::shared_bytes + gemm_list_bytes(g);
    if (bytes > device->shared_limit)
        return 0;
    int64_t fit = (int64_t)((device->shared_limit + 1024) / (bytes + 1024));
    int64_t resident = (fit < 1 ? 1 : fit) * device->multiprocessors;
    unsigned blocks = gemm_count_tiles(g, S::height, S::width, resident);
    blocks = blocks < resident ? blocks : (unsigned)resident;
    if (!allow_shared_memory(device, gemm_small<S, Route>, bytes, "gemm"))
        return 1;
    LAUNCH_NEXT(device, (gemm_small<S, Route>), blocks, S::threads, bytes, *g, route);
    GPU_LAUNCHED(device, "gemm");
    return 1;
}

template <class X, class W, class Math, int Stages>
int launch_family(gpu_device *device, gemm_launch *g, int rows)
{
    constexpr int narrow = sizeof(X) == 1 ? 64 : 32; // many rows of x: shorter stages
    const gemm_no_router none = {};
#ifndef RONDO_HIP
    if (rows <= 8)
        return launch_strips<strip_shape<X, W, Math, 1, 8, 64, Stages>>(device, g, none);
#endif
    if (rows <= 16)
        return launch_strips<strip_shape<X, W, Math, 1, 16, 64, Stages>>(device, g, none);
    if (rows <= 32)
        return launch_strips<strip_shape<X, W, Math, 1, 32, narrow, 4>>(device, g, none);
    return launch_strips<strip_shape<X, W, Math, 2, 64, narrow, 3>>(device, g, none) ||
           launch_strips<strip_shape<X, W, Math, 2, 64, narrow, 2>>(device, g, none);
}

// Low strips, whatever the rows: logits are few channels, so that higher ones would leave most of the device idle; and
// the block that routes a strip's rows has four of them a warp at most. FP8 weights, which few models route by, have one
// height: 8 rows would save shared memory and products, of which 16 blocks on the device want neither. Three stages of
// them fit AMD's 64 KiB.
template <class X, class W, class Math> int launch_routed(gpu_device *device, gemm_launch *g)
{
    const gemm_router route = gemm_routes(*g, 16);
#ifndef RONDO_HIP
    if constexpr (sizeof(W) == 2)
        if (g->rows <= 8)
            return launch_strips<strip_shape<X, W, Math, 1, 8, 64, 3>>(device, g, route);
#endif
    return launch_strips<strip_shape<X, W, Math, 1, 16, 64, 3>>(device, g, route);
}

template <class X, class W, class Math, int Stages>
int launch_any(gpu_device *device, gemm_launch *g, int rows)
{
    return g->route ? launch_routed<X, W, Math>(device, g)
                    : launch_family<X, W, Math, Stages>(device, g, rows);
}

} // namespace

int GPU(gemm_launch_small)(gpu_device *device, gemm_family family, gemm_launch *g, int rows)
{
    switch (family) {
    case GEMM_BF16_BF16:
        return launch_any<uint16_t, uint16_t, gemm_math_bf16, 3>(device, g, rows);
    case GEMM_BF16_E4M3:
        return launch_any<uint16_t, uint8_t, gemm_math_widen<uint16_t>, 4>(device, g, rows);
    case GEMM_E4M3_WIDEN:
        return launch_any<uint8_t, uint8_t, gemm_math_widen<uint8_t>, 4>(device, g, rows);
    case GEMM_E4M3_E4M3:
        return launch_any<uint8_t, uint8_t, gemm_math_e4m3, 4>(device, g, rows);
    default:
        return 0;
    }
}
