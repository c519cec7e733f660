/* The weights a config asks for, and where they are: names and shapes, their check against a model's files,
 * and their place in a device's memory. */
#ifndef RONDO_CORE_WEIGHTS_H
#define RONDO_CORE_WEIGHTS_H

#include "core/backend.h"
#include "core/model.h"

/* What a weight is, which decides how it is loaded and what may be quantised. */
enum rondo_weight_kind {
    RONDO_WEIGHT_EMBEDDING, /* [V, D] */
    RONDO_WEIGHT_LM_HEAD,   /* [V, D]; absent when tied */
    RONDO_WEIGHT_PROJECTION, /* [N, K] of attention and dense, shared and routed feed-forward layers */
    RONDO_WEIGHT_ROUTER,     /* [E, D] */
    RONDO_WEIGHT_NORM,       /* [n] */
    RONDO_WEIGHT_BIAS,       /* [n] */
    RONDO_WEIGHT_EXPERT_BIAS, /* [E] */
};

static inline bool rondo_weight_is_vector(enum rondo_weight_kind kind)
{
    return kind >= RONDO_WEIGHT_NORM;
}

/* One tensor that a config asks for. */
struct rondo_weight_entry {
    char name[112];
    enum rondo_weight_kind kind;
    int32_t layer;  /* -1: not in a layer */
    int32_t expert; /* -1: of none; E: of the shared one, where it is as wide as the routed ones */
    int64_t rows, columns; /* [rows, columns]; vectors: [columns], rows 1 */
};

/* All tensors of a config, in the order of the layers; malloc'ed. NULL when there is no memory. */
struct rondo_weight_entry *rondo_weight_list(const struct rondo_config *config, size_t *count);

/* Every needed tensor is there with its shape and a floating dtype, FP8 ones have scales that fit. Missing
 * tensors are one error that names them all (as far as the message has room, with their number); unknown
 * ones are logged once. */
int rondo_weights_check(const struct rondo_model *model, struct rondo_error *error);

/* used[i], of n_tensors that are false, becomes true where the config asks for tensor i, or for the weight whose
 * scales it holds. */
int rondo_weights_mark(const struct rondo_model *model, bool *used, struct rondo_error *error);

/* A feed-forward network: down(silu(gate x) * (up x)). */
struct rondo_ffn_weights {
    struct rondo_tensor gate, up, down; /* [I, D], [I, D], [D, I] */
};

/* Vectors are f32 whatever the file has. What a layer does not have is NULL, or has data NULL. */
struct rondo_layer_weights {
    const float *input_norm, *post_norm;    /* [D] */
    struct rondo_tensor qkv, dense, g_proj; /* [(H + 2 Hkv) hd, D], [D, H hd], [H hd, D] */
    const float *qkv_bias, *dense_bias;     /* [(H + 2 Hkv) hd], [D] */
    const float *query_norm, *key_norm;     /* [hd] */
    const float *g_norm;                    /* [H hd] */
    struct rondo_ffn_weights mlp;           /* dense layers */
    struct rondo_ffn_weights shared;        /* moe layers */
    struct rondo_tensor router;             /* [E, D] */
    const float *expert_bias;               /* [E] */
    /* [E + 1] tensors each; the last one is the shared expert's, where that is as wide as the others. */
    struct rondo_tensor *expert_gate, *expert_up, *expert_down;
};

struct rondo_weights {
    struct rondo_tensor embedding, lm_head; /* [V, D] */
    const float *norm;                      /* [D] */
    struct rondo_layer_weights *layers;     /* [L] */
    int32_t n_layers;
    struct rondo_tensor
        *expert_tensors; /* [L, 3, E + 1], what the layers' expert pointers point into */
    void **buffers;      /* [n_buffers] device memory owned here */
    size_t n_buffers;
    uint64_t bytes;       /* of all tensors and scales in use, once each */
    uint64_t owned_bytes; /* of device memory taken */
    struct rondo_device *device;
};

/* Bytes of device memory rondo_weights_load will take: all of the weights, or, where the device reads host
 * memory, the vectors and converted scales only. */
uint64_t rondo_weights_device_bytes(const struct rondo_model *model, bool in_place);

/* Whom to tell how far a load has come; `function` may be NULL. */
struct rondo_load_progress {
    rondo_progress_function *function;
    void *user;
};

/* Reads all weights in use and their scales, once for a model, and fails where one is NaN or infinite: at the first
 * in the order of memory. */
int rondo_weights_check_numbers(struct rondo_model *model,
                                const struct rondo_load_progress *progress,
                                struct rondo_error *error);

/* Uses a checked model's tensors in place where the device can, else copies them and tells `progress` (may be
 * NULL) of each. With device NULL the result is a view for sizes and dtypes only: its vectors and scales stand
 * as the files have them. */
int rondo_weights_load(struct rondo_weights *weights, const struct rondo_model *model,
                       struct rondo_device *device, const struct rondo_load_progress *progress,
                       struct rondo_error *error);
void rondo_weights_unload(struct rondo_weights *weights);

#endif
