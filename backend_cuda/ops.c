/* The op table of a GPU device: each slot makes the device current and calls its entry. What a device can not
 * do, does slowly, and by which path. */
#include "backend_cuda/host.h"

#include <stdio.h>
#include <string.h>

/* ---- slots --------------------------------------------------------------------------------------- */

#define SLOT(name)                                                                                 \
    static void run_##name(struct rondo_device *device, const struct rondo_op_##name *op)          \
    {                                                                                              \
        struct gpu_host *host = gpu_host_of(device);                                               \
        if (!GPU(enter)(host))                                                                     \
            return;                                                                                \
        GPU(name)(device, op);                                                                     \
        GPU(leave)(host);                                                                          \
    }
SLOT(embedding)
SLOT(rmsnorm)
SLOT(quantize)
SLOT(grouped_gemm)
SLOT(qkv)
SLOT(linear_attention)
SLOT(softmax_attention)
SLOT(accept)
SLOT(group_norm_gate)
SLOT(router)
SLOT(gemm_router)
SLOT(group_tokens)
SLOT(swiglu)
SLOT(combine)
SLOT(argmax)
SLOT(penalize)
SLOT(candidates)
#undef SLOT

/* ---- products by cuBLASLt ------------------------------------------------------------------------- */

static bool is_aligned(const struct rondo_tensor *tensor);

/* Products of bf16 without bias; never a matter of the number of rows. */
static bool takes_cublaslt(const struct gpu_host *host, const struct rondo_op_gemm *op)
{
    bool takes = host->cublaslt && op->x.dtype == RONDO_BF16 && op->x.shape[1] % 16 == 0 &&
                 is_aligned(&op->x);
    for (int i = 0; i < op->n_parts && takes; i++) {
        const struct rondo_gemm_part *part = &op->part[i];
        takes = part->weight.dtype == RONDO_BF16 && !part->bias && part->out.shape[1] % 16 == 0 &&
                is_aligned(&part->weight) && is_aligned(&part->out);
    }
    return takes;
}

/* A product that cuBLASLt could not start: by the device's own kernels, and a word about it the first time. */
static void fall_back(struct gpu_host *host, const struct rondo_op_gemm *op, int status)
{
    long long m = op->x.shape[0], n = op->part[0].out.shape[1], k = op->x.shape[1];
    if (host->gpu.base.strict) {
        char what[sizeof host->gpu.error_what];
        snprintf(what, sizeof what,
                 "cuBLASLt: error %d at [%lld, %lld] by [%lld, %lld], and --strict allows no other "
                 "path",
                 status, m, k, n, k);
        GPU(failed)(&host->gpu, cudaErrorNotSupported, what);
        return;
    }
    if (!host->cublaslt_failed)
        rondo_log(RONDO_LOG_WARNING,
                  "%s: gemm falls back: cuBLASLt: error %d at [%lld, %lld] by [%lld, %lld]; such "
                  "products run as %s",
                  host->name, status, m, k, n, k, GPU(gemm_path)(&host->gpu, op));
    host->cublaslt_failed = true;
    GPU(gemm)(&host->gpu.base, op);
}

static void run_cublaslt(struct rondo_device *device, const struct rondo_op_gemm *op)
{
    struct gpu_host *host = gpu_host_of(device);
    for (int i = 0; i < op->n_parts && op->x.shape[0]; i++) {
        struct rondo_op_gemm one = {
            .x = op->x, .part = {op->part[i]}, .n_parts = 1, .residual = op->residual};
        const struct rondo_tensor *out = &one.part[0].out;
        struct cublaslt_product product = {
            .m = op->x.shape[0],
            .n = out->shape[1],
            .k = op->x.shape[1],
            .x = op->x.data,
            .weight = one.part[0].weight.data,
            .x_stride = op->x.row_stride,
            .out = out->data,
            .out_stride = out->row_stride,
            .out_type = out->dtype == RONDO_BF16 ? CUBLASLT_BF16 : CUBLASLT_F32,
            .add = op->residual,
            .workspace = host->cublaslt_workspace,
            .workspace_size = GPU_CUBLASLT_BYTES,
        };
        int status = rondo_cublaslt_multiply(host->cublaslt, &product, host->gpu.stream);
        if (status)
            fall_back(host, &one, status);
        else
            GPU(launched)(&host->gpu, cudaGetLastError(), "cuBLASLt");
    }
}

static void run_gemm(struct rondo_device *device, const struct rondo_op_gemm *op)
{
    struct gpu_host *host = gpu_host_of(device);
    if (!GPU(enter)(host))
        return;
    (takes_cublaslt(host, op) ? run_cublaslt : GPU(gemm))(device, op);
    GPU(leave)(host);
}

/* ---- what can be done ------------------------------------------------------------------------------ */

/* Rows of 16 channels and more begin at multiples of 16 bytes. */
static bool is_aligned(const struct rondo_tensor *tensor)
{
    size_t step = (size_t)tensor->row_stride * rondo_dtype_size(tensor->dtype);
    return (uintptr_t)tensor->data % 16 == 0 && (tensor->shape[1] % 16 || step % 16 == 0);
}

static const char *gemm_supports(struct gpu_device *gpu, const struct rondo_op_gemm *op)
{
    bool aligned = is_aligned(&op->x);
    for (int i = 0; i < op->n_parts; i++)
        aligned &= is_aligned(&op->part[i].weight);
    return aligned ? GPU(gemm_supports)(gpu, op) : "x or a weight is not aligned to 16 bytes";
}

