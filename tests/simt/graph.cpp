/* Capturing the work of streams into graphs, and running graphs. A graph keeps the order in which work was captured,
 * which is one that its dependencies allow. */
#include "stream.h"

#include <stdio.h>

using namespace simt;

#define BEGIN(name)                                                                                \
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);                                     \
    if (cudaError_t error = begin_call(name))                                                      \
    return end_call(error)

// Handles of graphs share ownership with the captures and executables made of them.
static std::vector<std::shared_ptr<CUgraph_st>> &graphs()
{
    static std::vector<std::shared_ptr<CUgraph_st>> all;
    return all;
}

static bool is_graph(cudaGraph_t graph)
{
    for (const std::shared_ptr<CUgraph_st> &known : graphs()) {
        if (known.get() == graph)
            return true;
    }
    return false;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
    BEGIN("cudaStreamBeginCapture");
    if ((uintptr_t)handle <= 1)
        return end_call(cudaErrorStreamCaptureUnsupported);
    std::shared_ptr<Stream_state> stream = state_of(handle);
    if (!stream)
        return end_call(cudaErrorInvalidResourceHandle);
    if (stream->capture)
        return end_call(cudaErrorIllegalState);
    stream->capture = std::make_shared<CUgraph_st>();
    stream->capture_origin = true;
    stream->capture_mode = mode;
    stream->capture_thread = std::this_thread::get_id();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
    BEGIN("cudaStreamEndCapture");
    *graph = nullptr;
    std::shared_ptr<Stream_state> stream = state_of(handle);
    if (!stream)
        return end_call(cudaErrorInvalidResourceHandle);
    if (!stream->capture)
        return end_call(cudaErrorIllegalState);
    if (!stream->capture_origin)
        return end_call(cudaErrorStreamCaptureUnmatched);
    std::shared_ptr<CUgraph_st> captured = stream->capture;
    bool unjoined = false;
    for (int device = 0; device < device_count; device++) {
        for (cudaStream_t other : device_at(device).streams) {
            Stream_state *state = other->state.get();
            if (state->capture != captured)
                continue;
            unjoined = unjoined || (!state->capture_origin && !state->capture_joined);
            state->capture.reset();
            state->capture_origin = false;
            state->capture_joined = true;
        }
    }
    if (captured->invalid)
        return end_call(cudaErrorStreamCaptureInvalidated);
    if (unjoined)
        return end_call(cudaErrorStreamCaptureUnjoined);
    graphs().push_back(captured);
    *graph = captured.get();
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *status)
{
    BEGIN("cudaStreamIsCapturing");
    std::shared_ptr<Stream_state> stream = state_of(handle);
    if (!stream)
        return end_call(cudaErrorInvalidResourceHandle);
    *status = !stream->capture           ? cudaStreamCaptureStatusNone
              : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphCreate(cudaGraph_t *graph, unsigned flags)
{
    (void)flags;
    BEGIN("cudaGraphCreate");
    graphs().push_back(std::make_shared<CUgraph_st>());
    *graph = graphs().back().get();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    std::vector<std::shared_ptr<CUgraph_st>> &all = graphs();
    for (size_t i = 0; i < all.size(); i++) {
        if (all[i].get() == graph) {
            all.erase(all.begin() + (long)i);
            return cudaSuccess;
        }
    }
    return end_call(cudaErrorInvalidValue);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    BEGIN("cudaGraphGetNodes");
    if (!is_graph(graph))
        return end_call(cudaErrorInvalidValue);
    size_t known = graph->nodes.size();
    for (size_t i = 0; nodes && i < *count; i++)
        nodes[i] = i < known ? (cudaGraphNode_t)&graph->nodes[i] : nullptr;
    if (!nodes || *count > known)
        *count = known;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    BEGIN("cudaGraphInstantiate");
    if (!is_graph(graph))
        return end_call(cudaErrorInvalidValue);
    *exec = new CUgraphExec_st{std::make_shared<const std::vector<Work>>(graph->nodes)};
    return cudaSuccess;
}

static enum cudaGraphExecUpdateResult compare(const std::vector<Work> &old,
                                              const std::vector<Work> &now)
{
    if (old.size() != now.size())
        return cudaGraphExecUpdateErrorTopologyChanged;
    for (size_t i = 0; i < old.size(); i++) {
        if (old[i].kind != now[i].kind)
            return cudaGraphExecUpdateErrorNodeTypeChanged;
    }
    return cudaGraphExecUpdateSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *info)
{
    BEGIN("cudaGraphExecUpdate");
    if (!exec || !is_graph(graph))
        return end_call(cudaErrorInvalidValue);
    enum cudaGraphExecUpdateResult result = compare(*exec->nodes, graph->nodes);
    if (info)
        *info = {result, nullptr, nullptr};
    if (result != cudaGraphExecUpdateSuccess)
        return end_call(cudaErrorGraphExecUpdateFailure);
    exec->nodes = std::make_shared<const std::vector<Work>>(graph->nodes);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    BEGIN("cudaGraphUpload");
    return end_call(exec && state_of(stream) ? cudaSuccess : cudaErrorInvalidValue);
}

// Graphs are validated when they are made executable, nobody says how. So what a kernel may have must not have become
// less than a launch of the graph has, neither then nor later.
static bool fit_limits(const std::vector<Work> &nodes, int device)
{
    for (const Work &work : nodes) {
        if (work.kind != Work::Kind::kernel)
            continue;
        size_t limit = dynamic_limit(device, work.function);
        if (work.dynamic_size <= limit)
            continue;
        char report[200];
        snprintf(report, sizeof report,
                 "simt: a graph: a kernel has %zu bytes of dynamic shared memory, and "
                 "cudaFuncSetAttribute has since lowered what is allowed to %zu",
                 work.dynamic_size, limit);
        publish(report);
        return false;
    }
    return true;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    BEGIN("cudaGraphLaunch");
    if (!exec)
        return end_call(cudaErrorInvalidValue);
    std::shared_ptr<const std::vector<Work>> nodes = exec->nodes;
    if (!fit_limits(*nodes, stream_device(stream)))
        return end_call(cudaErrorInvalidValue);
    return end_call(submit(stream, {Work::Kind::host,
                                    [nodes] {
                                        for (const Work &work : *nodes) {
                                            if (cudaError_t error = work.run())
                                                return error;
                                        }
                                        return cudaSuccess;
                                    },
                                    nullptr}));
}
