/* NVIDIA's cuBLASLt as a yardstick: found and loaded at run time, never needed to build or to test. */
#ifndef RONDO_TESTS_CHECK_YARDSTICK_H
#define RONDO_TESTS_CHECK_YARDSTICK_H

#include <stddef.h>
#include <stdint.h>

struct yardstick;

enum yardstick_kind {
    YARDSTICK_BF16,      /* x, weights and output bf16 */
    YARDSTICK_F8_TENSOR, /* x and weights e4m3 with one scale each, fast accumulation: its fastest FP8 */
    YARDSTICK_F8_BLOCK, /* x with a scale per 128 of K, weights per 128 x 128: what the models have */
};

/* y[M, N] = x[M, K] W[N, K]^T, all on the device it was opened for. Values do not matter. */
struct yardstick_gemm {
    enum yardstick_kind kind;
    int64_t m, n, k;
    const void *x;
    const void *const *weight; /* [n_weights], taken in turns */
    int n_weights;
    const void *x_scale;      /* FP8: floats, at least [M + 16, ceil(K / 128) + 4] */
    const void *weight_scale; /* FP8: floats, at least [ceil(N / 128) + 4, ceil(K / 128) + 4] */
    void *out;                /* [M, N] bf16 */
    void *workspace;
    size_t workspace_size;
};

/* For the n-th GPU. The environment may name other libraries: RONDO_CUBLASLT, and RONDO_CHECK_DRIVER in place of
 * libcuda.so.1, for a test of this program on an emulated device. NULL with the reason in `why`: not installed, too old, or it does not start. */
struct yardstick *yardstick_open(int ordinal, char *why, size_t size);
void yardstick_close(struct yardstick *library);
/* "13.0.2" */
const char *yardstick_version(const struct yardstick *library);

/* Median seconds of one product, replayed from a CUDA graph, by the fastest of the algorithms that the library
 * proposes. 0 with the reason in `why` when it cannot do this. */
double yardstick_time(struct yardstick *library, const struct yardstick_gemm *gemm, char *why,
                      size_t size);

#endif
