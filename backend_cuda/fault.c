/* Failures: the first one of a device is kept, and ends its use. */
#include "backend_cuda/host.h"

#include <stdio.h>

/* A failure of a call that only is being recorded leaves the device as it was. */
int GPU(failed)(struct gpu_device *device, cudaError_t error, const char *what)
{
    struct gpu_host *host = (struct gpu_host *)device;
    if (error == cudaSuccess)
        return device->error != cudaSuccess || host->recording_error != cudaSuccess;
    if (host->recording) {
        if (host->recording_error == cudaSuccess)
            host->recording_error = error;
        return 1;
    }
    if (device->error == cudaSuccess) {
        device->error = error;
        snprintf(device->error_what, sizeof device->error_what, "%s", what);
    }
    return 1;
}

int GPU(launched)(struct gpu_device *device, cudaError_t error, const char *what)
{
    struct gpu_host *host = (struct gpu_host *)device;
    if (host->recording) {
        host->recorded++;
    } else {
        host->counts.kernels++;
        host->counts.submissions++;
    }
    return GPU(failed)(device, error, what);
}

/* What can be said about a failure beyond CUDA's own words. */
static const char *hint(cudaError_t error)
{
    switch (error) {
    case cudaErrorMemoryAllocation:
        return "; a smaller context, fewer sessions or --device cpu need less of it";
    case cudaErrorNotSupported: /* of cuBLASLt, see ops.c */
        return "; without --strict, or without +cublaslt, the device multiplies by its own kernels";
    case cudaErrorNoKernelImageForDevice:
        return "; this build has no code for this GPU (option " GPU_OPTION
               "), --device cpu runs here";
    default:
        return "; the device can not be used any more by this process, --device cpu runs without "
               "it";
    }
}

int GPU(status)(struct rondo_device *base, struct rondo_error *error)
{
    struct gpu_host *host = gpu_host_of(base);
    struct gpu_device *device = &host->gpu;
    if (device->error == cudaSuccess)
        return RONDO_OK;
    char memory[96] = "";
    size_t available = 0, total = 0;
    if (device->error == cudaErrorMemoryAllocation && GPU(enter_anyway)(host)) {
        if (cudaMemGetInfo(&available, &total) == cudaSuccess)
            snprintf(memory, sizeof memory, " (%.2f GB of %.2f GB free)", (double)available / 1e9,
                     (double)total / 1e9);
        GPU(leave)(host);
    }
    return rondo_fail(error, RONDO_FAILED, "%s: %s: %s (%s)%s%s", host->name, device->error_what,
                      cudaGetErrorString(device->error), cudaGetErrorName(device->error), memory,
                      hint(device->error));
}
