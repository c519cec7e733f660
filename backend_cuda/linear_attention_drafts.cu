// Linear attention of draft trees: all nodes of a tree against one read of S.
//
// A block has one head of a tree and takes 16 or 64 nodes at a time. q S and the rows of the open chunk's tail are
// products of all nodes together. From the first position of the tree on a node's rows of v are its own path's: nodes
// that follow one another along a path make one product, each takes as many as it has tiles of 16 positions. So a
// node's sums run over positions exactly as those of a sequence that has its path's tokens.
// A node past the end of the chunk needs the state folded along its path. Nodes are therefore done in groups: group 0
// needs S itself, others the state after the node at the chunk's last position (their gate), which is folded into
// the block's part of the workspace first.
//
// Bytes per head as in decoding (hd = 128: S 64 Ki, tail 16 Ki) and 1792 a node; products: q S 1.0 MFLOP per 16 nodes
// and up to 0.13 MFLOP per path step in w v. 64 sequences x 16 heads x 16 nodes: 112 MB, 33 us on H100; prediction
// 60 us. Checked under emulation, never run on a device.
#include "backend_cuda/linear_attention_rows.cuh"

// Blocks of a launch, per multiprocessor; each has room for a folded state in the workspace.
#define DRAFT_BLOCKS 3

template <int D, int NODES> struct draft_shared {
    uint16_t q[NODES * row_strides<D>::X], nodes_v[NODES * row_strides<D>::X];
    uint16_t k[CHUNK * row_strides<D>::X], v[CHUNK * row_strides<D>::X];
    uint16_t high[NODES * row_strides<D>::W], low[NODES * row_strides<D>::W];
    int16_t path[NODES][CHUNK]; // node of the tree at each position of the node's chunk
    float decay[CHUNK + 4];
    int place[NODES];        // position in the chunk
    int group[NODES];        // 0, or 1 + the gate; -1: no node
    int position[CHUNK];     // of the nodes whose keys are in k
    int16_t gathered[CHUNK]; // nodes of a gate's path, -1: row of the tail
};

// One head of a tree.
struct tree {
    rondo_batch_sequence sequence;
    const int32_t *position, *parent; // of node 0
    const uint16_t *q, *k, *v;        // row of node 0
    const uint16_t *tail_k, *tail_v;  // [C, D]
    const float *state;               // [D, D], NULL: zeros
    float *folded;                    // [D, D] of the block
    int n, n_tail, origin;            // nodes, rows of the tail, position of the chunk
};

static __device__ __forceinline__ tree tree_of(const linear_arguments<uint16_t> &a,
                                               const rondo_batch_sequence &sequence, int head)
{
    int D = a.head_dim;
    int64_t first = sequence.first_token, tail = cache_row(sequence.slot, a.heads, head, CHUNK, D);
    tree t;
    t.sequence = sequence;
    t.position = a.batch.position + first;
    t.parent = a.batch.parent + first;
    t.q = a.q + first * a.q_stride + head * D;
    t.k = a.k + first * a.k_stride + head * D;
    t.v = a.v + first * a.v_stride + head * D;
    t.tail_k = a.tail_k + tail;
    t.tail_v = a.tail_v + tail;
    t.state = sequence.start > 0 ? a.state + cache_row(sequence.slot, a.heads, head, D, D) : NULL;
    t.n = sequence.n_tokens;
    t.n_tail = sequence.start % CHUNK;
    t.origin = sequence.start - t.n_tail;
    return t;
}

// ---- nodes -----------------------------------------------------------------------------------------------------

// Where nodes first .. first + NODES - 1 stand, and the paths to them.
template <int D, int NODES>
static __device__ __forceinline__ void find_paths(draft_shared<D, NODES> *s, const tree &t,
                                                  int first)
{
    for (int r = (int)threadIdx.x; r < NODES; r += (int)blockDim.x) {
        int node = first + r;
        if (node >= t.n) {
            s->group[r] = -1;
            s->place[r] = 0;
            continue;
        }
        int position = t.position[node], place = position % CHUNK;
        int least = max(position - place, t.sequence.start);
        s->place[r] = place;
        for (int p = position; p >= least; p--) {
            s->path[r][p % CHUNK] = (int16_t)node;
            node = t.parent[node];
        }
        s->group[r] = position - place > t.origin ? 1 + node : 0;
    }
}

