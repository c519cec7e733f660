// softmax_attention: which kernels do a batch, and the merging of segments that were computed apart.
//
// Kernels, chosen by the op's shapes and the device alone, never by the batch:
//   tensor cores   bf16 in and out, of head size 64, 96, 128 or 256 in rows of 16-byte units: softmax_attention_rows.cu for
//                  many query rows of a sequence, softmax_attention_few.cu for few, with the same bits
//   exact          everything else, f32 among it, in the contract's order: softmax_attention_exact.cu
// Segments of 1024 positions are computed apart, a thread block each, where there are too few rows to fill the
// device otherwise, and as far as the workspace holds their results; this does not change a bit.
// The kernels also store the batch's keys and values: nobody reads these from the caches in the same op. Caches of
// codes are stored by a kernel of their own, first: others read the rounded rows. The tensor core kernels widen codes
// to bf16, which is exact, in shared memory, and multiply products and probabilities by the rows' scales.
//
// Accuracy of the tensor core kernels, under emulation: probabilities are rounded to bf16 for their product with the
// values, which is an NMSE of 1e-6; against the reference's rounded results it is 6e-6, rounding of both included.
//
// Floors for Ring-mini (16 heads on 4 key/value heads of 128 channels, bf16) on an H100 (3.35 TB/s, 989 TFLOP/s):
//   decoding       bytes = 2 KiB a position: 8.4 MB and 2.5 us at 4 Ki, 134 MB and 40 us at 64 Ki, per sequence;
//                  results of segments add 16 * 520 bytes to each 2 MiB of keys and values, written and read
//   prefill 32 Ki  4.4 TFLOP, 4.4 ms; the rate of mma.sync, about 60 % of that of wgmma, makes it 7.3 ms
// Version 1, prediction: decoding at 64 Ki 50 us (256 thread blocks, bound by memory), at 4 Ki 15 us (16 thread
// blocks, bound by the latency of 16 blocks of positions one after the other); prefill 32 Ki 13 ms.
// Outcome: checked under emulation, never run on a device.
#include "backend_cuda/softmax_attention_tile.cuh"

namespace
{

enum {
    COMBINE_THREADS = 128,
    STORE_THREADS = 256,
    FEW_ROWS = 32, // of a sequence: from here on tiles of 16 rows read keys and values too often
    APART_TOKENS = 64, // whose segments the workspace has room for at full depth
    APART_LAUNCHES = 4 // for which a batch of many tokens is still computed apart
};

// ---- merging --------------------------------------------------------------------------------------

// Shared memory of the combine kernel, for as many segments as it has threads.
struct combine_shared {
    float *top, *f, *g,
        *l; // running maximum; what the results so far and the segment's count; sums

