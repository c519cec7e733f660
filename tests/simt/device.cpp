/* The emulated devices: properties, the current one, errors and injected faults. */
#include "runtime.h"

#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <string>

namespace simt
{

std::recursive_mutex runtime_mutex;

static thread_local int selected_device;       // by cudaSetDevice
static thread_local std::vector<int> contexts; // the driver's stack of what is current, as devices
static thread_local cudaError_t last_error;

struct Kind {
    const char *name;
    int major, minor, multiprocessors;
    size_t shared_optin, shared_multiprocessor;
    int threads_multiprocessor, blocks_multiprocessor, l2, bus;
};

// As the hardware they are named after, memory sizes aside.
static const Kind kinds[device_count] = {
    {"emulated H100", 9, 0, 132, 227 << 10, 228 << 10, 2048, 32, 50 << 20, 5120},
    {"emulated A100", 8, 0, 108, 163 << 10, 164 << 10, 2048, 32, 40 << 20, 5120},
    {"emulated L40", 8, 9, 142, 99 << 10, 100 << 10, 1536, 24, 96 << 20, 384},
};

static size_t memory_from_environment()
{
    const char *text = getenv("SIMT_MEMORY");
    long long mebibytes = text ? atoll(text) : 0;
    return (size_t)(mebibytes > 0 ? mebibytes : 4096) << 20;
}

static void describe(cudaDeviceProp *p, const Kind &kind, int ordinal)
{
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s", kind.name);
    memcpy(p->uuid.bytes, "simt ", 5);
    p->uuid.bytes[5] = (char)('0' + ordinal);
    p->totalGlobalMem = memory_from_environment();
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = kind.shared_optin;
    p->sharedMemPerMultiprocessor = kind.shared_multiprocessor;
    p->reservedSharedMemPerBlock = 1024;
    p->totalConstMem = 64 << 10;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = max_threads;
    p->maxThreadsPerMultiProcessor = kind.threads_multiprocessor;
    p->maxBlocksPerMultiProcessor = kind.blocks_multiprocessor;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = kind.major;
    p->minor = kind.minor;
    p->multiProcessorCount = kind.multiprocessors;
    p->l2CacheSize = kind.l2;
    p->persistingL2CacheMaxSize = kind.l2 / 2;
    p->memoryBusWidth = kind.bus;
    p->pciBusID = ordinal + 1;
    p->canMapHostMemory = p->unifiedAddressing = p->concurrentKernels = 1;
    p->asyncEngineCount = 2;
    p->cooperativeLaunch = p->hostRegisterSupported = p->memoryPoolsSupported = 1;
}

struct Devices {
    Device device[device_count];
    Devices()
    {
        for (int i = 0; i < device_count; i++)
            describe(&device[i].properties, kinds[i], i);
    }
};

Device &device_at(int ordinal)
{
    static Devices devices;
    return devices.device[ordinal];
}

int current_device()
{
    return contexts.empty() ? selected_device : contexts.back();
}

// What needs a context makes one, and makes it current where none is.
static void need_context()
{
    if (contexts.empty())
        contexts.push_back(selected_device);
    device_at(contexts.back()).has_context = true;
}

size_t device_static_shared(int device)
{
    return device_at(device).properties.sharedMemPerBlock;
}

size_t device_shared_limit(int device)
{
    return device_at(device).properties.sharedMemPerBlockOptin;
}

// ---- errors ---------------------------------------------------------------------------------------

struct Fault {
    int skip;
    bool always;
    cudaError_t error;
};

static std::map<std::string, Fault> &faults()
{
    static std::map<std::string, Fault> all;
    return all;
}

bool stays(cudaError_t error)
{
    switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorLaunchFailure:
        return true;
    default:
        return false;
    }
}

static cudaError_t injected(const char *name)
{
    for (const char *key : {name, "*"}) {
        auto found = faults().find(key);
        if (found == faults().end())
            continue;
        Fault fault = found->second;
        if (fault.skip > 0) {
            found->second.skip--;
            continue;
        }
        if (!fault.always)
            faults().erase(found);
        return fault.error;
    }
    return cudaSuccess;
}

// An injected fault; one that a device does not recover from stays.
static cudaError_t injected_fault(const char *name)
{
    cudaError_t error = injected(name);
    if (stays(error))
        device_at(current_device()).lost = error;
    return error;
}

