/* Inside of the attention family: what its references, drivers and kernels share.
 *
 * The drivers (linear_attention.c, softmax_attention.c, attention.c) cut the work into tasks and are the same at
 * every level; a level is a table of the few kernels below. */
#ifndef RONDO_BACKEND_CPU_ATTENTION_INTERNAL_H
#define RONDO_BACKEND_CPU_ATTENTION_INTERNAL_H

#include "backend_cpu/cpu.h"
#include "core/numbers.h"

/* ---- kernels --------------------------------------------------------------------------------- */

/* Memory that is read soon, and what is read after it: asked for while something else is computed, the near one for
 * the second time, because a processor drops requests when too many wait already. */
struct rondo_ahead {
    const void *near; /* NULL: nothing is asked for */
    const void *far;  /* NULL: not known, so the near one is asked for in its place */
    int64_t size;     /* bytes of each */
};

/* What the chains of a product begin with. */
enum rondo_product_start {
    RONDO_START_ZERO,
    RONDO_START_KEEP,  /* c */
    RONDO_START_SCALE, /* c[r] * scale[r * scale_step], rounded */
};

/* c[r][i] = start, then for j = 0 .. n-1: c[r][i] = fma(a[r][j], b[j][i], c[r][i]). */
struct rondo_product {
    float *c;                             /* [rows, columns], rows c_stride apart */
    const float *a;                       /* [rows, n], rows a_stride apart */
    const void *b;                        /* [n, columns], rows b_stride apart */
    int64_t c_stride, a_stride, b_stride; /* elements */
    const float *scale;                   /* for RONDO_START_SCALE */
    int32_t scale_step;
    int32_t rows, columns, n; /* columns: a multiple of 16 */
    enum rondo_product_start start;
    enum rondo_dtype b_dtype; /* f32 or bf16 */
    struct rondo_ahead ahead;
};

/* x[r][j] = the dot product of row r of q and key j: from 0 on fma(q[r][d], key[j][d], x) for d = 0 .. head_dim-1.
 * Keys are transposed a few channels at a time, while they are in the nearest cache: for few rows. */
struct rondo_dots {
    float *x; /* [rows, n_keys rounded up to 16], rows x_stride apart; undefined from n_keys on */
    const float *q;         /* [rows, head_dim] */
    const void *keys;       /* [n_keys, head_dim] */
    int64_t x_stride;       /* elements */
    enum rondo_dtype dtype; /* of the keys */
    int32_t rows, n_keys;   /* n_keys: C at most */
    int32_t head_dim;
    struct rondo_ahead ahead;
};

/* Counts of channels are multiples of 16; arrays are f32 and need no alignment, dtypes are f32 or bf16. */
struct rondo_attention_kernels {
    void (*product)(const struct rondo_product *product);
    void (*dots)(const struct rondo_dots *dots);
    /* to [channels, C]: to[d][j] = rows[j][d] for j < n_rows; lanes j past n_rows are undefined. */
    void (*transpose)(float *to, const void *rows, enum rondo_dtype dtype, int32_t n_rows,
                      int32_t channels);
    void (*widen)(float *to, const void *from, enum rondo_dtype dtype, int32_t n);
    /* out[i] = x[i] * factor, rounded to the dtype. */
    void (*scale)(void *out, enum rondo_dtype dtype, const float *x, float factor, int32_t n);
    /* to[i] = x[i] * y[i]. */
    void (*multiply)(float *to, const float *x, const float *y, int32_t n);
    /* total[i] = fma(total[i], f, part[i] * g). */
    void (*merge)(float *total, const float *part, float f, float g, int32_t n);
    /* to[i] = codes[i], exact in f32 and in bf16. */
    void (*decode)(void *to, enum rondo_dtype dtype, const uint8_t *codes, int32_t n);
    /* A C-block of softmax_attention for one row: x[0 .. n-1] are dot products and become p_j; x [C] becomes zero from n
     * to the next multiple of 16. m and l move on; the factor f of the earlier part is returned (first: 0). */
    float (*softmax)(float *x, int32_t n, float scale, bool is_first, float *m, float *l);
};

extern const struct rondo_attention_kernels rondo_attention_kernels_avx2;
extern const struct rondo_attention_kernels rondo_attention_kernels_avx512;
extern const struct rondo_attention_kernels rondo_attention_kernels_neon;

/* Of the level, or NULL: the reference does it. */
const struct rondo_attention_kernels *rondo_attention_kernels(enum rondo_cpu_level level,
                                                              int32_t head_dim);

/* The product where row r only takes j < limit[r / rows_per_limit]; limits are at least 1 and do not
 * decrease. */
