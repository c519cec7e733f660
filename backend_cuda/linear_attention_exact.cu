// Linear attention and its part of accept in the very order of core/ops.h, by fmaf: the bits of the CPU reference. For
// f32 activations, and for bf16 where linear_attention.cu says so. Any head_dim; not made for speed: a thread has a
// column of a row and reads what it needs from global memory.
#include "backend_cuda/linear_attention.cuh"

#define THREADS 256
// Value columns of a block.
#define COLUMNS 32

// Weights of the rows of a chunk part, by all threads.
template <class T>
static __device__ void make_weights(float (*w)[CHUNK + 1], const linear_arguments<T> &a,
                                    const batch_rows<T> &rows, const T *q, int origin, int first,
                                    int n, const float *decay)
{
    for (int at = (int)threadIdx.x; at < n * CHUNK; at += THREADS) {
        int r = at / CHUNK, j = at % CHUNK;
        if (j > first + r)
            continue;
        const T *row = q + r * a.q_stride, *k = rows.k(origin + j);
        float score = 0;
        for (int d = 0; d < a.head_dim; d++)
            score = fmaf(load_act(row + d), load_act(k + d), score);
        w[r][j] = score * decay[first + r - j];
    }
}

// Folds the chunk at `origin` into columns [begin, end) of a state.
template <class T, class ROWS>
static __device__ void fold_columns(float *state, const ROWS &rows, int origin, int head_dim,
                                    int begin, int end, const float *decay)
{
    int n = end - begin;
    for (int at = (int)threadIdx.x; at < head_dim * n; at += (int)blockDim.x) {
        int d = at / n, c = begin + at % n;
        float x = state[d * head_dim + c] * decay[CHUNK];
        for (int j = 0; j < CHUNK; j++)
            x = fmaf(load_act(rows.k(origin + j) + d) * decay[CHUNK - 1 - j],
                     load_act(rows.v(origin + j) + c), x);
        state[d * head_dim + c] = x;
    }
}

static __device__ void clear_columns(float *state, int head_dim, int begin, int end)
{
    int n = end - begin;
    for (int at = (int)threadIdx.x; at < head_dim * n; at += (int)blockDim.x)
        state[at / n * head_dim + begin + at % n] = 0;
}

// Ordinary sequences. Grid: strips of COLUMNS, heads, sequences.
template <class T>
static __global__ void __launch_bounds__(THREADS) exact_kernel(linear_arguments<T> a)
{
    wait_for_previous();
    SHARED_ARRAY(float, decay, CHUNK + 1);
    SHARED_ARRAY(float, weights, CHUNK *(CHUNK + 1));
    float(*w)[CHUNK + 1] = (float(*)[CHUNK + 1]) weights;
    int D = a.head_dim, strips = (D + COLUMNS - 1) / COLUMNS, block = (int)blockIdx.x / strips;
    int begin = (int)blockIdx.x % strips * COLUMNS, end = min(begin + COLUMNS, D);
    int head = block % a.heads;
    rondo_batch_sequence sequence = a.batch.sequences[block / a.heads];
    if (sequence.slot < 0 || sequence.n_tokens <= 0 || sequence.is_draft)
        return;
    batch_rows<T> rows = batch_rows_of(a, sequence, head);
    float *state = a.state + cache_row(sequence.slot, a.heads, head, D, D);
    load_decay(decay, a.decay_power, head);
    if (sequence.start == 0)
        clear_columns(state, D, begin, end);
    for (int token = 0, n; token < sequence.n_tokens; token += n) {
        int first = (sequence.start + token) % CHUNK, origin = sequence.start + token - first;
        n = min(CHUNK - first, sequence.n_tokens - token);
        int64_t row0 = sequence.first_token + token;
        const T *q = a.q + row0 * a.q_stride + head * D;
        float *out = a.out + row0 * a.out_stride + head * D;
        __syncthreads(); // decay and state are there, weights are free
        make_weights(w, a, rows, q, origin, first, n, decay);
        __syncthreads();
        for (int at = (int)threadIdx.x; at < n * (end - begin); at += THREADS) {
            int r = at / (end - begin), c = begin + at % (end - begin);
            float x = 0;
            for (int d = 0; d < D; d++)
                x = fmaf(load_act(q + r * a.q_stride + d), state[d * D + c], x);
            x = x * decay[first + r + 1];
            for (int j = 0; j <= first + r; j++)
                x = fmaf(w[r][j], load_act(rows.v(origin + j) + c), x);
            out[r * a.out_stride + c] = x * a.scale;
        }
        __syncthreads(); // all are done with the state
        if (first + n == CHUNK)
            fold_columns<T>(state, rows, origin, D, begin, end, decay);
    }
}

