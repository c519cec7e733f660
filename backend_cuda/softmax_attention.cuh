// What the kernels of softmax_attention share: the arguments, tiles of query rows, where keys and values are, and
// how results of segments are merged.
//
// A tile is up to R query rows of one sequence and one key/value head. Row r of a sequence is query head
// r % group of the key/value head's group, of token r / group. The rows of a tile see the same keys, with one
// exception: a node of a draft tree has keys of its own at positions from the sequence's start on.
//
// A tile walks steps: 64-blocks of positions in ascending order; blocks of a tree that reach `start` come once for
// each of the tile's nodes, and only the node's rows take part. Keys and values of positions before `start` are in
// the pages, all others are read from the batch itself, so that no block waits until another has stored them. Of
// caches of codes everything is read from there; a kernel of its own has stored the batch's keys and values before.
#ifndef RONDO_BACKEND_CUDA_SOFTMAX_ATTENTION_CUH
#define RONDO_BACKEND_CUDA_SOFTMAX_ATTENTION_CUH

#include "backend_cuda/ptx.cuh"

#define ATTENTION_LOG2E 1.44269504088896341f

// Which sequences of the batch a launch does.
enum attention_selection {
    ATTENTION_ALL,
    ATTENTION_SMALL, // at most small_tokens tokens
    ATTENTION_LARGE, // the others
};

struct attention_args {
    const struct rondo_batch_sequence *sequences; // [B]
    const int32_t *sequence_of, *position, *parent, *page_table;
    int32_t n_tokens, n_sequences, page_stride;

    const void *q, *k, *v; // of the batch; strides in elements
    void *out;
    int64_t q_stride, k_stride, v_stride, out_stride;
    void *cache_k, *cache_v, *draft_k, *draft_v; // [pages, Hkv, C, hd], [slots, Hkv, max_draft, hd]
    int32_t max_draft, heads, kv_heads, group, head_dim;
    // Caches of codes: k and v above are not read by the attention kernels, everything is in the caches by then.
    bool codes;
    int64_t page_bytes, draft_bytes; // of a head's block of pages and of drafts
    int32_t draft_offset;            // of the codes in a block of drafts
    float scale;
    bool out_is_f32;

    int32_t selection, small_tokens;
    // Results of segments apart, [n_indices, H, segments, hd] and [.., 2] maximum and sum; NULL: a tile does all
    // of its segments. The index of a token is its number in the batch, or, when only small sequences are
    // selected, its sequence * small_tokens + its number in there. A launch does indices from first_index on.
    float *partial, *partial_ml;
    int32_t segments, first_index, n_indices;
    float *total; // running results of tiles with several segments, a part for each thread block
    int32_t tiles, stages;
};

struct attention_tile {
    struct rondo_batch_sequence sequence;
    int32_t number;        // of the sequence in the batch; -1: there is no such tile
    int32_t row, rows;     // first row in the sequence, number of rows
    int32_t token, tokens; // tokens they belong to, in the sequence
    int32_t index;         // of the sequence's first token among partial results
    int32_t last;          // largest position that a row sees
};

static __device__ __forceinline__ int32_t attention_position(const attention_args &a,
                                                             const attention_tile &tile,
                                                             int32_t token)
{
    return tile.sequence.is_draft ? a.position[tile.sequence.first_token + token]
                                  : tile.sequence.start + token;
}

static __device__ __forceinline__ int32_t attention_warp_max(int32_t x)
{
    for (int mask = WARP_SIZE / 2; mask; mask /= 2) {
        int32_t y = WARP_XOR(x, mask);
        x = y > x ? y : x;
    }
    return x;
}

// Tile `number` of the launch, for tiles of `capacity` rows: those of sequence s begin at number
// first_token * group / capacity + s, which leaves room for all of them. Whole warps.
static __device__ inline attention_tile attention_find_tile(const attention_args &a, int32_t number,
                                                            int32_t capacity)
{
    attention_tile tile;
    int32_t lane = (int32_t)(threadIdx.x % WARP_SIZE), found = -1;
    for (int32_t s = lane; s < a.n_sequences; s += WARP_SIZE) {
        struct rondo_batch_sequence q = a.sequences[s];
        if (q.slot >= 0 && q.n_tokens > 0 && q.first_token * a.group / capacity + s <= number)
            found = s;
    }
    tile.number = -1;
    found = attention_warp_max(found);
    if (found < 0)
        return tile;
    tile.sequence = a.sequences[found];
    int32_t n = tile.sequence.n_tokens * a.group;
    tile.row = (number - (tile.sequence.first_token * a.group / capacity + found)) * capacity;
    if (tile.row >= n ||
        (a.selection != ATTENTION_ALL &&
         (tile.sequence.n_tokens <= a.small_tokens) != (a.selection == ATTENTION_SMALL)))
        return tile;
    tile.rows = n - tile.row < capacity ? n - tile.row : capacity;
    tile.token = tile.row / a.group;
    tile.tokens = (tile.row + tile.rows - 1) / a.group - tile.token + 1;
    tile.index = a.selection == ATTENTION_ALL ? tile.sequence.first_token : found * a.small_tokens;
    if (a.partial && (tile.index + tile.token + tile.tokens <= a.first_index ||
                      tile.index + tile.token >= a.first_index + a.n_indices))
        return tile;
    int32_t last = -1;
    for (int32_t t = lane; t < tile.tokens; t += WARP_SIZE) {
        int32_t position = attention_position(a, tile, tile.token + t);
        last = position > last ? position : last;
    }
    tile.last = attention_warp_max(last);
    tile.number = found;
    return tile;
}

