/* Memory of a device, and copies between it and the host through pinned memory. */
#include "backend_cuda/host.h"

#include <string.h>

/* ---- staging ------------------------------------------------------------------------------------- */

bool GPU(staging_open)(struct gpu_host *host)
{
    struct gpu_staging *staging = &host->staging;
    void *memory = NULL;
    cudaError_t error = cudaMallocHost(&memory, 2 * STAGING_HALF);
    staging->memory = (char *)memory;
    for (int i = 0; i < 2 && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&staging->over[i], cudaEventDisableTiming);
    return !GPU(failed)(&host->gpu, error, "pinned memory");
}

void GPU(staging_close)(struct gpu_host *host)
{
    struct gpu_staging *staging = &host->staging;
    for (int i = 0; i < 2; i++) {
        if (staging->over[i])
            cudaEventDestroy(staging->over[i]);
    }
    if (staging->memory)
        cudaFreeHost(staging->memory);
    *staging = (struct gpu_staging){0};
}

/* Room for up to `size` bytes of pinned memory, at least 1; *room says how many. NULL: the device has failed. */
static char *stage(struct gpu_host *host, size_t size, size_t *room)
{
    struct gpu_staging *staging = &host->staging;
    if (staging->used == STAGING_HALF) {
        struct gpu_device *gpu = &host->gpu;
        int next = 1 - staging->half;
        if (GPU(failed)(gpu, cudaEventRecord(staging->over[staging->half], gpu->stream),
                        "cudaEventRecord") ||
            GPU(failed)(gpu, cudaEventSynchronize(staging->over[next]), "copy to the device"))
            return NULL;
        staging->half = next;
        staging->used = 0;
    }
    size_t left = STAGING_HALF - staging->used;
    *room = size < left ? size : left;
    char *at = staging->memory + (size_t)staging->half * STAGING_HALF + staging->used;
    staging->used += (*room + 255) / 256 * 256; /* halves are multiples of 256 */
    return at;
}

/* ---- the table ----------------------------------------------------------------------------------- */

static uint64_t memory_available(struct rondo_device *device)
{
    struct gpu_host *host = gpu_host_of(device);
    size_t available = 0, total = 0;
    if (!GPU(enter)(host))
        return 0;
    bool failed = GPU(failed)(&host->gpu, cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
    GPU(leave)(host);
    return failed ? 0 : available;
}

/* Running out of memory is the caller's to handle, and no failure of the device. */
static void *allocate_zeros(struct gpu_host *host, size_t size)
{
    void *memory = NULL;
    cudaError_t error = cudaMalloc(&memory, size);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return NULL;
    }
    if (GPU(failed)(&host->gpu, error, "cudaMalloc"))
        return NULL;
    if (GPU(failed)(&host->gpu, cudaMemsetAsync(memory, 0, size, host->gpu.stream),
                    "cudaMemsetAsync")) {
        cudaFree(memory);
        return NULL;
    }
    return memory;
}

static void *allocate(struct rondo_device *device, size_t size)
{
    struct gpu_host *host = gpu_host_of(device);
    if (size > SIZE_MAX / 2 || !GPU(enter)(host))
        return NULL;
    void *memory = allocate_zeros(host, (size + 256) / 256 * 256); /* never 0 */
    GPU(leave)(host);
    return memory;
}

/* Also of a device that has failed, whose driver may still take memory back. */
static void release(struct rondo_device *device, void *memory)
{
    struct gpu_host *host = gpu_host_of(device);
    bool works = memory && GPU(enter)(host);
    if (!memory || (!works && !GPU(enter_anyway)(host)))
        return;
    cudaError_t error = cudaFree(memory);
    if (works)
        GPU(failed)(&host->gpu, error, "cudaFree");
    else
        cudaGetLastError();
    GPU(leave)(host);
}

/* memcpy of e4m3 codes with 0 for -0, which e4m3fnuz does not have. */
static void *copy_codes(void *restrict to, const void *restrict from, size_t size)
{
    const uint8_t *codes = from;
    uint8_t *out = to;
    for (size_t i = 0; i < size; i++)
        out[i] = codes[i] == 0x80 ? 0 : codes[i];
    return to;
}

typedef void *take_function(void *restrict to, const void *restrict from, size_t size);

static void write_pieces(struct gpu_host *host, void *to, const void *from, size_t size,
                         take_function *take)
{
    while (size) {
        size_t room;
        char *pinned = stage(host, size, &room);
        if (!pinned)
            return;
        take(pinned, from, room);
        host->counts.submissions++;
        if (GPU(failed)(&host->gpu,
                        cudaMemcpyAsync(to, pinned, room, cudaMemcpyHostToDevice, host->gpu.stream),
                        "copy to the device"))
            return;
        to = (char *)to + room;
        from = (const char *)from + room;
        size -= room;
    }
}

/* `take` is memcpy or copy_codes. */
static void write_by(struct rondo_device *device, void *to, const void *from, size_t size,
                     take_function *take)
{
    struct gpu_host *host = gpu_host_of(device);
    if (!size || !GPU(enter)(host))
        return;
    write_pieces(host, to, from, size, take);
    GPU(leave)(host);
}

