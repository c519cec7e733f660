/* Memory of the emulated devices. Each device has a part of the address space of its own; an allocation begins at a
 * page and is followed by a page that can not be accessed, and addresses of freed memory are not used again before the
 * space has been gone through once. New memory is full of 0xff: NaN, as floats. */
#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <map>

namespace simt
{

enum : size_t {
    page = 4096,
    space_per_device = (size_t)32 << 30,
    space_size = space_per_device * device_count,
    granularity = 256, // of cudaMalloc
};
static const unsigned char slack_fill =
    0xfd; // between the end of an allocation and the end of its page

static char *space;
static uint32_t *page_owner; // index into `allocations` + 1, for every page of the space
static std::vector<Allocation> allocations;
static size_t cursor[device_count];
static std::map<uintptr_t, size_t> pinned; // start and size
static std::map<uintptr_t, bool> pinned_owned;

static void reserve_space()
{
    if (space)
        return;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *memory = mmap(nullptr, space_size, PROT_NONE, flags, -1, 0);
    void *table =
        mmap(nullptr, space_size / page * sizeof *page_owner, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED || table == MAP_FAILED) {
        fputs("simt: no address space for device memory\n", stderr);
        abort();
    }
    page_owner = (uint32_t *)table;
    space = (char *)memory;
}

bool in_device_space(const void *pointer)
{
    return space && (size_t)((const char *)pointer - space) < space_size;
}

const Allocation *find_allocation(const void *pointer)
{
    if (!in_device_space(pointer))
        return nullptr;
    uint32_t owner = page_owner[((const char *)pointer - space) / page];
    return owner ? &allocations[owner - 1] : nullptr;
}

const char *device_access_error(const void *pointer, size_t size, int device)
{
    if (!in_device_space(pointer))
        return nullptr;
    static thread_local char text[200];
    const Allocation *a = find_allocation(pointer);
    uintptr_t at = (uintptr_t)pointer;
    if (!a) {
        snprintf(text, sizeof text, "%p, which was never allocated", pointer);
    } else if (a->freed) {
        snprintf(text, sizeof text, "%p, byte %zu of %zu that were freed", pointer,
                 (size_t)(at - a->start), a->size);
    } else if (at + size > a->start + a->size) {
        size_t end = a->start + a->size;
        snprintf(text, sizeof text,
                 "%p, %zu bytes past the end of an allocation of %zu bytes at %p", pointer,
                 at >= end ? (size_t)(at - end) : 0, a->size, (void *)a->start);
    } else if (device >= 0 && a->device != device) {
        snprintf(text, sizeof text, "%p, memory of device %d used on device %d", pointer, a->device,
                 device);
    } else {
        return nullptr;
    }
    return text;
}

bool is_pinned(const void *pointer)
{
    auto after = pinned.upper_bound((uintptr_t)pointer);
    if (after == pinned.begin())
        return false;
    --after;
    return (uintptr_t)pointer < after->first + after->second;
}

// Whether the page at an offset of the device's space, or the gap before it, is of live memory; *end is where
// that ends.
static bool is_live(int device, size_t offset, size_t *end)
{
    char *base = space + space_per_device * (size_t)device;
    const Allocation *a = find_allocation(base + offset);
    if (!a || a->freed)
        return false;
    *end = a->start + a->mapped + page - (uintptr_t)base;
    return true;
}

// Address space for `mapped` bytes and the page after them, or null: what comes after the last allocation, and when the
// end of the device's space was reached, the first gap from its beginning.
static char *place(int device, size_t mapped)
{
    const size_t needed = mapped + page;
    char *base = space + space_per_device * (size_t)device;
    for (int turn = 0; turn < 2; turn++) {
        size_t start = cursor[device], end = start, after;
        while (start + needed <= space_per_device) {
            if (is_live(device, end, &after)) {
                start = end = after;
                continue;
            }
            end += page;
            if (end - start >= needed) {
                cursor[device] = end;
                return base + start;
            }
        }
        cursor[device] = 0;
    }
    return nullptr;
}

static cudaError_t allocate(int device, size_t size, void **memory)
{
    Device &d = device_at(device);
    size_t rounded = (size + granularity - 1) & ~(granularity - 1);
    size_t mapped = (size + page - 1) & ~(page - 1);
    *memory = nullptr;
    if (size == 0)
        return cudaSuccess;
    if (size > d.properties.totalGlobalMem || d.allocated + rounded > d.properties.totalGlobalMem)
        return cudaErrorMemoryAllocation;
    reserve_space();
    char *start = place(device, mapped);
    if (!start || mprotect(start, mapped, PROT_READ | PROT_WRITE))
        return cudaErrorMemoryAllocation;
    memset(start, 0xff, size);
    memset(start + size, slack_fill, mapped - size);
    allocations.push_back({(uintptr_t)start, size, mapped, device, false});
    for (size_t i = 0; i <= mapped / page; i++)
        page_owner[(size_t)(start - space) / page + i] = (uint32_t)allocations.size();
    d.allocated += rounded;
    *memory = start;
    return cudaSuccess;
}

static cudaError_t release(Allocation *a)
{
    const unsigned char *end = (const unsigned char *)a->start + a->size;
    for (size_t i = 0; i < a->mapped - a->size; i++) {
        if (end[i] != slack_fill) {
            char report[200];
            snprintf(report, sizeof report,
                     "simt: something was written %zu bytes past the end of device memory (%zu "
                     "bytes at %p)",
                     i, a->size, (void *)a->start);
            publish(report);
            lose_device(a->device, cudaErrorIllegalAddress);
            break;
        }
    }
    madvise((void *)a->start, a->mapped, MADV_DONTNEED);
    mprotect((void *)a->start, a->mapped, PROT_NONE);
    a->freed = true;
    device_at(a->device).allocated -= (a->size + granularity - 1) & ~(granularity - 1);
    return device_at(a->device).lost;
}

void free_all(int device)
{
    for (Allocation &a : allocations) {
        if (a.device == device && !a.freed)
            release(&a);
    }
}

static cudaError_t check_range(const void *pointer, size_t size, const char *what)
{
    if (const char *error = device_access_error(pointer, size, -1)) {
        char report[300];
        snprintf(report, sizeof report, "simt: %s: access to %s", what, error);
        publish(report);
        return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

static bool kind_agrees(const void *to, const void *from, enum cudaMemcpyKind kind)
{
    bool to_device = in_device_space(to), from_device = in_device_space(from);
    switch (kind) {
    case cudaMemcpyDefault:
        return true;
    case cudaMemcpyHostToHost:
        return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
        return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
        return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
        return to_device && from_device;
    }
    return false;
}

} // namespace simt

using namespace simt;

// Calls that must not be made while a stream captures.
#define BEGIN_ALONE(name)                                                                          \
    BEGIN(name);                                                                                   \
    if (cudaError_t forbidden = forbid_capture(name))                                              \
    return end_call(forbidden)
#define BEGIN(name)                                                                                \
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);                                     \
    if (cudaError_t error = begin_call(name))                                                      \
    return end_call(error)

cudaError_t cudaMalloc(void **memory, size_t size)
{
    BEGIN_ALONE("cudaMalloc");
    return end_call(allocate(current_device(), size, memory));
}

cudaError_t cudaFree(void *memory)
{
    BEGIN_ALONE("cudaFree");
    if (!memory)
        return cudaSuccess;
    Allocation *a = const_cast<Allocation *>(find_allocation(memory));
    if (!a || a->freed || a->start != (uintptr_t)memory)
        return end_call(cudaErrorInvalidValue);
    cudaError_t error = synchronize_device(a->device);
    cudaError_t released = release(a);
    return end_call(error ? error : released);
}

cudaError_t cudaMallocAsync(void **memory, size_t size, cudaStream_t stream)
{
    BEGIN("cudaMallocAsync");
    return end_call(allocate(stream_device(stream), size, memory));
}

cudaError_t cudaFreeAsync(void *memory, cudaStream_t stream)
{
    BEGIN("cudaFreeAsync");
    Allocation *a = const_cast<Allocation *>(find_allocation(memory));
    if (!a || a->freed || a->start != (uintptr_t)memory)
        return end_call(cudaErrorInvalidValue);
    uintptr_t start = a->start;
    return end_call(submit(stream, {Work::Kind::free,
                                    [start] {
                                        const Allocation *found = find_allocation((void *)start);
                                        return release(const_cast<Allocation *>(found));
                                    },
                                    nullptr}));
}

size_t simt_live_allocations(void)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    size_t live = 0;
    for (const Allocation &a : allocations)
        live += !a.freed;
    return live;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    BEGIN("cudaMemGetInfo");
    const Device &d = device_at(current_device());
    *total = d.properties.totalGlobalMem;
    *available = *total > d.allocated ? *total - d.allocated : 0;
    return cudaSuccess;
}

