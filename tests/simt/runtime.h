/* What the sources of the runtime API share: devices and their errors, memory, work of streams. */
#ifndef SIMT_RUNTIME_H
#define SIMT_RUNTIME_H

#include "internal.h"
#include "runtime_api.h"
#include "simt.h"

#include <memory>
#include <mutex>
#include <vector>

namespace simt
{

enum { device_count = 3 };

struct Device {
    cudaDeviceProp properties;
    cudaError_t lost = cudaSuccess; // an error that stays
    bool has_context = false;       // the primary one
    size_t allocated = 0;
    std::vector<cudaStream_t> streams;
    cudaStream_t default_stream = nullptr;
};

// One lock for all state of the runtime. Recursive: host functions of streams may call the API.
extern std::recursive_mutex runtime_mutex;

Device &device_at(int ordinal);
int current_device();
size_t device_static_shared(int device); // bytes of SHARED_ARRAY a block may have
size_t device_shared_limit(int device);  // of shared memory in all

// Begins a call of the API: cudaSuccess, an injected fault, or the error that the current device has for good.
cudaError_t begin_call(const char *name);
// Ends it: remembers a failure for cudaGetLastError.
cudaError_t end_call(cudaError_t error);
// Remembers what an asynchronous piece of work failed with.
void lose_device(int device, cudaError_t error);
bool stays(cudaError_t error);

// ---- memory ---------------------------------------------------------------------------------------

struct Allocation {
    uintptr_t start;
    size_t size, mapped;
    int device;
    bool freed;
};

// Whether an address lies in the part of the address space that devices allocate from.
bool in_device_space(const void *pointer);
// The allocation, freed ones included, whose pages or gap contain an address; null when none does.
const Allocation *find_allocation(const void *pointer);
// null when [pointer, pointer + size) lies in live memory of the device (-1: any), or in no device's space at all;
// else what is wrong.
const char *device_access_error(const void *pointer, size_t size, int device);
bool is_pinned(const void *pointer); // by cudaMallocHost or cudaHostRegister
void free_all(int device);

// ---- work -----------------------------------------------------------------------------------------

// A piece of work of a stream, or a node of a graph.
struct Work {
    enum class Kind { kernel, copy, set, host, free, record, wait } kind;
    std::function<cudaError_t()> run;
    const void *function; // of a kernel
    size_t dynamic_size = 0;
};

// Dynamic shared memory that launches of a kernel may have now.
size_t dynamic_limit(int device, const void *function);

cudaError_t submit(cudaStream_t stream, Work work);
// The stream that a handle means: null and the special handles are the default stream of the current device.
cudaStream_t resolve_stream(cudaStream_t stream);
int stream_device(cudaStream_t stream);
bool stream_captures(cudaStream_t stream);
// cudaSuccess, or the error of a call that must not be made while a stream captures; the capture is lost then.
cudaError_t forbid_capture(const char *what);
cudaError_t synchronize_stream(cudaStream_t stream);
cudaError_t synchronize_device(int device);
void destroy_streams(int device);

} // namespace simt

#endif
