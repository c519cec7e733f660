/* The op table: what every backend implements, and the exact meaning of each op.
 *
 * Shapes: T tokens of the batch, B sequences, D hidden size, H query heads, Hkv key/value heads, hd head
 * size, E experts, K experts per token, R = T*K routed rows, C = RONDO_CHUNK. "act" is the activation
 * dtype of the plan: f32, or bf16 in modes bf16 and fp8. "codes" are f8_e4m3 with scales of 1x128: an output that
 * is stored as codes holds what the op would put into bf16, quantised as by quantize, power_of_two false.
 *
 * The reference of each op is the plain C in backend_cpu/ref; "order" below is its order of operations.
 * All arithmetic is f32. fma(a,b,c) is one fused operation. Every CPU path follows the order and gives the
 * same bits; other backends agree within the tolerance that stands here, as NMSE against the reference.
 *
 * No result may depend on T, B, or which other tokens share the batch: a token's numbers are a function of
 * its own sequence. T = 0 is legal everywhere and touches nothing. A sequence with slot -1 is padding: its
 * caches are not touched and its output rows are undefined.
 *
 * core/ops.c checks shapes, dtypes and aliasing once, when a plan is made; kernels trust them. */
#ifndef RONDO_CORE_OPS_H
#define RONDO_CORE_OPS_H

#include "core/tensor.h"

/* Tokens of a chunk of the linear attention and of a KV page. A grid of absolute positions. */
#define RONDO_CHUNK 64
/* Positions of a segment of softmax attention; partial results of segments are merged in order. */
#define RONDO_SEGMENT 1024
/* A product sums each block of RONDO_BLOCK channels in RONDO_QUARTERS quarters: of the block's runs of
 * RONDO_QUARTER_RUN channels, quarter j has runs j, j + 4, j + 8 and so on. */
#define RONDO_QUARTERS 4
#define RONDO_QUARTER_RUN 4

struct rondo_device;

/* ---- batch ---------------------------------------------------------------------------------- */

struct rondo_batch_sequence {
    int32_t first_token; /* index of the sequence's first token in the batch */
    int32_t n_tokens;
    int32_t start;    /* tokens in the caches before this call */
    int32_t slot;     /* of the state pool; -1: padding */
    int32_t is_draft; /* tokens are nodes of a draft tree; caches keep them aside, see below */
};

/* All arrays in device memory. Sequences stand one after the other in the batch. A sequence with n_tokens 0
 * is legal and does nothing.
 * The three bounds are for sizing work from the host, which can not read the arrays. They may be larger than
 * the truth within the limits the device reserved for, never smaller; results must not depend on them.
 * An ordinary token i of a sequence has position start + i. A draft node has position start + depth, depth
 * 0 for parent -1; it sees the first `start` tokens, its ancestors and itself. */
struct rondo_batch {
    int32_t n_tokens, n_sequences;
    int32_t max_sequence_tokens; /* largest n_tokens of a sequence */
    int32_t max_length;          /* largest start + n_tokens */
    int32_t n_drafts;            /* sequences that are drafts */
    const int32_t *token;        /* [T] ids */
    const int32_t *position;     /* [T] absolute */
    const int32_t *sequence_of;  /* [T] index into sequences */
    const int32_t
        *parent; /* [T] draft nodes: index among the sequence's nodes, -1 none; else unused */
    const struct rondo_batch_sequence *sequences; /* [B] */
    const int32_t *page_table; /* [B, page_stride] page of positions [C*i, C*(i+1)) */
    int32_t page_stride;
};

/* ---- caches --------------------------------------------------------------------------------- */

/* Of one linear layer. Slot s holds the state at the last chunk boundary at or before the sequence's
 * length, and the rows of the open chunk: row i is position C*floor(length/C) + i. Rows past the length
 * are undefined. */
struct rondo_linear_cache {
    float *state;            /* [slots, H, hd, hd], rows = key channels, columns = value channels */
    void *tail_k, *tail_v;   /* [slots, H, C, hd] act */
    void *draft_k, *draft_v; /* [slots, H, max_draft, hd] act, row = node */
    enum rondo_dtype dtype;  /* of tails and drafts */
    int32_t max_draft;
};

/* Of one softmax layer. Of dtype act the rows of a head are a block [rows, hd], rows being C of a page and
 * max_draft of drafts. Of dtype f8_e4m3 a row is codes and a scale s, with
 *     s as quantize makes it from the row's largest magnitude, but NaN when an x is not finite;
 *     code = e4m3(x / s), value = code * s
 * and a block is first the scales [rows] f32, filled up to a multiple of 16 bytes, then the codes [rows, hd],
 * filled up likewise. */
