/* The kernel of the test of the runtime, behind a C prototype, as in backend_cuda. */
#include <cuda_runtime.h>

#include "test_runtime.h"

static __global__ void add(int *y, const int *x, int n, int value)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = x[i] + value;
}

void launch_add(int *y, const int *x, int n, int value, cudaStream_t stream)
{
    LAUNCH(add, (n + 127) / 128, 128, 0, stream, y, x, n, value);
}

static __global__ void through_shared(int *y)
{
    DYN_SHARED(int, values);
    values[threadIdx.x] = (int)threadIdx.x;
    y[threadIdx.x] = values[threadIdx.x];
}

void launch_shared(int *y, size_t shared, cudaStream_t stream)
{
    LAUNCH(through_shared, 1, 32, shared, stream, y);
}

cudaError_t allow_shared(size_t shared)
{
    return cudaFuncSetAttribute(through_shared, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)shared);
}

static __global__ void hang()
{
    if (threadIdx.x == 0)
        __syncwarp(0xffffffffu);
    else
        __syncthreads();
}

void launch_hang(cudaStream_t stream)
{
    LAUNCH(hang, 1, 32, 0, stream);
}
