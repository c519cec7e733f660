/* Kernels of the norm family over a vector of 16 floats: included once by each level, after its
 * vector header. */
#include "backend_cpu/norm.h"
#include "core/numbers.h"

/* The longest head whose values are kept between the passes over it. */
#define MAX_HEAD 512

/* 1 / sqrt(mean of squares + eps); lanes past the end add squares of +0. */
static inline float inverse_rms(const float *x, int64_t n, float eps)
{
    v16 sum = v_set(0);
    for (int64_t i = 0; i < n; i += 16) {
        v16 value = v_load_part(x, RONDO_F32, i, n - i);
        sum = v_fma(value, value, sum);
    }
    return 1.0f / sqrtf(v_sum(sum) / (float)n + eps);
}

static void LEVEL(rmsnorm_row)(const struct rondo_op_rmsnorm *op, int64_t row)
{
    const float *x = rondo_tensor_row(&op->x, op->rows ? op->rows[row] : row);
    void *out = rondo_tensor_row(&op->out, row);
    int64_t n = rondo_tensor_columns(&op->x);
    v16 r = v_set(inverse_rms(x, n, op->eps));
    for (int64_t i = 0; i < n; i += 16) {
        v16 value = v_mul(v_load_part(x, RONDO_F32, i, n - i), r);
        value = v_mul(value, v_load_part(op->weight, RONDO_F32, i, n - i));
        v_store_part(out, op->out.dtype, i, n - i, value);
    }
}

static void LEVEL(group_norm_gate_row)(const struct rondo_op_group_norm_gate *op, int64_t row,
                                       int first, int end)
{
    const float *x = rondo_tensor_row(&op->x, row);
    const void *gate = rondo_tensor_row(&op->gate, row);
    void *out = rondo_tensor_row(&op->out, row);
    int64_t n = rondo_tensor_columns(&op->x) / op->n_groups;
    for (int group = first; group < end; group++) {
        int64_t stop = (group + 1) * n;
        v16 r = v_set(inverse_rms(x + group * n, n, op->eps));
        for (int64_t i = group * n; i < stop; i += 16) {
            v16 value = v_mul(v_load_part(x, RONDO_F32, i, stop - i), r);
            value = v_mul(value, v_load_part(op->weight, RONDO_F32, i, stop - i));
            value = v_mul(value, v_sigmoid(v_load_part(gate, op->gate.dtype, i, stop - i)));
            v_store_part(out, op->out.dtype, i, stop - i, value);
        }
    }
}

/* Reads a head, with silu and norm, into x; what lies past its end up to a whole vector is
 * undefined. */
static inline void read_head(const struct rondo_op_qkv *op, const struct rondo_qkv_head *head,
                             float *x)
{
    int64_t n = op->head_dim;
    v16 sum = v_set(0);
    for (int64_t i = 0; i < n; i += 16) {
        v16 value = v_load_part(head->in, op->qkv.dtype, i, n - i);
        value = op->silu ? v_mul(value, v_sigmoid(value)) : value;
        sum = v_fma(value, value, sum);
        v_store(x + i, value);
    }
    if (!head->weight)
        return;
    v16 r = v_set(1.0f / sqrtf(v_sum(sum) / (float)n + op->eps));
    for (int64_t i = 0; i < n; i += 16)
        v_store(x + i,
                v_mul(v_mul(v_load(x + i), r), v_load_part(head->weight, RONDO_F32, i, n - i)));
}

static void LEVEL(qkv_row)(const struct rondo_op_qkv *op, int64_t token, int first, int end)
{
    float x[MAX_HEAD + 16];
    int64_t half = op->rotary_dim / 2;
    const float *cosine = op->rope_cos + op->batch->position[token] * half;
    const float *sine = op->rope_sin + op->batch->position[token] * half;
    if (op->head_dim > MAX_HEAD) {
        rondo_norm_kernels_ref.qkv(op, token, first, end);
        return;
    }
    for (int h = first; h < end; h++) {
        struct rondo_qkv_head head = rondo_qkv_head(op, token, h);
        int64_t rotated = head.rotate ? half : 0;
        read_head(op, &head, x);
        for (int64_t j = 0; j < rotated; j += 16) {
            v16 x1 = v_load_part(x, RONDO_F32, j, half - j);
            v16 x2 = v_load_part(x, RONDO_F32, half + j, half - j);
            v16 c = v_load_part(cosine, RONDO_F32, j, half - j);
            v16 s = v_load_part(sine, RONDO_F32, j, half - j);
            v_store_part(head.out, head.out_dtype, j, half - j, v_fnma(x2, s, v_mul(x1, c)));
            v_store_part(head.out, head.out_dtype, half + j, half - j, v_fma(x1, s, v_mul(x2, c)));
        }
        for (int64_t j = 2 * rotated; j < op->head_dim; j += 16)
            v_store_part(head.out, head.out_dtype, j, op->head_dim - j,
                         v_load_part(x, RONDO_F32, j, op->head_dim - j));
    }
}

const struct rondo_norm_kernels LEVEL(rondo_norm_kernels) = {
    .rmsnorm = LEVEL(rmsnorm_row),
    .group_norm_gate = LEVEL(group_norm_gate_row),
    .qkv = LEVEL(qkv_row),
};
