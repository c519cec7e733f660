/* HIP's runtime as the emulator has it: what the name map of backend_hip asks for, over the emulator's own runtime.
 *
 * Types and values are the emulator's; the map leads cudaX to hipX and this header back to the name cudaX, where
 * macro expansion ends. Functions lead to the emulator's symbols. */
#ifndef SIMT_HIP_RUNTIME_H
#define SIMT_HIP_RUNTIME_H

#include "../../runtime_api.h"
#ifdef __cplusplus
#include "../../kernel.h"
#endif

#define hipDeviceProp_t cudaDeviceProp
#define hipError_t cudaError_t
#define hipEvent_t cudaEvent_t
#define hipFuncAttributes cudaFuncAttributes
#define hipGraphExec_t cudaGraphExec_t
#define hipGraphNode_t cudaGraphNode_t
#define hipGraph_t cudaGraph_t
#define hipMemcpyKind cudaMemcpyKind
#define hipStreamCaptureMode cudaStreamCaptureMode
#define hipStreamCaptureStatus cudaStreamCaptureStatus
#define hipStream_t cudaStream_t
#define hipDeviceAttributeComputeCapabilityMajor cudaDevAttrComputeCapabilityMajor
#define hipDeviceAttributeComputeCapabilityMinor cudaDevAttrComputeCapabilityMinor
#define hipDeviceAttributeMaxSharedMemoryPerBlock cudaDevAttrMaxSharedMemoryPerBlockOptin
#define hipDeviceAttributeMultiprocessorCount cudaDevAttrMultiProcessorCount
#define hipDeviceAttributeWarpSize cudaDevAttrWarpSize
#define hipErrorInsufficientDriver cudaErrorInsufficientDriver
#define hipErrorInvalidDevice cudaErrorInvalidDevice
#define hipErrorInvalidValue cudaErrorInvalidValue
#define hipErrorOutOfMemory cudaErrorMemoryAllocation
#define hipErrorNoDevice cudaErrorNoDevice
#define hipErrorNoBinaryForGpu cudaErrorNoKernelImageForDevice
#define hipErrorNotReady cudaErrorNotReady
#define hipErrorNotSupported cudaErrorNotSupported
#define hipErrorUnknown cudaErrorUnknown
#undef cudaEventDefault
#define hipEventDefault 0x00
#undef cudaEventDisableTiming
#define hipEventDisableTiming 0x02
#define hipFuncAttribute cudaFuncAttribute
#define hipFuncAttributeMaxDynamicSharedMemorySize cudaFuncAttributeMaxDynamicSharedMemorySize
#undef cudaHostAllocDefault
#define hipHostMallocDefault 0x00
#undef cudaHostRegisterDefault
#define hipHostRegisterDefault 0x00
#undef cudaHostRegisterReadOnly
#define hipHostRegisterReadOnly 0x08
#define hipMemcpyDefault cudaMemcpyDefault
#define hipMemcpyDeviceToDevice cudaMemcpyDeviceToDevice
#define hipMemcpyDeviceToHost cudaMemcpyDeviceToHost
#define hipMemcpyHostToDevice cudaMemcpyHostToDevice
#define hipStreamCaptureModeThreadLocal cudaStreamCaptureModeThreadLocal
#define hipStreamCaptureStatusActive cudaStreamCaptureStatusActive
#undef cudaStreamNonBlocking
#define hipStreamNonBlocking 0x01
#define hipSuccess cudaSuccess

