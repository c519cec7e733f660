// What the kernels of linear attention and of accept share: where rows are, f32 operands of bf16 products, folding.
//
// Arithmetic of the tensor core path, one for every kernel, so that a token's bits do not depend on how it came:
//   x = high + low: high = bf16(x), low = bf16(x - high), to nearest even; |x - high - low| <= 2^-17 |x|
//   score = q k^T: one chain of products over d in steps of 16, bf16 operands as they are
//   w     = score * decay_power[i - j], 0 for j > i
//   o     = q S: for each 16 of d: += q high(S), += q low(S)
//   o     = o * decay_power[i + 1]; for each 16 of j: += high(w) v, += low(w) v; out = o * scale + 0
//   U     = for each 16 of j: += high(k') v, += low(k') v, with k'_j = k_j * decay_power[C - 1 - j]
//   S'    = fma(S, decay_power[C], U)
// The splits make an error of 6e-12 (NMSE) in sums of many products, and at most 6e-11 in a sum of one. A product of 16
// whose w are all zero leaves o as it is, and the last addition makes +0 of -0: so it does not matter with which other
// rows a row shares a tile. A value that is not finite may reach every row of its chunk.
#ifndef RONDO_BACKEND_CUDA_LINEAR_ATTENTION_CUH
#define RONDO_BACKEND_CUDA_LINEAR_ATTENTION_CUH

#include "backend_cuda/tile.cuh"

#define CHUNK RONDO_CHUNK
// Value columns of one warp in the rows kernels, and of one block in the chunk kernels.
#define STRIP 32
#define VALUE_TILE 64
// Rows in shared memory are longer by this than what they hold: no bank conflicts.
#define ROW_PAD 8
// Ordinary sequences of at most this many tokens are done by the rows kernel when a batch has several sequences.
#define SHORT_ROWS 16

// T: float, or uint16_t for bf16.
template <class T> struct linear_arguments {
    struct rondo_batch batch;
    const T *q, *k, *v; // [T, H*hd], rows *_stride apart
    float *out;         // [T, H*hd]
    int64_t q_stride, k_stride, v_stride, out_stride;
    float *state;             // [slots, H, hd, hd]
    T *tail_k, *tail_v;       // [slots, H, C, hd]
    T *draft_k, *draft_v;     // [slots, H, max_draft, hd]
    const float *decay_power; // [H, C + 1]
    float scale;
    int heads, head_dim, max_draft;
};

// Moving accepted drafts into the caches of one linear layer.
template <class T> struct accept_arguments {
    float *state;
    T *tail_k, *tail_v;
    const T *draft_k, *draft_v;
    const int32_t *path;      // [n]
    const float *decay_power; // [H, C + 1]
    int slot, start, n, heads, head_dim, max_draft;
};

// ---- entries of the files, called by linear_attention.cu and accept.cu --------------------------------

extern "C" {
// Any head_dim and dtype, in the order of core/ops.h: the bits of the CPU reference.
void GPU(linear_attention_exact)(struct gpu_device *device,
                                 const struct rondo_op_linear_attention *op);
// Only the folds of chunks that accepted drafts complete, and the zeros of a state that begins.
void GPU(accept_exact)(struct gpu_device *device, const struct rondo_op_accept *op);
// Ordinary sequences of at most `short_rows` tokens, which is 0 or SHORT_ROWS; of longer ones the tail, to be
// launched after linear_attention_chunks.
void GPU(linear_attention_rows)(struct gpu_device *device,
                                const struct rondo_op_linear_attention *op, int short_rows);
void GPU(linear_attention_drafts)(struct gpu_device *device,
                                  const struct rondo_op_linear_attention *op);
size_t GPU(linear_attention_drafts_workspace)(const struct gpu_device *device,
                                              const struct rondo_limits *limits);
// Ordinary sequences of more than `short_rows` tokens, but for their tails.
void GPU(linear_attention_chunks)(struct gpu_device *device,
                                  const struct rondo_op_linear_attention *op, int short_rows);
size_t GPU(linear_attention_chunks_workspace)(const struct gpu_device *device,
                                              const struct rondo_limits *limits);
}

template <class T>
static inline linear_arguments<T> linear_arguments_of(const struct rondo_op_linear_attention *op)
{
    const struct rondo_linear_cache *cache = &op->cache;
    linear_arguments<T> a;
    a.batch = *op->batch;
    a.q = (const T *)op->q.data;
    a.k = (const T *)op->k.data;
    a.v = (const T *)op->v.data;
    a.out = (float *)op->out.data;
    a.q_stride = op->q.row_stride;
    a.k_stride = op->k.row_stride;
    a.v_stride = op->v.row_stride;
    a.out_stride = op->out.row_stride;
    a.state = cache->state;
    a.tail_k = (T *)cache->tail_k;
    a.tail_v = (T *)cache->tail_v;
    a.draft_k = (T *)cache->draft_k;
    a.draft_v = (T *)cache->draft_v;
    a.decay_power = op->decay_power;
    a.scale = op->scale;
    a.heads = op->heads;
    a.head_dim = op->head_dim;
    a.max_draft = cache->max_draft;
    return a;
}

