/* Checks of the mixture-of-experts family: router, group_tokens, combine. */
#include "tests/check/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- router ---------------------------------------------------------------------------------- */

struct router_shape {
    int32_t experts, groups, topk_group, k;
    enum rondo_score score;
    bool normalize, bias;
};

/* A row's probabilities in double. */
static void probabilities(const struct rondo_tensor *logits, int64_t row, enum rondo_score score,
                          double *p)
{
    int64_t n = rondo_tensor_columns(logits);
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, rondo_tensor_at(logits, row, i));
    for (int64_t i = 0; i < n; i++) {
        double x = rondo_tensor_at(logits, row, i);
        p[i] = score == RONDO_SCORE_SIGMOID ? 1 / (1 + exp(-x)) : exp(x - largest);
        sum += p[i];
    }
    for (int64_t i = 0; i < n && score == RONDO_SCORE_SOFTMAX; i++)
        p[i] /= sum;
}

struct ranked {
    double value;
    int32_t index;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->value != y->value)
        return x->value < y->value ? 1 : -1;
    return x->index - y->index;
}

/* The ids a row must get, best first, by sorting; `margin` is the smallest gap between values
 * whose order decides something. */
static void route_double(const struct router_shape *shape, const double *p, const float *bias,
                         struct ranked *group, struct ranked *expert, double *margin)
{
    int32_t size = shape->experts / shape->groups, n = 0;
    for (int32_t g = 0; g < shape->groups; g++) {
        double first = -INFINITY, second = -INFINITY;
        for (int32_t i = g * size; i < (g + 1) * size; i++) {
            double r = p[i] + (bias ? bias[i] : 0);
            second = r > first ? first : fmax(second, r);
            first = fmax(first, r);
        }
        group[g] = (struct ranked){size > 1 ? first + second : first, g};
    }
    qsort(group, (size_t)shape->groups, sizeof *group, compare_ranked);
    *margin = shape->topk_group < shape->groups
                  ? group[shape->topk_group - 1].value - group[shape->topk_group].value
                  : INFINITY;
    for (int32_t g = 0; g < shape->topk_group; g++)
        for (int32_t i = group[g].index * size; i < (group[g].index + 1) * size; i++)
            expert[n++] = (struct ranked){p[i] + (bias ? bias[i] : 0), i};
    qsort(expert, (size_t)n, sizeof *expert, compare_ranked);
    for (int32_t i = 0; i < shape->k && i + 1 < n; i++)
        *margin = fmin(*margin, expert[i].value - expert[i + 1].value);
}

/* Rows whose choice hangs on less than the error of f32 are left out. */
static void router_double(struct check *check, const struct router_shape *shape,
                          const struct check_tensor *logits, const float *bias, const int32_t *ids,
                          const float *weights, float scale)
{
    double *p = check_allocate(check, (size_t)shape->experts * sizeof *p);
    struct ranked *group = check_allocate(check, (size_t)shape->groups * sizeof *group);
    struct ranked *expert = check_allocate(check, (size_t)shape->experts * sizeof *expert);
    for (int64_t t = 0; t < rondo_tensor_rows(&logits->host); t++) {
        double sum = 1e-20, margin;
        probabilities(&logits->host, t, shape->score, p);
        route_double(shape, p, bias, group, expert, &margin);
        for (int32_t k = 0; k < shape->k; k++)
            sum += p[expert[k].index];
        for (int32_t k = 0; k < shape->k && margin > 1e-6; k++) {
            double want = p[expert[k].index] / (shape->normalize ? sum : 1) * scale;
            double got = weights[t * shape->k + k];
            if (ids[t * shape->k + k] != expert[k].index ||
                fabs(got - want) > 2e-6 * fabs(want) + 1e-30) {
                check_fail(
                    check,
                    "token %lld, choice %d: expert %d at %g, in double precision expert %d at %g",
                    (long long)t, k, ids[t * shape->k + k], got, expert[k].index, want);
                return;
            }
        }
    }
}

