/* Checks of the norm family: rmsnorm, group_norm_gate, qkv. */
#include "tests/check/internal.h"

#include <math.h>

static const enum rondo_dtype activations[2] = {RONDO_F32, RONDO_BF16};

/* NMSE allowed by core/ops.h, by the dtype of the output. */
static double tolerance(enum rondo_dtype dtype, double f32)
{
    return dtype == RONDO_F32 ? f32 : 1e-5;
}

/* The same against double precision, where a tensor may be a single bf16 with the largest
 * rounding error. */
static double double_tolerance(enum rondo_dtype dtype, double f32)
{
    return dtype == RONDO_F32 ? f32 : 0x1p-16;
}

/* An output of a family that can make codes. */
static struct check_tensor *output(struct check *check, enum rondo_dtype dtype, int64_t rows,
                                   int64_t columns, int64_t gap, const char *name)
{
    bool codes = dtype == RONDO_F8_E4M3;
    return check_tensor_output(check, dtype, rows, columns, gap,
                               codes ? CHECK_SCALE_ACTIVATION : CHECK_SCALE_NONE, name);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* Values in double of these fills say something about f32: nothing under- or overflows. */
static bool is_ordinary(enum check_fill fill)
{
    return fill == CHECK_UNIFORM || fill == CHECK_NORMAL || fill == CHECK_ONE_HOT ||
           fill == CHECK_ZEROS;
}

/* ---- rmsnorm --------------------------------------------------------------------------------- */

static void rmsnorm_double(struct check *check, const struct check_tensor *x, const float *weight,
                           const int32_t *rows, struct check_tensor *out, float eps)
{
    int64_t n_rows = rondo_tensor_rows(&out->host), n = rondo_tensor_columns(&out->host);
    double *expected = check_allocate(check, (size_t)(n_rows * n) * sizeof *expected);
    for (int64_t row = 0; row < n_rows; row++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += pow(rondo_tensor_at(&x->host, rows[row], i), 2);
        for (int64_t i = 0; i < n; i++)
            expected[row * n + i] =
                rondo_tensor_at(&x->host, rows[row], i) / sqrt(sum / n + eps) * weight[i];
    }
    check_compare_double(check, out, expected, NULL, double_tolerance(out->host.dtype, 1e-12));
}

/* The same op three times: to bf16, to bf16 and codes, and to codes. */
static void rmsnorm_codes_case(struct check *check, int32_t n_rows, int32_t n, enum check_fill fill,
                               int32_t gap)
{
    check_case(check, "T=%d D=%d f32 to codes, %s%s", n_rows, n, check_fill_name(fill),
               gap ? ", strided" : "");
    struct check_tensor *x =
        check_tensor(check, RONDO_F32, n_rows, n, gap, CHECK_SCALE_NONE, fill, "x");
    struct check_tensor *plain = output(check, RONDO_BF16, n_rows, n, gap, "plain");
    struct check_tensor *out = output(check, RONDO_BF16, n_rows, n, gap, "out");
    struct check_tensor *codes[2] = {output(check, RONDO_F8_E4M3, n_rows, n, gap, "codes beside"),
                                     output(check, RONDO_F8_E4M3, n_rows, n, gap, "codes")};
    struct check_buffer *weight = check_floats(check, n, CHECK_NORMAL, "weight");
    struct check_tensor *outs[3] = {plain, out, codes[1]};
    struct rondo_op_rmsnorm op[3][2];
    for (int form = 0; form < 3; form++) {
        for (int side = 0; side < 2; side++) {
            op[form][side] = (struct rondo_op_rmsnorm){.x = x->side[side],
                                                       .out = outs[form]->side[side],
                                                       .weight = weight->data[side],
                                                       .n_rows = n_rows,
                                                       .eps = 1e-6f};
            if (form == 1)
                op[form][side].codes = codes[0]->side[side];
        }
        check_run(check, RONDO_OP_RMSNORM, &op[form][0], &op[form][1]);
    }
    check_compare(check, out, NULL, tolerance(RONDO_BF16, 0));
    for (int i = 0; i < 2; i++) {
        check_compare(check, codes[i], NULL, 1e-4);
        check_compare_codes(check, plain, codes[i]);
    }
    if (check->bench && fill == CHECK_NORMAL && n == 2048)
        check_bench(check, RONDO_OP_RMSNORM, &op[2][1], (double)n_rows * n * (5 + 1.0 / 32),
                    8.0 * n_rows * n);
}

static void rmsnorm_case(struct check *check, int32_t n_rows, int32_t n, enum rondo_dtype dtype,
                         enum check_fill fill, bool gather, int32_t gap)
{
    check_case(check, "T=%d D=%d f32 to %s, %s%s%s", n_rows, n, rondo_dtype_name(dtype),
               check_fill_name(fill), gather ? ", rows" : "", gap ? ", strided" : "");
    int32_t x_rows = gather ? n_rows + 3 : n_rows;
    int32_t *rows = check_allocate(check, (size_t)n_rows * 4);
    for (int32_t i = 0; i < n_rows; i++)
        rows[i] = gather ? check_random_range(check, 0, x_rows - 1) : i;
    struct check_tensor *x =
        check_tensor(check, RONDO_F32, x_rows, n, gap, CHECK_SCALE_NONE, fill, "x");
    struct check_tensor *out =
        check_tensor_output(check, dtype, n_rows, n, gap, CHECK_SCALE_NONE, "out");
    struct check_buffer *weight = check_floats(check, n, CHECK_NORMAL, "weight");
    struct check_buffer *rows_buffer = check_input(check, rows, (size_t)n_rows * 4, "rows");
    struct rondo_op_rmsnorm op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_rmsnorm){
            .x = x->side[side],
            .out = out->side[side],
            .weight = weight->data[side],
            .rows = gather ? rows_buffer->data[side] : NULL,
            .n_rows = n_rows,
            .eps = 1e-6f,
        };
    check_run(check, RONDO_OP_RMSNORM, &op[0], &op[1]);
    check_compare(check, out, NULL, tolerance(dtype, 1e-12));
    if (check->is_reference && is_ordinary(fill))
        rmsnorm_double(check, x, weight->host, rows, out, 1e-6f);
    if (check->bench && fill == CHECK_NORMAL && !gather && !gap && n == 2048)
        check_bench(check, RONDO_OP_RMSNORM, &op[1],
                    (double)n_rows * n * (4.0 + (double)rondo_dtype_size(dtype)), 4.0 * n_rows * n);
}