template <class T>
static inline accept_arguments<T> accept_arguments_of(const struct rondo_op_accept *op)
{
    const struct rondo_linear_cache *cache = &op->linear;
    accept_arguments<T> a;
    a.state = cache->state;
    a.tail_k = (T *)cache->tail_k;
    a.tail_v = (T *)cache->tail_v;
    a.draft_k = (const T *)cache->draft_k;
    a.draft_v = (const T *)cache->draft_v;
    a.path = op->path;
    a.decay_power = op->decay_power;
    a.slot = op->slot;
    a.start = op->start;
    a.n = op->n;
    a.heads = op->heads;
    a.head_dim = op->head_dim;
    a.max_draft = cache->max_draft;
    return a;
}

// First row of a head in a cache of [slots, heads, rows, head_dim].
static __host__ __device__ __forceinline__ int64_t cache_row(int slot, int heads, int head,
                                                             int rows, int head_dim)
{
    return ((int64_t)slot * heads + head) * rows * head_dim;
}

// ---- where rows are ------------------------------------------------------------------------------------

// K and V of one head of an ordinary sequence by absolute position: from the open chunk on.
template <class T> struct batch_rows {
    const T *tail_k, *tail_v; // [C, hd]
    const T *new_k, *new_v;   // row of position `start`
    int64_t k_stride, v_stride;
    int start, head_dim;

    __device__ __forceinline__ const T *k(int position) const
    {
        return position < start ? tail_k + position % CHUNK * head_dim
                                : new_k + (position - start) * k_stride;
    }
    __device__ __forceinline__ const T *v(int position) const
    {
        return position < start ? tail_v + position % CHUNK * head_dim
                                : new_v + (position - start) * v_stride;
    }
};

template <class T>
static __device__ __forceinline__ batch_rows<T>
batch_rows_of(const linear_arguments<T> &a, const rondo_batch_sequence &sequence, int head)
{
    int64_t tail = cache_row(sequence.slot, a.heads, head, CHUNK, a.head_dim);
    int column = head * a.head_dim;
    batch_rows<T> rows;
    rows.tail_k = a.tail_k + tail;
    rows.tail_v = a.tail_v + tail;
    rows.new_k = a.k + sequence.first_token * a.k_stride + column;
    rows.new_v = a.v + sequence.first_token * a.v_stride + column;
    rows.k_stride = a.k_stride;
    rows.v_stride = a.v_stride;
    rows.start = sequence.start;
    rows.head_dim = a.head_dim;
    return rows;
}

// The same of a sequence that accepts drafts.
template <class T> struct accept_rows {
    const T *tail_k, *tail_v;   // [C, hd]
    const T *draft_k, *draft_v; // [max_draft, hd]
    const int32_t *path;
    int start, head_dim;

    __device__ __forceinline__ const T *k(int position) const
    {
        return position < start ? tail_k + position % CHUNK * head_dim
                                : draft_k + (int64_t)path[position - start] * head_dim;
    }
    __device__ __forceinline__ const T *v(int position) const
    {
        return position < start ? tail_v + position % CHUNK * head_dim
                                : draft_v + (int64_t)path[position - start] * head_dim;
    }
};

template <class T>
static __device__ __forceinline__ accept_rows<T> accept_rows_of(const accept_arguments<T> &a,
                                                                int head)
{
    int64_t tail = cache_row(a.slot, a.heads, head, CHUNK, a.head_dim);
    int64_t draft = cache_row(a.slot, a.heads, head, a.max_draft, a.head_dim);
    accept_rows<T> rows;
    rows.tail_k = a.tail_k + tail;
    rows.tail_v = a.tail_v + tail;
    rows.draft_k = a.draft_k + draft;
    rows.draft_v = a.draft_v + draft;
    rows.path = a.path;
    rows.start = a.start;
    rows.head_dim = a.head_dim;
    return rows;
}

// Asks for `rows` rows of COLUMNS values into shared memory (STRIDE apart) by all threads of the block: row(j) gives
// the address of row j, or NULL for a row of zeros. `any` is an address that may be named instead.
template <int COLUMNS, int STRIDE, class ROW>
static __device__ __forceinline__ void stage_rows(uint16_t *shared, int rows, const uint16_t *any,
                                                  ROW row)
{
    for (int at = (int)threadIdx.x; at < rows * (COLUMNS / 8); at += (int)blockDim.x) {
        int j = at / (COLUMNS / 8), column = at % (COLUMNS / 8) * 8;
        const uint16_t *from = row(j);
        copy_async_16(shared + j * STRIDE + column, from ? from + column : any, from != NULL);
    }
}

