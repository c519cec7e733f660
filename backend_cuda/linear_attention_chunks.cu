// Linear attention of ordinary sequences of many tokens: whole chunks on tensor cores.
//
// chunk_kernel: a block walks a run of chunks of one head with 64 value columns of its state, all of d: S stays in the
// registers of the warps in f32 (a warp has d rows), and in shared memory as two bf16 terms for q S, where a warp has
// 16 of the chunk's rows. Each block makes the scores for itself: nothing is added up between blocks.
// When heads x sequences fill the device, a run is a whole sequence. Else segments of some chunks run side by side:
// fold_kernel first walks all chunks with small tiles of S, many blocks per head, makes nothing but S and stores it at
// the beginning of each segment. Folding is done twice then, with the same bits.
//
// Version 1. Per head and chunk at hd = 128: bytes of q, k, v, out 80 Ki (q and k a second time from L2); products with
// two terms 12.5 MFLOP (scores 2.1, w v 2.1, q S 4.2, folding 4.2; less, as tiles above the diagonal are left out),
// and 4.2 more in segments. On an H100 with Ring-mini's 16 heads, per layer:
//   8 x 8192    1.34 GB, 0.40 ms at 3.35 TB/s; 205 GFLOP, 0.33 ms at the 620 TFLOP/s that mma.sync has. 256 blocks, two
//               a multiprocessor, 128 chunks of about 6500 cycles: prediction 0.55 ms, 1.4 times the floor.
//   1 x 65536   the same floors. fold_kernel: 128 blocks, 1024 steps of 12 KiB from L2, some 450 cycles each: 0.27 ms;
//               32 segments of 32 chunks, 1024 blocks: 0.55 ms. Prediction 0.85 ms, 2.1 times the floor.
//   1 x 1024    21 MB, 6.3 us; 16 steps of folding, then 512 blocks of one chunk: prediction 14 us with three launches.
// Registers 207 to 216 at hd = 128, none spilled; shared memory 105 KiB with two stages, 79 KiB with one.
// Checked under emulation, never run on a device.
#include "backend_cuda/linear_attention_fold.cuh"

#define CHUNK_WARPS 4
// From this many tokens on a sequence is cut into segments when others share its batch.
#define SEGMENT_TOKENS 256
// Blocks of chunk_kernel that a multiprocessor runs at once, and runs in all when work is cut into segments.
#define BLOCKS_AT_ONCE 2
#define BLOCKS_IN_ALL 8

// Which sequences a launch does: ordinary ones of more than `above` tokens, up to `up_to`.
struct chunk_range {
    int above, up_to;
    int chunks;    // of a segment; 0: sequences are not cut
    float *states; // [entries, H, hd, hd] at the beginning of each segment
};

// A sequence in chunks: chunk m has positions origin + 64 m ...; its first one may begin in the tail.
struct chunked {
    rondo_batch_sequence sequence;
    int origin, n_chunks, n_whole;
};

static __device__ __forceinline__ chunked chunked_of(const rondo_batch_sequence &sequence)
{
    chunked c;
    c.sequence = sequence;
    c.origin = sequence.start - sequence.start % CHUNK;
    int tokens = sequence.start + sequence.n_tokens - c.origin;
    c.n_chunks = (tokens + CHUNK - 1) / CHUNK;
    c.n_whole = tokens / CHUNK;
    return c;
}

static __device__ __forceinline__ bool is_in(const chunk_range &range,
                                             const rondo_batch_sequence &sequence)
{
    return sequence.slot >= 0 && !sequence.is_draft && sequence.n_tokens > range.above &&
           sequence.n_tokens <= range.up_to;
}

// Segments of sequence s are entries first_entry(s) and after. Sequences follow one another in the batch and those
// that have segments are longer than `above`, so that each has room for its tokens / (64 chunks), rounded up, + 1.
static __host__ __device__ __forceinline__ int first_entry(const chunk_range &range,
                                                           int first_token, int s)
{
    int longer = first_token / (range.above + 1);
    return first_token / (range.chunks * CHUNK) + 2 * (s < longer ? s : longer);
}

// ---- one chunk ---------------------------------------------------------------------------------------------

