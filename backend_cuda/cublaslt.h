/* NVIDIA's cuBLASLt, found and loaded at run time, never needed to build or to run: products of bf16 where a device is
 * asked for with it (cuda:N+cublaslt), and the yardstick of rondo-check --bench. Compiled once, not for each backend. */
#ifndef RONDO_BACKEND_CUDA_CUBLASLT_H
#define RONDO_BACKEND_CUDA_CUBLASLT_H

#include <stddef.h>
#include <stdint.h>

/* Of cublasLt.h and library_types.h of CUDA 13, which need not be installed. */
enum { CUBLASLT_F32 = 0, CUBLASLT_BF16 = 14, CUBLASLT_F8_E4M3 = 28 }; /* cudaDataType */
enum { CUBLASLT_COMPUTE_F32 = 68 };                                   /* cublasComputeType_t */
enum { CUBLASLT_OPERATION_T = 1 };                                    /* cublasOperation_t */
enum { CUBLASLT_TRANSPOSE_A = 3 }; /* cublasLtMatmulDescAttributes_t */
enum {                             /* cublasLtMatmulPreferenceAttributes_t */
       CUBLASLT_WORKSPACE_BYTES = 1,
       CUBLASLT_ALIGNMENT_A =
           5, /* of pointers, uint32_t; the library takes them for aligned to 256 bytes else */
       CUBLASLT_ALIGNMENT_B = 6,
       CUBLASLT_ALIGNMENT_C = 7,
       CUBLASLT_ALIGNMENT_D = 8,
};

struct cublaslt_algorithm {
    uint64_t data[8];
};

struct cublaslt_proposal { /* cublasLtMatmulHeuristicResult_t */
    struct cublaslt_algorithm algorithm;
    size_t workspace_size;
    int status;
    float waves;
    int reserved[4];
};

/* The library's functions; each returns 0, or a cublasStatus_t. */
struct cublaslt {
    void *library;
    void *handle;
    char version[24]; /* "13.0.2" */

    int (*create)(void **handle);
    int (*destroy)(void *handle);
    size_t (*get_version)(void);
    int (*description_create)(void **description, int compute, int scale_type);
    int (*description_destroy)(void *description);
    int (*description_set)(void *description, int attribute, const void *value, size_t size);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t columns, int64_t ld);
    int (*layout_destroy)(void *layout);
    int (*preference_create)(void **preference);
    int (*preference_destroy)(void *preference);
    int (*preference_set)(void *preference, int attribute, const void *value, size_t size);
    int (*propose)(void *handle, void *description, void *a, void *b, void *c, void *d,
                   void *preference, int wanted, struct cublaslt_proposal *proposals, int *n);
    int (*multiply)(void *handle, void *description, const void *alpha, const void *a,
                    void *a_layout, const void *b, void *b_layout, const void *beta, const void *c,
                    void *c_layout, void *d, void *d_layout,
                    const struct cublaslt_algorithm *algorithm, void *workspace,
                    size_t workspace_size, void *stream);
};

/* For the device of this thread's current context. `path` of the library; NULL: the one that the environment variable
 * RONDO_CUBLASLT names, else where it is installed. NULL with the reason in `why`: it is not there, too old, or it does not
 * start, and *status (may be NULL) is the cublasStatus_t that it began with. */
struct cublaslt *rondo_cublaslt_open(const char *path, char *why, size_t size, int *status);
/* In the same context. The library stays loaded: it has state of its own in the driver until the process ends. */
void rondo_cublaslt_close(struct cublaslt *library);
/* What a pointer is aligned to, at most 256 bytes: for CUBLASLT_ALIGNMENT_*. */
uint32_t rondo_cublaslt_alignment(const void *pointer);

/* out[M, N] = x[M, K] W[N, K]^T, or out += that; x and W bf16, rows x_stride, K and out_stride values apart. */
struct cublaslt_product {
    int64_t m, n, k;
    const void *x, *weight;
    int64_t x_stride;
    void *out;
    int64_t out_stride;
    int out_type; /* CUBLASLT_BF16 or CUBLASLT_F32 */
    int add;
    void *workspace;
    size_t workspace_size;
};

/* By the algorithm that the library proposes first, which may depend on M, and so may the bits of a row. Starts it on
 * the stream; 0, or a cublasStatus_t when nothing was started. */
int rondo_cublaslt_multiply(struct cublaslt *library, const struct cublaslt_product *product,
                            void *stream);

#endif