// Number of rows of the chunk of a row of `group` that come from the tail.
static __device__ __forceinline__ int tail_rows(const tree &t, int group)
{
    return group == 0 ? t.n_tail : 0;
}

template <int D, int NODES>
static __device__ __forceinline__ void stage_nodes(draft_shared<D, NODES> *s,
                                                   const linear_arguments<uint16_t> &a,
                                                   const tree &t, int first)
{
    constexpr int X = row_strides<D>::X;
    stage_rows<D, X>(s->q, NODES, t.q, [&](int j) {
        return first + j < t.n ? t.q + (first + j) * a.q_stride : NULL;
    });
    if (t.n <= NODES)
        stage_rows<D, X>(s->nodes_v, t.n, t.v, [&](int j) { return t.v + j * a.v_stride; });
    int rows = (t.n_tail + 15) & ~15;
    stage_rows<D, X>(s->k, rows, t.k,
                     [&](int j) { return j < t.n_tail ? t.tail_k + j * D : NULL; });
    stage_rows<D, X>(s->v, rows, t.k,
                     [&](int j) { return j < t.n_tail ? t.tail_v + j * D : NULL; });
    copy_async_commit();
}

// Weight of chunk row j for node row r.
template <int D, int NODES>
static __device__ __forceinline__ void set_weight(draft_shared<D, NODES> *s, int r, int j,
                                                  float score)
{
    int at = r * row_strides<D>::W + j;
    uint32_t high, low;
    split_2(score * s->decay[s->place[r] - j], 0.0f, high, low);
    s->high[at] = (uint16_t)high;
    s->low[at] = (uint16_t)low;
}

// Weights of the tail's rows, for nodes of group 0.
template <int D, int NODES>
static __device__ __forceinline__ void weigh_tail(draft_shared<D, NODES> *s, const tree &t)
{
    constexpr int X = row_strides<D>::X, WARPS = D / STRIP;
    int columns = (t.n_tail + 15) / 16;
    for (int tile = (int)threadIdx.x / WARP_SIZE; tile < NODES / 16 * columns; tile += WARPS) {
        int r0 = tile / columns * 16, j0 = tile % columns * 16;
        tile_c score;
        multiply_keys<D>(score, s->q + r0 * X, s->k + j0 * X);
#pragma unroll
        for (int i = 0; i < TILE_C; i++) {
            int r = r0 + tile_row(i), j = j0 + tile_column(i);
            if (j < t.n_tail && s->group[r] == 0)
                set_weight(s, r, j, score.r[i]);
        }
    }
}

// Weights of nodes first .. first + 63, whose keys stand in shared memory, for those that have them on their path.
template <int D, int NODES>
static __device__ __forceinline__ void weigh_nodes(draft_shared<D, NODES> *s, const tree &t,
                                                   int first)
{
    constexpr int X = row_strides<D>::X, WARPS = D / STRIP;
    int columns = (min(t.n - first, CHUNK) + 15) / 16;
    for (int tile = (int)threadIdx.x / WARP_SIZE; tile < NODES / 16 * columns; tile += WARPS) {
        int r0 = tile / columns * 16, n0 = tile % columns * 16;
        tile_c score;
        multiply_keys<D>(score, s->q + r0 * X, s->k + n0 * X);
#pragma unroll
        for (int i = 0; i < TILE_C; i++) {
            int r = r0 + tile_row(i), n = n0 + tile_column(i);
            if (first + n >= t.n || s->group[r] < 0)
                continue;
            int j = s->position[n] % CHUNK;
            if (j <= s->place[r] && j >= tail_rows(t, s->group[r]) && s->path[r][j] == first + n)
                set_weight(s, r, j, score.r[i]);
        }
    }
}

