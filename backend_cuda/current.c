/* The thread's current device. Every entry of the device table makes its own device current and leaves, on all its ways
 * out, what the caller had.
 *
 * NVIDIA's driver has a stack of contexts for each thread, which can be left as it was met, empty too. cudaSetDevice
 * could only put a device back by making it current: where the caller has never used it that makes a context there,
 * hundreds of MB. The runtime works in whatever primary context is current. HIP has no such stack, and its hipSetDevice
 * makes nothing. */
#include "backend_cuda/host.h"

#ifndef RONDO_HIP

/* A function of the driver, which nothing links against. */
static cudaError_t find_function(const char *name, void *to)
{
    enum cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    cudaError_t error = cudaGetDriverEntryPointByVersion(name, (void **)to, 12000, 0, &result);
    if (error != cudaSuccess)
        return error;
    return result == cudaDriverEntryPointSuccess ? cudaSuccess : cudaErrorSymbolNotFound;
}

/* CUresult and cudaError_t have the same numbers. The context stays for as long as the process, as those do that the
 * runtime makes: it has modules and memory pools there. */
bool GPU(current_open)(struct gpu_host *host)
{
    struct gpu_device *gpu = &host->gpu;
    CUresult (*get)(CUdevice *, int) = NULL;
    CUresult (*retain)(CUcontext *, CUdevice) = NULL;
    CUdevice device = 0;
    return !GPU(failed)(gpu, find_function("cuDeviceGet", &get), "cuDeviceGet") &&
           !GPU(failed)(gpu, find_function("cuDevicePrimaryCtxRetain", &retain),
                        "cuDevicePrimaryCtxRetain") &&
           !GPU(failed)(gpu, find_function("cuCtxPushCurrent", &host->push), "cuCtxPushCurrent") &&
           !GPU(failed)(gpu, find_function("cuCtxPopCurrent", &host->pop), "cuCtxPopCurrent") &&
           !GPU(failed)(gpu, (cudaError_t)get(&device, gpu->ordinal), "cuDeviceGet") &&
           !GPU(failed)(gpu, (cudaError_t)retain(&host->context, device),
                        "cuDevicePrimaryCtxRetain");
}

/* *changed: there is something to put back. */
static cudaError_t make_current(struct gpu_host *host, bool *changed)
{
    cudaError_t error =
        host->context ? (cudaError_t)host->push(host->context) : cudaErrorInvalidDevice;
    *changed = error == cudaSuccess;
    return error;
}

static void put_back(struct gpu_host *host)
{
    CUcontext own;
    host->pop(&own);
}

#else

bool GPU(current_open)(struct gpu_host *host)
{
    (void)host;
    return true;
}

/* A device that has failed may become current and say so: hipSetDevice gives earlier errors. */
static cudaError_t make_current(struct gpu_host *host, bool *changed)
{
    cudaError_t error = cudaGetDevice(&host->previous);
    *changed = error == cudaSuccess;
    if (error == cudaSuccess && host->previous != host->gpu.ordinal)
        error = cudaSetDevice(host->gpu.ordinal);
    return error;
}

static void put_back(struct gpu_host *host)
{
    if (host->previous != host->gpu.ordinal)
        cudaSetDevice(host->previous);
}

#endif

bool GPU(enter_anyway)(struct gpu_host *host)
{
    bool changed = true;
    if (host->depth == 0)
        make_current(host, &changed);
    host->depth += changed;
    return changed;
}

/* What other code of the thread has left as the last error is not of this device: the next launch would take it for its
 * own. Errors that the device can not recover from are met again. */
bool GPU(enter)(struct gpu_host *host)
{
    struct gpu_device *device = &host->gpu;
    bool changed;
    if (device->error != cudaSuccess)
        return false;
    if (host->depth == 0) {
        cudaGetLastError();
        if (GPU(failed)(device, make_current(host, &changed), "making the device current")) {
            if (changed)
                put_back(host);
            return false;
        }
    }
    host->depth++;
    return true;
}

void GPU(leave)(struct gpu_host *host)
{
    if (--host->depth == 0)
        put_back(host);
}
