/* Checks of the basic family: embedding, quantize, swiglu, argmax. */
#include "tests/check/internal.h"

#include <math.h>
#include <string.h>

/* ---- embedding ------------------------------------------------------------------------------- */

static void embedding_case(struct check *check, const struct check_batch_options *options,
                           int32_t n, enum rondo_dtype dtype, enum check_scale scale,
                           enum check_fill fill, int32_t gap)
{
    check_case(check, "B=%d T<=%d D=%d %s scale %d, %s", options->n_sequences, options->max_tokens,
               n, rondo_dtype_name(dtype), (int)scale, check_fill_name(fill));
    struct check_batch *batch = check_batch(check, options);
    int32_t tokens = batch->host.n_tokens;
    struct check_tensor *table =
        check_tensor(check, dtype, options->vocab_size, n, gap, scale, fill, "table");
    uint8_t *codes = table->buffer->host;
    for (size_t i = 0; i < table->buffer->size && table->buffer->weights; i++)
        if (codes[i] == 0x80 && check->device[CHECK_TESTED]->write_codes)
            codes[i] = 0; /* as the device has it */
    check_upload(check, table->buffer);
    struct check_tensor *out =
        check_tensor_output(check, RONDO_F32, tokens, n, gap, CHECK_SCALE_NONE, "out");
    struct rondo_op_embedding op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_embedding){
            .batch = &batch->side[side], .table = table->side[side], .out = out->side[side]};
    check_run(check, RONDO_OP_EMBEDDING, &op[0], &op[1]);
    check_compare(check, out, batch->padding, 0);
    if (check->is_reference) {
        double *expected = check_allocate(check, (size_t)tokens * (size_t)n * sizeof *expected);
        for (int32_t t = 0; t < tokens; t++)
            for (int32_t i = 0; i < n && !batch->padding[t]; i++)
                expected[t * n + i] = rondo_tensor_at(&table->host, batch->host.token[t], i);
        check_compare_double(check, out, expected, batch->padding, 0);
    }
    if (options->min_tokens)
        check_bench(check, RONDO_OP_EMBEDDING, &op[1],
                    (double)tokens * n * (4.0 + (double)rondo_dtype_size(dtype)), 0);
}

static void check_embedding(struct check *check)
{
    static const int32_t widths[] = {1, 16, 61, 128, 300};
    static const struct {
        enum rondo_dtype dtype;
        enum check_scale scale;
    } tables[] = {
        {RONDO_F32, CHECK_SCALE_NONE},    {RONDO_BF16, CHECK_SCALE_NONE},
        {RONDO_F16, CHECK_SCALE_NONE},    {RONDO_F8_E4M3, CHECK_SCALE_BLOCK},
        {RONDO_F8_E4M3, CHECK_SCALE_ROW}, {RONDO_F8_E4M3, CHECK_SCALE_NONE},
    };
    for (size_t d = 0; d < sizeof tables / sizeof tables[0]; d++) {
        for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
            for (int fill = 0; fill < CHECK_FILLS; fill++) {
                struct check_batch_options options = {.n_sequences =
                                                          check_random_range(check, 0, 4),
                                                      .max_tokens = 5,
                                                      .max_start = 9,
                                                      .vocab_size = 150,
                                                      .drafts = true,
                                                      .padding = true};
                embedding_case(check, &options, widths[w], tables[d].dtype, tables[d].scale,
                               (enum check_fill)fill, check_random_range(check, 0, 2));
            }
        struct check_batch_options options = {
            .n_sequences = 1, .min_tokens = 1, .max_tokens = 1, .vocab_size = 500};
        embedding_case(check, &options, 2048, tables[d].dtype, tables[d].scale, CHECK_NORMAL, 0);
        options.min_tokens = options.max_tokens = 64;
        embedding_case(check, &options, 2048, tables[d].dtype, tables[d].scale, CHECK_NORMAL, 0);
    }
}

/* ---- quantize -------------------------------------------------------------------------------- */

/* Every value must come back within half a step of its code: 1/16 of the value, or 2^-10 below
 * 2^-6. */
static void quantize_bounds(struct check *check, const struct check_tensor *x,
                            struct check_tensor *out, bool power_of_two)
{
    struct rondo_tensor result = out->host;
    check_download(check, out->buffer);
    check_download(check, out->scale);
    result.data = out->buffer->result[CHECK_TESTED];
    result.scale = out->scale->result[CHECK_TESTED];
    for (int64_t row = 0; row < rondo_tensor_rows(&result); row++)
        for (int64_t i = 0; i < rondo_tensor_columns(&result); i++) {
            double scale = result.scale[row * result.scale_stride + i / RONDO_BLOCK];
            double want = rondo_tensor_at(&x->host, row, i), got = rondo_tensor_at(&result, row, i);
            double step = fmax(fabs(want) / 16, scale * 0x1p-10);
            int exponent;
            if (fabs(got - want) > step * 1.000001 ||
                (power_of_two && frexp(scale, &exponent) != 0.5)) {
                check_fail(check, "out[row %lld, column %lld]: %g became %g, scale %g",
                           (long long)row, (long long)i, want, got, scale);
                return;
            }
        }
}

