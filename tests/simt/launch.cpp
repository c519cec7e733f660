/* Launches: what the hardware refuses is refused here, with a line that says why. */
#include "launch.h"

#include "stream.h"

#include <stdarg.h>
#include <stdio.h>

#include <atomic>
#include <map>

namespace simt
{

// Bytes of dynamic shared memory that cudaFuncSetAttribute allowed, by device and kernel.
static std::map<std::pair<int, const void *>, size_t> &dynamic_limits()
{
    static std::map<std::pair<int, const void *>, size_t> all;
    return all;
}

static std::atomic<unsigned long long> launches;

size_t dynamic_limit(int device, const void *function)
{
    auto found = dynamic_limits().find({device, function});
    return found == dynamic_limits().end() ? device_static_shared(device) : found->second;
}

static cudaError_t refuse(const Kernel_call &call, Here here, cudaError_t error, const char *form,
                          ...) __attribute__((format(printf, 4, 5)));

static cudaError_t refuse(const Kernel_call &call, Here here, cudaError_t error, const char *form,
                          ...)
{
    char message[300], report[600];
    va_list arguments;
    va_start(arguments, form);
    vsnprintf(message, sizeof message, form, arguments);
    va_end(arguments);
    snprintf(report, sizeof report, "simt: launch of %s at %s:%d: %s", call.name, here.file,
             here.line, message);
    publish(report);
    return error;
}

static cudaError_t check_launch(const Kernel_call &call, const dim3 &grid, const dim3 &block,
                                size_t dynamic_size, Here here)
{
    const cudaDeviceProp &p = device_at(current_device()).properties;
    cudaError_t error;
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (!threads || block.x > 1024 || block.y > 1024 || block.z > 64 ||
        threads > (uint64_t)p.maxThreadsPerBlock)
        return refuse(call, here, cudaErrorInvalidConfiguration,
                      "blocks of %u x %u x %u threads (at most %d)", block.x, block.y, block.z,
                      p.maxThreadsPerBlock);
    if (!grid.x || !grid.y || !grid.z || grid.x > (unsigned)p.maxGridSize[0] ||
        grid.y > (unsigned)p.maxGridSize[1] || grid.z > (unsigned)p.maxGridSize[2])
        return refuse(call, here, cudaErrorInvalidConfiguration,
                      "a grid of %u x %u x %u blocks (at most %d x %d x %d)", grid.x, grid.y,
                      grid.z, p.maxGridSize[0], p.maxGridSize[1], p.maxGridSize[2]);
    size_t limit = dynamic_limit(current_device(), call.function);
    if (dynamic_size > limit)
        return refuse(call, here, cudaErrorInvalidValue,
                      "%zu bytes of dynamic shared memory, %zu are allowed (cudaFuncSetAttribute "
                      "raises this to %zu)",
                      dynamic_size, limit, p.sharedMemPerBlockOptin);
    for (size_t i = 0; i < call.pointers.size(); i++) {
        const void *pointer = call.pointers[i];
        if (pointer && !in_device_space(pointer) && !is_pinned(pointer)) {
            error = refuse(call, here, cudaErrorIllegalAddress,
                           "pointer %zu of the arguments, %p, is host memory that is not pinned", i,
                           pointer);
            lose_device(current_device(), error);
            return error;
        }
    }
    return cudaSuccess;
}

void launch(std::shared_ptr<const Kernel_call> call, const dim3 &grid, const dim3 &block,
            size_t dynamic_size, cudaStream_t stream, Here here)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    cudaError_t error = begin_call("cudaLaunchKernel");
    if (!error)
        error = check_launch(*call, grid, block, dynamic_size, here);
    if (!error) {
        int device = current_device();
        error = submit(stream, {Work::Kind::kernel,
                                [=] {
                                    launches++;
                                    return (cudaError_t)run_grid(*call, grid, block, dynamic_size,
                                                                 device);
                                },
                                call->function, dynamic_size});
    }
    end_call(error);
}

} // namespace simt

using namespace simt;

#define BEGIN(name)                                                                                \
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);                                     \
    if (cudaError_t error = begin_call(name))                                                      \
    return end_call(error)

unsigned long long simt_launches(void)
{
    return launches;
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    BEGIN("cudaFuncSetAttribute");
    int device = current_device();
    if (!function)
        return end_call(cudaErrorInvalidDeviceFunction);
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || (size_t)value > device_shared_limit(device))
            return end_call(cudaErrorInvalidValue);
        dynamic_limits()[{device, function}] = (size_t)value;
    } else if (attribute != cudaFuncAttributePreferredSharedMemoryCarveout) {
        return end_call(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function)
{
    BEGIN("cudaFuncGetAttributes");
    const cudaDeviceProp &p = device_at(current_device()).properties;
    if (!function)
        return end_call(cudaErrorInvalidDeviceFunction);
    *attributes = {};
    attributes->maxThreadsPerBlock = p.maxThreadsPerBlock;
    attributes->numRegs = 64;
    attributes->binaryVersion = p.major * 10 + p.minor;
    attributes->ptxVersion = settings.code ? settings.code : attributes->binaryVersion;
    attributes->maxDynamicSharedSizeBytes = (int)dynamic_limit(current_device(), function);
    return cudaSuccess;
}

// By threads, blocks and shared memory; registers are not known here.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function,
                                                          int block_size, size_t dynamic_size)
{
    BEGIN("cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    const cudaDeviceProp &p = device_at(current_device()).properties;
    if (!function || block_size <= 0)
        return end_call(cudaErrorInvalidValue);
    int by_threads = p.maxThreadsPerMultiProcessor / ((block_size + 31) / 32 * 32);
    int by_shared =
        (int)(p.sharedMemPerMultiprocessor / (dynamic_size + p.reservedSharedMemPerBlock));
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    if (*blocks > p.maxBlocksPerMultiProcessor)
        *blocks = p.maxBlocksPerMultiProcessor;
    if (block_size > p.maxThreadsPerBlock ||
        dynamic_size > dynamic_limit(current_device(), function))
        *blocks = 0;
    return cudaSuccess;
}
