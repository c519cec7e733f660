/* The norm family over threads: rows and heads are independent, so they are dealt out in any
 * order. */
#include "backend_cpu/norm.h"

/* Elements below which waking the threads costs more than it saves (some 5 microseconds of
 * work). */
#define INLINE_ELEMENTS 16384

static const struct rondo_norm_kernels *kernels_of(struct rondo_device *device)
{
    switch (rondo_cpu(device)->level) {
#if defined(__x86_64__)
    case RONDO_CPU_AVX2:
        return &rondo_norm_kernels_avx2;
    case RONDO_CPU_AVX512:
    case RONDO_CPU_AVX512BF16:
        return &rondo_norm_kernels_avx512;
#elif defined(__aarch64__)
    case RONDO_CPU_NEON:
        return &rondo_norm_kernels_neon;
#endif
    default:
        return &rondo_norm_kernels_ref;
    }
}

/* A running op of the family: units of work are numbered and dealt out. */
struct job {
    const struct rondo_norm_kernels *kernels;
    const void *op;
    int64_t units;
};

static void run(struct rondo_device *device, const void *op, int64_t units, int64_t elements,
                rondo_pool_task *task)
{
    struct job job = {.kernels = kernels_of(device), .op = op, .units = units};
    if (units == 0)
        return;
    if (elements < INLINE_ELEMENTS)
        task(&job, 0, 1);
    else
        rondo_pool_run(rondo_cpu(device)->pool, task, &job);
}

static void rmsnorm_task(void *user, int thread, int threads)
{
    const struct job *job = user;
    int64_t first, end;
    rondo_split(job->units, 1, thread, threads, &first, &end);
    for (int64_t row = first; row < end; row++)
        job->kernels->rmsnorm(job->op, row);
}

static void rmsnorm_cpu(struct rondo_device *device, const struct rondo_op_rmsnorm *op)
{
    run(device, op, op->n_rows, op->n_rows * rondo_tensor_columns(&op->x), rmsnorm_task);
}

/* A unit is a group of a row; rows that become codes stay whole. */
static void group_norm_gate_task(void *user, int thread, int threads)
{
    const struct job *job = user;
    const struct rondo_op_group_norm_gate *op = job->op;
    int64_t first, end, align = op->out.dtype == RONDO_F8_E4M3 ? op->n_groups : 1;
    rondo_split(job->units, align, thread, threads, &first, &end);
    while (first < end) {
        int64_t row = first / op->n_groups, group = first % op->n_groups;
        int64_t left = end - row * op->n_groups, stop = left < op->n_groups ? left : op->n_groups;
        job->kernels->group_norm_gate(op, row, (int)group, (int)stop);
        first = row * op->n_groups + stop;
    }
}

static void group_norm_gate_cpu(struct rondo_device *device,
                                const struct rondo_op_group_norm_gate *op)
{
    int64_t rows = rondo_tensor_rows(&op->x);
    run(device, op, rows * op->n_groups, rows * rondo_tensor_columns(&op->x), group_norm_gate_task);
}

/* A unit is a head of a token. */
static void qkv_task(void *user, int thread, int threads)
{
    const struct job *job = user;
    const struct rondo_op_qkv *op = job->op;
    int64_t heads = op->heads + 2 * op->kv_heads, first, end;
    rondo_split(job->units, 1, thread, threads, &first, &end);
    while (first < end) {
        int64_t token = first / heads, head = first % heads;
        int64_t left = end - token * heads, stop = left < heads ? left : heads;
        if (!rondo_batch_is_padding(op->batch, token))
            job->kernels->qkv(op, token, (int)head, (int)stop);
        first = token * heads + stop;
    }
}

static void qkv_cpu(struct rondo_device *device, const struct rondo_op_qkv *op)
{
    int64_t units = (int64_t)op->batch->n_tokens * (op->heads + 2 * op->kv_heads);
    run(device, op, units, units * op->head_dim, qkv_task);
}

void rondo_cpu_norm_init(struct rondo_ops *ops, enum rondo_cpu_level level)
{
    ops->rmsnorm = level == RONDO_CPU_REF ? rondo_rmsnorm_ref : rmsnorm_cpu;
    ops->group_norm_gate = level == RONDO_CPU_REF ? rondo_group_norm_gate_ref : group_norm_gate_cpu;
    ops->qkv = level == RONDO_CPU_REF ? rondo_qkv_ref : qkv_cpu;
}

size_t rondo_cpu_norm_workspace(const struct rondo_limits *limits, int threads)
{
    return 0;
}