static void write_memory(struct rondo_device *device, void *to, const void *from, size_t size)
{
    write_by(device, to, from, size, memcpy);
}

static void write_codes(struct rondo_device *device, void *to, const void *from, size_t size)
{
    write_by(device, to, from, size, copy_codes);
}

/* What could not be read is all ones: NaN. */
static void read_memory(struct rondo_device *device, void *to, const void *from, size_t size)
{
    struct gpu_host *host = gpu_host_of(device);
    struct gpu_device *gpu = &host->gpu;
    if (!size)
        return;
    bool entered = GPU(enter)(host), good = entered;
    while (size && good) {
        size_t room;
        const char *pinned = stage(host, size, &room);
        if (!pinned)
            break;
        host->counts.submissions++;
        good = !GPU(failed)(
                   gpu,
                   cudaMemcpyAsync((void *)pinned, from, room, cudaMemcpyDeviceToHost, gpu->stream),
                   "copy from the device") &&
               !GPU(failed)(gpu, cudaStreamSynchronize(gpu->stream), "copy from the device");
        if (!good)
            break;
        memcpy(to, pinned, room);
        to = (char *)to + room;
        from = (const char *)from + room;
        size -= room;
    }
    memset(to, 0xff, size);
    if (entered)
        GPU(leave)(host);
}

static void copy_memory(struct rondo_device *device, void *to, const void *from, size_t size)
{
    struct gpu_host *host = gpu_host_of(device);
    if (!size || !GPU(enter)(host))
        return;
    host->counts.submissions++;
    GPU(failed)
    (&host->gpu, cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, host->gpu.stream),
     "copy on the device");
    GPU(leave)(host);
}

static void synchronize(struct rondo_device *device)
{
    struct gpu_host *host = gpu_host_of(device);
    if (!GPU(enter)(host))
        return;
    GPU(failed)(&host->gpu, cudaStreamSynchronize(host->gpu.stream), "work on the device");
    GPU(leave)(host);
}

/* ---- workspace ----------------------------------------------------------------------------------- */

typedef size_t workspace_function(const struct gpu_device *device,
                                  const struct rondo_limits *limits);

/* Of what the tickets take, in front of the workspace: it is aligned to so many bytes. */
#define TICKET_BYTES ((size_t)GPU_TICKETS * sizeof(uint32_t))

/* One op runs at a time, so the families share one block. */
static uint64_t workspace_size(struct rondo_device *device, const struct rondo_limits *limits)
{
    static workspace_function *const families[] = {
        GPU(gemm_workspace), GPU(linear_attention_workspace), GPU(softmax_attention_workspace),
        GPU(moe_workspace),  GPU(argmax_workspace),           GPU(candidates_workspace),
    };
    size_t largest = 0;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        size_t size = families[i](&gpu_host_of(device)->gpu, limits);
        largest = size > largest ? size : largest;
    }
    return TICKET_BYTES + largest;
}

/* Fields are the largest ever asked for. */
static void widen(struct rondo_limits *limits, const struct rondo_limits *by)
{
    int32_t *to = (int32_t *)limits;
    const int32_t *from = (const int32_t *)by;
    for (size_t i = 0; i < sizeof *limits / sizeof *to; i++)
        to[i] = from[i] > to[i] ? from[i] : to[i];
}

static int reserve(struct rondo_device *device, const struct rondo_limits *limits,
                   struct rondo_error *error)
{
    struct gpu_host *host = gpu_host_of(device);
    struct gpu_device *gpu = &host->gpu;
    struct rondo_limits wide = gpu->limits;
    widen(&wide, limits);
    size_t size = (size_t)workspace_size(device, &wide);
    if (!gpu->tickets || size > TICKET_BYTES + gpu->workspace_size) {
        synchronize(device); /* whatever uses the old one is over */
        release(device, gpu->tickets);
        gpu->tickets = NULL;
        gpu->workspace = NULL;
        gpu->workspace_size = 0;
        host->workspace_serial++;
        uint32_t *tickets = allocate(device, size); /* zeros */
        if (!tickets && device->status(device, error))
            return error ? (int)error->status : RONDO_FAILED;
        if (!tickets)
            return rondo_fail(error, RONDO_FAILED,
                              "%s: no memory left for the workspace (want %.1f MB, got %.1f MB); a "
                              "smaller batch or --device cpu need less of it",
                              host->name, (double)size / 1e6,
                              (double)memory_available(device) / 1e6);
        gpu->tickets = tickets;
        gpu->workspace = tickets + GPU_TICKETS;
        gpu->workspace_size = size - TICKET_BYTES;
    }
    gpu->limits = wide;
    return RONDO_OK;
}

void GPU(set_memory)(struct rondo_device *device)
{
    device->memory_available = memory_available;
    device->allocate = allocate;
    device->release = release;
    device->write = write_memory;
    device->write_codes = gpu_host_of(device)->gpu.fp8 == GPU_FP8_FNUZ ? write_codes : NULL;
    device->read = read_memory;
    device->copy = copy_memory;
    device->synchronize = synchronize;
    device->reserve = reserve;
    device->workspace_size = workspace_size;
}