static void check_rmsnorm(struct check *check)
{
    static const int32_t widths[] = {1, 7, 16, 31, 128, 257, 2048};
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (int fill = 0; fill < CHECK_FILLS; fill++)
            for (int i = 0; i < 2; i++)
                rmsnorm_case(check, check_random_range(check, 0, 13), widths[w], activations[i],
                             (enum check_fill)fill, check_random(check) & 1,
                             check_random_range(check, 0, 3));
    for (int i = 0; i < 2; i++) {
        rmsnorm_case(check, 1, 2048, activations[i], CHECK_NORMAL, false, 0);
        rmsnorm_case(check, 67, 2048, activations[i], CHECK_NORMAL, false, 0);
    }
    /* More rows than a GPU gives a block each; rows that do not fit into its shared memory. */
    rmsnorm_case(check, 611, 64, RONDO_BF16, CHECK_NORMAL, false, 0);
    rmsnorm_case(check, 303, 2056, RONDO_F32, CHECK_NORMAL, true, 0);
    rmsnorm_case(check, 3, 12800, RONDO_BF16, CHECK_NORMAL, false, 0);
    rmsnorm_case(check, 2, 12803, RONDO_F32, CHECK_NORMAL, true, 1);
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (int fill = 0; fill < CHECK_FILLS; fill++)
            rmsnorm_codes_case(check, check_random_range(check, 0, 7), widths[w],
                               (enum check_fill)fill, check_random_range(check, 0, 3));
    rmsnorm_codes_case(check, 1, 2048, CHECK_NORMAL, 0);
    rmsnorm_codes_case(check, 601, 384, CHECK_NORMAL, 0);
    if (check->bench) {
        rmsnorm_case(check, 512, 2048, RONDO_F32, CHECK_NORMAL, false, 0);
        rmsnorm_codes_case(check, 512, 2048, CHECK_NORMAL, 0);
    }
}

