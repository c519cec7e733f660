/* gemm and grouped_gemm on the CPU: cuts the work into tasks of output channels, which the threads take one
 * after the other. A grouped product is a list of jobs, one for each expert with rows and each part; an
 * ordinary one has a job for each part. */
#include "backend_cpu/gemm_internal.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

/* Bytes of weights in a task of a GEMV: half a megabyte at most, because a thread that stays in one place longer is
 * served faster (two threads read 12 to 18 % more so than at 96 KB); less and less towards the end, where
 * otherwise a thread would wait for the last task of another: a share of what is left. */
#define GEMV_TASK_BYTES (512 << 10)
#define GEMV_TASK_SHARE 4 /* a thread takes one part in so many of its part of what is left */
/* Of the weights of a thread's first task that are asked for before anything else. */
#define FIRST_BYTES 4096
/* Rows and columns of the block of outputs a thread accumulates, and widened elements of x beside it. */
#define BLOCK_ROWS 256
#define BLOCK_COLUMNS 256
#define BLOCK_INPUT (128 << 10)
/* Output channels of a tile of a GEMV at most. */
#define MOST_GEMV_ROWS 32
/* Keeps rows of the widened x from meeting in one set of the cache. */
#define INPUT_PAD 16

/* One weight and the rows of x that meet it. */
struct job {
    struct rondo_gemm_weight weight;
    const float *row_scale, *bias; /* [n] or NULL */
    int64_t first_row, rows;       /* of the output */
    const struct rondo_tensor *out;
    int64_t out_column;
    bool streams; /* a GEMV whose weight streams */
};

struct run {
    const struct rondo_gemm_kernels *kernels;
    struct rondo_cpu_device *cpu;
    const struct rondo_tensor *x;
    const int32_t *gather; /* NULL: output row r reads x row r */
    const struct rondo_op_gemm *dense;
    const struct rondo_op_grouped_gemm *grouped; /* one of the two is NULL */
    int64_t jobs;
    int64_t columns;    /* of the tasks of products of many rows */
    int64_t gemv_bytes; /* weights of products of few rows */
    bool residual, avoid_subnormals;
    size_t thread_size; /* bytes of workspace of a thread */
};

/* A thread's part of the workspace. */
struct scratch {
    float *x, *scaled, *scale; /* [RONDO_GEMV_ROWS, K...] of a GEMV, see rondo_gemm_input */
    uint8_t *fast;
    float *spread_x, *spread_scaled; /* [RONDO_GEMV_ROWS, RONDO_GEMM_SPREAD(capacity)] */
    uint32_t *spread_pairs;          /* in the place of spread_x */
    uint32_t *pairs;                 /* [K / 2] */
    float *sums;
    bool paired, all_fast;
    float *y;                      /* [BLOCK_ROWS, BLOCK_COLUMNS] */
    float *panel;                  /* [RONDO_GEMM_PANEL, columns] */
    uint32_t *panel_pairs;         /* in its place: [RONDO_GEMM_PANEL / 2, columns] */
    float *a;                      /* [rows, depth + INPUT_PAD] with rows * depth <= BLOCK_INPUT */
    uint32_t *a_pairs;             /* [rows, depth / 2 + INPUT_PAD] */
    float *a_scale;                /* [rows, depth / 128] */
    int64_t held[RONDO_GEMV_ROWS]; /* rows of x that are in x and scaled */
    int held_rows;
    enum rondo_dtype held_for; /* dtype of the weights */
    bool held_spread;
    float held_unscale;
    int64_t capacity; /* elements of a row of x */
    int64_t sums_stride;
};

/* ---- workspace ------------------------------------------------------------------------------- */

static void *take(char *base, size_t *used, size_t bytes)
{
    char *at = base ? base + *used : NULL;
    *used += (bytes + 63) / 64 * 64;
    return at;
}

