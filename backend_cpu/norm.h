/* Row kernels of the norm family: what norm.c calls and the levels provide. One row, one thread. */
#ifndef RONDO_BACKEND_CPU_NORM_H
#define RONDO_BACKEND_CPU_NORM_H

#include "backend_cpu/cpu.h"

/* Output row `row` of a rmsnorm. */
typedef void rondo_rmsnorm_row(const struct rondo_op_rmsnorm *op, int64_t row);
/* Groups [first, end) of row `row`; all of them when the output is codes. */
typedef void rondo_group_norm_gate_row(const struct rondo_op_group_norm_gate *op, int64_t row,
                                       int first, int end);
/* Heads [first, end) of token `token`, counted over q, then k, then v. */
typedef void rondo_qkv_row(const struct rondo_op_qkv *op, int64_t token, int first, int end);

struct rondo_norm_kernels {
    rondo_rmsnorm_row *rmsnorm;
    rondo_group_norm_gate_row *group_norm_gate;
    rondo_qkv_row *qkv;
};

extern const struct rondo_norm_kernels rondo_norm_kernels_ref, rondo_norm_kernels_avx2,
    rondo_norm_kernels_avx512, rondo_norm_kernels_neon;

/* A head of a qkv row: where it is read and written, and what is done to it. */
struct rondo_qkv_head {
    const void *in; /* [head_dim] dtype of op->qkv */
    void *out;      /* [head_dim] */
    enum rondo_dtype out_dtype;
    const float *weight; /* [head_dim], NULL: no norm */
    bool rotate;
};

/* `head` counts over q, then k, then v. */
static inline struct rondo_qkv_head rondo_qkv_head(const struct rondo_op_qkv *op, int64_t token,
                                                   int head)
{
    int q = op->heads, k = op->kv_heads;
    const struct rondo_tensor *out = head < q ? &op->q : head < q + k ? &op->k : &op->v;
    int64_t first = (int64_t)(head < q       ? head
                              : head < q + k ? head - q
                                             : head - q - k) *
                    op->head_dim;
    size_t in_offset = (size_t)head * (size_t)op->head_dim * rondo_dtype_size(op->qkv.dtype);
    return (struct rondo_qkv_head){
        .in = (const char *)rondo_tensor_row(&op->qkv, token) + in_offset,
        .out = (char *)rondo_tensor_row(out, token) + (size_t)first * rondo_dtype_size(out->dtype),
        .out_dtype = out->dtype,
        .weight = head < q       ? op->q_weight
                  : head < q + k ? op->k_weight
                                 : NULL,
        .rotate = head < q + k,
    };
}

/* Tokens of padding sequences may hold anything and are left alone. */
static inline bool rondo_batch_is_padding(const struct rondo_batch *batch, int64_t token)
{
    return batch->sequences[batch->sequence_of[token]].slot < 0;
}

#endif
