/* softmax_attention: one task is a block of query tokens of one sequence against one key/value head, either over
 * all segments or over one of them; partial results of segments are then merged in order. The query heads
 * that share the key/value head are rows of the same products, so that keys and values are read once. */
#include "backend_cpu/attention_internal.h"

/* Query rows of a task, unless a single token has more. */
#define BLOCK_ROWS 128
/* From this many rows on, bf16 values are widened once instead of by every register tile. */
#define WIDEN_ROWS 24
/* Up to this many rows a task waits for memory, and asks for it ahead. */
#define AHEAD_ROWS 16
/* Tokens whose segments can be computed apart from each other, see the workspace. */
#define SPLIT_TOKENS 32

/* Scratch of one thread; rows are (token, query head of the group). */
struct scratch {
    float *q;                  /* [rows, hd] */
    float *o;                  /* [rows, hd] of the running segment */
    float *total;              /* [rows, hd] of the segments so far */
    float *x;                  /* [rows, C] */
    float *ml;                 /* [rows, 2] maximum and sum of the running segment */
    float *all_ml;             /* [rows, 2] of the segments so far */
    float *factor;             /* [rows] */
    float *keys;               /* [hd, C] transposed */
    float *values;             /* [C, hd] */
    char *k, *v;               /* [C, hd] rows of a tree's path, gathered; of codes, decoded */
    float *k_scale, *v_scale;  /* [C] of codes; 0 past the last row */
    int32_t *position, *limit; /* [rows] of tokens; rows of a block that they see */
};

/* A sequence with something to do. */
struct entry {
    int32_t sequence, end; /* end: largest position + 1 */
    int32_t blocks, segments;
    int64_t first_task, n_tasks;
    int64_t first_row; /* of the partial results; -1: segments run one after the other */
};

struct job {
    const struct rondo_op_softmax_attention *op;
    const struct rondo_attention_kernels *kernels;
    struct rondo_cpu_device *device;
    int32_t group, block_tokens; /* query heads per key/value head; tokens per block */
    int32_t n_entries;
    int64_t n_tasks, n_split_rows;
    struct entry *entries; /* [n_entries] */
    float *partial;        /* [n_split_rows, hd] */
    float *partial_ml;     /* [n_split_rows, 2] */
    char *scratch;
    size_t scratch_size;
};

/* Rows of keys and values in a page; NULL: none. */
struct page_rows {
    const char *k, *v;
};

struct task {
    const struct job *job;
    const struct rondo_op_softmax_attention *op;
    const struct rondo_batch_sequence *sequence;
    const int32_t *pages;
    int32_t kv_head, first, n; /* tokens first .. first + n - 1 of the sequence */
    int32_t end;               /* the task reads no page from this position on */
    struct page_rows after;    /* what the thread's next task reads first */
    struct scratch scratch;
};

/* ---- workspace ------------------------------------------------------------------------------- */

static size_t aligned(size_t size)
{
    return (size + 63) & ~(size_t)63;
}

static int32_t tokens_of_block(int32_t group)
{
    return group < BLOCK_ROWS ? BLOCK_ROWS / group : 1;
}

/* Lays the scratch out from `base` on (NULL: only counts) and returns its bytes. */
static size_t lay_out(struct scratch *s, char *base, int32_t hd, int32_t group)
{
    size_t rows = group > BLOCK_ROWS ? (size_t)group : BLOCK_ROWS, d = (size_t)hd, used = 0;
    s->q = rondo_take(base, &used, rows * d);
    s->o = rondo_take(base, &used, rows * d);
    s->total = rondo_take(base, &used, rows * d);
    s->x = rondo_take(base, &used, rows * RONDO_CHUNK);
    s->ml = rondo_take(base, &used, rows * 2);
    s->all_ml = rondo_take(base, &used, rows * 2);
    s->factor = rondo_take(base, &used, rows);
    s->keys = rondo_take(base, &used, d * RONDO_CHUNK);
    s->values = rondo_take(base, &used, RONDO_CHUNK * d);
    s->k = rondo_take(base, &used, RONDO_CHUNK * d);
    s->v = rondo_take(base, &used, RONDO_CHUNK * d);
    s->k_scale = rondo_take(base, &used, RONDO_CHUNK);
    s->v_scale = rondo_take(base, &used, RONDO_CHUNK);
    s->position = rondo_take(base, &used, rows);
    s->limit = rondo_take(base, &used, rows);
    return used;
}

