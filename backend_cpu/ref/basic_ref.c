/* Reference of the basic family: embedding, quantize, swiglu. Orders stand in core/ops.h. */
#include "backend_cpu/basic.h"
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
static void quantize_row_ref(const struct rondo_op_quantize *op, int64_t row, int64_t first,
                             int64_t end)
{
    const void *x = rondo_tensor_row(&op->x, row);
    uint8_t *out = rondo_tensor_row(&op->out, row);
    int64_t n = rondo_tensor_columns(&op->x);
    for (int64_t group = first; group < end; group++) {
        int64_t begin = group * RONDO_BLOCK,
                stop = begin + RONDO_BLOCK < n ? begin + RONDO_BLOCK : n;
        float largest = 0;
        for (int64_t i = begin; i < stop; i++) {
            float magnitude = fabsf(rondo_load(x, op->x.dtype, (size_t)i));
            largest = magnitude > largest ? magnitude : largest;
        }
        float scale = rondo_quantize_scale(largest, op->power_of_two);
        for (int64_t i = begin; i < stop; i++)
            out[i] = rondo_f32_to_e4m3(rondo_load(x, op->x.dtype, (size_t)i) / scale);
        *rondo_quantize_scale_at(&op->out, row, group) = scale;
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
    void *out = rondo_tensor_row(&op->out, row);
    int64_t n = rondo_tensor_columns(&op->out);
    for (int64_t i = first; i < end; i++) {
        float gate = rondo_load(x, op->x.dtype, (size_t)i);
        float up = rondo_load(x, op->x.dtype, (size_t)(n + i));
        rondo_store(out, op->out.dtype, (size_t)i, rondo_silu(gate) * up);
    }
}

void rondo_swiglu_ref(struct rondo_device *device, const struct rondo_op_swiglu *op)
{
    for (int64_t row = 0; row < rondo_tensor_rows(&op->out); row++)
        swiglu_row_ref(op, row, 0, rondo_tensor_columns(&op->out));
}

const struct rondo_basic_kernels rondo_basic_kernels_ref = {
    .embedding = embedding_row_ref,
    .quantize = quantize_row_ref,
    .swiglu = swiglu_row_ref,
};
