/* Kernels of the norm family over a vector of 16 floats: included once by each level, after its
 * vector header. */
#include "backend_cpu/norm.h"
#include "backend_cpu/quantize_kernels.h"
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

/* Where the channels from `begin` on are stored: in the output's row, or, when that is codes, in `part`, as
 * bf16, until the group of 128 they belong to is whole. */
struct target {
    void *to;
    enum rondo_dtype dtype;
    int64_t skip; /* channel that stands in to[0] */
};

static inline struct target target_of(const struct rondo_tensor *out, int64_t row, int64_t begin,
                                      uint16_t *part)
{
    if (out->dtype == RONDO_F8_E4M3)
        return (struct target){part, RONDO_BF16, begin / RONDO_BLOCK * RONDO_BLOCK};
    return (struct target){rondo_tensor_row(out, row), out->dtype, 0};
}

static void LEVEL(rmsnorm_row)(const struct rondo_op_rmsnorm *op, int64_t row)
{
    uint16_t part[RONDO_BLOCK];
    const float *x = rondo_tensor_row(&op->x, op->rows ? op->rows[row] : row);
    int64_t n = rondo_tensor_columns(&op->x);
    v16 r = v_set(inverse_rms(x, n, op->eps));
    for (int64_t begin = 0; begin < n; begin += RONDO_BLOCK) {
        int64_t end = begin + RONDO_BLOCK < n ? begin + RONDO_BLOCK : n;
        struct target target = target_of(&op->out, row, begin, part);
        for (int64_t i = begin; i < end; i += 16) {
            v16 value = v_mul(v_load_part(x, RONDO_F32, i, end - i), r);
            value = v_mul(value, v_load_part(op->weight, RONDO_F32, i, end - i));
            v_store_part(target.to, target.dtype, i - target.skip, end - i, value);
        }
        const uint16_t *done = (const uint16_t *)target.to + begin - target.skip;
        if (op->out.dtype == RONDO_F8_E4M3)
            quantize_group(done, RONDO_BF16, &op->out, row, begin, end, false);
        else if (op->codes.data)
            quantize_group(done, RONDO_BF16, &op->codes, row, begin, end, false);
    }
}

/* Channels [begin, end) of a group whose inverse root mean square is r. */
static inline void norm_gate_part(const struct rondo_op_group_norm_gate *op, int64_t row, v16 r,
                                  int64_t begin, int64_t end, struct target target)
{
    const float *x = rondo_tensor_row(&op->x, row);
    const void *gate = rondo_tensor_row(&op->gate, row);
    for (int64_t i = begin; i < end; i += 16) {
        v16 value = v_mul(v_load_part(x, RONDO_F32, i, end - i), r);
        value = v_mul(value, v_load_part(op->weight, RONDO_F32, i, end - i));
        value = v_mul(value, v_sigmoid(v_load_part(gate, op->gate.dtype, i, end - i)));
        v_store_part(target.to, target.dtype, i - target.skip, end - i, value);
    }
}

/* Codes: of whole rows only, as a group of the norm may end inside a group of 128. */
static void LEVEL(group_norm_gate_row)(const struct rondo_op_group_norm_gate *op, int64_t row,
                                       int first, int end)
{
    uint16_t part[RONDO_BLOCK];
    const float *x = rondo_tensor_row(&op->x, row);
    int64_t columns = rondo_tensor_columns(&op->x), n = columns / op->n_groups;
    bool codes = op->out.dtype == RONDO_F8_E4M3;
    for (int group = first; group < end; group++) {
        int64_t begin = group * n, group_end = begin + n;
        v16 r = v_set(inverse_rms(x + begin, n, op->eps));
        while (begin < group_end) {
            int64_t stop = codes ? (begin / RONDO_BLOCK + 1) * RONDO_BLOCK : group_end;
            stop = stop < group_end ? stop : group_end;
            struct target target = target_of(&op->out, row, begin, part);
            norm_gate_part(op, row, r, begin, stop, target);
            if (codes && (stop % RONDO_BLOCK == 0 || stop == columns))
                quantize_group(part, RONDO_BF16, &op->out, row, target.skip, stop, false);
            begin = stop;
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
