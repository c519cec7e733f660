// Linear attention of ordinary sequences of few tokens (decoding), and the tails of longer ones.
//
// One block per head of a sequence: it reads S once, the open chunk's rows once, writes the output and the new rows of
// the tail, and folds the chunk when it is complete (S is read a second time then, one token in 64).
//
// Version 1. Bytes per head and token at hd = 128 with i rows in the open chunk: S 65536, tail 512 i (16 Ki on average),
// q, k, v 768, out 512, tail rows 512: 83.7 KB. Ring-mini, 16 heads, per layer on an H100 (3.35 TB/s): B = 64: 86 MB,
// 25.6 us; B = 256: 343 MB, 102 us. An engine that rewrites S at each token: 138 and 551 MB.
// A multiprocessor gets a head's bytes in about 5800 cycles. Meanwhile each of its four schedulers issues for it some
// 400 instructions that split S, 130 mma (800 cycles; 16 rows where one is of use) and 300 others.
// In flight: 8 KiB of S a warp in registers and up to 32 KiB of tail a block, 4 blocks of 4 warps a multiprocessor:
// 128 KiB and more, where latency times bandwidth are 18 KiB. 128 registers, 16 bytes spilled outside of loops.
// Prediction: 85 % of bandwidth at B = 64 (two waves of blocks), 90 % at B = 256; B = 1: 5 us, latency.
// Checked under emulation, never run on a device.
#include "backend_cuda/linear_attention_rows.cuh"

template <int D> struct rows_shared {
    uint16_t q[SHORT_ROWS * row_strides<D>::X];
    uint16_t k[CHUNK * row_strides<D>::X], v[CHUNK * row_strides<D>::X];
    uint16_t high[SHORT_ROWS * row_strides<D>::W], low[SHORT_ROWS * row_strides<D>::W];
    float decay[CHUNK + 4];
};

// Part of one chunk: `rows` tokens from `token` of the sequence on stand at rows `first` ... of the chunk.
struct row_part {
    int token, first, rows;
};

template <int D>
static __device__ __forceinline__ void
stage_part(rows_shared<D> *s, const linear_arguments<uint16_t> &a,
           const rondo_batch_sequence &sequence, int head, const row_part &part)
{
    constexpr int X = row_strides<D>::X;
    batch_rows<uint16_t> rows = batch_rows_of(a, sequence, head);
    int end = part.first + part.rows, origin = sequence.start + part.token - part.first;
    const uint16_t *q = a.q + (sequence.first_token + part.token) * a.q_stride + head * D;
    stage_rows<D, X>(s->q, SHORT_ROWS, q,
                     [&](int j) { return j < part.rows ? q + j * a.q_stride : NULL; });
    stage_rows<D, X>(s->k, (end + 15) & ~15, rows.new_k,
                     [&](int j) { return j < end ? rows.k(origin + j) : NULL; });
    stage_rows<D, X>(s->v, (end + 15) & ~15, rows.new_v,
                     [&](int j) { return j < end ? rows.v(origin + j) : NULL; });
    copy_async_commit();
}

// Weights of all rows of the part, by all warps.
template <int D>
static __device__ __forceinline__ void make_weights(rows_shared<D> *s, const row_part &part)
{
    constexpr int W = row_strides<D>::W;
    int warp = (int)threadIdx.x / WARP_SIZE, end = part.first + part.rows;
    for (int j0 = warp * 16; j0 < end; j0 += D / STRIP * 16) {
        tile_c w;
        multiply_keys<D>(w, s->q, s->k + j0 * row_strides<D>::X);
#pragma unroll
        for (int i = 0; i < TILE_C; i++) {
            int row = tile_row(i), back = part.first + row - j0 - tile_column(i);
            w.r[i] = row < part.rows && back >= 0 ? w.r[i] * s->decay[back] : 0.0f;
        }
        store_split<W>(s->high + j0, s->low + j0, w);
    }
}

// sum = sum * decay + w v for the warp's strip.
template <int D>
static __device__ __forceinline__ void add_values(tile_c (&sum)[1][2], const rows_shared<D> *s,
                                                  const row_part &part, int strip)
{
    constexpr int W = row_strides<D>::W, X = row_strides<D>::X;
#pragma unroll
    for (int i = 0; i < TILE_C; i++) {
        int row = tile_row(i) < part.rows ? tile_row(i) : 0;
        sum[0][0].r[i] *= s->decay[part.first + row + 1];
        sum[0][1].r[i] *= s->decay[part.first + row + 1];
    }
    for (int j0 = 0; j0 < part.first + part.rows; j0 += 16) {
        tile_a high, low;
        tile_b b[2];
        tile_load_a(high, s->high + j0, W);
        tile_load_a(low, s->low + j0, W);
        load_values(b, [&](int j) { return s->v + (j0 + j) * X + strip; });
#pragma unroll
        for (int t = 0; t < 2; t++) {
            tile_mma(sum[0][t], high, b[t]);
            tile_mma(sum[0][t], low, b[t]);
        }
    }
}

// New rows of the open chunk, as they stand in shared memory, into the tail.
template <int D>
static __device__ __forceinline__ void store_tail(const linear_arguments<uint16_t> &a, int64_t tail,
                                                  const rows_shared<D> *s, const row_part &part)
{
    for (int at = (int)threadIdx.x; at < part.rows * (D / 8); at += (int)blockDim.x) {
        int j = part.first + at / (D / 8), column = at % (D / 8) * 8;
        *(uint4 *)(a.tail_k + tail + j * D + column) =
            *(const uint4 *)(s->k + j * row_strides<D>::X + column);
        *(uint4 *)(a.tail_v + tail + j * D + column) =
            *(const uint4 *)(s->v + j * row_strides<D>::X + column);
    }
}

