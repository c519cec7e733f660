/* The arithmetic of quantising a matrix, a panel of rows at a time. */
#ifndef RONDO_FORMATS_QUANTIZE_ROWS_H
#define RONDO_FORMATS_QUANTIZE_ROWS_H

#include "core/rondo.h"

struct rondo_quantize_matrix {
    const void *data;       /* [rows, columns] */
    enum rondo_dtype dtype; /* F32, BF16 or F16 */
    int64_t rows, columns;
    bool power_of_two;
};

/* 128 rows (fewer at the end of the matrix) from row `first`, a multiple of 128. codes: [rows of the panel,
 * columns]; scales: [ceil(columns / 128)] of the blocks. Returns false when a value is not finite, with its
 * place in *bad_row and *bad_column. */
bool rondo_quantize_block_panel(const struct rondo_quantize_matrix *matrix, int64_t first,
                                uint8_t *codes, float *scales, int64_t *bad_row,
                                int64_t *bad_column);

/* One row. codes: [columns]; *scale of the row. `values` is [columns] of workspace. */
bool rondo_quantize_row(const struct rondo_quantize_matrix *matrix, int64_t row, float *values,
                        uint8_t *codes, float *scale, int64_t *bad_column);

#endif