static size_t partial_row_size(int32_t hd)
{
    return ((size_t)hd + 2) * sizeof(float);
}

/* Room for the tasks, for every thread, and for the partial results of up to SPLIT_TOKENS tokens (or a tree)
 * at full depth. An op that would need more partial results runs the segments of some sequences in turn. */
size_t rondo_softmax_attention_workspace(const struct rondo_limits *limits, int threads)
{
    struct scratch unused;
    int32_t kv_heads = limits->kv_heads > 0 ? limits->kv_heads : 1;
    int32_t tokens = limits->draft > SPLIT_TOKENS ? limits->draft : SPLIT_TOKENS;
    size_t segments = ((size_t)limits->context + RONDO_SEGMENT - 1) / RONDO_SEGMENT;
    if (tokens > limits->tokens)
        tokens = limits->tokens;
    return aligned((size_t)limits->tokens * sizeof(struct entry)) +
           lay_out(&unused, NULL, limits->head_dim, limits->heads / kv_heads) * (size_t)threads +
           aligned(segments * tokens * limits->heads * partial_row_size(limits->head_dim)) + 64;
}

/* ---- one block of keys ----------------------------------------------------------------------- */

/* The rows of one C-block, side by side. */
struct keys {
    const void *k, *v;                   /* [n, hd] act */
    const float *k_scale, *v_scale;      /* [C], NULL: none */
    struct rondo_ahead k_ahead, v_ahead; /* asked for while keys, or values, are multiplied */
    int32_t n;
    bool is_first; /* of its segment */
};

/* x [n, C] = dot products of the n query rows from row `first` on with the keys of a block. */
static void multiply_keys(const struct task *task, const struct keys *keys, int32_t first,
                          int32_t n, float *x)
{
    const struct rondo_op_softmax_attention *op = task->op;
    const struct rondo_attention_kernels *kernels = task->job->kernels;
    const struct scratch *s = &task->scratch;
    int32_t hd = op->head_dim;
    const float *q = s->q + (size_t)first * hd;
    if (n <= AHEAD_ROWS) {
        kernels->dots(&(struct rondo_dots){.x = x,
                                           .x_stride = RONDO_CHUNK,
                                           .q = q,
                                           .keys = keys->k,
                                           .dtype = op->k.dtype,
                                           .rows = n,
                                           .n_keys = keys->n,
                                           .head_dim = hd,
                                           .ahead = keys->k_ahead});
        return;
    }
    kernels->transpose(s->keys, keys->k, op->k.dtype, keys->n, hd);
    kernels->product(&(struct rondo_product){.c = x,
                                             .c_stride = RONDO_CHUNK,
                                             .a = q,
                                             .a_stride = hd,
                                             .b = s->keys,
                                             .b_stride = RONDO_CHUNK,
                                             .b_dtype = RONDO_F32,
                                             .rows = n,
                                             .columns = (keys->n + 15) & ~15,
                                             .n = hd,
                                             .start = RONDO_START_ZERO});
}