// All weights of the nodes whose queries stand in shared memory.
template <int D, int NODES>
static __device__ __forceinline__ void
make_weights(draft_shared<D, NODES> *s, const linear_arguments<uint16_t> &a, const tree &t)
{
    weigh_tail(s, t);
    for (int first = 0; first < t.n; first += CHUNK) {
        __syncthreads(); // all are done with k
        int n = min(t.n - first, CHUNK);
        stage_rows<D, row_strides<D>::X>(s->k, (n + 15) & ~15, t.k, [&](int j) {
            return j < n ? t.k + (first + j) * a.k_stride : NULL;
        });
        copy_async_commit();
        for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x)
            s->position[j] = t.position[first + j];
        copy_async_wait<0>();
        __syncthreads();
        weigh_nodes(s, t, first);
    }
    __syncthreads();
}

// ---- sums ------------------------------------------------------------------------------------------------------

// sum += high v + low v for 16 rows of v and those rows of the tile that mask(row) lets through.
template <int D, int NODES, class MASK, class ROW>
static __device__ __forceinline__ void add_masked(tile_c (&sum)[2], const draft_shared<D, NODES> *s,
                                                  int r0, int j0, MASK mask, ROW row)
{
    constexpr int W = row_strides<D>::W;
    tile_a high, low;
    tile_b b[2];
    tile_load_a(high, s->high + r0 * W + j0, W);
    tile_load_a(low, s->low + r0 * W + j0, W);
#pragma unroll
    for (int p = 0; p < TILE_AB / 2; p++)
        if (!mask(r0 + tile_a_row(2 * p))) {
            tile_set_a2(high, p, 0);
            tile_set_a2(low, p, 0);
        }
    load_values(b, row);
#pragma unroll
    for (int n = 0; n < 2; n++) {
        tile_mma(sum[n], high, b[n]);
        tile_mma(sum[n], low, b[n]);
    }
}

// Last row, before `end`, of the run of rows from `first` on each of which is the child of the one before.
template <int D, int NODES>
static __device__ __forceinline__ int end_of_run(const draft_shared<D, NODES> *s, int first,
                                                 int end)
{
    int last = first;
    while (last + 1 < end && s->group[last + 1] == s->group[last] &&
           s->place[last + 1] == s->place[last] + 1 &&
           s->path[last + 1][s->place[last]] == s->path[last][s->place[last]])
        last++;
    return last;
}

// sum = sum * decay + w v for rows r0 .. r0 + 15 that are in the group; column: the strip's.
template <int D, int NODES>
static __device__ __forceinline__ void add_values(tile_c (&sum)[2], const draft_shared<D, NODES> *s,
                                                  const linear_arguments<uint16_t> &a,
                                                  const tree &t, int r0, int group, int column)
{
    constexpr int X = row_strides<D>::X;
    int n_tail = tail_rows(t, group);
    const uint16_t *nodes = t.n <= NODES ? s->nodes_v : t.v;
    int64_t stride = t.n <= NODES ? X : a.v_stride;
#pragma unroll
    for (int i = 0; i < TILE_C; i++) {
        int r = r0 + tile_row(i);
        if (s->group[r] == group) {
            sum[0].r[i] *= s->decay[s->place[r] + 1];
            sum[1].r[i] *= s->decay[s->place[r] + 1];
        }
    }
    for (int j0 = 0; j0 + 16 <= n_tail; j0 += 16)
        add_masked(
            sum, s, r0, j0, [&](int r) { return s->group[r] == group; },
            [&](int j) { return s->v + (j0 + j) * X + column; });
    for (int first = r0; first < r0 + 16; first++) {
        if (s->group[first] != group)
            continue;
        int last = end_of_run(s, first, r0 + 16), end = s->place[last] + 1;
        for (int j0 = n_tail & ~15; j0 < end; j0 += 16)
            add_masked(
                sum, s, r0, j0, [&](int r) { return r >= first && r <= last; },
                [&](int j) -> const uint16_t * {
                    if (j0 + j < n_tail)
                        return s->v + (j0 + j) * X + column;
                    return j0 + j < end ? nodes + s->path[last][j0 + j] * stride + column : NULL;
                });
        first = last;
    }
}

