/* HIP's runtime over CUDA's, for NVIDIA devices: what the name map of backend_hip asks for, so that the host code, the
 * map and the kernels of a HIP build run where there is no AMD device. AMD's own header for this does not go with
 * CUDA 13.
 *
 * The map leads cudaX to hipX and this header back to the name cudaX, where macro expansion ends. */
#ifndef RONDO_HIP_NVIDIA_RUNTIME_H
#define RONDO_HIP_NVIDIA_RUNTIME_H

/* Of CUDA: the map, of the same name, stands before it in the path of the compiler. */
#ifdef __cplusplus
#include_next <cuda_runtime.h>
#else
#include_next <cuda_runtime_api.h>
#endif

/* ---- types ---------------------------------------------------------------------------------- */

#define hipDeviceProp_t cudaDeviceProp
#define hipError_t cudaError_t
#define hipEvent_t cudaEvent_t
#define hipFuncAttribute cudaFuncAttribute
#define hipFuncAttributes cudaFuncAttributes
#define hipGraphExec_t cudaGraphExec_t
#define hipGraphNode_t cudaGraphNode_t
#define hipGraph_t cudaGraph_t
#define hipMemcpyKind cudaMemcpyKind
#define hipStreamCaptureMode cudaStreamCaptureMode
#define hipStreamCaptureStatus cudaStreamCaptureStatus
#define hipStream_t cudaStream_t

/* ---- values --------------------------------------------------------------------------------- */

#define hipDeviceAttributeComputeCapabilityMajor cudaDevAttrComputeCapabilityMajor
#define hipDeviceAttributeComputeCapabilityMinor cudaDevAttrComputeCapabilityMinor
#define hipDeviceAttributeMaxSharedMemoryPerBlock cudaDevAttrMaxSharedMemoryPerBlockOptin
#define hipDeviceAttributeMultiprocessorCount cudaDevAttrMultiProcessorCount
#define hipDeviceAttributeWarpSize cudaDevAttrWarpSize
#define hipErrorInsufficientDriver cudaErrorInsufficientDriver
#define hipErrorInvalidDevice cudaErrorInvalidDevice
#define hipErrorInvalidValue cudaErrorInvalidValue
#define hipErrorNoBinaryForGpu cudaErrorNoKernelImageForDevice
#define hipErrorNoDevice cudaErrorNoDevice
#define hipErrorNotReady cudaErrorNotReady
#define hipErrorNotSupported cudaErrorNotSupported
#define hipErrorOutOfMemory cudaErrorMemoryAllocation
#define hipErrorUnknown cudaErrorUnknown
#define hipFuncAttributeMaxDynamicSharedMemorySize cudaFuncAttributeMaxDynamicSharedMemorySize
#define hipMemcpyDefault cudaMemcpyDefault
#define hipMemcpyDeviceToDevice cudaMemcpyDeviceToDevice
#define hipMemcpyDeviceToHost cudaMemcpyDeviceToHost
#define hipMemcpyHostToDevice cudaMemcpyHostToDevice
#define hipStreamCaptureModeThreadLocal cudaStreamCaptureModeThreadLocal
#define hipStreamCaptureStatusActive cudaStreamCaptureStatusActive
#define hipSuccess cudaSuccess

/* Macros of CUDA, that the map defines anew. */
#undef cudaEventDefault
#define hipEventDefault 0x00
#undef cudaEventDisableTiming
#define hipEventDisableTiming 0x02
#undef cudaHostAllocDefault
#define hipHostMallocDefault 0x00
#undef cudaHostRegisterDefault
#define hipHostRegisterDefault 0x00
#undef cudaHostRegisterReadOnly
#define hipHostRegisterReadOnly 0x08
#undef cudaStreamNonBlocking
#define hipStreamNonBlocking 0x01

/* ---- functions ------------------------------------------------------------------------------ */

#define hipDeviceGetAttribute cudaDeviceGetAttribute
#define hipDeviceGetPCIBusId cudaDeviceGetPCIBusId
#define hipDeviceSynchronize cudaDeviceSynchronize
#define hipDriverGetVersion cudaDriverGetVersion
#define hipEventCreate cudaEventCreate
#define hipEventCreateWithFlags cudaEventCreateWithFlags
#define hipEventDestroy cudaEventDestroy
#define hipEventElapsedTime cudaEventElapsedTime
#define hipEventQuery cudaEventQuery
#define hipEventRecord cudaEventRecord
#define hipEventSynchronize cudaEventSynchronize
#define hipFree cudaFree
#define hipHostFree cudaFreeHost
#define hipFuncGetAttributes cudaFuncGetAttributes
#define hipFuncSetAttribute cudaFuncSetAttribute
#define hipGetDevice cudaGetDevice
#define hipGetDeviceCount cudaGetDeviceCount
#define hipGetDeviceProperties cudaGetDeviceProperties
#define hipGetErrorName cudaGetErrorName
#define hipGetErrorString cudaGetErrorString
#define hipGetLastError cudaGetLastError
#define hipGraphDestroy cudaGraphDestroy
#define hipGraphExecDestroy cudaGraphExecDestroy
#define hipGraphGetNodes cudaGraphGetNodes
#define hipGraphLaunch cudaGraphLaunch
/* Two of the map's names lead to this one: no macro could lead both back. */
static inline cudaError_t rondo_hip_host_malloc(void **memory, size_t size, unsigned flags)
{
    return cudaHostAlloc(memory, size, flags);
}
#define hipHostMalloc rondo_hip_host_malloc
#define hipHostRegister cudaHostRegister
#define hipHostUnregister cudaHostUnregister
#define hipMalloc cudaMalloc
#define hipMemGetInfo cudaMemGetInfo
#define hipMemcpy cudaMemcpy
#define hipMemcpyAsync cudaMemcpyAsync
#define hipMemset cudaMemset
#define hipMemsetAsync cudaMemsetAsync
#define hipPeekAtLastError cudaPeekAtLastError
#define hipRuntimeGetVersion cudaRuntimeGetVersion
#define hipSetDevice cudaSetDevice
#define hipStreamBeginCapture cudaStreamBeginCapture
#define hipStreamCreate cudaStreamCreate
#define hipStreamCreateWithFlags cudaStreamCreateWithFlags
#define hipStreamDestroy cudaStreamDestroy
#define hipStreamEndCapture cudaStreamEndCapture
#define hipStreamIsCapturing cudaStreamIsCapturing
#define hipStreamQuery cudaStreamQuery
#define hipStreamSynchronize cudaStreamSynchronize
#define hipStreamWaitEvent cudaStreamWaitEvent
#define hipGraphInstantiate(exec, graph, node, log, size) cudaGraphInstantiate((exec), (graph), 0)

/* ---- kernels -------------------------------------------------------------------------------- */

/* HIP's warp operations have no mask: whole warps. */
#ifdef __CUDACC__
#define __shfl(value, lane, width) __shfl_sync(0xffffffffu, (value), (lane), (width))
#define __shfl_xor(value, mask, width) __shfl_xor_sync(0xffffffffu, (value), (mask), (width))
#define __shfl_up(value, delta, width) __shfl_up_sync(0xffffffffu, (value), (delta), (width))
#define __shfl_down(value, delta, width) __shfl_down_sync(0xffffffffu, (value), (delta), (width))
#define __any(predicate) __any_sync(0xffffffffu, (predicate))
#define __ballot(predicate) __ballot_sync(0xffffffffu, (predicate))
#define WARP_SYNC() __syncwarp()
#endif

#endif
