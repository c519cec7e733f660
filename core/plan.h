/* The plan: a config turned once into a flat list of steps over named values, laid out in one arena. The same
 * list is executed, printed, timed per label and compared. */
#ifndef RONDO_CORE_PLAN_H
#define RONDO_CORE_PLAN_H

#include "core/cache.h"
#include "core/weights.h"

/* How many rows a value has in a run. */
enum rondo_rows {
    RONDO_ROWS_TOKENS, /* T */
    RONDO_ROWS_ROUTED, /* T * K */
    RONDO_ROWS_EXPERTS, /* T * K + T: of the shared expert, which has all tokens, behind the routed ones */
    RONDO_ROWS_LOGITS,  /* rows whose logits are asked for, a slice at a time */
    RONDO_ROWS_OFFSETS, /* 1: the array of offsets */
};

/* An intermediate result. `first` and `last` are the steps that define and last use it; values whose lives do
 * not overlap share memory. */
struct rondo_value {
    const char *name;
    int32_t layer; /* -1: not in a layer */
    enum rondo_dtype dtype;
    enum rondo_rows rows;
    int64_t columns;
    int32_t first, last;
    size_t offset,
        size;     /* in the arena, for the largest run; scales of quantised values included */
    void *data;   /* [rows, columns] */
    float *scale; /* [rows, ceil(columns / 128)] of f8_e4m3 values, else NULL */
};

union rondo_op_args {
    struct rondo_op_embedding embedding;
    struct rondo_op_rmsnorm rmsnorm;
    struct rondo_op_quantize quantize;
    struct rondo_op_gemm gemm;
    struct rondo_op_grouped_gemm grouped_gemm;
    struct rondo_op_qkv qkv;
    struct rondo_op_linear_attention linear_attention;
    struct rondo_op_softmax_attention softmax_attention;
    struct rondo_op_group_norm_gate group_norm_gate;
    struct rondo_op_router router;
    struct rondo_op_gemm_router gemm_router;
    struct rondo_op_group_tokens group_tokens;
    struct rondo_op_swiglu swiglu;
    struct rondo_op_combine combine;
    struct rondo_op_argmax argmax;
    struct rondo_op_penalize penalize;
    struct rondo_op_candidates candidates;
};

enum rondo_use { RONDO_USE_IN, RONDO_USE_OUT, RONDO_USE_IN_OUT };

/* Which rows of a value of RONDO_ROWS_EXPERTS. */
enum rondo_piece { RONDO_PIECE_ALL, RONDO_PIECE_ROUTED, RONDO_PIECE_SHARED };

/* Ties a field of a step's arguments to a value. */
struct rondo_binding {
    uint32_t field; /* offset in union rondo_op_args of a struct rondo_tensor, or of a pointer */
    int32_t value;
    int32_t first_column; /* of a part of the value's columns */
    int64_t columns;      /* 0: all */
    enum rondo_piece piece;
    enum rondo_use use;
    bool is_pointer;
};

#define RONDO_MAX_BINDINGS 12
#define RONDO_LOGIT_ROWS 64
#define RONDO_MAX_LABELS 32

struct rondo_step {
    enum rondo_op op;
    int32_t layer; /* -1: not in a layer */
    const char *label;
    int32_t label_index; /* into plan->labels */
    int32_t n_bindings;
    struct rondo_binding binding[RONDO_MAX_BINDINGS];
    union rondo_op_args args;
    int32_t fusion;        /* the first of those that begin here, -1: none */
    uint64_t weight_bytes; /* of weights one token touches: K experts of a grouped product */
    uint64_t macs;         /* multiply-adds of products, for one token */
};

/* One op that does what several steps do, to the same bits. */
struct rondo_fusion {
    struct rondo_step step;
    int32_t steps[3]; /* ascending; it runs in the place of the first */
    int32_t n_steps;
    int32_t next; /* another that begins at the same step, -1: none */
    bool enabled; /* the device can do it */
};

struct rondo_plan {
    const struct rondo_config *config;
    const struct rondo_weights *weights;
    enum rondo_mode mode;
    enum rondo_dtype act;
    struct rondo_limits limits;
    int32_t logit_rows; /* rows of a slice of logits, at most RONDO_LOGIT_ROWS */

