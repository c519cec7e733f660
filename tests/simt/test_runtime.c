/* The runtime API from C: devices, memory, streams and events in both orders of execution, graphs, errors that pass
 * and errors that stay, injected faults. */
#include "test_runtime.h"

#include "simt.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checks, failures;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        checks++;                                                                                  \
        if (!(condition)) {                                                                        \
            failures++;                                                                            \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                 \
        }                                                                                          \
    } while (0)

enum { N = 1000 };

static void test_devices(void)
{
    static const struct {
        int major, minor, shared;
    } expected[] = {{9, 0, 227}, {8, 0, 163}, {8, 9, 99}};
    int count = 0, value;
    CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 3);
    for (int i = 0; i < count; i++) {
        struct cudaDeviceProp p;
        CHECK(cudaGetDeviceProperties(&p, i) == cudaSuccess);
        CHECK(p.major == expected[i].major && p.minor == expected[i].minor && p.warpSize == 32);
        CHECK(p.sharedMemPerBlock == 48 * 1024);
        CHECK(p.sharedMemPerBlockOptin == (size_t)expected[i].shared * 1024);
        CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMinor, i) == cudaSuccess);
        CHECK(value == expected[i].minor);
        CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, i) ==
              cudaSuccess);
        CHECK(value == expected[i].shared * 1024);
        CHECK(cudaSetDevice(i) == cudaSuccess);
        CHECK(cudaGetDevice(&value) == cudaSuccess && value == i);
    }
    CHECK(cudaSetDevice(3) == cudaErrorInvalidDevice);
    CHECK(cudaPeekAtLastError() == cudaErrorInvalidDevice);
    CHECK(cudaGetLastError() == cudaErrorInvalidDevice);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cudaSetDevice(0) == cudaSuccess);
    CHECK(!strcmp(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation"));
    CHECK(!strcmp(cudaGetErrorString(cudaErrorInsufficientDriver),
                  "CUDA driver version is insufficient for CUDA runtime version"));
    void *function = NULL;
    enum cudaDriverEntryPointQueryResult result;
    CHECK(cudaGetDriverEntryPointByVersion("cuNoSuch", &function, 12000, 0, &result) ==
          cudaSuccess);
    CHECK(result == cudaDriverEntryPointSymbolNotFound && !function);
    simt_driver_function("cuNoSuch", &count);
    CHECK(cudaGetDriverEntryPointByVersion("cuNoSuch", &function, 12000, 0, &result) ==
          cudaSuccess);
    CHECK(result == cudaDriverEntryPointSuccess && function == &count);
}

static void test_memory(void)
{
    size_t before, after, total;
    char *a, *b;
    unsigned char host[300], back[300];
    struct cudaPointerAttributes attributes;
    CHECK(cudaMemGetInfo(&before, &total) == cudaSuccess && before <= total);
    CHECK(cudaMalloc((void **)&a, 300) == cudaSuccess &&
          cudaMalloc((void **)&b, 300) == cudaSuccess);
    CHECK((uintptr_t)a % 256 == 0 && (uintptr_t)b % 256 == 0);
    CHECK(cudaMemGetInfo(&after, &total) == cudaSuccess && before - after == 1024);
    CHECK(cudaMemcpy(back, a, 300, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(back[0] == 0xff && back[299] == 0xff); /* nothing that happens to be zero */
    for (int i = 0; i < 300; i++)
        host[i] = (unsigned char)i;
    CHECK(cudaMemcpy(a, host, 300, cudaMemcpyHostToDevice) == cudaSuccess);
    CHECK(cudaMemcpy(b, a, 300, cudaMemcpyDeviceToDevice) == cudaSuccess);
    CHECK(cudaMemset(b + 10, 7, 5) == cudaSuccess);
    CHECK(cudaMemcpy(back, b, 300, cudaMemcpyDefault) == cudaSuccess);
    CHECK(back[9] == 9 && back[10] == 7 && back[14] == 7 && back[15] == 15 &&
          back[299] == 299 % 256);
    CHECK(cudaMemcpy2D(back, 10, a + 5, 30, 10, 9, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(back[0] == 5 && back[10] == 35 && back[89] == (unsigned char)(5 + 8 * 30 + 9));
    CHECK(cudaPointerGetAttributes(&attributes, b + 20) == cudaSuccess);
    CHECK(attributes.type == cudaMemoryTypeDevice && attributes.device == 0);
    /* mistakes */
    CHECK(cudaMemcpy(b, host, 300, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(b, host, 301, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemset(b, 0, 301) == cudaErrorInvalidValue);
    CHECK(cudaMemset(host, 0, 3) == cudaErrorInvalidValue);
    CHECK(cudaFree(b + 1) == cudaErrorInvalidValue);
    CHECK(cudaFree(b) == cudaSuccess && cudaFree(b) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(back, b, 1, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaFree(a) == cudaSuccess && cudaFree(NULL) == cudaSuccess);
    cudaGetLastError();
    CHECK(simt_live_allocations() == 0);
    /* a small device */
    simt_set_memory(0, 1 << 20);
    CHECK(cudaMalloc((void **)&a, 600 << 10) == cudaSuccess);
    CHECK(cudaMalloc((void **)&b, 600 << 10) == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation && b == NULL);
    CHECK(cudaFree(a) == cudaSuccess);
    simt_set_memory(0, total);
    /* pinned */
    CHECK(cudaMallocHost((void **)&a, 100) == cudaSuccess);
    CHECK(cudaHostRegister(host, sizeof host, cudaHostRegisterDefault) == cudaSuccess);
    CHECK(cudaHostRegister(host + 5, 10, cudaHostRegisterDefault) ==
          cudaErrorHostMemoryAlreadyRegistered);
    CHECK(cudaPointerGetAttributes(&attributes, host) == cudaSuccess &&
          attributes.type == cudaMemoryTypeHost);
    CHECK(cudaHostUnregister(host) == cudaSuccess);
    CHECK(cudaHostUnregister(host) == cudaErrorHostMemoryNotRegistered);
    CHECK(cudaFreeHost(a) == cudaSuccess && cudaFreeHost(a) == cudaErrorInvalidValue);
    cudaGetLastError();
}

/* Addresses of freed memory are not used again soon. */
static void test_addresses(void)
{
    char *now, *last = NULL;
    for (int i = 0; i < 40; i++) {
        CHECK(cudaMalloc((void **)&now, 100 << 10) == cudaSuccess && now > last);
        last = now;
        CHECK(cudaFree(now) == cudaSuccess);
    }
}

static int host_calls;

static void count_call(void *data)
{
    host_calls += *(int *)data;
}

static void test_streams(int lazy)
{
    cudaStream_t a, b;
    cudaEvent_t ready, start, end;
    int *x, *y, *pinned, three = 3;
    float milliseconds = -1;
    simt_set_lazy_streams(lazy);
    CHECK(cudaMalloc((void **)&x, N * sizeof *x) == cudaSuccess);
    CHECK(cudaMalloc((void **)&y, N * sizeof *y) == cudaSuccess);
    CHECK(cudaMallocHost((void **)&pinned, N * sizeof *pinned) == cudaSuccess);
    CHECK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking) == cudaSuccess);
    CHECK(cudaStreamCreate(&b) == cudaSuccess);
    CHECK(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming) == cudaSuccess);
    CHECK(cudaEventCreate(&start) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess);
    for (int i = 0; i < N; i++)
        pinned[i] = i;
    host_calls = 0;
    CHECK(cudaEventRecord(start, a) == cudaSuccess);
    CHECK(cudaMemcpyAsync(x, pinned, N * sizeof *x, cudaMemcpyHostToDevice, a) == cudaSuccess);
    launch_add(x, x, N, 10, a);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cudaLaunchHostFunc(a, count_call, &three) == cudaSuccess);
    CHECK(cudaEventRecord(ready, a) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(b, ready, 0) == cudaSuccess);
    launch_add(y, x, N, 100, b);
    CHECK(host_calls == (lazy ? 0 : 3));
    pinned[5] = 1000; /* too early, when the copy comes late */
    CHECK(cudaStreamQuery(b) == (lazy ? cudaErrorNotReady : cudaSuccess));
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cudaStreamSynchronize(b) == cudaSuccess && cudaStreamQuery(b) == cudaSuccess);
    CHECK(host_calls == 3);
    CHECK(cudaMemcpyAsync(pinned, y, N * sizeof *y, cudaMemcpyDeviceToHost, b) == cudaSuccess);
    CHECK(cudaEventRecord(end, b) == cudaSuccess && cudaEventSynchronize(end) == cudaSuccess);
    CHECK(pinned[0] == 110 && pinned[N - 1] == N - 1 + 110);
    CHECK(pinned[5] == (lazy ? 1110 : 115));
    CHECK(cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess && milliseconds >= 0);
    CHECK(cudaEventElapsedTime(&milliseconds, ready, end) == cudaErrorInvalidResourceHandle);
    /* the default stream comes after b */
    launch_add(x, y, N, 1, b);
    launch_add(y, x, N, 1, 0);
    CHECK(cudaMemcpy(pinned, y, N * sizeof *y, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(pinned[0] == 112);
    CHECK(cudaStreamDestroy(a) == cudaSuccess && cudaStreamDestroy(b) == cudaSuccess);
    CHECK(cudaStreamDestroy(a) == cudaErrorInvalidResourceHandle);
    CHECK(cudaEventDestroy(ready) == cudaSuccess && cudaEventDestroy(start) == cudaSuccess);
    CHECK(cudaEventDestroy(end) == cudaSuccess &&
          cudaEventRecord(end, 0) == cudaErrorInvalidResourceHandle);
    CHECK(cudaFree(x) == cudaSuccess && cudaFree(y) == cudaSuccess &&
          cudaFreeHost(pinned) == cudaSuccess);
    cudaGetLastError();
    simt_set_lazy_streams(0);
}

/* A stream belongs to a device. */
static void test_device_of_stream(void)
{
    cudaStream_t stream;
    int *x;
    CHECK(cudaMalloc((void **)&x, N * sizeof *x) == cudaSuccess);
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    cudaSetDevice(1);
    launch_add(x, x, N, 1, stream);
    CHECK(cudaGetLastError() == cudaErrorInvalidResourceHandle);
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    cudaSetDevice(0);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess && cudaFree(x) == cudaSuccess);
}

static cudaGraph_t capture(cudaStream_t stream, cudaStream_t side, cudaEvent_t fork,
                           cudaEvent_t join, int *x, int *y, int value)
{
    cudaGraph_t graph = NULL;
    enum cudaStreamCaptureStatus status;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
          status == cudaStreamCaptureStatusActive);
    CHECK(cudaMemsetAsync(x, 0, N * sizeof *x, stream) == cudaSuccess);
    CHECK(cudaEventRecord(fork, stream) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(side, fork, 0) == cudaSuccess);
    launch_add(y, x, N, value, side);
    CHECK(cudaEventRecord(join, side) == cudaSuccess);
    launch_add(x, x, N, 1, stream);
    CHECK(cudaStreamWaitEvent(stream, join, 0) == cudaSuccess);
    launch_add(y, y, N, 1, stream);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(cudaStreamIsCapturing(side, &status) == cudaSuccess &&
          status == cudaStreamCaptureStatusNone);
    return graph;
}

static int first_of(const int *device)
{
    int value = -1;
    CHECK(cudaMemcpy(&value, device, sizeof value, cudaMemcpyDeviceToHost) == cudaSuccess);
    return value;
}

/* Launches that were recorded need what they needed then. */
static void test_graph_limits(void)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    int *y;
    CHECK(cudaMalloc((void **)&y, N * sizeof *y) == cudaSuccess);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    CHECK(allow_shared(100 << 10) == cudaSuccess);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    launch_shared(y, 90 << 10, stream);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess &&
          cudaStreamSynchronize(stream) == cudaSuccess && first_of(y) == 0);
    CHECK(allow_shared(80 << 10) == cudaSuccess);
    launch_shared(y, 70 << 10, stream);
    CHECK(cudaGetLastError() == cudaSuccess);
    simt_set_quiet(1);
    CHECK(cudaGraphLaunch(exec, stream) == cudaErrorInvalidValue &&
          strstr(simt_last_report(), "lowered"));
    simt_set_quiet(0);
    cudaGetLastError();
    CHECK(allow_shared(90 << 10) == cudaSuccess);
    CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess &&
          cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess && cudaGraphExecDestroy(exec) == cudaSuccess);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess && cudaFree(y) == cudaSuccess);
}

