// softmax_attention for many query rows: a block owns a tile of 64 or 128 rows, 16 to a warp, and walks the
// 64-blocks of all segments, or of one.
//
// Shared memory: the query rows, and a ring of blocks of keys and values. The warps meet once in a block of
// positions and are free in between: one multiplies while another makes probabilities. Running results of a
// segment are in registers, and so are those of the segments before it, but for a head size of 256: these are
// touched once in 1024 positions and live in a part of the workspace.
#include "backend_cuda/softmax_attention_codes.cuh"

namespace
{

template <int HD> struct warp_rows {
    tile_c o[HD / 16];
    float m[TILE_ROWS], l[TILE_ROWS];
    int32_t first, n;        // rows of the tile that the warp has
    int32_t lowest, highest; // of their positions
};

// Results of the segments so far: in registers, or `own`, the thread's part of a.total with `threads` floats
// between its values.
template <int HD> struct warp_total {
    static constexpr int values = HD / 16 * TILE_C;
    static constexpr bool in_registers = HD <= 128;
    float o[in_registers ? values : 1], m[TILE_ROWS], l[TILE_ROWS];
    float *own;
};

// Position of row number `row` of the warp; -1: there is no such row. Few steps ask, so this is not kept in
// registers.
template <int HD>
static __device__ __forceinline__ int32_t row_position(const warp_rows<HD> &rows,
                                                       const attention_args &a,
                                                       const attention_tile &tile, int32_t row)
{
    return row < rows.n ? attention_position(a, tile, (tile.row + rows.first + row) / a.group) : -1;
}

template <int HD>
static __device__ __forceinline__ void find_rows(warp_rows<HD> &rows, const attention_args &a,
                                                 const attention_tile &tile)
{
    rows.first = (int32_t)(threadIdx.x / WARP_SIZE) * 16;
    rows.n = tile.rows - rows.first;
    rows.n = rows.n < 0 ? 0 : rows.n < 16 ? rows.n : 16;
    int32_t position = row_position(rows, a, tile, tile_lane() % 16);
    rows.highest = attention_warp_max(position);
    rows.lowest = -attention_warp_max(position < 0 ? -0x7fffffff : -position);
}

template <int HD> static __device__ __forceinline__ void clear_rows(warp_rows<HD> &rows)
{
#pragma unroll
    for (int c = 0; c < HD / 16; c++)
        tile_clear(rows.o[c]);
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++) {
        rows.m[slot] = -INFINITY;
        rows.l[slot] = 0;
    }
}

// Whether any of the warp's rows sees something of the step.
template <int HD>
static __device__ __forceinline__ bool
takes_part(const warp_rows<HD> &rows, const attention_args &a, const attention_tile &tile,
           const attention_step &step)
{
    if (rows.n == 0 || rows.highest < step.block * RONDO_CHUNK)
        return false;
    int32_t first = tile.row + rows.first, node = step.node * a.group;
    return step.node < 0 || (node < first + rows.n && node + a.group > first);
}

// ---- a step ---------------------------------------------------------------------------------------

template <int HD>
static __device__ __forceinline__ void multiply_keys(tile_c (&x)[ATTENTION_TILES],
                                                     const uint16_t *q, const uint16_t *k)
{
    const int stride = ATTENTION_STRIDE(HD);
#pragma unroll
    for (int n = 0; n < ATTENTION_TILES; n++)
        tile_clear(x[n]);
#pragma unroll
    for (int d = 0; d < HD; d += 16) {
        tile_a rows;
        tile_load_a(rows, q + d, stride);
#pragma unroll
        for (int n = 0; n < ATTENTION_TILES; n++) {
            tile_b keys;
            tile_load_b(keys, k + n * 16 * stride + d, stride);
            tile_mma(x[n], rows, keys);
        }
    }
}