struct rondo_kv_cache {
    void *k, *v;             /* [pages, Hkv] blocks of C rows */
    void *draft_k, *draft_v; /* [slots, Hkv] blocks of max_draft rows, row = node */
    enum rondo_dtype dtype;  /* act or f8_e4m3 */
    int32_t max_draft;
};

/* Where the rows of a block begin, and the bytes of a block. */
static inline size_t rondo_kv_rows_offset(enum rondo_dtype dtype, int64_t rows)
{
    return dtype == RONDO_F8_E4M3 ? ((size_t)rows * sizeof(float) + 15) & ~(size_t)15 : 0;
}

static inline size_t rondo_kv_block_bytes(enum rondo_dtype dtype, int64_t rows, int64_t head_dim)
{
    size_t size = (size_t)rows * (size_t)head_dim * rondo_dtype_size(dtype);
    return dtype == RONDO_F8_E4M3 ? rondo_kv_rows_offset(dtype, rows) + ((size + 15) & ~(size_t)15)
                                  : size;
}

/* ---- ops ------------------------------------------------------------------------------------ */

/* out[t] = table[token[t]], widened and multiplied by the scale of its block or row where there is one. Exact; -0
 * may be 0. */
struct rondo_op_embedding {
    const struct rondo_batch *batch;
    struct rondo_tensor table; /* [V, D] any dtype of a weight */
    struct rondo_tensor out;   /* [T, D] f32 */
};

/* Root-mean-square norm. Order: s = sum of squares as 16 lanes (lane l: fma over channels l, l+16, ...)
 * added by rondo_sum_tree16; r = 1 / sqrt(s / D + eps); out = (x * r) * weight, rounded to out's dtype.
 * With `rows`, output row i is made from input row rows[i]. NMSE 1e-12 (f32), 1e-5 (bf16), 1e-4 (codes). */
struct rondo_op_rmsnorm {
    struct rondo_tensor x;     /* [T or more, D] f32 */
    struct rondo_tensor out;   /* [n_rows, D] act or codes */
    struct rondo_tensor codes; /* [n_rows, D] out, which is bf16, as codes too; data NULL: none */
    const float *weight;       /* [D] */
    const int32_t *rows;       /* [n_rows] or NULL */
    int32_t n_rows;
    float eps;
};

/* 1x128 quantisation of activations. Order, per row and 128 channels: a = max |x|; s = a / 448, at least
 * 1e-30, and 1 when a is 0; with power_of_two s is rounded up to a power of two; q = e4m3(x / s), nearest
 * even, saturating. A NaN does not count for a, and its code is 0x7f. Exact against the reference, but for
 * codes one apart. */
struct rondo_op_quantize {
    struct rondo_tensor x;   /* [T, N] act */
    struct rondo_tensor out; /* [T, N] f8_e4m3 with scale [T, ceil(N/128)], scale block {1,128} */
    bool power_of_two;
};

/* out_p = x * W_p^T (+ bias_p), for up to 4 weights that share their input.
 * x may be f32, bf16 or quantised f8_e4m3. W may be f32, bf16, f16, f8_e4m3 with block, row or no scales.
 * Order, for each output: y = 0; for each block of 128 of K in order: for each of its quarters j = 0 .. 3: a_j = 0, for
 * the k of the block with k / 4 mod 4 = j, in order, a_j = fma(x[k], w[k], a_j) on unscaled values; then
 * y = fma((a_0 + a_1) + (a_2 + a_3), s, y), where s is the product of the block's scale of x (1 when x is not
 * quantised) and its weight block scale (1 when there is none). (Quarters, because so 16 bytes of FP8 are four lanes of
 * a vector as they lie in memory.)
 * Then y *= row scale when scales are per row; y += bias when there is one; residual: out = out + y, else out = y
 * rounded to out's dtype. NMSE 1e-11 (f32), 1e-5 (bf16 out; and where FP8 tensor cores multiply, which keep about 14 bits
 * of a sum: the reason why each block of 128 is added in f32). */
struct rondo_gemm_part {
    struct rondo_tensor weight; /* [N, K] */
    const float *bias;          /* [N] or NULL */
    struct rondo_tensor out; /* [M, N], row_stride may be larger; f32 or bf16; f32 with residual */
};