static void router_case(struct check *check, const struct router_shape *shape, int32_t tokens,
                        enum check_fill fill, int32_t levels, int32_t gap)
{
    check_case(check, "T=%d E=%d groups %d/%d K=%d %s%s%s, %s%s", tokens, shape->experts,
               shape->topk_group, shape->groups, shape->k,
               shape->score == RONDO_SCORE_SIGMOID ? "sigmoid" : "softmax",
               shape->normalize ? " normalized" : "", shape->bias ? " bias" : "",
               check_fill_name(fill), levels ? ", ties" : "");
    struct check_tensor *logits = check_tensor(check, RONDO_F32, tokens, shape->experts, gap,
                                               CHECK_SCALE_NONE, fill, "logits");
    struct check_buffer *bias =
        check_floats(check, shape->experts, levels ? CHECK_ZEROS : CHECK_UNIFORM, "bias");
    if (levels) { /* few different values, and NaN now and then */
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t i = 0; i < shape->experts; i++) {
                int32_t level = check_random_range(check, 0, levels);
                ((float *)rondo_tensor_row(&logits->host, t))[i] =
                    level == 7 ? NAN : 0.5f * (float)level;
            }
        check_upload(check, logits->buffer);
    }
    size_t pairs = (size_t)tokens * (size_t)shape->k;
    struct check_buffer *ids = check_output(check, pairs * 4, "ids");
    struct check_buffer *weights = check_output(check, pairs * 4, "weights");
    struct rondo_limits limits = {
        .tokens = tokens, .experts = shape->experts, .experts_per_token = shape->k};
    struct rondo_op_router op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_router){
            .logits = logits->side[side],
            .bias = shape->bias ? bias->data[side] : NULL,
            .ids = ids->data[side],
            .weights = weights->data[side],
            .experts_per_token = shape->k,
            .n_group = shape->groups,
            .topk_group = shape->topk_group,
            .score = shape->score,
            .normalize = shape->normalize,
            .scale = 2.5f,
        };
    check_reserve(check, &limits);
    check_run(check, RONDO_OP_ROUTER, &op[0], &op[1]);
    check_compare_array(check, ids, RONDO_I32, (int64_t)pairs, NULL, 0);
    check_compare_array(check, weights, RONDO_F32, (int64_t)pairs, NULL, 1e-11);
    if (check->is_reference && (fill == CHECK_NORMAL || fill == CHECK_UNIFORM) && !levels)
        router_double(check, shape, logits, shape->bias ? bias->host : NULL,
                      ids->result[CHECK_TESTED], weights->result[CHECK_TESTED], 2.5f);
    if (shape->experts == 256 && !levels && fill == CHECK_NORMAL && !gap)
        check_bench(check, RONDO_OP_ROUTER, &op[1], (double)tokens * shape->experts * 4,
                    20.0 * tokens * shape->experts);
}

static void check_router(struct check *check)
{
    static const struct router_shape shapes[] = {
        {1, 1, 1, 1, RONDO_SCORE_SIGMOID, true, true},
        {7, 7, 3, 2, RONDO_SCORE_SIGMOID, true, true},
        {16, 4, 2, 3, RONDO_SCORE_SOFTMAX, false, true},
        {33, 3, 2, 5, RONDO_SCORE_SIGMOID, false, false},
        {64, 8, 4, 8, RONDO_SCORE_SOFTMAX, true, false},
        {256, 8, 4, 8, RONDO_SCORE_SIGMOID, true, true},
        {300, 1, 1, 10, RONDO_SCORE_SOFTMAX, true, true},
        {24, 2, 1, 12, RONDO_SCORE_SIGMOID, true, true},
        {512, 4, 4, 33, RONDO_SCORE_SIGMOID, true, true}, /* from here on, what no model has: more choices */
        {160, 80, 9, 7, RONDO_SCORE_SOFTMAX, true, true}, /* or groups than a warp has lanes, */
        {1100, 2, 2, 8, RONDO_SCORE_SIGMOID, true, false}, /* more experts than it keeps in registers */
    };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (int fill = 0; fill < CHECK_FILLS; fill++)
            router_case(check, &shapes[s], check_random_range(check, 0, 9), (enum check_fill)fill,
                        0, check_random_range(check, 1, 3));
        for (int32_t levels = 1; levels < 9; levels++)
            router_case(check, &shapes[s], check_random_range(check, 1, 9), CHECK_UNIFORM, levels,
                        0);
    }
    router_case(check, &shapes[5], 1, CHECK_NORMAL, 0, 0);
    router_case(check, &shapes[5], check->bench ? 512 : 41, CHECK_NORMAL, 0, 0);
}

/* ---- group_tokens ---------------------------------------------------------------------------- */

/* The definition in words: a permutation, by expert, by token within an expert; and of the shared expert, every token
 * in its order. */