/* Lays a thread's workspace out from `base` (NULL: only counts) and returns its size. */
static size_t lay_out(char *base, int64_t max_k, struct scratch *scratch)
{
    size_t used = 0, k = (size_t)(max_k + RONDO_BLOCK - 1) / RONDO_BLOCK * RONDO_BLOCK,
           rows = RONDO_GEMV_ROWS;
    size_t spread = rows * RONDO_GEMM_SPREAD(k) * sizeof(float);
    struct scratch at = {.capacity = (int64_t)k,
                         .sums_stride = MOST_GEMV_ROWS * (int64_t)k / RONDO_BLOCK + 8};
    at.x = take(base, &used, rows * k * sizeof(float));
    at.scaled = take(base, &used, rows * k * sizeof(float));
    at.scale = take(base, &used, rows * k / RONDO_BLOCK * sizeof(float));
    at.fast = take(base, &used, k / RONDO_BLOCK);
    at.spread_x = take(base, &used, spread);
    at.spread_pairs = (uint32_t *)at.spread_x;
    at.spread_scaled = take(base, &used, spread);
    at.pairs = take(base, &used, k / 2 * sizeof(uint32_t));
    at.sums = take(base, &used, rows * (size_t)at.sums_stride * sizeof(float));
    at.y = take(base, &used, (size_t)BLOCK_ROWS * BLOCK_COLUMNS * sizeof(float));
    at.panel = take(base, &used, (size_t)RONDO_GEMM_PANEL * RONDO_BLOCK * sizeof(float));
    at.panel_pairs = (uint32_t *)at.panel;
    at.a = take(base, &used, (BLOCK_INPUT + BLOCK_ROWS * INPUT_PAD) * sizeof(float));
    at.a_pairs = take(base, &used, (BLOCK_INPUT / 2 + BLOCK_ROWS * INPUT_PAD) * sizeof(uint32_t));
    at.a_scale = take(base, &used, BLOCK_INPUT / RONDO_BLOCK * sizeof(float));
    if (scratch)
        *scratch = at;
    return used;
}

size_t rondo_cpu_gemm_workspace(const struct rondo_limits *limits, int threads)
{
    return lay_out(NULL, limits->max_k, NULL) * (size_t)threads;
}

/* ---- jobs and tasks -------------------------------------------------------------------------- */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t round_up(int64_t value, int64_t to)
{
    return (value + to - 1) / to * to;
}

static void set_weight(struct job *job, const struct rondo_tensor *tensor)
{
    bool per_row = tensor->scale && tensor->scale_rows == 1;
    job->weight = (struct rondo_gemm_weight){
        .data = tensor->data,
        .row_bytes = tensor->row_stride * (int64_t)rondo_dtype_size(tensor->dtype),
        .n = rondo_tensor_rows(tensor),
        .k = rondo_tensor_columns(tensor),
        .dtype = tensor->dtype,
        .scale = per_row ? NULL : tensor->scale,
        .scale_stride = tensor->scale_stride,
    };
    job->row_scale = per_row ? tensor->scale : NULL;
}

/* Of the experts most have none. */
static bool has_rows(const struct run *run, int64_t index)
{
    const struct rondo_op_grouped_gemm *op = run->grouped;
    return !op || op->offsets[index / op->n_parts + 1] > op->offsets[index / op->n_parts];
}

/* Of a job that has rows. */
static void load_job(const struct run *run, int64_t index, struct job *job)
{
    if (run->dense) {
        const struct rondo_gemm_part *part = &run->dense->part[index];
        *job =
            (struct job){.bias = part->bias, .rows = rondo_tensor_rows(run->x), .out = &part->out};
        set_weight(job, &part->weight);
    } else {
        const struct rondo_op_grouped_gemm *op = run->grouped;
        int64_t expert = index / op->n_parts, part = index % op->n_parts;
        *job = (struct job){.first_row = op->offsets[expert],
                            .rows = op->offsets[expert + 1] - op->offsets[expert],
                            .out = &op->out};
        set_weight(job, &op->weight[part][expert]);
        job->bias = op->bias[part] ? op->bias[part][expert] : NULL;
        job->out_column = part * job->weight.n;
    }
    if (job->rows <= RONDO_GEMV_ROWS) {
        const struct rondo_gemm_weight *weight = &job->weight;
        job->streams = weight->k > 0 && weight->k % RONDO_GEMM_STREAMED == 0 &&
                       weight->n % run->kernels->gemv_rows == 0 &&
                       weight->row_bytes == weight->k * (int64_t)rondo_dtype_size(weight->dtype);
    }
}

