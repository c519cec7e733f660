/* Reference of the basic family: embedding, quantize, swiglu, argmax, penalize, candidates. Orders stand in core/ops.h. */
#include "backend_cpu/basic.h"
#include "core/candidates.h"
#include "core/numbers.h"

static void embedding_row_ref(const struct rondo_op_embedding *op, int64_t token)
{
    float *out = rondo_tensor_row(&op->out, token);
    for (int64_t i = 0; i < rondo_tensor_columns(&op->out); i++)
        out[i] = rondo_tensor_at(&op->table, op->batch->token[token], i);
}

void rondo_embedding_ref(struct rondo_device *device, const struct rondo_op_embedding *op)
{
    const struct rondo_batch *batch = op->batch;
    for (int64_t token = 0; token < batch->n_tokens; token++)
        if (batch->sequences[batch->sequence_of[token]].slot >= 0)
            embedding_row_ref(op, token);
}

/* A NaN does not take part in the maximum; its code is 0x7f. */
void rondo_quantize_group_ref(const void *x, enum rondo_dtype dtype, const struct rondo_tensor *out,
                              int64_t row, int64_t begin, int64_t end, bool power_of_two)
{
    uint8_t *codes = (uint8_t *)rondo_tensor_row(out, row) + begin;
    float largest = 0;
    for (int64_t i = 0; i < end - begin; i++) {
        float magnitude = fabsf(rondo_load(x, dtype, (size_t)i));
        largest = magnitude > largest ? magnitude : largest;
    }
    float scale = rondo_quantize_scale(largest, power_of_two);
    for (int64_t i = 0; i < end - begin; i++)
        codes[i] = rondo_f32_to_e4m3(rondo_load(x, dtype, (size_t)i) / scale);
    *rondo_quantize_scale_at(out, row, begin / RONDO_BLOCK) = scale;
}

static void quantize_row_ref(const struct rondo_op_quantize *op, int64_t row, int64_t first,
                             int64_t end)
{
    const char *x = rondo_tensor_row(&op->x, row);
    int64_t n = rondo_tensor_columns(&op->x);
    for (int64_t group = first; group < end; group++) {
        int64_t begin = group * RONDO_BLOCK,
                stop = begin + RONDO_BLOCK < n ? begin + RONDO_BLOCK : n;
        rondo_quantize_group_ref(x + (size_t)begin * rondo_dtype_size(op->x.dtype), op->x.dtype,
                                 &op->out, row, begin, stop, op->power_of_two);
    }
}

void rondo_quantize_ref(struct rondo_device *device, const struct rondo_op_quantize *op)
{
    int64_t groups = (rondo_tensor_columns(&op->x) + RONDO_BLOCK - 1) / RONDO_BLOCK;
    for (int64_t row = 0; row < rondo_tensor_rows(&op->x); row++)
        quantize_row_ref(op, row, 0, groups);
}

static void swiglu_row_ref(const struct rondo_op_swiglu *op, int64_t row, int64_t first,
                           int64_t end)
{
    const void *x = rondo_tensor_row(&op->x, row);
    struct rondo_row_out out = {.out = &op->out, .row = row};
    int64_t n = rondo_tensor_columns(&op->out);
    for (int64_t i = first; i < end; i++) {
        float gate = rondo_load(x, op->x.dtype, (size_t)i);
        float up = rondo_load(x, op->x.dtype, (size_t)(n + i));
        rondo_row_put(&out, i, rondo_silu(gate) * up);
    }
}

void rondo_swiglu_ref(struct rondo_device *device, const struct rondo_op_swiglu *op)
{
    for (int64_t row = 0; row < rondo_tensor_rows(&op->out); row++)
        swiglu_row_ref(op, row, 0, rondo_tensor_columns(&op->out));
}

static void argmax_row_ref(const struct rondo_op_argmax *op, int64_t row)
{
    const float *x = rondo_tensor_row(&op->x, row);
    int32_t best = -1;
    for (int32_t i = 0; i < rondo_tensor_columns(&op->x); i++) {
        if (x[i] == x[i] && (best < 0 || x[i] > x[best]))
            best = i;
    }
    op->ids[row] = best;
}

void rondo_argmax_ref(struct rondo_device *device, const struct rondo_op_argmax *op)
{
    for (int64_t row = 0; row < rondo_tensor_rows(&op->x); row++)
        argmax_row_ref(op, row);
}

void rondo_penalize_ref(struct rondo_device *device, const struct rondo_op_penalize *op)
{
    for (int64_t row = 0; row < rondo_tensor_rows(&op->x); row++) {
        const struct rondo_sampling *sampling = &op->sampling[row];
        const int32_t *seen = op->seen + sampling->first_seen;
        float *x = rondo_tensor_row(&op->x, row);
        for (int32_t i = 0; i < sampling->n_seen; i++)
            x[seen[i]] = rondo_penalize(x[seen[i]], sampling->penalty);
    }
}

static void candidates_row_ref(const struct rondo_op_candidates *op, int64_t row)
{
    rondo_candidates_take(&op->out[row], rondo_tensor_row(&op->x, row),
                          (int32_t)rondo_tensor_columns(&op->x), op->sampling[row].temperature);
}

void rondo_candidates_ref(struct rondo_device *device, const struct rondo_op_candidates *op)
{
    for (int64_t row = 0; row < rondo_tensor_rows(&op->x); row++) {
        if (op->sampling[row].wanted)
            candidates_row_ref(op, row);
    }
}

const struct rondo_basic_kernels rondo_basic_kernels_ref = {
    .embedding = embedding_row_ref,
    .quantize = quantize_row_ref,
    .swiglu = swiglu_row_ref,
    .argmax = argmax_row_ref,
    .candidates = candidates_row_ref,
};