// The scales, [C] each in shared memory, are those of codes.
template <int HD, bool CODES>
static __device__ __forceinline__ void
make_probabilities(tile_a (&p)[ATTENTION_TILES], tile_c (&x)[ATTENTION_TILES], warp_rows<HD> &rows,
                   const attention_args &a, const attention_tile &tile, const attention_step &step,
                   uint16_t *scratch, const float *key_scales, const float *value_scales)
{
    bool sees_all = step.node < 0 && rows.lowest >= step.block * RONDO_CHUNK + RONDO_CHUNK - 1;
    int32_t limit[TILE_ROWS];
    float f[TILE_ROWS];
    bool changes = false;
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++) {
        int32_t row = tile_slot_row(slot);
        limit[slot] = RONDO_CHUNK;
        if (!sees_all)
            limit[slot] = attention_limit(step, (tile.row + rows.first + row) / a.group,
                                          row_position(rows, a, tile, row));
    }
    if constexpr (CODES)
        attention_scale_columns(x, key_scales);
    attention_softmax(x, limit, a.scale, rows.m, rows.l, f);
    if constexpr (CODES)
        attention_scale_columns(x, value_scales);
#pragma unroll
    for (int n = 0; n < ATTENTION_TILES; n++)
        tile_a_from_c(p[n], x[n], scratch);
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++)
        changes = changes || f[slot] != 1.0f;
    if (WARP_ANY(changes)) {
#pragma unroll
        for (int c = 0; c < HD / 16; c++)
            attention_scale(rows.o[c], f);
    }
}

template <int HD>
static __device__ __forceinline__ void
multiply_values(warp_rows<HD> &rows, const tile_a (&p)[ATTENTION_TILES], const uint16_t *v)
{
    const int stride = ATTENTION_STRIDE(HD);
#pragma unroll
    for (int n = 0; n < ATTENTION_TILES; n++)
#pragma unroll
        for (int c = 0; c < HD / 16; c++) {
            tile_b values;
            tile_load_b_transposed(values, v + n * 16 * stride + c * 16, stride);
            tile_mma(rows.o[c], p[n], values);
        }
}

// ---- results --------------------------------------------------------------------------------------

// Results of a segment as they are, for the combine kernel.
template <int HD>
static __device__ __forceinline__ void
write_partial(const warp_rows<HD> &rows, const attention_args &a, const attention_tile &tile,
              int32_t head, int32_t segment)
{
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++) {
        int32_t row = tile_slot_row(slot);
        if (row_position(rows, a, tile, row) < segment * RONDO_SEGMENT)
            continue;
        row += tile.row + rows.first;
        int64_t at =
            attention_partial_row(a, tile, row / a.group, head * a.group + row % a.group, segment);
        if (at < 0)
            continue;
        a.partial_ml[2 * at] = rows.m[slot];
        a.partial_ml[2 * at + 1] = rows.l[slot];
#pragma unroll
        for (int c = 0; c < HD / 16; c++)
#pragma unroll
            for (int i = 0; i < TILE_C; i++)
                if (tile_slot(i) == slot)
                    a.partial[at * HD + c * 16 + tile_column(i)] = rows.o[c].r[i];
    }
}

// Merges the results of a segment into those of the segments so far.
template <int HD>
static __device__ __forceinline__ void
merge_segment(warp_total<HD> &total, const warp_rows<HD> &rows, const attention_args &a,
              const attention_tile &tile, int32_t segment)
{
    float f[TILE_ROWS], g[TILE_ROWS];
    bool sees[TILE_ROWS];
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++) {
        f[slot] = g[slot] = 1;
        sees[slot] = row_position(rows, a, tile, tile_slot_row(slot)) >= segment * RONDO_SEGMENT;
        if (segment == 0) {
            total.m[slot] = rows.m[slot];
            total.l[slot] = rows.l[slot];
        } else if (sees[slot]) {
            attention_merge<attention_fast> merge(total.m[slot], total.l[slot], rows.m[slot],
                                                  rows.l[slot]);
            f[slot] = merge.f, g[slot] = merge.g;
        }
    }
#pragma unroll
    for (int c = 0; c < HD / 16; c++) {
#pragma unroll
        for (int i = 0; i < TILE_C; i++) {
            float *at = total.in_registers ? &total.o[c * TILE_C + i]
                                           : total.own + (c * TILE_C + i) * (int)blockDim.x;
            float o = rows.o[c].r[i];
            if (segment > 0) {
                float before = *at;
                o = fmaf(before, f[tile_slot(i)], o * g[tile_slot(i)]);
                o = sees[tile_slot(i)] ? o : before;
            }
            *at = o;
        }
        if (!total.in_registers)
            WARP_SYNC(); // else compilers read all first, for which there are no registers
    }
}

