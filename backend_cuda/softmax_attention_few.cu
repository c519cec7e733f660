// softmax_attention for few query rows of each sequence (decoding, small trees): a block owns up to 16 rows, the
// query heads of a key/value head for one or a few tokens, and one segment of 1024 positions. Results of several
// segments go to the workspace, and the combine kernel merges them.
//
// The bound is memory: keys and values come through a ring of 64-blocks, so that one or more are always on their
// way. The four warps share a block's work: each multiplies 16 of the 64 keys, all trade their products through
// shared memory, each makes all probabilities and multiplies its part of the values' channels.
#include "backend_cuda/softmax_attention_tile.cuh"

namespace
{

#define ATTENTION_WARPS 4
#define ATTENTION_THREADS (ATTENTION_WARPS * WARP_SIZE)

// Tiles of 16 channels of a warp, the last of which some warps do not have.
template <int HD> __host__ __device__ constexpr int warp_tiles()
{
    return (HD / 16 + ATTENTION_WARPS - 1) / ATTENTION_WARPS;
}

template <int HD> struct few_rows {
    tile_a q[HD / 16];
    tile_c o[warp_tiles<HD>()];
    float m[TILE_ROWS], l[TILE_ROWS];
    int32_t position[TILE_ROWS]; // -1: there is no such row
};

// Parts of the dynamic shared memory.
template <int HD> struct few_shared {
    float *products; // [4, TILE_C, WARP_SIZE]
    uint16_t *q, *scratch;
    attention_ring<HD> ring;

    __host__ __device__ static constexpr size_t fixed()
    {
        return ATTENTION_TILES * 256 * sizeof(float) +
               (16 * ATTENTION_STRIDE(HD) + ATTENTION_WARPS * TILE_SCRATCH) * sizeof(uint16_t);
    }
    __host__ __device__ static constexpr size_t stage()
    {
        return 2 * ATTENTION_BLOCK(HD) * sizeof(uint16_t);
    }
    __device__ __forceinline__ few_shared(unsigned char *memory, int32_t stages)
    {
        products = (float *)memory;
        q = (uint16_t *)(products + ATTENTION_TILES * 256);
        scratch = q + 16 * ATTENTION_STRIDE(HD);
        ring.memory = scratch + ATTENTION_WARPS * TILE_SCRATCH;
        ring.stages = stages;
    }
};

// All 16 x 64 dot products, in every warp.
template <int HD>
static __device__ __forceinline__ void multiply_keys(tile_c (&x)[ATTENTION_TILES],
                                                     const few_rows<HD> &rows, const uint16_t *k,
                                                     float *products)
{
    int warp = (int)(threadIdx.x / WARP_SIZE);
    tile_c own;
    tile_clear(own);
#pragma unroll
    for (int d = 0; d < HD / 16; d++) {
        tile_b keys;
        tile_load_b(keys, k + warp * 16 * ATTENTION_STRIDE(HD) + d * 16, ATTENTION_STRIDE(HD));
        tile_mma(own, rows.q[d], keys);
    }
#pragma unroll
    for (int i = 0; i < TILE_C; i++)
        products[(warp * TILE_C + i) * WARP_SIZE + tile_lane()] = own.r[i];
    __syncthreads();
#pragma unroll
    for (int n = 0; n < ATTENTION_TILES; n++)
#pragma unroll
        for (int i = 0; i < TILE_C; i++)
            x[n].r[i] = products[(n * TILE_C + i) * WARP_SIZE + tile_lane()];
}

template <int HD>
static __device__ __forceinline__ void run_step(few_rows<HD> &rows, const few_shared<HD> &shared,
                                                const attention_args &a, const attention_tile &tile,
                                                const attention_step &step, int32_t number)
{
    int warp = (int)(threadIdx.x / WARP_SIZE);
    tile_c x[ATTENTION_TILES];
    tile_a p[ATTENTION_TILES];
    int32_t limit[TILE_ROWS];
    float f[TILE_ROWS];
    multiply_keys(x, rows, shared.ring.keys(number), shared.products);
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++)
        limit[slot] =
            attention_limit(step, (tile.row + tile_slot_row(slot)) / a.group, rows.position[slot]);
    attention_softmax(x, limit, a.scale, rows.m, rows.l, f);
#pragma unroll
    for (int n = 0; n < ATTENTION_TILES; n++)
        tile_a_from_c(p[n], x[n], shared.scratch + warp * TILE_SCRATCH);
#pragma unroll
    for (int c = 0; c < warp_tiles<HD>(); c++) {
        int channel = (warp + c * ATTENTION_WARPS) * 16;
        if (channel >= HD)
            break;
        attention_scale(rows.o[c], f);
#pragma unroll
        for (int n = 0; n < ATTENTION_TILES; n++) {
            tile_b values;
            tile_load_b_transposed(
                values, shared.ring.values(number) + n * 16 * ATTENTION_STRIDE(HD) + channel,
                ATTENTION_STRIDE(HD));
            tile_mma(rows.o[c], p[n], values);
        }
    }
}

// All steps of a segment, through the ring.
template <int HD>
static __device__ __forceinline__ void
run_steps(few_rows<HD> &rows, const few_shared<HD> &shared, const attention_args &a,
          const attention_tile &tile, const attention_steps &steps, int32_t head)
{
    attention_load_queries<HD>(shared.q, a, tile, head, 16);
    shared.ring.begin(a, tile, steps, head);
    for (int32_t i = 0; i < steps.n; i++) {
        shared.ring.next(a, tile, steps, i, head);
        if (i == 0) {
#pragma unroll
            for (int d = 0; d < HD / 16; d++)
                tile_load_a(rows.q[d], shared.q + d * 16, ATTENTION_STRIDE(HD));
        }
        run_step(rows, shared, a, tile, attention_step_at(tile, steps, i), i);
    }
}

