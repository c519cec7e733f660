/* A tensor: what an array in a device's memory means. It owns nothing; buffers and mappings do. */
#ifndef RONDO_CORE_TENSOR_H
#define RONDO_CORE_TENSOR_H

#include "core/rondo.h"

/* Side of a square FP8 weight block, and the number of channels that share an activation scale; so also the channels
 * whose sum a product scales and adds at once (see rondo_op_gemm in core/ops.h). */
#define RONDO_BLOCK 128

/* Row-major; rows may be further apart than they are long (`row_stride`), nothing else is strided. A
 * tensor of n_dims 1 is one row. For quantised data value = q * scale, and `scale` is f32:
 *   weights  [N, K]: scale_block {128,128}: scale [ceil(N/128), ceil(K/128)]
 *                    scale_block {1, K}  (scale_rows 1, scale_columns >= K): scale [N]
 *   activations [T, K]: scale_block {1,128}: scale [T, ceil(K/128)] */
struct rondo_tensor {
    void *data; /* address in the device's memory */
    enum rondo_dtype dtype;
    int32_t n_dims;                    /* 1 to 4 */
    int64_t shape[4];                  /* outermost first; unused ones are 1 */
    int64_t row_stride;                /* elements from one row of the last dimension to the next */
    const float *scale;                /* NULL when not quantised */
    int64_t scale_stride;              /* elements from one row of scales to the next */
    int32_t scale_rows, scale_columns; /* elements of data under one scale */
    const char *name;                  /* for messages; static or owned by the model */
};

struct rondo_tensor rondo_tensor_2d(void *data, enum rondo_dtype dtype, int64_t rows,
                                    int64_t columns, const char *name);
struct rondo_tensor rondo_tensor_1d(void *data, enum rondo_dtype dtype, int64_t n,
                                    const char *name);

/* Product of all but the last dimension. */
int64_t rondo_tensor_rows(const struct rondo_tensor *tensor);
/* Last dimension. */
int64_t rondo_tensor_columns(const struct rondo_tensor *tensor);
/* Bytes of data and scales one pass over the tensor touches. */
uint64_t rondo_tensor_bytes(const struct rondo_tensor *tensor);

/* Element (row, column) as f32 with its scale applied. Host memory only; slow, for references and tests. */
float rondo_tensor_at(const struct rondo_tensor *tensor, int64_t row, int64_t column);
/* Same dtype and same kind of scales, so that one kernel takes both. */
static inline bool rondo_tensor_stored_alike(const struct rondo_tensor *a,
                                             const struct rondo_tensor *b)
{
    return a->dtype == b->dtype && a->scale_rows == b->scale_rows;
}
/* Address of a row's first element. */
static inline void *rondo_tensor_row(const struct rondo_tensor *tensor, int64_t row)
{
    return (char *)tensor->data +
           (size_t)(row * tensor->row_stride) * rondo_dtype_size(tensor->dtype);
}

#endif
