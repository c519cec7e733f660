/* Inside of the attention family: what its references, drivers and kernels share. */
#ifndef RONDO_BACKEND_CPU_ATTENTION_INTERNAL_H
#define RONDO_BACKEND_CPU_ATTENTION_INTERNAL_H

#include "backend_cpu/cpu.h"
#include "core/numbers.h"

/* First element of row `row` of head `head` of slot `slot` in a cache of [slots, heads, rows, head_dim]. */
static inline size_t rondo_cache_row(int32_t slot, int32_t heads, int32_t head, int32_t rows,
                                     int32_t row, int32_t head_dim)
{
    return (((size_t)slot * heads + head) * rows + row) * head_dim;
}

/* Address of element `index`. */
static inline char *rondo_element(const void *data, enum rondo_dtype dtype, size_t index)
{
    return (char *)data + index * rondo_dtype_size(dtype);
}

/* The ancestor of a draft node that stands at `position`, the node itself included. `parent` is the
 * sequence's part of the batch array; `node_position` is where the node stands. */
static inline int32_t rondo_draft_ancestor(const int32_t *parent, int32_t node,
                                           int32_t node_position, int32_t position)
{
    for (; node_position > position; node_position--)
        node = parent[node];
    return node;
}

/* Folds a whole chunk, rows k and v [C, hd] of `dtype`, into state [hd, hd]: the fold of
 * rondo_op_linear_attention. */
void rondo_linear_fold_ref(float *state, const void *k, const void *v, enum rondo_dtype dtype,
                           const float *decay_power, int32_t head_dim);

#endif