// A block's part of a head: all D channels of keys, VALUES of the value columns. Rows of k and v are held twice,
// for the next chunk to be on its way, where STAGES is 2.
template <int D_, int VALUES_, int STAGES_> struct chunk_shape {
    static constexpr int D = D_, VALUES = VALUES_, STAGES = STAGES_;
    static constexpr int X = D + ROW_PAD, V = VALUES + ROW_PAD;         // rows in shared memory
    static constexpr int N = VALUES / 16, TILES = D / 16 / CHUNK_WARPS; // tiles of a warp
};

template <class SHAPE> struct chunk_shared {
    uint16_t q[CHUNK * SHAPE::X], k[SHAPE::STAGES][CHUNK * SHAPE::X];
    uint16_t v[SHAPE::STAGES][CHUNK * SHAPE::V];
    uint16_t high[SHAPE::D * SHAPE::V], low[SHAPE::D * SHAPE::V]; // of S
#if TILE_SCRATCH
    uint16_t scratch[CHUNK_WARPS][TILE_SCRATCH];
#endif
    float decay[CHUNK + 4];
    int segment[2]; // sequence, segment
};

// What a block has: chunks [first, end) of a head, value columns [value, value + 64).
struct chunk_run {
    chunked c;
    int head, value, first, end;
};

template <class SHAPE>
static __device__ __forceinline__ void stage_queries(chunk_shared<SHAPE> *s,
                                                     const linear_arguments<uint16_t> &a,
                                                     const chunk_run &run, int chunk)
{
    const rondo_batch_sequence &sequence = run.c.sequence;
    int first = run.c.origin + chunk * CHUNK - sequence.start; // token of row 0
    const uint16_t *q = a.q + sequence.first_token * a.q_stride + run.head * SHAPE::D;
    stage_rows<SHAPE::D, SHAPE::X>(s->q, CHUNK, q, [&](int j) {
        return first + j >= 0 && first + j < sequence.n_tokens ? q + (first + j) * a.q_stride
                                                               : NULL;
    });
    copy_async_commit();
}

template <class SHAPE>
static __device__ __forceinline__ void stage_rows_of(chunk_shared<SHAPE> *s,
                                                     const linear_arguments<uint16_t> &a,
                                                     const chunk_run &run, int chunk)
{
    const rondo_batch_sequence &sequence = run.c.sequence;
    batch_rows<uint16_t> rows = batch_rows_of(a, sequence, run.head);
    int slot = chunk % SHAPE::STAGES, first = run.c.origin + chunk * CHUNK;
    int length = sequence.start + sequence.n_tokens;
    stage_rows<SHAPE::D, SHAPE::X>(s->k[slot], CHUNK, rows.new_k, [&](int j) {
        return first + j < length ? rows.k(first + j) : NULL;
    });
    stage_rows<SHAPE::VALUES, SHAPE::V>(s->v[slot], CHUNK, rows.new_v, [&](int j) {
        return first + j < length ? rows.v(first + j) + run.value : NULL;
    });
    copy_async_commit();
}

// sum = q S for the warp's 16 rows.
template <class SHAPE>
static __device__ __forceinline__ void multiply_state(tile_c (&sum)[SHAPE::N], const uint16_t *q,
                                                      const uint16_t *high, const uint16_t *low)
{
    constexpr int X = SHAPE::X, V = SHAPE::V;
#pragma unroll
    for (int n = 0; n < SHAPE::N; n++)
        tile_clear(sum[n]);
#pragma unroll
    for (int d = 0; d < SHAPE::D; d += 16) {
        tile_a a;
        tile_load_a(a, q + d, X);
#pragma unroll
        for (int n = 0; n < SHAPE::N; n++) {
            tile_b b;
            tile_load_b_transposed(b, high + d * V + n * 16, V);
            tile_mma(sum[n], a, b);
            tile_load_b_transposed(b, low + d * V + n * 16, V);
            tile_mma(sum[n], a, b);
        }
    }
}