static void test_graphs(void)
{
    cudaStream_t stream, side;
    cudaEvent_t fork, join;
    cudaGraph_t graph, other;
    cudaGraphExec_t exec;
    cudaGraphExecUpdateResultInfo info;
    size_t nodes = 0;
    int *x, *y;
    CHECK(cudaMalloc((void **)&x, N * sizeof *x) == cudaSuccess &&
          cudaMalloc((void **)&y, N * sizeof *y) == cudaSuccess);
    CHECK(cudaMemset(y, 0, N * sizeof *y) == cudaSuccess);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaEventCreate(&fork);
    cudaEventCreate(&join);
    graph = capture(stream, side, fork, join, x, y, 5);
    CHECK(first_of(y) == 0); /* capturing runs nothing */
    CHECK(cudaGraphGetNodes(graph, NULL, &nodes) == cudaSuccess && nodes == 4);
    CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    for (int lazy = 0; lazy < 2; lazy++) {
        simt_set_lazy_streams(lazy);
        CHECK(cudaMemset(y, 0, N * sizeof *y) == cudaSuccess &&
              cudaDeviceSynchronize() == cudaSuccess);
        unsigned long long launches = simt_launches();
        CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);
        CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
        CHECK(simt_launches() == launches + 3);
        CHECK(first_of(y) == 6 && first_of(x) == 1);
    }
    simt_set_lazy_streams(0);
    /* other arguments, same shape */
    other = capture(stream, side, fork, join, x, y, 50);
    CHECK(cudaGraphExecUpdate(exec, other, &info) == cudaSuccess &&
          info.result == cudaGraphExecUpdateSuccess);
    CHECK(cudaGraphDestroy(other) == cudaSuccess);
    CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess &&
          cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(first_of(y) == 51);
    /* another shape */
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    launch_add(y, x, N, 1, stream);
    CHECK(cudaStreamEndCapture(stream, &other) == cudaSuccess);
    CHECK(cudaGraphExecUpdate(exec, other, &info) == cudaErrorGraphExecUpdateFailure);
    CHECK(info.result == cudaGraphExecUpdateErrorTopologyChanged);
    CHECK(cudaGraphDestroy(other) == cudaSuccess && cudaGraphExecDestroy(exec) == cudaSuccess);
    /* what must not be done while a stream captures */
    cudaGetLastError();
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(stream, &other) == cudaErrorStreamCaptureInvalidated && !other);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    void *memory;
    CHECK(cudaMalloc(&memory, 100) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(stream, &other) == cudaErrorStreamCaptureInvalidated);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(cudaEventRecord(fork, stream) == cudaSuccess &&
          cudaStreamWaitEvent(side, fork, 0) == cudaSuccess);
    launch_add(y, x, N, 1, side);
    CHECK(cudaStreamEndCapture(stream, &other) == cudaErrorStreamCaptureUnjoined);
    CHECK(cudaStreamEndCapture(stream, &other) == cudaErrorIllegalState);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess && cudaStreamDestroy(side) == cudaSuccess);
    CHECK(cudaEventDestroy(fork) == cudaSuccess && cudaEventDestroy(join) == cudaSuccess);
    CHECK(cudaFree(x) == cudaSuccess && cudaFree(y) == cudaSuccess);
    cudaGetLastError();
    simt_clear_report();
}

