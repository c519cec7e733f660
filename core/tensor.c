/* Tensors: views and sizes. */
#include "core/tensor.h"

#include "core/dtype.h"

struct rondo_tensor rondo_tensor_2d(void *data, enum rondo_dtype dtype, int64_t rows,
                                    int64_t columns, const char *name)
{
    return (struct rondo_tensor){.data = data,
                                 .dtype = dtype,
                                 .n_dims = 2,
                                 .shape = {rows, columns, 1, 1},
                                 .row_stride = columns,
                                 .name = name};
}

struct rondo_tensor rondo_tensor_1d(void *data, enum rondo_dtype dtype, int64_t n, const char *name)
{
    return (struct rondo_tensor){.data = data,
                                 .dtype = dtype,
                                 .n_dims = 1,
                                 .shape = {n, 1, 1, 1},
                                 .row_stride = n,
                                 .name = name};
}

int64_t rondo_tensor_rows(const struct rondo_tensor *tensor)
{
    int64_t rows = 1;
    for (int i = 0; i + 1 < tensor->n_dims; i++)
        rows *= tensor->shape[i];
    return rows;
}

int64_t rondo_tensor_columns(const struct rondo_tensor *tensor)
{
    return tensor->shape[tensor->n_dims - 1];
}

uint64_t rondo_tensor_bytes(const struct rondo_tensor *tensor)
{
    uint64_t rows = (uint64_t)rondo_tensor_rows(tensor),
             columns = (uint64_t)rondo_tensor_columns(tensor);
    uint64_t bytes = rows * columns * rondo_dtype_size(tensor->dtype);
    if (tensor->scale) {
        uint64_t block_rows = (uint64_t)tensor->scale_rows,
                 block_columns = (uint64_t)tensor->scale_columns;
        bytes += 4 * ((rows + block_rows - 1) / block_rows) *
                 ((columns + block_columns - 1) / block_columns);
    }
    return bytes;
}

float rondo_tensor_at(const struct rondo_tensor *tensor, int64_t row, int64_t column)
{
    float value =
        rondo_load(tensor->data, tensor->dtype, (size_t)(row * tensor->row_stride + column));
    if (tensor->scale)
        value *= tensor->scale[row / tensor->scale_rows * tensor->scale_stride +
                               column / tensor->scale_columns];
    return value;
}