static const char *gemm_router_supports(struct gpu_device *gpu,
                                        const struct rondo_op_gemm_router *op)
{
    if (takes_cublaslt(gpu_host_of(&gpu->base), &op->gemm))
        return "cuBLASLt multiplies, and does not route";
    return gemm_supports(gpu, &op->gemm);
}

static const char *grouped_gemm_supports(struct gpu_device *gpu,
                                         const struct rondo_op_grouped_gemm *op)
{
    bool aligned = is_aligned(&op->x);
    for (int i = 0; i < op->n_parts; i++)
        for (int e = 0; e < (op->mixed ? op->n_experts : 1); e++)
            aligned &= is_aligned(&op->weight[i][e]);
    return aligned ? GPU(grouped_gemm_supports)(gpu, op)
                   : "x or a weight is not aligned to 16 bytes";
}

static const char *supports(struct rondo_device *device, enum rondo_op op, const void *args)
{
    struct gpu_device *gpu = &gpu_host_of(device)->gpu;
    switch (op) {
    case RONDO_OP_GEMM:
        return gemm_supports(gpu, args);
    case RONDO_OP_GROUPED_GEMM:
        return grouped_gemm_supports(gpu, args);
    case RONDO_OP_GEMM_ROUTER:
        return gemm_router_supports(gpu, args);
    case RONDO_OP_LINEAR_ATTENTION:
        return GPU(linear_attention_supports)(gpu, args);
    case RONDO_OP_SOFTMAX_ATTENTION:
        return GPU(softmax_attention_supports)(gpu, args);
    default:
        return NULL; /* all that rondo_op_check lets through */
    }
}

static const char *path(struct rondo_device *device, enum rondo_op op, const void *args)
{
    struct gpu_device *gpu = &gpu_host_of(device)->gpu;
    if (op == RONDO_OP_GEMM && takes_cublaslt(gpu_host_of(device), args))
        return "cuBLASLt bf16";
    return op == RONDO_OP_GEMM                ? GPU(gemm_path)(gpu, args)
           : op == RONDO_OP_GROUPED_GEMM      ? GPU(grouped_gemm_path)(gpu, args)
           : op == RONDO_OP_SOFTMAX_ATTENTION ? GPU(softmax_attention_path)(gpu, args)
                                              : NULL;
}

static bool is_fma(const char *name)
{
    return name && strncmp(name, "fma", 3) == 0;
}

/* Whether a part of the product runs without tensor cores. */
static bool has_fma(struct rondo_device *device, const struct rondo_op_gemm *op)
{
    struct rondo_op_gemm one = *op;
    bool found = false;
    one.n_parts = 1;
    for (int i = 0; i < op->n_parts; i++) {
        one.part[0] = op->part[i];
        found |= is_fma(path(device, RONDO_OP_GEMM, &one));
    }
    return found;
}

static bool grouped_has_fma(struct rondo_device *device, const struct rondo_op_grouped_gemm *op)
{
    struct rondo_op_grouped_gemm one = *op;
    bool found = false;
    one.n_parts = 1;
    for (int i = 0; i < op->n_parts; i++) {
        one.weight[0] = op->weight[i];
        one.bias[0] = op->bias[i];
        found |= is_fma(path(device, RONDO_OP_GROUPED_GEMM, &one));
    }
    return found;
}

/* Products of bf16 or quantised inputs belong on the tensor cores, and all experts of a layer in one launch. */
static const char *fallback(struct rondo_device *device, enum rondo_op op, const void *args)
{
    const struct rondo_op_gemm *gemm = args;
    const struct rondo_op_grouped_gemm *grouped = args;
    const struct rondo_op_softmax_attention *attention = args;
    if (op == RONDO_OP_SOFTMAX_ATTENTION)
        return attention->q.dtype == RONDO_F32 || !is_fma(path(device, op, args))
                   ? NULL
                   : "the head size (or scale, or alignment) is none that runs on tensor cores, "
                     "f32 is used";
    if (op == RONDO_OP_GROUPED_GEMM && grouped->mixed)
        return "experts of a layer differ in dtype or kind of scales, each run of like ones is a "
               "product of its own";
    bool slow = (op == RONDO_OP_GEMM && gemm->x.dtype != RONDO_F32 && has_fma(device, gemm)) ||
                (op == RONDO_OP_GROUPED_GEMM && grouped->x.dtype != RONDO_F32 &&
                 grouped_has_fma(device, grouped));
    return slow ? "a weight's dtype is not exact in bf16, so that it is multiplied in f32 without "
                  "tensor cores"
                : NULL;
}

void GPU(set_ops)(struct rondo_device *device)
{
    device->ops = (struct rondo_ops){
        .embedding = run_embedding,
        .rmsnorm = run_rmsnorm,
        .quantize = run_quantize,
        .gemm = run_gemm,
        .grouped_gemm = run_grouped_gemm,
        .qkv = run_qkv,
        .linear_attention = run_linear_attention,
        .softmax_attention = run_softmax_attention,
        .accept = run_accept,
        .group_norm_gate = run_group_norm_gate,
        .router = run_router,
        .gemm_router = run_gemm_router,
        .group_tokens = run_group_tokens,
        .swiglu = run_swiglu,
        .combine = run_combine,
        .argmax = run_argmax,
        .penalize = run_penalize,
        .candidates = run_candidates,
    };
    device->supports = supports;
    device->fallback = fallback;
    device->path = path;
}