// Results divided by their sums, those of the only segment or, with `several`, of all; through the warp's part of
// the query rows' memory.
template <int HD>
static __device__ __forceinline__ void
write_rows(const warp_rows<HD> &rows, const warp_total<HD> &total, bool several,
           const attention_args &a, const attention_tile &tile, int32_t head, uint16_t *shared)
{
    const int stride = ATTENTION_STRIDE(HD), units = HD / 8;
    float r[TILE_ROWS];
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++)
        r[slot] = 1.0f / (several ? total.l[slot] : rows.l[slot]);
#pragma unroll
    for (int c = 0; c < HD / 16; c++)
#pragma unroll
        for (int i = 0; i < TILE_C; i++) {
            int32_t row = tile_row(i), column = c * 16 + tile_column(i);
            float o = rows.o[c].r[i];
            if (several)
                o = total.in_registers ? total.o[c * TILE_C + i]
                                       : total.own[(c * TILE_C + i) * (int)blockDim.x];
            shared[row * stride + column] = f32_bf16(attention_fast::finish(o * r[tile_slot(i)]));
        }
    WARP_SYNC();
    for (int32_t i = tile_lane(); i < rows.n * units; i += WARP_SIZE) {
        int32_t row = i / units, column = i % units * 8, at = tile.row + rows.first + row;
        uint16_t *to = (uint16_t *)a.out +
                       (tile.sequence.first_token + at / a.group) * a.out_stride +
                       (head * a.group + at % a.group) * HD + column;
        *(uint4 *)to = *(const uint4 *)(shared + row * stride + column);
    }
}

// ---- the kernel -----------------------------------------------------------------------------------

// All steps of a segment.
template <int HD, int WARPS, bool CODES>
static __device__ __forceinline__ void run_steps(warp_rows<HD> &rows, const attention_args &a,
                                                 const attention_tile &tile, int32_t head,
                                                 const attention_steps &steps, uint16_t *shared)
{
    const int stride = ATTENTION_STRIDE(HD);
    uint16_t *scratch = shared + WARPS * 16 * stride;
    typename attention_ring_of<HD, 1, CODES>::type ring = {scratch + WARPS * TILE_SCRATCH,
                                                           a.stages};
    ring.begin(a, tile, steps, head);
    for (int32_t i = 0; i < steps.n; i++) {
        attention_step step = attention_step_at(tile, steps, i);
        ring.next(a, tile, steps, i, head);
        if (!takes_part(rows, a, tile, step))
            continue;
        tile_c x[ATTENTION_TILES];
        tile_a p[ATTENTION_TILES];
        multiply_keys<HD>(x, shared + rows.first * stride, ring.keys(i));
        const float *key_scales = NULL, *value_scales = NULL;
        if constexpr (CODES) {
            key_scales = ring.key_scales(i);
            value_scales = ring.value_scales(i);
        }
        make_probabilities<HD, CODES>(p, x, rows, a, tile, step,
                                      scratch + rows.first / 16 * TILE_SCRATCH, key_scales,
                                      value_scales);
        multiply_values(rows, p, ring.values(i));
    }
    __syncthreads(); // the ring has been read
}

// Work item: a tile of rows and a key/value head, longest first; with partial results also a segment.
template <int HD, int WARPS, bool CODES>
static __device__ __forceinline__ void run_tile(const attention_args &a, int32_t work,
                                                uint16_t *shared)
{
    int32_t segment = a.partial ? work % a.segments : 0,
            rest = a.partial ? work / a.segments : work;
    int32_t head = rest % a.kv_heads;
    attention_tile tile = attention_find_tile(a, a.tiles - 1 - rest / a.kv_heads, WARPS * 16);
    if (tile.number < 0)
        return;
    if (segment == 0)
        attention_store<uint4>(a, tile, head, HD / 8);
    if (a.partial && tile.last < segment * RONDO_SEGMENT)
        return;
    warp_rows<HD> rows;
    warp_total<HD> total;
    find_rows(rows, a, tile);
    attention_load_queries<HD>(shared, a, tile, head, WARPS * 16);
    int32_t end = a.partial ? segment + 1 : tile.last / RONDO_SEGMENT + 1;
    total.own =
        a.total + (int64_t)blockIdx.x * WARPS * WARP_SIZE * warp_total<HD>::values + threadIdx.x;
    for (; segment < end; segment++) {
        clear_rows(rows);
        run_steps<HD, WARPS, CODES>(rows, a, tile, head, attention_list_steps(tile, segment),
                                    shared);
        if (a.partial)
            write_partial<HD>(rows, a, tile, head, segment);
        else if (tile.last >= RONDO_SEGMENT)
            merge_segment<HD>(total, rows, a, tile, segment);
    }
    if (a.partial)
        return;
    write_rows<HD>(rows, total, tile.last >= RONDO_SEGMENT, a, tile, head,
                   shared + rows.first * ATTENTION_STRIDE(HD));
}

