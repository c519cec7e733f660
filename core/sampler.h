/* Inside of a sampler: how a context samples rows of logits where they are, most of them without moving them.
 *
 * The op penalize changes a row as the sampler would, and the op candidates takes the largest of it and the mass of
 * all. Where these decide the pick, it is the one that the sampler makes of the whole row; where they do not, the row
 * is read. */
#ifndef RONDO_CORE_SAMPLER_H
#define RONDO_CORE_SAMPLER_H

#include "core/ops.h"
#include "core/rondo.h"

int32_t rondo_sampler_vocabulary(const struct rondo_sampler *sampler);

/* Takes the largest logit, and nothing else changes it: what the op argmax gives. */
bool rondo_sampler_is_greedy(const struct rondo_sampler *sampler);

/* What ops are to do for the sampler's row; its seen ids are to follow. */
struct rondo_sampling rondo_sampler_sampling(const struct rondo_sampler *sampler);

/* The different ids of a history that are penalised; their number, or -1 when it is above `capacity`. None when there
 * is no penalty. */
int32_t rondo_sampler_seen(struct rondo_sampler *sampler, const int32_t *history, size_t n,
                           int32_t *ids, int32_t capacity);

/* Picks by the candidates of a row that is penalised, if they decide: *id is as rondo_sampler_pick's. False, and no
 * draw is used, if they do not. Of candidates that are not what the op gives, *id is an id among them, or -1. */
bool rondo_sampler_pick_candidates(struct rondo_sampler *sampler,
                                   const struct rondo_candidates *candidates, int32_t *id);

/* Where a whole row is read to: [V]. */
float *rondo_sampler_row(struct rondo_sampler *sampler);

/* Picks from that row. `n` ids of a history are to be penalised first; NULL: they are. */
int32_t rondo_sampler_pick_row(struct rondo_sampler *sampler, const int32_t *history, size_t n);

#endif