// ---- f32 in bf16 products ------------------------------------------------------------------------------

// Two values as pairs of their high and of their low terms.
static __device__ __forceinline__ void split_2(float x, float y, uint32_t &high, uint32_t &low)
{
    high = pack_bf16(x, y);
    low = pack_bf16(x - bits_f32(high << 16), y - bits_f32(high & 0xffff0000u));
}

// Of the lane's values of a product, those at i and i + 1 (i even) are neighbours of a row on NVIDIA devices only.
#ifdef RONDO_HIP
#define TILE_C_ROWS_OF_2 0
#else
#define TILE_C_ROWS_OF_2 1
#endif

// Both terms of a product's result, rows STRIDE apart.
template <int STRIDE>
static __device__ __forceinline__ void store_split(uint16_t *high, uint16_t *low, const tile_c &c)
{
#pragma unroll
    for (int i = 0; i < TILE_C; i += 2) {
        uint32_t h, l;
        split_2(c.r[i], c.r[i + 1], h, l);
        int at = tile_row(i) * STRIDE + tile_column(i);
#if TILE_C_ROWS_OF_2
        *(uint32_t *)(high + at) = h;
        *(uint32_t *)(low + at) = l;
#else
        int next = tile_row(i + 1) * STRIDE + tile_column(i + 1);
        high[at] = (uint16_t)h;
        low[at] = (uint16_t)l;
        high[next] = (uint16_t)(h >> 16);
        low[next] = (uint16_t)(l >> 16);
#endif
    }
}

// A tile of f32 in global memory, rows `stride` apart; p is that of its first value, aligned to 8 bytes.
static __device__ __forceinline__ void load_tile(tile_c &c, const float *p, int64_t stride)
{
#pragma unroll
    for (int i = 0; i < TILE_C; i += 2) {
#if TILE_C_ROWS_OF_2
        float2 x = *(const float2 *)(p + tile_row(i) * stride + tile_column(i));
        c.r[i] = x.x;
        c.r[i + 1] = x.y;
#else
        c.r[i] = p[tile_row(i) * stride + tile_column(i)];
        c.r[i + 1] = p[tile_row(i + 1) * stride + tile_column(i + 1)];
#endif
    }
}

// Stores the tile's rows [first, end).
static __device__ __forceinline__ void store_tile(float *p, int64_t stride, const tile_c &c,
                                                  int first, int end)
{
#pragma unroll
    for (int i = 0; i < TILE_C; i += 2) {
#if TILE_C_ROWS_OF_2
        int row = tile_row(i);
        if (row >= first && row < end) {
            float2 x = {c.r[i], c.r[i + 1]};
            *(float2 *)(p + row * stride + tile_column(i)) = x;
        }
#else
        for (int n = i; n < i + 2; n++)
            if (tile_row(n) >= first && tile_row(n) < end)
                p[tile_row(n) * stride + tile_column(n)] = c.r[n];
#endif
    }
}

// The A operands of a fold, transposed keys with their decay: A[d][j] = k[j][d] * decay_power[C - 1 - j] for 16 rows j
// from `first_j` on and 16 channels; `k` is row first_j, first channel, in shared memory.
static __device__ __forceinline__ void load_decayed_keys(tile_a &high, tile_a &low,
                                                         const uint16_t *k, int stride,
                                                         const float *decay_power, int first_j)
{
    tile_a keys;
    tile_load_a_transposed(keys, k, stride);
#pragma unroll
    for (int p = 0; p < TILE_AB / 2; p++) {
        uint32_t pair = keys.r[p], h, l;
        const float *decay = decay_power + (CHUNK - 1 - first_j - tile_a_k(2 * p));
        split_2(bits_f32(pair << 16) * decay[0], bits_f32(pair & 0xffff0000u) * decay[-1], h, l);
        tile_set_a2(high, p, h);
        tile_set_a2(low, p, l);
    }
}

// S' = fma(S, decay, U)
static __device__ __forceinline__ void fold_tile(tile_c &state, const tile_c &u, float decay)
{
#pragma unroll
    for (int i = 0; i < TILE_C; i++)
        state.r[i] = fmaf(state.r[i], decay, u.r[i]);
}

// Powers of the head's decay into shared memory, for use after a barrier.
static __device__ __forceinline__ void load_decay(float *shared, const float *decay_power, int head)
{
    for (int i = (int)threadIdx.x; i <= CHUNK; i += (int)blockDim.x)
        shared[i] = decay_power[head * (CHUNK + 1) + i];
}

#endif
