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
    int operand, width;
};

const Operation shuffle_operations[] = {
    {"__shfl_sync"}, {"__shfl_up_sync"}, {"__shfl_down_sync"}, {"__shfl_xor_sync"}};
const Operation vote_operation = {"a vote (ballot, any, all)"};
const Operation match_operation = {"__match_any_sync"};
const Operation barrier_operation = {"__syncwarp"};
const Operation reduce_operation = {"__reduce_sync"};

// The lane that `lane` reads from; itself where the hardware leaves the value as it is.
inline unsigned source_of(Shuffle kind, unsigned lane, int operand, int width)
{
    unsigned in_segment = lane & (unsigned)(width - 1), segment = lane - in_segment;
    switch (kind) {
    case Shuffle::index:
        return segment + ((unsigned)operand & (unsigned)(width - 1));
    case Shuffle::up:
        return (int)in_segment >= operand ? lane - (unsigned)operand : lane;
    case Shuffle::down:
        return (int)in_segment + operand < width ? lane + (unsigned)operand : lane;
    case Shuffle::exchange:
        break;
    }
    unsigned source = lane ^ (unsigned)operand;
    // Lanes of lower segments may be read, those of higher ones not.
    return source < segment + (unsigned)width ? source : lane;
}

} // namespace

uint64_t shuffle(mask_t mask, Shuffle kind, uint64_t value, int operand, int width, Here here)
{
    const Operation &operation = shuffle_operations[(int)kind];
    Value mine = {value, operand, width};
    if (width <= 0 || (width & (width - 1)) || width > (int)current->block->width)
        fail_at(here, cudaErrorIllegalInstruction, "%s with a width of %d", operation.name, width);
    warp_collective(
        mask, operation, mine,
        [&](Lanes<Value> lanes, mask_t present) {
            uint64_t results[max_lanes];
            for_each_bit(present, [&](unsigned lane) {
                unsigned source = source_of(kind, lane, lanes[lane].operand, lanes[lane].width);
                if (!(present >> source & 1)) {
                    // Undefined on hardware: not what anybody expects, and the same each time.
                    results[lane] = 0xdeaddeaddeaddeadu;
                    return;
                }
                results[lane] = lanes[source].bits;
            });
            for_each_bit(present, [&](unsigned lane) { lanes[lane].bits = results[lane]; });
        },
        here);
    return mine.bits;
}

mask_t ballot(mask_t mask, bool predicate, const char *what, Here here)
{
    Value mine = {predicate, 0, 0};
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

void warp_barrier(mask_t mask, Here here)
{
    int nothing = 0;
    warp_collective(
        mask, barrier_operation, nothing, [](Lanes<int>, mask_t) {}, here);
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
    Value mine = {value, operation, 0};
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
