/* linear_attention and the linear part of accept: one task is one head of one sequence. Chunks go one after
 * the other; a chunk is three small products (scores, state, values) and, when it is complete, the fold.
 * Rows are stored in the tail first, so that the rows of a chunk always stand there side by side. */
#include "backend_cpu/attention_internal.h"

/* From this many rows on, bf16 values are widened once instead of by every register tile. */
#define WIDEN_ROWS 12
/* Up to this many rows a task waits for memory, and asks for it ahead. */
#define AHEAD_ROWS 6
/* Rows of the state that are read while as many are asked for. */
#define STATE_ROWS 32

/* Scratch of one thread. n: rows of a chunk or nodes of a tree. */
struct scratch {
    struct rondo_linear_fold fold;
    float *reversed; /* [2 C] behind fold.reversed */
    float *values;   /* [C, hd] */
    float *q;        /* [n, hd] */
    float *w;        /* [n, C] */
    float *w_draft;  /* [n, n rounded up to C] */
    float *state;    /* [hd, hd] */
    char *k, *v;     /* [C, hd] gathered rows of a tree's path */
};

struct task {
    const struct rondo_op_linear_attention *op;
    const struct rondo_attention_kernels *kernels;
    const struct rondo_batch_sequence *sequence;
    int32_t head;
    float *state;            /* [hd, hd] of the slot */
    const float *next_state; /* [hd, hd] of the thread's next task, or NULL */
    size_t tail;             /* first element of the head's tail rows */
    size_t draft;            /* and of its draft rows */
    struct scratch scratch;
};

struct job {
    const struct rondo_op_linear_attention *op;
    const struct rondo_attention_kernels *kernels;
    struct rondo_cpu_device *device;
    int32_t nodes; /* of the largest tree */
    size_t scratch_size;
};

static int32_t rounded(int32_t n)
{
    return (n + RONDO_CHUNK - 1) / RONDO_CHUNK * RONDO_CHUNK;
}

/* Lays the scratch out from `base` on (NULL: only counts) and returns its bytes. */
static size_t lay_out(struct scratch *s, char *base, int32_t hd, int32_t nodes)
{
    size_t n = nodes > RONDO_CHUNK ? (size_t)nodes : RONDO_CHUNK, d = (size_t)hd, used = 0;
    s->fold.keys = rondo_take(base, &used, d * RONDO_CHUNK);
    s->fold.decayed = rondo_take(base, &used, d * RONDO_CHUNK);
    s->reversed = rondo_take(base, &used, 2 * RONDO_CHUNK);
    s->values = rondo_take(base, &used, RONDO_CHUNK * d);
    s->q = rondo_take(base, &used, n * d);
    s->w = rondo_take(base, &used, n * RONDO_CHUNK);
    s->w_draft = rondo_take(base, &used, n * (size_t)rounded(nodes));
    s->state = rondo_take(base, &used, d * d);
    s->k = rondo_take(base, &used, RONDO_CHUNK * d);
    s->v = rondo_take(base, &used, RONDO_CHUNK * d);
    return used;
}

size_t rondo_linear_attention_workspace(const struct rondo_limits *limits, int threads)
{
    struct scratch unused;
    return lay_out(&unused, NULL, limits->head_dim, limits->draft) * (size_t)threads;
}

static void prepare_fold(struct scratch *s, const struct rondo_attention_kernels *kernels,
                         const float *decay_power, int32_t hd)
{
    s->fold.kernels = kernels;
    s->fold.decay_power = decay_power;
    s->fold.reversed = s->reversed;
    s->fold.head_dim = hd;
    for (int32_t j = 0; j < RONDO_CHUNK; j++) {
        s->reversed[j] = decay_power[RONDO_CHUNK - 1 - j];
        s->reversed[RONDO_CHUNK + j] = 0.0f;
    }
}