/* Rows first .. first + n - 1 take the block in: o, ml are their running results. limit: per token. */
static void add_keys(const struct task *task, const struct keys *keys, int32_t first, int32_t n,
                     const int32_t *limit, float *o, float *ml)
{
    const struct rondo_op_softmax_attention *op = task->op;
    const struct rondo_attention_kernels *kernels = task->job->kernels;
    const struct scratch *s = &task->scratch;
    enum rondo_dtype dtype = op->k.dtype, v_dtype = dtype;
    int32_t hd = op->head_dim, group = task->job->group, columns = (keys->n + 15) & ~15;
    const void *v = keys->v;
    float *x = s->x + (size_t)first * RONDO_CHUNK;

    multiply_keys(task, keys, first, n, x);
    if (dtype != RONDO_F32 && n >= WIDEN_ROWS) {
        kernels->widen(s->values, v, dtype, keys->n * hd);
        v = s->values;
        v_dtype = RONDO_F32;
    }
    for (int32_t r = 0; r < n; r++) {
        float *row = ml + 2 * (first + r), *products = x + (size_t)r * RONDO_CHUNK;
        if (keys->k_scale)
            kernels->multiply(products, products, keys->k_scale, columns);
        s->factor[r] = kernels->softmax(products, limit[r / group], op->scale, keys->is_first,
                                        &row[0], &row[1]);
        if (keys->v_scale)
            kernels->multiply(products, products, keys->v_scale, columns);
    }
    struct rondo_product values = {.c = o + (size_t)first * hd,
                                   .c_stride = hd,
                                   .a = x,
                                   .a_stride = RONDO_CHUNK,
                                   .b = v,
                                   .b_stride = hd,
                                   .b_dtype = v_dtype,
                                   .rows = n,
                                   .columns = hd,
                                   .start = keys->is_first ? RONDO_START_ZERO : RONDO_START_SCALE,
                                   .scale = s->factor,
                                   .scale_step = 1};
    if (n <= AHEAD_ROWS)
        values.ahead = keys->v_ahead;
    rondo_product_staircase(kernels, &values, limit, group);
}

static struct rondo_kv_block page_block(const struct task *task, const void *pages, int32_t block)
{
    const struct rondo_op_softmax_attention *op = task->op;
    int64_t page = task->pages[block / RONDO_CHUNK];
    return rondo_kv_block(pages, op->cache.dtype, page * op->kv_heads + task->kv_head, RONDO_CHUNK,
                          op->head_dim);
}

/* n rows of codes, and their scales, become rows to .. to + n - 1 of the scratch. */
static void decode_rows(const struct task *task, const struct rondo_kv_block *block, int32_t from,
                        int32_t n, char *rows, float *scales, int32_t to)
{
    enum rondo_dtype act = task->op->k.dtype;
    int32_t hd = task->op->head_dim;
    task->job->kernels->decode(rondo_element(rows, act, (size_t)to * (size_t)hd), act,
                               (const uint8_t *)rondo_kv_row(block, RONDO_F8_E4M3, from, hd),
                               n * hd);
    memcpy(scales + to, block->scales + from, (size_t)n * sizeof *scales);
}

/* Copies or decodes n rows of a block of keys and of one of values. */
static void gather_rows(const struct task *task, const struct rondo_kv_block *k,
                        const struct rondo_kv_block *v, int32_t from, int32_t n, int32_t to)
{
    const struct scratch *s = &task->scratch;
    enum rondo_dtype dtype = task->op->cache.dtype;
    int32_t hd = task->op->head_dim;
    if (dtype == RONDO_F8_E4M3) {
        decode_rows(task, k, from, n, s->k, s->k_scale, to);
        decode_rows(task, v, from, n, s->v, s->v_scale, to);
        return;
    }
    size_t size = (size_t)hd * rondo_dtype_size(dtype);
    memcpy(s->k + (size_t)to * size, rondo_kv_row(k, dtype, from, hd), (size_t)n * size);
    memcpy(s->v + (size_t)to * size, rondo_kv_row(v, dtype, from, hd), (size_t)n * size);
}

/* What has been gathered. */
static struct keys gathered_keys(const struct task *task, int32_t block, int32_t n)
{
    const struct scratch *s = &task->scratch;
    struct keys keys = {.k = s->k, .v = s->v, .n = n, .is_first = block % RONDO_SEGMENT == 0};
    if (task->op->cache.dtype == RONDO_F8_E4M3) {
        keys.k_scale = s->k_scale;
        keys.v_scale = s->v_scale;
        for (int32_t j = n; j % 16 != 0; j++)
            s->k_scale[j] = s->v_scale[j] = 0;
    }
    return keys;
}

/* Rows of one page from its first on. Values, and then the next keys, are asked for while keys are multiplied, the
 * next keys and then the next values while values are; codes, which are read before that, a block ahead. */