// sum += w v with 16 rows of k and v that begin at row `first_j` of the chunk; the q rows begin at `first_i`.
template <class SHAPE>
static __device__ __forceinline__ void
add_rows(tile_c (&sum)[SHAPE::N], const uint16_t *q, const uint16_t *k, const uint16_t *v,
         const float *decay, int first_i, int first_j, uint16_t *scratch)
{
    constexpr int X = SHAPE::X, V = SHAPE::V;
    tile_c w;
    tile_clear(w);
#pragma unroll
    for (int d = 0; d < SHAPE::D; d += 16) {
        tile_a a;
        tile_b b;
        tile_load_a(a, q + d, X);
        tile_load_b(b, k + d, X);
        tile_mma(w, a, b);
    }
    tile_c rest;
#pragma unroll
    for (int i = 0; i < TILE_C; i++) {
        int back = first_i + tile_row(i) - first_j - tile_column(i);
        w.r[i] = back >= 0 ? w.r[i] * decay[back] : 0.0f;
        rest.r[i] = w.r[i] - bf16_f32((uint16_t)pack_bf16(w.r[i], 0.0f));
    }
    tile_a high, low;
    tile_a_from_c(high, w, scratch);
    tile_a_from_c(low, rest, scratch);
#pragma unroll
    for (int n = 0; n < SHAPE::N; n++) {
        tile_b b;
        tile_load_b_transposed(b, v + n * 16, V);
        tile_mma(sum[n], high, b);
        tile_mma(sum[n], low, b);
    }
}

// Output rows of a chunk, 16 of them by each warp.
template <class SHAPE>
static __device__ __forceinline__ void do_outputs(chunk_shared<SHAPE> *s,
                                                  const linear_arguments<uint16_t> &a,
                                                  const chunk_run &run, int chunk)
{
    const rondo_batch_sequence &sequence = run.c.sequence;
    int warp = (int)threadIdx.x / WARP_SIZE, slot = chunk % SHAPE::STAGES, row0 = warp * 16;
    // Token of the warp's first row, and which of its rows are tokens of this batch.
    int token = run.c.origin + chunk * CHUNK + row0 - sequence.start;
    int first = max(-token, 0), end = min(sequence.n_tokens - token, 16);
    if (first >= 16 || end <= 0)
        return;
    const uint16_t *q = s->q + row0 * SHAPE::X;
    tile_c sum[SHAPE::N];
    multiply_state<SHAPE>(sum, q, s->high, s->low);
#pragma unroll
    for (int n = 0; n < SHAPE::N; n++)
#pragma unroll
        for (int i = 0; i < TILE_C; i++)
            sum[n].r[i] *= s->decay[row0 + tile_row(i) + 1];
#if TILE_SCRATCH
    uint16_t *scratch = s->scratch[warp];
#else
    uint16_t *scratch = NULL;
#endif
    for (int j = 0; j <= row0; j += 16)
        add_rows<SHAPE>(sum, q, s->k[slot] + j * SHAPE::X, s->v[slot] + j * SHAPE::V, s->decay,
                        row0, j, scratch);
    float *out =
        a.out + (sequence.first_token + token) * a.out_stride + run.head * SHAPE::D + run.value;
#pragma unroll
    for (int n = 0; n < SHAPE::N; n++) {
#pragma unroll
        for (int i = 0; i < TILE_C; i++)
            sum[n].r[i] = sum[n].r[i] * a.scale + 0.0f;
        store_tile(out + n * 16, a.out_stride, sum[n], first, end);
    }
}

// ---- the state of a block: 16 * TILES rows of d a warp ---------------------------------------------------

template <class SHAPE>
static __device__ __forceinline__ void fold_state(tile_c (&state)[SHAPE::TILES][SHAPE::N],
                                                  const uint16_t *k, int k_stride,
                                                  const uint16_t *v, const float *decay)
{
    constexpr int TILES = SHAPE::TILES, V = SHAPE::V;
    tile_c u[TILES][SHAPE::N];
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int n = 0; n < SHAPE::N; n++)
            tile_clear(u[m][n]);
#pragma unroll
    for (int j = 0; j < CHUNK; j += 16) {
        tile_a high[TILES], low[TILES];
#pragma unroll
        for (int m = 0; m < TILES; m++)
            load_decayed_keys(high[m], low[m], k + j * k_stride + m * 16, k_stride, decay, j);
#pragma unroll
        for (int n = 0; n < SHAPE::N; n++) {
            tile_b b;
            tile_load_b_transposed(b, v + j * V + n * 16, V);
#pragma unroll
            for (int m = 0; m < TILES; m++) {
                tile_mma(u[m][n], high[m], b);
                tile_mma(u[m][n], low[m], b);
            }
        }
    }
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int n = 0; n < SHAPE::N; n++)
            fold_tile(state[m][n], u[m][n], decay[CHUNK]);
}

