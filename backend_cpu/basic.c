/* The basic family over threads: every group of 128 channels is independent. */
#include "backend_cpu/basic.h"

/* Elements below which waking the threads costs more than it saves (some 5 microseconds of
 * work). */
#define INLINE_ELEMENTS 16384

static const struct rondo_basic_kernels *kernels_of(struct rondo_device *device)
{
    switch (rondo_cpu(device)->level) {
#if defined(__x86_64__)
    case RONDO_CPU_AVX2:
        return &rondo_basic_kernels_avx2;
    case RONDO_CPU_AVX512:
    case RONDO_CPU_AVX512BF16:
        return &rondo_basic_kernels_avx512;
#elif defined(__aarch64__)
    case RONDO_CPU_NEON:
        return &rondo_basic_kernels_neon;
#endif
    default:
        return &rondo_basic_kernels_ref;
    }
}

/* A running op of the family: units of work are numbered and dealt out. */
struct job {
    const struct rondo_basic_kernels *kernels;
    const void *op;
    int64_t units, units_per_row;
};

static void run(struct rondo_device *device, const void *op, int64_t rows, int64_t units_per_row,
                int64_t elements, rondo_pool_task *task)
{
    struct job job = {.kernels = kernels_of(device),
                      .op = op,
                      .units = rows * units_per_row,
                      .units_per_row = units_per_row};
    if (job.units == 0)
        return;
    if (elements < INLINE_ELEMENTS)
        task(&job, 0, 1);
    else
        rondo_pool_run(rondo_cpu(device)->pool, task, &job);
}

/* Cuts the part [*unit, end) of all units into pieces of one row: true while there is another
 * piece, units [*first, *stop) of row *row. */
static bool next_piece(const struct job *job, int64_t *unit, int64_t end, int64_t *row,
                       int64_t *first, int64_t *stop)
{
    if (*unit >= end)
        return false;
    *row = *unit / job->units_per_row;
    *first = *unit % job->units_per_row;
    int64_t left = end - *row * job->units_per_row;
    *stop = left < job->units_per_row ? left : job->units_per_row;
    *unit = *row * job->units_per_row + *stop;
    return true;
}

static void embedding_task(void *user, int thread, int threads)
{
    const struct job *job = user;
    const struct rondo_op_embedding *op = job->op;
    const struct rondo_batch *batch = op->batch;
    int64_t first, end;
    rondo_split(job->units, 1, thread, threads, &first, &end);
    for (int64_t token = first; token < end; token++)
        if (batch->sequences[batch->sequence_of[token]].slot >= 0)
            job->kernels->embedding(op, token);
}

static void embedding_cpu(struct rondo_device *device, const struct rondo_op_embedding *op)
{
    int64_t tokens = op->batch->n_tokens;
    run(device, op, tokens, 1, tokens * rondo_tensor_columns(&op->out), embedding_task);
}

static void quantize_task(void *user, int thread, int threads)
{
    const struct job *job = user;
    int64_t unit, end, row, first, stop;
    rondo_split(job->units, 1, thread, threads, &unit, &end);
    while (next_piece(job, &unit, end, &row, &first, &stop))
        job->kernels->quantize(job->op, row, first, stop);
}

static void quantize_cpu(struct rondo_device *device, const struct rondo_op_quantize *op)
{
    int64_t rows = rondo_tensor_rows(&op->x), columns = rondo_tensor_columns(&op->x);
    run(device, op, rows, (columns + RONDO_BLOCK - 1) / RONDO_BLOCK, rows * columns, quantize_task);
}

/* A unit is 128 channels of the output. */
static void swiglu_task(void *user, int thread, int threads)
{
    const struct job *job = user;
    const struct rondo_op_swiglu *op = job->op;
    int64_t unit, end, row, first, stop, columns = rondo_tensor_columns(&op->out);
    rondo_split(job->units, 1, thread, threads, &unit, &end);
    while (next_piece(job, &unit, end, &row, &first, &stop)) {
        stop = stop * RONDO_BLOCK < columns ? stop * RONDO_BLOCK : columns;
        job->kernels->swiglu(op, row, first * RONDO_BLOCK, stop);
    }
}

static void swiglu_cpu(struct rondo_device *device, const struct rondo_op_swiglu *op)
{
    int64_t rows = rondo_tensor_rows(&op->out), columns = rondo_tensor_columns(&op->out);
    run(device, op, rows, (columns + RONDO_BLOCK - 1) / RONDO_BLOCK, rows * columns, swiglu_task);
}

static void argmax_task(void *user, int thread, int threads)
{
    const struct job *job = user;
    int64_t first, end;
    rondo_split(job->units, 1, thread, threads, &first, &end);
    for (int64_t row = first; row < end; row++)
        job->kernels->argmax(job->op, row);
}

static void argmax_cpu(struct rondo_device *device, const struct rondo_op_argmax *op)
{
    int64_t rows = rondo_tensor_rows(&op->x);
    run(device, op, rows, 1, rows * rondo_tensor_columns(&op->x), argmax_task);
}

static void candidates_task(void *user, int thread, int threads)
{
    const struct job *job = user;
    const struct rondo_op_candidates *op = job->op;
    int64_t first, end;
    rondo_split(job->units, 1, thread, threads, &first, &end);
    for (int64_t row = first; row < end; row++)
        if (op->sampling[row].wanted)
            job->kernels->candidates(op, row);
}

static void candidates_cpu(struct rondo_device *device, const struct rondo_op_candidates *op)
{
    int64_t rows = rondo_tensor_rows(&op->x);
    run(device, op, rows, 1, rows * rondo_tensor_columns(&op->x), candidates_task);
}

void rondo_cpu_basic_init(struct rondo_ops *ops, enum rondo_cpu_level level)
{
    ops->embedding = level == RONDO_CPU_REF ? rondo_embedding_ref : embedding_cpu;
    ops->quantize = level == RONDO_CPU_REF ? rondo_quantize_ref : quantize_cpu;
    ops->swiglu = level == RONDO_CPU_REF ? rondo_swiglu_ref : swiglu_cpu;
    ops->argmax = level == RONDO_CPU_REF ? rondo_argmax_ref : argmax_cpu;
    ops->penalize = rondo_penalize_ref; /* a few hundred numbers */
    ops->candidates = level == RONDO_CPU_REF ? rondo_candidates_ref : candidates_cpu;
}

size_t rondo_cpu_basic_workspace(const struct rondo_limits *limits, int threads)
{
    return 0;
}
