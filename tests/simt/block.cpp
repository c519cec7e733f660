/* The scheduler of a block: which fiber runs, barriers, waiting, and what happens when none can run.
 *
 * Threads begin in order and on one stack: a thread that ends without ever having waited hands its stack to the
 * next one, so kernels without barriers run like a loop. A thread that waits keeps its stack, and the next to
 * begin takes another.
 * A warp runs until all its lanes wait, then the next one goes on: threads do not advance in step, which makes a
 * missing barrier show. */
#include "internal.h"
#include "runtime.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thread>
#include <vector>

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

extern "C" void simt_switch(void **save, void *to);

namespace simt
{

__thread Thread *current;

static void fiber_main();
static void deadlock(Block *block);

static inline mask_t lane_bit(const Thread *thread)
{
    return (mask_t)1 << thread->lane;
}

// ---- switching ------------------------------------------------------------------------------------

// From now on `to` is the thread that runs.
static inline void prepare_switch(Block *block, Thread *to)
{
    if (!to->stack_pointer) {
        to->stack = block->stacks.take();
        to->stack_pointer = block->stacks.prepare(to->stack, fiber_main);
    }
    current = to;
    block->switches++;
}

// Leaves the running fiber (or the OS thread's own stack) for `to`. `ends`: never to return.
static inline void switch_to(Block *block, void **save, void **fake_stack, Thread *to, bool ends)
{
    prepare_switch(block, to);
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(ends ? nullptr : fake_stack, block->stacks.bottom(to->stack),
                                   stack_size);
#endif
    simt_switch(save, to->stack_pointer);
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(*fake_stack, nullptr, nullptr);
#else
    (void)fake_stack;
    (void)ends;
#endif
}

[[noreturn]] static void switch_to_main(Block *block)
{
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(nullptr, block->main_stack_bottom, block->main_stack_size);
#endif
    simt_switch(&block->abandoned, block->main_stack_pointer);
    __builtin_unreachable();
}

// The thread to run after `thread`, in lane order and then in warp order; null when none can.
static inline Thread *next(Block *block, Thread *thread)
{
    Warp *warp = thread->warp;
    if (warp->run) {
        mask_t later = warp->run & ~(lane_bit(thread) * 2 - 1);
        return &warp->threads[__builtin_ctzll(later ? later : warp->run)];
    }
    block->runnable &= ~(1u << warp->number);
    while (block->runnable) {
        uint32_t later = block->runnable & ~((2u << warp->number) - 1);
        unsigned number = (unsigned)__builtin_ctz(later ? later : block->runnable);
        if (block->warps[number].run)
            return &block->warps[number].threads[__builtin_ctzll(block->warps[number].run)];
        block->runnable &= ~(1u << number);
    }
    return nullptr;
}

static inline void make_runnable(Block *block, Warp *warp, mask_t lanes)
{
    warp->run |= lanes;
    block->runnable |= 1u << warp->number;
}

// Everyone in wait_until looks again.
static bool wake(Block *block)
{
    bool any = false;
    for (unsigned i = 0; i < block->warp_count; i++) {
        Warp *warp = &block->warps[i];
        if (warp->waiting) {
            make_runnable(block, warp, warp->waiting);
            warp->waiting = 0;
            any = true;
        }
    }
    return any;
}

static void do_oldest_deferred(Block *block)
{
    block->active = std::move(block->deferred.front());
    block->deferred.pop_front();
    block->doing = &block->active;
    block->active.work();
    block->doing = nullptr;
}

// No thread can run: does deferred work or lets waiting threads look once more, until one can.
static Thread *unstall(Block *block, Thread *thread)
{
    enum { patience = 256 }; // rounds; more than 1 for kernels that sleep
    Thread *to = nullptr;
    while (!to) {
        if (!block->deferred.empty()) {
            do_oldest_deferred(block);
            block->stalled = 0;
            wake(block);
        } else if (block->stalled++ >= patience || !wake(block)) {
            deadlock(block);
        }
        to = next(block, thread);
    }
    return to;
}

// The caller has taken away the thread's run bit. Which thread to run instead; itself, if it can go on after all.
static inline Thread *successor(Thread *thread, Here here)
{
    Block *block = thread->block;
    thread->warp->here[thread->lane] = here;
    Thread *to = next(block, thread);
    return to ? to : unstall(block, thread);
}

// Returns when the thread may go on.
static inline void park(Thread *thread, Here here)
{
    Thread *to = successor(thread, here);
    if (to != thread)
        switch_to(thread->block, &thread->stack_pointer, &thread->fake_stack, to, false);
}

// The same, but the caller of the emulator switches.
static inline Arrival park_outside(Thread *thread, Here here)
{
    static void *no_need;
#ifdef SIMT_ASAN
    park(thread, here);
    return {&no_need, nullptr};
#else
    Thread *to = successor(thread, here);
    if (to == thread)
        return {&no_need, nullptr};
    prepare_switch(thread->block, to);
    return {&thread->stack_pointer, to->stack_pointer};
#endif
}

// ---- a warp meets ---------------------------------------------------------------------------------

// A mask that can not be met, or lanes of it that are somewhere else: reports, if so.
__attribute__((noinline)) static void check_mask(Thread *thread, mask_t mask,
                                                 const Operation &operation, Here here)
{
    const Warp *warp = thread->warp;
    if (!(mask & lane_bit(thread)))
        fail_at(here, cudaErrorIllegalInstruction,
                "%s with a mask (lanes %s) that leaves out its own lane %u", operation.name,
                lanes_text(mask & warp->exists).c_str(), thread->lane);
    const mask_t gone = mask & warp->exists & ~warp->live;
    if (gone)
        fail_at(here, cudaErrorIllegalInstruction,
                "%s with a mask that names lanes that have exited: %s", operation.name,
                lanes_text(gone).c_str());
    const mask_t others = mask & warp->arrived;
    if (!others)
        return;
    const unsigned lane = (unsigned)__builtin_ctzll(others);
    const Here there = warp->here[lane];
    if (warp->operation[lane] != &operation)
        fail_at(here, cudaErrorIllegalInstruction,
                "lanes of one mask meet in different operations: %s here, %s at %s:%d (lane %u)",
                operation.name, warp->operation[lane]->name, there.file, there.line, lane);
    if (warp->mask[lane] != (mask & warp->exists))
        fail_at(here, cudaErrorIllegalInstruction,
                "%s with different masks: lanes %s here, lanes %s at %s:%d (lane %u)",
                operation.name, lanes_text(mask & warp->exists).c_str(),
                lanes_text(warp->mask[lane]).c_str(), there.file, there.line, lane);
}

Arrival warp_arrive(mask_t mask, const Operation &operation, void *deposit, Here here)
{
    Thread *thread = current;
    Warp *warp = thread->warp;
    const unsigned lane = thread->lane;
    const mask_t bit = lane_bit(thread), wanted = mask & warp->exists;
    const mask_t others = wanted & warp->arrived;
    const unsigned other = others ? (unsigned)__builtin_ctzll(others) : lane;
    warp->deposit[lane] = deposit;
    if (__builtin_expect(
            !(mask & bit) || (wanted & ~warp->live) ||
                (others && (warp->operation[other] != &operation || warp->mask[other] != wanted)),
            0))
        check_mask(thread, mask, operation, here);
    warp->operation[lane] = &operation;
    warp->mask[lane] = wanted;
    if ((others | bit) == wanted) {
        warp->arrived &= ~wanted;
        make_runnable(thread->block, warp, wanted);
        thread->block->stalled = 0;
        if (thread->block->call->checked)
            thread->block->checker.lanes_met(warp->number, wanted);
        return {nullptr, nullptr};
    }
    warp->arrived |= bit;
    warp->run &= ~bit;
    return park_outside(thread, here);
}

// ---- a warpgroup meets ----------------------------------------------------------------------------

void *group_deposit(unsigned thread_of_group)
{
    const Block *block = current->block;
    const Thread *thread =
        &block->threads[current->linear / group_threads * group_threads + thread_of_group];
    return thread->warp->deposit[thread->lane];
}

bool group_arrive(const Operation &operation, void *deposit, Here here)
{
    Thread *thread = current;
    Block *block = thread->block;
    unsigned group = thread->linear / group_threads, first = group * group_threads;
    Meeting *meeting = &block->meetings[group];
    if (first + group_threads > block->count)
        fail_at(here, cudaErrorIllegalInstruction, "%s in a warpgroup of %u threads",
                operation.name, block->count - first);
    if (meeting->arrived && meeting->operation != &operation)
        fail_at(here, cudaErrorIllegalInstruction,
                "threads of a warpgroup meet in different operations: %s here, %s at %s:%d",
                operation.name, meeting->operation->name, meeting->here.file, meeting->here.line);
    meeting->operation = &operation;
    meeting->here = here;
    thread->warp->operation[thread->lane] = &operation;
    thread->warp->deposit[thread->lane] = deposit;
    if (++meeting->arrived == group_threads) {
        meeting->arrived = 0;
        for (unsigned i = 0; i < group_threads; i += block->width) {
            Warp *warp = block->threads[first + i].warp;
            make_runnable(block, warp, warp->exists);
            warp->grouped = 0;
        }
        block->stalled = 0;
        return true;
    }
    thread->warp->run &= ~lane_bit(thread);
    thread->warp->grouped |= lane_bit(thread);
    park(thread, here);
    return false;
}

// ---- barriers -------------------------------------------------------------------------------------

static void check_whole_warps(Block *block, const Barrier *barrier, unsigned id)
{
    for (unsigned i = 0; i < block->warp_count; i++) {
        const Warp *warp = &block->warps[i];
        mask_t missing = warp->live & ~barrier->joined[i];
        if (barrier->joined[i] && missing)
            fail(cudaErrorIllegalInstruction,
                 "barrier %u is complete (%u threads) with a part of warp %u: lanes %s are missing",
                 id, barrier->needed, i, lanes_text(missing).c_str());
    }
}

// `last`: the thread that completes it and did not have to wait, or null.
static void complete_barrier(Block *block, unsigned id, const Thread *last)
{
    Barrier *barrier = &block->barriers[id];
    if (barrier->needed)
        check_whole_warps(block, barrier, id);
    barrier->result_sum = barrier->sum;
    barrier->result_any = barrier->any;
    barrier->result_all = barrier->all;
    if (block->call->checked) {
        mask_t waiting[max_warps];
        for (unsigned i = 0; i < block->warp_count; i++)
            waiting[i] = block->warps[i].at_barrier[id];
        if (last)
            waiting[last->warp->number] |= lane_bit(last);
        block->checker.barrier_passed(waiting, &barrier->knows);
        barrier->knows = Knowledge();
    }
    for (unsigned i = 0; i < block->warp_count; i++) {
        Warp *warp = &block->warps[i];
        if (warp->at_barrier[id])
            make_runnable(block, warp, warp->at_barrier[id]);
        warp->at_barrier[id] = 0;
        barrier->joined[i] = 0;
    }
    barrier->arrived = 0;
    block->stalled = 0;
}

// Names of files: mostly the same constant.
static inline bool differ(const char *a, const char *b)
{
    return a != b && strcmp(a, b) != 0;
}

static inline bool join(Thread *thread, unsigned id, unsigned count, const char *what, Here here)
{
    Block *block = thread->block;
    if (id >= barriers)
        fail_at(here, cudaErrorIllegalInstruction, "barrier %u: there are %d", id, barriers);
    if (count & (block->width - 1) || count > max_threads)
        fail_at(here, cudaErrorIllegalInstruction,
                "barrier %u for %u threads, which are no whole warps", id, count);
    Barrier *barrier = &block->barriers[id];
    if (!barrier->arrived) {
        barrier->needed = count;
        barrier->what = what;
        barrier->here = here;
        barrier->sum = 0;
        barrier->any = 0;
        barrier->all = 1;
    } else if (barrier->needed != count) {
        fail_at(here, cudaErrorIllegalInstruction, "barrier %u for %u threads, but for %u at %s:%d",
                id, count, barrier->needed, barrier->here.file, barrier->here.line);
    } else if (!count &&
               (barrier->here.line != here.line || differ(barrier->here.file, here.file))) {
        fail_at(here, cudaErrorIllegalInstruction,
                "divergent barrier: threads of the block are at %s:%d (%s), thread %u here (%s)",
                barrier->here.file, barrier->here.line, barrier->what, thread->linear, what);
    }
    barrier->joined[thread->warp->number] |= lane_bit(thread);
    barrier->arrived++;
    return barrier->arrived == (count ? count : block->live);
}

void barrier(unsigned id, unsigned count, const char *what, Here here)
{
    Thread *thread = current;
    if (join(thread, id, count, what, here)) {
        complete_barrier(thread->block, id, thread);
        return;
    }
    thread->warp->run &= ~lane_bit(thread);
    thread->warp->at_barrier[id] |= lane_bit(thread);
    park(thread, here);
}

void barrier_arrive(unsigned id, unsigned count, Here here)
{
    Thread *thread = current;
    if (!count)
        fail_at(here, cudaErrorIllegalInstruction, "bar.arrive without a number of threads");
    bool last = join(thread, id, count, "bar.arrive", here);
    if (thread->block->call->checked)
        thread->block->checker.release(thread->warp->number, &thread->block->barriers[id].knows);
    if (last)
        complete_barrier(thread->block, id, nullptr);
}

Arrival barrier_block(Here here)
{
    Thread *thread = current;
    if (join(thread, 0, 0, "__syncthreads", here)) {
        complete_barrier(thread->block, 0, thread);
        return {nullptr, nullptr};
    }
    thread->warp->run &= ~lane_bit(thread);
    thread->warp->at_barrier[0] |= lane_bit(thread);
    return park_outside(thread, here);
}

int barrier_reduce(int predicate, char operation, Here here)
{
    Thread *thread = current;
    Barrier *barrier = &thread->block->barriers[0];
    bool last = join(thread, 0, 0, "__syncthreads with a reduction", here);
    barrier->sum += predicate != 0;
    barrier->any |= predicate != 0;
    barrier->all &= predicate != 0;
    if (last) {
        complete_barrier(thread->block, 0, thread);
    } else {
        thread->warp->run &= ~lane_bit(thread);
        thread->warp->at_barrier[0] |= lane_bit(thread);
        park(thread, here);
    }
    return operation == 'c'   ? barrier->result_sum
           : operation == 'a' ? barrier->result_all
                              : barrier->result_any;
}

// ---- waiting --------------------------------------------------------------------------------------

void wait(const char *what, Here here)
{
    Thread *thread = current;
    thread->warp->run &= ~lane_bit(thread);
    thread->warp->waiting |= lane_bit(thread);
    thread->warp->waits_for[thread->lane] = what;
    park(thread, here);
}

void wait_done()
{
    current->block->stalled = 0;
}

void notify()
{
    current->block->stalled = 0;
    wake(current->block);
}

void defer(std::function<void()> work, Here here)
{
    Deferred deferred = {std::move(work), current->linear, here};
    current->block->deferred.push_back(std::move(deferred));
}

bool lazy()
{
    return settings.lazy;
}

uint64_t clock_ticks()
{
    return current->block->switches;
}

uint64_t block_serial()
{
    return current->block->serial;
}

// ---- a thread's life ------------------------------------------------------------------------------

// The thread has returned: takes it out of everything that counts threads.
static void leave(Thread *thread)
{
    Block *block = thread->block;
    Warp *warp = thread->warp;
    mask_t bit = lane_bit(thread);
    warp->live &= ~bit;
    warp->run &= ~bit;
    block->live--;
    block->stalled = 0;
    for_each_bit(warp->arrived, [&](unsigned lane) {
        if (warp->mask[lane] & bit)
            fail_at(warp->here[lane], cudaErrorIllegalInstruction,
                    "%s of lane %u has a mask that names lanes that have exited: %u",
                    warp->operation[lane]->name, lane, thread->lane);
    });
    Barrier *barrier = &block->barriers[0];
    if (barrier->arrived && !barrier->needed && barrier->arrived == block->live)
        complete_barrier(block, 0, nullptr);
}

static void finish_block(Block *block)
{
    while (!block->deferred.empty())
        do_oldest_deferred(block);
    uint32_t distance;
    const Shared_array *array = block->shared.overrun(&distance);
    if (array)
        fail(cudaErrorIllegalAddress,
             "something was written %u bytes past the end of %s (%u bytes)", distance, array->name,
             array->size);
    switch_to_main(block);
}

static void fiber_main()
{
#ifdef SIMT_ASAN
    {
        Block *block = current->block;
        const void *bottom;
        size_t size;
        __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
        if (!block->main_stack_bottom) {
            block->main_stack_bottom = bottom;
            block->main_stack_size = size;
        }
    }
#endif
    for (;;) {
        current->block->call->run();
        must_have_waited("the end", Here(nullptr, 0));
        Thread *thread = current;
        Block *block = thread->block;
        leave(thread);
        if (!block->live)
            finish_block(block);
        Thread *to = next(block, thread);
        if (!to)
            to = unstall(block, thread);
        if (!to->stack_pointer) { // has not begun: goes on here
            to->stack = thread->stack;
            to->stack_pointer = thread->stack_pointer;
            current = to;
            continue;
        }
        block->stacks.give(thread->stack);
        switch_to(block, &thread->stack_pointer, &thread->fake_stack, to, true);
        __builtin_unreachable();
    }
}

// ---- reports --------------------------------------------------------------------------------------

// Which kernel, block, thread and line: into `text`.
static void place(char *text, size_t size, const Thread *thread, const Site &site)
{
    const Block *block = thread->block;
    const uint3 index = block->position.index;
    const Thread *of = block->doing ? &block->threads[block->doing->thread] : thread;
    char line[300];
    site_text(line, sizeof line, block->doing ? Site{block->doing->here, nullptr} : site);
    snprintf(text, size, "kernel %s, block (%u, %u, %u), %sthread %u (warp %u, lane %u)%s%s",
             block->call->name, index.x, index.y, index.z,
             block->doing ? "in what was deferred by " : "", of->linear, of->warp->number, of->lane,
             line[0] ? ", " : "", line);
}

// Works with arrays only: frames of fibers that fail are not unwound.
[[noreturn]] static void fail_with(const Site &site, int error, const char *form, va_list arguments)
{
    char message[4096], where[1024] = "outside of kernels",
                        report[sizeof message + sizeof where + 16];
    vsnprintf(message, sizeof message, form, arguments);
    if (current)
        place(where, sizeof where, current, site);
    snprintf(report, sizeof report, "simt: %s: %s", where, message);
    publish(report);
    if (!current)
        abort();
    Block *block = current->block;
    block->error = error;
    switch_to_main(block);
}

void fail(int error, const char *form, ...)
{
    va_list arguments;
    va_start(arguments, form);
    fail_with({Here(nullptr, 0), nullptr}, error, form, arguments);
}

void fail_at(Here here, int error, const char *form, ...)
{
    va_list arguments;
    va_start(arguments, form);
    fail_with({here, nullptr}, error, form, arguments);
}

void fail_site(const Site &site, int error, const char *form, ...)
{
    va_list arguments;
    va_start(arguments, form);
    fail_with(site, error, form, arguments);
}

void wait_for_previous()
{
    current->early = false;
}

void must_have_waited(const char *what, Here here)
{
    if (current->early)
        fail_at(here, cudaErrorLaunchFailure, "%s comes before wait_for_previous", what);
}

// What a thread waits for: a phrase, a name, and where. Returns false for threads that have returned.
struct Waits {
    const char *phrase, *name;
    Here here;
};

static Waits waits_of(const Block *block, const Thread *thread)
{
    const Warp *warp = thread->warp;
    const mask_t bit = lane_bit(thread);
    const unsigned lane = thread->lane;
    if (!(warp->live & bit))
        return {"have returned", "", Here("", 0)};
    if (warp->arrived & bit)
        return {"wait for their warp in ", warp->operation[lane]->name, warp->here[lane]};
    if (warp->grouped & bit)
        return {"wait for their warpgroup in ", warp->operation[lane]->name, warp->here[lane]};
    if (warp->waiting & bit)
        return {"wait for ", warp->waits_for[lane], warp->here[lane]};
    for (unsigned id = 0; id < barriers; id++) {
        if (warp->at_barrier[id] & bit)
            return {"wait at ", block->barriers[id].what, warp->here[lane]};
    }
    return {"can go on", "", Here("", 0)};
}

static bool same(const Waits &a, const Waits &b)
{
    return a.phrase == b.phrase && a.here.line == b.here.line && !differ(a.name, b.name) &&
           !differ(a.here.file, b.here.file);
}

static void deadlock(Block *block)
{
    enum { shown_most = 24 };
    std::string &text = block->text;
    unsigned shown = 0;
    text.clear();
    for (unsigned i = 0; i < block->count;) {
        const Waits waits = waits_of(block, &block->threads[i]);
        unsigned end = i + 1;
        while (end < block->count && same(waits, waits_of(block, &block->threads[end])))
            end++;
        if (shown++ < shown_most) {
            append(text, "\n  threads %u-%u %s%s", i, end - 1, waits.phrase, waits.name);
            if (waits.here.line)
                append(text, ", %s:%d", waits.here.file, waits.here.line);
        }
        i = end;
    }
    if (shown > shown_most)
        text += "\n  ...";
    for (unsigned id = 0; id < barriers; id++) {
        const Barrier *barrier = &block->barriers[id];
        if (barrier->arrived)
            append(text, "\n  barrier %u: %u of %u threads have arrived", id, barrier->arrived,
                   barrier->needed ? barrier->needed : block->live);
    }
    fail(cudaErrorLaunchTimeout, "deadlock: no thread of the block can go on%s", text.c_str());
}

// ---- blocks and grids -----------------------------------------------------------------------------

static void set_up_threads(Block *block, const dim3 &dim, unsigned width)
{
    block->position.block_dim = dim;
    block->width = width;
    block->count = dim.x * dim.y * dim.z;
    block->warp_count = (block->count + width - 1) / width;
    for (unsigned i = 0; i < block->warp_count; i++) {
        Warp *warp = &block->warps[i];
        unsigned lanes = block->count - i * width < width ? block->count - i * width : width;
        warp->number = i;
        warp->threads = &block->threads[i * width];
        warp->exists = lanes == 64 ? ~(mask_t)0 : ((mask_t)1 << lanes) - 1;
    }
    for (unsigned i = 0; i < block->count; i++) {
        Thread *thread = &block->threads[i];
        thread->index = {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)};
        thread->linear = i;
        thread->lane = i % width;
        thread->warp = &block->warps[i / width];
        thread->block = block;
        thread->position = &block->position;
    }
}

