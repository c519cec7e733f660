/* Operations of a warp: each lane hands in a value, the last to arrive works out the results of all. */
#include "warp.h"

#include "internal.h"
#include "runtime.h"

namespace simt
{

namespace
{

struct Value {
    uint64_t bits;
    char operation;
};

const Operation shuffle_operations[] = {
    {"__shfl_sync"}, {"__shfl_up_sync"}, {"__shfl_down_sync"}, {"__shfl_xor_sync"}};
const Operation vote_operation = {"a vote (ballot, any, all)"};
const Operation match_operation = {"__match_any_sync"};
const Operation barrier_operation = {"__syncwarp"};
const Operation reduce_operation = {"__reduce_sync"};

// The lane that `lane` reads from; itself where the hardware leaves the value as it is.
template <Shuffle kind> inline unsigned source_of(unsigned lane, unsigned operand, unsigned width)
{
    const unsigned in_segment = lane & (width - 1), segment = lane - in_segment;
    switch (kind) {
    case Shuffle::index:
        return segment + (operand & (width - 1));
    case Shuffle::up:
        return in_segment >= operand ? lane - operand : lane;
    case Shuffle::down:
        return in_segment + operand < width ? lane + operand : lane;
    case Shuffle::exchange:
        break;
    }
    const unsigned source = lane ^ operand;
    return source < segment + width
               ? source
               : lane; // lanes of lower segments may be read, those of higher ones not
}

// Values and results are in the places of deposits.
template <Shuffle kind> void exchange(Warp *warp, mask_t present)
{
    void *results[max_lanes];
    for_each_bit(present, [&](unsigned lane) {
        const uint64_t operand = warp->operand[lane];
        const unsigned source = source_of<kind>(lane, (uint32_t)operand, (uint32_t)(operand >> 32));
        // A lane that takes no part: undefined on hardware; here not what anybody expects, and the same each time.
        results[lane] = source < max_lanes && present >> source & 1 ? warp->deposit[source]
                                                                    : (void *)0xdeaddeaddeaddeadu;
    });
    for_each_bit(present, [&](unsigned lane) { warp->deposit[lane] = results[lane]; });
}

} // namespace

Arrival shuffle(mask_t mask, Shuffle kind, uint64_t value, int operand, int width, Here here)
{
    const Operation &operation = shuffle_operations[(int)kind];
    Warp *warp = current->warp;
    if (width <= 0 || (width & (width - 1)) || width > (int)current->block->width)
        fail_at(here, cudaErrorIllegalInstruction, "%s with a width of %d", operation.name, width);
    warp->operand[current->lane] = (uint64_t)width << 32 | (uint32_t)operand;
    const Arrival arrival = warp_arrive(mask, operation, (void *)value, here);
    if (arrival.last()) {
        mask &= warp->exists;
        switch (kind) {
        case Shuffle::index:
            exchange<Shuffle::index>(warp, mask);
            break;
        case Shuffle::up:
            exchange<Shuffle::up>(warp, mask);
            break;
        case Shuffle::down:
            exchange<Shuffle::down>(warp, mask);
            break;
        case Shuffle::exchange:
            exchange<Shuffle::exchange>(warp, mask);
            break;
        }
    }
    return arrival;
}

mask_t ballot(mask_t mask, bool predicate, const char *what, Here here)
{
    Value mine = {predicate, 0};
    (void)what;
    warp_collective(
        mask, vote_operation, mine,
        [](Lanes<Value> lanes, mask_t present) {
            mask_t votes = 0;
            for_each_bit(present,
                         [&](unsigned lane) { votes |= (mask_t)lanes[lane].bits << lane; });
            for_each_bit(present, [&](unsigned lane) { lanes[lane].bits = votes; });
        },
        here);
    return mine.bits;
}

mask_t match_any(mask_t mask, uint64_t value, Here here)
{
    struct Match {
        uint64_t value;
        mask_t equal;
    } mine = {value, 0};
    warp_collective(
        mask, match_operation, mine,
        [](Lanes<Match> lanes, mask_t present) {
            for_each_bit(present, [&](unsigned lane) {
                for_each_bit(present, [&](unsigned other) {
                    lanes[lane].equal |= (mask_t)(lanes[other].value == lanes[lane].value) << other;
                });
            });
        },
        here);
    return mine.equal;
}

Arrival warp_barrier(mask_t mask, Here here)
{
    return warp_arrive(mask, barrier_operation, nullptr, here);
}

mask_t active_lanes()
{
    return current->warp->live;
}

static uint32_t combine(char operation, uint32_t a, uint32_t b)
{
    switch (operation) {
    case '+':
        return a + b;
    case '<':
        return a < b ? a : b;
    case '>':
        return a > b ? a : b;
    case 'l':
        return (int32_t)a < (int32_t)b ? a : b;
    case 'g':
        return (int32_t)a > (int32_t)b ? a : b;
    case '&':
        return a & b;
    case '|':
        return a | b;
    }
    return a ^ b;
}

uint32_t warp_reduce(mask_t mask, char operation, uint32_t value, Here here)
{
    Value mine = {value, operation};
    warp_collective(
        mask, reduce_operation, mine,
        [&](Lanes<Value> lanes, mask_t present) {
            bool first = true;
            uint32_t result = 0;
            for_each_bit(present, [&](unsigned lane) {
                uint32_t bits = (uint32_t)lanes[lane].bits;
                result = first ? bits : combine(operation, result, bits);
                first = false;
            });
            for_each_bit(present, [&](unsigned lane) { lanes[lane].bits = result; });
        },
        here);
    return (uint32_t)mine.bits;
}

} // namespace simt
