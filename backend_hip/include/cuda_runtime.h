/* The name map: what the sources of backend_cuda call by CUDA's names, by HIP's.
 *
 * Found in place of CUDA's header in builds for AMD devices. Those with 64 lanes to a wave and those with 32 are
 * separate builds of the kernels; RONDO_WAVE says which this is. RONDO_HIP_NVIDIA: over CUDA's runtime, see
 * backend_hip/nvidia. For C and C++. */
#ifndef RONDO_BACKEND_HIP_CUDA_RUNTIME_H
#define RONDO_BACKEND_HIP_CUDA_RUNTIME_H

#ifdef __cplusplus
#include <hip/hip_runtime.h>
#else
#include <hip/hip_runtime_api.h>
#endif

/* ---- types ---------------------------------------------------------------------------------- */

#define cudaDeviceProp hipDeviceProp_t
#define cudaError_t hipError_t
#define cudaEvent_t hipEvent_t
#define cudaFuncAttributes hipFuncAttributes
#define cudaGraphExec_t hipGraphExec_t
#define cudaGraphNode_t hipGraphNode_t
#define cudaGraph_t hipGraph_t
#define cudaMemcpyKind hipMemcpyKind
#define cudaStreamCaptureMode hipStreamCaptureMode
#define cudaStreamCaptureStatus hipStreamCaptureStatus
#define cudaStream_t hipStream_t

/* ---- values --------------------------------------------------------------------------------- */

#define cudaDevAttrComputeCapabilityMajor hipDeviceAttributeComputeCapabilityMajor
#define cudaDevAttrComputeCapabilityMinor hipDeviceAttributeComputeCapabilityMinor
#define cudaDevAttrMaxSharedMemoryPerBlockOptin hipDeviceAttributeMaxSharedMemoryPerBlock
#define cudaDevAttrMultiProcessorCount hipDeviceAttributeMultiprocessorCount
#define cudaDevAttrWarpSize hipDeviceAttributeWarpSize
#define cudaErrorDevicesUnavailable hipErrorNotReady
#define cudaErrorInsufficientDriver hipErrorInsufficientDriver
#define cudaErrorInvalidDevice hipErrorInvalidDevice
#define cudaErrorInvalidValue hipErrorInvalidValue
#define cudaErrorMemoryAllocation hipErrorOutOfMemory
#define cudaErrorNoDevice hipErrorNoDevice
#define cudaErrorNoKernelImageForDevice hipErrorNoBinaryForGpu
#define cudaErrorNotReady hipErrorNotReady
#define cudaErrorNotSupported hipErrorNotSupported
#define cudaErrorUnknown hipErrorUnknown
#define cudaEventDefault hipEventDefault
#define cudaEventDisableTiming hipEventDisableTiming
#define cudaFuncAttributeMaxDynamicSharedMemorySize hipFuncAttributeMaxDynamicSharedMemorySize
#define cudaHostAllocDefault hipHostMallocDefault
#define cudaHostRegisterDefault hipHostRegisterDefault
#define cudaHostRegisterReadOnly hipHostRegisterReadOnly
#define cudaMemcpyDefault hipMemcpyDefault
#define cudaMemcpyDeviceToDevice hipMemcpyDeviceToDevice
#define cudaMemcpyDeviceToHost hipMemcpyDeviceToHost
#define cudaMemcpyHostToDevice hipMemcpyHostToDevice
#define cudaStreamCaptureModeThreadLocal hipStreamCaptureModeThreadLocal
#define cudaStreamCaptureStatusActive hipStreamCaptureStatusActive
#define cudaStreamNonBlocking hipStreamNonBlocking
#define cudaSuccess hipSuccess

/* ---- functions ------------------------------------------------------------------------------ */

