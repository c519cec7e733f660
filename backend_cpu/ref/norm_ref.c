/* Reference of the norm family: rmsnorm, group_norm_gate, qkv. Orders stand in core/ops.h. */
#include "backend_cpu/basic.h"
#include "backend_cpu/norm.h"
#include "core/numbers.h"

/* 1 / sqrt(mean of squares + eps) */
static float inverse_rms(const float *x, int64_t n, float eps)
{
    float lane[16] = {0};
    for (int64_t i = 0; i < n; i++)
        lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    return 1.0f / sqrtf(rondo_sum_tree16(lane) / (float)n + eps);
}

static void rmsnorm_row_ref(const struct rondo_op_rmsnorm *op, int64_t row)
{
    const float *x = rondo_tensor_row(&op->x, op->rows ? op->rows[row] : row);
    struct rondo_row_out out = {.out = &op->out, .row = row};
    struct rondo_row_out codes = {.out = &op->codes, .row = row};
    int64_t n = rondo_tensor_columns(&op->x);
    float r = inverse_rms(x, n, op->eps);
    for (int64_t i = 0; i < n; i++) {
        rondo_row_put(&out, i, (x[i] * r) * op->weight[i]);
        if (op->codes.data)
            rondo_row_put(&codes, i, (x[i] * r) * op->weight[i]);
    }
}

void rondo_rmsnorm_ref(struct rondo_device *device, const struct rondo_op_rmsnorm *op)
{
    for (int64_t row = 0; row < op->n_rows; row++)
        rmsnorm_row_ref(op, row);
}

static void group_norm_gate_row_ref(const struct rondo_op_group_norm_gate *op, int64_t row,
                                    int first, int end)
{
    const float *x = rondo_tensor_row(&op->x, row);
    const void *gate = rondo_tensor_row(&op->gate, row);
    struct rondo_row_out out = {.out = &op->out, .row = row};
    int64_t n = rondo_tensor_columns(&op->x) / op->n_groups;
    for (int group = first; group < end; group++) {
        float r = inverse_rms(x + group * n, n, op->eps);
        for (int64_t i = group * n; i < (group + 1) * n; i++) {
            float open = rondo_sigmoid(rondo_load(gate, op->gate.dtype, (size_t)i));
            rondo_row_put(&out, i, ((x[i] * r) * op->weight[i]) * open);
        }
    }
}

void rondo_group_norm_gate_ref(struct rondo_device *device,
                               const struct rondo_op_group_norm_gate *op)
{
    for (int64_t row = 0; row < rondo_tensor_rows(&op->x); row++)
        group_norm_gate_row_ref(op, row, 0, op->n_groups);
}

/* Channel i of a head after silu and norm; r is the head's inverse RMS. */
static float head_value(const struct rondo_op_qkv *op, const struct rondo_qkv_head *head, float r,
                        int64_t i)
{
    float x = rondo_load(head->in, op->qkv.dtype, (size_t)i);
    x = op->silu ? rondo_silu(x) : x;
    return head->weight ? (x * r) * head->weight[i] : x;
}

static float head_inverse_rms(const struct rondo_op_qkv *op, const struct rondo_qkv_head *head)
{
    struct rondo_qkv_head plain = *head;
    plain.weight = NULL;
    float lane[16] = {0};
    for (int i = 0; i < op->head_dim; i++) {
        float x = head_value(op, &plain, 0, i);
        lane[i % 16] = fmaf(x, x, lane[i % 16]);
    }
    return 1.0f / sqrtf(rondo_sum_tree16(lane) / (float)op->head_dim + op->eps);
}

static void qkv_row_ref(const struct rondo_op_qkv *op, int64_t token, int first, int end)
{
    int half = op->rotary_dim / 2;
    const float *cosine = op->rope_cos + (int64_t)op->batch->position[token] * half;
    const float *sine = op->rope_sin + (int64_t)op->batch->position[token] * half;
    for (int h = first; h < end; h++) {
        struct rondo_qkv_head head = rondo_qkv_head(op, token, h);
        float r = head.weight ? head_inverse_rms(op, &head) : 0;
        int rotated = head.rotate ? half : 0;
        for (int j = 0; j < rotated; j++) {
            float x1 = head_value(op, &head, r, j), x2 = head_value(op, &head, r, j + half);
            rondo_store(head.out, head.out_dtype, (size_t)j, fmaf(-x2, sine[j], x1 * cosine[j]));
            rondo_store(head.out, head.out_dtype, (size_t)(j + half),
                        fmaf(x1, sine[j], x2 * cosine[j]));
        }
        for (int j = 2 * rotated; j < op->head_dim; j++)
            rondo_store(head.out, head.out_dtype, (size_t)j, head_value(op, &head, r, j));
    }
}

void rondo_qkv_ref(struct rondo_device *device, const struct rondo_op_qkv *op)
{
    for (int64_t token = 0; token < op->batch->n_tokens; token++)
        if (!rondo_batch_is_padding(op->batch, token))
            qkv_row_ref(op, token, 0, op->heads + 2 * op->kv_heads);
}

const struct rondo_norm_kernels rondo_norm_kernels_ref = {
    .rmsnorm = rmsnorm_row_ref,
    .group_norm_gate = group_norm_gate_row_ref,
    .qkv = qkv_row_ref,
};