struct rondo_op_gemm {
    struct rondo_tensor x; /* [M, K] */
    struct rondo_gemm_part part[4];
    int32_t n_parts;
    bool residual;
};

/* Experts of a grouped product, at most, where a plan can choose: with more it is slower on some devices. */
#define RONDO_GROUPS 1024

/* The same product for rows that are grouped by expert: rows offsets[e] .. offsets[e+1] of the output use
 * expert e's weights. Output row r reads x row gather[r] (r itself when NULL). Parts (gate and up) stand
 * side by side in out: columns [0, N) and [N, 2N). Every expert's weight of a part has the same shape, and
 * unless `mixed` the same dtype and kind of scales. Order and tolerance of gemm, by each expert's own dtype; x is the
 * same for all, so it is codes only where a plan has found every expert's weight to be FP8 (core/plan.c).
 * Experts without rows cost nothing.
 * On devices that do not use host memory in place the data of a part's experts are evenly spaced (expert e's
 * stand e strides after expert 0's), and so are their scales, and their biases: core/weights.c places them
 * so. Of mixed experts each run is so, of those in a row that are alike in all parts. */
struct rondo_op_grouped_gemm {
    struct rondo_tensor x; /* [*, K] */
    const struct rondo_tensor
        *weight[2]; /* [E] each; host memory, tensors point to device memory */
    int32_t n_parts, n_experts;
    bool mixed;                  /* weights of a part differ in dtype or kind of scales */
    const float *const *bias[2]; /* NULL, or [E] pointers to [N] */
    const int32_t *offsets;      /* [E + 1] */
    const int32_t *gather;       /* [R] or NULL */
    int32_t n_rows;              /* R */
    struct rondo_tensor out;     /* [R, n_parts * N] act */
};

/* Splits a fused qkv row into heads, and makes q and k ready: optional silu on q, k and v; optional
 * RMS norm per head; RoPE on the first rotary_dim channels of q and k; then rounding to the outputs' dtype.
 * Input row: q [H*hd], k [Hkv*hd], v [Hkv*hd]. Norm has the order of rmsnorm over hd channels. RoPE pairs
 * channel j with j + R/2, R = rotary_dim: y1 = fma(-x2, sin, x1 * cos), y2 = fma(x1, sin, x2 * cos), with
 * cos, sin from row position[t] of the tables. NMSE 1e-12 (f32), 1e-5 (bf16). */
struct rondo_op_qkv {
    const struct rondo_batch *batch;
    struct rondo_tensor qkv;          /* [T, (H + 2 Hkv) hd] act */
    struct rondo_tensor q, k, v;      /* [T, H*hd], [T, Hkv*hd], [T, Hkv*hd] act */
    const float *q_weight, *k_weight; /* [hd], NULL: no norm */
    const float *rope_cos, *rope_sin; /* [positions, rotary_dim / 2] */
    int32_t heads, kv_heads, head_dim, rotary_dim;
    float eps;
    bool silu;
};

/* Lazy linear attention. For a token at position p, i = p mod C, with S the state at p - i and rows
 * j = 0..i of its chunk (from the tail, from this batch, or from its draft ancestors):
 *   order: score_j = fma over d of q[d] k_j[d], from 0; w_j = score_j * decay_power[i - j];
 *          a[c] = fma over d of q[d] S[d][c], from 0; o[c] = a[c] * decay_power[i + 1];
 *          for j = 0..i: o[c] = fma(w_j, v_j[c], o[c]); out[c] = o[c] * scale.
 *   a completed chunk is folded: S[d][c] = S[d][c] * decay_power[C]; for j = 0..C-1:
 *          S[d][c] = fma(k_j[d] * decay_power[C-1-j], v_j[c], S[d][c]).
 * An ordinary sequence leaves state and tail as they are after its last token. A sequence with start 0
 * starts from S = 0 whatever the slot holds. A draft sequence leaves state and tail alone and stores its k
 * and v rows in draft_k and draft_v; a node past the chunk's end uses the state folded along its own path.
 * NMSE 1e-11 (f32), 1e-10 (bf16: w, S and k * decay_power may enter products as sums of two bf16 terms). */
struct rondo_op_linear_attention {
    const struct rondo_batch *batch;
    struct rondo_tensor q, k, v; /* [T, H*hd] act */
    struct rondo_tensor out;     /* [T, H*hd] f32 */
    struct rondo_linear_cache cache;
    const float *decay_power; /* [H, C + 1] lambda^i */
    float scale;
    int32_t heads, head_dim;
};