// ---- pinned host memory ---------------------------------------------------------------------------

cudaError_t cudaHostAlloc(void **memory, size_t size, unsigned flags)
{
    (void)flags;
    BEGIN_ALONE("cudaHostAlloc");
    *memory = nullptr;
    size_t rounded = (size + page - 1) & ~(page - 1);
    if (rounded && !(*memory = aligned_alloc(page, rounded)))
        return end_call(cudaErrorMemoryAllocation);
    if (*memory) {
        pinned[(uintptr_t)*memory] = size;
        pinned_owned[(uintptr_t)*memory] = true;
    }
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **memory, size_t size)
{
    BEGIN("cudaMallocHost");
    return cudaHostAlloc(memory, size, 0);
}

cudaError_t cudaFreeHost(void *memory)
{
    BEGIN_ALONE("cudaFreeHost");
    if (!memory)
        return cudaSuccess;
    auto owned = pinned_owned.find((uintptr_t)memory);
    if (owned == pinned_owned.end())
        return end_call(cudaErrorInvalidValue);
    pinned_owned.erase(owned);
    pinned.erase((uintptr_t)memory);
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *memory, size_t size, unsigned flags)
{
    (void)flags;
    BEGIN_ALONE("cudaHostRegister");
    if (!memory || !size || in_device_space(memory))
        return end_call(cudaErrorInvalidValue);
    if (is_pinned(memory) || is_pinned((char *)memory + size - 1))
        return end_call(cudaErrorHostMemoryAlreadyRegistered);
    pinned[(uintptr_t)memory] = size;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *memory)
{
    BEGIN_ALONE("cudaHostUnregister");
    if (pinned_owned.count((uintptr_t)memory) || !pinned.erase((uintptr_t)memory))
        return end_call(cudaErrorHostMemoryNotRegistered);
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags)
{
    (void)flags;
    BEGIN("cudaHostGetDevicePointer");
    if (!is_pinned(host))
        return end_call(cudaErrorInvalidValue);
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer)
{
    BEGIN("cudaPointerGetAttributes");
    const Allocation *a = find_allocation(pointer);
    memset(attributes, 0, sizeof *attributes);
    attributes->device = -2; // none
    if (a && !a->freed) {
        attributes->type = cudaMemoryTypeDevice;
        attributes->device = a->device;
        attributes->devicePointer = const_cast<void *>(pointer);
    } else if (is_pinned(pointer)) {
        attributes->type = cudaMemoryTypeHost;
        attributes->device = current_device();
        attributes->devicePointer = attributes->hostPointer = const_cast<void *>(pointer);
    } else if (!a) {
        attributes->hostPointer = const_cast<void *>(pointer);
    }
    return cudaSuccess;
}