/* A task: output channels of a job. Moves forward through the tasks of a run, which are the same for every thread. */
struct cursor {
    struct job job;
    int64_t index; /* of the job; -1 before the first task */
    int64_t task;
    int64_t first, end;
    int64_t gemv_bytes; /* weights of products of few rows in later tasks */
};

static struct cursor first_cursor(const struct run *run)
{
    return (struct cursor){.index = -1, .task = -1, .gemv_bytes = run->gemv_bytes};
}

/* Output channels of the next task of a product of few rows. */
static int64_t gemv_columns(const struct run *run, const struct cursor *cursor)
{
    int64_t tile = run->kernels->gemv_rows, tile_bytes = tile * cursor->job.weight.row_bytes;
    int64_t share = cursor->gemv_bytes / (GEMV_TASK_SHARE * rondo_pool_threads(run->cpu->pool));
    int64_t bytes = min64(share, GEMV_TASK_BYTES);
    return bytes > tile_bytes ? bytes / tile_bytes * tile : tile;
}

/* Moves to the next task; false when there is none. */
static bool advance(const struct run *run, struct cursor *cursor)
{
    const struct job *job = &cursor->job;
    cursor->task++;
    cursor->first = cursor->end;
    while (cursor->first >= job->weight.n) {
        do
            if (++cursor->index >= run->jobs)
                return false;
        while (!has_rows(run, cursor->index));
        load_job(run, cursor->index, &cursor->job);
        cursor->first = 0;
    }
    bool few = job->rows <= RONDO_GEMV_ROWS;
    int64_t columns = few ? gemv_columns(run, cursor) : run->columns;
    cursor->end = min64(cursor->first + columns, job->weight.n);
    if (few)
        cursor->gemv_bytes -= (cursor->end - cursor->first) * job->weight.row_bytes;
    return true;
}

/* Moves to `task`; false when there is no such task. */
static bool seek(const struct run *run, struct cursor *cursor, int64_t task)
{
    while (cursor->task < task)
        if (!advance(run, cursor))
            return false;
    return true;
}

static const uint8_t *weight_at(const struct rondo_gemm_weight *weight, int64_t n, int64_t k)
{
    return weight->data + n * weight->row_bytes + k * (int64_t)rondo_dtype_size(weight->dtype);
}

static int64_t input_row(const struct run *run, int64_t row)
{
    return run->gather ? run->gather[row] : row;
}

static void finish_row(const struct run *run, const struct job *job, int64_t row, int64_t n,
                       int64_t count, const float *y)
{
    size_t column = (size_t)(job->out_column + n) * rondo_dtype_size(job->out->dtype);
    run->kernels->finish(y, count, job->row_scale ? job->row_scale + n : NULL,
                         job->bias ? job->bias + n : NULL, run->residual,
                         (char *)rondo_tensor_row(job->out, job->first_row + row) + column,
                         job->out->dtype);
}

/* ---- few rows -------------------------------------------------------------------------------- */

