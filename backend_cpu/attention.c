/* The attention family: linear_attention, softmax_attention and accept at every level. */
#include "backend_cpu/attention_internal.h"

void rondo_cpu_attention_init(struct rondo_ops *ops, enum rondo_cpu_level level)
{
    ops->linear_attention = rondo_linear_attention_ref;
    ops->softmax_attention = rondo_softmax_attention_ref;
    ops->accept = rondo_accept_ref;
}

size_t rondo_cpu_attention_workspace(const struct rondo_limits *limits, int threads)
{
    return 0;
}