// Rows of a group: q S, decay, values.
template <int D, int NODES>
static __device__ __forceinline__ void
do_group(tile_c (&sum)[NODES / 16][2], const draft_shared<D, NODES> *s,
         const linear_arguments<uint16_t> &a, const tree &t, int group, const float *state)
{
    int column = (int)threadIdx.x / WARP_SIZE * STRIP;
    if (state) {
        states_ahead<D> ahead;
        ahead.begin(state + column);
        multiply_state<D, NODES / 16, true>(sum, ahead, state + column, s->q,
                                            [&](int r) { return s->group[r] == group; });
    }
#pragma unroll
    for (int m = 0; m < NODES / 16; m++)
        add_values(sum[m], s, a, t, m * 16, group, column);
}

// ---- past the chunk --------------------------------------------------------------------------------------------

// t.folded = the state after node `gate`, which stands at the last position of a chunk.
template <int D, int NODES>
static __device__ __forceinline__ void
fold_path(draft_shared<D, NODES> *s, const linear_arguments<uint16_t> &a, const tree &t, int gate)
{
    constexpr int X = row_strides<D>::X;
    int column = (int)threadIdx.x / WARP_SIZE * STRIP, end = t.position[gate] + 1;
    for (int origin = t.origin; origin < end; origin += CHUNK) {
        __syncthreads(); // all are done with k, v and gathered
        if (threadIdx.x == 0) {
            int node = gate;
            for (int p = end - 1; p >= max(origin, t.sequence.start); p--) {
                if (p < origin + CHUNK)
                    s->gathered[p - origin] = (int16_t)node;
                node = t.parent[node];
            }
            for (int p = origin; p < t.sequence.start; p++)
                s->gathered[p - origin] = -1;
        }
        __syncthreads();
        stage_rows<D, X>(s->k, CHUNK, NULL, [&](int j) {
            int node = s->gathered[j];
            return node < 0 ? t.tail_k + j * D : t.k + node * a.k_stride;
        });
        stage_rows<D, X>(s->v, CHUNK, NULL, [&](int j) {
            int node = s->gathered[j];
            return node < 0 ? t.tail_v + j * D : t.v + node * a.v_stride;
        });
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        const float *from = origin == t.origin ? t.state : t.folded;
        fold_strip<D>(t.folded + column, from ? from + column : NULL, s->k, s->v + column,
                      s->decay);
    }
    __syncthreads(); // a lane wrote what others read
}

// Is row r the first of its group?
template <int D, int NODES>
static __device__ __forceinline__ bool begins_group(const draft_shared<D, NODES> *s, int r)
{
    for (int before = 0; before < r; before++)
        if (s->group[before] == s->group[r])
            return false;
    return true;
}

// ---- the tree --------------------------------------------------------------------------------------------------

template <int D>
static __device__ __forceinline__ void store_draft_rows(const linear_arguments<uint16_t> &a,
                                                        const tree &t, int head)
{
    int64_t draft = cache_row(t.sequence.slot, a.heads, head, a.max_draft, D);
    for (int at = (int)threadIdx.x; at < t.n * (D / 8); at += (int)blockDim.x) {
        int node = at / (D / 8), column = at % (D / 8) * 8;
        int64_t to = draft + (int64_t)node * D + column;
        *(uint4 *)(a.draft_k + to) = *(const uint4 *)(t.k + node * a.k_stride + column);
        *(uint4 *)(a.draft_v + to) = *(const uint4 *)(t.v + node * a.v_stride + column);
    }
}

