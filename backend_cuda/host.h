/* What the C files of a GPU backend share: the device as the host sees it. The .cu files know gpu.h only. */
#ifndef RONDO_BACKEND_CUDA_HOST_H
#define RONDO_BACKEND_CUDA_HOST_H

#include "backend_cuda/gpu.h"
#include "backend_cuda/architecture.h"
#include "backend_cuda/cublaslt.h"
#include "core/error.h"

#ifndef RONDO_HIP
#include <cuda.h>
#endif

/* The backend's name as text, "cuda". */
#define GPU_TEXT2(backend) #backend
#define GPU_TEXT(backend) GPU_TEXT2(backend)
#ifndef GPU_NAME
#define GPU_NAME GPU_TEXT(RONDO_GPU_BACKEND)
#endif

/* The symbol core/backends.c.in lists. */
#define GPU_BACKEND2(backend) rondo_backend_##backend
#define GPU_BACKEND1(backend) GPU_BACKEND2(backend)
#define GPU_BACKEND GPU_BACKEND1(RONDO_GPU_BACKEND)

extern const struct rondo_backend GPU_BACKEND;

/* Pinned memory between host and device: two halves, filled in turn. A half is filled again when the copies
 * out of it are over. */
#define STAGING_HALF ((size_t)8 << 20)

/* Workspace of cuBLASLt, as NVIDIA advises for Hopper. */
#define GPU_CUBLASLT_BYTES ((size_t)32 << 20)

struct gpu_staging {
    char *memory; /* [2 * STAGING_HALF] */
    int half;     /* the one that is being filled */
    size_t used;  /* of it */
    cudaEvent_t over[2];
};

struct gpu_host {
    struct gpu_device gpu; /* first; gpu.base is first in it */
    char name[32];         /* "cuda:0" */
    struct gpu_staging staging;
    struct rondo_device_counts counts;
    struct cublaslt *cublaslt; /* multiplies bf16; NULL: this device was not asked for with it */
    void *cublaslt_workspace;  /* [GPU_CUBLASLT_BYTES] */
    bool cublaslt_failed;      /* at some product, which has been said */
    uint64_t workspace_serial; /* changes when the workspace moves */
    bool recording;
    uint64_t recorded;           /* kernels since record_begin */
    cudaError_t recording_error; /* first failure of a call that is recorded */
    int depth; /* entries of the table that are being executed: they call each other */
#ifndef RONDO_HIP
    CUcontext context; /* the device's primary one */
    CUresult (*push)(CUcontext);
    CUresult (*pop)(CUcontext *);
#else
    int previous; /* the device that was current to the thread before the outermost entry */
#endif
};

static inline struct gpu_host *gpu_host_of(struct rondo_device *device)
{
    return (struct gpu_host *)device;
}

/* ---- current.c: see there. What calls CUDA on the device does it between one of these and GPU(leave) ---- */

/* Once, before the first GPU(enter). False: the device has failed. */
bool GPU(current_open)(struct gpu_host *host);
/* Makes the device the thread's current one. False: it has failed, and the caller does nothing, nor leaves. */
bool GPU(enter)(struct gpu_host *host);
/* The same for a device that may have failed, to give back what it has. */
bool GPU(enter_anyway)(struct gpu_host *host);
/* Makes current again what was. */
void GPU(leave)(struct gpu_host *host);

/* ---- list.c ---- */

size_t GPU(list)(struct rondo_device_info *devices, size_t capacity);
void GPU(explain)(char *text, size_t size);
/* "NVIDIA H100 (sm_90, 132 SMs, 80 GB)" */
void GPU(describe)(const struct cudaDeviceProp *properties, char *text, size_t size);
/* The ordinal that `which` names, "" for the first one; -1 with an error. */
int GPU(find)(const char *which, struct cudaDeviceProp *properties, struct rondo_error *error);

/* ---- memory.c ---- */

bool GPU(staging_open)(struct gpu_host *host);
void GPU(staging_close)(struct gpu_host *host);
void GPU(set_memory)(struct rondo_device *device);

/* ---- ops.c, graph.c, fault.c ---- */

void GPU(set_ops)(struct rondo_device *device);
void GPU(set_recording)(struct rondo_device *device);
int GPU(status)(struct rondo_device *device, struct rondo_error *error);

#endif