static void test_errors(void)
{
    int *x, count;
    void *memory = &count;
    CHECK(cudaMalloc((void **)&x, N * sizeof *x) == cudaSuccess);
    /* passes */
    simt_fail_next("cudaMalloc", cudaErrorMemoryAllocation);
    CHECK(cudaMalloc(&memory, 100) == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaMalloc(&memory, 100) == cudaSuccess && cudaFree(memory) == cudaSuccess);
    simt_fail_after("cudaMalloc", 1, cudaErrorMemoryAllocation);
    CHECK(cudaMalloc(&memory, 100) == cudaSuccess && cudaFree(memory) == cudaSuccess);
    CHECK(cudaMalloc(&memory, 100) == cudaErrorMemoryAllocation);
    simt_recover();
    /* no device, an old driver */
    simt_fail_always("*", cudaErrorNoDevice);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice && cudaSetDevice(0) == cudaErrorNoDevice);
    simt_fail_always("*", cudaErrorInsufficientDriver);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
    simt_recover();
    CHECK(cudaGetDeviceCount(&count) == cudaSuccess);
    /* a lost device: every call fails from then on; others go on */
    simt_fail_next("cudaLaunchKernel", cudaErrorECCUncorrectable);
    launch_add(x, x, N, 1, 0);
    CHECK(cudaGetLastError() == cudaErrorECCUncorrectable);
    CHECK(cudaMemset(x, 0, 4) == cudaErrorECCUncorrectable &&
          cudaGetLastError() == cudaErrorECCUncorrectable);
    CHECK(cudaDeviceSynchronize() == cudaErrorECCUncorrectable);
    CHECK(cudaSetDevice(1) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
    CHECK(cudaMalloc(&memory, 100) == cudaSuccess && cudaFree(memory) == cudaSuccess);
    CHECK(cudaSetDevice(0) == cudaErrorECCUncorrectable);
    simt_recover();
    CHECK(cudaSetDevice(0) == cudaSuccess && cudaMemset(x, 0, 4) == cudaSuccess);
    /* a kernel that hangs is seen when something waits for it */
    for (int lazy = 0; lazy < 2; lazy++) {
        cudaStream_t stream;
        simt_set_lazy_streams(lazy);
        CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
        launch_hang(stream);
        CHECK(cudaGetLastError() == (lazy ? cudaSuccess : cudaErrorLaunchTimeout));
        CHECK(cudaStreamSynchronize(stream) == cudaErrorLaunchTimeout);
        CHECK(strstr(simt_last_report(), "kernel hang") && strstr(simt_last_report(), "deadlock"));
        simt_recover();
        CHECK(cudaStreamDestroy(stream) == cudaSuccess);
    }
    simt_set_lazy_streams(0);
    CHECK(cudaDeviceReset() == cudaSuccess && simt_live_allocations() == 0);
    simt_clear_report();
}

int main(void)
{
    simt_set_quiet(getenv("SIMT_LOUD") == NULL);
    test_devices();
    test_memory();
    test_addresses();
    test_streams(0);
    test_streams(1);
    test_device_of_stream();
    test_graphs();
    test_graph_limits();
    test_errors();
    printf("runtime: %d checks, %d failures\n", checks, failures);
    return failures != 0;
}
