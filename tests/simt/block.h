/* The thread block under emulation: threads, warps, and the hooks that everything collective is made of.
 *
 * Every GPU thread is a fiber with a stack of its own; the fibers of one block run in turn on one OS thread and
 * switch only inside the functions of this header. So code between two of them is never interrupted, and a
 * fiber that waits leaves its stack, and whatever others are given pointers to, in place.
 *
 * For those who emulate further instructions (tensor cores, copies, barriers in memory):
 *
 *   warp_collective     each lane of a mask hands in an object; the last lane to arrive runs a function that
 *                       sees all of them, then all go on                             (shuffles, mma, ldmatrix)
 *   group_collective    the same for the 128 threads of a warpgroup                                   (wgmma)
 *   barrier, barrier_arrive     named barriers 0..15 of the block                      (bar.sync, bar.arrive)
 *   wait_until          waits for a condition that other threads or deferred work bring about    (mbarrier)
 *   notify              says that such a condition may have come true
 *   defer               work that happens later: only when no thread can go on       (TMA, cp.async, "lazy")
 *   shared_offset, shared_pointer       addresses in the window of shared memory, as instructions see them
 *   note_*              accesses to memory that were not made by plain loads and stores of the kernel, and what
 *                       orders them: see "checks" below
 *   fail                reports a mistake of the kernel and ends the launch with an error
 *
 * Functions that run on behalf of several lanes (leaders, deferred work) must not wait.
 * Put the bodies into a .cpp file of the emulator where you can: in checked builds code in headers is
 * instrumented like the kernel itself. Code that must stay in a header is kept out by SIMT_UNCHECKED. */
#ifndef SIMT_BLOCK_H
#define SIMT_BLOCK_H

#include "types.h"

#include <functional>

#if defined(__clang__)
#define SIMT_UNCHECKED __attribute__((no_sanitize("thread")))
#else
#define SIMT_UNCHECKED __attribute__((no_sanitize_thread))
#endif

// switch.S
extern "C" void simt_jump(void **save, void *to);