/* scaled = x * 2^120; whether all |x| are below 256, so that this is exact. */
static bool scale_block(const float *x, int count, float *scaled)
{
    uint32_t largest = 0;
    for (int i = 0; i < count; i++) {
        uint32_t magnitude = rondo_f32_to_bits(x[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
        scaled[i] = x[i] * 0x1p120f;
    }
    return largest < rondo_f32_to_bits(256.0f);
}

/* 2^t of rondo_gemm_input. */
static float unscale_of(const struct run *run, const struct job *job)
{
    return run->x->dtype == RONDO_F8_E4M3 && job->weight.dtype == RONDO_F8_E4M3 ? 256.0f : 1.0f;
}

/* Scales the rows of x for E4M3 weights, block by block. */
static void scale_input(int64_t rows, int64_t k, struct scratch *scratch)
{
    scratch->all_fast = true;
    for (int64_t first = 0; first < k; first += RONDO_BLOCK) {
        uint8_t *fast = &scratch->fast[first / RONDO_BLOCK];
        *fast = 1;
        for (int64_t i = 0; i < rows; i++)
            if (!scale_block(scratch->x + i * scratch->capacity + first,
                             (int)min64(k - first, RONDO_BLOCK),
                             scratch->scaled + i * scratch->capacity + first))
                *fast = 0;
        scratch->all_fast = scratch->all_fast && *fast;
    }
}

static const void *job_row(const struct run *run, const struct job *job, int64_t i)
{
    return rondo_tensor_row(run->x, input_row(run, job->first_row + i));
}

/* x of the job as f32, as rondo_gemm_input has it. */
static void widen_input(const struct run *run, const struct job *job, float unscale,
                        struct scratch *scratch)
{
    for (int64_t i = 0; i < job->rows; i++) {
        float *x = scratch->x + i * scratch->capacity;
        run->kernels->widen(job_row(run, job, i), run->x->dtype, 0, job->weight.k, x);
        if (unscale != 1.0f)
            for (int64_t k = 0; k < job->weight.k; k++)
                x[k] *= 1.0f / unscale;
    }
}

/* Whether all rows of x of the job could be spread as pairs. Those that are not bf16 have been widened. */
static bool spread_pairs(const struct run *run, const struct job *job, struct scratch *scratch)
{
    const struct rondo_gemm_kernels *kernels = run->kernels;
    int64_t k = job->weight.k;
    for (int64_t i = 0; i < job->rows; i++) {
        bool paired = run->x->dtype == RONDO_BF16
                          ? kernels->pair_bf16(job_row(run, job, i), k, scratch->pairs)
                          : kernels->pair(scratch->x + i * scratch->capacity, k, scratch->pairs);
        if (!paired)
            return false;
        kernels->spread(scratch->pairs, k / RONDO_BLOCK, RONDO_BLOCK / 2,
                        scratch->spread_pairs + i * RONDO_GEMM_SPREAD(scratch->capacity));
    }
    return true;
}

static void spread_rows(const struct run *run, int64_t rows, int64_t k, const float *x,
                        int64_t stride, float *to)
{
    for (int64_t i = 0; i < rows; i++)
        run->kernels->spread((const uint32_t *)(x + i * stride), k / RONDO_BLOCK, RONDO_BLOCK,
                             (uint32_t *)(to + i * RONDO_GEMM_SPREAD(stride)));
}

/* x of a job of few rows, in the form that its weight takes. */
static void load_input(const struct run *run, const struct job *job, struct scratch *scratch)
{
    int64_t k = job->weight.k, capacity = scratch->capacity;
    float unscale = unscale_of(run, job);
    bool e4m3 = job->weight.dtype == RONDO_F8_E4M3;
    bool same = scratch->held_rows == job->rows && scratch->held_unscale == unscale &&
                scratch->held_for == job->weight.dtype && scratch->held_spread == job->streams;
    for (int i = 0; i < job->rows && same; i++)
        same = scratch->held[i] == input_row(run, job->first_row + i);
    if (same)
        return;
    for (int i = 0; i < job->rows; i++) {
        int64_t row = scratch->held[i] = input_row(run, job->first_row + i);
        if (run->x->scale)
            memcpy(scratch->scale + i * (capacity / RONDO_BLOCK),
                   run->x->scale + row * run->x->scale_stride,
                   (size_t)((k + RONDO_BLOCK - 1) / RONDO_BLOCK) * sizeof(float));
    }
    bool pairs = job->streams && e4m3 && run->kernels->pair;
    bool as_it_is = pairs && run->x->dtype == RONDO_BF16; /* needs no f32 on the way */
    if (!as_it_is)
        widen_input(run, job, unscale, scratch);
    scratch->paired = pairs && spread_pairs(run, job, scratch);
    if (as_it_is && !scratch->paired)
        widen_input(run, job, unscale, scratch);
    if (e4m3 && !scratch->paired)
        scale_input(job->rows, k, scratch);
    if (job->streams && !scratch->paired) {
        spread_rows(run, job->rows, k, scratch->x, capacity, scratch->spread_x);
        if (e4m3)
            spread_rows(run, job->rows, k, scratch->scaled, capacity, scratch->spread_scaled);
    }
    scratch->held_rows = (int)job->rows;
    scratch->held_unscale = unscale;
    scratch->held_for = job->weight.dtype;
    scratch->held_spread = job->streams;
}

static double multiply_time(float small)
{
    volatile float factor = small;
    float sum[16] = {0};
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < 64; i++) {
        float x = factor;
        for (int j = 0; j < 16; j++)
            sum[j] += x * (float)(j + 1);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    for (int j = 0; j < 16; j++)
        factor = sum[j];
    return (double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec);
}

/* Whether products with subnormal f32 take far longer than others: about a hundred cycles on processors that
 * leave them to microcode. Measured once. */
static bool subnormals_are_slow(void)
{
    static atomic_int known; /* 0: not measured, 1: no, 2: yes */
    int value = atomic_load_explicit(&known, memory_order_relaxed);
    if (value == 0) {
        double normal = 1e9, subnormal = 1e9, time;
        for (int i = 0; i < 8; i++) {
            normal = (time = multiply_time(1.5f)) < normal ? time : normal;
            subnormal = (time = multiply_time(0x1.8p-130f)) < subnormal ? time : subnormal;
        }
        value = subnormal > 3 * normal ? 2 : 1;
        atomic_store_explicit(&known, value, memory_order_relaxed);
    }
    return value == 2;
}

/* Output channels [first, end). `next`: weights this thread will want afterwards. */
static void run_gemv(const struct run *run, const struct job *job, struct scratch *scratch,
                     int64_t first, int64_t end, const uint8_t *next)
{
    int64_t tile = run->kernels->gemv_rows;
    load_input(run, job, scratch);
    struct rondo_gemm_input input = {
        .m = (int)job->rows,
        .x = scratch->x,
        .scaled = scratch->scaled,
        .fast = scratch->fast,
        .scale = run->x->scale ? scratch->scale : NULL,
        .spread_x = scratch->spread_x,
        .spread_scaled = scratch->spread_scaled,
        .spread_pairs = scratch->paired ? scratch->spread_pairs : NULL,
        .spread_stride = RONDO_GEMM_SPREAD(scratch->capacity),
        .all_fast = scratch->all_fast,
        .sums = scratch->sums,
        .sums_stride = scratch->sums_stride,
        .stride = scratch->capacity,
        .scale_stride = scratch->capacity / RONDO_BLOCK,
        .unscale = unscale_of(run, job),
        .avoid_subnormals = run->avoid_subnormals,
    };
    for (int64_t n = first; n < end; n += tile) {
        int64_t count = min64(end - n, tile);
        const uint8_t *ahead = n + tile < end ? weight_at(&job->weight, n + tile, 0) : next;
        if (job->streams)
            run->kernels->stream(&job->weight, n, &input, ahead, scratch->y);
        else
            run->kernels->gemv(&job->weight, n, (int)count, &input, ahead, scratch->y);
        for (int64_t i = 0; i < job->rows; i++)
            finish_row(run, job, i, n, count, scratch->y + i * tile);
    }
}

/* ---- many rows ------------------------------------------------------------------------------- */

/* Channels [k, k + depth) of a block of outputs: rows [row, row + rows) of a job, output channels [first, end). */
struct piece {
    int64_t row, rows, k, depth, first, end;
    bool paired, widened; /* which of a_pairs and a hold the rows */
};

static const void *piece_row(const struct run *run, const struct job *job,
                             const struct piece *piece, int64_t i)
{
    return job_row(run, job, piece->row + i);
}

static void widen_rows(const struct run *run, const struct job *job, struct scratch *scratch,
                       struct piece *piece)
{
    for (int64_t i = 0; i < piece->rows && !piece->widened; i++)
        run->kernels->widen(piece_row(run, job, piece, i), run->x->dtype, piece->k, piece->depth,
                            scratch->a + i * (piece->depth + INPUT_PAD));
    piece->widened = true;
}

static bool pair_row(const struct run *run, const struct job *job, struct scratch *scratch,
                     struct piece *piece, int64_t i)
{
    uint32_t *to = scratch->a_pairs + i * (piece->depth / 2 + INPUT_PAD);
    if (run->x->dtype == RONDO_BF16)
        return run->kernels->pair_bf16((const uint16_t *)piece_row(run, job, piece, i) + piece->k,
                                       piece->depth, to);
    widen_rows(run, job, scratch, piece);
    return run->kernels->pair(scratch->a + i * (piece->depth + INPUT_PAD), piece->depth, to);
}

/* Whether the rows could be made pairs. */
static bool pair_rows(const struct run *run, const struct job *job, struct scratch *scratch,
                      struct piece *piece)
{
    bool taken = job->weight.dtype == RONDO_F8_E4M3 || job->weight.dtype == RONDO_BF16;
    if (!run->kernels->pair || !taken || piece->depth % RONDO_BLOCK != 0 ||
        run->x->dtype == RONDO_F32)
        return false;
    for (int64_t i = 0; i < piece->rows; i++)
        if (!pair_row(run, job, scratch, piece, i))
            return false;
    return true;
}

/* Makes the rows ready: as pairs where that can be done, else widened; and their scales. */
static void load_rows(const struct run *run, const struct job *job, struct scratch *scratch,
                      struct piece *piece)
{
    int64_t blocks = (piece->depth + RONDO_BLOCK - 1) / RONDO_BLOCK;
    piece->paired = pair_rows(run, job, scratch, piece);
    if (!piece->paired)
        widen_rows(run, job, scratch, piece);
    for (int64_t i = 0; i < piece->rows && run->x->scale; i++)
        memcpy(scratch->a_scale + i * blocks,
               run->x->scale +
                   input_row(run, job->first_row + piece->row + i) * run->x->scale_stride +
                   piece->k / RONDO_BLOCK,
               (size_t)blocks * sizeof(float));
}

/* Where the weights lie that will be wanted after those of channels k + p .. of output channel n. */
static const uint8_t *after_panel(const struct rondo_gemm_weight *weight, const struct piece *piece,
                                  int64_t n, int64_t p, int columns, const uint8_t *next)
{
    if (p < piece->depth)
        return weight_at(weight, n, piece->k + p);
    if (n + columns < piece->end)
        return weight_at(weight, n + columns, piece->k);
    if (piece->k + piece->depth < weight->k)
        return weight_at(weight, piece->first, piece->k + piece->depth);
    return next;
}

/* How many tiles rows are cut into, evenly: near tile_usual rows each, never above tile_rows. */
static int64_t count_tiles(const struct rondo_gemm_kernels *kernels, int64_t rows)
{
    int64_t least = (rows + kernels->tile_rows - 1) / kernels->tile_rows;
    int64_t best = (rows + kernels->tile_usual / 2) / kernels->tile_usual;
    return best > least ? best : least;
}

/* Multiplies the rows with the panel of channels p .. p + depth of output channels from n on. `next` is where the panel
 * that will be wanted after it begins, in rows as far apart. */
static void multiply_panel(const struct run *run, const struct job *job, struct scratch *scratch,
                           const struct piece *piece, int64_t n, int64_t p, int depth, bool paired,
                           const uint8_t *next)
{
    const struct rondo_gemm_kernels *kernels = run->kernels;
    const struct rondo_gemm_weight *weight = &job->weight;
    int64_t blocks = (piece->depth + RONDO_BLOCK - 1) / RONDO_BLOCK;
    int64_t tiles = count_tiles(kernels, piece->rows);
    int64_t a_stride = piece->depth + INPUT_PAD, pairs_stride = piece->depth / 2 + INPUT_PAD;
    const float *b_scale = weight->scale ? weight->scale + n / RONDO_BLOCK * weight->scale_stride +
                                               (piece->k + p) / RONDO_BLOCK
                                         : NULL;
    int row_lines = (int)((depth * rondo_dtype_size(weight->dtype) + 63) / 64);
    struct rondo_gemm_fetch fetch = {
        next, weight->row_bytes, row_lines, 0, row_lines * kernels->columns,
    };
    for (int64_t tile = 0, row = 0; tile < tiles; tile++) {
        int m = (int)((piece->rows - row + tiles - tile - 1) / (tiles - tile));
        const float *a_scale =
            run->x->scale ? scratch->a_scale + row * blocks + p / RONDO_BLOCK : NULL;
        float *y = scratch->y + row * BLOCK_COLUMNS + (n - piece->first);
        if (paired)
            kernels->tile_pairs(m, scratch->a_pairs + row * pairs_stride + p / 2, pairs_stride,
                                scratch->panel_pairs, depth, a_scale, blocks, b_scale, y,
                                BLOCK_COLUMNS, &fetch);
        else
            kernels->tile(m, scratch->a + row * a_stride + p, a_stride, scratch->panel, depth,
                          a_scale, blocks, b_scale, y, BLOCK_COLUMNS, &fetch);
        row += m;
    }
    while (fetch.left)
        rondo_gemm_fetch_line(&fetch);
}

static void add_channels(const struct run *run, const struct job *job, struct scratch *scratch,
                         struct piece *piece, const uint8_t *next)
{
    const struct rondo_gemm_kernels *kernels = run->kernels;
    const struct rondo_gemm_weight *weight = &job->weight;
    for (int64_t n = piece->first; n < piece->end; n += kernels->columns) {
        int count = (int)min64(piece->end - n, kernels->columns);
        for (int64_t p = 0; p < piece->depth; p += RONDO_GEMM_PANEL) {
            int here = (int)min64(piece->depth - p, RONDO_GEMM_PANEL);
            const uint8_t *ahead = after_panel(weight, piece, n, p + here, kernels->columns, next);
            bool paired = piece->paired && kernels->panel_pairs(weight, n, count, piece->k + p,
                                                                here, scratch->panel_pairs);
            if (!paired) {
                widen_rows(run, job, scratch, piece);
                kernels->panel(weight, n, count, piece->k + p, here, scratch->panel);
            }
            multiply_panel(run, job, scratch, piece, n, p, here, paired, ahead);
        }
    }
}

static void run_panels(const struct run *run, const struct job *job, struct scratch *scratch,
                       int64_t first, int64_t end, const uint8_t *next)
{
    int64_t width = job->weight.k, padded = round_up(end - first, run->kernels->columns);
    for (int64_t row = 0; row < job->rows; row += BLOCK_ROWS) {
        int64_t rows = min64(job->rows - row, BLOCK_ROWS);
        int64_t depth = BLOCK_INPUT / rows / RONDO_GEMM_PANEL * RONDO_GEMM_PANEL;
        for (int64_t i = 0; i < rows; i++)
            memset(scratch->y + i * BLOCK_COLUMNS, 0, (size_t)padded * sizeof(float));
        for (int64_t k = 0; k < width; k += depth) {
            int64_t here = min64(width - k, depth);
            struct piece piece = {row, rows, k, here, first, end, false, false};
            load_rows(run, job, scratch, &piece);
            add_channels(run, job, scratch, &piece, next);
        }
        for (int64_t i = 0; i < rows; i++)
            finish_row(run, job, row + i, first, end - first, scratch->y + i * BLOCK_COLUMNS);
    }
}

/* ---- threads --------------------------------------------------------------------------------- */

/* Asks for the first weights of a thread's first task: they come while x is made ready. */
static void fetch_first(const struct cursor *cursor)
{
    const struct rondo_gemm_weight *weight = &cursor->job.weight;
    const uint8_t *first = weight_at(weight, cursor->first, 0);
    int64_t bytes = min64((cursor->end - cursor->first) * weight->row_bytes, FIRST_BYTES);
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(first + i);
}

/* A task is claimed before the one ahead of it is run, so that its weights can be fetched meanwhile. */
static void run_tasks(void *user, int thread, int threads)
{
    const struct run *run = user;
    struct scratch scratch;
    struct cursor now = first_cursor(run), next;
    lay_out(run->cpu->workspace + run->thread_size * (size_t)thread, rondo_tensor_columns(run->x),
            &scratch);
    bool more = seek(run, &now, rondo_pool_next(run->cpu->pool));
    if (more)
        fetch_first(&now);
    while (more) {
        next = now;
        more = seek(run, &next, rondo_pool_next(run->cpu->pool));
        const uint8_t *ahead = more ? weight_at(&next.job.weight, next.first, 0)
                                    : weight_at(&now.job.weight, now.first, 0);
        if (now.job.rows <= RONDO_GEMV_ROWS)
            run_gemv(run, &now.job, &scratch, now.first, now.end, ahead);
        else
            run_panels(run, &now.job, &scratch, now.first, now.end, ahead);
        now = next;
    }
}

static void start(struct run *run)
{
    int64_t threads = rondo_pool_threads(run->cpu->pool), step = run->kernels->columns;
    int64_t channels = 0; /* of all jobs of many rows */
    for (int64_t i = 0; i < run->jobs; i++) {
        struct job job;
        if (!has_rows(run, i))
            continue;
        load_job(run, i, &job);
        if (job.rows > RONDO_GEMV_ROWS)
            channels += job.weight.n;
        else
            run->gemv_bytes += job.weight.n * job.weight.row_bytes;
    }
    int64_t columns = round_up(channels / (threads * 8) + 1, step);
    run->columns = columns > BLOCK_COLUMNS ? BLOCK_COLUMNS : columns;
    run->avoid_subnormals = subnormals_are_slow();
    run->thread_size = lay_out(NULL, rondo_tensor_columns(run->x), NULL);
    rondo_pool_run(run->cpu->pool, run_tasks, run);
}

static void gemm(struct rondo_device *device, const struct rondo_op_gemm *op,
                 const struct rondo_gemm_kernels *kernels)
{
    struct run run = {.kernels = kernels,
                      .cpu = rondo_cpu(device),
                      .x = &op->x,
                      .dense = op,
                      .jobs = op->n_parts,
                      .residual = op->residual};
    if (rondo_tensor_rows(&op->x) > 0)
        start(&run);
}

static void grouped_gemm(struct rondo_device *device, const struct rondo_op_grouped_gemm *op,
                         const struct rondo_gemm_kernels *kernels)
{
    struct run run = {.kernels = kernels,
                      .cpu = rondo_cpu(device),
                      .x = &op->x,
                      .gather = op->gather,
                      .grouped = op,
                      .jobs = (int64_t)op->n_experts * op->n_parts};
    if (op->n_rows > 0)
        start(&run);
}

#define SLOTS(LEVEL)                                                                               \
    static void gemm_##LEVEL(struct rondo_device *device, const struct rondo_op_gemm *op)          \
    {                                                                                              \
        gemm(device, op, &rondo_gemm_kernels_##LEVEL);                                             \
    }                                                                                              \
    static void grouped_gemm_##LEVEL(struct rondo_device *device,                                  \
                                     const struct rondo_op_grouped_gemm *op)                       \
    {                                                                                              \
        grouped_gemm(device, op, &rondo_gemm_kernels_##LEVEL);                                     \
    }
#if defined(__x86_64__)
SLOTS(avx2)
SLOTS(avx512)
SLOTS(avx512bf16)
#elif defined(__aarch64__)
SLOTS(neon)
#endif

void rondo_cpu_gemm_init(struct rondo_ops *ops, enum rondo_cpu_level level)
{
    ops->gemm = rondo_gemm_ref;
    ops->grouped_gemm = rondo_grouped_gemm_ref;
#if defined(__x86_64__)
    if (level == RONDO_CPU_AVX2) {
        ops->gemm = gemm_avx2;
        ops->grouped_gemm = grouped_gemm_avx2;
    } else if (level == RONDO_CPU_AVX512) {
        ops->gemm = gemm_avx512;
        ops->grouped_gemm = grouped_gemm_avx512;
    } else if (level == RONDO_CPU_AVX512BF16) {
        ops->gemm = gemm_avx512bf16;
        ops->grouped_gemm = grouped_gemm_avx512bf16;
    }
#elif defined(__aarch64__)
    if (level == RONDO_CPU_NEON) {
        ops->gemm = gemm_neon;
        ops->grouped_gemm = grouped_gemm_neon;
    }
#endif
}
