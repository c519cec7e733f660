/* Opening and closing a GPU. */
#include "backend_cuda/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void counts(struct rondo_device *device, struct rondo_device_counts *out)
{
    *out = gpu_host_of(device)->counts;
}

static void close_device(struct rondo_device *device)
{
    struct gpu_host *host = gpu_host_of(device);
    if (!GPU(enter_anyway)(host)) {
        free(host); /* it never was current: there is nothing else */
        return;
    }
    if (host->gpu.stream)
        cudaStreamSynchronize(host->gpu.stream);
    if (host->gpu.tickets)
        cudaFree(host->gpu.tickets);
    if (host->cublaslt_workspace)
        cudaFree(host->cublaslt_workspace);
    rondo_cublaslt_close(host->cublaslt);
    GPU(staging_close)(host);
    if (host->gpu.stream)
        cudaStreamDestroy(host->gpu.stream);
    cudaGetLastError();
    GPU(leave)(host);
    free(host);
}

static void set_properties(struct gpu_host *host, int ordinal,
                           const struct cudaDeviceProp *properties)
{
    struct gpu_device *gpu = &host->gpu;
    int driver = 0, runtime = 0;
    char text[104], versions[2][16];
    gpu->ordinal = ordinal;
    gpu->capability = gpu_capability(properties);
    gpu->fp8 = gpu_fp8(properties);
    gpu->warp_size = properties->warpSize;
    gpu->multiprocessors = properties->multiProcessorCount;
    gpu->shared_limit = gpu_shared_limit(properties);
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    snprintf(host->name, sizeof host->name, GPU_NAME ":%d", ordinal);
    GPU(describe)(properties, text, sizeof text);
    snprintf(gpu->base.description, sizeof gpu->base.description, "%s, driver %s, runtime %s", text,
             gpu_version(driver, versions[0]), gpu_version(runtime, versions[1]));
}

static void set_table(struct rondo_device *device)
{
    device->backend = &GPU_BACKEND;
    device->close = close_device;
    device->counts = counts;
    device->status = GPU(status);
    GPU(set_memory)(device);
    GPU(set_ops)(device);
    GPU(set_recording)(device);
}

/* What stands behind the number in a device's name. */
struct choices {
    bool cublaslt; /* "+cublaslt": products of bf16 by cuBLASLt */
    bool
        serial; /* "+serial": no launch begins before the one before it is over, to tell faults and times apart */
};

/* NVIDIA's GPUs, and emulated ones where the variable names a library for them, that of the tests. */
static bool may_have_cublaslt(void)
{
    bool emulated = strncmp(GPU_NAME, "simt", 4) == 0 && strstr(GPU_NAME, "hip") == NULL;
    return strcmp(GPU_NAME, "cuda") == 0 || (emulated && getenv("RONDO_CUBLASLT"));
}

/* "N+cublaslt+serial". False with an error for anything else behind the N. */
static bool split_name(const char *which, char *ordinal, size_t size, struct choices *choices,
                       struct rondo_error *error)
{
    const char *plus = strchr(which, '+');
    *choices = (struct choices){false, false};
    snprintf(ordinal, size, "%.*s", (int)(plus ? (size_t)(plus - which) : strlen(which)), which);
    while (plus && *plus) {
        size_t length = 1 + strcspn(plus + 1, "+");
        bool cublaslt = length == 9 && strncmp(plus, "+cublaslt", length) == 0;
        bool serial = length == 7 && strncmp(plus, "+serial", length) == 0;
        if (!cublaslt && !serial)
            return !rondo_fail(error, RONDO_USAGE,
                               GPU_NAME ":%s: unknown option (got \"%s\", want +cublaslt or "
                                        "+serial)",
                               which, plus);
        if (cublaslt && !may_have_cublaslt())
            return !rondo_fail(error, RONDO_USAGE,
                               GPU_NAME ":%s: cuBLASLt is for NVIDIA GPUs, cuda:N+cublaslt", which);
        choices->cublaslt |= cublaslt;
        choices->serial |= serial;
        plus += length;
    }
    return true;
}

/* The library was asked for by name: that it is not there is an error. Where it is there and does not start, the device
 * falls back, as for a product that it can not do. */
static bool open_cublaslt(struct gpu_host *host, struct rondo_error *error)
{
    struct rondo_device *device = &host->gpu.base;
    char why[160];
    int status;
    size_t length = strlen(device->description);
    host->cublaslt = rondo_cublaslt_open(NULL, why, sizeof why, &status);
    if (!host->cublaslt && status && !device->strict) {
        rondo_log(RONDO_LOG_WARNING, "%s: gemm falls back: cuBLASLt does not start: %s", host->name,
                  why);
        return true;
    }
    if (!host->cublaslt)
        return !rondo_fail(error, RONDO_FAILED,
                           "%s: cuBLASLt can not be used: %s; --device %s runs without it",
                           host->name, why, host->name);
    host->cublaslt_workspace = device->allocate(device, GPU_CUBLASLT_BYTES);
    if (!host->cublaslt_workspace)
        return !rondo_fail(error, RONDO_FAILED, "%s: no memory left for the workspace of cuBLASLt",
                           host->name);
    snprintf(device->description + length, sizeof device->description - length, ", cuBLASLt %s",
             host->cublaslt->version);
    return true;
}

/* What a device that is current needs. */
static bool set_up(struct gpu_host *host, const struct choices *choices, struct rondo_error *error)
{
    struct gpu_device *gpu = &host->gpu;
    if (GPU(failed)(gpu, cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking),
                    "cudaStreamCreate") ||
        !GPU(staging_open)(host))
        return false;
    gpu->multiplies_e4m3 = GPU(gemm_multiplies_e4m3)(gpu);
    gpu->overlaps = !choices->serial && GPU(gemm_waits)(gpu);
    return !choices->cublaslt || open_cublaslt(host, error);
}

static struct rondo_device *open_device(const char *which,
                                        const struct rondo_device_options *options,
                                        struct rondo_error *error)
{
    struct cudaDeviceProp properties;
    if (options && options->cpu_mask && *options->cpu_mask) {
        rondo_fail(error, RONDO_USAGE, GPU_NAME ": instruction sets are for the CPU (got \"%s\")",
                   options->cpu_mask);
        return NULL;
    }
    char name[24];
    struct choices choices;
    if (!split_name(which, name, sizeof name, &choices, error))
        return NULL;
    int ordinal = GPU(find)(name, &properties, error);
    if (ordinal < 0)
        return NULL;
    struct gpu_host *host = calloc(1, sizeof *host);
    if (!host) {
        rondo_fail(error, RONDO_FAILED, GPU_NAME ": out of memory");
        return NULL;
    }
    struct rondo_device *device = &host->gpu.base;
    set_properties(host, ordinal, &properties);
    set_table(device);
    device->strict = options && options->strict;
    bool good = GPU(current_open)(host) && GPU(enter)(host);
    if (good) {
        good = set_up(host, &choices, error);
        GPU(leave)(host);
    }
    if (good)
        return device;
    GPU(status)(device, error); /* unless set_up has said something else */
    close_device(device);
    return NULL;
}

const struct rondo_backend GPU_BACKEND = {
    .name = GPU_NAME, .list = GPU(list), .open = open_device, .explain = GPU(explain)};