/* ---- group_norm_gate ------------------------------------------------------------------------- */

static void group_norm_gate_double(struct check *check, const struct check_tensor *x,
                                   const struct check_tensor *gate, const float *weight,
                                   int32_t groups, struct check_tensor *out, float eps)
{
    int64_t rows = rondo_tensor_rows(&out->host), columns = rondo_tensor_columns(&out->host),
            n = columns / groups;
    double *expected = check_allocate(check, (size_t)(rows * columns) * sizeof *expected);
    for (int64_t g = 0; g < rows * groups; g++) {
        int64_t row = g / groups, first = g % groups * n;
        double sum = 0;
        for (int64_t i = first; i < first + n; i++)
            sum += pow(rondo_tensor_at(&x->host, row, i), 2);
        for (int64_t i = first; i < first + n; i++)
            expected[row * columns + i] = rondo_tensor_at(&x->host, row, i) / sqrt(sum / n + eps) *
                                          weight[i] * sigmoid(rondo_tensor_at(&gate->host, row, i));
    }
    check_compare_double(check, out, expected, NULL, double_tolerance(out->host.dtype, 1e-11));
}

/* `with_codes`: to bf16 and to codes. */
static void group_norm_gate_case(struct check *check, int32_t rows, int32_t groups, int32_t n,
                                 enum rondo_dtype dtype, bool with_codes, enum check_fill fill,
                                 int32_t gap)
{
    check_case(check, "T=%d groups=%d of %d, %s%s, %s%s", rows, groups, n, rondo_dtype_name(dtype),
               with_codes ? " and codes" : "", check_fill_name(fill), gap ? ", strided" : "");
    int32_t columns = groups * n;
    struct check_tensor *x =
        check_tensor(check, RONDO_F32, rows, columns, gap, CHECK_SCALE_NONE, fill, "x");
    struct check_tensor *gate =
        check_tensor(check, dtype, rows, columns, gap, CHECK_SCALE_NONE, fill, "gate");
    struct check_tensor *out = output(check, dtype, rows, columns, gap, "out");
    struct check_tensor *codes = output(check, RONDO_F8_E4M3, rows, columns, gap, "codes");
    struct check_buffer *weight = check_floats(check, columns, CHECK_NORMAL, "weight");
    struct rondo_op_group_norm_gate op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_group_norm_gate){
            .x = x->side[side],
            .gate = gate->side[side],
            .out = out->side[side],
            .weight = weight->data[side],
            .n_groups = groups,
            .eps = 1e-6f,
        };
    check_run(check, RONDO_OP_GROUP_NORM_GATE, &op[0], &op[1]);
    check_compare(check, out, NULL, tolerance(dtype, 1e-11));
    if (check->is_reference && is_ordinary(fill))
        group_norm_gate_double(check, x, gate, weight->host, groups, out, 1e-6f);
    if (with_codes) {
        for (int side = 0; side < 2; side++)
            op[side].out = codes->side[side];
        check_run(check, RONDO_OP_GROUP_NORM_GATE, &op[0], &op[1]);
        check_compare(check, codes, NULL, 1e-4);
        check_compare_codes(check, out, codes);
    }
    if (check->bench && fill == CHECK_NORMAL && columns == 2048 && !gap)
        check_bench(check, RONDO_OP_GROUP_NORM_GATE, &op[1],
                    (double)rows * columns * (4.0 + 2.0 * (double)rondo_dtype_size(dtype)),
                    24.0 * rows * columns);
}