template <class SHAPE>
static __device__ __forceinline__ void publish_state(chunk_shared<SHAPE> *s,
                                                     const tile_c (&state)[SHAPE::TILES][SHAPE::N])
{
    constexpr int V = SHAPE::V, TILES = SHAPE::TILES;
    int d = (int)threadIdx.x / WARP_SIZE * TILES * 16;
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int n = 0; n < SHAPE::N; n++)
            store_split<V>(s->high + (d + m * 16) * V + n * 16, s->low + (d + m * 16) * V + n * 16,
                           state[m][n]);
}

// The chunks of a run one after the other. `from` is S at its beginning, NULL for zeros; `to` is where S is wanted
// when the sequence's last whole chunk is folded, or NULL. Both are the head's.
template <class SHAPE>
static __device__ __forceinline__ void do_run(chunk_shared<SHAPE> *s,
                                              const linear_arguments<uint16_t> &a,
                                              const chunk_run &run, const float *from, float *to)
{
    constexpr int D = SHAPE::D, TILES = SHAPE::TILES;
    int d = (int)threadIdx.x / WARP_SIZE * TILES * 16;
    int n_folds = to ? min(run.end, run.c.n_whole) : run.end - 1;
    tile_c state[TILES][SHAPE::N];

    stage_queries(s, a, run, run.first);
    stage_rows_of(s, a, run, run.first);
    load_decay(s->decay, a.decay_power, run.head);
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int n = 0; n < SHAPE::N; n++) {
            tile_clear(state[m][n]);
            if (from)
                load_tile(state[m][n], from + (d + m * 16) * D + run.value + n * 16, D);
        }
    publish_state(s, state);
    for (int chunk = run.first; chunk < run.end; chunk++) {
        bool more = chunk + 1 < run.end;
        copy_async_wait<0>();
        __syncthreads(); // rows and S are there; all are done with the other stage
        if (SHAPE::STAGES > 1 && more)
            stage_rows_of(s, a, run, chunk + 1);
        do_outputs(s, a, run, chunk);
        if (chunk >= n_folds)
            break;
        __syncthreads(); // all are done with q and S
        if (more)
            stage_queries(s, a, run, chunk + 1);
        int slot = chunk % SHAPE::STAGES;
        fold_state<SHAPE>(state, s->k[slot] + d, SHAPE::X, s->v[slot], s->decay);
        publish_state(s, state);
        if (SHAPE::STAGES == 1 && more) {
            __syncthreads(); // all are done with k and v
            stage_rows_of(s, a, run, chunk + 1);
        }
    }
    if (to)
#pragma unroll
        for (int m = 0; m < TILES; m++)
#pragma unroll
            for (int n = 0; n < SHAPE::N; n++)
                store_tile(to + (d + m * 16) * D + run.value + n * 16, D, state[m][n], 0, 16);
}

// ---- kernels -------------------------------------------------------------------------------------------------

// Grid: value tiles, heads, sequences, the first fastest.
template <class SHAPE>
static __global__ void __launch_bounds__(CHUNK_WARPS *WARP_SIZE, BLOCKS_AT_ONCE)
    chunk_kernel(linear_arguments<uint16_t> a, chunk_range range)
{
    wait_for_previous();
    constexpr int D = SHAPE::D, PARTS = D / SHAPE::VALUES;
    DYN_SHARED(chunk_shared<SHAPE>, s);
    int block = (int)blockIdx.x / PARTS;
    rondo_batch_sequence sequence = a.batch.sequences[block / a.heads];
    if (!is_in(range, sequence))
        return;
    chunk_run run;
    run.c = chunked_of(sequence);
    run.head = block % a.heads;
    run.value = (int)blockIdx.x % PARTS * SHAPE::VALUES;
    run.first = 0;
    run.end = run.c.n_chunks;
    float *state = a.state + cache_row(sequence.slot, a.heads, run.head, D, D);
    do_run(s, a, run, sequence.start > 0 ? state : NULL, state);
}