void rondo_product_staircase(const struct rondo_attention_kernels *kernels,
                             const struct rondo_product *product, const int32_t *limit,
                             int32_t rows_per_limit);

/* ---- drivers --------------------------------------------------------------------------------- */

void rondo_linear_attention_cpu(struct rondo_device *device,
                                const struct rondo_op_linear_attention *op);
void rondo_softmax_attention_cpu(struct rondo_device *device,
                                 const struct rondo_op_softmax_attention *op);
void rondo_accept_cpu(struct rondo_device *device, const struct rondo_op_accept *op);

size_t rondo_linear_attention_workspace(const struct rondo_limits *limits, int threads);
size_t rondo_softmax_attention_workspace(const struct rondo_limits *limits, int threads);

/* Scratch of a fold, and of whoever prepares one. */
struct rondo_linear_fold {
    const struct rondo_attention_kernels *kernels;
    const float *decay_power; /* [C + 1] of the head */
    const float *reversed;    /* [2 C]: decay_power[C - 1 - j], then zeros */
    float *keys;              /* [hd, C] keys of the chunk, transposed */
    float *decayed;           /* [hd, C] scratch */
    int32_t head_dim;
};

/* Folds the chunk whose keys stand in fold->keys; v [C, hd], rows hd apart. */
void rondo_linear_fold(const struct rondo_linear_fold *fold, float *state, const void *v,
                       enum rondo_dtype dtype);

/* Room for n floats (or as many bytes) at base + *used, aligned to 64 bytes; base NULL: only counts. */
static inline void *rondo_take(char *base, size_t *used, size_t n)
{
    char *at = base ? base + *used : NULL;
    *used += (n * sizeof(float) + 63) & ~(size_t)63;
    return at;
}

/* ---- addresses ------------------------------------------------------------------------------- */

/* First element of row `row` of head `head` of slot `slot` in a cache of [slots, heads, rows, head_dim]. */
static inline size_t rondo_cache_row(int32_t slot, int32_t heads, int32_t head, int32_t rows,
                                     int32_t row, int32_t head_dim)
{
    return (((size_t)slot * heads + head) * rows + row) * head_dim;
}

/* Address of element `index`. */
static inline char *rondo_element(const void *data, enum rondo_dtype dtype, size_t index)
{
    return (char *)data + index * (dtype == RONDO_F32 ? 4 : 2);
}

/* The rows of one head in a KV cache, as core/ops.h lays them out. */
struct rondo_kv_block {
    char *rows;    /* [n, hd] of the cache's dtype */
    float *scales; /* [n] of f8_e4m3, else NULL */
};

/* Block `index` of blocks of n rows. */
static inline struct rondo_kv_block rondo_kv_block(const void *blocks, enum rondo_dtype dtype,
                                                   int64_t index, int32_t n, int32_t head_dim)
{
    char *at = (char *)blocks + (size_t)index * rondo_kv_block_bytes(dtype, n, head_dim);
    return (struct rondo_kv_block){at + rondo_kv_rows_offset(dtype, n),
                                   dtype == RONDO_F8_E4M3 ? (float *)at : NULL};
}

/* Address of row `row`. */
static inline char *rondo_kv_row(const struct rondo_kv_block *block, enum rondo_dtype dtype,
                                 int32_t row, int32_t head_dim)
{
    return block->rows + (size_t)row * (size_t)head_dim * rondo_dtype_size(dtype);
}

static inline float rondo_kv_scale(const struct rondo_kv_block *block, int32_t row)
{
    return block->scales ? block->scales[row] : 1.0f;
}

/* The ancestor of a draft node that stands at `position`, the node itself included. `parent` is the
 * sequence's part of the batch array; `node_position` is where the node stands. */
static inline int32_t rondo_draft_ancestor(const int32_t *parent, int32_t node,
                                           int32_t node_position, int32_t position)
{
    for (; node_position > position; node_position--)
        node = parent[node];
    return node;
}

/* ---- references ------------------------------------------------------------------------------ */

/* Folds a whole chunk, rows k and v [C, hd] of `dtype`, into state [hd, hd]: the fold of
 * rondo_op_linear_attention. */
void rondo_linear_fold_ref(float *state, const void *k, const void *v, enum rondo_dtype dtype,
                           const float *decay_power, int32_t head_dim);

/* Token t of a sequence goes into the caches: to its page, or as a draft node. */
void rondo_kv_store_token(const struct rondo_op_softmax_attention *op,
                          const struct rondo_batch_sequence *sequence, const int32_t *pages,
                          int32_t t);

#endif