void rondo_linear_fold(const struct rondo_linear_fold *fold, float *state, const void *v,
                       enum rondo_dtype dtype)
{
    int32_t hd = fold->head_dim;
    for (int32_t d = 0; d < hd; d++)
        fold->kernels->multiply(fold->decayed + d * RONDO_CHUNK, fold->keys + d * RONDO_CHUNK,
                                fold->reversed, RONDO_CHUNK);
    fold->kernels->product(&(struct rondo_product){.c = state,
                                                   .c_stride = hd,
                                                   .a = fold->decayed,
                                                   .a_stride = RONDO_CHUNK,
                                                   .b = v,
                                                   .b_stride = hd,
                                                   .b_dtype = dtype,
                                                   .rows = hd,
                                                   .columns = hd,
                                                   .n = RONDO_CHUNK,
                                                   .start = RONDO_START_SCALE,
                                                   .scale = fold->decay_power + RONDO_CHUNK});
}

/* ---- ordinary tokens ------------------------------------------------------------------------- */

static void copy_rows(const struct task *task, int32_t token, int32_t n, void *to_k, void *to_v,
                      size_t at)
{
    const struct rondo_op_linear_attention *op = task->op;
    enum rondo_dtype dtype = op->cache.dtype;
    size_t hd = (size_t)op->head_dim, from = task->head * hd, size = hd * rondo_dtype_size(dtype);
    for (int32_t i = 0; i < n; i++, at += hd) {
        const void *k = rondo_tensor_row(&op->k, token + i),
                   *v = rondo_tensor_row(&op->v, token + i);
        memcpy(rondo_element(to_k, dtype, at), rondo_element(k, dtype, from), size);
        memcpy(rondo_element(to_v, dtype, at), rondo_element(v, dtype, from), size);
    }
}

/* q rows of n tokens, widened; returns where they begin in the output. */
static float *load_queries(const struct task *task, int32_t token, int32_t n)
{
    const struct rondo_op_linear_attention *op = task->op;
    size_t hd = (size_t)op->head_dim, from = task->head * hd;
    for (int32_t i = 0; i < n; i++)
        task->kernels->widen(task->scratch.q + i * hd,
                             rondo_element(rondo_tensor_row(&op->q, token + i), op->q.dtype, from),
                             op->q.dtype, op->head_dim);
    return (float *)rondo_tensor_row(&op->out, token) + from;
}

/* out [n, hd] = q S. `next`: memory of next_size bytes that is read afterwards, or NULL. */
static void multiply_state(const struct task *task, float *out, const float *q, const float *state,
                           int32_t n, const void *next, size_t next_size)
{
    int32_t hd = task->op->head_dim, step = n <= AHEAD_ROWS ? STATE_ROWS : hd;
    for (int32_t d = 0; d < hd; d += step) {
        int32_t rows = hd - d < step ? hd - d : step;
        bool is_last = d + step >= hd;
        struct rondo_ahead ahead = {next, NULL, (int64_t)next_size};
        if (!is_last)
            ahead = (struct rondo_ahead){state + (size_t)(d + step) * hd, NULL,
                                         (int64_t)((size_t)rows * hd * sizeof *state)};
        task->kernels->product(
            &(struct rondo_product){.c = out,
                                    .c_stride = task->op->out.row_stride,
                                    .a = q + d,
                                    .a_stride = hd,
                                    .b = state + (size_t)d * hd,
                                    .b_stride = hd,
                                    .b_dtype = RONDO_F32,
                                    .rows = n,
                                    .columns = hd,
                                    .n = rows,
                                    .start = d == 0 ? RONDO_START_ZERO : RONDO_START_KEEP,
                                    .ahead = ahead});
    }
}

/* w [n, w_stride] = q . (the n_keys rows in fold.keys) */
static void multiply_keys(const struct task *task, float *w, int64_t w_stride, int32_t n,
                          int32_t n_keys)
{
    task->kernels->product(&(struct rondo_product){.c = w,
                                                   .c_stride = w_stride,
                                                   .a = task->scratch.q,
                                                   .a_stride = task->op->head_dim,
                                                   .b = task->scratch.fold.keys,
                                                   .b_stride = RONDO_CHUNK,
                                                   .b_dtype = RONDO_F32,
                                                   .rows = n,
                                                   .columns = (n_keys + 15) & ~15,
                                                   .n = task->op->head_dim,
                                                   .start = RONDO_START_ZERO});
}