static void quantize_case(struct check *check, int32_t rows, int32_t n, enum rondo_dtype dtype,
                          bool power_of_two, enum check_fill fill, int32_t gap, bool special)
{
    check_case(check, "T=%d N=%d %s%s, %s%s%s", rows, n, rondo_dtype_name(dtype),
               power_of_two ? " power of two" : "", check_fill_name(fill), gap ? ", strided" : "",
               special ? ", NaN and infinity" : "");
    struct check_tensor *x = check_tensor(check, dtype, rows, n, gap, CHECK_SCALE_NONE, fill, "x");
    struct check_tensor *out =
        check_tensor_output(check, RONDO_F8_E4M3, rows, n, gap, CHECK_SCALE_ACTIVATION, "out");
    if (special) {
        for (int32_t row = 0; row < rows; row++)
            rondo_store(rondo_tensor_row(&x->host, row), dtype,
                        (size_t)check_random_range(check, 0, n - 1), row % 2 ? -INFINITY : NAN);
        check_upload(check, x->buffer);
    }
    struct rondo_op_quantize op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_quantize){
            .x = x->side[side], .out = out->side[side], .power_of_two = power_of_two};
    check_run(check, RONDO_OP_QUANTIZE, &op[0], &op[1]);
    /* Codes one apart are a relative error of 1/8 at most in some of the elements. */
    check_compare(check, out, NULL, 1e-4);
    if (check->is_reference && !special)
        quantize_bounds(check, x, out, power_of_two);
    if (fill == CHECK_NORMAL && n == 2048)
        check_bench(check, RONDO_OP_QUANTIZE, &op[1],
                    (double)rows * n * (1.0 + (double)rondo_dtype_size(dtype)), 0);
}

static void check_quantize(struct check *check)
{
    static const int32_t widths[] = {1, 5, 16, 100, 128, 129, 384, 517}, rows[] = {1, 67, 512};
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (int fill = 0; fill < CHECK_FILLS; fill++)
            for (int i = 0; i < 4; i++)
                quantize_case(check, check_random_range(check, 0, 9), widths[w],
                              i & 1 ? RONDO_BF16 : RONDO_F32, i & 2, (enum check_fill)fill,
                              check_random_range(check, 0, 3), check_random(check) % 4 == 0);
    quantize_case(check, 701, 776, RONDO_BF16, false, CHECK_NORMAL, 0, true); /* many on a GPU */
    for (int i = 0; i < (check->bench ? 6 : 4); i++)
        quantize_case(check, rows[i / 2], 2048, i & 1 ? RONDO_BF16 : RONDO_F32, false, CHECK_NORMAL,
                      0, false);
}

/* ---- swiglu ---------------------------------------------------------------------------------- */

static void swiglu_double(struct check *check, const struct check_tensor *x,
                          struct check_tensor *out)
{
    int64_t rows = rondo_tensor_rows(&out->host), n = rondo_tensor_columns(&out->host);
    double *expected = check_allocate(check, (size_t)(rows * n) * sizeof *expected);
    for (int64_t i = 0; i < rows * n; i++) {
        double gate = rondo_tensor_at(&x->host, i / n, i % n);
        expected[i] = gate / (1 + exp(-gate)) * rondo_tensor_at(&x->host, i / n, n + i % n);
    }
    check_compare_double(check, out, expected, NULL,
                         out->host.dtype == RONDO_F32 ? 1e-12 : 0x1p-16);
}

static void swiglu_case(struct check *check, int32_t rows, int32_t n, enum rondo_dtype dtype,
                        enum check_fill fill, int32_t gap)
{
    check_case(check, "R=%d I=%d %s, %s%s", rows, n, rondo_dtype_name(dtype), check_fill_name(fill),
               gap ? ", strided" : "");
    struct check_tensor *x =
        check_tensor(check, dtype, rows, 2 * n, gap, CHECK_SCALE_NONE, fill, "x");
    struct check_tensor *out =
        check_tensor_output(check, dtype, rows, n, gap, CHECK_SCALE_NONE, "out");
    struct check_tensor *codes =
        check_tensor_output(check, RONDO_F8_E4M3, rows, n, gap, CHECK_SCALE_ACTIVATION, "codes");
    struct rondo_op_swiglu op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_swiglu){.x = x->side[side], .out = out->side[side]};
    check_run(check, RONDO_OP_SWIGLU, &op[0], &op[1]);
    check_compare(check, out, NULL, dtype == RONDO_F32 ? 1e-12 : 1e-5);
    bool ordinary = fill != CHECK_TINY && fill != CHECK_HUGE && fill != CHECK_SUBNORMAL;
    if (check->is_reference && ordinary)
        swiglu_double(check, x, out);
    if (fill == CHECK_NORMAL && n == 512)
        check_bench(check, RONDO_OP_SWIGLU, &op[1],
                    3.0 * rows * n * (double)rondo_dtype_size(dtype), 22.0 * rows * n);
    if (dtype != RONDO_BF16)
        return;
    for (int side = 0; side < 2; side++)
        op[side].out = codes->side[side];
    check_run(check, RONDO_OP_SWIGLU, &op[0], &op[1]);
    check_compare(check, codes, NULL, 1e-4);
    check_compare_codes(check, out, codes);
}

