/* The numbers of the ops penalize and candidates (core/ops.h), as the CPU paths and the sampler on the host share
 * them. */
#ifndef RONDO_CORE_CANDIDATES_H
#define RONDO_CORE_CANDIDATES_H

#include "core/numbers.h"
#include "core/ops.h"

#include <string.h>

static inline float rondo_penalize(float logit, float penalty)
{
    return logit > 0 ? logit / penalty : logit * penalty;
}

/* exp((logit - largest) / temperature), at most 1; `largest` is finite, temperature above 0. */
static inline float rondo_candidate_weight(float logit, float largest, float temperature)
{
    return rondo_exp((logit - largest) / temperature);
}

/* What a weight adds to a mass; a NaN adds nothing. */
static inline uint64_t rondo_candidate_mass(float weight)
{
    return weight == weight ? (uint64_t)(int64_t)(weight * RONDO_MASS_ONE) : 0;
}

/* Whether a mass is wanted of logits whose largest is in place. */
static inline bool rondo_candidates_weigh(const struct rondo_candidates *candidates,
                                          float temperature)
{
    return temperature > 0 && candidates->count && isfinite(candidates->value[0]);
}

/* Takes one more number of a row if it belongs to the largest so far. Ids come in ascending order. */
static inline void rondo_candidates_offer(struct rondo_candidates *candidates, float value,
                                          int32_t id)
{
    int32_t low = 0, high = candidates->count;
    if (!(value == value) ||
        (high == RONDO_CANDIDATES && !(value > candidates->value[RONDO_CANDIDATES - 1])))
        return;
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (candidates->value[middle] < value)
            high = middle;
        else
            low = middle + 1;
    }
    size_t behind = (size_t)(candidates->count - low);
    if (candidates->count == RONDO_CANDIDATES)
        behind--; /* the last one leaves */
    else
        candidates->count++;
    memmove(candidates->value + low + 1, candidates->value + low,
            behind * sizeof *candidates->value);
    memmove(candidates->id + low + 1, candidates->id + low, behind * sizeof *candidates->id);
    candidates->value[low] = value + 0.0f; /* -0 is 0 */
    candidates->id[low] = id;
}

/* After the last number of a row. */
static inline void rondo_candidates_close(struct rondo_candidates *candidates)
{
    candidates->padding = 0;
    for (int32_t i = candidates->count; i < RONDO_CANDIDATES; i++) {
        candidates->value[i] = -INFINITY;
        candidates->id[i] = -1;
    }
}

/* The op for one row of n logits. */
static inline void rondo_candidates_take(struct rondo_candidates *candidates, const float *logits,
                                         int32_t n, float temperature)
{
    candidates->count = 0;
    for (int32_t i = 0; i < n; i++)
        rondo_candidates_offer(candidates, logits[i], i);
    rondo_candidates_close(candidates);
    candidates->mass = 0;
    if (!rondo_candidates_weigh(candidates, temperature))
        return;
    for (int32_t i = 0; i < n; i++)
        candidates->mass += rondo_candidate_mass(
            rondo_candidate_weight(logits[i], candidates->value[0], temperature));
}

#endif