/* Tokens token .. token + n - 1 stand at rows first .. of one chunk. */
static void chunk(const struct task *task, int32_t token, int32_t first, int32_t n)
{
    const struct rondo_op_linear_attention *op = task->op;
    const struct rondo_attention_kernels *kernels = task->kernels;
    const struct scratch *s = &task->scratch;
    enum rondo_dtype dtype = op->cache.dtype, v_dtype = dtype;
    int32_t hd = op->head_dim, end = first + n, limit[RONDO_CHUNK];
    const void *k = rondo_element(op->cache.tail_k, dtype, task->tail);
    const void *v = rondo_element(op->cache.tail_v, dtype, task->tail);

    size_t tail_size = (size_t)end * hd * rondo_dtype_size(dtype);
    bool asks_ahead = n <= AHEAD_ROWS;

    copy_rows(task, token, n, op->cache.tail_k, op->cache.tail_v, task->tail + (size_t)first * hd);
    float *out = load_queries(task, token, n);
    multiply_state(task, out, s->q, task->state, n, asks_ahead ? k : NULL, tail_size);
    if (asks_ahead)
        kernels->dots(&(struct rondo_dots){.x = s->w,
                                           .x_stride = RONDO_CHUNK,
                                           .q = s->q,
                                           .keys = k,
                                           .dtype = dtype,
                                           .rows = n,
                                           .n_keys = end,
                                           .head_dim = hd,
                                           .ahead = {v, NULL, (int64_t)tail_size}});
    if (!asks_ahead || end == RONDO_CHUNK)
        kernels->transpose(s->fold.keys, k, dtype, end, hd);
    if (!asks_ahead)
        multiply_keys(task, s->w, RONDO_CHUNK, n, end);
    if (dtype != RONDO_F32 && n >= WIDEN_ROWS) {
        kernels->widen(s->values, v, dtype, end * hd);
        v = s->values;
        v_dtype = RONDO_F32;
    }
    for (int32_t r = 0; r < n; r++) {
        limit[r] = first + r + 1;
        kernels->multiply(s->w + r * RONDO_CHUNK, s->w + r * RONDO_CHUNK,
                          s->reversed + RONDO_CHUNK - limit[r], (limit[r] + 15) & ~15);
    }
    struct rondo_product values = {.c = out,
                                   .c_stride = op->out.row_stride,
                                   .a = s->w,
                                   .a_stride = RONDO_CHUNK,
                                   .b = v,
                                   .b_stride = hd,
                                   .b_dtype = v_dtype,
                                   .rows = n,
                                   .columns = hd,
                                   .start = RONDO_START_SCALE,
                                   .scale = s->fold.decay_power + first + 1,
                                   .scale_step = 1};
    if (asks_ahead)
        values.ahead = (struct rondo_ahead){task->next_state, NULL,
                                            STATE_ROWS * (int64_t)hd * (int64_t)sizeof(float)};
    rondo_product_staircase(kernels, &values, limit, 1);
    for (int32_t r = 0; r < n; r++) {
        float *row = out + r * op->out.row_stride;
        kernels->scale(row, RONDO_F32, row, op->scale, hd);
    }
    if (end == RONDO_CHUNK)
        rondo_linear_fold(&s->fold, task->state, v, v_dtype);
}

static void ordinary_head(const struct task *task)
{
    const struct rondo_batch_sequence *sequence = task->sequence;
    int32_t hd = task->op->head_dim;
    if (sequence->start == 0 && sequence->n_tokens > 0)
        memset(task->state, 0, (size_t)hd * hd * sizeof *task->state);
    for (int32_t t = 0, n; t < sequence->n_tokens; t += n) {
        int32_t first = (sequence->start + t) % RONDO_CHUNK;
        n = RONDO_CHUNK - first;
        if (n > sequence->n_tokens - t)
            n = sequence->n_tokens - t;
        chunk(task, sequence->first_token + t, first, n);
    }
}

/* ---- draft trees ----------------------------------------------------------------------------- */

static int32_t node_position(const struct task *task, int32_t node)
{
    return task->op->batch->position[task->sequence->first_token + node];
}

static int32_t ancestor(const struct task *task, int32_t node, int32_t position)
{
    const int32_t *parent = task->op->batch->parent + task->sequence->first_token;
    return rondo_draft_ancestor(parent, node, node_position(task, node), position);
}