/* Causal grouped-query attention over paged KV. First stores k and v rows at their positions in the pages
 * (ordinary tokens) or in draft_k, draft_v (nodes). Query head h reads key/value head h / (H / Hkv). For a
 * token at position p, over positions 0..p:
 *   order: positions are cut at multiples of RONDO_SEGMENT and of C. In a segment, m, l, o start empty; for
 *     each C-block: x_j = (fma over d of q[d] k_j[d], from 0) * scale; m' = max(m, max_j x_j);
 *     p_j = exp(x_j - m') (0 for j > p); f = exp(m - m') (first block: none, l = 0, o = 0);
 *     l = fma(l, f, sum_j p_j), the sum as 16 lanes (lane i: j = i, i+16, i+32, i+48 added in order from
 *     p_i) by rondo_sum_tree16; o[c] = o[c] * f; for j ascending o[c] = fma(p_j, v_j[c], o[c]); m = m'.
 *     Segments merge in order, the first one as it is: m' = max(M, m); f = exp(M - m'), g = exp(m - m');
 *     L = fma(L, f, l * g); O[c] = fma(O[c], f, o[c] * g); M = m'.  out[c] = O[c] * (1 / L).
 *   exp is rondo_exp.
 *   With a cache of f8_e4m3, k and v stand for codes, and their scales sk, sv come in apart:
 *     x_j = ((fma over d of q[d] k_j[d], from 0) * sk_j) * scale; l sums p_j; o[c] = fma(p_j * sv_j, v_j[c], o[c]).
 * A node sees positions below `start` in the pages and its ancestors at positions start and above, in the
 * very same blocks. NMSE 1e-11 (f32), 2e-5 (bf16 out: p_j enters products as bf16, and out is rounded on both sides,
 * 2.8e-6 each for independent errors), 3e-5 (f8_e4m3 caches: so does p_j * sv_j, and where one position has all the
 * weight its error, up to 2^-8, is that of a whole row). */
struct rondo_op_softmax_attention {
    const struct rondo_batch *batch;
    struct rondo_tensor q, k, v; /* [T, H*hd], [T, Hkv*hd], [T, Hkv*hd] act */
    struct rondo_tensor out;     /* [T, H*hd] act */
    struct rondo_kv_cache cache;
    float scale;
    int32_t heads, kv_heads, head_dim;
};

/* Moves accepted drafts into the caches of one layer: path[i] is the node that becomes position start + i.
 * Linear layers fold chunks that become whole, in the order and with the tolerance of linear_attention. Rows,
 * with their scales, are exact. */
struct rondo_op_accept {
    int32_t slot, start, n;
    const int32_t *path;       /* [n] */
    const int32_t *page_table; /* [pages of the sequence], covers start + n; softmax layers */
    struct rondo_linear_cache linear; /* of a linear layer, else state is NULL */
    struct rondo_kv_cache kv;         /* of a softmax layer, else k is NULL */
    const float *decay_power;         /* [H, C + 1], linear layers */
    int32_t heads;                    /* H of a linear layer, Hkv of a softmax layer */
    int32_t head_dim;
};

/* Grouped RMS norm and gate: n_groups contiguous groups of channels, each with its own r (order of
 * rmsnorm), out = ((x * r) * weight) * sigmoid(gate). NMSE 1e-11 (f32), 1e-5 (bf16), 1e-4 (codes). */
struct rondo_op_group_norm_gate {
    struct rondo_tensor x;    /* [T, N] f32 */
    struct rondo_tensor gate; /* [T, N] act */
    struct rondo_tensor out;  /* [T, N] act or codes */
    const float *weight;      /* [N] */
    int32_t n_groups;
    float eps;
};

/* Group-limited top-K routing. p = sigmoid(logits), or softmax of the row (exp(x - max) / sum, summed as 16
 * lanes and tree); r = p + bias. Group score = largest + second largest r of the group (the largest alone in
 * groups of one). The topk_group best groups stay; of their experts the K with the largest r are taken, in
 * descending order of r. Ties, among groups and among experts, go to the lower index; an r or a score that is
 * NaN ranks as -inf, so that ids are valid whatever the logits. weight = p of the chosen (without bias); if
 * normalize: / (their sum in slot order + 1e-20); then * scale.
 * ids exact; weights NMSE 1e-11. */
