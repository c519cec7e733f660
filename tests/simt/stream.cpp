/* Streams and events. Work runs when it is submitted, or, if streams are lazy, when something waits for it: both are
 * orders that hardware may choose. Events order work of lazy streams; the default stream and blocking streams order
 * each other. */
#include "stream.h"

#include <time.h>

#include <set>

namespace simt
{

static std::set<cudaStream_t> &streams()
{
    static std::set<cudaStream_t> all;
    return all;
}

static std::set<cudaEvent_t> &events()
{
    static std::set<cudaEvent_t> all;
    return all;
}

static cudaStream_t make_stream(int device, bool blocking)
{
    CUstream_st *stream = new CUstream_st{std::make_shared<Stream_state>()};
    stream->state->device = device;
    stream->state->blocking = blocking;
    streams().insert(stream);
    device_at(device).streams.push_back(stream);
    return stream;
}

cudaStream_t resolve_stream(cudaStream_t stream)
{
    if ((uintptr_t)stream > 2)
        return stream;
    Device &device = device_at(current_device());
    if (!device.default_stream)
        device.default_stream = make_stream(current_device(), true);
    return device.default_stream;
}

std::shared_ptr<Stream_state> state_of(cudaStream_t stream)
{
    stream = resolve_stream(stream);
    return streams().count(stream) ? stream->state : nullptr;
}

int stream_device(cudaStream_t stream)
{
    std::shared_ptr<Stream_state> state = state_of(stream);
    return state ? state->device : current_device();
}

bool stream_captures(cudaStream_t stream)
{
    std::shared_ptr<Stream_state> state = state_of(stream);
    return state && state->capture;
}

// ---- doing work -----------------------------------------------------------------------------------

static void execute(Stream_state *stream, const Work &work)
{
    if (!device_at(stream->device).lost) {
        if (cudaError_t error = work.run())
            lose_device(stream->device, error);
    }
    stream->done++;
}

void run_until(Stream_state *stream, uint64_t number)
{
    while (stream->done < number && !stream->queue.empty()) {
        Pending next = std::move(stream->queue.front());
        stream->queue.pop_front();
        for (const Point &point : next.after)
            run_until(point.stream.get(), point.number);
        execute(stream, next.work);
    }
}

// The default stream waits for blocking streams of the device, and they for it.
static void order_with_default(const std::shared_ptr<Stream_state> &stream,
                               std::vector<Point> *after)
{
    Device &device = device_at(stream->device);
    bool is_default = device.default_stream && device.default_stream->state == stream;
    if (!stream->blocking || !device.default_stream)
        return;
    for (cudaStream_t other : device.streams) {
        if (other->state == stream || !other->state->blocking)
            continue;
        if (is_default || other == device.default_stream)
            after->push_back({other->state, other->state->submitted});
    }
}

static cudaError_t capture(Stream_state *stream, Work work)
{
    if (stream->capture->invalid)
        return cudaErrorStreamCaptureInvalidated;
    stream->capture_joined = false;
    if (work.kind != Work::Kind::record && work.kind != Work::Kind::wait)
        stream->capture->nodes.push_back(std::move(work));
    return cudaSuccess;
}

static bool some_blocking_stream_captures(int device)
{
    for (cudaStream_t stream : device_at(device).streams) {
        if (stream->state->blocking && stream->state->capture)
            return true;
    }
    return false;
}

cudaError_t submit(cudaStream_t handle, Work work)
{
    std::shared_ptr<Stream_state> stream = state_of(handle);
    if (!stream)
        return cudaErrorInvalidResourceHandle;
    if (work.kind == Work::Kind::kernel && stream->device != current_device())
        return cudaErrorInvalidResourceHandle;
    if (stream->capture)
        return capture(stream.get(), std::move(work));
    Device &device = device_at(stream->device);
    if (device.default_stream && device.default_stream->state == stream &&
        some_blocking_stream_captures(stream->device)) {
        forbid_capture("work of the default stream");
        return cudaErrorStreamCaptureImplicit;
    }
    Pending pending = {std::move(work), std::move(stream->after)};
    stream->after.clear();
    order_with_default(stream, &pending.after);
    stream->submitted++;
    if (settings.lazy_streams) {
        stream->queue.push_back(std::move(pending));
        return cudaSuccess;
    }
    run_until(stream.get(), stream->submitted); // what was queued before streams became eager
    for (const Point &point : pending.after)
        run_until(point.stream.get(), point.number);
    execute(stream.get(), pending.work);
    return device.lost;
}

cudaError_t synchronize_stream(cudaStream_t handle)
{
    std::shared_ptr<Stream_state> stream = state_of(handle);
    if (!stream)
        return cudaErrorInvalidResourceHandle;
    std::vector<Point> after;
    order_with_default(stream, &after);
    if (device_at(stream->device).default_stream == resolve_stream(handle)) {
        for (const Point &point : after)
            run_until(point.stream.get(), point.number);
    }
    run_until(stream.get(), stream->submitted);
    return device_at(stream->device).lost;
}

cudaError_t synchronize_device(int device)
{
    for (size_t i = 0; i < device_at(device).streams.size(); i++) {
        std::shared_ptr<Stream_state> stream = device_at(device).streams[i]->state;
        run_until(stream.get(), stream->submitted);
    }
    return device_at(device).lost;
}

static void forget_stream(cudaStream_t stream)
{
    std::vector<cudaStream_t> &list = device_at(stream->state->device).streams;
    for (size_t i = 0; i < list.size(); i++) {
        if (list[i] == stream) {
            list.erase(list.begin() + (long)i);
            break;
        }
    }
    streams().erase(stream);
    delete stream;
}

void destroy_streams(int device)
{
    while (!device_at(device).streams.empty())
        forget_stream(device_at(device).streams.back());
    device_at(device).default_stream = nullptr;
}

cudaError_t forbid_capture(const char *what)
{
    cudaError_t error = cudaSuccess;
    for (int device = 0; device < device_count; device++) {
        for (cudaStream_t stream : device_at(device).streams) {
            Stream_state *state = stream->state.get();
            if (!state->capture || state->capture_mode == cudaStreamCaptureModeRelaxed ||
                (state->capture_mode == cudaStreamCaptureModeThreadLocal &&
                 state->capture_thread != std::this_thread::get_id()))
                continue;
            if (!state->capture->invalid) {
                std::string report = "simt: a stream captures, and can not: ";
                publish((report + what).c_str());
            }
            state->capture->invalid = true;
            error = cudaErrorStreamCaptureUnsupported;
        }
    }
    return error;
}

static double now_milliseconds()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

} // namespace simt