static struct keys page_keys(const struct task *task, int32_t block, int32_t n)
{
    const struct rondo_kv_cache *cache = &task->op->cache;
    struct rondo_kv_block k = page_block(task, cache->k, block),
                          v = page_block(task, cache->v, block);
    struct page_rows next = task->after;
    if (block + RONDO_CHUNK < task->end)
        next = (struct page_rows){page_block(task, cache->k, block + RONDO_CHUNK).rows,
                                  page_block(task, cache->v, block + RONDO_CHUNK).rows};
    int64_t size =
        RONDO_CHUNK * (int64_t)task->op->head_dim * (int64_t)rondo_dtype_size(cache->dtype);
    struct keys keys;
    if (cache->dtype == RONDO_F8_E4M3) {
        gather_rows(task, &k, &v, 0, n, 0);
        keys = gathered_keys(task, block, n);
        keys.k_ahead = (struct rondo_ahead){next.k, NULL, size};
        keys.v_ahead = (struct rondo_ahead){next.v, NULL, size};
    } else {
        keys = (struct keys){.k = k.rows,
                             .v = v.rows,
                             .k_ahead = {v.rows, next.k, size},
                             .v_ahead = {next.k, next.v, size},
                             .n = n,
                             .is_first = block % RONDO_SEGMENT == 0};
    }
    return keys;
}

/* The rows of a block that reaches `start` or beyond, along a node's path. */
static struct keys path_keys(const struct task *task, int32_t node, int32_t block, int32_t n)
{
    const struct rondo_op_softmax_attention *op = task->op;
    const struct rondo_kv_cache *cache = &op->cache;
    const int32_t *parent = op->batch->parent + task->sequence->first_token;
    const struct scratch *s = &task->scratch;
    int64_t index = (int64_t)task->sequence->slot * op->kv_heads + task->kv_head;
    struct rondo_kv_block draft_k = rondo_kv_block(cache->draft_k, cache->dtype, index,
                                                   cache->max_draft, op->head_dim),
                          draft_v = rondo_kv_block(cache->draft_v, cache->dtype, index,
                                                   cache->max_draft, op->head_dim);
    int32_t start = task->sequence->start, shared = start > block ? start - block : 0;
    if (shared > 0) {
        struct rondo_kv_block k = page_block(task, cache->k, block),
                              v = page_block(task, cache->v, block);
        gather_rows(task, &k, &v, 0, shared, 0);
    }
    node = rondo_draft_ancestor(parent, node, s->position[node - task->first], block + n - 1);
    for (int32_t j = n - 1; j >= shared; j--, node = parent[node])
        gather_rows(task, &draft_k, &draft_v, node, 1, j);
    return gathered_keys(task, block, n);
}

/* ---- segments -------------------------------------------------------------------------------- */

/* How many rows of the block a position sees. */
static int32_t seen(int32_t position, int32_t block)
{
    int32_t n = position - block + 1;
    return n < 0 ? 0 : n > RONDO_CHUNK ? RONDO_CHUNK : n;
}

static void add_block(const struct task *task, int32_t block, float *o, float *ml)
{
    const struct scratch *s = &task->scratch;
    int32_t group = task->job->group;
    if (!task->sequence->is_draft || block + RONDO_CHUNK <= task->sequence->start) {
        int32_t first = 0;
        for (int32_t t = 0; t < task->n; t++) {
            s->limit[t] = seen(s->position[t], block);
            first += s->limit[t] == 0;
        }
        /* Ordinary positions ascend, so the tokens that see nothing of the block come first. */
        if (first == task->n)
            return;
        int32_t n = s->limit[task->sequence->is_draft ? 0 : task->n - 1];
        struct keys keys = page_keys(task, block, n);
        add_keys(task, &keys, first * group, (task->n - first) * group, s->limit + first, o, ml);
        return;
    }
    for (int32_t t = 0; t < task->n; t++) {
        int32_t n = seen(s->position[t], block);
        if (n == 0)
            continue;
        struct keys keys = path_keys(task, task->first + t, block, n);
        add_keys(task, &keys, t * group, group, &n, o, ml);
    }
}

static void run_segment(const struct task *task, int32_t segment, int32_t end, float *o, float *ml)
{
    int32_t first = segment * RONDO_SEGMENT;
    for (int32_t block = first; block < end && block < first + RONDO_SEGMENT; block += RONDO_CHUNK)
        add_block(task, block, o, ml);
}

