/* gemm and grouped_gemm on the CPU. */
#include "backend_cpu/cpu.h"

void rondo_cpu_gemm_init(struct rondo_ops *ops, enum rondo_cpu_level level)
{
    ops->gemm = rondo_gemm_ref;
    ops->grouped_gemm = rondo_grouped_gemm_ref;
}

size_t rondo_cpu_gemm_workspace(const struct rondo_limits *limits, int threads)
{
    return 0;
}