/* Copies the rows at positions [position, position + n) of the node's path into the scratch, n <= C. */
static void gather_path(const struct task *task, int32_t node, int32_t position, int32_t n,
                        bool with_keys)
{
    const struct rondo_linear_cache *cache = &task->op->cache;
    const int32_t *parent = task->op->batch->parent + task->sequence->first_token;
    size_t hd = (size_t)task->op->head_dim, size = hd * rondo_dtype_size(cache->dtype);
    node = ancestor(task, node, position + n - 1);
    for (int32_t i = n - 1; i >= 0; i--) {
        bool is_tail = position + i < task->sequence->start;
        size_t at =
            is_tail ? task->tail + (position + i) % RONDO_CHUNK * hd : task->draft + node * hd;
        const void *k = is_tail ? cache->tail_k : cache->draft_k;
        const void *v = is_tail ? cache->tail_v : cache->draft_v;
        if (with_keys)
            memcpy(task->scratch.k + i * size, rondo_element(k, cache->dtype, at), size);
        memcpy(task->scratch.v + i * size, rondo_element(v, cache->dtype, at), size);
        if (!is_tail)
            node = parent[node];
    }
}

/* The state of the sequence, or zeros in the scratch when it has none yet. */
static float *base_state(const struct task *task)
{
    int32_t hd = task->op->head_dim;
    if (task->sequence->start > 0)
        return task->state;
    return memset(task->scratch.state, 0, (size_t)hd * hd * sizeof(float));
}

/* Makes scratch.state the state after `gate`, a node at the last position of a chunk. */
static void fold_path(const struct task *task, int32_t gate)
{
    const struct scratch *s = &task->scratch;
    enum rondo_dtype dtype = task->op->cache.dtype;
    int32_t hd = task->op->head_dim, end = node_position(task, gate) + 1;
    const float *base = base_state(task);
    if (base != s->state)
        memcpy(s->state, base, (size_t)hd * hd * sizeof(float));
    for (int32_t position = task->sequence->start / RONDO_CHUNK * RONDO_CHUNK; position < end;
         position += RONDO_CHUNK) {
        gather_path(task, gate, position, RONDO_CHUNK, true);
        task->kernels->transpose(s->fold.keys, s->k, dtype, RONDO_CHUNK, hd);
        rondo_linear_fold(&s->fold, s->state, s->v, dtype);
    }
}

/* Dot products of all nodes with the tail (w) and with each other (w_draft). */
static void draft_scores(const struct task *task, int32_t n, int32_t n_tail)
{
    const struct rondo_linear_cache *cache = &task->op->cache;
    const struct scratch *s = &task->scratch;
    int32_t hd = task->op->head_dim;
    if (n_tail > 0) {
        task->kernels->transpose(s->fold.keys,
                                 rondo_element(cache->tail_k, cache->dtype, task->tail),
                                 cache->dtype, n_tail, hd);
        multiply_keys(task, s->w, RONDO_CHUNK, n, n_tail);
    }
    for (int32_t first = 0; first < n; first += RONDO_CHUNK) {
        int32_t n_keys = n - first < RONDO_CHUNK ? n - first : RONDO_CHUNK;
        const void *k =
            rondo_element(cache->draft_k, cache->dtype, task->draft + (size_t)first * hd);
        task->kernels->transpose(s->fold.keys, k, cache->dtype, n_keys, hd);
        multiply_keys(task, s->w_draft + first, rounded(n), n, n_keys);
    }
}

/* Adds the rows of the node's chunk, of which the first `n_tail` are the tail's, to out = q S, and scales. */
static void draft_row(const struct task *task, int32_t node, int32_t n_nodes, int32_t n_tail,
                      float *out)
{
    const struct rondo_op_linear_attention *op = task->op;
    const struct scratch *s = &task->scratch;
    const int32_t *parent = op->batch->parent + task->sequence->first_token;
    enum rondo_dtype dtype = op->cache.dtype;
    int32_t hd = op->head_dim, position = node_position(task, node), i = position % RONDO_CHUNK;
    const float *w_draft = s->w_draft + (size_t)node * rounded(n_nodes);
    float *w = s->w + node * RONDO_CHUNK;
    for (int32_t j = i, a = node; j >= n_tail; j--, a = parent[a])
        w[j] = w_draft[a];
    for (int32_t j = 0; j <= i; j++)
        w[j] *= s->fold.decay_power[i - j];
    struct rondo_product values = {.c = out,
                                   .c_stride = hd,
                                   .a = w,
                                   .a_stride = RONDO_CHUNK,
                                   .b = rondo_element(op->cache.tail_v, dtype, task->tail),
                                   .b_stride = hd,
                                   .b_dtype = dtype,
                                   .rows = 1,
                                   .columns = hd,
                                   .n = n_tail,
                                   .start = RONDO_START_SCALE,
                                   .scale = s->fold.decay_power + i + 1};
    task->kernels->product(&values);
    gather_path(task, node, position - i + n_tail, i + 1 - n_tail, false);
    values.a += n_tail;
    values.b = s->v;
    values.n = i + 1 - n_tail;
    values.start = RONDO_START_KEEP;
    task->kernels->product(&values);
    task->kernels->scale(out, RONDO_F32, out, op->scale, hd);
}