/* total = total and part, for one row. */
static void merge_row(const struct job *job, float *total, float *total_ml, const float *part,
                      const float *part_ml)
{
    float m = part_ml[0] > total_ml[0] ? part_ml[0] : total_ml[0];
    float f = rondo_exp(total_ml[0] - m), g = rondo_exp(part_ml[0] - m);
    total_ml[1] = fmaf(total_ml[1], f, part_ml[1] * g);
    job->kernels->merge(total, part, f, g, job->op->head_dim);
    total_ml[0] = m;
}

static void write_row(const struct job *job, int32_t token, int32_t head, const float *total,
                      const float *total_ml)
{
    const struct rondo_op_softmax_attention *op = job->op;
    void *out = rondo_element(rondo_tensor_row(&op->out, token), op->out.dtype,
                              (size_t)head * op->head_dim);
    job->kernels->scale(out, op->out.dtype, total, 1.0f / total_ml[1], op->head_dim);
}

static void run_all_segments(const struct task *task, int32_t end)
{
    const struct job *job = task->job;
    const struct scratch *s = &task->scratch;
    size_t hd = (size_t)task->op->head_dim;
    int32_t group = job->group;
    run_segment(task, 0, end, s->total, s->all_ml);
    for (int32_t segment = 1; segment * RONDO_SEGMENT < end; segment++) {
        run_segment(task, segment, end, s->o, s->ml);
        for (int32_t r = 0; r < task->n * group; r++)
            if (s->position[r / group] >= segment * RONDO_SEGMENT)
                merge_row(job, s->total + r * hd, s->all_ml + 2 * r, s->o + r * hd, s->ml + 2 * r);
    }
    for (int32_t r = 0; r < task->n * group; r++)
        write_row(job, task->sequence->first_token + task->first + r / group,
                  task->kv_head * group + r % group, s->total + r * hd, s->all_ml + 2 * r);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static int32_t position_of(const struct rondo_op_softmax_attention *op,
                           const struct rondo_batch_sequence *sequence, int32_t t)
{
    return sequence->is_draft ? op->batch->position[sequence->first_token + t]
                              : sequence->start + t;
}

static void load_queries(const struct task *task)
{
    const struct rondo_op_softmax_attention *op = task->op;
    size_t hd = (size_t)op->head_dim, group = (size_t)task->job->group;
    for (int32_t t = 0; t < task->n; t++) {
        const void *q = rondo_tensor_row(&op->q, task->sequence->first_token + task->first + t);
        task->job->kernels->widen(task->scratch.q + t * group * hd,
                                  rondo_element(q, op->q.dtype, task->kv_head * group * hd),
                                  op->q.dtype, (int32_t)(group * hd));
        task->scratch.position[t] = position_of(op, task->sequence, task->first + t);
    }
}

/* Partial results of row (segment, kv_head, token of the sequence, query head of the group). */
static int64_t partial_row(const struct job *job, const struct entry *entry, int32_t segment,
                           int32_t kv_head, int32_t token)
{
    int32_t n_tokens = job->op->batch->sequences[entry->sequence].n_tokens;
    return entry->first_row +
           (((int64_t)segment * job->op->kv_heads + kv_head) * n_tokens + token) * job->group;
}

/* Makes `task` task `index` of the entry and returns its segment, or -1: all. Blocks go from the last to the first: the
 * longest tasks begin first. */
static int32_t select_task(struct task *task, const struct entry *entry, int64_t index)
{
    const struct job *job = task->job;
    const struct rondo_op_softmax_attention *op = task->op;
    bool is_split = entry->first_row >= 0;
    int32_t segment = is_split ? (int32_t)(index % entry->segments) : -1;
    int64_t rest = is_split ? index / entry->segments : index;
    int32_t block = entry->blocks - 1 - (int32_t)(rest / op->kv_heads);
    task->sequence = &op->batch->sequences[entry->sequence];
    task->pages = op->batch->page_table + (size_t)entry->sequence * op->batch->page_stride;
    task->kv_head = (int32_t)(rest % op->kv_heads);
    task->first = block * job->block_tokens;
    task->n = task->sequence->n_tokens - task->first;
    if (task->n > job->block_tokens)
        task->n = job->block_tokens;
    task->end = task->sequence->start + (task->sequence->is_draft ? 0 : task->sequence->n_tokens);
    if (is_split && task->end > (segment + 1) * RONDO_SEGMENT)
        task->end = (segment + 1) * RONDO_SEGMENT;
    return segment;
}

/* What task `index` of the entry reads first. */
static struct page_rows first_rows(const struct job *job, const struct entry *entry, int64_t index)
{
    const struct rondo_kv_cache *cache = &job->op->cache;
    struct task task = {.job = job, .op = job->op};
    int32_t segment = select_task(&task, entry, index);
    int32_t block = segment > 0 ? segment * RONDO_SEGMENT : 0;
    if (block >= task.end)
        return (struct page_rows){NULL, NULL};
    return (struct page_rows){page_block(&task, cache->k, block).rows,
                              page_block(&task, cache->v, block).rows};
}

static void run_task(struct task *task, const struct entry *entry, int64_t index)
{
    const struct job *job = task->job;
    int32_t segment = select_task(task, entry, index), end = 0;
    load_queries(task);
    for (int32_t t = 0; t < task->n; t++)
        end = task->scratch.position[t] >= end ? task->scratch.position[t] + 1 : end;
    if (segment >= 0) {
        int64_t row = partial_row(job, entry, segment, task->kv_head, task->first);
        run_segment(task, segment, end, job->partial + row * task->op->head_dim,
                    job->partial_ml + 2 * row);
    } else {
        run_all_segments(task, end);
    }
}

/* The token's rows, for one key/value head, from the partial results. */
static void merge_token(const struct job *job, const struct entry *entry, int32_t kv_head,
                        int32_t token)
{
    const struct rondo_op_softmax_attention *op = job->op;
    const struct rondo_batch_sequence *sequence = &op->batch->sequences[entry->sequence];
    int32_t position = position_of(op, sequence, token);
    for (int32_t g = 0; g < job->group; g++) {
        int64_t first = partial_row(job, entry, 0, kv_head, token) + g;
        float *total = job->partial + first * op->head_dim, *ml = job->partial_ml + 2 * first;
        for (int32_t segment = 1; segment * RONDO_SEGMENT <= position; segment++) {
            int64_t row = partial_row(job, entry, segment, kv_head, token) + g;
            merge_row(job, total, ml, job->partial + row * op->head_dim, job->partial_ml + 2 * row);
        }
        write_row(job, sequence->first_token + token, kv_head * job->group + g, total, ml);
    }
}

/* The entry of a task, from an entry on. */
static const struct entry *entry_of(const struct entry *entry, int64_t task)
{
    while (task >= entry->first_task + entry->n_tasks)
        entry++;
    return entry;
}

static void run(void *user, int thread, int threads)
{
    const struct job *job = user;
    const struct rondo_op_softmax_attention *op = job->op;
    struct rondo_pool *pool = job->device->pool;
    int64_t first, end;
    rondo_split(op->batch->n_tokens, 1, thread, threads, &first, &end);
    for (int64_t token = first; token < end; token++) {
        int32_t number = op->batch->sequence_of[token];
        const struct rondo_batch_sequence *sequence = &op->batch->sequences[number];
        if (sequence->slot >= 0)
            rondo_kv_store_token(op, sequence,
                                 op->batch->page_table + (size_t)number * op->batch->page_stride,
                                 (int32_t)token - sequence->first_token);
    }
    rondo_pool_barrier(pool);

    struct task task = {.job = job, .op = op};
    lay_out(&task.scratch, job->scratch + thread * job->scratch_size, op->head_dim, job->group);
    /* A task is claimed before the one ahead of it is run, so that its first rows can be asked for. */
    const struct entry *entry = job->entries, *later;
    for (int64_t i = rondo_pool_next(pool), next; i < job->n_tasks; i = next) {
        entry = entry_of(entry, i);
        next = rondo_pool_next(pool);
        task.after = (struct page_rows){NULL, NULL};
        if (next < job->n_tasks) {
            later = entry_of(entry, next);
            task.after = first_rows(job, later, next - later->first_task);
        }
        run_task(&task, entry, i - entry->first_task);
    }
    if (job->n_split_rows == 0)
        return;
    rondo_pool_barrier(pool);
    for (entry = job->entries; entry < job->entries + job->n_entries; entry++) {
        int32_t n_tokens = op->batch->sequences[entry->sequence].n_tokens;
        if (entry->first_row < 0)
            continue;
        rondo_split((int64_t)n_tokens * op->kv_heads, 1, thread, threads, &first, &end);
        for (int64_t i = first; i < end; i++)
            merge_token(job, entry, (int32_t)(i % op->kv_heads), (int32_t)(i / op->kv_heads));
    }
}

/* ---- the op ---------------------------------------------------------------------------------- */

/* Fills the entries without their tasks; returns the positions that all query tokens see together. */
static int64_t list_entries(struct job *job)
{
    const struct rondo_op_softmax_attention *op = job->op;
    int64_t work = 0;
    for (int32_t s = 0; s < op->batch->n_sequences; s++) {
        const struct rondo_batch_sequence *sequence = &op->batch->sequences[s];
        if (sequence->slot < 0 || sequence->n_tokens == 0)
            continue;
        struct entry *entry = &job->entries[job->n_entries++];
        *entry = (struct entry){.sequence = s, .first_row = -1};
        for (int32_t t = 0; t < sequence->n_tokens; t++) {
            int32_t end = position_of(op, sequence, t) + 1;
            work += end;
            entry->end = end > entry->end ? end : entry->end;
        }
        entry->blocks = (sequence->n_tokens + job->block_tokens - 1) / job->block_tokens;
        entry->segments = (entry->end + RONDO_SEGMENT - 1) / RONDO_SEGMENT;
    }
    return work * op->kv_heads;
}

/* Cuts a sequence into segments when one of its tasks would be more than a quarter of a thread's share of the
 * work, as long as there is room for the partial results. */
static void plan_tasks(struct job *job, int64_t work, int64_t row_capacity)
{
    const struct rondo_op_softmax_attention *op = job->op;
    int64_t threads = rondo_pool_threads(job->device->pool);
    for (int32_t i = 0; i < job->n_entries; i++) {
        struct entry *entry = &job->entries[i];
        int64_t n_tokens = op->batch->sequences[entry->sequence].n_tokens;
        int64_t task_tokens = n_tokens < job->block_tokens ? n_tokens : job->block_tokens;
        int64_t rows = n_tokens * entry->segments * op->heads;
        entry->first_task = job->n_tasks;
        entry->n_tasks = (int64_t)entry->blocks * op->kv_heads;
        if (threads > 1 && entry->segments > 1 && job->n_split_rows + rows <= row_capacity &&
            task_tokens * entry->end * threads * 4 > work) {
            entry->first_row = job->n_split_rows;
            entry->n_tasks *= entry->segments;
            job->n_split_rows += rows;
        }
        job->n_tasks += entry->n_tasks;
    }
}

void rondo_softmax_attention_cpu(struct rondo_device *device,
                                 const struct rondo_op_softmax_attention *op)
{
    struct rondo_cpu_device *cpu = rondo_cpu(device);
    struct job job = {.op = op, .device = cpu, .group = op->heads / op->kv_heads};
    struct scratch unused;
    job.kernels = rondo_attention_kernels(cpu->level, op->head_dim);
    if (!job.kernels) {
        rondo_softmax_attention_ref(device, op);
        return;
    }
    job.block_tokens = tokens_of_block(job.group);
    job.scratch_size = lay_out(&unused, NULL, op->head_dim, job.group);

    size_t entries_size = aligned((size_t)op->batch->n_tokens * sizeof(struct entry));
    size_t used = entries_size + job.scratch_size * (size_t)rondo_pool_threads(cpu->pool);
    job.entries = (struct entry *)(void *)cpu->workspace;
    job.scratch = cpu->workspace + entries_size;
    int64_t work = list_entries(&job);
    plan_tasks(&job, work,
               (int64_t)((cpu->workspace_size - used) / partial_row_size(op->head_dim)));
    job.partial = (float *)(void *)(cpu->workspace + used);
    job.partial_ml = job.partial + job.n_split_rows * op->head_dim;
    if (job.n_tasks > 0)
        rondo_pool_run(cpu->pool, run, &job);
}
