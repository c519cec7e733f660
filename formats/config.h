/* config.json and generation_config.json of a checkpoint directory, as a checked struct rondo_config. */
#ifndef RONDO_FORMATS_CONFIG_H
#define RONDO_FORMATS_CONFIG_H

#include "core/rondo.h"

/* Largest sizes accepted. Together they keep every product of two or three sizes far inside int64, and the
 * list of a model's tensors under 200 MB. */
#define RONDO_MAX_VOCAB (1 << 22)
#define RONDO_MAX_HIDDEN (1 << 16)
#define RONDO_MAX_INTERMEDIATE (1 << 20)
#define RONDO_MAX_LAYERS 1024
#define RONDO_MAX_HEADS 1024
#define RONDO_MAX_HEAD_DIM 512
#define RONDO_MAX_EXPERTS 4096
#define RONDO_MAX_EXPERTS_PER_TOK 64
#define RONDO_MAX_LAYER_EXPERTS (1 << 18) /* layers times experts */
#define RONDO_MAX_POSITIONS (1 << 24)

enum rondo_quantization {
    RONDO_QUANTIZATION_NONE,
    RONDO_QUANTIZATION_BLOCK, /* quant_method "fp8": weight_scale_inv for blocks of 128 x 128 */
    RONDO_QUANTIZATION_ROW, /* "compressed-tensors", strategy "channel": weight_scale per output row */
};

/* Fills `config` from DIRECTORY/config.json and, when it is there, DIRECTORY/generation_config.json (end
 * tokens: the union of both files). Keys that are absent have the defaults of the model's own config class.
 * `options` and `quantization` may be NULL. The quantisation is only what the file announces: which tensors
 * are quantised, and how, is decided by each tensor. */
int rondo_config_read(const char *directory, const struct rondo_model_options *options,
                      struct rondo_config *config, enum rondo_quantization *quantization,
                      struct rondo_error *error);

/* The same from text in memory. `name` and `generation_name` stand in messages; `generation` may be NULL. */
int rondo_config_parse(const char *name, const char *text, size_t length,
                       const char *generation_name, const char *generation,
                       size_t generation_length, const struct rondo_model_options *options,
                       struct rondo_config *config, enum rondo_quantization *quantization,
                       struct rondo_error *error);

/* The inverse, as far as struct rondo_config reaches: text of a config.json, malloc'ed. `torch_dtype` is what
 * the file says of its unquantised weights ("bfloat16"). */
char *rondo_config_print(const struct rondo_config *config, const char *torch_dtype,
                         enum rondo_quantization quantization, bool lm_head_quantized);

struct cJSON;

/* Sets (or removes) quantization_config in the tree of a config.json. */
void rondo_config_add_quantization(struct cJSON *root, enum rondo_quantization kind,
                                   bool lm_head_quantized);

#endif
