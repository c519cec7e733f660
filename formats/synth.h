/* Random checkpoints: the published sizes and small ones, in the published layout, for benchmarks and tests. */
#ifndef RONDO_FORMATS_SYNTH_H
#define RONDO_FORMATS_SYNTH_H

#include "core/rondo.h"

enum rondo_synth_dtype {
    RONDO_SYNTH_BF16,
    RONDO_SYNTH_F16,
    RONDO_SYNTH_F32,
    RONDO_SYNTH_FP8_BLOCK, /* projections FP8 with weight_scale_inv of 128 x 128 blocks, the rest BF16 */
    RONDO_SYNTH_FP8_ROW, /* projections FP8 with weight_scale of rows, the rest BF16 */
};

struct rondo_synth_options {
    const char *preset;
    enum rondo_synth_dtype dtype;
    bool lm_head_fp8; /* with one of the FP8 dtypes: the output head as well */
    uint64_t seed;
    int32_t layers;      /* 0: as many as the preset has */
    uint64_t shard_size; /* bytes after which a new file begins; 0: 4 GB */
    int threads;         /* 0: one per core; the bytes do not depend on it */
    rondo_progress_function *progress;
    void *progress_user;
};

/* Names and descriptions, NULL-terminated. */
struct rondo_synth_preset {
    const char *name, *description;
};
const struct rondo_synth_preset *rondo_synth_presets(void);

/* The config of a preset; fails with a list of all presets. */
int rondo_synth_config(const struct rondo_synth_options *options, struct rondo_config *config,
                       struct rondo_error *error);

/* Bytes of tensors the options ask for. */
int rondo_synth_size(const struct rondo_synth_options *options, uint64_t *bytes,
                     struct rondo_error *error);

/* Makes the directory with config.json, weights and a byte tokenizer. Weights are normal with standard
 * deviation 1/sqrt(fan-in), so activations stay near 1 and the residual stream grows like the square root of
 * the depth. Refuses a directory that has files in it and a disk that is too small. On failure nothing stays
 * behind. The same options give the same bytes. */
int rondo_synth(const struct rondo_synth_options *options, const char *directory,
                struct rondo_error *error);

#endif