template <int HD, int WARPS, bool CODES>
static __global__ void __launch_bounds__(WARPS *WARP_SIZE, 1) attention_rows(attention_args a)
{
    wait_for_previous();
    DYN_SHARED(uint16_t, shared);
    int32_t works = a.tiles * a.kv_heads * (a.partial ? a.segments : 1);
    for (int32_t work = (int32_t)blockIdx.x; work < works; work += (int32_t)gridDim.x) {
        run_tile<HD, WARPS, CODES>(a, work, shared);
        __syncthreads(); // before the next tile's queries
    }
}

// ---- launching ------------------------------------------------------------------------------------

template <int HD, bool CODES> static size_t shared_size(int warps, int stages)
{
    return (size_t)warps * (16 * ATTENTION_STRIDE(HD) + TILE_SCRATCH) * sizeof(uint16_t) +
           attention_ring_of<HD, 1, CODES>::type::bytes(stages);
}

// Warps and blocks of the ring, as many as fit. Returns whether any do.
template <int HD, bool CODES>
static bool choose(const struct gpu_device *device, int *warps, int32_t *stages)
{
    static const int choices[][2] = {{8, 2}, {8, 1}, {4, 1}, {4, 0}};
    for (int i = 0; i < 4; i++) {
        *warps = choices[i][0];
        *stages = choices[i][1];
        if (*stages >= attention_ring_of<HD, 1, CODES>::type::fewest &&
            shared_size<HD, CODES>(*warps, *stages) <= device->shared_limit)
            return true;
    }
    return false;
}

// Thread blocks that have running results of their own.
static int64_t resident_blocks(const struct gpu_device *device)
{
    return 2 * (int64_t)device->multiprocessors;
}

template <int HD, int WARPS, bool CODES>
static void launch(struct gpu_device *device, attention_args a)
{
    size_t shared = shared_size<HD, CODES>(WARPS, a.stages);
    a.tiles = (int32_t)((int64_t)a.n_tokens * a.group / (WARPS * 16)) + a.n_sequences;
    int64_t works = (int64_t)a.tiles * a.kv_heads * (a.partial ? a.segments : 1);
    if (a.total && works > resident_blocks(device))
        works = resident_blocks(device);
    if (!allow_shared_memory(device, attention_rows<HD, WARPS, CODES>, shared, "softmax_attention"))
        return;
    LAUNCH_NEXT(device, (attention_rows<HD, WARPS, CODES>), dim3((unsigned)works),
                dim3(WARPS * WARP_SIZE), shared, a);
    GPU_LAUNCHED(device, "softmax_attention");
}

template <int HD, bool CODES>
static void launch_fitting(struct gpu_device *device, const attention_args *args)
{
    attention_args a = *args;
    int warps;
    if (warp_total<HD>::in_registers)
        a.total = NULL;
    if (!choose<HD, CODES>(device, &warps, &a.stages))
        return;
    if (warps == 8)
        launch<HD, 8, CODES>(device, a);
    else
        launch<HD, 4, CODES>(device, a);
}

} // namespace

void GPU(softmax_attention_rows)(struct gpu_device *device, const attention_args *a)
{
    attention_by_shape(a->head_dim, a->codes, [=](auto shape) {
        launch_fitting<shape.HD, shape.CODES>(device, a);
        return true;
    });
}

bool GPU(softmax_attention_rows_fit)(const struct gpu_device *device, int32_t head_dim, bool codes)
{
    return attention_by_shape(head_dim, codes, [=](auto shape) {
        int warps;
        int32_t stages;
        return choose<shape.HD, shape.CODES>(device, &warps, &stages);
    });
}

size_t GPU(softmax_attention_rows_total)(const struct gpu_device *device, int32_t head_dim)
{
    int64_t threads = 8 * WARP_SIZE, n = head_dim == 256 ? warp_total<256>::values * threads : 0;
    return (size_t)(resident_blocks(device) * n) * sizeof(float);
}
