/* Recordings of ops, as CUDA graphs. */
#include "backend_cuda/host.h"

#include <stdlib.h>

struct rondo_recording {
    cudaGraphExec_t exec;
    uint64_t kernels;
    uint64_t workspace_serial; /* the workspace its kernels have pointers to */
};

static bool record_begin(struct rondo_device *device)
{
    struct gpu_host *host = gpu_host_of(device);
    if (!GPU(enter)(host))
        return false;
    host->recording_error = cudaSuccess;
    host->recorded = 0;
    /* Thread-local: other devices' threads may allocate meanwhile. */
    host->recording =
        cudaStreamBeginCapture(host->gpu.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    if (!host->recording)
        cudaGetLastError();
    GPU(leave)(host);
    return host->recording;
}

static struct rondo_recording *record_end(struct rondo_device *device)
{
    struct gpu_host *host = gpu_host_of(device);
    struct rondo_recording *recording = calloc(1, sizeof *recording);
    cudaGraph_t graph = NULL;
    bool entered = GPU(enter_anyway)(host);
    cudaError_t error = cudaStreamEndCapture(host->gpu.stream, &graph);
    if (error == cudaSuccess)
        error = host->recording_error;
    host->recording = false;
    host->recording_error = cudaSuccess;
    if (recording && error == cudaSuccess)
        error = cudaGraphInstantiate(&recording->exec, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    if (error != cudaSuccess)
        cudaGetLastError();
    if (entered)
        GPU(leave)(host);
    if (!recording || error != cudaSuccess) {
        free(recording);
        return NULL;
    }
    recording->kernels = host->recorded;
    recording->workspace_serial = host->workspace_serial;
    return recording;
}

static bool replay(struct rondo_device *device, struct rondo_recording *recording)
{
    struct gpu_host *host = gpu_host_of(device);
    if (recording->workspace_serial != host->workspace_serial || !GPU(enter)(host))
        return false;
    host->counts.kernels += recording->kernels;
    host->counts.submissions++;
    GPU(failed)(&host->gpu, cudaGraphLaunch(recording->exec, host->gpu.stream), "recorded ops");
    GPU(leave)(host);
    return true;
}

static void record_release(struct rondo_device *device, struct rondo_recording *recording)
{
    struct gpu_host *host = gpu_host_of(device);
    if (recording && GPU(enter_anyway)(host)) {
        cudaGraphExecDestroy(recording->exec);
        GPU(leave)(host);
    }
    free(recording);
}

void GPU(set_recording)(struct rondo_device *device)
{
    device->record_begin = record_begin;
    device->record_end = record_end;
    device->replay = replay;
    device->record_release = record_release;
}
