/* Reference of the mixture-of-experts family: router, group_tokens, combine. Orders stand in
 * core/ops.h.
 *
 * The router keeps no arrays: candidates stand in a total order (larger r first, then lower index),
 * and the next one taken is the first in that order behind the one taken last. */
#include "backend_cpu/moe.h"
#include "core/numbers.h"

/* A place in the order; index -1 stands before everything. */
struct place {
    float value;
    int32_t index;
};

static bool before(struct place a, struct place b)
{
    if (a.index < 0 || b.index < 0)
        return a.index < 0 && b.index >= 0;
    return a.value > b.value || (a.value == b.value && a.index < b.index);
}

/* A row of logits with what a softmax needs. */
struct row {
    const struct rondo_op_router *op;
    const float *logits;
    float largest, sum;
    int32_t group_size;
};

static struct row row_of(const struct rondo_op_router *op, int64_t token)
{
    int32_t n = (int32_t)rondo_tensor_columns(&op->logits);
    struct row row = {.op = op,
                      .logits = rondo_tensor_row(&op->logits, token),
                      .largest = -INFINITY,
                      .group_size = n / op->n_group};
    float lane[16] = {0};
    for (int32_t i = 0; i < n; i++)
        row.largest = row.logits[i] > row.largest ? row.logits[i] : row.largest;
    for (int32_t i = 0; i < n && op->score == RONDO_SCORE_SOFTMAX; i++)
        lane[i % 16] += rondo_exp(row.logits[i] - row.largest);
    row.sum = rondo_sum_tree16(lane);
    return row;
}

static float probability(const struct row *row, int32_t expert)
{
    if (row->op->score == RONDO_SCORE_SIGMOID)
        return rondo_sigmoid(row->logits[expert]);
    return rondo_exp(row->logits[expert] - row->largest) / row->sum;
}

static struct place expert_place(const struct row *row, int32_t expert)
{
    float bias = row->op->bias ? row->op->bias[expert] : 0.0f;
    return (struct place){rondo_router_rank(probability(row, expert), bias), expert};
}

static struct place group_place(const struct row *row, int32_t group)
{
    float first = -INFINITY, second = -INFINITY;
    for (int32_t i = 0; i < row->group_size; i++) {
        float value = expert_place(row, group * row->group_size + i).value;
        if (value > first) {
            second = first;
            first = value;
        } else if (value > second) {
            second = value;
        }
    }
    float score = row->group_size > 1 ? rondo_router_rank(first, second) : first;
    return (struct place){score, group};
}

/* The last group that stays. */
static struct place last_group(const struct row *row)
{
    struct place last = {0, -1};
    for (int32_t i = 0; i < row->op->topk_group; i++) {
        struct place next = {0, -1};
        for (int32_t group = 0; group < row->op->n_group; group++) {
            struct place place = group_place(row, group);
            if (before(last, place) && (next.index < 0 || before(place, next)))
                next = place;
        }
        last = next;
    }
    return last;
}

static void router_row_ref(const struct rondo_op_router *op, int64_t token, void *scratch)
{
    struct row row = row_of(op, token);
    int32_t *ids = op->ids + token * op->experts_per_token;
    float *weights = op->weights + token * op->experts_per_token;
    struct place limit = last_group(&row), last = {0, -1};
    float sum = 0;
    for (int32_t k = 0; k < op->experts_per_token; k++) {
        struct place next = {0, -1};
        for (int32_t group = 0; group < op->n_group; group++) {
            if (before(limit, group_place(&row, group)))
                continue;
            for (int32_t i = group * row.group_size; i < (group + 1) * row.group_size; i++) {
                struct place place = expert_place(&row, i);
                if (before(last, place) && (next.index < 0 || before(place, next)))
                    next = place;
            }
        }
        last = next;
        ids[k] = next.index;
        weights[k] = probability(&row, next.index);
        sum += weights[k];
    }
    for (int32_t k = 0; k < op->experts_per_token; k++) {
        float weight = op->normalize ? weights[k] / (sum + 1e-20f) : weights[k];
        weights[k] = weight * op->scale;
    }
}

void rondo_router_ref(struct rondo_device *device, const struct rondo_op_router *op)
{
    for (int64_t token = 0; token < rondo_tensor_rows(&op->logits); token++)
        router_row_ref(op, token, NULL);
}

/* A counting sort. offsets[e] first counts up to where expert e begins, then serves as its
 * cursor, and so ends where expert e + 1 begins. */
void rondo_group_tokens_ref(struct rondo_device *device, const struct rondo_op_group_tokens *op)
{
    int32_t pairs = op->n_tokens * op->experts_per_token, sum = 0;
    if (op->n_tokens == 0)
        return;
    memset(op->offsets, 0, sizeof *op->offsets * ((size_t)op->n_experts + 1));
    for (int32_t i = 0; i < pairs; i++)
        op->offsets[op->ids[i]]++;
    for (int32_t e = 0; e < op->n_experts; e++) {
        int32_t count = op->offsets[e];
        op->offsets[e] = sum;
        sum += count;
    }
    for (int32_t i = 0; i < pairs; i++) {
        int32_t row = op->offsets[op->ids[i]]++;
        op->row_of[i] = row;
        op->token_of[row] = i / op->experts_per_token;
    }
    memmove(op->offsets + 1, op->offsets, sizeof *op->offsets * (size_t)op->n_experts);
    op->offsets[0] = 0;
    for (int32_t t = 0; t < op->n_tokens && op->shared; t++)
        op->token_of[pairs + t] = t;
    if (op->shared)
        op->offsets[op->n_experts + 1] = pairs + op->n_tokens;
}

static void combine_row_ref(const struct rondo_op_combine *op, int64_t token, int64_t first,
                            int64_t end)
{
    float *h = rondo_tensor_row(&op->h, token);
    const float *weights = op->weights + token * op->experts_per_token;
    const int32_t *rows = op->row_of + token * op->experts_per_token;
    for (int64_t i = first; i < end; i++) {
        float a = 0;
        for (int32_t k = 0; k < op->experts_per_token; k++) {
            const void *y = rondo_tensor_row(&op->y, rows[k]);
            a = fmaf(weights[k], rondo_load(y, op->y.dtype, (size_t)i), a);
        }
        if (op->shared.data)
            a += rondo_load(rondo_tensor_row(&op->shared, token), op->shared.dtype, (size_t)i);
        h[i] = h[i] + a;
    }
}

void rondo_combine_ref(struct rondo_device *device, const struct rondo_op_combine *op)
{
    for (int64_t token = 0; token < rondo_tensor_rows(&op->h); token++)
        combine_row_ref(op, token, 0, rondo_tensor_columns(&op->h));
    if (op->norm.data) {
        struct rondo_op_rmsnorm norm = rondo_combine_norm(op);
        rondo_rmsnorm_ref(device, &norm);
    }
}

const struct rondo_moe_kernels rondo_moe_kernels_ref = {
    .router = router_row_ref,
    .combine = combine_row_ref,
};