static void check_swiglu(struct check *check)
{
    static const int32_t widths[] = {1, 7, 16, 37, 128, 333}, rows[] = {8, 131, 4096};
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (int fill = 0; fill < CHECK_FILLS; fill++)
            for (int i = 0; i < 2; i++)
                swiglu_case(check, check_random_range(check, 0, 9), widths[w],
                            i ? RONDO_BF16 : RONDO_F32, (enum check_fill)fill,
                            check_random_range(check, 0, 3));
    swiglu_case(check, 701, 776, RONDO_BF16, CHECK_NORMAL, 0); /* many on a GPU */
    for (int i = 0; i < (check->bench ? 6 : 4); i++)
        swiglu_case(check, rows[i / 2], 512, i & 1 ? RONDO_BF16 : RONDO_F32, CHECK_NORMAL, 0);
}

/* ---- argmax ---------------------------------------------------------------------------------- */

/* `levels`: only so many different values, for ties; 0: any. */
static void argmax_case(struct check *check, int32_t rows, int32_t n, enum check_fill fill,
                        int32_t levels, int32_t gap, bool special)
{
    check_case(check, "T=%d N=%d %s%s%s%s", rows, n, check_fill_name(fill), levels ? ", ties" : "",
               gap ? ", strided" : "", special ? ", NaN and infinity" : "");
    struct check_tensor *x =
        check_tensor(check, RONDO_F32, rows, n, gap, CHECK_SCALE_NONE, fill, "x");
    for (int64_t row = 0; row < rows; row++) {
        float *values = rondo_tensor_row(&x->host, row);
        for (int32_t i = 0; i < n && levels; i++)
            values[i] = (float)check_random_range(check, -levels, 0);
        for (int32_t i = 0; i < n && special && row % 4 == 3;
             i++) /* none, or the last alone, is a number */
            values[i] = row % 8 == 3 || i + 1 < n ? NAN : -INFINITY;
        if (special)
            values[check_random_range(check, 0, n - 1)] = row % 4 == 1 ? INFINITY : NAN;
    }
    check_upload(check, x->buffer);
    struct check_buffer *ids = check_output(check, (size_t)rows * 4, "ids");
    struct rondo_limits limits = {.tokens = rows, .max_n = n};
    struct rondo_op_argmax op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_argmax){.x = x->side[side], .ids = ids->data[side]};
    check_reserve(check, &limits);
    check_run(check, RONDO_OP_ARGMAX, &op[0], &op[1]);
    check_compare_array(check, ids, RONDO_I32, rows, NULL, 0);
    const int32_t *got = ids->result[CHECK_TESTED];
    for (int64_t row = 0; row < rows && check->is_reference; row++) {
        const float *values = rondo_tensor_row(&x->host, row);
        bool good = got[row] >= -1 && got[row] < n;
        for (int32_t i = 0; i < n && good; i++) {
            bool number = values[i] == values[i];
            good = got[row] < 0 ? !number
                                : !number || values[i] < values[got[row]] ||
                                      (values[i] == values[got[row]] && i >= got[row]);
        }
        if (!good)
            check_fail(check, "row %lld: got %d", (long long)row, got[row]);
    }
    if (n > 100000)
        check_bench(check, RONDO_OP_ARGMAX, &op[1], 4.0 * rows * n, 0);
}

static void check_argmax(struct check *check)
{
    static const int32_t widths[] = {1, 3, 16, 61, 128, 1000, 4099, 20001};
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (int i = 0; i < 12; i++)
            argmax_case(check, check_random_range(check, 0, 9), widths[w],
                        (enum check_fill)(i % CHECK_FILLS), i % 3 ? 0 : 1 << i / 3,
                        check_random_range(check, 0, 1) * (i & 3), i > 5);
    argmax_case(check, 131, 300, CHECK_NORMAL, 3, 0, true);
    argmax_case(check, check->bench ? 64 : 2, 157184, CHECK_NORMAL, 0, 0, false);
}

const struct check_family check_family_basic = {
    .name = "basic",
    .ops = {{"embedding", check_embedding},
            {"quantize", check_quantize},
            {"swiglu", check_swiglu},
            {"argmax", check_argmax}},
};
