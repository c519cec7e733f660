/* Kernels that the test of the runtime launches. */
#ifndef SIMT_TEST_RUNTIME_H
#define SIMT_TEST_RUNTIME_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

/* y[i] = x[i] + value */
void launch_add(int *y, const int *x, int n, int value, cudaStream_t stream);
/* y[i] = i, with `shared` bytes of dynamic shared memory; and what is allowed of it. */
void launch_shared(int *y, size_t shared, cudaStream_t stream);
cudaError_t allow_shared(size_t shared);
/* Deadlocks. */
void launch_hang(cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