static void check_group_norm_gate(struct check *check)
{
    static const int32_t sizes[][2] = {{1, 1}, {3, 7}, {4, 16}, {2, 37}, {4, 512}, {5, 64}};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int fill = 0; fill < CHECK_FILLS; fill++)
            for (int i = 0; i < 2; i++)
                group_norm_gate_case(check, check_random_range(check, 0, 11), sizes[s][0],
                                     sizes[s][1], activations[i], i == 1, (enum check_fill)fill,
                                     check_random_range(check, 0, 3));
    for (int i = 0; i < 2; i++) {
        group_norm_gate_case(check, 1, 4, 512, activations[i], i == 1, CHECK_NORMAL, 0);
        group_norm_gate_case(check, 61, 4, 512, activations[i], false, CHECK_NORMAL, 0);
    }
    group_norm_gate_case(check, 307, 4, 56, RONDO_BF16, true, CHECK_NORMAL, 0);
    group_norm_gate_case(check, 2, 2051, 3, RONDO_BF16, true, CHECK_NORMAL, 0);
    if (check->bench)
        group_norm_gate_case(check, 512, 4, 512, RONDO_F32, false, CHECK_NORMAL, 0);
}

/* ---- qkv ------------------------------------------------------------------------------------- */

struct qkv_shape {
    int32_t heads, kv_heads, head_dim, rotary_dim;
    bool norm, silu;
};

/* All of qkv in double; `section` 0 q, 1 k, 2 v. */
static void qkv_double(struct check *check, const struct qkv_shape *shape,
                       const struct check_batch *batch, const struct check_tensor *qkv,
                       const float *weight, const float *cosine, const float *sine, int section,
                       struct check_tensor *out)
{
    int64_t n = shape->head_dim, half = shape->rotary_dim / 2;
    int64_t columns = rondo_tensor_columns(&out->host), tokens = batch->host.n_tokens;
    int64_t offset = section == 0 ? 0 : (shape->heads + (section - 1) * shape->kv_heads) * n;
    double *expected = check_allocate(check, (size_t)(tokens * columns) * sizeof *expected);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < columns / n && !batch->padding[t]; h++) {
            double *x = expected + t * columns + h * n, sum = 0;
            for (int64_t i = 0; i < n; i++) {
                x[i] = rondo_tensor_at(&qkv->host, t, offset + h * n + i);
                x[i] = shape->silu ? x[i] * sigmoid(x[i]) : x[i];
                sum += x[i] * x[i];
            }
            for (int64_t i = 0; i < n && shape->norm && section < 2; i++)
                x[i] = x[i] / sqrt(sum / n + 1e-6) * weight[i];
            for (int64_t j = 0; j < half && section < 2; j++) {
                double c = cosine[batch->host.position[t] * half + j],
                       s = sine[batch->host.position[t] * half + j];
                double x1 = x[j], x2 = x[j + half];
                x[j] = x1 * c - x2 * s;
                x[j + half] = x2 * c + x1 * s;
            }
        }
    check_compare_double(check, out, expected, batch->padding,
                         double_tolerance(out->host.dtype, 1e-12));
}