// Grid: value tiles, heads, entries of segments.
template <class SHAPE>
static __global__ void __launch_bounds__(CHUNK_WARPS *WARP_SIZE, BLOCKS_AT_ONCE)
    segment_kernel(linear_arguments<uint16_t> a, chunk_range range)
{
    wait_for_previous();
    constexpr int D = SHAPE::D, PARTS = D / SHAPE::VALUES;
    DYN_SHARED(chunk_shared<SHAPE>, s);
    int block = (int)blockIdx.x / PARTS, entry = block / a.heads;
    if (threadIdx.x == 0)
        s->segment[0] = -1;
    __syncthreads();
    for (int n = (int)threadIdx.x; n < a.batch.n_sequences; n += (int)blockDim.x) {
        rondo_batch_sequence sequence = a.batch.sequences[n];
        if (!is_in(range, sequence))
            continue;
        int segment = entry - first_entry(range, sequence.first_token, n);
        if (segment >= 0 && segment * range.chunks < chunked_of(sequence).n_chunks) {
            s->segment[0] = n;
            s->segment[1] = segment;
        }
    }
    __syncthreads();
    if (s->segment[0] < 0)
        return;
    chunk_run run;
    run.c = chunked_of(a.batch.sequences[s->segment[0]]);
    run.head = block % a.heads;
    run.value = (int)blockIdx.x % PARTS * SHAPE::VALUES;
    run.first = s->segment[1] * range.chunks;
    run.end = min(run.first + range.chunks, run.c.n_chunks);
    do_run(s, a, run, range.states + (int64_t)block * D * D, NULL);
}

// Grid: tiles of a state, heads, sequences.
template <int D>
static __global__ void __launch_bounds__(FOLD_WARPS *WARP_SIZE)
    fold_kernel(linear_arguments<uint16_t> a, chunk_range range)
{
    wait_for_previous();
    constexpr int TILES = D / FOLD_KEYS * (D / VALUE_TILE);
    DYN_SHARED(fold_shared, s);
    int block = (int)blockIdx.x / TILES, n = block / a.heads, head = block % a.heads;
    rondo_batch_sequence sequence = a.batch.sequences[n];
    if (!is_in(range, sequence))
        return;
    chunked c = chunked_of(sequence);
    fold_tile_place place = fold_place((int)blockIdx.x % TILES, D);
    float *state_memory = a.state + cache_row(sequence.slot, a.heads, head, D, D);
    int64_t entry = first_entry(range, sequence.first_token, n);
    auto before = [&](int chunk, const tile_c(&state)[2]) {
        if (chunk % range.chunks == 0)
            store_fold_state<D>(range.states +
                                    ((entry + chunk / range.chunks) * a.heads + head) * D * D,
                                state, place);
    };
    tile_c state[2];
    load_decay(s->decay, a.decay_power, head);
    tile_clear(state[0]);
    tile_clear(state[1]);
    if (sequence.start > 0)
        load_fold_state<D>(state, state_memory, place);
    fold_chunks(state, s, batch_rows_of(a, sequence, head), place, c.origin, c.n_whole,
                [&](int chunk) { before(chunk, state); });
    if (c.n_whole < c.n_chunks)
        before(c.n_whole, state);
    store_fold_state<D>(state_memory, state, place);
}

// ---- launches --------------------------------------------------------------------------------------------------

template <class SHAPE>
static void launch_shape(struct gpu_device *device, const linear_arguments<uint16_t> &a,
                         const chunk_range &range, int64_t entries)
{
    constexpr size_t size = sizeof(chunk_shared<SHAPE>);
    dim3 grid((unsigned)(entries * a.heads * (SHAPE::D / SHAPE::VALUES)));
    dim3 block(CHUNK_WARPS * WARP_SIZE);
    if (!allow_shared_memory(device, range.chunks ? segment_kernel<SHAPE> : chunk_kernel<SHAPE>,
                             size, "linear_attention"))
        return;
    if (range.chunks)
        LAUNCH_NEXT(device, segment_kernel<SHAPE>, grid, block, size, a, range);
    else
        LAUNCH_NEXT(device, chunk_kernel<SHAPE>, grid, block, size, a, range);
    GPU_LAUNCHED(device, "linear_attention");
}

// Two stages where two blocks find room with them; narrow parts where memory is as small as AMD's 64 KiB.
template <int D>
static void launch_chunks(struct gpu_device *device, const linear_arguments<uint16_t> &a,
                          const chunk_range &range, int64_t entries)
{
    typedef chunk_shape<D, VALUE_TILE, 2> two_stages;
    typedef chunk_shape<D, VALUE_TILE, 1> one_stage;
    typedef chunk_shape<D, D == 128 ? 32 : VALUE_TILE, 1> narrow;
    size_t limit = device->shared_limit;
    if (BLOCKS_AT_ONCE * (sizeof(chunk_shared<two_stages>) + 1024) <= limit)
        launch_shape<two_stages>(device, a, range, entries);
    else if (sizeof(chunk_shared<one_stage>) <= limit)
        launch_shape<one_stage>(device, a, range, entries);
    else
        launch_shape<narrow>(device, a, range, entries);
}