    __device__ explicit combine_shared(float *memory)
    {
        top = memory;
        f = top + COMBINE_THREADS;
        g = f + COMBINE_THREADS;
        l = g + COMBINE_THREADS;
    }
};

// Row of partial results `row` of this launch: the token in the batch and its position, or -1.
static __device__ int32_t combine_token(const attention_args &a, int64_t row, int32_t *position)
{
    int32_t index = a.first_index + (int32_t)(row / a.heads), token = index, number;
    if (a.selection == ATTENTION_SMALL) {
        number = index / a.small_tokens;
        token = index % a.small_tokens;
    } else {
        number = index < a.n_tokens ? a.sequence_of[index] : -1;
    }
    if (number < 0 || number >= a.n_sequences)
        return -1;
    struct rondo_batch_sequence sequence = a.sequences[number];
    if (a.selection != ATTENTION_SMALL)
        token -= sequence.first_token;
    else if (sequence.n_tokens > a.small_tokens)
        return -1;
    if (sequence.slot < 0 || token < 0 || token >= sequence.n_tokens)
        return -1;
    *position =
        sequence.is_draft ? a.position[sequence.first_token + token] : sequence.start + token;
    return sequence.first_token + token;
}

// f, g and l of segments [first, first + n), from the maximum m of those before it. Returns the new maximum.
template <class Exp>
static __device__ float combine_factors(const combine_shared &s, const float *ml, int32_t first,
                                        int32_t n, float m)
{
    int32_t i = (int32_t)threadIdx.x;
    float own = -INFINITY, l = 0;
    if (i < n) {
        own = ml[2 * (first + i)];
        l = ml[2 * (first + i) + 1];
    }
    __syncthreads(); // what stands there has been read
    s.top[i] = i == 0 && m > own ? m : own;
    for (int32_t step = 1; step < n; step *= 2) {
        __syncthreads();
        float other = i >= step ? s.top[i - step] : -INFINITY;
        __syncthreads();
        if (other > s.top[i])
            s.top[i] = other;
    }
    __syncthreads();
    s.f[i] = Exp::exp((i == 0 ? m : s.top[i - 1]) - s.top[i]);
    s.g[i] = Exp::exp(own - s.top[i]);
    s.l[i] = l * s.g[i];
    __syncthreads();
    return s.top[n - 1];
}

// One row to a block: out = results of its segments, merged in order.
template <class Exp>
static __global__ void __launch_bounds__(COMBINE_THREADS) attention_combine(attention_args a)
{
    wait_for_previous();
    DYN_SHARED(float, memory);
    combine_shared s(memory);
    int64_t row = blockIdx.x;
    int32_t position, token = combine_token(a, row, &position);
    if (token < 0)
        return;
    int32_t n = position / RONDO_SEGMENT + 1;
    const float *ml = a.partial_ml + row * a.segments * 2;
    for (int32_t channel = 0; channel < a.head_dim; channel += COMBINE_THREADS) {
        int32_t c = channel + (int32_t)threadIdx.x;
        const float *o = a.partial + row * a.segments * a.head_dim + c;
        bool exists = c < a.head_dim;
        float m = -INFINITY, l = 0, total = 0;
        for (int32_t first = 0; first < n; first += COMBINE_THREADS) {
            int32_t count = n - first < COMBINE_THREADS ? n - first : COMBINE_THREADS;
            m = combine_factors<Exp>(s, ml, first, count, m);
#pragma unroll 8
            for (int32_t i = 0; i < count; i++) {
                float next = exists ? o[(int64_t)(first + i) * a.head_dim] : 0;
                bool is_first = first + i == 0;
                l = is_first ? ml[1] : fmaf(l, s.f[i], s.l[i]);
                total = is_first ? next : fmaf(total, s.f[i], next * s.g[i]);
            }
        }
        if (exists)
            attention_put(a, token * a.out_stride + row % a.heads * a.head_dim + c,
                          Exp::finish(total * (1.0f / l)));
    }
}

// ---- storing codes --------------------------------------------------------------------------------

// Token `token` of the batch, all its rows of keys and values, a warp each.
template <typename Act>
static __device__ __forceinline__ void store_codes(const attention_args &a, int32_t token,
                                                   const struct rondo_batch_sequence &sequence,
                                                   const int32_t *pages, int32_t row)
{
    int32_t t = token - sequence.first_token, head = row / 2, lane = (int)threadIdx.x % WARP_SIZE;
    int32_t position = sequence.start + t;
    bool is_value = row % 2, is_draft = sequence.is_draft, is_finite = true;
    const Act *x =
        is_value ? (const Act *)a.v + token * a.v_stride : (const Act *)a.k + token * a.k_stride;
    attention_codes_row to = is_draft ? attention_draft_codes(a, sequence.slot, head, t)
                                      : attention_page_codes(a, pages[position / RONDO_CHUNK], head,
                                                             position % RONDO_CHUNK);
    unsigned char *cache = (unsigned char *)(is_value   ? is_draft ? a.draft_v : a.cache_v
                                             : is_draft ? a.draft_k
                                                        : a.cache_k);
    float largest = 0;
    x += (int64_t)head * a.head_dim;
    for (int32_t d = lane; d < a.head_dim; d += WARP_SIZE) {
        float magnitude = fabsf(load_act(x + d));
        largest = fmaxf(largest, magnitude);
        is_finite = is_finite && magnitude < INFINITY;
    }
    largest = warp_max(largest);
    float scale = largest / 448.0f;
    scale = largest == 0 ? 1.0f : scale < 1e-30f ? 1e-30f : scale;
    if (WARP_ANY(!is_finite))
        scale = bits_f32(0x7fc00000u);
    for (int32_t d = lane; d < a.head_dim; d += WARP_SIZE)
        cache[to.codes + d] = f32_e4m3(load_act(x + d) / scale);
    if (lane == 0)
        *(float *)(cache + to.scale) = scale;
}

// A block to a token.
template <typename Act>
static __global__ void __launch_bounds__(STORE_THREADS) attention_store_codes(attention_args a)
{
    wait_for_previous();
    int32_t token = (int32_t)blockIdx.x, number = a.sequence_of[token];
    if (number < 0 || number >= a.n_sequences)
        return;
    struct rondo_batch_sequence sequence = a.sequences[number];
    int32_t t = token - sequence.first_token;
    if (sequence.slot < 0 || t < 0 || t >= sequence.n_tokens)
        return;
    const int32_t *pages = a.page_table + (int64_t)number * a.page_stride;
    for (int32_t row = (int32_t)threadIdx.x / WARP_SIZE; row < 2 * a.kv_heads;
         row += STORE_THREADS / WARP_SIZE)
        store_codes<Act>(a, token, sequence, pages, row);
}

static void launch_store(struct gpu_device *device, const attention_args *a, bool is_f32)
{
    dim3 grid((unsigned)a->n_tokens), block(STORE_THREADS);
    if (is_f32)
        LAUNCH_NEXT(device, attention_store_codes<float>, grid, block, 0, *a);
    else
        LAUNCH_NEXT(device, attention_store_codes<uint16_t>, grid, block, 0, *a);
    GPU_LAUNCHED(device, "softmax_attention");
}

// ---- choice of kernels ----------------------------------------------------------------------------

static bool is_aligned(const struct rondo_tensor *tensor)
{
    size_t unit = 16 / rondo_dtype_size(tensor->dtype);
    return (uintptr_t)tensor->data % 16 == 0 && (size_t)tensor->row_stride % unit == 0;
}

static bool uses_tiles(const struct gpu_device *device, const struct rondo_op_softmax_attention *op)
{
    bool codes = op->cache.dtype == RONDO_F8_E4M3;
    return op->q.dtype == RONDO_BF16 && op->out.dtype == RONDO_BF16 && op->scale > 0 &&
           is_aligned(&op->q) && is_aligned(&op->k) && is_aligned(&op->v) && is_aligned(&op->out) &&
           GPU(softmax_attention_rows_fit)(device, op->head_dim, codes) &&
           GPU(softmax_attention_few_fit)(device, op->head_dim, codes);
}

static attention_args arguments(const struct gpu_device *device,
                                const struct rondo_op_softmax_attention *op)
{
    const struct rondo_batch *batch = op->batch;
    attention_args a = {};
    a.sequences = batch->sequences;
    a.sequence_of = batch->sequence_of;
    a.position = batch->position;
    a.parent = batch->parent;
    a.page_table = batch->page_table;
    a.n_tokens = batch->n_tokens;
    a.n_sequences = batch->n_sequences;
    a.page_stride = batch->page_stride;
    a.q = op->q.data;
    a.k = op->k.data;
    a.v = op->v.data;
    a.out = op->out.data;
    a.q_stride = op->q.row_stride;
    a.k_stride = op->k.row_stride;
    a.v_stride = op->v.row_stride;
    a.out_stride = op->out.row_stride;
    a.cache_k = op->cache.k;
    a.cache_v = op->cache.v;
    a.draft_k = op->cache.draft_k;
    a.draft_v = op->cache.draft_v;
    a.max_draft = op->cache.max_draft;
    a.codes = op->cache.dtype == RONDO_F8_E4M3;
    a.page_bytes = (int64_t)rondo_kv_block_bytes(op->cache.dtype, RONDO_CHUNK, op->head_dim);
    a.draft_bytes =
        (int64_t)rondo_kv_block_bytes(op->cache.dtype, op->cache.max_draft, op->head_dim);
    a.draft_offset = (int32_t)rondo_kv_rows_offset(op->cache.dtype, op->cache.max_draft);
    a.heads = op->heads;
    a.kv_heads = op->kv_heads;
    a.group = op->heads / op->kv_heads;
    a.head_dim = op->head_dim;
    a.scale = op->scale;
    a.out_is_f32 = op->out.dtype == RONDO_F32;
    int32_t length =
        batch->max_length < device->limits.context ? batch->max_length : device->limits.context;
    a.segments = (length + RONDO_SEGMENT - 1) / RONDO_SEGMENT;
    return a;
}

// ---- launching ------------------------------------------------------------------------------------

// A launch's way: the op's path, and for tensor cores whether sequences have few rows.
struct way {
    bool tiles, few, is_f32;
};

static void launch(struct gpu_device *device, const attention_args *a, struct way way)
{
    if (!way.tiles)
        GPU(softmax_attention_exact)(device, a, way.is_f32);
    else if (way.few)
        GPU(softmax_attention_few)(device, a);
    else
        GPU(softmax_attention_rows)(device, a);
}

// Indices of partial results that the workspace holds.
static int64_t index_capacity(const struct gpu_device *device, const attention_args *a)
{
    size_t row = ((size_t)a->head_dim + 2) * sizeof(float);
    return (int64_t)(device->workspace_size / (row * (size_t)a->segments * (size_t)a->heads));
}

// Segments apart, then merged, for as many indices at a time as the workspace holds.
static void launch_apart(struct gpu_device *device, attention_args a, struct way way,
                         int64_t n_indices, int64_t capacity)
{
    a.n_indices = (int32_t)(n_indices < capacity ? n_indices : capacity);
    int64_t rows = (int64_t)a.n_indices * a.heads;
    a.partial = (float *)device->workspace;
    a.partial_ml = a.partial + rows * a.segments * a.head_dim;
    for (; a.first_index < n_indices; a.first_index += a.n_indices) {
        launch(device, &a, way);
        const size_t shared = 4 * COMBINE_THREADS * sizeof(float);
        if (way.tiles)
            LAUNCH_NEXT(device, attention_combine<attention_fast>, dim3((unsigned)rows),
                        dim3(COMBINE_THREADS), shared, a);
        else
            LAUNCH_NEXT(device, attention_combine<attention_exact>, dim3((unsigned)rows),
                        dim3(COMBINE_THREADS), shared, a);
        GPU_LAUNCHED(device, "softmax_attention");
    }
}

// Tokens of a small sequence in a batch with others: a tile of 16 rows, or a tree.
static int32_t small_tokens(const struct rondo_op_softmax_attention *op)
{
    int32_t group = op->heads / op->kv_heads, tokens = group < 16 ? 16 / group : 1;
    int32_t tree = op->cache.max_draft < APART_TOKENS ? op->cache.max_draft : APART_TOKENS;
    return op->batch->n_drafts > 0 && tree > tokens ? tree : tokens;
}

} // namespace