/* Rows of all nodes whose chunk begins right after `gate`. */
static void rows_after_gate(const struct task *task, int32_t gate, int32_t n, float *out)
{
    int32_t hd = task->op->head_dim, chunk_start = node_position(task, gate) + 1;
    bool is_folded = false;
    for (int32_t node = gate + 1; node < n; node++) {
        int32_t position = node_position(task, node);
        if (position - position % RONDO_CHUNK != chunk_start ||
            ancestor(task, node, chunk_start - 1) != gate)
            continue;
        if (!is_folded)
            fold_path(task, gate);
        is_folded = true;
        float *row = out + node * task->op->out.row_stride;
        multiply_state(task, row, task->scratch.q + (size_t)node * hd, task->scratch.state, 1, NULL,
                       0);
        draft_row(task, node, n, 0, row);
    }
}

static void draft_head(const struct task *task)
{
    const struct rondo_op_linear_attention *op = task->op;
    const struct rondo_batch_sequence *sequence = task->sequence;
    int32_t n = sequence->n_tokens, n_tail = sequence->start % RONDO_CHUNK;
    int32_t chunk_end = sequence->start - n_tail + RONDO_CHUNK;
    if (n == 0)
        return;
    copy_rows(task, sequence->first_token, n, op->cache.draft_k, op->cache.draft_v, task->draft);
    float *out = load_queries(task, sequence->first_token, n);
    multiply_state(task, out, task->scratch.q, base_state(task), n, NULL, 0);
    draft_scores(task, n, n_tail);
    for (int32_t node = 0; node < n; node++)
        if (node_position(task, node) < chunk_end)
            draft_row(task, node, n, n_tail, out + node * op->out.row_stride);
    for (int32_t node = 0; node < n; node++)
        if (node_position(task, node) % RONDO_CHUNK == RONDO_CHUNK - 1)
            rows_after_gate(task, node, n, out);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static float *state_of(const struct rondo_op_linear_attention *op, int64_t task)
{
    int32_t slot = op->batch->sequences[task / op->heads].slot;
    size_t head = (size_t)(task % op->heads), hd = (size_t)op->head_dim;
    return slot < 0 ? NULL : op->cache.state + ((size_t)slot * op->heads + head) * hd * hd;
}

static void run_tasks(void *user, int thread, int threads)
{
    const struct job *job = user;
    const struct rondo_op_linear_attention *op = job->op;
    const struct rondo_batch *batch = op->batch;
    struct task task = {.op = op, .kernels = job->kernels};
    lay_out(&task.scratch, job->device->workspace + thread * job->scratch_size, op->head_dim,
            job->nodes);
    int64_t n_tasks = (int64_t)batch->n_sequences * op->heads, next;
    /* Claimed one ahead, so that the memory of the next task can be asked for. */
    for (int64_t i = rondo_pool_next(job->device->pool); i < n_tasks; i = next) {
        next = rondo_pool_next(job->device->pool);
        task.sequence = &batch->sequences[i / op->heads];
        task.head = (int32_t)(i % op->heads);
        int32_t slot = task.sequence->slot;
        if (slot < 0)
            continue;
        task.state = state_of(op, i);
        task.next_state = next < n_tasks ? state_of(op, next) : NULL;
        task.tail = rondo_cache_row(slot, op->heads, task.head, RONDO_CHUNK, 0, op->head_dim);
        task.draft =
            rondo_cache_row(slot, op->heads, task.head, op->cache.max_draft, 0, op->head_dim);
        prepare_fold(&task.scratch, job->kernels,
                     op->decay_power + (size_t)task.head * (RONDO_CHUNK + 1), op->head_dim);
        if (task.sequence->is_draft)
            draft_head(&task);
        else
            ordinary_head(&task);
    }
}

void rondo_linear_attention_cpu(struct rondo_device *device,
                                const struct rondo_op_linear_attention *op)
{
    struct job job = {.op = op, .device = rondo_cpu(device)};
    job.kernels = rondo_attention_kernels(job.device->level, op->head_dim);
    if (!job.kernels) {
        rondo_linear_attention_ref(device, op);
        return;
    }
    for (int32_t s = 0; s < op->batch->n_sequences; s++) {
        const struct rondo_batch_sequence *sequence = &op->batch->sequences[s];
        if (sequence->is_draft && sequence->slot >= 0 && sequence->n_tokens > job.nodes)
            job.nodes = sequence->n_tokens;
    }
    struct scratch unused;
    job.scratch_size = lay_out(&unused, NULL, op->head_dim, job.nodes);
    rondo_pool_run(job.device->pool, run_tasks, &job);
}

/* ---- accept ---------------------------------------------------------------------------------- */

struct accept_job {
    const struct rondo_op_accept *op;
    const struct rondo_attention_kernels *kernels;
    struct rondo_cpu_device *device;
    size_t scratch_size;
};

static void accept_head(const struct rondo_op_accept *op, const struct scratch *s, int32_t head)
{
    const struct rondo_linear_cache *cache = &op->linear;
    enum rondo_dtype dtype = cache->dtype;
    size_t hd = (size_t)op->head_dim, size = hd * rondo_dtype_size(dtype);
    size_t draft = rondo_cache_row(op->slot, op->heads, head, cache->max_draft, 0, op->head_dim);
    size_t tail = rondo_cache_row(op->slot, op->heads, head, RONDO_CHUNK, 0, op->head_dim);
    void *k = rondo_element(cache->tail_k, dtype, tail),
         *v = rondo_element(cache->tail_v, dtype, tail);
    float *state = cache->state + ((size_t)op->slot * op->heads + head) * hd * hd;
    if (op->start == 0 && op->n > 0)
        memset(state, 0, hd * hd * sizeof *state);
    for (int32_t i = 0; i < op->n; i++) {
        int32_t row = (op->start + i) % RONDO_CHUNK;
        size_t from = draft + op->path[i] * hd;
        memcpy(rondo_element(k, dtype, row * hd), rondo_element(cache->draft_k, dtype, from), size);
        memcpy(rondo_element(v, dtype, row * hd), rondo_element(cache->draft_v, dtype, from), size);
        if (row == RONDO_CHUNK - 1) {
            s->fold.kernels->transpose(s->fold.keys, k, dtype, RONDO_CHUNK, op->head_dim);
            rondo_linear_fold(&s->fold, state, v, dtype);
        }
    }
}

static void run_accept(void *user, int thread, int threads)
{
    const struct accept_job *job = user;
    const struct rondo_op_accept *op = job->op;
    struct scratch scratch;
    lay_out(&scratch, job->device->workspace + thread * job->scratch_size, op->head_dim, 0);
    for (int64_t head = rondo_pool_next(job->device->pool); head < op->heads;
         head = rondo_pool_next(job->device->pool)) {
        prepare_fold(&scratch, job->kernels, op->decay_power + (size_t)head * (RONDO_CHUNK + 1),
                     op->head_dim);
        accept_head(op, &scratch, (int32_t)head);
    }
}

/* Softmax layers only move a few rows, which the reference does as fast as it can be done. */
void rondo_accept_cpu(struct rondo_device *device, const struct rondo_op_accept *op)
{
    struct accept_job job = {.op = op, .device = rondo_cpu(device)};
    job.kernels = rondo_attention_kernels(job.device->level, op->head_dim);
    if (!job.kernels || !op->linear.state || op->slot < 0) {
        rondo_accept_ref(device, op);
        return;
    }
    struct scratch unused;
    job.scratch_size = lay_out(&unused, NULL, op->head_dim, 0);
    rondo_pool_run(job.device->pool, run_accept, &job);
}