template <int D>
static void launch_folds(struct gpu_device *device, const linear_arguments<uint16_t> &a,
                         const chunk_range &range)
{
    int64_t blocks = (int64_t)a.batch.n_sequences * a.heads * (D / FOLD_KEYS) * (D / VALUE_TILE);
    if (allow_shared_memory(device, fold_kernel<D>, sizeof(fold_shared), "linear_attention"))
        LAUNCH_NEXT(device, fold_kernel<D>, dim3((unsigned)blocks), dim3(FOLD_WARPS * WARP_SIZE),
                    sizeof(fold_shared), a, range);
    GPU_LAUNCHED(device, "linear_attention");
}

// Entries of segments that a batch within its bounds can have.
static int64_t entries_of(const chunk_range &range, const struct rondo_batch &batch)
{
    return first_entry(range, batch.n_tokens, batch.n_sequences);
}

// Blocks of chunk_kernel, and their states, that work is cut into.
static int64_t blocks_wanted(const struct gpu_device *device)
{
    return (int64_t)BLOCKS_IN_ALL * device->multiprocessors;
}

// Chunks of a segment, or 0: sequences are not cut.
static int segment_chunks(const struct gpu_device *device, const linear_arguments<uint16_t> &a,
                          chunk_range range)
{
    const struct rondo_batch &batch = a.batch;
    int64_t heads = (int64_t)a.heads * (a.head_dim / VALUE_TILE);
    int longest = min(batch.max_sequence_tokens, batch.n_tokens);
    int64_t sequences = ceil_div(batch.n_tokens, max(longest, 1));
    if (longest <= max(range.above, 2 * CHUNK) ||
        sequences * heads * 4 > (int64_t)BLOCKS_AT_ONCE * device->multiprocessors * 3)
        return 0;
    int64_t room = (int64_t)(device->workspace_size /
                             ((size_t)a.heads * a.head_dim * a.head_dim * sizeof(float)));
    int64_t most = ceil_div(batch.n_tokens, CHUNK);
    range.chunks = (int)max(ceil_div(most * heads, blocks_wanted(device)), (int64_t)1);
    while (entries_of(range, batch) > room && range.chunks < most)
        range.chunks *= 2;
    return entries_of(range, batch) <= room ? range.chunks : 0;
}

template <int D>
static void do_chunks(struct gpu_device *device, const linear_arguments<uint16_t> &a,
                      int short_rows)
{
    // A sequence alone is cut whatever its length turns out to be.
    chunk_range cut = {max(short_rows, a.batch.n_sequences > 1 ? SEGMENT_TOKENS - 1 : 0), INT32_MAX,
                       0, (float *)device->workspace};
    chunk_range whole = {short_rows, INT32_MAX, 0, NULL};
    cut.chunks = segment_chunks(device, a, cut);
    if (cut.chunks > 0) {
        whole.up_to = cut.above;
        launch_folds<D>(device, a, cut);
        launch_chunks<D>(device, a, cut, entries_of(cut, a.batch));
    }
    if (whole.up_to > whole.above)
        launch_chunks<D>(device, a, whole, a.batch.n_sequences);
}

void GPU(linear_attention_chunks)(struct gpu_device *device,
                                  const struct rondo_op_linear_attention *op, int short_rows)
{
    linear_arguments<uint16_t> a = linear_arguments_of<uint16_t>(op);
    if (op->head_dim == 128)
        do_chunks<128>(device, a, short_rows);
    else
        do_chunks<64>(device, a, short_rows);
}

// Room for as many states as there are blocks wanted, and for two more per sequence that is cut; with less,
// segments are longer.
size_t GPU(linear_attention_chunks_workspace)(const struct gpu_device *device,
                                              const struct rondo_limits *limits)
{
    size_t state = (size_t)limits->head_dim * limits->head_dim * sizeof(float);
    int64_t tiles = max(limits->head_dim / VALUE_TILE, 1);
    int64_t states = min(blocks_wanted(device) / tiles + 4 * limits->heads,
                         (ceil_div(limits->tokens, CHUNK) + 2) * limits->heads);
    return limits->tokens > 2 * CHUNK ? (size_t)states * state : 0;
}
