/* The numbers of random checkpoints: counter-based, so that any part of a tensor can be made by any thread. */
#ifndef RONDO_FORMATS_SYNTH_FILL_H
#define RONDO_FORMATS_SYNTH_FILL_H

#include "core/rondo.h"

enum rondo_synth_fill {
    RONDO_SYNTH_NORMAL, /* standard deviation `deviation` round 0 */
    RONDO_SYNTH_NORM,   /* weights of norms: standard deviation 0.1 round 1 */
    RONDO_SYNTH_CODES,  /* FP8 codes of a standard normal that uses the whole range of E4M3 */
    RONDO_SYNTH_SCALES, /* their scales: the deviation of the product is about `deviation` */
};

/* Quantiles of the normal distribution. */
struct rondo_synth_tables {
    float normal[65536];
    uint8_t codes[256];
    float code_deviation; /* of the values of `codes` */
};

void rondo_synth_tables_fill(struct rondo_synth_tables *tables);

/* The stream of one tensor. */
uint64_t rondo_synth_key(uint64_t seed, const char *name);

/* Elements [first, first + n) of a tensor, in its dtype; `first` is a multiple of 8. */
void rondo_synth_elements(const struct rondo_synth_tables *tables, enum rondo_synth_fill fill,
                          uint64_t key, float deviation, enum rondo_dtype dtype, uint64_t first,
                          size_t n, void *out);

#endif
