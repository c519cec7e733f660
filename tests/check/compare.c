/* Comparison of results, exact or by normalised mean square error. */
#include "tests/check/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The bits of element `index`, and whether they are a NaN. */
static uint32_t bits_of(const void *data, enum rondo_dtype dtype, int64_t index, bool *nan)
{
    uint32_t bits = 0;
    size_t size = rondo_dtype_size(dtype);
    memcpy(&bits, (const char *)data + (size_t)index * size, size);
    *nan = dtype != RONDO_I32 && dtype != RONDO_U8 && isnan(rondo_load(data, dtype, (size_t)index));
    return bits;
}

static bool same_bits(const void *a, const void *b, enum rondo_dtype dtype, int64_t index)
{
    bool nan_a, nan_b;
    uint32_t x = bits_of(a, dtype, index, &nan_a), y = bits_of(b, dtype, index, &nan_b);
    return x == y || (nan_a && nan_b);
}

static void fail_at(struct check *check, const char *name, const void *const result[2],
                    enum rondo_dtype dtype, int64_t index, const char *where)
{
    bool nan;
    check_fail(check, "%s%s: got %.9g (0x%x), want %.9g (0x%x)", name, where,
               (double)rondo_load(result[CHECK_TESTED], dtype, (size_t)index),
               bits_of(result[CHECK_TESTED], dtype, index, &nan),
               (double)rondo_load(result[CHECK_REFERENCE], dtype, (size_t)index),
               bits_of(result[CHECK_REFERENCE], dtype, index, &nan));
}

/* Sums for the normalised mean square error; one that is not finite on one side only makes it
 * infinite. */
struct error_sum {
    double difference, reference;
};

static void add_error(struct error_sum *sum, double got, double want)
{
    if (isnan(got) && isnan(want))
        return;
    if (!isfinite(got) || !isfinite(want)) {
        if (got != want)
            sum->difference = INFINITY;
        return;
    }
    sum->difference += (got - want) * (got - want);
    sum->reference += want * want;
}

void check_energy(struct check *check, double energy)
{
    check->energy = energy;
}

static double nmse_of(struct check *check, const struct error_sum *sum)
{
    double reference = fmax(sum->reference, check->energy);
    check->energy = 0;
    return sum->difference == 0 ? 0 : sum->difference / reference;
}

/* Compares elements first .. first + n of both results; true when they agree as `exact` asks. */
static bool compare_run(struct check *check, const void *const result[2], enum rondo_dtype dtype,
                        int64_t first, int64_t n, const char *name, int64_t row,
                        struct error_sum *sum)
{
    bool exact = check->exact || dtype == RONDO_I32 || dtype == RONDO_U8;
    for (int64_t i = first; i < first + n; i++) {
        if (exact && !same_bits(result[CHECK_REFERENCE], result[CHECK_TESTED], dtype, i)) {
            char where[80];
            snprintf(where, sizeof where, "[row %lld, column %lld]", (long long)row,
                     (long long)(i - first));
            fail_at(check, name, result, dtype, i, where);
            return false;
        }
        if (!exact)
            add_error(sum, rondo_load(result[CHECK_TESTED], dtype, (size_t)i),
                      rondo_load(result[CHECK_REFERENCE], dtype, (size_t)i));
    }
    return true;
}

static void check_nmse(struct check *check, const char *name, const struct error_sum *sum,
                       double nmse)
{
    double error = nmse_of(check, sum);
    if (!(error <= nmse))
        check_fail(check, "%s: normalised mean square error %.3g, at most %.3g allowed", name,
                   error, nmse);
}

void check_compare(struct check *check, struct check_tensor *tensor, const bool *undefined,
                   double nmse)
{
    const struct rondo_tensor *t = &tensor->host;
    struct check_buffer *buffer = tensor->buffer;
    const void *const result[2] = {buffer->result[0], buffer->result[1]};
    int64_t rows = rondo_tensor_rows(t), columns = rondo_tensor_columns(t);
    size_t size = rondo_dtype_size(t->dtype), gap = (size_t)(t->row_stride - columns) * size;
    struct error_sum sum = {0};
    check_download(check, buffer);
    for (int64_t row = 0; row < rows; row++) {
        size_t gap_at = (size_t)(row * t->row_stride + columns) * size;
        for (int side = 0; side < 2; side++)
            if (memcmp((const char *)result[side] + gap_at, (const char *)buffer->host + gap_at,
                       gap) != 0) {
                check_fail(check, "%s: %s wrote behind row %lld", buffer->name,
                           side == CHECK_REFERENCE ? "the reference" : check->device_name,
                           (long long)row);
                return;
            }
        if (undefined && undefined[row])
            continue;
        if (!compare_run(check, result, t->dtype, row * t->row_stride, columns, buffer->name, row,
                         &sum))
            return;
    }
    check_nmse(check, buffer->name, &sum, nmse);
    if (tensor->scale)
        check_compare_array(check, tensor->scale, RONDO_F32, (int64_t)(tensor->scale->size / 4),
                            NULL, nmse);
}

