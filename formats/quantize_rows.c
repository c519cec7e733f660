/* The arithmetic of quantising a matrix. */
#include "formats/quantize_rows.h"

#include "core/dtype.h"
#include "core/tensor.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* n values from element `first` on, as f32. Files may have them at odd addresses. */
static void widen(const struct rondo_quantize_matrix *matrix, int64_t first, int64_t n,
                  float *values)
{
    const char *data = (const char *)matrix->data + (size_t)first * rondo_dtype_size(matrix->dtype);
    uint16_t half;
    if (matrix->dtype == RONDO_F32)
        memcpy(values, data, (size_t)n * sizeof *values);
    for (int64_t i = 0; i < n && matrix->dtype == RONDO_BF16; i++) {
        memcpy(&half, data + 2 * i, 2);
        values[i] = rondo_bf16_to_f32(half);
    }
    for (int64_t i = 0; i < n && matrix->dtype == RONDO_F16; i++) {
        memcpy(&half, data + 2 * i, 2);
        values[i] = rondo_f16_to_f32(half);
    }
}

/* Bits of the largest magnitude; above those of FLT_MAX when a value is not finite. */
static uint32_t largest_bits(const float *values, int64_t n)
{
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t magnitude = rondo_f32_to_bits(values[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

static int64_t find_bad(const float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return i;
    return n;
}

static float round_scale(float scale, bool power_of_two)
{
    int exponent;
    if (!power_of_two)
        return scale;
    return frexpf(scale, &exponent) == 0.5f ? scale : ldexpf(1.0f, exponent);
}

bool rondo_quantize_block_panel(const struct rondo_quantize_matrix *matrix, int64_t first,
                                uint8_t *codes, float *scales, int64_t *bad_row,
                                int64_t *bad_column)
{
    float tile[RONDO_BLOCK][RONDO_BLOCK];
    int64_t rows = matrix->rows - first < RONDO_BLOCK ? matrix->rows - first : RONDO_BLOCK;
    for (int64_t column = 0; column < matrix->columns; column += RONDO_BLOCK) {
        int64_t n = matrix->columns - column < RONDO_BLOCK ? matrix->columns - column : RONDO_BLOCK;
        uint32_t largest = 0;
        for (int64_t r = 0; r < rows; r++) {
            widen(matrix, (first + r) * matrix->columns + column, n, tile[r]);
            uint32_t bits = largest_bits(tile[r], n);
            if (bits > 0x7f7fffffu) {
                *bad_row = first + r;
                *bad_column = column + find_bad(tile[r], n);
                return false;
            }
            largest = bits > largest ? bits : largest;
        }
        float scale = round_scale(fmaxf(rondo_bits_to_f32(largest), 1e-4f) / RONDO_E4M3_MAX,
                                  matrix->power_of_two);
        scales[column / RONDO_BLOCK] = scale;
        for (int64_t r = 0; r < rows; r++)
            rondo_f32_to_e4m3_row(tile[r], scale, codes + r * matrix->columns + column, (size_t)n);
    }
    return true;
}

bool rondo_quantize_row(const struct rondo_quantize_matrix *matrix, int64_t row, float *values,
                        uint8_t *codes, float *scale, int64_t *bad_column)
{
    widen(matrix, row * matrix->columns, matrix->columns, values);
    uint32_t largest = largest_bits(values, matrix->columns);
    if (largest > 0x7f7fffffu) {
        *bad_column = find_bad(values, matrix->columns);
        return false;
    }
    *scale = round_scale(fmaxf(rondo_bits_to_f32(largest) / RONDO_E4M3_MAX, FLT_EPSILON),
                         matrix->power_of_two);
    rondo_f32_to_e4m3_row(values, *scale, codes, (size_t)matrix->columns);
    return true;
}
