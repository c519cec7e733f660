/* Checks of memory accesses: bounds of shared and device memory, shared memory that is read before it was written,
 * and accesses to shared memory that nothing orders.
 *
 * The scheduler says what orders threads, accesses come through the note_* calls of block.h and, in checked builds,
 * from the compiler's instrumentation (tsan.cpp). Time is one counter per OS thread that goes up whenever something
 * is ordered. Every byte of the window of shared memory (or word, as long as only whole words are accessed) has a
 * cell: who wrote it when, and who read it since. An access by thread t is ordered before one by thread u if
 *   - t is u, or
 *   - both are of one warp, and that warp met (shuffle, vote, __syncwarp, a barrier) with both lanes since, or
 *   - u's warp knows the time of t's warp up to the access: from barriers, and from note_acquire of what t's warp
 *     released. What one lane of a warp gets to know counts for the whole warp, so some races are not seen; what is
 *     reported is one.
 * Asynchronous copies are a warp of their own, number max_warps. What ordinary accesses wrote is ordered before those of
 * the asynchronous proxy if in addition a fence came between, and who accesses knows of the fence. */
#ifndef SIMT_CHECK_H
#define SIMT_CHECK_H

#include "block.h"

#include <unordered_map>
#include <vector>

namespace simt
{

// Where an access is in the source: a line, or an address in the code that a debugger's tables name.
struct Site {
    Here here;
    const void *code;
};

// What a warp, or something that passes knowledge on, knows: accesses of warp i up to seen[i].
struct Knowledge {
    uint64_t seen[max_warps + 1];
    uint64_t fenced[max_warps + 1]; // the same of accesses that fence.proxy.async followed
};

class Checker
{
  public:
    ~Checker();
    // A block begins; nothing is written.
    void begin(unsigned width, unsigned warps);
    // The lanes of `mask` met: what each did before, all see after.
    void lanes_met(unsigned warp, mask_t mask);
    // Threads of `waiting` (by warp) pass a barrier, at which what `barrier` knows was left by others.
    void barrier_passed(const mask_t *waiting, Knowledge *barrier);
    void release(unsigned warp, Knowledge *to);
    void acquire(unsigned warp, unsigned lane, const Knowledge &from);
    void release_object(const void *object, unsigned warp);
    void acquire_object(const void *object, unsigned warp, unsigned lane);
    void complete(const void *object);
    void async_start(unsigned warp, Async *copy);
    void proxy_fence(unsigned warp);

    enum Kind {
        read,
        write,
        atomic,
        exchange
    }; // exchange: atomic, and does not look at what was there
    void access(uint32_t offset, size_t size, Kind kind, const Thread *thread, const char *what,
                const Site &site);
    void async_access(const Async &copy, uint32_t offset, size_t size, Kind kind, const char *what);

  private:
    // Thread numbers of copies; those of the asynchronous proxy are of the second.
    enum { readers = 3, asynchronous = max_threads, by_proxy };
    struct Stamp {
        uint64_t when; // time, thread, atomic; 0: never
        uint32_t site;
    };
    struct Cell {
        Stamp written, readings[readers];
    };
    struct Actor { // who accesses, with what it knows
        const Knowledge *knows;
        const Thread *thread; // null: a copy
        unsigned linear;
        const char *what;
        const Site *site;
    };

    bool alive(const Stamp &stamp) const;
    bool ordered(const Stamp &stamp, const Actor &actor) const;
    void check_fenced(uint32_t offset, const Stamp &written, const Actor &actor) const;
    void touch(uint32_t offset, Cell *cell, Kind kind, const Actor &actor, uint32_t site);
    void range(uint32_t offset, size_t size, Kind kind, const Actor &actor);
    void split(uint32_t word);
    uint32_t number_of(const Site &site);
    [[noreturn]] void race(uint32_t offset, Kind kind, const Stamp &other, const char *did,
                           const Actor &actor);

    unsigned width = 0;
    uint64_t now = 1, block_began = 1;
    Knowledge warps[max_warps];
    uint64_t met_all[max_warps]; // when all lanes last met
    std::vector<uint64_t> met;   // [warp][lane][other]: when lane last met other
    std::unordered_map<const void *, Knowledge> objects;
    std::vector<Site> sites;
    std::unordered_map<const void *, uint32_t> number_of_site;
    struct {
        const void *key;
        uint32_t number;
    } recent_sites[256] = {};
    Cell *cells = nullptr;        // by offset
    uint64_t *split_at = nullptr; // by word: when it was found to be accessed in parts
};

// "file:line", or what can be said of an address. Not for lines that are needed often.
void site_text(char *text, size_t size, const Site &site);
[[noreturn]] void fail_site(const Site &site, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Any access of the running thread. `align` 0: any will do.
void check_access(const void *pointer, size_t size, Checker::Kind kind, size_t align,
                  const char *what, const Site &site);

} // namespace simt

#endif
