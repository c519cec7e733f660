/* The mixture-of-experts family over threads. */
#include "backend_cpu/moe.h"

/* Work below which waking the threads costs more than it saves: elements read, and logits
 * routed. */
#define INLINE_ELEMENTS 32768
#define INLINE_LOGITS 2048
/* Channels of a token that are one unit of combine. */
#define COMBINE_UNIT 512

static const struct rondo_moe_kernels *kernels_of(struct rondo_device *device)
{
    switch (rondo_cpu(device)->level) {
#if defined(__x86_64__)
    case RONDO_CPU_AVX2:
        return &rondo_moe_kernels_avx2;
    case RONDO_CPU_AVX512:
    case RONDO_CPU_AVX512BF16:
        return &rondo_moe_kernels_avx512;
#elif defined(__aarch64__)
    case RONDO_CPU_NEON:
        return &rondo_moe_kernels_neon;
#endif
    default:
        return &rondo_moe_kernels_ref;
    }
}

struct router_job {
    const struct rondo_moe_kernels *kernels;
    const struct rondo_op_router *op;
    char *scratch; /* rondo_router_scratch bytes for each thread */
};

static void router_task(void *user, int thread, int threads)
{
    const struct router_job *job = user;
    char *scratch = job->scratch +
                    (size_t)thread * rondo_router_scratch(rondo_tensor_columns(&job->op->logits));
    int64_t first, end;
    rondo_split(rondo_tensor_rows(&job->op->logits), 1, thread, threads, &first, &end);
    for (int64_t token = first; token < end; token++)
        job->kernels->router(job->op, token, scratch);
}

static void router_cpu(struct rondo_device *device, const struct rondo_op_router *op)
{
    struct router_job job = {
        .kernels = kernels_of(device), .op = op, .scratch = rondo_cpu(device)->workspace};
    if (rondo_tensor_rows(&op->logits) * rondo_tensor_columns(&op->logits) < INLINE_LOGITS)
        router_task(&job, 0, 1);
    else
        rondo_pool_run(rondo_cpu(device)->pool, router_task, &job);
}

static void gemm_router_cpu(struct rondo_device *device, const struct rondo_op_gemm_router *op)
{
    device->ops.gemm(device, &op->gemm);
    device->ops.router(device, &op->router);
    if (op->group.offsets)
        device->ops.group_tokens(device, &op->group);
}

struct combine_job {
    const struct rondo_moe_kernels *kernels;
    const struct rondo_op_combine *op;
    int64_t units_per_token;
};

static void combine_task(void *user, int thread, int threads)
{
    const struct combine_job *job = user;
    int64_t tokens = rondo_tensor_rows(&job->op->h), columns = rondo_tensor_columns(&job->op->h);
    int64_t unit, end;
    rondo_split(tokens * job->units_per_token, 1, thread, threads, &unit, &end);
    for (; unit < end; unit++) {
        int64_t token = unit / job->units_per_token,
                first = unit % job->units_per_token * COMBINE_UNIT;
        int64_t stop = first + COMBINE_UNIT < columns ? first + COMBINE_UNIT : columns;
        job->kernels->combine(job->op, token, first, stop);
    }
}

static void combine_cpu(struct rondo_device *device, const struct rondo_op_combine *op)
{
    int64_t tokens = rondo_tensor_rows(&op->h), columns = rondo_tensor_columns(&op->h);
    struct combine_job job = {.kernels = kernels_of(device),
                              .op = op,
                              .units_per_token = (columns + COMBINE_UNIT - 1) / COMBINE_UNIT};
    if (tokens * columns * (op->experts_per_token + 1) < INLINE_ELEMENTS)
        combine_task(&job, 0, 1);
    else
        rondo_pool_run(rondo_cpu(device)->pool, combine_task, &job);
    if (op->norm.data) {
        struct rondo_op_rmsnorm norm = rondo_combine_norm(op);
        device->ops.rmsnorm(device, &norm);
    }
}

void rondo_cpu_moe_init(struct rondo_ops *ops, enum rondo_cpu_level level)
{
    ops->router = level == RONDO_CPU_REF ? rondo_router_ref : router_cpu;
    ops->gemm_router = gemm_router_cpu;
    ops->group_tokens =
        rondo_group_tokens_ref; /* a linear pass over a few thousand integers at most */
    ops->combine = level == RONDO_CPU_REF ? rondo_combine_ref : combine_cpu;
}

size_t rondo_cpu_moe_workspace(const struct rondo_limits *limits, int threads)
{
    return (size_t)threads * rondo_router_scratch(limits->experts);
}