template <int HD>
static __device__ __forceinline__ void write_rows(const few_rows<HD> &rows, const attention_args &a,
                                                  const attention_tile &tile, int32_t head,
                                                  int32_t segment)
{
    int warp = (int)(threadIdx.x / WARP_SIZE);
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++) {
        int32_t row = tile.row + tile_slot_row(slot), token = row / a.group;
        int32_t query_head = head * a.group + row % a.group;
        if (rows.position[slot] < segment * RONDO_SEGMENT)
            continue;
        int64_t to = (tile.sequence.first_token + token) * a.out_stride + query_head * HD;
        float r = 1.0f / rows.l[slot];
        if (a.partial) {
            int64_t at = attention_partial_row(a, tile, token, query_head, segment);
            if (at < 0)
                continue;
            a.partial_ml[2 * at] = rows.m[slot];
            a.partial_ml[2 * at + 1] = rows.l[slot];
            to = at * HD;
        }
#pragma unroll
        for (int c = 0; c < warp_tiles<HD>(); c++) {
            int channel = (warp + c * ATTENTION_WARPS) * 16;
#pragma unroll
            for (int i = 0; i < TILE_C; i++)
                if (tile_slot(i) == slot && channel < HD) {
                    int64_t at = to + channel + tile_column(i);
                    if (a.partial)
                        a.partial[at] = rows.o[c].r[i];
                    else
                        ((uint16_t *)a.out)[at] =
                            f32_bf16(attention_fast::finish(rows.o[c].r[i] * r));
                }
        }
    }
}

// Grid: tiles, key/value heads, segments.
template <int HD>
static __global__ void __launch_bounds__(ATTENTION_THREADS, 2) attention_few(attention_args a)
{
    DYN_SHARED(unsigned char, memory);
    few_shared<HD> shared(memory, a.stages);
    few_rows<HD> rows;
    int32_t head = (int32_t)blockIdx.y, segment = (int32_t)blockIdx.z;
    attention_tile tile = attention_find_tile(a, (int32_t)blockIdx.x, 16);
    if (tile.number < 0)
        return;
    if (segment == 0)
        attention_store<uint4>(a, tile, head, HD / 8);
    if (tile.last < segment * RONDO_SEGMENT)
        return;
#pragma unroll
    for (int slot = 0; slot < TILE_ROWS; slot++) {
        int32_t row = tile_slot_row(slot);
        rows.m[slot] = -INFINITY;
        rows.l[slot] = 0;
        rows.position[slot] =
            row < tile.rows ? attention_position(a, tile, (tile.row + row) / a.group) : -1;
    }
#pragma unroll
    for (int c = 0; c < warp_tiles<HD>(); c++)
        tile_clear(rows.o[c]);
    run_steps(rows, shared, a, tile, attention_list_steps(tile, segment), head);
    write_rows(rows, a, tile, head, segment);
}

// ---- launching ------------------------------------------------------------------------------------

// Blocks of the ring: as many, up to 4, as let two thread blocks share a multiprocessor; else as many as fit.
template <int HD> static int32_t ring_stages(const struct gpu_device *device)
{
    const int64_t kib = 1024; // that the system takes of each thread block's part
    int64_t limit = (int64_t)device->shared_limit, fixed = (int64_t)few_shared<HD>::fixed();
    int64_t stage = (int64_t)few_shared<HD>::stage();
    int64_t stages = ((limit + kib) / 2 - kib - fixed) / stage;
    if (stages < 2)
        stages = (limit - fixed) / stage;
    return stages < 0 ? 0 : stages > 4 ? 4 : (int32_t)stages;
}

template <int HD> static void launch(struct gpu_device *device, attention_args a)
{
    a.stages = ring_stages<HD>(device);
    a.tiles = (int32_t)((int64_t)a.n_tokens * a.group / 16) + a.n_sequences;
    size_t shared = few_shared<HD>::fixed() + (size_t)a.stages * few_shared<HD>::stage();
    dim3 grid((unsigned)a.tiles, (unsigned)a.kv_heads, a.partial ? (unsigned)a.segments : 1);
    if (GPU(failed)(device,
                    cudaFuncSetAttribute((const void *)(attention_few<HD>),
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
                    "softmax_attention: shared memory"))
        return;
    LAUNCH((attention_few<HD>), grid, dim3(ATTENTION_THREADS), shared, device->stream, a);
    GPU_LAUNCHED(device, "softmax_attention");
}

} // namespace

void GPU(softmax_attention_few)(struct gpu_device *device, const attention_args *a)
{
    switch (a->head_dim) {
    case 64:
        return launch<64>(device, *a);
    case 96:
        return launch<96>(device, *a);
    case 128:
        return launch<128>(device, *a);
    case 256:
        return launch<256>(device, *a);
    }
}

bool GPU(softmax_attention_few_fit)(const struct gpu_device *device, int32_t head_dim)
{
    switch (head_dim) {
    case 64:
        return ring_stages<64>(device) > 0;
    case 96:
        return ring_stages<96>(device) > 0;
    case 128:
        return ring_stages<128>(device) > 0;
    case 256:
        return ring_stages<256>(device) > 0;
    }
    return false;
}