static void grouping_holds(struct check *check, const int32_t *ids, int32_t tokens, int32_t k,
                           int32_t experts, bool shared, const int32_t *offsets,
                           const int32_t *row_of, const int32_t *token_of)
{
    int32_t *expert_at = check_allocate(check, (size_t)(tokens * k) * 4);
    memset(expert_at, 0xff, (size_t)(tokens * k) * 4);
    for (int32_t i = 0; i < tokens * k; i++) {
        int32_t row = row_of[i];
        if (row < offsets[ids[i]] || row >= offsets[ids[i] + 1] || token_of[row] != i / k ||
            expert_at[row] >= 0) {
            check_fail(check, "pair %d of expert %d stands in row %d", i, ids[i], row);
            return;
        }
        expert_at[row] = ids[i];
    }
    for (int32_t row = 1; row < tokens * k; row++)
        if (expert_at[row] == expert_at[row - 1] && token_of[row] < token_of[row - 1])
            check_fail(check, "rows %d and %d are not in the order of tokens", row - 1, row);
    if (tokens && (offsets[0] != 0 || offsets[experts] != tokens * k))
        check_fail(check, "offsets go from %d to %d, want 0 to %d", offsets[0], offsets[experts],
                   tokens * k);
    if (tokens && shared && offsets[experts + 1] != tokens * (k + 1))
        check_fail(check, "the shared expert ends at %d, want %d", offsets[experts + 1],
                   tokens * (k + 1));
    for (int32_t t = 0; t < tokens && shared; t++)
        if (token_of[tokens * k + t] != t)
            check_fail(check, "row %d of the shared expert is of token %d", t,
                       token_of[tokens * k + t]);
}

static void group_tokens_case(struct check *check, int32_t tokens, int32_t k, int32_t experts,
                              bool shared)
{
    check_case(check, "T=%d K=%d E=%d%s", tokens, k, experts, shared ? ", shared" : "");
    size_t pairs = (size_t)tokens * (size_t)k, rows = pairs + (shared ? (size_t)tokens : 0);
    int32_t n_offsets = experts + 1 + shared;
    int32_t *ids = check_allocate(check, pairs * 4);
    int32_t step = experts / k; /* different experts for one token */
    for (size_t i = 0; i < pairs; i++)
        ids[i] = (int32_t)(i % (size_t)k) * step + check_random_range(check, 0, step - 1);
    struct check_buffer *ids_buffer = check_input(check, ids, pairs * 4, "ids");
    struct check_buffer *offsets = check_output(check, (size_t)n_offsets * 4, "offsets");
    struct check_buffer *row_of = check_output(check, pairs * 4, "row_of");
    struct check_buffer *token_of = check_output(check, rows * 4, "token_of");
    struct rondo_op_group_tokens op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_group_tokens){
            .ids = ids_buffer->data[side],
            .n_tokens = tokens,
            .experts_per_token = k,
            .n_experts = experts,
            .shared = shared,
            .offsets = offsets->data[side],
            .row_of = row_of->data[side],
            .token_of = token_of->data[side],
        };
    struct rondo_limits limits = {.tokens = tokens, .experts = experts, .experts_per_token = k};
    check_reserve(check, &limits);
    check_run(check, RONDO_OP_GROUP_TOKENS, &op[0], &op[1]);
    check_compare_array(check, offsets, RONDO_I32, n_offsets, NULL, 0);
    check_compare_array(check, row_of, RONDO_I32, (int64_t)pairs, NULL, 0);
    check_compare_array(check, token_of, RONDO_I32, (int64_t)rows, NULL, 0);
    if (check->is_reference)
        grouping_holds(check, ids, tokens, k, experts, shared, offsets->result[CHECK_TESTED],
                       row_of->result[CHECK_TESTED], token_of->result[CHECK_TESTED]);
    if (experts == 256)
        check_bench(check, RONDO_OP_GROUP_TOKENS, &op[1], (double)pairs * 12 + 4.0 * experts, 0);
}

static void check_group_tokens(struct check *check)
{
    static const int32_t shapes[][2] = {{1, 1}, {2, 3}, {8, 8}, {4, 60}, {8, 256}};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (int32_t tokens = 0; tokens < 20; tokens = 2 * tokens + 1)
            for (int shared = 0; shared < 2; shared++)
                group_tokens_case(check, tokens, shapes[s][0], shapes[s][1], shared);
    group_tokens_case(check, 512, 8, 256, true);
    group_tokens_case(check, 3011, 3, 4093, true); /* more than one block of a GPU sorts */
    group_tokens_case(check, 4001, 8, 256, false);
}

/* ---- combine --------------------------------------------------------------------------------- */