static void reset(Block *block)
{
    block->live = block->count;
    block->stalled = 0;
    block->error = 0;
    block->doing = nullptr;
    block->serial++;
    block->runnable = block->warp_count == 32 ? ~0u : (1u << block->warp_count) - 1;
    for (Barrier &barrier : block->barriers)
        barrier = Barrier();
    for (Meeting &meeting : block->meetings)
        meeting = Meeting();
    block->deferred.clear();
    block->stacks.take_back_all();
    for (unsigned i = 0; i < block->warp_count; i++) {
        Warp *warp = &block->warps[i];
        warp->live = warp->run = warp->exists;
        warp->arrived = warp->grouped = warp->waiting = 0;
        memset(warp->at_barrier, 0, sizeof warp->at_barrier);
    }
    for (unsigned i = 0; i < block->count; i++) {
        block->threads[i].stack_pointer = nullptr;
        block->threads[i].early = block->call->next;
    }
}

static int run_block(Block *block, uint3 index, size_t dynamic_size, int device)
{
    block->position.index = index;
    block->device = device;
    block->shared.begin(dynamic_size, device_static_shared(device), device_shared_limit(device));
    reset(block);
    if (block->call->checked)
        block->checker.begin(block->width, block->warp_count);
    switch_to(block, &block->main_stack_pointer, &block->main_fake_stack, &block->threads[0],
              false);
    current = nullptr;
    return block->error;
}