cudaError_t begin_call(const char *name)
{
    cudaError_t error = injected_fault(name);
    need_context();
    const Device &device = device_at(current_device());
    return device.lost ? device.lost : error;
}

cudaError_t end_call(cudaError_t error)
{
    if (error && error != cudaErrorNotReady)
        last_error = error;
    return error;
}

void lose_device(int device, cudaError_t error)
{
    if (stays(error))
        device_at(device).lost = error;
    last_error = error;
}

} // namespace simt

using namespace simt;

// Calls that need no working device.
#define BEGIN_ANYWAY(name)                                                                         \
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);                                     \
    if (cudaError_t error = injected_fault(name))                                                  \
    return end_call(error)
#define BEGIN(name)                                                                                \
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);                                     \
    if (cudaError_t error = begin_call(name))                                                      \
    return end_call(error)

void simt_fail_next(const char *call, cudaError_t error)
{
    simt_fail_after(call, 0, error);
}

void simt_fail_after(const char *call, int skip, cudaError_t error)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    faults()[call] = {skip, false, error};
}

void simt_fail_always(const char *call, cudaError_t error)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    faults()[call] = {0, true, error};
}

void simt_recover(void)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    faults().clear();
    for (int i = 0; i < device_count; i++)
        device_at(i).lost = cudaSuccess;
    last_error = cudaSuccess;
}

int simt_has_context(int device)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    return device_at(device).has_context;
}

void simt_set_memory(int device, size_t size)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    device_at(device).properties.totalGlobalMem = size;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    cudaError_t lost = device_at(current_device()).lost;
    last_error = cudaSuccess;
    return lost ? lost : error;
}

cudaError_t cudaPeekAtLastError(void)
{
    cudaError_t lost = device_at(current_device()).lost;
    return lost ? lost : last_error;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    BEGIN_ANYWAY("cudaGetDeviceCount");
    *count = device_count;
    return cudaSuccess;
}

static bool exists(int device)
{
    return device >= 0 && device < device_count;
}

cudaError_t cudaSetDevice(int device)
{
    BEGIN_ANYWAY("cudaSetDevice");
    if (!exists(device))
        return end_call(cudaErrorInvalidDevice);
    selected_device = device; // and as of CUDA 12 its context is made at once
    if (!contexts.empty())
        contexts.back() = device;
    need_context();
    return end_call(device_at(device).lost);
}

cudaError_t cudaGetDevice(int *device)
{
    BEGIN_ANYWAY("cudaGetDevice");
    *device = current_device();
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned flags)
{
    (void)flags;
    BEGIN_ANYWAY("cudaSetDeviceFlags");
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    BEGIN_ANYWAY("cudaGetDeviceProperties");
    if (!exists(device))
        return end_call(cudaErrorInvalidDevice);
    *properties = device_at(device).properties;
    return cudaSuccess;
}

