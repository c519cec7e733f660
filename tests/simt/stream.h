/* Streams, events and graphs inside of the emulator. */
#ifndef SIMT_STREAM_H
#define SIMT_STREAM_H

#include "runtime.h"

#include <deque>
#include <memory>
#include <thread>
#include <vector>

namespace simt
{

struct Stream_state;

// Work of a stream up to a number.
struct Point {
    std::shared_ptr<Stream_state> stream;
    uint64_t number = 0;
};

struct Pending {
    Work work;
    std::vector<Point> after;
};

struct Stream_state {
    int device;
    bool blocking; // keeps order with the default stream
    uint64_t submitted = 0, done = 0;
    std::deque<Pending> queue; // of streams that are lazy
    std::vector<Point> after;  // what the next work must wait for
    std::shared_ptr<CUgraph_st> capture;
    bool capture_origin = false; // cudaStreamBeginCapture was called on this one
    bool capture_joined = true;  // nothing was captured since it was last waited for
    cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
    std::thread::id capture_thread;
};

struct Event_state {
    Point point; // after which it was recorded
    bool recorded = false, timing = true;
    double time = 0;
    std::shared_ptr<CUgraph_st> capture; // it was recorded in a stream that captures
    std::shared_ptr<Stream_state> captured_in;
};

// The state of a handle, null for none such.
std::shared_ptr<Stream_state> state_of(cudaStream_t stream);
void run_until(Stream_state *stream, uint64_t number);

} // namespace simt

struct CUstream_st {
    std::shared_ptr<simt::Stream_state> state;
};

struct CUevent_st {
    std::shared_ptr<simt::Event_state> state;
};

struct CUgraph_st {
    std::vector<simt::Work> nodes; // in an order that keeps all dependencies
    bool invalid = false;
};

struct CUgraphExec_st {
    std::shared_ptr<const std::vector<simt::Work>> nodes;
};

#endif