struct rondo_op_router {
    struct rondo_tensor logits; /* [T, E] f32 */
    const float *bias;          /* [E] or NULL */
    int32_t *ids;               /* [T, K] */
    float *weights;             /* [T, K] */
    int32_t experts_per_token, n_group, topk_group;
    enum rondo_score score;
    bool normalize;
    float scale;
};

/* Orders the T*K routed pairs by expert, by token within an expert. offsets[e] is the first row of expert
 * e; row_of[t*K + k] the row of that pair; token_of[r] the token of a row. Exact.
 * With `shared` there is one expert more, of number E, which has a row of every token: rows R + t, behind the routed
 * ones, of token t. ids and row_of do not speak of it. */
struct rondo_op_group_tokens {
    const int32_t *ids; /* [T, K] */
    int32_t n_tokens, experts_per_token, n_experts;
    bool shared;
    int32_t *offsets;  /* [E + 1], [E + 2] with shared */
    int32_t *row_of;   /* [T*K] */
    int32_t *token_of; /* [T*K], [T*K + T] with shared */
};

/* gemm, then router of the logits that the first part's out holds, and then, where it has offsets, group_tokens of the
 * router's ids: the ops, with their orders and tolerances. On one device everything has the bits that they give there. */
struct rondo_op_gemm_router {
    struct rondo_op_gemm gemm;          /* part 0 is of the logits, f32; no residual */
    struct rondo_op_router router;      /* logits: part[0].out */
    struct rondo_op_group_tokens group; /* ids: the router's */
};

/* out = silu(x[:, :I]) * x[:, I:]. NMSE 1e-12 (f32), 1e-5 (bf16), 1e-4 (codes). */
struct rondo_op_swiglu {
    struct rondo_tensor x;   /* [R, 2 I] act */
    struct rondo_tensor out; /* [R, I] act or codes */
};

/* h[t] = h[t] + (sum over k of weights[t,k] * y[row_of[t*K+k]] (+ shared[t])).
 * Order: a = 0; for k = 0..K-1: a = fma(weight, y, a); a = a + shared; h = h + a. NMSE 1e-12.
 * Where the shared expert is one of the grouped ones, `shared` is the rows of y behind the routed ones.
 * With `norm`, then rmsnorm of the new h, whose out and codes are norm and norm_codes. */
struct rondo_op_combine {
    struct rondo_tensor y;      /* [T*K, D] act */
    struct rondo_tensor shared; /* [T, D] act; data NULL: none */
    struct rondo_tensor h;      /* [T, D] f32 */
    const int32_t *row_of;      /* [T*K] */
    const float *weights;       /* [T, K] */
    int32_t experts_per_token;
    struct rondo_tensor norm, norm_codes; /* [T, D]; data NULL: none */
    const float *norm_weight;             /* [D] */
    float norm_eps;
};

/* The rmsnorm at the end of a combine. */
static inline struct rondo_op_rmsnorm rondo_combine_norm(const struct rondo_op_combine *op)
{
    struct rondo_op_rmsnorm norm = {op->h,           op->norm, op->norm_codes,
                                    op->norm_weight, NULL,     (int32_t)op->h.shape[0],
                                    op->norm_eps};
    return norm;
}

/* ids[t] = index of the largest value of row t: the lowest one of equals, never a NaN; -1 when the row has no
 * number. Exact. */
struct rondo_op_argmax {
    struct rondo_tensor x; /* [T, N] f32 */
    int32_t *ids;          /* [T] */
};

/* How a row of logits is sampled, for the two ops below. */
struct rondo_sampling {
    int32_t wanted;             /* 0: candidates leaves the row's output alone */
    float temperature;          /* of the mass; 0: no mass is wanted */
    float penalty;              /* above 0 */
    int32_t first_seen, n_seen; /* the row's part of the array of seen ids */
};

/* For every seen id of row t: x = x > 0 ? x / penalty : x * penalty. The ids of a row differ from each other. Exact.
 * max_seen is for sizing work from the host: it may be larger than the largest n_seen, never smaller. */
struct rondo_op_penalize {
    struct rondo_tensor x;                 /* [T, N] f32, in place */
    const struct rondo_sampling *sampling; /* [T] */
    const int32_t *seen;                   /* [first_seen + n_seen of all rows] in 0 .. N - 1 */
    int32_t max_seen;
};