void check_compare_array(struct check *check, struct check_buffer *buffer, enum rondo_dtype dtype,
                         int64_t n, const bool *undefined, double nmse)
{
    const void *const result[2] = {buffer->result[0], buffer->result[1]};
    bool exact = check->exact || dtype == RONDO_I32 || dtype == RONDO_U8;
    struct error_sum sum = {0};
    check_download(check, buffer);
    for (int64_t i = 0; i < n; i++) {
        if (undefined && undefined[i])
            continue;
        if (!exact) {
            add_error(&sum, rondo_load(result[CHECK_TESTED], dtype, (size_t)i),
                      rondo_load(result[CHECK_REFERENCE], dtype, (size_t)i));
        } else if (!same_bits(result[0], result[1], dtype, i)) {
            char where[40];
            snprintf(where, sizeof where, "[%lld]", (long long)i);
            fail_at(check, buffer->name, result, dtype, i, where);
            return;
        }
    }
    check_nmse(check, buffer->name, &sum, nmse);
}

void check_compare_double(struct check *check, struct check_tensor *tensor, const double *expected,
                          const bool *undefined, double nmse)
{
    struct rondo_tensor result = tensor->host;
    struct error_sum sum = {0};
    check_download(check, tensor->buffer);
    result.data = tensor->buffer->result[CHECK_TESTED];
    if (tensor->scale) {
        check_download(check, tensor->scale);
        result.scale = tensor->scale->result[CHECK_TESTED];
    }
    int64_t columns = rondo_tensor_columns(&result);
    for (int64_t row = 0; row < rondo_tensor_rows(&result); row++)
        for (int64_t i = 0; i < columns && !(undefined && undefined[row]); i++)
            add_error(&sum, rondo_tensor_at(&result, row, i), expected[row * columns + i]);
    double error = nmse_of(check, &sum);
    if (!(error <= nmse))
        check_fail(check,
                   "%s: the reference is %.3g (normalised mean square error) from double "
                   "precision, at most "
                   "%.3g allowed",
                   tensor->buffer->name, error, nmse);
}

/* Whether rows of `size` bytes agree on one side. */
static bool same_rows(struct check *check, struct check_buffer *a, struct check_buffer *b, int side,
                      int64_t rows, size_t size, size_t stride)
{
    for (int64_t row = 0; row < rows; row++)
        if (memcmp((const char *)a->result[side] + (size_t)row * stride,
                   (const char *)b->result[side] + (size_t)row * stride, size) != 0) {
            check_fail(check, "%s: row %lld is not %s's, which %s made of the same", b->name,
                       (long long)row, a->name,
                       side == CHECK_REFERENCE ? "the reference" : check->device_name);
            return false;
        }
    return true;
}

void check_compare_same(struct check *check, struct check_tensor *a, struct check_tensor *b)
{
    const struct rondo_tensor *t = &a->host;
    int64_t rows = rondo_tensor_rows(t);
    size_t size = rondo_dtype_size(t->dtype), stride = (size_t)t->row_stride * size;
    size_t scales = (size_t)t->scale_stride * sizeof(float);
    struct check_tensor *tensors[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        check_download(check, tensors[i]->buffer);
        if (tensors[i]->scale)
            check_download(check, tensors[i]->scale);
    }
    for (int side = 0; side < 2; side++)
        if (!same_rows(check, a->buffer, b->buffer, side, rows,
                       (size_t)rondo_tensor_columns(t) * size, stride) ||
            (a->scale && !same_rows(check, a->scale, b->scale, side, rows, scales, scales)))
            return;
}

void check_compare_codes(struct check *check, const struct check_tensor *plain,
                         struct check_tensor *codes)
{
    const struct rondo_tensor *t = &codes->host;
    int64_t rows = rondo_tensor_rows(t), columns = rondo_tensor_columns(t);
    struct check_tensor *composed =
        check_tensor_output(check, RONDO_F8_E4M3, rows, columns, t->row_stride - columns,
                            CHECK_SCALE_ACTIVATION, "quantize of bf16");
    struct rondo_op_quantize op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_quantize){.x = plain->side[side], .out = composed->side[side]};
    check_run(check, RONDO_OP_QUANTIZE, &op[0], &op[1]);
    check_compare_same(check, composed, codes);
}