namespace simt
{

typedef uint64_t mask_t; // one bit a lane

enum {
    max_threads = 1024, // of a block
    max_warps = 32,
    max_lanes = 64,
    barriers = 16,
    group_threads = 128, // of a warpgroup
    groups = max_threads / group_threads,
};

// A line of source, of the caller when used as a default argument: void f(int x, Here here = Here()).
struct Here {
    const char *file;
    int line;
    constexpr Here(const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE())
        : file(file_), line(line_)
    {
    }
};

// An operation in which lanes meet: one constant object each, compared by address. The name is for reports.
struct Operation {
    const char *name;
};

struct Block;
struct Warp;

// Where a block is in its grid.
struct Position {
    uint3 index; // blockIdx
    dim3 block_dim, grid_dim;
};

struct alignas(64) Thread {
    uint3 index;     // threadIdx
    unsigned linear; // number in the block
    Warp *warp;
    Block *block;
    const Position *position;
    void *stack_pointer; // while switched out; null: has not begun
    unsigned lane;       // in its warp
    bool early;          // of LAUNCH_NEXT, and has not waited for the launch before it
    int stack;           // number in the pool
    void *fake_stack;    // AddressSanitizer's
};

struct Warp {
    unsigned number;
    Thread *threads; // by lane
    mask_t exists;   // lanes; less than all in the ragged last warp of a block
    mask_t live;     // have not returned
    mask_t run;      // can go on
    mask_t arrived;  // wait in a warp operation
    mask_t grouped;  // wait in a warpgroup operation
    mask_t waiting;  // wait in wait_until
    mask_t at_barrier[barriers];
    // By lane, of where it waits or last waited.
    void *deposit[max_lanes];
    const Operation *operation[max_lanes];
    mask_t mask[max_lanes];
    uint64_t operand[max_lanes]; // of shuffles
    Here here[max_lanes];
    const char *waits_for[max_lanes];
};

// The thread that runs now; null outside of kernels.
extern __thread Thread *current __attribute__((tls_model("initial-exec")));

// ---- reports --------------------------------------------------------------------------------------

// Ends the launch: prints kernel, block, thread, line and the message, and lets the launch fail with `error`
// (a cudaError_t). Does not return to the kernel. Destructors of frames on fibers do not run.
[[noreturn]] void fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The same for another place of the source than where `current` last waited.
[[noreturn]] void fail_at(Here here, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// ---- meeting --------------------------------------------------------------------------------------

// What a thread that arrived somewhere has to do next: `go`, from as near to the kernel as can be.
struct Arrival {
    void **save; // null: it was the last one, and does the work for all
    void *to;    // null: it need not switch
    bool last() const
    {
        return !save;
    }
    SIMT_UNCHECKED void go() const
    {
        if (to)
            simt_jump(save, to);
    }
};

// Lanes of `mask` that exist. Mistakes (own lane missing in the mask, exited lanes in it, lanes that meet in
// different operations or with different masks) are reported here. The last lane must do the work for all before it
// waits again.
Arrival warp_arrive(mask_t mask, const Operation &operation, void *deposit, Here here);
// All threads of the warpgroup (linear / 128) of `current`; all 128 must exist.
bool group_arrive(const Operation &operation, void *deposit, Here here);
void *group_deposit(unsigned thread_of_group);

// What the lanes handed in, by lane.
template <class T> struct Lanes {
    T &operator[](unsigned lane) const
    {
        return *static_cast<T *>(current->warp->deposit[lane]);
    }
};

// Each lane of `mask` hands in `deposit`, which lives on its own stack; the last one runs
// leader(Lanes<T> lanes, mask_t present) where `present` are the lanes that exist. Results are written into the
// deposits. Orders the memory accesses of the lanes as __syncwarp does.
template <class T, class Leader>
static inline void warp_collective(mask_t mask, const Operation &operation, T &deposit,
                                   Leader &&leader, Here here = Here())
{
    const Arrival arrival = warp_arrive(mask, operation, &deposit, here);
    if (arrival.last())
        leader(Lanes<T>(), mask & current->warp->exists);
    arrival.go();
}

// What the threads of a warpgroup handed in, by number in the group.
template <class T> struct Group {
    T &operator[](unsigned thread) const
    {
        return *static_cast<T *>(group_deposit(thread));
    }
};

// The same for the 128 threads of a warpgroup: leader(Group<T> threads). Orders nothing between warps.
template <class T, class Leader>
static inline void group_collective(const Operation &operation, T &deposit, Leader &&leader,
                                    Here here = Here())
{
    if (group_arrive(operation, &deposit, here))
        leader(Group<T>());
}

// bar.sync id, count (count 0: all threads of the block that have not returned) and bar.arrive id, count.
void barrier(unsigned id, unsigned count, const char *what = "barrier", Here here = Here());
void barrier_arrive(unsigned id, unsigned count, Here here = Here());
// __syncthreads and its reductions: 'c' counts, 'a' and 'o' combine.
Arrival barrier_block(Here here = Here());
int barrier_reduce(int predicate, char operation, Here here = Here());

// ---- waiting --------------------------------------------------------------------------------------

// Launches by LAUNCH_NEXT begin before the launch before them is over, as far as checks go: their threads must all come
// here, and must not access device memory before. Plain loads and stores are checked in checked builds.
void wait_for_previous();
// Reports that a thread has not come there yet.
void must_have_waited(const char *what, Here here);

// Lets others run; returns when something may have changed (notify, deferred work done, a barrier passed, ...).
// When nothing can change any more, reports a deadlock and does not return.
void wait(const char *what, Here here = Here());
void wait_done(); // the condition came true
void notify();    // a condition of wait_until may have come true

template <class Condition>
static inline void wait_until(const char *what, Condition &&condition, Here here = Here())
{
    if (condition())
        return;
    do {
        wait(what, here);
    } while (!condition());
    wait_done();
}

// Queues work of the block. It is done, oldest first and one piece at a time, when no thread of the block can
// go on, and at the end of the block; waiting threads then look again. The work runs on any fiber: capture by
// value what lives on the stack of the caller, kernel parameters included. Reports name the caller.
void defer(std::function<void()> work, Here here = Here());
// What `lazy` was set to (simt_set_lazy): whether asynchronous copies are to be deferred or done at once.
bool lazy();
// A number that differs between all blocks that this OS thread runs: state kept per block is stale when it
// changed.
uint64_t block_serial();
// Switches between fibers so far: a clock that ticks the same way each time.
uint64_t clock_ticks();

// ---- shared memory --------------------------------------------------------------------------------

// The window that 32-bit shared addresses point into. Dynamic shared memory begins at offset 1024 and is aligned
// to 1024 bytes; arrays of SHARED_ARRAY follow, with gaps between them. Every offset is below 2^18.
// Reports a pointer outside of the window.
uint32_t shared_offset(const void *pointer);
void *shared_pointer(uint32_t offset);
bool in_shared(const void *pointer);

// ---- checks ---------------------------------------------------------------------------------------
//
// In checked builds the compiler calls the emulator at every plain load and store of a kernel. Whoever accesses
// memory on behalf of a kernel by other means says so with these calls. They always check that shared memory is
// inside an array and device memory inside an allocation that is alive on this device; in checked builds also that
// shared memory was written before it is read, and that accesses of different threads are ordered.

void note_read(const void *pointer, size_t size, const char *what, Here here = Here());
void note_write(const void *pointer, size_t size, const char *what, Here here = Here());
void note_atomic(const void *pointer, size_t size, const char *what, Here here = Here());
// Atomic, but what was there does not matter, as with atomicExch.
void note_exchange(const void *pointer, size_t size, const char *what, Here here = Here());

// What orders: accesses of a thread before note_release(object) happen before accesses of any thread after a later
// note_acquire(object). `object` is any address, that of an mbarrier say. Ordering is kept per warp: what one lane
// releases or acquires counts for its warp.
void note_release(const void *object);
void note_acquire(const void *object);

// An asynchronous copy: `start` when it is issued (by `current`), then, on any fiber, its accesses, then
// `complete` with the object whose note_acquire makes them visible, or null if it orders nothing.
struct Async {
    unsigned thread;
    Here here;
    bool proxy;                     // made by the asynchronous proxy: see note_proxy_fence
    uint64_t seen[max_warps + 1];   // what was ordered before it, as clocks of warps
    uint64_t fenced[max_warps + 1]; // and was fenced
};
Async note_async_start(Here here = Here(), bool proxy = false);
void note_async_read(const Async &copy, const void *pointer, size_t size, const char *what);
void note_async_write(const Async &copy, const void *pointer, size_t size, const char *what);
void note_async_complete(const Async &copy, const void *object);

// Tensor copies and products of warpgroups (`proxy`) see what threads and cp.async have written only when, besides
// being ordered, it is followed by fence.proxy.async: in the writing thread, or in one that it is ordered before.
void note_proxy_fence();

} // namespace simt

#endif
