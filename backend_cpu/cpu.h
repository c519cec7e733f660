/* Inside of the CPU backend: the device, its threads, and what each op family provides.
 *
 * Per family: ref/FAMILY_ref.c is the definition (one thread, plain C, no workspace); FAMILY.c splits the work
 * over threads; x86/FAMILY_avx2.c, x86/FAMILY_avx512.c and arm/FAMILY_neon.c hold the kernels. All levels give
 * the same bits (core/ops.h). */
#ifndef RONDO_BACKEND_CPU_CPU_H
#define RONDO_BACKEND_CPU_CPU_H

#include "core/backend.h"
#include "core/error.h"

/* Instruction-set levels, by name: "ref", "avx2" (with FMA and F16C), "avx512" (F, BW, DQ, VL),
 * "avx512bf16" (also VBMI and BF16), "neon". */
enum rondo_cpu_level {
    RONDO_CPU_REF,
    RONDO_CPU_AVX2,
    RONDO_CPU_AVX512,
    RONDO_CPU_AVX512BF16,
    RONDO_CPU_NEON
};

enum rondo_cpu_level rondo_cpu_best_level(void);
bool rondo_cpu_has_level(enum rondo_cpu_level level);
const char *rondo_cpu_level_name(enum rondo_cpu_level level);

/* ---- threads (pool.c) ------------------------------------------------------------------------ */

struct rondo_pool;

/* Called once on every thread of the pool, 0 .. threads-1; thread 0 is the caller. */
typedef void rondo_pool_task(void *user, int thread, int threads);

struct rondo_pool *rondo_pool_create(int threads, struct rondo_error *error);
void rondo_pool_destroy(struct rondo_pool *pool);
int rondo_pool_threads(const struct rondo_pool *pool);
/* Runs the task on all threads and returns when all are done. Waiting threads spin for some microseconds,
 * then sleep. */
void rondo_pool_run(struct rondo_pool *pool, rondo_pool_task *task, void *user);
/* All threads of the running task meet here. */
void rondo_pool_barrier(struct rondo_pool *pool);
/* Next unclaimed index of the running task, from 0; each index is given once. Reset when a task starts, and
 * by rondo_pool_barrier. */
int64_t rondo_pool_next(struct rondo_pool *pool);

/* Thread `thread`'s part [*first, *end) of n items in units of `grain`. */
static inline void rondo_split(int64_t n, int64_t grain, int thread, int threads, int64_t *first,
                               int64_t *end)
{
    int64_t units = (n + grain - 1) / grain;
    int64_t a = units * thread / threads * grain, b = units * (thread + 1) / threads * grain;
    *first = a < n ? a : n;
    *end = b < n ? b : n;
}

/* ---- device ---------------------------------------------------------------------------------- */

struct rondo_cpu_device {
    struct rondo_device base;
    enum rondo_cpu_level level;
    struct rondo_pool *pool;
    /* One block for whatever op is running, grown by reserve only; 64-byte aligned. */
    char *workspace;
    size_t workspace_size;
};

extern const struct rondo_backend rondo_backend_cpu;

static inline struct rondo_cpu_device *rondo_cpu(struct rondo_device *device)
{
    return (struct rondo_cpu_device *)device;
}

/* ---- op families ----------------------------------------------------------------------------- */

/* Each sets its slots for a level: the references first, then what the level overrides. */
void rondo_cpu_gemm_init(struct rondo_ops *ops,
                         enum rondo_cpu_level level); /* gemm, grouped_gemm */
void rondo_cpu_attention_init(struct rondo_ops *ops,
                              enum rondo_cpu_level level); /* linear, softmax, accept */
void rondo_cpu_norm_init(struct rondo_ops *ops,
                         enum rondo_cpu_level level); /* rmsnorm, group_norm_gate, qkv */
void rondo_cpu_moe_init(struct rondo_ops *ops,
                        enum rondo_cpu_level level); /* router, group_tokens, combine */
void rondo_cpu_basic_init(struct rondo_ops *ops,
                          enum rondo_cpu_level level); /* embedding, quantize, swiglu */

/* What an op of the family runs instead of the level's kernels, and why; NULL: they run. */
const char *rondo_cpu_attention_fallback(enum rondo_cpu_level level, enum rondo_op op,
                                         const void *arguments);

/* Bytes of workspace a family needs within the limits. */
size_t rondo_cpu_gemm_workspace(const struct rondo_limits *limits, int threads);
size_t rondo_cpu_attention_workspace(const struct rondo_limits *limits, int threads);
size_t rondo_cpu_norm_workspace(const struct rondo_limits *limits, int threads);
size_t rondo_cpu_moe_workspace(const struct rondo_limits *limits, int threads);
size_t rondo_cpu_basic_workspace(const struct rondo_limits *limits, int threads);

/* References, by family; slots of level "ref". */
void rondo_embedding_ref(struct rondo_device *device, const struct rondo_op_embedding *op);
void rondo_rmsnorm_ref(struct rondo_device *device, const struct rondo_op_rmsnorm *op);
void rondo_quantize_ref(struct rondo_device *device, const struct rondo_op_quantize *op);
void rondo_gemm_ref(struct rondo_device *device, const struct rondo_op_gemm *op);
void rondo_grouped_gemm_ref(struct rondo_device *device, const struct rondo_op_grouped_gemm *op);
void rondo_qkv_ref(struct rondo_device *device, const struct rondo_op_qkv *op);
void rondo_linear_attention_ref(struct rondo_device *device,
                                const struct rondo_op_linear_attention *op);
void rondo_softmax_attention_ref(struct rondo_device *device,
                                 const struct rondo_op_softmax_attention *op);
void rondo_accept_ref(struct rondo_device *device, const struct rondo_op_accept *op);
void rondo_group_norm_gate_ref(struct rondo_device *device,
                               const struct rondo_op_group_norm_gate *op);
void rondo_router_ref(struct rondo_device *device, const struct rondo_op_router *op);
void rondo_group_tokens_ref(struct rondo_device *device, const struct rondo_op_group_tokens *op);
void rondo_swiglu_ref(struct rondo_device *device, const struct rondo_op_swiglu *op);
void rondo_combine_ref(struct rondo_device *device, const struct rondo_op_combine *op);
void rondo_argmax_ref(struct rondo_device *device, const struct rondo_op_argmax *op);
void rondo_penalize_ref(struct rondo_device *device, const struct rondo_op_penalize *op);
void rondo_candidates_ref(struct rondo_device *device, const struct rondo_op_candidates *op);

/* The one measure of read bandwidth that benchmarks compare with: bytes per second at which the device's
 * threads read a buffer of `size` bytes once, best of `repeats`. */
double rondo_cpu_read_bandwidth(struct rondo_cpu_device *device, size_t size, int repeats);

#endif
