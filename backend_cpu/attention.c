/* The attention family: which implementation each level has, its workspace, and accept. */
#include "backend_cpu/attention_internal.h"

const struct rondo_attention_kernels *rondo_attention_kernels(enum rondo_cpu_level level,
                                                              int32_t head_dim)
{
    if (head_dim % 16 != 0)
        return NULL;
    switch (level) {
#if defined(__x86_64__)
    case RONDO_CPU_AVX2:
        return &rondo_attention_kernels_avx2;
    case RONDO_CPU_AVX512:
    case RONDO_CPU_AVX512BF16:
        return &rondo_attention_kernels_avx512;
#elif defined(__aarch64__)
    case RONDO_CPU_NEON:
        return &rondo_attention_kernels_neon;
#endif
    default:
        return NULL;
    }
}

void rondo_cpu_attention_init(struct rondo_ops *ops, enum rondo_cpu_level level)
{
    bool is_fast = rondo_attention_kernels(level, 16) != NULL;
    ops->linear_attention = is_fast ? rondo_linear_attention_cpu : rondo_linear_attention_ref;
    ops->softmax_attention = is_fast ? rondo_softmax_attention_cpu : rondo_softmax_attention_ref;
    ops->accept = is_fast ? rondo_accept_cpu : rondo_accept_ref;
}

const char *rondo_cpu_attention_fallback(enum rondo_cpu_level level, enum rondo_op op,
                                         const void *arguments)
{
    const struct rondo_op_linear_attention *linear = arguments;
    const struct rondo_op_softmax_attention *softmax = arguments;
    int32_t head_dim = 0;
    if (op == RONDO_OP_LINEAR_ATTENTION)
        head_dim = linear->head_dim;
    else if (op == RONDO_OP_SOFTMAX_ATTENTION)
        head_dim = softmax->head_dim;
    bool is_fast = rondo_attention_kernels(level, 16) != NULL;
    return is_fast && !rondo_attention_kernels(level, head_dim)
               ? "head_dim is no multiple of 16, so the reference runs, on one thread"
               : NULL;
}

size_t rondo_cpu_attention_workspace(const struct rondo_limits *limits, int threads)
{
    size_t linear = rondo_linear_attention_workspace(limits, threads);
    size_t softmax = rondo_softmax_attention_workspace(limits, threads);
    return linear > softmax ? linear : softmax;
}

/* A step of a staircase covers the rows of a register tile, so that most of the product is one block. */
#define STAIR_ROWS 6

void rondo_product_staircase(const struct rondo_attention_kernels *kernels,
                             const struct rondo_product *product, const int32_t *limit,
                             int32_t rows_per_limit)
{
    for (int32_t first = 0; first < product->rows; first += STAIR_ROWS) {
        int32_t end = first + STAIR_ROWS < product->rows ? first + STAIR_ROWS : product->rows;
        struct rondo_product part = *product;
        int32_t done = 0;
        if (product->scale)
            part.scale = product->scale + (int64_t)first * product->scale_step;
        for (int32_t row = first; row < end; row++) {
            int32_t n = limit[row / rows_per_limit];
            if (n == done)
                continue;
            part.c = product->c + row * product->c_stride;
            part.a = product->a + row * product->a_stride + done;
            part.b = rondo_element(product->b, product->b_dtype, done * product->b_stride);
            part.rows = end - row;
            part.n = n - done;
            kernels->product(&part);
            part.start = RONDO_START_KEEP;
            part.ahead = (struct rondo_ahead){0};
            done = n;
        }
    }
}