// ---- draft trees -----------------------------------------------------------------------------------------------

// K and V along a node's path by position; nodes[p - start] is the node at position p.
template <class T> struct node_rows {
    batch_rows<T> rows;
    const int *nodes;

    __device__ __forceinline__ const T *k(int position) const
    {
        int start = rows.start;
        return position < start ? rows.k(position)
                                : rows.new_k + nodes[position - start] * rows.k_stride;
    }
    __device__ __forceinline__ const T *v(int position) const
    {
        int start = rows.start;
        return position < start ? rows.v(position)
                                : rows.new_v + nodes[position - start] * rows.v_stride;
    }
};

// Grid: heads, nodes up to a bound, sequences.
template <class T>
static __global__ void __launch_bounds__(THREADS)
    exact_draft_kernel(linear_arguments<T> a, int most_nodes)
{
    wait_for_previous();
    DYN_SHARED(int, nodes); // [most_nodes]
    SHARED_ARRAY(float, decay, CHUNK + 1);
    SHARED_ARRAY(float, w, CHUNK);
    int D = a.head_dim, head = (int)(blockIdx.x % (unsigned)a.heads);
    int block = (int)(blockIdx.x / (unsigned)a.heads), node = block % most_nodes;
    rondo_batch_sequence sequence = a.batch.sequences[block / most_nodes];
    if (sequence.slot < 0 || !sequence.is_draft || node >= sequence.n_tokens)
        return;
    int64_t token = sequence.first_token + node;
    int position = a.batch.position[token], start = sequence.start;
    load_decay(decay, a.decay_power, head);
    if (threadIdx.x == 0)
        for (int p = position, n = node; p >= start; p--) {
            nodes[p - start] = n;
            n = a.batch.parent[sequence.first_token + n];
        }
    node_rows<T> rows = {batch_rows_of(a, sequence, head), nodes};
    int i = position % CHUNK, chunk = position - i;
    const T *q = a.q + token * a.q_stride + head * D;
    const float *state = a.state + cache_row(sequence.slot, a.heads, head, D, D);
    __syncthreads();
    for (int j = (int)threadIdx.x; j <= i; j += THREADS) {
        const T *k = rows.k(chunk + j);
        float score = 0;
        for (int d = 0; d < D; d++)
            score = fmaf(load_act(q + d), load_act(k + d), score);
        w[j] = score * decay[i - j];
    }
    __syncthreads();
    for (int c = (int)threadIdx.x; c < D; c += THREADS) {
        float x = 0;
        for (int d = 0; d < D; d++) {
            float s = start > 0 ? state[d * D + c] : 0.0f;
            for (int p = start - start % CHUNK; p < chunk; p += CHUNK) {
                s = s * decay[CHUNK];
                for (int j = 0; j < CHUNK; j++)
                    s = fmaf(load_act(rows.k(p + j) + d) * decay[CHUNK - 1 - j],
                             load_act(rows.v(p + j) + c), s);
            }
            x = fmaf(load_act(q + d), s, x);
        }
        x = x * decay[i + 1];
        for (int j = 0; j <= i; j++)
            x = fmaf(w[j], load_act(rows.v(chunk + j) + c), x);
        a.out[token * a.out_stride + head * D + c] = x * a.scale;
    }
}

// ---- rows of the caches ----------------------------------------------------------------------------------------