// ---- steps ----------------------------------------------------------------------------------------

struct attention_steps {
    int32_t first, shared, n; // first block; blocks that all rows share; steps
};

struct attention_step {
    int32_t block, node; // node -1: all rows
};

// Steps of one segment.
static __device__ __forceinline__ attention_steps attention_list_steps(const attention_tile &tile,
                                                                       int32_t segment)
{
    const int32_t blocks_of_segment = RONDO_SEGMENT / RONDO_CHUNK;
    attention_steps steps;
    steps.first = segment * blocks_of_segment;
    int32_t end = tile.last / RONDO_CHUNK + 1;
    int32_t n = end - steps.first < blocks_of_segment ? end - steps.first : blocks_of_segment;
    n = n < 0 ? 0 : n;
    steps.shared = n;
    if (tile.sequence.is_draft) {
        int32_t below = tile.sequence.start / RONDO_CHUNK - steps.first;
        steps.shared = below < 0 ? 0 : below < n ? below : n;
    }
    steps.n = steps.shared + (n - steps.shared) * (tile.sequence.is_draft ? tile.tokens : 1);
    return steps;
}

static __device__ __forceinline__ attention_step attention_step_at(const attention_tile &tile,
                                                                   const attention_steps &steps,
                                                                   int32_t i)
{
    attention_step step = {steps.first + i, -1};
    if (i >= steps.shared) { // of a tree
        int32_t past = i - steps.shared;
        step.block = steps.first + steps.shared + past / tile.tokens;
        step.node = tile.token + past % tile.tokens;
    }
    return step;
}

// How many of the block's positions, less one, a row of `token` at `position` sees; negative: none.
static __device__ __forceinline__ int32_t attention_limit(const attention_step &step, int32_t token,
                                                          int32_t position)
{
    return step.node >= 0 && step.node != token ? -1 : position - step.block * RONDO_CHUNK;
}

// Page of a block, as far as it is before the sequence's start, or in a cache of codes; else -1.
static __device__ __forceinline__ int32_t attention_page(const attention_args &a,
                                                         const attention_tile &tile, int32_t block)
{
    return block * RONDO_CHUNK < tile.sequence.start || (a.codes && !tile.sequence.is_draft)
               ? a.page_table[(int64_t)tile.number * a.page_stride + block]
               : -1;
}

// The token, in the batch, whose key stands at `position`, which is not before the sequence's start; -1: none
// that the tile needs.
static __device__ __forceinline__ int32_t attention_token(const attention_args &a,
                                                          const attention_tile &tile,
                                                          const attention_step &step,
                                                          int32_t position)
{
    if (step.node < 0)
        return position <= tile.last ? tile.sequence.first_token + position - tile.sequence.start
                                     : -1;
    int32_t node = step.node, at = a.position[tile.sequence.first_token + node];
    if (position > at)
        return -1;
    for (; at > position; at--)
        node = a.parent[tile.sequence.first_token + node];
    return tile.sequence.first_token + node;
}

// First element of a key/value head's row in a page.
static __device__ __forceinline__ int64_t attention_page_row(const attention_args &a, int32_t page,
                                                             int32_t head, int32_t row)
{
    return (((int64_t)page * a.kv_heads + head) * RONDO_CHUNK + row) * a.head_dim;
}

// A row of a cache of codes: whether it is a draft's, and bytes from the start of the array.
struct attention_codes_row {
    int64_t codes, scale; // -1: there is no such row
    bool is_draft;
};

static __device__ __forceinline__ attention_codes_row attention_draft_codes(const attention_args &a,
                                                                            int32_t slot,
                                                                            int32_t head,
                                                                            int32_t node)
{
    int64_t block = ((int64_t)slot * a.kv_heads + head) * a.draft_bytes;
    attention_codes_row row = {block + a.draft_offset + (int64_t)node * a.head_dim,
                               block + node * (int)sizeof(float), true};
    return row;
}

static __device__ __forceinline__ attention_codes_row attention_page_codes(const attention_args &a,
                                                                           int32_t page,
                                                                           int32_t head, int32_t at)
{
    int64_t block = ((int64_t)page * a.kv_heads + head) * a.page_bytes;
    attention_codes_row row = {block + (int)(RONDO_CHUNK * sizeof(float)) + at * a.head_dim,
                               block + at * (int)sizeof(float), false};
    return row;
}

