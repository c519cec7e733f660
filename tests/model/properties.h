/* The property tests, by file. Each takes one lab and fails through EXPECT. */
#ifndef RONDO_TESTS_MODEL_PROPERTIES_H
#define RONDO_TESTS_MODEL_PROPERTIES_H

#include "tests/model/lab.h"

/* batches.c */
void property_split(struct lab *lab);   /* any split of a prompt into calls */
void property_decode(struct lab *lab);  /* token by token */
void property_batch(struct lab *lab);   /* batches of many sessions, in any order */
void property_reuse(struct lab *lab);   /* slots and pages that others have used */
void property_threads(struct lab *lab); /* other numbers of threads */
void property_best(struct lab *lab);
void property_sampled(struct lab *lab); /* ids of the largest logits, with and without the logits */

/* sessions.c */
void property_fork(struct lab *lab);
void property_save(struct lab *lab);
void property_sync(struct lab *lab); /* with truncate and snapshot */
void property_boundary(struct lab *lab);

/* drafts.c */
void property_tree(struct lab *lab);  /* trees, accept, go on */
void property_chain(struct lab *lab); /* longer than a chunk */

/* fusions.c */
void property_fusions(struct lab *lab);

/* short.c */
void property_short(struct lab *lab); /* pieces, batches, trees: a little of each */

/* refusals.c */
void property_refusals(struct lab *lab);

#endif
