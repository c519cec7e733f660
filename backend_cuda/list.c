/* Which GPUs are here, and why one is not used. */
#include "backend_cuda/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int count_devices(cudaError_t *error)
{
    int count = 0;
    *error = cudaGetDeviceCount(&count);
    if (*error != cudaSuccess)
        cudaGetLastError(); /* not to be met again by the next call */
    return *error == cudaSuccess ? count : 0;
}

/* Why there is no device at all. */
static void explain_none(cudaError_t error, char *text, size_t size)
{
    int driver = 0, runtime = 0;
    char has[16], wants[16];
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    gpu_version(driver, has);
    gpu_version(runtime, wants);
    if (error == cudaErrorInsufficientDriver && driver)
        snprintf(text, size,
                 "the GPU driver is too old (it has " GPU_API " %s, this build needs %s)", has,
                 wants);
    else if (error == cudaErrorInsufficientDriver)
        snprintf(text, size, "there is no GPU driver (this build needs one with " GPU_API " %s)",
                 wants);
    else if (error == cudaSuccess || error == cudaErrorNoDevice)
        snprintf(text, size, "the driver shows no GPU (is " GPU_VISIBLE " set?)");
    else
        snprintf(text, size, "%s (%s)", cudaGetErrorString(error), cudaGetErrorName(error));
}

void GPU(explain)(char *text, size_t size)
{
    cudaError_t error;
    int count = count_devices(&error);
    text[0] = '\0';
    if (!count)
        explain_none(error, text, size);
    for (int i = 0; i < count; i++) {
        struct cudaDeviceProp properties;
        char architecture[32];
        size_t length = strlen(text);
        error = cudaGetDeviceProperties(&properties, i);
        if (error != cudaSuccess)
            snprintf(text + length, size - length, "%sGPU %d: %s (%s)", length ? "; " : "", i,
                     cudaGetErrorString(error), cudaGetErrorName(error));
        else if (!gpu_usable(&properties) && !gpu_is_others(&properties))
            snprintf(text + length, size - length, "%sGPU %d (%s) is %s, want %s",
                     length ? "; " : "", i, properties.name,
                     gpu_architecture(&properties, architecture), GPU_WANTED);
    }
}

void GPU(describe)(const struct cudaDeviceProp *properties, char *text, size_t size)
{
    char architecture[32];
    snprintf(text, size, "%.60s (%s, %d SMs, %.0f GB)", properties->name,
             gpu_architecture(properties, architecture), properties->multiProcessorCount,
             (double)properties->totalGlobalMem / 1e9);
}

/* Nothing here makes a context, which takes long and hundreds of MB of each device: how much memory is free can only be
 * asked in one. */
size_t GPU(list)(struct rondo_device_info *devices, size_t capacity)
{
    cudaError_t error;
    int count = count_devices(&error);
    size_t listed = 0;
    for (int i = 0; i < count; i++) {
        struct cudaDeviceProp properties;
        if (cudaGetDeviceProperties(&properties, i) != cudaSuccess || !gpu_usable(&properties))
            continue;
        if (listed < capacity) {
            struct rondo_device_info *info = &devices[listed];
            *info = (struct rondo_device_info){.memory_total = properties.totalGlobalMem};
            snprintf(info->name, sizeof info->name, GPU_NAME ":%d", i);
            GPU(describe)(&properties, info->description, sizeof info->description);
        }
        listed++;
    }
    return listed;
}

/* Names of the devices there are, for a message. */
static void list_names(char *text, size_t size)
{
    struct rondo_device_info devices[16];
    size_t count = GPU(list)(devices, 16), length = 0;
    text[0] = '\0';
    for (size_t i = 0; i < count && i < 16 && length < size; i++)
        length +=
            (size_t)snprintf(text + length, size - length, "%s%s", i ? ", " : "", devices[i].name);
}

int GPU(find)(const char *which, struct cudaDeviceProp *properties, struct rondo_error *error)
{
    cudaError_t failure;
    int count = count_devices(&failure);
    char reason[300], names[200], *end;
    long wanted = strtol(which, &end, 10);
    bool named = *which >= '0' && *which <= '9' && !*end;
    for (int i = 0; i < count && (named || !*which); i++) {
        if ((named && i != wanted) || cudaGetDeviceProperties(properties, i) != cudaSuccess)
            continue;
        if (gpu_usable(properties))
            return i;
    }
    GPU(explain)(reason, sizeof reason);
    list_names(names, sizeof names);
    rondo_fail(error, RONDO_NO_DEVICE, GPU_NAME "%s%s: %s%s%s%s%s; --device cpu runs without a GPU",
               *which ? ":" : "", which,
               *names ? "this machine does not have it (want one of " : "", names,
               *names ? ")" : "", *names && *reason ? "; " : "", reason);
    return -1;
}