#define cudaDeviceGetAttribute hipDeviceGetAttribute
#define cudaDeviceGetPCIBusId hipDeviceGetPCIBusId
#define cudaDeviceSynchronize hipDeviceSynchronize
#define cudaDriverGetVersion hipDriverGetVersion
#define cudaEventCreate hipEventCreate
#define cudaEventCreateWithFlags hipEventCreateWithFlags
#define cudaEventDestroy hipEventDestroy
#define cudaEventElapsedTime hipEventElapsedTime
#define cudaEventQuery hipEventQuery
#define cudaEventRecord hipEventRecord
#define cudaEventSynchronize hipEventSynchronize
#define cudaFree hipFree
#define cudaFreeHost hipHostFree
#define cudaFuncGetAttributes hipFuncGetAttributes
#define cudaGetDevice hipGetDevice
#define cudaGetDeviceCount hipGetDeviceCount
#define cudaGetDeviceProperties hipGetDeviceProperties
#define cudaGetErrorName hipGetErrorName
#define cudaGetErrorString hipGetErrorString
#define cudaGetLastError hipGetLastError
#define cudaGraphDestroy hipGraphDestroy
#define cudaGraphExecDestroy hipGraphExecDestroy
#define cudaGraphGetNodes hipGraphGetNodes
#define cudaGraphInstantiate(exec, graph, flags)                                                   \
    ((void)(flags), hipGraphInstantiate((exec), (graph), NULL, NULL, 0))
#define cudaGraphLaunch hipGraphLaunch
#define cudaHostAlloc hipHostMalloc
#define cudaHostRegister hipHostRegister
#define cudaHostUnregister hipHostUnregister
#define cudaMalloc hipMalloc
#define cudaMallocHost(memory, size) hipHostMalloc((memory), (size), 0)
#define cudaMemGetInfo hipMemGetInfo
#define cudaMemcpy hipMemcpy
#define cudaMemcpyAsync hipMemcpyAsync
#define cudaMemset hipMemset
#define cudaMemsetAsync hipMemsetAsync
#define cudaPeekAtLastError hipPeekAtLastError
#define cudaRuntimeGetVersion hipRuntimeGetVersion
#define cudaSetDevice hipSetDevice
#define cudaStreamBeginCapture hipStreamBeginCapture
#define cudaStreamCreate hipStreamCreate
#define cudaStreamCreateWithFlags hipStreamCreateWithFlags
#define cudaStreamDestroy hipStreamDestroy
#define cudaStreamEndCapture hipStreamEndCapture
#define cudaStreamIsCapturing hipStreamIsCapturing
#define cudaStreamQuery hipStreamQuery
#define cudaStreamSynchronize hipStreamSynchronize
#define cudaStreamWaitEvent hipStreamWaitEvent
#ifdef __cplusplus
/* C++ overloads in CUDA take kernels; HIP wants their address. No workgroup has more than 64 KiB of local memory:
 * the emulator's devices would give more. */
template <class Kernel>
static inline cudaError_t rondo_hip_set_attribute(Kernel *kernel, hipFuncAttribute attribute,
                                                  int value)
{
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value > 65536)
        return cudaErrorInvalidValue;
    return hipFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}
#define cudaFuncSetAttribute rondo_hip_set_attribute
#else
#define cudaFuncSetAttribute hipFuncSetAttribute
#endif

/* ---- kernels -------------------------------------------------------------------------------- */

#ifndef RONDO_WAVE
#define RONDO_WAVE 64
#endif
#ifndef WARP_SIZE
#define WARP_SIZE RONDO_WAVE
#endif
#ifndef RONDO_HIP_NVIDIA
#define __grid_constant__
#endif
#ifndef RONDO_SIMT /* the emulator has CUDA's own warp operations, for both widths */
#define WARP_XOR(value, mask) __shfl_xor((value), (mask), WARP_SIZE)
#define WARP_READ(value, lane) __shfl((value), (lane), WARP_SIZE)
#define WARP_UP(value, delta) __shfl_up((value), (delta), WARP_SIZE)
#define WARP_DOWN(value, delta) __shfl_down((value), (delta), WARP_SIZE)
#define WARP_ANY(predicate) __any(predicate)
#if RONDO_WAVE == 64
#define WARP_BALLOT(predicate) ((uint64_t)__ballot(predicate))
#else
#define WARP_BALLOT(predicate) ((uint32_t)__ballot(predicate))
#endif
/* Lanes of a wave run together; what this keeps apart are the compiler's loads and stores. */
#ifndef WARP_SYNC
#define WARP_SYNC()                                                                                \
    do {                                                                                           \
        __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");                                     \
        __builtin_amdgcn_wave_barrier();                                                           \
        __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");                                     \
    } while (0)
#endif
#endif

#endif