/* What the sampler needs of most rows of logits: the largest ones in order, and what the others weigh.
 *   count  min(numbers of the row, RONDO_CANDIDATES); a NaN is no number, infinities are
 *   value  the largest values, descending; of equal ones the lower id comes first; -0 is given as 0
 *   id     theirs; from `count` on, values are -infinity and ids -1
 *   mass   sum over all numbers of the row of floor(2^40 * exp((x - value[0]) / temperature)), the exponential as
 *          rondo_exp: an integer, which no order of summing changes. 0 when temperature is 0, when value[0] is
 *          infinite and when the row has no number
 * Exact. N is at most 2^23, so that mass stays below 2^63. */
#define RONDO_CANDIDATES 256
#define RONDO_MASS_ONE 0x1p40f
#define RONDO_MAX_VOCABULARY (1 << 23)

struct rondo_candidates {
    uint64_t mass;
    int32_t count, padding; /* 0 */
    float value[RONDO_CANDIDATES];
    int32_t id[RONDO_CANDIDATES];
};

struct rondo_op_candidates {
    struct rondo_tensor x;                 /* [T, N] f32 */
    const struct rondo_sampling *sampling; /* [T] */
    struct rondo_candidates *out;          /* [T] */
};

/* ---- the table ------------------------------------------------------------------------------- */

enum rondo_op {
    RONDO_OP_EMBEDDING,
    RONDO_OP_RMSNORM,
    RONDO_OP_QUANTIZE,
    RONDO_OP_GEMM,
    RONDO_OP_GROUPED_GEMM,
    RONDO_OP_QKV,
    RONDO_OP_LINEAR_ATTENTION,
    RONDO_OP_SOFTMAX_ATTENTION,
    RONDO_OP_ACCEPT,
    RONDO_OP_GROUP_NORM_GATE,
    RONDO_OP_ROUTER,
    RONDO_OP_GEMM_ROUTER,
    RONDO_OP_GROUP_TOKENS,
    RONDO_OP_SWIGLU,
    RONDO_OP_COMBINE,
    RONDO_OP_ARGMAX,
    RONDO_OP_PENALIZE,
    RONDO_OP_CANDIDATES,
    RONDO_OP_COUNT
};

const char *rondo_op_name(enum rondo_op op);

/* Every slot is required. Calls are asynchronous on devices that have streams: results are there after
 * rondo_device's synchronize. Ops run in the order they were called. */
struct rondo_ops {
    void (*embedding)(struct rondo_device *device, const struct rondo_op_embedding *op);
    void (*rmsnorm)(struct rondo_device *device, const struct rondo_op_rmsnorm *op);
    void (*quantize)(struct rondo_device *device, const struct rondo_op_quantize *op);
    void (*gemm)(struct rondo_device *device, const struct rondo_op_gemm *op);
    void (*grouped_gemm)(struct rondo_device *device, const struct rondo_op_grouped_gemm *op);
    void (*qkv)(struct rondo_device *device, const struct rondo_op_qkv *op);
    void (*linear_attention)(struct rondo_device *device,
                             const struct rondo_op_linear_attention *op);
    void (*softmax_attention)(struct rondo_device *device,
                              const struct rondo_op_softmax_attention *op);
    void (*accept)(struct rondo_device *device, const struct rondo_op_accept *op);
    void (*group_norm_gate)(struct rondo_device *device, const struct rondo_op_group_norm_gate *op);
    void (*router)(struct rondo_device *device, const struct rondo_op_router *op);
    void (*gemm_router)(struct rondo_device *device, const struct rondo_op_gemm_router *op);
    void (*group_tokens)(struct rondo_device *device, const struct rondo_op_group_tokens *op);
    void (*swiglu)(struct rondo_device *device, const struct rondo_op_swiglu *op);
    void (*combine)(struct rondo_device *device, const struct rondo_op_combine *op);
    void (*argmax)(struct rondo_device *device, const struct rondo_op_argmax *op);
    void (*penalize)(struct rondo_device *device, const struct rondo_op_penalize *op);
    void (*candidates)(struct rondo_device *device, const struct rondo_op_candidates *op);
};

/* Largest sizes a plan will ask for; a device makes its workspace from them, so that no op allocates. */
struct rondo_limits {
    int32_t tokens; /* T */
    int32_t experts, experts_per_token;
    int32_t heads, kv_heads, head_dim;
    int32_t max_k;   /* largest input width of a GEMM */
    int32_t max_n;   /* largest output width of a GEMM part */
    int32_t context; /* longest sequence, drafts included */
    int32_t draft;   /* nodes of a tree */
};

#endif