static bool attribute_of(const cudaDeviceProp &p, enum cudaDeviceAttr attribute, int *value)
{
    const struct {
        enum cudaDeviceAttr attribute;
        int value;
    } table[] = {
        {cudaDevAttrMaxThreadsPerBlock, p.maxThreadsPerBlock},
        {cudaDevAttrMaxBlockDimX, p.maxThreadsDim[0]},
        {cudaDevAttrMaxBlockDimY, p.maxThreadsDim[1]},
        {cudaDevAttrMaxBlockDimZ, p.maxThreadsDim[2]},
        {cudaDevAttrMaxGridDimX, p.maxGridSize[0]},
        {cudaDevAttrMaxGridDimY, p.maxGridSize[1]},
        {cudaDevAttrMaxGridDimZ, p.maxGridSize[2]},
        {cudaDevAttrMaxSharedMemoryPerBlock, (int)p.sharedMemPerBlock},
        {cudaDevAttrWarpSize, p.warpSize},
        {cudaDevAttrMaxRegistersPerBlock, p.regsPerBlock},
        {cudaDevAttrClockRate, 1500000},
        {cudaDevAttrMultiProcessorCount, p.multiProcessorCount},
        {cudaDevAttrIntegrated, p.integrated},
        {cudaDevAttrEccEnabled, p.ECCEnabled},
        {cudaDevAttrPciBusId, p.pciBusID},
        {cudaDevAttrPciDeviceId, p.pciDeviceID},
        {cudaDevAttrMemoryClockRate, 1000000},
        {cudaDevAttrGlobalMemoryBusWidth, p.memoryBusWidth},
        {cudaDevAttrL2CacheSize, p.l2CacheSize},
        {cudaDevAttrMaxThreadsPerMultiProcessor, p.maxThreadsPerMultiProcessor},
        {cudaDevAttrUnifiedAddressing, p.unifiedAddressing},
        {cudaDevAttrPciDomainId, p.pciDomainID},
        {cudaDevAttrComputeCapabilityMajor, p.major},
        {cudaDevAttrComputeCapabilityMinor, p.minor},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, (int)p.sharedMemPerMultiprocessor},
        {cudaDevAttrMaxRegistersPerMultiprocessor, p.regsPerMultiprocessor},
        {cudaDevAttrCooperativeLaunch, p.cooperativeLaunch},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, (int)p.sharedMemPerBlockOptin},
        {cudaDevAttrHostRegisterSupported, p.hostRegisterSupported},
        {cudaDevAttrMaxPersistingL2CacheSize, p.persistingL2CacheMaxSize},
        {cudaDevAttrReservedSharedMemoryPerBlock, (int)p.reservedSharedMemPerBlock},
        {cudaDevAttrHostRegisterReadOnlySupported, 1},
        {cudaDevAttrMemoryPoolsSupported, p.memoryPoolsSupported},
    };
    for (const auto &row : table) {
        if (row.attribute == attribute) {
            *value = row.value;
            return true;
        }
    }
    return false;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    BEGIN_ANYWAY("cudaDeviceGetAttribute");
    if (!exists(device))
        return end_call(cudaErrorInvalidDevice);
    return end_call(attribute_of(device_at(device).properties, attribute, value)
                        ? cudaSuccess
                        : cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device)
{
    BEGIN_ANYWAY("cudaDeviceGetPCIBusId");
    if (!exists(device) || size < 13)
        return end_call(exists(device) ? cudaErrorInvalidValue : cudaErrorInvalidDevice);
    const cudaDeviceProp &p = device_at(device).properties;
    snprintf(text, (size_t)size, "%04x:%02x:%02x.0", p.pciDomainID, p.pciBusID, p.pciDeviceID);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    BEGIN("cudaDeviceSynchronize");
    if (cudaError_t forbidden = forbid_capture("cudaDeviceSynchronize"))
        return end_call(forbidden);
    return end_call(synchronize_device(current_device()));
}

cudaError_t cudaDeviceReset(void)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    destroy_streams(current_device());
    free_all(current_device());
    device_at(current_device()).lost = cudaSuccess;
    last_error = cudaSuccess;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    BEGIN_ANYWAY("cudaDriverGetVersion");
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    BEGIN_ANYWAY("cudaRuntimeGetVersion");
    *version = CUDART_VERSION;
    return cudaSuccess;
}

// ---- the driver's contexts: the primary one of each device ----------------------------------------