static Block *block_of_os_thread()
{
    static thread_local std::unique_ptr<Block> block;
    if (!block) {
        static std::atomic<uint64_t> made;
        block.reset(new Block());
        block->serial = made.fetch_add(1) << 40;
    }
    return block.get();
}

static std::atomic<uint64_t> last_switches;

uint64_t switches_of_last_grid()
{
    return last_switches;
}

// Numbers of blocks in the order in which they run.
class Block_order
{
  public:
    explicit Block_order(uint64_t count) : last(count - 1), order(settings.blocks)
    {
        if (order != SIMT_BLOCKS_SHUFFLE)
            return;
        shuffled.resize(count);
        std::iota(shuffled.begin(), shuffled.end(), 0);
        std::shuffle(shuffled.begin(), shuffled.end(), shuffle_random);
    }
    uint64_t operator[](uint64_t i) const
    {
        return order == SIMT_BLOCKS_SHUFFLE   ? shuffled[i]
               : order == SIMT_BLOCKS_REVERSE ? last - i
                                              : i;
    }

  private:
    const uint64_t last;
    const simt_blocks order;
    std::vector<uint64_t> shuffled;
};

int run_grid(const Kernel_call &call, const dim3 &grid, const dim3 &dim, size_t dynamic_size,
             int device)
{
    const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    const Block_order order(blocks);
    std::atomic<uint64_t> next_block{0};
    std::atomic<int> error{0};
    last_switches = 0;
    auto work = [&] {
        Block *block = block_of_os_thread();
        set_up_threads(block, dim, call.width);
        block->position.grid_dim = grid;
        block->call = &call;
        block->switches = 0;
        for (uint64_t i; !error && (i = next_block.fetch_add(1)) < blocks;) {
            uint64_t number = order[i];
            uint3 index = {(unsigned)(number % grid.x), (unsigned)(number / grid.x % grid.y),
                           (unsigned)(number / ((uint64_t)grid.x * grid.y))};
            int failed = run_block(block, index, dynamic_size, device), none = 0;
            if (failed)
                error.compare_exchange_strong(none, failed);
        }
        last_switches += block->switches;
    };
    std::vector<std::thread> others;
    for (int i = 1; i < settings.os_threads && (uint64_t)i < blocks; i++)
        others.emplace_back(work);
    work();
    for (std::thread &other : others)
        other.join();
    return error;
}

} // namespace simt