static void combine_double(struct check *check, const struct check_tensor *y,
                           const struct check_tensor *shared, const struct check_tensor *h_before,
                           const int32_t *row_of, const float *weights, int32_t k,
                           struct check_tensor *h)
{
    int64_t tokens = rondo_tensor_rows(&h->host), n = rondo_tensor_columns(&h->host);
    double *expected = check_allocate(check, (size_t)(tokens * n) * sizeof *expected);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < n; i++) {
            double sum = shared ? rondo_tensor_at(&shared->host, t, i) : 0;
            for (int64_t j = t * k; j < (t + 1) * k; j++)
                sum += (double)weights[j] * rondo_tensor_at(&y->host, row_of[j], i);
            expected[t * n + i] = rondo_tensor_at(&h_before->host, t, i) + sum;
        }
    check_compare_double(check, h, expected, NULL, 1e-12);
}

static void combine_case(struct check *check, int32_t tokens, int32_t k, int32_t n,
                         enum rondo_dtype dtype, bool with_shared, enum check_fill fill,
                         int32_t gap)
{
    check_case(check, "T=%d K=%d D=%d %s%s, %s%s", tokens, k, n, rondo_dtype_name(dtype),
               with_shared ? " shared" : "", check_fill_name(fill), gap ? ", strided" : "");
    int32_t pairs = tokens * k;
    int32_t *row_of = check_allocate(check, (size_t)pairs * 4);
    for (int32_t i = 0; i < pairs; i++) { /* a random permutation */
        int32_t j = check_random_range(check, 0, i);
        row_of[i] = row_of[j];
        row_of[j] = i;
    }
    struct check_tensor *y = check_tensor(check, dtype, pairs, n, gap, CHECK_SCALE_NONE, fill, "y");
    struct check_tensor *shared =
        check_tensor(check, dtype, tokens, n, gap, CHECK_SCALE_NONE, fill, "shared");
    struct check_tensor *h =
        check_tensor(check, RONDO_F32, tokens, n, gap, CHECK_SCALE_NONE, fill, "h");
    struct check_buffer *rows = check_input(check, row_of, (size_t)pairs * 4, "row_of");
    struct check_buffer *weights = check_floats(check, pairs, CHECK_UNIFORM, "weights");
    h->buffer->constant = false; /* read and written */
    struct rondo_op_combine op[2];
    for (int side = 0; side < 2; side++) {
        op[side] = (struct rondo_op_combine){
            .y = y->side[side],
            .shared = shared->side[side],
            .h = h->side[side],
            .row_of = rows->data[side],
            .weights = weights->data[side],
            .experts_per_token = k,
        };
        if (!with_shared)
            op[side].shared.data = NULL;
    }
    check_run(check, RONDO_OP_COMBINE, &op[0], &op[1]);
    check_compare(check, h, NULL, 1e-12);
    bool ordinary = fill != CHECK_TINY && fill != CHECK_HUGE && fill != CHECK_SUBNORMAL;
    if (check->is_reference && ordinary && tokens * n >= 64) /* in few sums cancellation shows */
        combine_double(check, y, with_shared ? shared : NULL, h, row_of, weights->host, k, h);
    if (fill == CHECK_NORMAL && n == 2048)
        check_bench(check, RONDO_OP_COMBINE, &op[1],
                    (double)tokens * n *
                        (8.0 + (k + with_shared) * (double)rondo_dtype_size(dtype)),
                    2.0 * tokens * n * (k + 1));
}