static void qkv_case(struct check *check, const struct qkv_shape *shape,
                     const struct check_batch_options *options, enum rondo_dtype dtype,
                     enum check_fill fill, int32_t gap)
{
    check_case(check, "B=%d T<=%d H=%d/%d hd=%d rot=%d%s%s %s, %s", options->n_sequences,
               options->max_tokens, shape->heads, shape->kv_heads, shape->head_dim,
               shape->rotary_dim, shape->norm ? " norm" : "", shape->silu ? " silu" : "",
               rondo_dtype_name(dtype), check_fill_name(fill));
    struct check_batch *batch = check_batch(check, options);
    int32_t tokens = batch->host.n_tokens,
            columns[3] = {shape->heads, shape->kv_heads, shape->kv_heads};
    int64_t table = (int64_t)(options->max_start + options->max_tokens) * (shape->rotary_dim / 2);
    struct check_tensor *qkv =
        check_tensor(check, dtype, tokens, (shape->heads + 2 * shape->kv_heads) * shape->head_dim,
                     gap, CHECK_SCALE_NONE, fill, "qkv");
    static const char *const names[3] = {"q", "k", "v"};
    struct check_tensor *out[3];
    for (int i = 0; i < 3; i++)
        out[i] = check_tensor_output(check, dtype, tokens, columns[i] * shape->head_dim, gap,
                                     CHECK_SCALE_NONE, names[i]);
    struct check_buffer *weight[2] = {
        check_floats(check, shape->head_dim, CHECK_NORMAL, "q_weight"),
        check_floats(check, shape->head_dim, CHECK_NORMAL, "k_weight")};
    struct check_buffer *cosine = check_floats(check, table, CHECK_UNIFORM, "rope_cos");
    struct check_buffer *sine = check_floats(check, table, CHECK_UNIFORM, "rope_sin");
    struct rondo_op_qkv op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_qkv){
            .batch = &batch->side[side],
            .qkv = qkv->side[side],
            .q = out[0]->side[side],
            .k = out[1]->side[side],
            .v = out[2]->side[side],
            .q_weight = shape->norm ? weight[0]->data[side] : NULL,
            .k_weight = shape->norm ? weight[1]->data[side] : NULL,
            .rope_cos = cosine->data[side],
            .rope_sin = sine->data[side],
            .heads = shape->heads,
            .kv_heads = shape->kv_heads,
            .head_dim = shape->head_dim,
            .rotary_dim = shape->rotary_dim,
            .eps = 1e-6f,
            .silu = shape->silu,
        };
    check_run(check, RONDO_OP_QKV, &op[0], &op[1]);
    for (int i = 0; i < 3; i++) {
        check_compare(check, out[i], batch->padding, tolerance(dtype, 1e-12));
        if (check->is_reference && is_ordinary(fill))
            qkv_double(check, shape, batch, qkv, weight[i & 1]->host, cosine->host, sine->host, i,
                       out[i]);
    }
    if (check->bench && fill == CHECK_NORMAL && shape->head_dim == 128 && options->n_sequences == 1)
        check_bench(check, RONDO_OP_QKV, &op[1], 2.0 * (double)rondo_tensor_bytes(&qkv->host),
                    (shape->silu ? 26.0 : 6.0) * tokens * columns[0] * 384);
}

static void check_qkv(struct check *check)
{
    static const struct qkv_shape shapes[] = {
        {3, 1, 8, 4, true, false},   {2, 2, 24, 24, true, true},    {4, 2, 17, 10, false, false},
        {2, 1, 40, 38, true, false}, {2, 2, 128, 64, true, true},   {1, 1, 1, 0, true, false},
        {4, 4, 16, 16, false, true}, {16, 4, 128, 64, true, false}, {3, 3, 64, 32, false, true},
    };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (int fill = 0; fill < CHECK_FILLS; fill++)
            for (int i = 0; i < 2; i++) {
                struct check_batch_options options = {.n_sequences =
                                                          check_random_range(check, 0, 5),
                                                      .max_tokens = 7,
                                                      .max_start = 40,
                                                      .vocab_size = 10,
                                                      .drafts = true,
                                                      .padding = true};
                qkv_case(check, &shapes[s], &options, activations[i], (enum check_fill)fill,
                         check_random_range(check, 0, 3));
            }
    /* More tokens than a GPU splits over several blocks. */
    static const struct qkv_shape wide = {5, 1, 48, 32, true, true};
    struct check_batch_options many = {
        .n_sequences = 2, .min_tokens = 301, .max_tokens = 307, .max_start = 9, .vocab_size = 10};
    qkv_case(check, &wide, &many, RONDO_BF16, CHECK_NORMAL, 0);
    /* Of Ring-mini: linear and softmax layers. */
    static const struct qkv_shape mini[2] = {{16, 16, 128, 64, true, true},
                                             {16, 4, 128, 64, true, false}};
    static const int32_t tokens[] = {1, 19, 512};
    for (int i = 0; i < (check->bench ? 12 : 8); i++) {
        struct check_batch_options options = {.n_sequences = 1,
                                              .min_tokens = tokens[i / 4],
                                              .max_tokens = tokens[i / 4],
                                              .max_start = 9,
                                              .vocab_size = 10};
        qkv_case(check, &mini[i / 2 % 2], &options, activations[i % 2], CHECK_NORMAL, 0);
    }
}

const struct check_family check_family_norm = {
    .name = "norm",
    .ops = {{"rmsnorm", check_rmsnorm},
            {"group_norm_gate", check_group_norm_gate},
            {"qkv", check_qkv}},
};
