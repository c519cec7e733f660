/* The walk over all weights of a config that the list, the check and the loader of core/weights.h share. */
#ifndef RONDO_CORE_WEIGHT_LIST_H
#define RONDO_CORE_WEIGHT_LIST_H

#include "core/weights.h"

/* `target` is where struct rondo_weights keeps the weight: a struct rondo_tensor * for matrices, a
 * const float ** for vectors; NULL in a walk without weights. Nonzero stops the walk and is its result. */
typedef int rondo_weight_visitor(void *user, const struct rondo_weight_entry *entry, void *target);

/* `weights` has its layers and expert tensors in place, or is NULL. */
int rondo_weight_walk(const struct rondo_config *config, struct rondo_weights *weights,
                      rondo_weight_visitor *visit, void *user);

#endif