#define BEGIN_DRIVER(name)                                                                         \
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);                                     \
    if (cudaError_t error = injected_fault(name))                                                  \
    return static_cast<CUresult>(error)

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    BEGIN_DRIVER("cuDeviceGet");
    *device = ordinal;
    return exists(ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    BEGIN_DRIVER("cuDevicePrimaryCtxRetain");
    if (!exists(device))
        return CUDA_ERROR_INVALID_DEVICE;
    device_at(device).has_context = true;
    *context = reinterpret_cast<CUcontext>(&device_at(device));
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context)
{
    BEGIN_DRIVER("cuCtxPushCurrent");
    for (int i = 0; i < device_count; i++)
        if (context == reinterpret_cast<CUcontext>(&device_at(i)) && device_at(i).has_context) {
            contexts.push_back(i);
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuCtxPopCurrent(CUcontext *context)
{
    BEGIN_DRIVER("cuCtxPopCurrent");
    if (contexts.empty())
        return CUDA_ERROR_INVALID_CONTEXT;
    *context = reinterpret_cast<CUcontext>(&device_at(contexts.back()));
    contexts.pop_back();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    BEGIN_DRIVER("cuCtxGetCurrent");
    *context =
        contexts.empty() ? nullptr : reinterpret_cast<CUcontext>(&device_at(contexts.back()));
    return CUDA_SUCCESS;
}

// ---- entry points of the driver -------------------------------------------------------------------

static std::map<std::string, void *> &driver_functions()
{
    static std::map<std::string, void *> all = {
        {"cuTensorMapEncodeTiled", reinterpret_cast<void *>(cuTensorMapEncodeTiled)},
        {"cuDeviceGet", reinterpret_cast<void *>(cuDeviceGet)},
        {"cuDevicePrimaryCtxRetain", reinterpret_cast<void *>(cuDevicePrimaryCtxRetain)},
        {"cuCtxPushCurrent", reinterpret_cast<void *>(cuCtxPushCurrent)},
        {"cuCtxPopCurrent", reinterpret_cast<void *>(cuCtxPopCurrent)},
        {"cuCtxGetCurrent", reinterpret_cast<void *>(cuCtxGetCurrent)},
    };
    return all;
}

void simt_driver_function(const char *symbol, void *function)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    driver_functions()[symbol] = function;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result)
{
    (void)flags;
    BEGIN_ANYWAY("cudaGetDriverEntryPointByVersion");
    auto found = driver_functions().find(symbol);
    bool known = found != driver_functions().end(), old = version <= CUDART_VERSION;
    *function = known && old ? found->second : nullptr;
    if (result)
        *result = !known ? cudaDriverEntryPointSymbolNotFound
                  : old  ? cudaDriverEntryPointSuccess
                         : cudaDriverEntryPointVersionNotSufficent;
    return end_call(known || result ? cudaSuccess : cudaErrorSymbolNotFound);
}

cudaError_t cudaGetDriverEntryPoint(const char *symbol, void **function, unsigned long long flags,
                                    enum cudaDriverEntryPointQueryResult *result)
{
    return cudaGetDriverEntryPointByVersion(symbol, function, CUDART_VERSION, flags, result);
}

// ---- names of errors ------------------------------------------------------------------------------

static const struct {
    cudaError_t error;
    const char *name, *text;
} error_names[] = {
#define ERROR(name, text)                                                                          \
    {                                                                                              \
        name, #name, text                                                                          \
    }
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInitializationError, "initialization error"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInvalidPitchValue, "invalid pitch argument"),
    ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ERROR(cudaErrorInsufficientDriver,
          "CUDA driver version is insufficient for CUDA runtime version"),
    ERROR(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable"),
    ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorInvalidKernelImage, "device kernel image is invalid"),
    ERROR(cudaErrorNoKernelImageForDevice,
          "no kernel image is available for execution on the device"),
    ERROR(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    ERROR(cudaErrorSymbolNotFound, "named symbol not found"),
    ERROR(cudaErrorNotReady, "device not ready"),
    ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ERROR(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    ERROR(cudaErrorAssert, "device-side assert triggered"),
    ERROR(cudaErrorHostMemoryAlreadyRegistered,
          "part or all of the requested memory range is already mapped"),
    ERROR(cudaErrorHostMemoryNotRegistered,
          "pointer does not correspond to a registered memory region"),
    ERROR(cudaErrorHardwareStackError, "hardware stack error"),
    ERROR(cudaErrorIllegalInstruction, "an illegal instruction was encountered"),
    ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    ERROR(cudaErrorInvalidAddressSpace, "operation not supported on global/shared address space"),
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR(cudaErrorNotPermitted, "operation not permitted"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorSystemNotReady, "system not yet initialized"),
    ERROR(cudaErrorSystemDriverMismatch,
          "system has unsupported display driver / cuda driver combination"),
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ERROR(cudaErrorStreamCaptureInvalidated,
          "operation failed due to a previous error during capture"),
    ERROR(cudaErrorStreamCaptureMerge,
          "operation would result in a merge of separate capture sequences"),
    ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    ERROR(cudaErrorStreamCaptureIsolation,
          "dependency created on uncaptured work in another stream"),
    ERROR(cudaErrorStreamCaptureImplicit,
          "operation would make the legacy stream depend on a capturing blocking stream"),
    ERROR(cudaErrorCapturedEvent,
          "operation not permitted on an event last recorded in a capturing stream"),
    ERROR(cudaErrorGraphExecUpdateFailure,
          "the graph update was not performed because it included changes which violated "
          "constraints specific to instantiated graph update"),
    ERROR(cudaErrorUnknown, "unknown error"),
#undef ERROR
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &row : error_names) {
        if (row.error == error)
            return row.name;
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &row : error_names) {
        if (row.error == error)
            return row.text;
    }
    return "unrecognized error code";
}