// ---- copies ---------------------------------------------------------------------------------------

// Ordinary host memory takes no part in asynchronous copies: the runtime waits.
static bool is_pageable(const void *pointer)
{
    return !in_device_space(pointer) && !is_pinned(pointer);
}

static cudaError_t copy(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                        size_t width, size_t height, enum cudaMemcpyKind kind, cudaStream_t stream,
                        bool wait)
{
    if (!width || !height)
        return cudaSuccess;
    if (to_pitch < width || from_pitch < width)
        return cudaErrorInvalidPitchValue;
    if (!kind_agrees(to, from, kind))
        return cudaErrorInvalidValue;
    cudaError_t error = check_range(to, (height - 1) * to_pitch + width, "copy");
    if (!error)
        error = check_range(from, (height - 1) * from_pitch + width, "copy");
    if (error)
        return error;
    wait = wait || (!stream_captures(stream) && (is_pageable(to) || is_pageable(from)));
    error = submit(
        stream, {Work::Kind::copy,
                 [=] {
                     cudaError_t failed = check_range(to, (height - 1) * to_pitch + width, "copy");
                     if (!failed)
                         failed = check_range(from, (height - 1) * from_pitch + width, "copy");
                     for (size_t y = 0; y < height && !failed; y++)
                         memmove((char *)to + y * to_pitch, (const char *)from + y * from_pitch,
                                 width);
                     return failed;
                 },
                 nullptr});
    return error || !wait ? error : synchronize_stream(stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
    BEGIN_ALONE("cudaMemcpy");
    return end_call(copy(to, size, from, size, size, 1, kind, nullptr, true));
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    BEGIN("cudaMemcpyAsync");
    return end_call(copy(to, size, from, size, size, 1, kind, stream, false));
}

cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                         size_t width, size_t height, enum cudaMemcpyKind kind)
{
    BEGIN_ALONE("cudaMemcpy2D");
    return end_call(copy(to, to_pitch, from, from_pitch, width, height, kind, nullptr, true));
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    BEGIN("cudaMemcpy2DAsync");
    return end_call(copy(to, to_pitch, from, from_pitch, width, height, kind, stream, false));
}

static cudaError_t set(void *memory, size_t pitch, int value, size_t width, size_t height,
                       cudaStream_t stream)
{
    if (!width || !height)
        return cudaSuccess;
    if (pitch < width)
        return cudaErrorInvalidPitchValue;
    if (!in_device_space(memory) && !is_pinned(memory))
        return cudaErrorInvalidValue;
    cudaError_t error = check_range(memory, (height - 1) * pitch + width, "memset");
    if (error)
        return error;
    return submit(stream, {Work::Kind::set,
                           [=] {
                               cudaError_t failed =
                                   check_range(memory, (height - 1) * pitch + width, "memset");
                               for (size_t y = 0; y < height && !failed; y++)
                                   memset((char *)memory + y * pitch, value, width);
                               return failed;
                           },
                           nullptr});
}

cudaError_t cudaMemset(void *memory, int value, size_t size)
{
    BEGIN("cudaMemset");
    return end_call(set(memory, size, value, size, 1, nullptr));
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t stream)
{
    BEGIN("cudaMemsetAsync");
    return end_call(set(memory, size, value, size, 1, stream));
}

cudaError_t cudaMemset2DAsync(void *memory, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream)
{
    BEGIN("cudaMemset2DAsync");
    return end_call(set(memory, pitch, value, width, height, stream));
}
