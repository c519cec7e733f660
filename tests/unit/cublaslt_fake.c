/* A library with cuBLASLt's functions, on the CPU: matrices by columns, as NVIDIA's manual says. Its version is 13.0.2. */
#include "backend_cuda/cublaslt.h"
#include "core/dtype.h"

#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

enum { INVALID_VALUE = 7, NOT_SUPPORTED = 15 };

struct layout {
    int type;
    uint64_t rows, columns;
    int64_t ld;
};
struct description {
    int compute, scale, transpose_a;
};

static int make(void **out, size_t size)
{
    *out = calloc(1, size);
    return *out ? 0 : 3;
}

static int drop(void *what)
{
    free(what);
    return 0;
}

static float get(const void *data, const struct layout *l, uint64_t row, uint64_t column)
{
    size_t at = (size_t)column * (size_t)l->ld + (size_t)row;
    return rondo_load(data, l->type == CUBLASLT_BF16 ? RONDO_BF16 : RONDO_F32, at);
}

#define FUNCTION(name, ...)                                                                        \
    EXPORT int name(__VA_ARGS__);                                                                  \
    EXPORT int name(__VA_ARGS__)

EXPORT size_t cublasLtGetVersion(void);
EXPORT size_t cublasLtGetVersion(void)
{
    return 130002;
}

FUNCTION(cublasLtCreate, void **handle)
{
    return make(handle, 1);
}

FUNCTION(cublasLtDestroy, void *handle)
{
    return drop(handle);
}

FUNCTION(cublasLtMatmulDescCreate, void **out, int compute, int scale)
{
    int status = make(out, sizeof(struct description));
    if (!status)
        *(struct description *)*out = (struct description){compute, scale, 0};
    return status;
}

FUNCTION(cublasLtMatmulDescDestroy, void *description)
{
    return drop(description);
}

FUNCTION(cublasLtMatmulDescSetAttribute, void *description, int attribute, const void *value,
         size_t size)
{
    if (attribute != CUBLASLT_TRANSPOSE_A || size != sizeof(int))
        return INVALID_VALUE;
    ((struct description *)description)->transpose_a = *(const int *)value;
    return 0;
}

FUNCTION(cublasLtMatrixLayoutCreate, void **out, int type, uint64_t rows, uint64_t columns,
         int64_t ld)
{
    int status = ld < (int64_t)rows ? INVALID_VALUE : make(out, sizeof(struct layout));
    if (!status)
        *(struct layout *)*out = (struct layout){type, rows, columns, ld};
    return status;
}

FUNCTION(cublasLtMatrixLayoutDestroy, void *layout)
{
    return drop(layout);
}

FUNCTION(cublasLtMatmulPreferenceCreate, void **out)
{
    return make(out, sizeof(size_t));
}

FUNCTION(cublasLtMatmulPreferenceDestroy, void *preference)
{
    return drop(preference);
}

FUNCTION(cublasLtMatmulPreferenceSetAttribute, void *preference, int attribute, const void *value,
         size_t size)
{
    if (attribute != CUBLASLT_WORKSPACE_BYTES || size != sizeof(size_t))
        return INVALID_VALUE;
    *(size_t *)preference = *(const size_t *)value;
    return 0;
}

FUNCTION(cublasLtMatmulAlgoGetHeuristic, void *handle, void *description, void *a, void *b, void *c,
         void *d, void *preference, int wanted, struct cublaslt_proposal *proposals, int *n)
{
    *n = wanted < 1 || ((struct layout *)d)->columns == 13 ? 0 : 1; /* none for 13 rows */
    if (*n)
        proposals[0] = (struct cublaslt_proposal){.algorithm = {{42}}};
    return *n ? 0 : NOT_SUPPORTED;
}

FUNCTION(cublasLtMatmul, void *handle, void *description, const void *alpha, const void *a,
         void *a_layout, const void *b, void *b_layout, const void *beta, const void *c,
         void *c_layout, void *d, void *d_layout, const struct cublaslt_algorithm *algorithm,
         void *workspace, size_t workspace_size, void *stream)
{
    const struct description *op = description;
    const struct layout *A = a_layout, *B = b_layout, *C = c_layout, *D = d_layout;
    uint64_t rows = op->transpose_a ? A->columns : A->rows;
    uint64_t k = op->transpose_a ? A->rows : A->columns;
    if (op->compute != CUBLASLT_COMPUTE_F32 || op->scale != CUBLASLT_F32 || rows != D->rows ||
        B->rows != k || B->columns != D->columns || algorithm->data[0] != 42)
        return INVALID_VALUE;
    for (uint64_t j = 0; j < D->columns; j++)
        for (uint64_t i = 0; i < rows; i++) {
            float sum = 0;
            for (uint64_t l = 0; l < k; l++)
                sum += (op->transpose_a ? get(a, A, l, i) : get(a, A, i, l)) * get(b, B, l, j);
            sum *= *(const float *)alpha;
            if (*(const float *)beta != 0)
                sum += *(const float *)beta * get(c, C, i, j);
            rondo_store(d, D->type == CUBLASLT_BF16 ? RONDO_BF16 : RONDO_F32,
                        (size_t)j * (size_t)D->ld + (size_t)i, sum);
        }
    return 0;
}
