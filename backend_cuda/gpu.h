/* What the C and the device sources of a GPU backend share: names, the device, one entry per op.
 *
 * The sources of this directory are compiled several times into one program: by nvcc for CUDA, by clang or
 * nvcc through the name map of backend_hip, and by a C++ compiler against the emulator of tests/simt. Each
 * build has its own RONDO_GPU_BACKEND (cuda, hip, simt, ...), which GPU(name) puts into every external symbol:
 * GPU(rmsnorm) is rondo_cuda_rmsnorm. Everything else in a .cu or .cuh file is static or in an anonymous
 * namespace. */
#ifndef RONDO_BACKEND_CUDA_GPU_H
#define RONDO_BACKEND_CUDA_GPU_H

#include <cuda_runtime.h>

#ifndef RONDO_GPU_BACKEND
#define RONDO_GPU_BACKEND cuda
#endif
#define GPU_JOIN2(backend, name) rondo_##backend##_##name
#define GPU_JOIN(backend, name) GPU_JOIN2(backend, name)
#define GPU(name) GPU_JOIN(RONDO_GPU_BACKEND, name)

#ifdef __cplusplus
extern "C" {
#endif

#include "core/backend.h"

/* Products of e4m3 codes that a device has. FNUZ is AMD's first format: the same bits are half the value, 0x80 is
 * NaN and there is no -0; see gemm_fnuz_codes in gemm_tile.cuh. */
enum gpu_fp8 { GPU_FP8_NONE, GPU_FP8_OCP, GPU_FP8_FNUZ };

/* Counters that kernels share, all 0 between launches. */
enum { GPU_TICKETS = 64 };

struct gpu_device {
    struct rondo_device base; /* first: ops get a pointer to it */
    int ordinal;
    int capability; /* 10 * major + minor of NVIDIA devices: 80, 89, 90, 120; 0 elsewhere */
    enum gpu_fp8 fp8;
    int warp_size;       /* 32, or 64 on some AMD devices */
    int multiprocessors; /* number of */
    int multiplies_e4m3; /* this program's code for the device has products of e4m3 */
    int overlaps; /* launches may begin while the one before them ends: see LAUNCH_NEXT in kernel.cuh */
    size_t shared_limit; /* bytes of dynamic shared memory a block may opt in to */
    cudaStream_t stream; /* all work of the device, in order */
    void *workspace;     /* scratch that any op may use for its own duration; behind the tickets */
    size_t workspace_size;
    uint32_t *tickets;          /* [GPU_TICKETS], one allocation with the workspace */
    struct rondo_limits limits; /* what the workspace was made for */
    cudaError_t error;          /* first failure; later calls do nothing */
    char error_what[128];       /* the call that failed */
};

/* Keeps the first error of a device. Returns nonzero when the device can not be used any more. */
int GPU(failed)(struct gpu_device *device, cudaError_t error, const char *what);
/* The same after a launch, which it counts. */
int GPU(launched)(struct gpu_device *device, cudaError_t error, const char *what);

/* The largest part of the workspace an op of the family needs within `limits`. */
size_t GPU(gemm_workspace)(const struct gpu_device *device, const struct rondo_limits *limits);
size_t GPU(linear_attention_workspace)(const struct gpu_device *device,
                                       const struct rondo_limits *limits);
size_t GPU(softmax_attention_workspace)(const struct gpu_device *device,
                                        const struct rondo_limits *limits);
size_t GPU(moe_workspace)(const struct gpu_device *device, const struct rondo_limits *limits);
size_t GPU(argmax_workspace)(const struct gpu_device *device, const struct rondo_limits *limits);
size_t GPU(candidates_workspace)(const struct gpu_device *device,
                                 const struct rondo_limits *limits);

/* ---- one entry per op: launches on device->stream ------------------------------------------------ */

void GPU(embedding)(struct rondo_device *device, const struct rondo_op_embedding *op);
void GPU(rmsnorm)(struct rondo_device *device, const struct rondo_op_rmsnorm *op);
void GPU(quantize)(struct rondo_device *device, const struct rondo_op_quantize *op);
void GPU(gemm)(struct rondo_device *device, const struct rondo_op_gemm *op);
void GPU(grouped_gemm)(struct rondo_device *device, const struct rondo_op_grouped_gemm *op);
void GPU(qkv)(struct rondo_device *device, const struct rondo_op_qkv *op);
void GPU(linear_attention)(struct rondo_device *device, const struct rondo_op_linear_attention *op);
void GPU(softmax_attention)(struct rondo_device *device,
                            const struct rondo_op_softmax_attention *op);
void GPU(accept)(struct rondo_device *device, const struct rondo_op_accept *op);
void GPU(group_norm_gate)(struct rondo_device *device, const struct rondo_op_group_norm_gate *op);
void GPU(router)(struct rondo_device *device, const struct rondo_op_router *op);
void GPU(gemm_router)(struct rondo_device *device, const struct rondo_op_gemm_router *op);
void GPU(group_tokens)(struct rondo_device *device, const struct rondo_op_group_tokens *op);
void GPU(swiglu)(struct rondo_device *device, const struct rondo_op_swiglu *op);
void GPU(combine)(struct rondo_device *device, const struct rondo_op_combine *op);
void GPU(argmax)(struct rondo_device *device, const struct rondo_op_argmax *op);
void GPU(penalize)(struct rondo_device *device, const struct rondo_op_penalize *op);
void GPU(candidates)(struct rondo_device *device, const struct rondo_op_candidates *op);

/* Whether the tensor core kernels that the device runs multiply e4m3. Not so before sm_89, nor where a newer device
 * runs what was compiled for an older one. Loads code: asked once, when the device is opened. */
int GPU(gemm_multiplies_e4m3)(const struct gpu_device *device);
/* Whether this program's code for the device waits for the launch before it, see wait_for_previous in ptx.cuh. */
int GPU(gemm_waits)(const struct gpu_device *device);

/* Why an op's arguments can not be done here, in words, or NULL; one per family that has limits. */
const char *GPU(gemm_supports)(const struct gpu_device *device, const struct rondo_op_gemm *op);
const char *GPU(grouped_gemm_supports)(const struct gpu_device *device,
                                       const struct rondo_op_grouped_gemm *op);
const char *GPU(linear_attention_supports)(const struct gpu_device *device,
                                           const struct rondo_op_linear_attention *op);
const char *GPU(softmax_attention_supports)(const struct gpu_device *device,
                                            const struct rondo_op_softmax_attention *op);
/* The path a product takes, for logs and reports: "wgmma e4m3", "mma bf16", "fma f32", ...: that of the first part,
 * and of mixed experts the first one's. */
const char *GPU(gemm_path)(const struct gpu_device *device, const struct rondo_op_gemm *op);
const char *GPU(grouped_gemm_path)(const struct gpu_device *device,
                                   const struct rondo_op_grouped_gemm *op);
const char *GPU(linear_attention_path)(const struct gpu_device *device,
                                       const struct rondo_op_linear_attention *op);
/* The same: "mma bf16", or "fma f32" for f32 and for what the tensor core kernels do not take. */
const char *GPU(softmax_attention_path)(const struct gpu_device *device,
                                        const struct rondo_op_softmax_attention *op);

#ifdef __cplusplus
}
#endif

#endif
