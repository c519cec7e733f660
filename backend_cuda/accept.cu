// accept: moves rows of accepted drafts into tails or pages, and folds the chunks they complete.
//
// Folding reads the open chunk's rows of the tail and comes first; then rows are moved. Both are small: a fold reads
// and writes S once (128 KiB per head at hd = 128), a move copies 512 bytes per row and head.
#include "backend_cuda/linear_attention_fold.cuh"

#define THREADS 128

// ---- linear layers ---------------------------------------------------------------------------------------------

// Grid: tiles of a state, heads.
template <int D>
static __global__ void __launch_bounds__(FOLD_WARPS *WARP_SIZE)
    accept_kernel(accept_arguments<uint16_t> a)
{
    wait_for_previous();
    constexpr int TILES = D / FOLD_KEYS * (D / VALUE_TILE);
    DYN_SHARED(fold_shared, s);
    int head = (int)blockIdx.x / TILES, origin = a.start - a.start % CHUNK;
    fold_tile_place place = fold_place((int)blockIdx.x % TILES, D);
    float *memory = a.state + cache_row(a.slot, a.heads, head, D, D);
    tile_c state[2];
    load_decay(s->decay, a.decay_power, head);
    tile_clear(state[0]);
    tile_clear(state[1]);
    if (a.start > 0)
        load_fold_state<D>(state, memory, place);
    fold_chunks(state, s, accept_rows_of(a, head), place, origin, (a.start + a.n - origin) / CHUNK,
                [](int) {});
    store_fold_state<D>(memory, state, place);
}

template <int D>
static void launch_chunks(struct gpu_device *device, const struct rondo_op_accept *op)
{
    int64_t blocks = (int64_t)op->heads * (D / FOLD_KEYS) * (D / VALUE_TILE);
    if (!allow_shared_memory(device, accept_kernel<D>, sizeof(fold_shared), "accept"))
        return;
    LAUNCH_NEXT(device, accept_kernel<D>, dim3((unsigned)blocks), dim3(FOLD_WARPS * WARP_SIZE),
                sizeof(fold_shared), accept_arguments_of<uint16_t>(op));
    GPU_LAUNCHED(device, "accept");
}

// ---- rows ------------------------------------------------------------------------------------------------------

// Rows as units of UNIT; sizes in units.
template <class UNIT> struct moved_rows {
    UNIT *to_k, *to_v;             // [slots or pages, H, C, width]
    const UNIT *draft_k, *draft_v; // [slots, H, max_draft, width]
    const int32_t *path;           // [n]
    const int32_t *page_table;     // NULL: rows go to the slot's tail
    int slot, heads, max_draft, width;
    int first, start, n; // rows first .. n - 1 of the path are moved
};

// Grid: rows, heads.
template <class UNIT>
static __global__ void __launch_bounds__(THREADS) move_kernel(moved_rows<UNIT> m)
{
    wait_for_previous();
    int head = (int)blockIdx.x % m.heads, i = m.first + (int)blockIdx.x / m.heads;
    int position = m.start + i, place = m.page_table ? m.page_table[position / CHUNK] : m.slot;
    int64_t to = cache_row(place, m.heads, head, CHUNK, m.width) + position % CHUNK * m.width;
    int64_t from =
        cache_row(m.slot, m.heads, head, m.max_draft, m.width) + (int64_t)m.path[i] * m.width;
    for (int at = (int)threadIdx.x; at < m.width; at += THREADS) {
        m.to_k[to + at] = m.draft_k[from + at];
        m.to_v[to + at] = m.draft_v[from + at];
    }
}

template <class UNIT>
static void launch_move(struct gpu_device *device, const struct rondo_op_accept *op)
{
    bool is_linear = op->linear.state != NULL;
    enum rondo_dtype dtype = is_linear ? op->linear.dtype : op->kv.dtype;
    moved_rows<UNIT> m;
    m.to_k = (UNIT *)(is_linear ? op->linear.tail_k : op->kv.k);
    m.to_v = (UNIT *)(is_linear ? op->linear.tail_v : op->kv.v);
    m.draft_k = (const UNIT *)(is_linear ? op->linear.draft_k : op->kv.draft_k);
    m.draft_v = (const UNIT *)(is_linear ? op->linear.draft_v : op->kv.draft_v);
    m.path = op->path;
    m.page_table = is_linear ? NULL : op->page_table;
    m.slot = op->slot;
    m.heads = op->heads;
    m.max_draft = is_linear ? op->linear.max_draft : op->kv.max_draft;
    m.width = (int)((size_t)op->head_dim * rondo_dtype_size(dtype) / sizeof(UNIT));
    m.start = op->start;
    m.n = op->n;
    // Of a tail only the rows of the last chunk stay.
    int end = op->start + op->n;
    m.first = is_linear ? max(end - end % CHUNK - op->start, 0) : 0;
    if (m.first < m.n) {
        LAUNCH_NEXT(device, move_kernel<UNIT>, dim3((unsigned)((m.n - m.first) * m.heads)),
                    dim3(THREADS), 0, m);
        GPU_LAUNCHED(device, "accept");
    }
}

