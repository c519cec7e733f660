// softmax_attention for few query rows of each sequence (decoding, small trees): a block owns up to 16 rows, the
// query heads of a key/value head for one or a few tokens, and one segment of 1024 positions. Results of several
// segments go to the workspace, and the combine kernel merges them.
//
// Keys and values come through a ring of 64-blocks, so that some are always on their way. A round does P of them
// with four warps each: a warp multiplies 16 of the 64 keys, all trade their products through shared memory, each
// makes all probabilities, one block of positions after the other, and multiplies its part of the values' channels.
// P is 2 where there are fewer thread blocks than multiprocessors: then the bound is how long a round takes, not
// memory, and two blocks take little longer than one.
#include "backend_cuda/softmax_attention_codes.cuh"

namespace
{

// Of a thread block, for rounds of P blocks of positions.
#define WARPS(P) ((P)*ATTENTION_TILES)
#define THREADS(P) (WARPS(P) * WARP_SIZE)

// Tiles of 16 channels of a warp, the last of which some warps do not have.
template <int HD, int P> __host__ __device__ constexpr int warp_tiles()
{
    return (HD / 16 + WARPS(P) - 1) / WARPS(P);
}

template <int HD, int P> struct few_rows {
    tile_a q[HD / 16];
    tile_c o[warp_tiles<HD, P>()];
    float m[TILE_ROWS], l[TILE_ROWS];
    int32_t position[TILE_ROWS]; // -1: there is no such row
};

// Parts of the dynamic shared memory.
template <int HD, int P, bool CODES> struct few_shared {
    float *products; // [P, 4, TILE_C, WARP_SIZE]
    uint16_t *q, *scratch;
    typename attention_ring_of<HD, P, CODES>::type ring;

    __host__ __device__ static constexpr size_t fixed()
    {
        return P * ATTENTION_TILES * 256 * sizeof(float) +
               (16 * ATTENTION_STRIDE(HD) + WARPS(P) * TILE_SCRATCH) * sizeof(uint16_t);
    }
    __host__ __device__ static constexpr size_t size(int32_t stages)
    {
        return fixed() + attention_ring_of<HD, P, CODES>::type::bytes(stages);
    }
    __device__ __forceinline__ few_shared(unsigned char *memory, int32_t stages)
    {
        products = (float *)memory;
        q = (uint16_t *)(products + P * ATTENTION_TILES * 256);
        scratch = q + 16 * ATTENTION_STRIDE(HD);
        ring.memory = scratch + WARPS(P) * TILE_SCRATCH;
        ring.stages = stages;
    }
};

// The 16 x 64 dot products of each step of a round, of which `n` exist, to shared memory.
template <int HD, int P, bool CODES>
static __device__ __forceinline__ void multiply_keys(const few_rows<HD, P> &rows,
                                                     const few_shared<HD, P, CODES> &shared,
                                                     int32_t first, int32_t n)
{
    int warp = (int)(threadIdx.x / WARP_SIZE), step = warp / ATTENTION_TILES;
    if (step < n) {
        const uint16_t *k =
            shared.ring.keys(first + step) + warp % ATTENTION_TILES * 16 * ATTENTION_STRIDE(HD);
        tile_c own;
        tile_clear(own);
#pragma unroll
        for (int d = 0; d < HD / 16; d++) {
            tile_b keys;
            tile_load_b(keys, k + d * 16, ATTENTION_STRIDE(HD));
            tile_mma(own, rows.q[d], keys);
        }
#pragma unroll
        for (int i = 0; i < TILE_C; i++)
            shared.products[(warp * TILE_C + i) * WARP_SIZE + tile_lane()] = own.r[i];
    }
    __syncthreads();
}

// The warp's channels of the values of a step.
template <int HD, int P>
static __device__ __forceinline__ void
multiply_values(few_rows<HD, P> &rows, const tile_a (&p)[ATTENTION_TILES],
                const float (&f)[TILE_ROWS], const uint16_t *v)
{
#pragma unroll
    for (int c = 0; c < warp_tiles<HD, P>(); c++) {
        int channel = ((int)(threadIdx.x / WARP_SIZE) + c * WARPS(P)) * 16;
        if (channel >= HD)
            break;
        attention_scale(rows.o[c], f);
#pragma unroll
        for (int n = 0; n < ATTENTION_TILES; n++) {
            tile_b values;
            tile_load_b_transposed(values, v + n * 16 * ATTENTION_STRIDE(HD) + channel,
                                   ATTENTION_STRIDE(HD));
            tile_mma(rows.o[c], p[n], values);
        }
    }
}

template <int HD, int P, bool CODES>
static __device__ __forceinline__ void
run_round(few_rows<HD, P> &rows, const few_shared<HD, P, CODES> &shared, const attention_args &a,
          const attention_tile &tile, const attention_steps &steps, int32_t first)
{
    uint16_t *scratch = shared.scratch + threadIdx.x / WARP_SIZE * TILE_SCRATCH;
    multiply_keys(rows, shared, first, steps.n - first);
#pragma unroll
    for (int s = 0; s < P; s++) {
        if (first + s >= steps.n)
            break;
        attention_step step = attention_step_at(tile, steps, first + s);
        tile_c x[ATTENTION_TILES];
        tile_a p[ATTENTION_TILES];
        int32_t limit[TILE_ROWS];
        float f[TILE_ROWS];
#pragma unroll
        for (int n = 0; n < ATTENTION_TILES; n++)
#pragma unroll
            for (int i = 0; i < TILE_C; i++)
                x[n].r[i] = shared.products[((s * ATTENTION_TILES + n) * TILE_C + i) * WARP_SIZE +
                                            tile_lane()];
#pragma unroll
        for (int slot = 0; slot < TILE_ROWS; slot++)
            limit[slot] = attention_limit(step, (tile.row + tile_slot_row(slot)) / a.group,
                                          rows.position[slot]);
        if constexpr (CODES)
            attention_scale_columns(x, shared.ring.key_scales(first + s));
        attention_softmax(x, limit, a.scale, rows.m, rows.l, f);
        if constexpr (CODES)
            attention_scale_columns(x, shared.ring.value_scales(first + s));
#pragma unroll
        for (int n = 0; n < ATTENTION_TILES; n++)
            tile_a_from_c(p[n], x[n], scratch);
        multiply_values(rows, p, f, shared.ring.values(first + s));
    }
}

// All steps of a segment, through the ring.
template <int HD, int P, bool CODES>
static __device__ __forceinline__ void
run_steps(few_rows<HD, P> &rows, const few_shared<HD, P, CODES> &shared, const attention_args &a,
          const attention_tile &tile, const attention_steps &steps, int32_t head)
{
    attention_load_queries<HD>(shared.q, a, tile, head, 16);
    shared.ring.begin(a, tile, steps, head);
    for (int32_t round = 0; round * P < steps.n; round++) {
        shared.ring.next(a, tile, steps, round, head);
        if (round == 0) {
#pragma unroll
            for (int d = 0; d < HD / 16; d++)
                tile_load_a(rows.q[d], shared.q + d * 16, ATTENTION_STRIDE(HD));
        }
        run_round(rows, shared, a, tile, steps, round * P);
    }
}

template <int HD, int P>
static __device__ __forceinline__ void
write_rows(const few_rows<HD, P> &rows, const attention_args &a, const attention_tile &tile,
           int32_t head, int32_t segment)
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
        for (int c = 0; c < warp_tiles<HD, P>(); c++) {
            int channel = (warp + c * WARPS(P)) * 16;
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
template <int HD, int P, bool CODES>
static __global__ void __launch_bounds__(THREADS(P), 2 / P) attention_few(attention_args a)
{
    wait_for_previous();
    DYN_SHARED(unsigned char, memory);
    few_shared<HD, P, CODES> shared(memory, a.stages);
    few_rows<HD, P> rows;
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
    for (int c = 0; c < warp_tiles<HD, P>(); c++)
        tile_clear(rows.o[c]);
    run_steps(rows, shared, a, tile, attention_list_steps(tile, segment), head);
    write_rows(rows, a, tile, head, segment);
}

// ---- launching ------------------------------------------------------------------------------------

// Rounds that the ring holds, up to 4, with `blocks` thread blocks on a multiprocessor; -1: not even the least.
template <int HD, int P, bool CODES>
static int32_t ring_stages(const struct gpu_device *device, int64_t blocks)
{
    const int64_t kib = 1024; // that the system takes of each thread block's part
    int64_t limit = ((int64_t)device->shared_limit + kib) / blocks - kib;
    for (int32_t stages = 4; stages >= attention_ring_of<HD, P, CODES>::type::fewest; stages--)
        if ((int64_t)few_shared<HD, P, CODES>::size(stages) <= limit)
            return stages;
    return -1;
}

template <int HD, int P, bool CODES> static void launch(struct gpu_device *device, attention_args a)
{
    size_t shared = few_shared<HD, P, CODES>::size(a.stages);
    dim3 grid((unsigned)a.tiles, (unsigned)a.kv_heads, a.partial ? (unsigned)a.segments : 1);
    if (!allow_shared_memory(device, attention_few<HD, P, CODES>, shared, "softmax_attention"))
        return;
    LAUNCH_NEXT(device, (attention_few<HD, P, CODES>), grid, dim3(THREADS(P)), shared, a);
    GPU_LAUNCHED(device, "softmax_attention");
}

// Few thread blocks get rounds of two, where two of these fit; many share a multiprocessor, where that leaves them
// two rounds each.
template <int HD, bool CODES>
static void launch_fitting(struct gpu_device *device, const attention_args *args)
{
    attention_args a = *args;
    a.tiles = (int32_t)((int64_t)a.n_tokens * a.group / 16) + a.n_sequences;
    int64_t blocks = (int64_t)a.tiles * a.kv_heads * (a.partial ? a.segments : 1);
    a.stages = ring_stages<HD, 2, CODES>(device, 1);
    if (blocks <= device->multiprocessors && a.stages >= 2)
        return launch<HD, 2, CODES>(device, a);
    a.stages = ring_stages<HD, 1, CODES>(device, 2);
    if (a.stages < 2)
        a.stages = ring_stages<HD, 1, CODES>(device, 1);
    launch<HD, 1, CODES>(device, a);
}

#undef WARPS
#undef THREADS

} // namespace

void GPU(softmax_attention_few)(struct gpu_device *device, const attention_args *a)
{
    attention_by_shape(a->head_dim, a->codes, [=](auto shape) {
        launch_fitting<shape.HD, shape.CODES>(device, a);
        return true;
    });
}

bool GPU(softmax_attention_few_fit)(const struct gpu_device *device, int32_t head_dim, bool codes)
{
    return attention_by_shape(head_dim, codes, [=](auto shape) {
        return ring_stages<shape.HD, 1, shape.CODES>(device, 1) >= 0;
    });
}
