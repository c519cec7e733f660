/* What the sources of the emulator share and others need not see: the block, kernel calls, settings, reports. */
#ifndef SIMT_INTERNAL_H
#define SIMT_INTERNAL_H

#include "block.h"
#include "check.h"
#include "launch.h"
#include "shared.h"
#include "simt.h"

#include <signal.h>

#include <deque>
#include <random>
#include <string>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#endif

namespace simt
{

// ---- settings: see simt.h -------------------------------------------------------------------------

struct Settings {
    int os_threads = 1;
    bool lazy = true;
    bool quiet = false;
    bool abort = false;
    simt_blocks blocks = SIMT_BLOCKS_FORWARD;
    bool lazy_streams = false;
    int code = 0;
};
extern Settings settings;

// The state of SIMT_BLOCKS_SHUFFLE: what it gives depends on its seed and on the launches since.
extern std::mt19937_64 shuffle_random;

// ---- reports --------------------------------------------------------------------------------------

// Prints a report, keeps it for simt_last_report, aborts if so set.
void publish(const char *report);
void append(std::string &text, const char *format, ...) __attribute__((format(printf, 2, 3)));

// ---- stacks ---------------------------------------------------------------------------------------

enum : size_t {
    stack_size = 256 * 1024,
    stack_guard = 64 * 1024,
    stack_stride = stack_size + stack_guard
};

// Stacks of the fibers of one OS thread, with a guard page below each.
class Stack_pool
{
  public:
    Stack_pool();
    ~Stack_pool();
    int take();
    void give(int stack);
    void take_back_all();
    char *bottom(int stack) const;
    // Below one of the stacks.
    bool is_guard(const void *address) const;
    // What simt_switch needs to begin `entry` on a stack.
    void *prepare(int stack, void (*entry)()) const;

  private:
    char *base;
    int free_count;
    int free_list[max_threads];
};

// A stack for the handler of invalid addresses, for as long as an OS thread has a block.
class Fault_stack
{
  public:
    Fault_stack();
    ~Fault_stack();

  private:
    void *memory = nullptr;
    stack_t previous = {};
};

// ---- the block ------------------------------------------------------------------------------------

struct Barrier {
    unsigned arrived, needed; // needed 0: all that live
    const char *what;
    Here here;                // of the first to arrive
    mask_t joined[max_warps]; // lanes that arrived, waiting or not
    Knowledge knows;          // what was left by those who did not wait
    int sum, any, all;        // of barrier_reduce
    int result_sum, result_any, result_all;
};

struct Deferred {
    std::function<void()> work;
    unsigned thread;
    Here here;
};

struct Meeting { // of a warpgroup
    unsigned arrived;
    const Operation *operation;
    Here here;
};

struct Block {
    Thread threads[max_threads];
    Warp warps[max_warps];
    unsigned count, warp_count, width; // threads, warps, lanes of a warp
    unsigned live;                     // threads that have not returned
    uint32_t runnable;                 // warps that may have lanes to run; a superset
    unsigned stalled;                  // rounds in which every thread only waited
    Position position;
    const Kernel_call *call;
    uint64_t serial;
    Barrier barriers[simt::barriers];
    Meeting meetings[groups];
    std::deque<Deferred> deferred;
    Deferred active;
    const Deferred *doing; // `active`, the deferred work that runs now
    Shared_memory shared;
    Checker checker;
    int device;
    Stack_pool stacks;
    Fault_stack fault_stack;
    void *main_stack_pointer;
    void *abandoned; // stack pointer of a fiber that is not gone back to
    int error;       // cudaError_t of a failed block
    uint64_t switches;
    std::string text;      // of a report
    void *main_fake_stack; // AddressSanitizer's
    const void *main_stack_bottom;
    size_t main_stack_size;
};

// Runs all blocks of a grid; 0 or the cudaError_t of the first that failed.
int run_grid(const Kernel_call &call, const dim3 &grid, const dim3 &block, size_t dynamic_size,
             int device);
uint64_t switches_of_last_grid();

// Lanes of a mask as "0-3, 7". No std::string: frames that fail are not unwound.
struct Lanes_text {
    char text[200];
    explicit Lanes_text(mask_t mask);
    const char *c_str() const
    {
        return text;
    }
};
static inline Lanes_text lanes_text(mask_t mask)
{
    return Lanes_text(mask);
}

template <class F> static inline void for_each_bit(mask_t mask, F &&f)
{
    for (; mask; mask &= mask - 1)
        f((unsigned)__builtin_ctzll(mask));
}

} // namespace simt

#endif
