/* Row kernels of the mixture-of-experts family: what moe.c calls and the levels provide. One
 * row, one thread. */
#ifndef RONDO_BACKEND_CPU_MOE_H
#define RONDO_BACKEND_CPU_MOE_H

#include "backend_cpu/cpu.h"

#include <math.h>

/* Routes token `token`. `scratch`: rondo_router_scratch(E) bytes, 64-byte aligned. */
typedef void rondo_router_row(const struct rondo_op_router *op, int64_t token, void *scratch);
/* Channels [first, end) of h[token]. */
typedef void rondo_combine_row(const struct rondo_op_combine *op, int64_t token, int64_t first,
                               int64_t end);

struct rondo_moe_kernels {
    rondo_router_row *router;
    rondo_combine_row *combine;
};

extern const struct rondo_moe_kernels rondo_moe_kernels_ref, rondo_moe_kernels_avx2,
    rondo_moe_kernels_avx512, rondo_moe_kernels_neon;

/* Three arrays of E floats with room for whole vectors behind each. */
static inline size_t rondo_router_stride(int64_t experts)
{
    return ((size_t)experts + 31) / 16 * 16;
}
static inline size_t rondo_router_scratch(int64_t experts)
{
    return 3 * rondo_router_stride(experts) * sizeof(float);
}

/* What routing orders by: a NaN stands behind everything. */
static inline float rondo_router_rank(float probability, float bias)
{
    float rank = probability + bias;
    return rank != rank ? -INFINITY : rank;
}

#endif
