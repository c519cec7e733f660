/* A model: a checked config and the tensors of its files, in host memory. formats/checkpoint.c fills it;
 * core reads it. */
#ifndef RONDO_CORE_MODEL_H
#define RONDO_CORE_MODEL_H

#include "core/tensor.h"

#include <stdatomic.h>

/* One tensor of a checkpoint as its file has it; scales are tensors of their own here. */
struct rondo_file_tensor {
    struct rondo_tensor_info info;
    char dtype_name[16]; /* as the file spells it; "" where it is info.dtype's */
    const void *data;    /* in the mapping, info.size bytes, no alignment beyond the file's */
};

struct rondo_model {
    struct rondo_config config;
    char *directory;
    struct rondo_file_tensor
        *tensors; /* [n_tensors], ascending by strcmp of the name, no name twice */
    size_t n_tensors;
    uint64_t hash;
    atomic_bool is_checked; /* the weights in use have been read, and all are finite */
    /* Rows and columns under one scale of `weight_scale_inv`, from quantization_config; 128 x 128 unless the
     * file says otherwise, and nothing else is supported. */
    int32_t block_rows, block_columns;
    void *mappings;                             /* owned by whoever filled the model */
    void (*release)(struct rondo_model *model); /* releases everything above and the model itself */
};

/* NULL when there is none. A name with ".attention." also finds its alias ".self_attn.". */
const struct rondo_file_tensor *rondo_model_find(const struct rondo_model *model, const char *name);

/* Bytes of tensor data in all files. */
uint64_t rondo_model_bytes(const struct rondo_model *model);

#endif