// Row `at` of a step, whose block is on `page`.
static __device__ __forceinline__ attention_codes_row
attention_find_codes(const attention_args &a, const attention_tile &tile,
                     const attention_step &step, int32_t page, int32_t head, int32_t at)
{
    attention_codes_row none = {-1, -1, false};
    int32_t position = step.block * RONDO_CHUNK + at;
    if (position < tile.sequence.start)
        return attention_page_codes(a, page, head, at);
    int32_t token = attention_token(a, tile, step, position);
    if (token < 0)
        return none;
    return tile.sequence.is_draft ? attention_draft_codes(a, tile.sequence.slot, head,
                                                          token - tile.sequence.first_token)
                                  : attention_page_codes(a, page, head, at);
}

// Stores the keys and values of the tile's tokens, those whose first row is in the tile, for one key/value head.
// Unit: what is copied at a time; units: of a row.
template <typename Unit>
static __device__ void attention_store(const attention_args &a, const attention_tile &tile,
                                       int32_t head, int32_t units)
{
    if (a.codes)
        return; // attention_store_codes has done it
    const int32_t per_unit = a.head_dim / units;
    int32_t first = (tile.row + a.group - 1) / a.group;
    int32_t n = tile.token + tile.tokens - first;
    for (int32_t i = (int32_t)threadIdx.x; i < n * units; i += (int32_t)blockDim.x) {
        int32_t t = first + i / units, unit = i % units;
        int64_t token = tile.sequence.first_token + t, position = tile.sequence.start + t, to;
        if (a.partial &&
            (tile.index + t < a.first_index || tile.index + t >= a.first_index + a.n_indices))
            continue;
        bool is_draft = tile.sequence.is_draft;
        if (is_draft)
            to = (((int64_t)tile.sequence.slot * a.kv_heads + head) * a.max_draft + t) * a.head_dim;
        else
            to = attention_page_row(
                a, a.page_table[(int64_t)tile.number * a.page_stride + position / RONDO_CHUNK],
                head, (int32_t)(position % RONDO_CHUNK));
        to = to / per_unit + unit;
        int64_t column = (int64_t)head * a.head_dim;
        ((Unit *)(is_draft ? a.draft_k : a.cache_k))[to] =
            ((const Unit *)a.k)[(token * a.k_stride + column) / per_unit + unit];
        ((Unit *)(is_draft ? a.draft_v : a.cache_v))[to] =
            ((const Unit *)a.v)[(token * a.v_stride + column) / per_unit + unit];
    }
}

// ---- results --------------------------------------------------------------------------------------

// Row of partial results; -1: not of this launch.
static __device__ __forceinline__ int64_t attention_partial_row(const attention_args &a,
                                                                const attention_tile &tile,
                                                                int32_t token, int32_t head,
                                                                int32_t segment)
{
    int32_t index = tile.index + token - a.first_index;
    if (index < 0 || index >= a.n_indices)
        return -1;
    return ((int64_t)index * a.heads + head) * a.segments + segment;
}

static __device__ __forceinline__ void attention_put(const attention_args &a, int64_t at, float x)
{
    if (a.out_is_f32)
        ((float *)a.out)[at] = x;
    else
        ((uint16_t *)a.out)[at] = f32_bf16(x);
}

// How much the results so far (m, l) and those of the next segment count; m and l become those of both.
template <class Exp> struct attention_merge {
    float f, g;

    __device__ __forceinline__ attention_merge(float &m, float &l, float next_m, float next_l)
    {
        float both = next_m > m ? next_m : m;
        f = Exp::exp(m - both);
        g = Exp::exp(next_m - both);
        l = fmaf(l, f, next_l * g);
        m = both;
    }

    __device__ __forceinline__ float operator()(float o, float next_o) const
    {
        return fmaf(o, f, next_o * g);
    }
};

// exp of the path in the contract's order. The tensor core path has attention_fast.
struct attention_exact {
    static __device__ __forceinline__ float exp(float x)
    {
        return exp_f32(x);
    }
    static __device__ __forceinline__ float finish(float out)
    {
        return out;
    }
};

// ---- between the files ----------------------------------------------------------------------------

extern "C" {
// The tensor core kernels: for many rows, and for few of each sequence. They need q, k, v and out in bf16, rows of 16-byte
// units, a head size that fits, and a scale that is multiplied by log2(e) and above 0.
void GPU(softmax_attention_rows)(struct gpu_device *device, const attention_args *a);
void GPU(softmax_attention_few)(struct gpu_device *device, const attention_args *a);
bool GPU(softmax_attention_rows_fit)(const struct gpu_device *device, int32_t head_dim, bool codes);
bool GPU(softmax_attention_few_fit)(const struct gpu_device *device, int32_t head_dim, bool codes);
// Any of f32 or bf16 that fits, in the contract's order.
void GPU(softmax_attention_exact)(struct gpu_device *device, const attention_args *a, bool is_f32);
bool GPU(softmax_attention_exact_fits)(const struct gpu_device *device, int32_t head_dim);
// Bytes of running results (a->total) that softmax_attention_rows needs for tiles with several segments.
size_t GPU(softmax_attention_rows_total)(const struct gpu_device *device, int32_t head_dim);
}

#endif
