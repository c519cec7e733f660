/* Checks of memory accesses: the calls of block.h, and the checker that check.h describes. */
#include "check.h"

#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace simt
{

// ---- time and knowledge ---------------------------------------------------------------------------

enum : uint64_t { thread_bits = 11, atomic_bit = 1u << thread_bits, time_shift = thread_bits + 1 };

static inline uint64_t stamp_of(uint64_t time, unsigned linear, bool is_atomic)
{
    return time << time_shift | (is_atomic ? (uint64_t)atomic_bit : 0) | linear;
}

static inline void join(Knowledge *to, const Knowledge &from)
{
    for (unsigned i = 0; i <= max_warps; i++) {
        to->seen[i] = to->seen[i] > from.seen[i] ? to->seen[i] : from.seen[i];
        to->fenced[i] = to->fenced[i] > from.fenced[i] ? to->fenced[i] : from.fenced[i];
    }
}

Checker::~Checker()
{
    if (cells)
        munmap(cells, shared_window * sizeof *cells);
    if (split_at)
        munmap(split_at, shared_window / 4 * sizeof *split_at);
}

void Checker::begin(unsigned width_, unsigned warp_count)
{
    if (!cells) {
        // Zero, and taken only where shared memory is used.
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *a =
            mmap(nullptr, shared_window * sizeof *cells, PROT_READ | PROT_WRITE, flags, -1, 0);
        void *b = mmap(nullptr, shared_window / 4 * sizeof *split_at, PROT_READ | PROT_WRITE, flags,
                       -1, 0);
        if (a == MAP_FAILED || b == MAP_FAILED) {
            fputs("simt: no memory for checks\n", stderr);
            abort();
        }
        cells = (Cell *)a;
        split_at = (uint64_t *)b;
        sites.push_back({Here("", 0), nullptr});
    }
    width = width_;
    block_began = ++now; // stamps before this are of other blocks
    now++;
    memset(warps, 0, sizeof warps);
    memset(met_all, 0, sizeof met_all);
    met.assign((size_t)warp_count * width * width, 0);
    objects.clear();
}

void Checker::lanes_met(unsigned warp, mask_t mask)
{
    const uint64_t time = now++;
    const mask_t all = width == 64 ? ~(mask_t)0 : ((mask_t)1 << width) - 1;
    if (mask == all) {
        met_all[warp] = time;
        return;
    }
    uint64_t *of_warp = &met[(size_t)warp * width * width];
    uint64_t joined[max_lanes] = {0};
    for_each_bit(mask, [&](unsigned lane) {
        for (unsigned other = 0; other < width; other++) {
            uint64_t known = of_warp[lane * width + other];
            joined[other] = joined[other] > known ? joined[other] : known;
        }
    });
    for_each_bit(mask, [&](unsigned lane) { joined[lane] = time; });
    for_each_bit(mask, [&](unsigned lane) {
        memcpy(&of_warp[lane * width], joined, width * sizeof *joined);
    });
}

void Checker::release(unsigned warp, Knowledge *to)
{
    join(to, warps[warp]);
    to->seen[warp] = now++;
}

void Checker::acquire(unsigned warp, unsigned lane, const Knowledge &from)
{
    join(&warps[warp], from);
    // What other lanes of the same warp left.
    uint64_t *of_lane = &met[((size_t)warp * width + lane) * width];
    for (unsigned other = 0; other < width; other++)
        of_lane[other] = of_lane[other] > from.seen[warp] ? of_lane[other] : from.seen[warp];
}

void Checker::barrier_passed(const mask_t *waiting, Knowledge *barrier)
{
    for (unsigned warp = 0; warp < met.size() / (width * width); warp++) {
        if (!waiting[warp])
            continue;
        join(barrier, warps[warp]);
        barrier->seen[warp] = now;
    }
    now++;
    for (unsigned warp = 0; warp < met.size() / (width * width); warp++) {
        if (!waiting[warp])
            continue;
        join(&warps[warp], *barrier);
        lanes_met(warp, waiting[warp]);
    }
}

void Checker::release_object(const void *object, unsigned warp)
{
    release(warp, &objects[object]);
}

void Checker::acquire_object(const void *object, unsigned warp, unsigned lane)
{
    auto found = objects.find(object);
    if (found != objects.end())
        acquire(warp, lane, found->second);
}

void Checker::complete(const void *object)
{
    if (object)
        objects[object].seen[max_warps] = now;
    now++;
}

void Checker::async_start(unsigned warp, Async *copy)
{
    memcpy(copy->seen, warps[warp].seen, sizeof copy->seen);
    memcpy(copy->fenced, warps[warp].fenced, sizeof copy->fenced);
    copy->seen[warp] = now++;
}

void Checker::proxy_fence(unsigned warp)
{
    Knowledge *mine = &warps[warp];
    for (unsigned i = 0; i <= max_warps; i++)
        mine->fenced[i] = mine->fenced[i] > mine->seen[i] ? mine->fenced[i] : mine->seen[i];
    mine->fenced[warp] = now++;
}

// ---- accesses -------------------------------------------------------------------------------------

inline bool Checker::alive(const Stamp &stamp) const
{
    return stamp.when >> time_shift >= block_began;
}

inline bool Checker::ordered(const Stamp &stamp, const Actor &actor) const
{
    const uint64_t time = stamp.when >> time_shift;
    const unsigned linear = (unsigned)(stamp.when & (atomic_bit - 1));
    if (linear >= asynchronous)
        return actor.knows->seen[max_warps] >= time;
    const unsigned warp = linear / width;
    if (!actor.thread || warp != actor.thread->warp->number)
        return actor.knows->seen[warp] >= time;
    const unsigned lane = linear % width;
    return linear == actor.linear || met_all[warp] >= time ||
           met[((size_t)warp * width + actor.thread->lane) * width + lane] >= time;
}

// For accesses of the asynchronous proxy to what was written otherwise.
void Checker::check_fenced(uint32_t offset, const Stamp &written, const Actor &actor) const
{
    const unsigned linear = (unsigned)(written.when & (atomic_bit - 1));
    const unsigned warp = linear == asynchronous ? (unsigned)max_warps : linear / width;
    if (linear == by_proxy || actor.knows->fenced[warp] >= written.when >> time_shift)
        return;
    char there[300];
    site_text(there, sizeof there, sites[written.site]);
    fail_site(
        *actor.site, cudaErrorLaunchFailure,
        "shared memory %s, written at %s, is accessed here (%s) with no fence.proxy.async between",
        current->block->shared.describe(offset).text, there, actor.what);
}

inline void Checker::touch(uint32_t offset, Cell *cell, Kind kind, const Actor &actor,
                           uint32_t site)
{
    const bool is_atomic = kind >= atomic;
    const Stamp stamp = {stamp_of(now, actor.linear, is_atomic), site};
    const bool was_written = alive(cell->written);
    if (!was_written && (kind == read || kind == atomic))
        fail_site(*actor.site, cudaErrorIllegalAddress,
                  "%s of shared memory that was never written, %s", actor.what,
                  current->block->shared.describe(offset).text);
    if (was_written && !ordered(cell->written, actor) &&
        !(is_atomic && (cell->written.when & atomic_bit)))
        race(offset, kind, cell->written,
             cell->written.when & atomic_bit ? "changed atomically" : "written", actor);
    if (was_written && actor.linear == by_proxy)
        check_fenced(offset, cell->written, actor);
    if (kind == read) {
        // A reader that is ordered before this one needs no keeping: who races with it races with this one.
        unsigned place = 0;
        for (unsigned i = 0; i < readers; i++) {
            if (!alive(cell->readings[i]) || ordered(cell->readings[i], actor)) {
                place = i;
                break;
            }
            if (cell->readings[i].when < cell->readings[place].when)
                place = i;
        }
        cell->readings[place] = stamp;
        return;
    }
    for (Stamp &reading : cell->readings) {
        if (alive(reading) && !ordered(reading, actor))
            race(offset, kind, reading, "read", actor);
        reading.when = 0;
    }
    cell->written = stamp;
}

// The bytes of a word get cells of their own, with what the word's one says.
void Checker::split(uint32_t word)
{
    split_at[word] = block_began;
    for (unsigned i = 1; i < 4; i++)
        cells[word * 4 + i] = cells[word * 4];
}

void Checker::range(uint32_t offset, size_t size, Kind kind, const Actor &actor)
{
    const uint32_t site = number_of(*actor.site);
    const uint32_t end = offset + (uint32_t)size;
    for (uint32_t at = offset; at < end;) {
        const uint32_t word = at / 4;
        const bool whole = at % 4 == 0 && end - at >= 4;
        if (whole && split_at[word] != block_began) {
            touch(at, &cells[at], kind, actor, site);
            at += 4;
            continue;
        }
        if (split_at[word] != block_began)
            split(word);
        touch(at, &cells[at], kind, actor, site);
        at++;
    }
}

void Checker::access(uint32_t offset, size_t size, Kind kind, const Thread *thread,
                     const char *what, const Site &site)
{
    range(offset, size, kind, {&warps[thread->warp->number], thread, thread->linear, what, &site});
}

void Checker::async_access(const Async &copy, uint32_t offset, size_t size, Kind kind,
                           const char *what)
{
    Knowledge knows;
    memcpy(knows.seen, copy.seen, sizeof knows.seen);
    memcpy(knows.fenced, copy.fenced, sizeof knows.fenced);
    const Site site = {copy.here, nullptr};
    range(offset, size, kind, {&knows, nullptr, copy.proxy ? by_proxy : asynchronous, what, &site});
}

uint32_t Checker::number_of(const Site &site)
{
    // Lines by the address of the file's name, so that the same line has few numbers.
    const void *key =
        site.code ? site.code
                  : (const void *)((uintptr_t)site.here.file * 31 + (uintptr_t)site.here.line);
    auto &recent = recent_sites[(uintptr_t)key / 4 % 256];
    if (recent.key != key) {
        auto found = number_of_site.find(key);
        if (found == number_of_site.end()) {
            sites.push_back(site);
            found = number_of_site.emplace(key, (uint32_t)sites.size() - 1).first;
        }
        recent = {key, found->second};
    }
    return recent.number;
}

void Checker::race(uint32_t offset, Kind kind, const Stamp &other, const char *did,
                   const Actor &actor)
{
    static const char *const doing[] = {"read", "written", "changed atomically",
                                        "changed atomically"};
    char there[300], who[80] = "an asynchronous copy";
    const unsigned linear = (unsigned)(other.when & (atomic_bit - 1));
    site_text(there, sizeof there, sites[other.site]);
    if (linear < asynchronous)
        snprintf(who, sizeof who, "thread %u (warp %u, lane %u)", linear, linear / width,
                 linear % width);
    fail_site(
        *actor.site, cudaErrorLaunchFailure,
        "race: shared memory %s is %s here (%s) and was %s by %s at %s, with no barrier between",
        current->block->shared.describe(offset).text, doing[kind], actor.what, did, who, there);
}

// ---- calls of block.h -----------------------------------------------------------------------------

static inline Checker *active_checker()
{
    Block *block = current->block;
    return block->call->checked ? &block->checker : nullptr;
}

static void check_bounds(const void *pointer, size_t size, const char *what, const Site &site)
{
    const Shared_memory &shared = current->block->shared;
    if (shared.contains(pointer)) {
        uint32_t offset = shared.offset(pointer);
        if (!shared.find(offset, size))
            fail_site(site, cudaErrorIllegalAddress,
                      "%s of %zu bytes of shared memory out of bounds, %s", what, size,
                      shared.describe(offset).text);
    } else if (const char *error = device_access_error(pointer, size, current->block->device)) {
        fail_site(site, cudaErrorIllegalAddress, "%s of %zu bytes out of bounds at %s", what, size,
                  error);
    }
}

void check_access(const void *pointer, size_t size, Checker::Kind kind, size_t align,
                  const char *what, const Site &site)
{
    const Shared_memory &shared = current->block->shared;
    const bool in_window = shared.contains(pointer);
    if (!in_window && !in_device_space(pointer))
        return;
    check_bounds(pointer, size, what, site);
    if (!in_window && current->early)
        fail_site(site, cudaErrorLaunchFailure,
                  "%s of device memory comes before wait_for_previous", what);
    if (align && (uintptr_t)pointer % align)
        fail_site(site, cudaErrorMisalignedAddress,
                  "%s of %zu bytes at %p, which is not aligned to %zu bytes", what, size, pointer,
                  align);
    if (in_window) {
        if (Checker *checker = active_checker())
            checker->access(shared.offset(pointer), size, kind, current, what, site);
    }
}

void note_read(const void *pointer, size_t size, const char *what, Here here)
{
    if (current && size)
        check_access(pointer, size, Checker::read, 0, what, {here, nullptr});
}

void note_write(const void *pointer, size_t size, const char *what, Here here)
{
    if (current && size)
        check_access(pointer, size, Checker::write, 0, what, {here, nullptr});
}

void note_atomic(const void *pointer, size_t size, const char *what, Here here)
{
    if (current)
        check_access(pointer, size, Checker::atomic, size, what, {here, nullptr});
}

void note_exchange(const void *pointer, size_t size, const char *what, Here here)
{
    if (current)
        check_access(pointer, size, Checker::exchange, size, what, {here, nullptr});
}

void note_release(const void *object)
{
    if (Checker *checker = active_checker())
        checker->release_object(object, current->warp->number);
}

void note_acquire(const void *object)
{
    if (Checker *checker = active_checker())
        checker->acquire_object(object, current->warp->number, current->lane);
}

Async note_async_start(Here here, bool proxy)
{
    Async copy = {current->linear, here, proxy, {}, {}};
    if (Checker *checker = active_checker())
        checker->async_start(current->warp->number, &copy);
    return copy;
}

static void async_access(const Async &copy, const void *pointer, size_t size, Checker::Kind kind,
                         const char *what)
{
    if (!size)
        return;
    const Shared_memory &shared = current->block->shared;
    check_bounds(pointer, size, what, {copy.here, nullptr});
    if (shared.contains(pointer)) {
        if (Checker *checker = active_checker())
            checker->async_access(copy, shared.offset(pointer), size, kind, what);
    }
}

void note_async_read(const Async &copy, const void *pointer, size_t size, const char *what)
{
    async_access(copy, pointer, size, Checker::read, what);
}

void note_async_write(const Async &copy, const void *pointer, size_t size, const char *what)
{
    async_access(copy, pointer, size, Checker::write, what);
}

void note_async_complete(const Async &, const void *object)
{
    if (Checker *checker = active_checker())
        checker->complete(object);
}

void note_proxy_fence()
{
    if (Checker *checker = active_checker())
        checker->proxy_fence(current->warp->number);
}

} // namespace simt