#undef cudaDeviceGetAttribute
#define hipDeviceGetAttribute simt_cudaDeviceGetAttribute
#undef cudaDeviceGetPCIBusId
#define hipDeviceGetPCIBusId simt_cudaDeviceGetPCIBusId
#undef cudaDeviceSynchronize
#define hipDeviceSynchronize simt_cudaDeviceSynchronize
#undef cudaDriverGetVersion
#define hipDriverGetVersion simt_cudaDriverGetVersion
#undef cudaEventCreate
#define hipEventCreate simt_cudaEventCreate
#undef cudaEventCreateWithFlags
#define hipEventCreateWithFlags simt_cudaEventCreateWithFlags
#undef cudaEventDestroy
#define hipEventDestroy simt_cudaEventDestroy
#undef cudaEventElapsedTime
#define hipEventElapsedTime simt_cudaEventElapsedTime
#undef cudaEventQuery
#define hipEventQuery simt_cudaEventQuery
#undef cudaEventRecord
#define hipEventRecord simt_cudaEventRecord
#undef cudaEventSynchronize
#define hipEventSynchronize simt_cudaEventSynchronize
#undef cudaFree
#define hipFree simt_cudaFree
#undef cudaFreeHost
#define hipHostFree simt_cudaFreeHost
#undef cudaFuncGetAttributes
#define hipFuncGetAttributes simt_cudaFuncGetAttributes
#undef cudaGetDevice
#define hipGetDevice simt_cudaGetDevice
#undef cudaGetDeviceCount
#define hipGetDeviceCount simt_cudaGetDeviceCount
#undef cudaGetDeviceProperties
#define hipGetDeviceProperties simt_cudaGetDeviceProperties
#undef cudaGetErrorName
#define hipGetErrorName simt_cudaGetErrorName
#undef cudaGetErrorString
#define hipGetErrorString simt_cudaGetErrorString
#undef cudaGetLastError
#define hipGetLastError simt_cudaGetLastError
#undef cudaGraphDestroy
#define hipGraphDestroy simt_cudaGraphDestroy
#undef cudaGraphExecDestroy
#define hipGraphExecDestroy simt_cudaGraphExecDestroy
#undef cudaGraphGetNodes
#define hipGraphGetNodes simt_cudaGraphGetNodes
#undef cudaGraphInstantiate
#define hipGraphInstantiate(exec, graph, node, log, size)                                          \
    simt_cudaGraphInstantiate((exec), (graph), 0)
#undef cudaGraphLaunch
#define hipGraphLaunch simt_cudaGraphLaunch
#undef cudaMallocHost
#undef cudaHostAlloc
#define hipHostMalloc simt_cudaHostAlloc
#undef cudaHostRegister
#define hipHostRegister simt_cudaHostRegister
#undef cudaHostUnregister
#define hipHostUnregister simt_cudaHostUnregister
#undef cudaMalloc
#define hipMalloc simt_cudaMalloc
#undef cudaMemGetInfo
#define hipMemGetInfo simt_cudaMemGetInfo
#undef cudaMemcpy
#define hipMemcpy simt_cudaMemcpy
#undef cudaMemcpyAsync
#define hipMemcpyAsync simt_cudaMemcpyAsync
#undef cudaMemset
#define hipMemset simt_cudaMemset
#undef cudaMemsetAsync
#define hipMemsetAsync simt_cudaMemsetAsync
#undef cudaPeekAtLastError
#define hipPeekAtLastError simt_cudaPeekAtLastError
#undef cudaRuntimeGetVersion
#define hipRuntimeGetVersion simt_cudaRuntimeGetVersion
#undef cudaSetDevice
#define hipSetDevice simt_cudaSetDevice
#undef cudaStreamBeginCapture
#define hipStreamBeginCapture simt_cudaStreamBeginCapture
#undef cudaStreamCreate
#define hipStreamCreate simt_cudaStreamCreate
#undef cudaStreamCreateWithFlags
#define hipStreamCreateWithFlags simt_cudaStreamCreateWithFlags
#undef cudaStreamDestroy
#define hipStreamDestroy simt_cudaStreamDestroy
#undef cudaStreamEndCapture
#define hipStreamEndCapture simt_cudaStreamEndCapture
#undef cudaStreamIsCapturing
#define hipStreamIsCapturing simt_cudaStreamIsCapturing
#undef cudaStreamQuery
#define hipStreamQuery simt_cudaStreamQuery
#undef cudaStreamSynchronize
#define hipStreamSynchronize simt_cudaStreamSynchronize
#undef cudaStreamWaitEvent
#define hipStreamWaitEvent simt_cudaStreamWaitEvent
#undef cudaFuncSetAttribute
#define hipFuncSetAttribute simt_cudaFuncSetAttribute

#endif