// ---- rows of codes ---------------------------------------------------------------------------------------------

struct moved_codes {
    unsigned char *k, *v;                   // [pages, H] blocks
    const unsigned char *draft_k, *draft_v; // [slots, H] blocks
    const int32_t *path, *page_table;
    int64_t page_bytes, draft_bytes;
    int slot, heads, head_dim, start;
    int page_offset, draft_offset; // of the codes in a block
};

// Grid: rows, heads.
static __global__ void __launch_bounds__(THREADS) move_codes_kernel(moved_codes m)
{
    wait_for_previous();
    int head = (int)blockIdx.x % m.heads, i = (int)blockIdx.x / m.heads;
    int position = m.start + i, row = position % CHUNK, node = m.path[i];
    int64_t to = ((int64_t)m.page_table[position / CHUNK] * m.heads + head) * m.page_bytes;
    int64_t from = ((int64_t)m.slot * m.heads + head) * m.draft_bytes;
    for (int at = (int)threadIdx.x; at < m.head_dim; at += THREADS) {
        int64_t code = to + m.page_offset + row * m.head_dim + at;
        int64_t draft = from + m.draft_offset + (int64_t)node * m.head_dim + at;
        m.k[code] = m.draft_k[draft];
        m.v[code] = m.draft_v[draft];
    }
    if (threadIdx.x == 0) {
        ((float *)(m.k + to))[row] = ((const float *)(m.draft_k + from))[node];
        ((float *)(m.v + to))[row] = ((const float *)(m.draft_v + from))[node];
    }
}

static void launch_move_codes(struct gpu_device *device, const struct rondo_op_accept *op)
{
    const struct rondo_kv_cache *kv = &op->kv;
    moved_codes m;
    m.k = (unsigned char *)kv->k;
    m.v = (unsigned char *)kv->v;
    m.draft_k = (const unsigned char *)kv->draft_k;
    m.draft_v = (const unsigned char *)kv->draft_v;
    m.path = op->path;
    m.page_table = op->page_table;
    m.page_bytes = (int64_t)rondo_kv_block_bytes(kv->dtype, CHUNK, op->head_dim);
    m.draft_bytes = (int64_t)rondo_kv_block_bytes(kv->dtype, kv->max_draft, op->head_dim);
    m.slot = op->slot;
    m.heads = op->heads;
    m.head_dim = op->head_dim;
    m.start = op->start;
    m.page_offset = (int)rondo_kv_rows_offset(kv->dtype, CHUNK);
    m.draft_offset = (int)rondo_kv_rows_offset(kv->dtype, kv->max_draft);
    LAUNCH_NEXT(device, move_codes_kernel, dim3((unsigned)(op->n * op->heads)), dim3(THREADS), 0,
                m);
    GPU_LAUNCHED(device, "accept");
}

void GPU(accept)(struct rondo_device *base, const struct rondo_op_accept *op)
{
    struct gpu_device *device = gpu_device_of(base);
    if (op->slot < 0 || op->n <= 0)
        return;
    bool is_linear = op->linear.state != NULL;
    if (is_linear && (op->start == 0 || op->start % CHUNK + op->n >= CHUNK)) {
        if (op->linear.dtype == RONDO_BF16 && op->head_dim == 128)
            launch_chunks<128>(device, op);
        else if (op->linear.dtype == RONDO_BF16 && op->head_dim == 64)
            launch_chunks<64>(device, op);
        else
            GPU(accept_exact)(device, op);
    }
    enum rondo_dtype dtype = is_linear ? op->linear.dtype : op->kv.dtype;
    if (dtype == RONDO_F8_E4M3)
        return launch_move_codes(device, op);
    if ((size_t)op->head_dim * rondo_dtype_size(dtype) % 16 == 0)
        launch_move<uint4>(device, op);
    else
        launch_move<uint16_t>(device, op);
}
