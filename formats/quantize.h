/* Quantising a checkpoint's projections to FP8, from directory to directory, in the published layouts. */
#ifndef RONDO_FORMATS_QUANTIZE_H
#define RONDO_FORMATS_QUANTIZE_H

#include "formats/config.h"

struct rondo_quantize_options {
    enum rondo_quantization kind; /* BLOCK or ROW */
    bool lm_head;      /* the output head as well, which of tied ones is the embedding table */
    bool power_of_two; /* scales rounded up to powers of two */
    int threads;       /* 0: one per core; the bytes do not depend on it */
    rondo_progress_function *progress;
    void *progress_user;
};

/* Writes DESTINATION from SOURCE, whose projections must be BF16, F16 or F32: attention (qkv, gate, output) and
 * dense, shared and routed feed-forward matrices become FP8; embeddings, norms, router and biases stay as they
 * are. One output shard for each input shard, with memory for a few rows only; other files (tokenizer,
 * templates) are copied, config.json comes last. A run that was killed or that failed can be repeated with the
 * same options: finished shards are kept. Never writes to SOURCE.
 *   BLOCK  weight_scale_inv[i][j] = max(amax of the 128 x 128 block, 1e-4) / 448
 *   ROW    weight_scale[i][0] = max(amax of the row / 448, 2^-23)
 *   code   e4m3(value / scale), to nearest even */
int rondo_quantize(const char *source, const char *destination,
                   const struct rondo_quantize_options *options, struct rondo_error *error);

#endif