// Nodes first .. first + NODES - 1 of a head.
template <int D, int NODES>
static __device__ __forceinline__ void do_nodes(draft_shared<D, NODES> *s,
                                                const linear_arguments<uint16_t> &a, const tree &t,
                                                int head, int first)
{
    int column = (int)threadIdx.x / WARP_SIZE * STRIP;
    tile_c sum[NODES / 16][2];
    stage_nodes(s, a, t, first);
    find_paths(s, t, first);
    for (int at = (int)threadIdx.x; at < NODES * row_strides<D>::W; at += (int)blockDim.x)
        s->high[at] = s->low[at] = 0;
    copy_async_wait<0>();
    __syncthreads();
    make_weights(s, a, t);
#pragma unroll
    for (int m = 0; m < NODES / 16; m++) {
        tile_clear(sum[m][0]);
        tile_clear(sum[m][1]);
    }
    do_group(sum, s, a, t, 0, t.state);
    for (int r = 0; r < NODES; r++)
        if (s->group[r] > 0 && begins_group(s, r)) {
            fold_path(s, a, t, s->group[r] - 1);
            do_group(sum, s, a, t, s->group[r], t.folded);
        }
    store_output(a.out + (t.sequence.first_token + first) * a.out_stride + head * D + column,
                 a.out_stride, sum, min(t.n - first, NODES), a.scale);
    __syncthreads(); // all are done with shared memory
}

template <int D, int NODES>
static __global__ void __launch_bounds__(D / STRIP * WARP_SIZE, NODES == 16 ? DRAFT_BLOCKS : 2)
    draft_kernel(linear_arguments<uint16_t> a, float *folded)
{
    wait_for_previous();
    typedef draft_shared<D, NODES> shared;
    DYN_SHARED(shared, s);
    for (int64_t pair = blockIdx.x; pair < (int64_t)a.batch.n_sequences * a.heads;
         pair += gridDim.x) {
        int head = (int)(pair % a.heads);
        rondo_batch_sequence sequence = a.batch.sequences[pair / a.heads];
        if (sequence.slot < 0 || sequence.n_tokens <= 0 || !sequence.is_draft)
            continue;
        tree t = tree_of(a, sequence, head);
        t.folded = folded + (int64_t)blockIdx.x * D * D;
        load_decay(s->decay, a.decay_power, head);
        store_draft_rows<D>(a, t, head);
        for (int first = 0; first < t.n; first += NODES)
            do_nodes(s, a, t, head, first);
    }
}

// ---- launches --------------------------------------------------------------------------------------------------

static int64_t most_blocks(const struct gpu_device *device)
{
    return (int64_t)DRAFT_BLOCKS * device->multiprocessors;
}

template <int D, int NODES>
static void launch(struct gpu_device *device, const struct rondo_op_linear_attention *op)
{
    int64_t pairs = (int64_t)op->batch->n_sequences * op->heads, blocks = most_blocks(device);
    if (!allow_shared_memory(device, draft_kernel<D, NODES>, sizeof(draft_shared<D, NODES>),
                             "linear_attention"))
        return;
    LAUNCH_NEXT(device, (draft_kernel<D, NODES>), dim3((unsigned)(pairs < blocks ? pairs : blocks)),
                dim3(D / STRIP * WARP_SIZE), sizeof(draft_shared<D, NODES>),
                linear_arguments_of<uint16_t>(op), (float *)device->workspace);
    GPU_LAUNCHED(device, "linear_attention");
}

void GPU(linear_attention_drafts)(struct gpu_device *device,
                                  const struct rondo_op_linear_attention *op)
{
    bool few = op->batch->max_sequence_tokens <= 16;
    if (op->head_dim == 128 && (few || sizeof(draft_shared<128, 64>) > device->shared_limit))
        launch<128, 16>(device, op);
    else if (op->head_dim == 128)
        launch<128, 64>(device, op);
    else if (few || sizeof(draft_shared<64, 64>) > device->shared_limit)
        launch<64, 16>(device, op);
    else
        launch<64, 64>(device, op);
}

size_t GPU(linear_attention_drafts_workspace)(const struct gpu_device *device,
                                              const struct rondo_limits *limits)
{
    size_t state = (size_t)limits->head_dim * limits->head_dim * sizeof(float);
    int64_t pairs = (int64_t)limits->tokens * limits->heads, blocks = most_blocks(device);
    return limits->draft > 0 ? (size_t)(pairs < blocks ? pairs : blocks) * state : 0;
}