    struct rondo_value *values; /* [n_values] */
    int32_t n_values, values_capacity;
    struct rondo_step *steps; /* [n_steps] */
    int32_t n_steps, steps_capacity;
    struct rondo_fusion *fusions; /* [n_fusions] */
    int32_t n_fusions, fusions_capacity;
    int32_t *layer_first; /* [L + 1] first step of a layer; [L] is the first of the logits */
    int32_t hidden, logits, best, candidates; /* values */
    /* Steps after the logits' that run only where what they make is wanted. */
    int32_t argmax_step, penalize_step, candidates_step;
    const char *labels[RONDO_MAX_LABELS];
    int32_t n_labels;
    bool out_of_memory;

    struct rondo_device *device;
    size_t arena_size;
    char *arena;                /* [arena_size] */
    float *decay_power;         /* [linear layers, H, C + 1] */
    float *rope_cos, *rope_sin; /* [limits.context, rotary_dim / 2] */
    int32_t rope_filled;        /* rows that are there */
    double *rope_frequency;     /* [rotary_dim / 2] host */
    float *rope_staging;        /* host, one block of rows */
    const int32_t *logit_row;   /* device: batch rows whose logits are asked for; set for a run */
    const struct rondo_sampling *sampling; /* device: how each of them is sampled; set for a run */
    const int32_t *seen;                   /* device: ids that are penalised; set for a run */

    struct rondo_batch batch; /* what the steps read; filled by the context before a run */
};

/* ---- made in this order; destroy undoes whatever was done -------------------------------------- */

/* Steps and values; `weights` may be a view (rondo_weights_load without a device). No device memory. */
int rondo_plan_build(struct rondo_plan *plan, const struct rondo_config *config,
                     const struct rondo_weights *weights, enum rondo_mode mode,
                     const struct rondo_limits *limits, struct rondo_error *error);
/* The place of a label among the plan's, which it takes if it is new. Labels that find no place share the last one,
 * which is called "others" then. */
int32_t rondo_plan_label(struct rondo_plan *plan, const char *label);
/* Finds the fusions; the last part of rondo_plan_build. */
void rondo_plan_fuse(struct rondo_plan *plan);
/* Bytes of device memory rondo_plan_place will take. */
uint64_t rondo_plan_bytes(const struct rondo_plan *plan);
/* Takes memory, binds values and caches, makes the constants, checks every step's arguments once. */
int rondo_plan_place(struct rondo_plan *plan, struct rondo_device *device,
                     const struct rondo_cache *cache, struct rondo_error *error);
void rondo_plan_destroy(struct rondo_plan *plan);

/* ---- running ----------------------------------------------------------------------------------- */

/* RoPE rows for positions below `positions` exist after this. */
void rondo_plan_extend_rope(struct rondo_plan *plan, int32_t positions);
/* Sets the row counts of steps [first, end) for a run of `tokens` and a slice of `logit_rows`. */
void rondo_plan_set_rows(struct rondo_plan *plan, int32_t first, int32_t end, int32_t tokens,
                         int32_t logit_rows);
void rondo_step_run(const struct rondo_step *step, struct rondo_device *device);
/* What runs in place of `step` and later steps before `end`; NULL: the step itself. */
const struct rondo_fusion *rondo_plan_fusion(const struct rondo_plan *plan, int32_t step,
                                             int32_t end);
int64_t rondo_plan_rows(const struct rondo_plan *plan, enum rondo_rows rows, int32_t tokens,
                        int32_t logit_rows);

/* One line for a step, as rondo_context_print_plan gives it. */
void rondo_step_print(const struct rondo_plan *plan, int32_t step, char *line, size_t size);

/* Decays of a linear layer: decay_power[h * (C + 1) + i] = lambda_h ^ i, in double, rounded once. */
void rondo_decay_powers(const struct rondo_config *config, int32_t layer, float *decay_power);
/* Angle per position of each rotating pair, and the factor of cos and sin (YaRN). */
void rondo_rope_frequencies(const struct rondo_config *config, double *frequency);

#endif