using namespace simt;

#define BEGIN(name)                                                                                \
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);                                     \
    if (cudaError_t error = begin_call(name))                                                      \
    return end_call(error)

// ---- streams --------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    BEGIN("cudaStreamCreateWithFlags");
    *stream = make_stream(current_device(), !(flags & cudaStreamNonBlocking));
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    BEGIN("cudaStreamCreate");
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    (void)priority;
    BEGIN("cudaStreamCreateWithPriority");
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    BEGIN("cudaDeviceGetStreamPriorityRange");
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    if ((uintptr_t)stream <= 2 || !streams().count(stream))
        return end_call(cudaErrorInvalidResourceHandle);
    run_until(stream->state.get(), stream->state->submitted);
    forget_stream(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    BEGIN("cudaStreamSynchronize");
    if (stream_captures(stream)) {
        forbid_capture("cudaStreamSynchronize");
        return end_call(cudaErrorStreamCaptureUnsupported);
    }
    return end_call(synchronize_stream(stream));
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    BEGIN("cudaStreamQuery");
    std::shared_ptr<Stream_state> state = state_of(stream);
    if (!state)
        return end_call(cudaErrorInvalidResourceHandle);
    if (state->capture)
        return end_call(forbid_capture("cudaStreamQuery"));
    if (state->done == state->submitted)
        return cudaSuccess;
    run_until(state.get(), state->done + 1); // so that polling ends
    return cudaErrorNotReady;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    BEGIN("cudaLaunchHostFunc");
    return end_call(submit(stream, {Work::Kind::host,
                                    [=] {
                                        function(data);
                                        return cudaSuccess;
                                    },
                                    nullptr}));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    BEGIN("cudaStreamWaitEvent");
    std::shared_ptr<Stream_state> stream = state_of(handle);
    if (!stream || !events().count(event))
        return end_call(cudaErrorInvalidResourceHandle);
    Event_state *state = event->state.get();
    if (state->capture) { // joins the capture, or joins a stream of it back
        if (stream->capture && stream->capture != state->capture)
            return end_call(cudaErrorStreamCaptureMerge);
        if (!stream->capture) {
            stream->capture = state->capture;
            stream->capture_origin = false;
            stream->capture_mode = state->captured_in->capture_mode;
            stream->capture_thread = state->captured_in->capture_thread;
        }
        stream->capture_joined = false;
        state->captured_in->capture_joined = true;
        return cudaSuccess;
    }
    if (stream->capture && state->recorded) {
        stream->capture->invalid = true;
        return end_call(cudaErrorStreamCaptureIsolation);
    }
    if (state->recorded)
        stream->after.push_back(state->point);
    return cudaSuccess;
}

