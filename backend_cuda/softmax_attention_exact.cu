// softmax_attention in the very order of core/ops.h, with the bits of the reference: f32 activations, and whatever
// the tensor core kernels do not take (their head sizes, alignment). Any head size that shared memory holds.
//
// A block owns a tile of 8 query rows; its 128 threads are 64 keys, or 64 channels, times every second row.
#include "backend_cuda/softmax_attention.cuh"

namespace
{

enum {
    ROWS = 8,
    THREADS = 128,
    STRIP = 64, // channels of keys and values that are in shared memory at a time
    STRIDE = STRIP + 1,
    PARTS = THREADS / STRIP,
    OF_PAGE = -2, // instead of a token: the row is in the block's page
};

// Dynamic shared memory.
struct exact_shared {
    float *q, *o, *total;     // [ROWS, hd]
    float *x;                 // [ROWS, C] products, then probabilities
    float *strip;             // [C, STRIDE]
    float *m, *l, *f;         // [ROWS] of the segment; what its results so far are multiplied by
    float *all_m, *all_l;     // [ROWS] of the segments before
    int32_t *limit;           // [ROWS] see attention_limit
    int32_t *position;        // [ROWS] -1: there is no such row
    int32_t *token;           // [C] of the keys of a step, in the batch; OF_PAGE; -1: no such key
    float *k_scale, *v_scale; // [C] of codes, else 1