// New rows into tails and drafts. Grid: heads, sequences.
template <class T>
static __global__ void __launch_bounds__(THREADS) store_rows(linear_arguments<T> a)
{
    wait_for_previous();
    int D = a.head_dim, head = (int)(blockIdx.x % (unsigned)a.heads);
    rondo_batch_sequence sequence = a.batch.sequences[blockIdx.x / (unsigned)a.heads];
    if (sequence.slot < 0)
        return;
    int end = sequence.start + sequence.n_tokens, first = max(end - end % CHUNK, sequence.start);
    T *to_k = a.tail_k + cache_row(sequence.slot, a.heads, head, CHUNK, D) + first % CHUNK * D;
    T *to_v = a.tail_v + cache_row(sequence.slot, a.heads, head, CHUNK, D) + first % CHUNK * D;
    if (sequence.is_draft) {
        first = sequence.start;
        to_k = a.draft_k + cache_row(sequence.slot, a.heads, head, a.max_draft, D);
        to_v = a.draft_v + cache_row(sequence.slot, a.heads, head, a.max_draft, D);
    }
    int64_t token = sequence.first_token + first - sequence.start;
    const T *k = a.k + token * a.k_stride + head * D, *v = a.v + token * a.v_stride + head * D;
    for (int at = (int)threadIdx.x; at < (end - first) * D; at += THREADS) {
        to_k[at] = k[at / D * a.k_stride + at % D];
        to_v[at] = v[at / D * a.v_stride + at % D];
    }
}

// ---- accept ----------------------------------------------------------------------------------------------------

// Grid: strips of COLUMNS, heads.
template <class T>
static __global__ void __launch_bounds__(THREADS) exact_accept_kernel(accept_arguments<T> a)
{
    wait_for_previous();
    SHARED_ARRAY(float, decay, CHUNK + 1);
    int D = a.head_dim, strips = (D + COLUMNS - 1) / COLUMNS, head = (int)blockIdx.x / strips;
    int begin = (int)blockIdx.x % strips * COLUMNS, end = min(begin + COLUMNS, D);
    float *state = a.state + cache_row(a.slot, a.heads, head, D, D);
    accept_rows<T> rows = accept_rows_of(a, head);
    load_decay(decay, a.decay_power, head);
    if (a.start == 0)
        clear_columns(state, D, begin, end);
    for (int origin = a.start - a.start % CHUNK; origin + CHUNK <= a.start + a.n; origin += CHUNK) {
        __syncthreads();
        fold_columns<T>(state, rows, origin, D, begin, end, decay);
    }
}

// ---- launches --------------------------------------------------------------------------------------------------

template <class T>
static void launch(struct gpu_device *device, const struct rondo_op_linear_attention *op)
{
    const struct rondo_batch *batch = op->batch;
    linear_arguments<T> a = linear_arguments_of<T>(op);
    int64_t pairs = (int64_t)batch->n_sequences * op->heads;
    int most_nodes = min(batch->max_sequence_tokens, op->cache.max_draft);
    LAUNCH_NEXT(device, exact_kernel<T>, dim3((unsigned)(pairs * ceil_div(op->head_dim, COLUMNS))),
                dim3(THREADS), 0, a);
    GPU_LAUNCHED(device, "linear_attention");
    if (batch->n_drafts > 0 && most_nodes > 0) {
        LAUNCH_NEXT(device, exact_draft_kernel<T>, dim3((unsigned)(pairs * most_nodes)),
                    dim3(THREADS), (size_t)most_nodes * sizeof(int), a, most_nodes);
        GPU_LAUNCHED(device, "linear_attention");
    }
    LAUNCH_NEXT(device, store_rows<T>, dim3((unsigned)pairs), dim3(THREADS), 0, a);
    GPU_LAUNCHED(device, "linear_attention");
}

void GPU(linear_attention_exact)(struct gpu_device *device,
                                 const struct rondo_op_linear_attention *op)
{
    if (op->cache.dtype == RONDO_F32)
        launch<float>(device, op);
    else
        launch<uint16_t>(device, op);
}

template <class T>
static void launch_accept(struct gpu_device *device, const struct rondo_op_accept *op)
{
    int64_t blocks = op->heads * ceil_div(op->head_dim, COLUMNS);
    LAUNCH_NEXT(device, exact_accept_kernel<T>, dim3((unsigned)blocks), dim3(THREADS), 0,
                accept_arguments_of<T>(op));
    GPU_LAUNCHED(device, "accept");
}

void GPU(accept_exact)(struct gpu_device *device, const struct rondo_op_accept *op)
{
    if (op->linear.dtype == RONDO_F32)
        launch_accept<float>(device, op);
    else
        launch_accept<uint16_t>(device, op);
}