/* Combine with the norm of its result: to bf16, and codes beside it, or to codes; against combine and rmsnorm. */
static void combine_norm_case(struct check *check, int32_t tokens, int32_t k, int32_t n,
                              enum rondo_dtype dtype, enum rondo_dtype out_dtype, bool both,
                              enum check_fill fill, int32_t gap)
{
    check_case(check, "T=%d K=%d D=%d %s norm to %s%s, %s%s", tokens, k, n, rondo_dtype_name(dtype),
               rondo_dtype_name(out_dtype), both ? " and codes" : "", check_fill_name(fill),
               gap ? ", strided" : "");
    size_t pairs = (size_t)tokens * (size_t)k;
    int32_t *row_of = check_allocate(check, pairs * 4);
    for (size_t i = 0; i < pairs; i++)
        row_of[i] = check_random_range(check, 0, (int32_t)pairs - 1);
    struct check_tensor *y =
        check_tensor(check, dtype, (int64_t)pairs, n, gap, CHECK_SCALE_NONE, fill, "y");
    struct check_tensor *h[2];
    for (int form = 0; form < 2; form++) { /* two copies of one h */
        uint64_t state = check->random;
        h[form] = check_tensor(check, RONDO_F32, tokens, n, gap, CHECK_SCALE_NONE, fill, "h");
        h[form]->buffer->constant = false;
        check->random = form ? check->random : state;
    }
    bool codes = out_dtype == RONDO_F8_E4M3;
    struct check_tensor *out =
        check_tensor_output(check, out_dtype, tokens, n, gap,
                            codes ? CHECK_SCALE_ACTIVATION : CHECK_SCALE_NONE, "norm");
    struct check_tensor *beside =
        check_tensor_output(check, RONDO_F8_E4M3, tokens, n, gap, CHECK_SCALE_ACTIVATION, "codes");
    enum rondo_dtype plain_dtype = codes ? RONDO_BF16 : out_dtype;
    struct check_tensor *plain =
        check_tensor_output(check, plain_dtype, tokens, n, gap, CHECK_SCALE_NONE, "plain");
    struct check_buffer *rows = check_input(check, row_of, pairs * 4, "row_of");
    struct check_buffer *weights = check_floats(check, (int64_t)pairs, CHECK_UNIFORM, "weights");
    struct check_buffer *weight = check_floats(check, n, CHECK_NORMAL, "norm_weight");
    struct rondo_op_combine op[2][2];
    struct rondo_op_rmsnorm norm[2];
    for (int side = 0; side < 2; side++) {
        op[0][side] = op[1][side] = (struct rondo_op_combine){.y = y->side[side],
                                                              .h = h[0]->side[side],
                                                              .row_of = rows->data[side],
                                                              .weights = weights->data[side],
                                                              .experts_per_token = k};
        op[1][side].h = h[1]->side[side];
        op[1][side].norm = out->side[side];
        op[1][side].norm_weight = weight->data[side];
        op[1][side].norm_eps = 1e-6f;
        if (both)
            op[1][side].norm_codes = beside->side[side];
        norm[side] = rondo_combine_norm(&op[1][side]);
        norm[side].x = h[0]->side[side];
        norm[side].out = plain->side[side];
        norm[side].codes.data = NULL;
    }
    check_run(check, RONDO_OP_COMBINE, &op[0][0], &op[0][1]);
    check_run(check, RONDO_OP_RMSNORM, &norm[0], &norm[1]);
    check_run(check, RONDO_OP_COMBINE, &op[1][0], &op[1][1]);
    check_compare(check, h[1], NULL, 1e-12);
    check_compare(check, out, NULL, codes ? 1e-4 : out_dtype == RONDO_F32 ? 1e-11 : 1e-5);
    if (codes)
        check_compare_codes(check, plain, out);
    else
        check_compare_same(check, plain, out);
    if (both)
        check_compare_codes(check, plain, beside);
}

static void check_combine_norm(struct check *check)
{
    static const int32_t widths[] = {1, 16, 37, 128, 601, 2048};
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (int i = 0; i < 4; i++)
            combine_norm_case(
                check, check_random_range(check, 0, 7), check_random_range(check, 1, 8), widths[w],
                i ? RONDO_BF16 : RONDO_F32,
                i == 0   ? RONDO_F32
                : i == 3 ? RONDO_F8_E4M3
                         : RONDO_BF16,
                i == 2, i & 1 ? CHECK_NORMAL : CHECK_UNIFORM, check_random_range(check, 0, 1) * 8);
    combine_norm_case(check, 2, 3, 12304, RONDO_BF16, RONDO_BF16, true, CHECK_NORMAL, 0);
}

static void check_combine(struct check *check)
{
    static const int32_t widths[] = {1, 16, 37, 128, 601}, rows[] = {1, 17, 512};
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (int fill = 0; fill < CHECK_FILLS; fill++)
            for (int i = 0; i < 4; i++)
                combine_case(check, check_random_range(check, 0, 7),
                             check_random_range(check, 1, 8), widths[w],
                             i & 1 ? RONDO_BF16 : RONDO_F32, i & 2, (enum check_fill)fill,
                             check_random_range(check, 0, 3));
    for (int i = 0; i < (check->bench ? 6 : 4); i++)
        combine_case(check, rows[i / 2], 8, 2048, i & 1 ? RONDO_BF16 : RONDO_F32, true,
                     CHECK_NORMAL, 0);
}

const struct check_family check_family_moe = {
    .name = "moe",
    .ops = {{"router", check_router},
            {"gemm_router", check_gemm_router},
            {"group_tokens", check_group_tokens},
            {"combine", check_combine},
            {"combine", check_combine_norm}},
};