    __host__ __device__ static size_t size(int32_t head_dim)
    {
        return (size_t)(3 * ROWS * head_dim + ROWS * RONDO_CHUNK + RONDO_CHUNK * STRIDE + 7 * ROWS +
                        3 * RONDO_CHUNK) *
               4;
    }
    __device__ exact_shared(float *memory, int32_t head_dim)
    {
        q = memory;
        o = q + ROWS * head_dim;
        total = o + ROWS * head_dim;
        x = total + ROWS * head_dim;
        strip = x + ROWS * RONDO_CHUNK;
        m = strip + RONDO_CHUNK * STRIDE;
        l = m + ROWS;
        f = l + ROWS;
        all_m = f + ROWS;
        all_l = all_m + ROWS;
        limit = (int32_t *)(all_l + ROWS);
        position = limit + ROWS;
        token = position + ROWS;
        k_scale = (float *)(token + RONDO_CHUNK);
        v_scale = k_scale + RONDO_CHUNK;
    }
};

struct exact_step {
    attention_step step;
    int32_t page, head;
    bool is_first; // of its segment
};

// Row `row` of a step, which exists, in a cache of codes.
static __device__ __forceinline__ attention_codes_row codes_row(const exact_shared &s,
                                                                const attention_args &a,
                                                                const attention_tile &tile,
                                                                const exact_step &step, int32_t row)
{
    if (tile.sequence.is_draft && s.token[row] != OF_PAGE)
        return attention_draft_codes(a, tile.sequence.slot, step.head,
                                     s.token[row] - tile.sequence.first_token);
    return attention_page_codes(a, step.page, step.head, row);
}

// Channels [first, first + n) of the step's keys or values.
template <typename Act>
static __device__ void load_strip(const exact_shared &s, const attention_args &a,
                                  const attention_tile &tile, const exact_step &step, int32_t first,
                                  int32_t n, bool is_value)
{
    const Act *fresh = (const Act *)(is_value ? a.v : a.k) + (int64_t)step.head * a.head_dim;
    const Act *old = (const Act *)(is_value ? a.cache_v : a.cache_k);
    int64_t stride = is_value ? a.v_stride : a.k_stride;
    for (int32_t i = (int32_t)threadIdx.x; i < RONDO_CHUNK * STRIP; i += THREADS) {
        int32_t row = i / STRIP, d = i % STRIP, token = s.token[row];
        float x = 0;
        if (a.codes && d < n && token != -1) {
            attention_codes_row at = codes_row(s, a, tile, step, row);
            const void *cache = is_value      ? at.is_draft ? a.draft_v : a.cache_v
                                : at.is_draft ? a.draft_k
                                              : a.cache_k;
            x = e4m3_f32_nan(((const uint8_t *)cache)[at.codes + first + d]);
        } else if (d < n && token == OF_PAGE)
            x = load_act(old + attention_page_row(a, step.page, step.head, row) + first + d);
        else if (d < n && token >= 0)
            x = load_act(fresh + token * stride + first + d);
        s.strip[row * STRIDE + d] = x;
    }
}

// What the rows see of the step, and where its keys are.
static __device__ void prepare(const exact_shared &s, const attention_args &a,
                               const attention_tile &tile, const exact_step &step)
{
    int32_t i = (int32_t)threadIdx.x, position = step.step.block * RONDO_CHUNK + i;
    if (i < RONDO_CHUNK) {
        s.token[i] = position < tile.sequence.start ? (int32_t)OF_PAGE
                                                    : attention_token(a, tile, step.step, position);
        s.k_scale[i] = s.v_scale[i] = 1;
        if (a.codes && s.token[i] != -1) {
            attention_codes_row at = codes_row(s, a, tile, step, i);
            const char *k = (const char *)(at.is_draft ? a.draft_k : a.cache_k);
            const char *v = (const char *)(at.is_draft ? a.draft_v : a.cache_v);
            s.k_scale[i] = *(const float *)(k + at.scale);
            s.v_scale[i] = *(const float *)(v + at.scale);
        }
    }
    if (i < ROWS)
        s.limit[i] = attention_limit(step.step, (tile.row + i) / a.group, s.position[i]);
}

template <typename Act>
static __device__ void multiply_keys(const exact_shared &s, const attention_args &a,
                                     const attention_tile &tile, const exact_step &step)
{
    int32_t j = (int32_t)threadIdx.x % STRIP, part = (int32_t)threadIdx.x / STRIP;
    float x[ROWS / PARTS] = {0};
    for (int32_t first = 0; first < a.head_dim; first += STRIP) {
        int32_t n = a.head_dim - first < STRIP ? a.head_dim - first : STRIP;
        __syncthreads();
        load_strip<Act>(s, a, tile, step, first, n, false);
        __syncthreads();
        for (int32_t d = 0; d < n; d++) {
            float k = s.strip[j * STRIDE + d];
#pragma unroll
            for (int r = 0; r < ROWS / PARTS; r++)
                x[r] = fmaf(s.q[(r * PARTS + part) * a.head_dim + first + d], k, x[r]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS / PARTS; r++)
        s.x[(r * PARTS + part) * RONDO_CHUNK + j] = x[r] * s.k_scale[j] * a.scale;
}

// 16 threads to a row. The probabilities are already multiplied by the values' scales.
static __device__ void make_probabilities(const exact_shared &s, bool is_first)
{
    int32_t r = (int32_t)threadIdx.x / 16, lane = (int32_t)threadIdx.x % 16;
    int32_t limit = s.limit[r];
    float *x = s.x + r * RONDO_CHUNK, before = s.m[r], m = is_first ? -INFINITY : before, sum = 0;
    for (int32_t j = lane; j < RONDO_CHUNK; j += 16)
        if (j <= limit)
            m = x[j] > m ? x[j] : m;
    for (int mask = 8; mask; mask /= 2) {
        float other = WARP_XOR(m, mask);
        m = other > m ? other : m;
    }
    for (int32_t j = lane; j < RONDO_CHUNK; j += 16)
        if (j <= limit) {
            x[j] = exp_f32(x[j] - m);
            sum = j < 16 ? x[j] : sum + x[j];
            x[j] *= s.v_scale[j];
        }
    sum = sum_tree16(sum);
    if (lane == 0 && limit >= 0) {
        float f = is_first ? 0.0f : exp_f32(before - m);
        s.l[r] = is_first ? sum : fmaf(s.l[r], f, sum);
        s.m[r] = m;
        s.f[r] = f;
    }
}

template <typename Act>
static __device__ void multiply_values(const exact_shared &s, const attention_args &a,
                                       const attention_tile &tile, const exact_step &step)
{
    int32_t c = (int32_t)threadIdx.x % STRIP, part = (int32_t)threadIdx.x / STRIP;
    for (int32_t first = 0; first < a.head_dim; first += STRIP) {
        int32_t n = a.head_dim - first < STRIP ? a.head_dim - first : STRIP;
        __syncthreads();
        load_strip<Act>(s, a, tile, step, first, n, true);
        __syncthreads();
        for (int32_t r = part; r < ROWS && c < n; r += PARTS) {
            int32_t limit = s.limit[r] < RONDO_CHUNK ? s.limit[r] : RONDO_CHUNK - 1;
            if (limit < 0)
                continue;
            float *at = s.o + r * a.head_dim + first + c, o = step.is_first ? 0.0f : *at * s.f[r];
            for (int32_t j = 0; j <= limit; j++)
                o = fmaf(s.x[r * RONDO_CHUNK + j], s.strip[j * STRIDE + c], o);
            *at = o;
        }
    }
    __syncthreads();
}

template <typename Act>
static __device__ void run_segment(const exact_shared &s, const attention_args &a,
                                   const attention_tile &tile, int32_t head, int32_t segment)
{
    attention_steps steps = attention_list_steps(tile, segment);
    for (int32_t i = 0; i < steps.n; i++) {
        exact_step step;
        step.step = attention_step_at(tile, steps, i);
        step.page = attention_page(a, tile, step.step.block);
        step.head = head;
        step.is_first = step.step.block % (RONDO_SEGMENT / RONDO_CHUNK) == 0;
        prepare(s, a, tile, step);
        multiply_keys<Act>(s, a, tile, step);
        __syncthreads();
        make_probabilities(s, step.is_first);
        multiply_values<Act>(s, a, tile, step);
    }
}

// Results of a segment: kept apart, or merged into those of the segments before it.
static __device__ void end_segment(const exact_shared &s, const attention_args &a,
                                   const attention_tile &tile, int32_t head, int32_t segment)
{
    for (int32_t r = 0; r < tile.rows; r++) {
        int32_t row = tile.row + r;
        if (s.position[r] < segment * RONDO_SEGMENT)
            continue;
        float m = s.m[r], l = s.l[r];
        float *o = s.o + r * a.head_dim, *total = s.total + r * a.head_dim;
        if (a.partial) {
            int64_t at = attention_partial_row(a, tile, row / a.group,
                                               head * a.group + row % a.group, segment);
            for (int32_t c = (int32_t)threadIdx.x; c < a.head_dim && at >= 0; c += THREADS)
                a.partial[at * a.head_dim + c] = o[c];
            if (threadIdx.x == 0 && at >= 0) {
                a.partial_ml[2 * at] = m;
                a.partial_ml[2 * at + 1] = l;
            }
            continue;
        }
        float all_m = m, all_l = l;
        if (segment == 0) {
            for (int32_t c = (int32_t)threadIdx.x; c < a.head_dim; c += THREADS)
                total[c] = o[c];
        } else {
            all_m = s.all_m[r];
            all_l = s.all_l[r];
            attention_merge<attention_exact> merge(all_m, all_l, m, l);
            for (int32_t c = (int32_t)threadIdx.x; c < a.head_dim; c += THREADS)
                total[c] = merge(total[c], o[c]);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            s.all_m[r] = all_m;
            s.all_l[r] = all_l;
        }
    }
    __syncthreads();
}

// Grid: tiles, key/value heads, segments if they are kept apart.
template <typename Act>
static __global__ void __launch_bounds__(THREADS) attention_exact_rows(attention_args a)
{
    wait_for_previous();
    DYN_SHARED(float, memory);
    exact_shared s(memory, a.head_dim);
    int32_t head = (int32_t)blockIdx.y, segment = (int32_t)blockIdx.z;
    attention_tile tile = attention_find_tile(a, (int32_t)blockIdx.x, ROWS);
    if (tile.number < 0)
        return;
    if (segment == 0)
        attention_store<Act>(a, tile, head, a.head_dim);
    if (tile.last < segment * RONDO_SEGMENT)
        return;
    int32_t i = (int32_t)threadIdx.x;
    if (i < ROWS)
        s.position[i] = i < tile.rows ? attention_position(a, tile, (tile.row + i) / a.group) : -1;
    for (; i < ROWS * a.head_dim; i += THREADS) {
        int32_t r = i / a.head_dim, row = tile.row + r;
        s.q[i] = 0;
        if (r < tile.rows)
            s.q[i] = load_act(
                (const Act *)a.q + (tile.sequence.first_token + row / a.group) * a.q_stride +
                (int64_t)(head * a.group + row % a.group) * a.head_dim + i % a.head_dim);
    }
    if (threadIdx.x < ROWS)
        s.m[threadIdx.x] = s.l[threadIdx.x] = 0;
    __syncthreads();
    int32_t end = a.partial ? segment + 1 : tile.last / RONDO_SEGMENT + 1;
    for (; segment < end; segment++) {
        run_segment<Act>(s, a, tile, head, segment);
        end_segment(s, a, tile, head, segment);
    }
    for (i = (int32_t)threadIdx.x; i < tile.rows * a.head_dim && !a.partial; i += THREADS) {
        int32_t row = tile.row + i / a.head_dim;
        attention_put(a,
                      (tile.sequence.first_token + row / a.group) * a.out_stride +
                          (int64_t)(head * a.group + row % a.group) * a.head_dim + i % a.head_dim,
                      s.total[i] * (1.0f / s.all_l[i / a.head_dim]));
    }
}

template <typename Act> static void launch(struct gpu_device *device, const attention_args *a)
{
    size_t shared = exact_shared::size(a->head_dim);
    int64_t tiles = (int64_t)a->n_tokens * a->group / ROWS + a->n_sequences;
    dim3 grid((unsigned)tiles, (unsigned)a->kv_heads, a->partial ? (unsigned)a->segments : 1);
    if (!allow_shared_memory(device, attention_exact_rows<Act>, shared,
                             "softmax_attention: shared memory"))
        return;
    LAUNCH_NEXT(device, (attention_exact_rows<Act>), grid, dim3(THREADS), shared, *a);
    GPU_LAUNCHED(device, "softmax_attention");
}

} // namespace

void GPU(softmax_attention_exact)(struct gpu_device *device, const attention_args *a, bool is_f32)
{
    if (is_f32)
        launch<float>(device, a);
    else
        launch<uint16_t>(device, a);
}

bool GPU(softmax_attention_exact_fits)(const struct gpu_device *device, int32_t head_dim)
{
    return exact_shared::size(head_dim) <= device->shared_limit;
}
