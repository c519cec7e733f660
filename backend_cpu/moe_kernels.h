/* Kernels of the mixture-of-experts family over a vector of 16 floats: included once by each
 * level, after its vector header. */
#include "backend_cpu/moe.h"
#include "core/numbers.h"

/* Scratch of a routed row, [stride] each; a NaN stands for what can not be chosen (any more). */
struct router_rows {
    float *p, *rank, *group;
};

static inline void fill_nan(float *row, int64_t first, int64_t end)
{
    for (int64_t i = first; i < end; i++)
        row[i] = NAN;
}

/* p of every expert. */
static inline void probabilities(const struct rondo_op_router *op, const float *logits, int64_t n,
                                 float *p)
{
    if (op->score == RONDO_SCORE_SIGMOID) {
        for (int64_t i = 0; i < n; i += 16)
            v_store(p + i, v_sigmoid(v_load_part(logits, RONDO_F32, i, n - i)));
        return;
    }
    int64_t padded = (n + 15) / 16 * 16;
    v16 largest = v_set(-INFINITY), sum = v_set(0);
    memcpy(p, logits, (size_t)n * sizeof *p);
    fill_nan(p, n, padded);
    for (int64_t i = 0; i < n; i += 16)
        largest = v_max(v_load(p + i), largest);
    v16 top = v_set(v_largest(largest));
    for (int64_t i = 0; i < n; i += 16)
        v_store(p + i, v_exp(v_sub(v_load(p + i), top)));
    for (int64_t i = n; i < padded; i++)
        p[i] = 0;
    for (int64_t i = 0; i < n; i += 16)
        sum = v_add(sum, v_load(p + i));
    v16 total = v_set(v_sum(sum));
    for (int64_t i = 0; i < n; i += 16)
        v_store(p + i, v_div(v_load(p + i), total));
}

/* Largest and second largest of n ranks. Each lane keeps its own two; the lane of the largest
 * then shows its second to the others. */
static inline void top_two(const float *rank, int64_t n, float *first, float *second)
{
    float lanes[16], seconds[16], tail[16];
    v16 best = v_set(-INFINITY), next = best;
    for (int64_t i = 0; i < n; i += 16) {
        v16 value;
        if (n - i >= 16) {
            value = v_load(rank + i);
        } else {
            v_store(tail, v_set(-INFINITY));
            memcpy(tail, rank + i, (size_t)(n - i) * sizeof *tail);
            value = v_load(tail);
        }
        next = v_max(next, v_min(best, value));
        best = v_max(best, value);
    }
    *first = v_largest(best);
    v_store(lanes, best);
    v_store(seconds, next);
    int lane = v_find(best, *first);
    lanes[lane] = seconds[lane];
    *second = v_largest(v_load(lanes));
}

/* Takes the best groups by making the experts of all others NaN. */
static inline void limit_groups(const struct rondo_op_router *op, struct router_rows rows,
                                int64_t n)
{
    int64_t size = n / op->n_group;
    if (op->topk_group >= op->n_group)
        return;
    for (int64_t g = 0; g < op->n_group; g++) {
        float first, second;
        top_two(rows.rank + g * size, size, &first, &second);
        rows.group[g] = size > 1 ? rondo_router_rank(first, second) : first;
    }
    for (int64_t k = 0; k < op->topk_group; k++) {
        int64_t best = -1;
        for (int64_t g = 0; g < op->n_group; g++)
            if (rows.group[g] == rows.group[g] && (best < 0 || rows.group[g] > rows.group[best]))
                best = g;
        rows.group[best] = NAN;
    }
    for (int64_t g = 0; g < op->n_group; g++)
        if (rows.group[g] == rows.group[g])
            fill_nan(rows.rank, g * size, (g + 1) * size);
}

/* The expert of the largest rank, the first of equals; it can not be chosen again. */
static inline int64_t take_best(float *rank, int64_t n)
{
    v16 largest = v_set(-INFINITY);
    for (int64_t i = 0; i < n; i += 16)
        largest = v_max(v_load(rank + i), largest);
    float best = v_largest(largest);
    for (int64_t i = 0;; i += 16) {
        int lane = v_find(v_load(rank + i), best);
        if (lane < 16) {
            rank[i + lane] = NAN;
            return i + lane;
        }
    }
}

static void LEVEL(router_row)(const struct rondo_op_router *op, int64_t token, void *scratch)
{
    int64_t n = rondo_tensor_columns(&op->logits), chosen = op->experts_per_token;
    size_t stride = rondo_router_stride(n);
    struct router_rows rows = {scratch, (float *)scratch + stride, (float *)scratch + 2 * stride};
    int32_t *ids = op->ids + token * chosen;
    float *weights = op->weights + token * chosen, sum = 0;
    probabilities(op, rondo_tensor_row(&op->logits, token), n, rows.p);
    for (int64_t i = 0; i < n; i += 16) {
        v16 rank = v_load(rows.p + i);
        if (op->bias)
            rank = v_add(rank, v_load_part(op->bias, RONDO_F32, i, n - i));
        v_store(rows.rank + i, v_replace_nan(rank, v_set(-INFINITY)));
    }
    fill_nan(rows.rank, n, (n + 15) / 16 * 16);
    limit_groups(op, rows, n);
    for (int64_t k = 0; k < chosen; k++) {
        int64_t expert = take_best(rows.rank, n);
        ids[k] = (int32_t)expert;
        weights[k] = rows.p[expert];
        sum += weights[k];
    }
    for (int64_t k = 0; k < chosen; k++) {
        float weight = op->normalize ? weights[k] / (sum + 1e-20f) : weights[k];
        weights[k] = weight * op->scale;
    }
}

static void LEVEL(combine_row)(const struct rondo_op_combine *op, int64_t token, int64_t first,
                               int64_t end)
{
    float *h = rondo_tensor_row(&op->h, token);
    const void *shared = op->shared.data ? rondo_tensor_row(&op->shared, token) : NULL;
    const float *weights = op->weights + token * op->experts_per_token;
    const int32_t *rows = op->row_of + token * op->experts_per_token;
    const enum rondo_dtype dtype = op->y.dtype;
    const int64_t row_size = op->y.row_stride * (dtype == RONDO_F32 ? 4 : 2);
    for (int64_t i = first; i < end; i += 64) { /* four vectors at a time: independent chains */
        v16 a[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
        for (int32_t k = 0; k < op->experts_per_token; k++) {
            const char *y = (const char *)op->y.data + rows[k] * row_size;
            v16 weight = v_set(weights[k]);
            for (int64_t j = 0; j < 4; j++)
                if (i + 16 * j < end)
                    a[j] = v_fma(weight, v_load_part(y, dtype, i + 16 * j, end - i - 16 * j), a[j]);
        }
        for (int64_t j = 0; j < 4; j++) {
            int64_t at = i + 16 * j, left = end - at;
            if (left <= 0)
                break;
            if (shared)
                a[j] = v_add(a[j], v_load_part(shared, op->shared.dtype, at, left));
            v_store_part(h, RONDO_F32, at, left, v_add(v_load_part(h, RONDO_F32, at, left), a[j]));
        }
    }
}

const struct rondo_moe_kernels LEVEL(rondo_moe_kernels) = {
    .router = LEVEL(router_row),
    .combine = LEVEL(combine_row),
};