// ---- events ---------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    BEGIN("cudaEventCreateWithFlags");
    *event = new CUevent_st{std::make_shared<Event_state>()};
    (*event)->state->timing = !(flags & cudaEventDisableTiming);
    events().insert(*event);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    BEGIN("cudaEventCreate");
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    std::lock_guard<std::recursive_mutex> lock(runtime_mutex);
    if (!events().erase(event))
        return end_call(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    BEGIN("cudaEventRecord");
    std::shared_ptr<Stream_state> stream = state_of(handle);
    if (!stream || !events().count(event))
        return end_call(cudaErrorInvalidResourceHandle);
    std::shared_ptr<Event_state> state = event->state;
    state->capture = stream->capture;
    if (stream->capture) {
        state->captured_in = stream;
        return end_call(stream->capture->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
    }
    cudaError_t error = submit(handle, {Work::Kind::record,
                                        [state] {
                                            state->time = now_milliseconds();
                                            return cudaSuccess;
                                        },
                                        nullptr});
    state->point = {stream, stream->submitted};
    state->recorded = true;
    return end_call(error);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    BEGIN("cudaEventSynchronize");
    if (!events().count(event))
        return end_call(cudaErrorInvalidResourceHandle);
    Event_state *state = event->state.get();
    if (state->capture) {
        forbid_capture("cudaEventSynchronize");
        return end_call(cudaErrorCapturedEvent);
    }
    if (!state->recorded)
        return cudaSuccess;
    run_until(state->point.stream.get(), state->point.number);
    return end_call(device_at(state->point.stream->device).lost);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    BEGIN("cudaEventQuery");
    if (!events().count(event))
        return end_call(cudaErrorInvalidResourceHandle);
    Event_state *state = event->state.get();
    if (state->capture)
        return end_call(cudaErrorCapturedEvent);
    if (!state->recorded || state->point.stream->done >= state->point.number)
        return cudaSuccess;
    run_until(state->point.stream.get(), state->point.stream->done + 1);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    BEGIN("cudaEventElapsedTime");
    if (!events().count(start) || !events().count(end))
        return end_call(cudaErrorInvalidResourceHandle);
    const Event_state *a = start->state.get(), *b = end->state.get();
    if (!a->recorded || !b->recorded || !a->timing || !b->timing)
        return end_call(cudaErrorInvalidResourceHandle);
    if (a->point.stream->done < a->point.number || b->point.stream->done < b->point.number)
        return cudaErrorNotReady;
    *milliseconds = (float)(b->time - a->time);
    return cudaSuccess;
}