void GPU(softmax_attention)(struct rondo_device *base, const struct rondo_op_softmax_attention *op)
{
    struct gpu_device *device = gpu_device_of(base);
    const struct rondo_batch *batch = op->batch;
    if (batch->n_tokens == 0 || batch->n_sequences == 0)
        return;
    attention_args a = arguments(device, op);
    int64_t most = (int64_t)batch->max_sequence_tokens * a.group, T = batch->n_tokens;
    struct way way = {uses_tiles(device, op), most <= FEW_ROWS, op->q.dtype == RONDO_F32};
    if (way.tiles)
        a.scale *= ATTENTION_LOG2E;
    if (a.codes)
        launch_store(device, &a, way.is_f32);
    int64_t capacity = a.segments > 1 ? index_capacity(device, &a) : 0;
    a.selection = ATTENTION_ALL;
    if (capacity > 0 && (way.few || T <= capacity * APART_LAUNCHES))
        return launch_apart(device, a, way, T, capacity);
    if (way.few && a.segments <= 1)
        return launch(device, &a, way);
    if (batch->n_sequences > 1 && (way.tiles || capacity > 0)) {
        a.small_tokens = small_tokens(op);
        a.selection = ATTENTION_SMALL;
        struct way few = way;
        few.few = true;
        if (a.segments <= 1)
            launch(device, &a, few);
        else if (capacity > 0)
            launch_apart(device, a, few, (int64_t)a.n_sequences * a.small_tokens, capacity);
        a.selection = capacity > 0 || a.segments <= 1 ? ATTENTION_LARGE : ATTENTION_ALL;
    }
    way.few = false;
    a.total = a.segments > 1 ? (float *)device->workspace : NULL;
    launch(device, &a, way);
}

size_t GPU(softmax_attention_workspace)(const struct gpu_device *device,
                                        const struct rondo_limits *limits)
{
    size_t segments = ((size_t)limits->context + RONDO_SEGMENT - 1) / RONDO_SEGMENT;
    size_t tokens = (size_t)(limits->tokens < APART_TOKENS ? limits->tokens : APART_TOKENS);
    size_t row = ((size_t)limits->head_dim + 2) * sizeof(float);
    size_t apart = segments > 1 ? tokens * segments * (size_t)limits->heads * row : 0;
    size_t total = segments > 1 ? GPU(softmax_attention_rows_total)(device, limits->head_dim) : 0;
    return apart > total ? apart : total;
}

const char *GPU(softmax_attention_supports)(const struct gpu_device *device,
                                            const struct rondo_op_softmax_attention *op)
{
    if (!GPU(softmax_attention_exact_fits)(device, op->head_dim))
        return "the head size is too large for the device's shared memory";
    return NULL;
}

const char *GPU(softmax_attention_path)(const struct gpu_device *device,
                                        const struct rondo_op_softmax_attention *op)
{
    return uses_tiles(device, op) ? "mma bf16" : "fma f32";
}