// One part: output, tail or fold.
template <int D>
static __device__ __forceinline__ void
do_part(rows_shared<D> *s, const linear_arguments<uint16_t> &a,
        const rondo_batch_sequence &sequence, int head, const row_part &part)
{
    int strip = (int)threadIdx.x / WARP_SIZE * STRIP;
    bool is_zero = sequence.start + part.token - part.first == 0 && sequence.start == 0;
    float *state = a.state + cache_row(sequence.slot, a.heads, head, D, D) + strip;
    states_ahead<D> ahead;
    tile_c sum[1][2];

    stage_part(s, a, sequence, head, part);
    if (!is_zero)
        ahead.begin(state);
    copy_async_wait<0>();
    __syncthreads();
    make_weights(s, part);
    tile_clear(sum[0][0]);
    tile_clear(sum[0][1]);
    if (!is_zero)
        multiply_state<D, 1, false>(sum, ahead, state, s->q, [](int) { return true; });
    __syncthreads();
    add_values(sum, s, part, strip);
    store_output(a.out + (sequence.first_token + part.token) * a.out_stride + head * D + strip,
                 a.out_stride, sum, part.rows, a.scale);
    if (part.first + part.rows == CHUNK)
        fold_strip<D>(state, is_zero ? NULL : state, s->k, s->v + strip, s->decay);
    else
        store_tail(a, cache_row(sequence.slot, a.heads, head, CHUNK, D), s, part);
}

// A sequence that begins and does not complete a chunk leaves a state of zeros.
template <int D>
static __device__ __forceinline__ void clear_state(const linear_arguments<uint16_t> &a,
                                                   const rondo_batch_sequence &sequence, int head)
{
    float4 zero = {0, 0, 0, 0};
    float *state = a.state + cache_row(sequence.slot, a.heads, head, D, D);
    for (int at = (int)threadIdx.x * 4; at < D * D; at += (int)blockDim.x * 4)
        *(float4 *)(state + at) = zero;
}

// The open chunk's rows of a sequence whose chunks are done.
template <int D>
static __device__ __forceinline__ void
store_long_tail(const linear_arguments<uint16_t> &a, const rondo_batch_sequence &sequence, int head)
{
    batch_rows<uint16_t> rows = batch_rows_of(a, sequence, head);
    int64_t tail = cache_row(sequence.slot, a.heads, head, CHUNK, D);
    int end = sequence.start + sequence.n_tokens, origin = end - end % CHUNK;
    int first = origin > sequence.start ? origin : sequence.start;
    for (int at = (int)threadIdx.x; at < (end - first) * (D / 8); at += (int)blockDim.x) {
        int position = first + at / (D / 8), column = at % (D / 8) * 8;
        int64_t to = tail + (position - origin) * D + column;
        *(uint4 *)(a.tail_k + to) = *(const uint4 *)(rows.k(position) + column);
        *(uint4 *)(a.tail_v + to) = *(const uint4 *)(rows.v(position) + column);
    }
}

template <int D>
static __global__ void __launch_bounds__(D / STRIP * WARP_SIZE, D == 128 ? 4 : 8)
    rows_kernel(linear_arguments<uint16_t> a, int short_rows)
{
    wait_for_previous();
    DYN_SHARED(rows_shared<D>, s);
    int head = (int)(blockIdx.x % (unsigned)a.heads);
    rondo_batch_sequence sequence = a.batch.sequences[blockIdx.x / (unsigned)a.heads];
    if (sequence.slot < 0 || sequence.n_tokens <= 0 || sequence.is_draft)
        return;
    if (sequence.n_tokens > short_rows) {
        store_long_tail<D>(a, sequence, head);
        return;
    }
    load_decay(s->decay, a.decay_power, head);
    if (sequence.start == 0 && sequence.n_tokens < CHUNK)
        clear_state<D>(a, sequence, head);
    for (int token = 0; token < sequence.n_tokens;) {
        row_part part;
        part.token = token;
        part.first = (sequence.start + token) % CHUNK;
        part.rows = min(CHUNK - part.first, sequence.n_tokens - token);
        do_part(s, a, sequence, head, part);
        token += part.rows;
        __syncthreads(); // the next part overwrites rows, and reads the state that other lanes wrote
    }
}

template <int D>
static void launch(struct gpu_device *device, const struct rondo_op_linear_attention *op,
                   int short_rows)
{
    int64_t blocks = (int64_t)op->batch->n_sequences * op->heads;
    if (!allow_shared_memory(device, rows_kernel<D>, sizeof(rows_shared<D>), "linear_attention"))
        return;
    LAUNCH_NEXT(device, rows_kernel<D>, dim3((unsigned)blocks), dim3(D / STRIP * WARP_SIZE),
                sizeof(rows_shared<D>), linear_arguments_of<uint16_t>(op), short_rows);
    GPU_LAUNCHED(device, "linear_attention");
}

void GPU(linear_attention_rows)(struct gpu_device *device,
                                const struct rondo_op_linear_attention *op, int short_rows)
{
    if (op->head_dim == 128)
        launch<128>(device, op, short_rows);
    else
        launch<64>(device, op, short_rows);
}
