/* Check of gemm_router: what it gives is bit for bit what gemm, router and group_tokens give on the same device, for any
 * number of rows, beside other products, and again and again. */
#include "tests/check/internal.h"

#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

struct case_of {
    int32_t tokens, experts, groups, topk_group, k, channels;
    enum rondo_score score;
    enum rondo_dtype x, weight;
    enum check_scale scale;  /* of the weight that makes the logits */
    enum rondo_dtype beside; /* of the other weights */
    int32_t parts;
    enum check_fill fill;
    bool groups_too, shared;
};

/* What one form of the op writes. */
struct outputs {
    struct check_tensor *part[3];
    struct check_buffer *ids, *weights;
    struct check_buffer *offsets, *row_of, *token_of; /* of group_tokens */
};

/* Channels of the products beside that of the logits. */
static const int32_t widths[] = {0, 48, 136};

static struct outputs make_outputs(struct check *check, const struct case_of *c, int32_t gap)
{
    struct outputs out;
    size_t pairs = (size_t)c->tokens * (size_t)c->k;
    for (int p = 0; p < c->parts; p++)
        out.part[p] =
            check_tensor_output(check, p && c->x != RONDO_F32 ? RONDO_BF16 : RONDO_F32, c->tokens,
                                p ? widths[p] : c->experts, gap, CHECK_SCALE_NONE, "out");
    out.ids = check_output(check, pairs * 4, "ids");
    out.weights = check_output(check, pairs * 4, "weights");
    out.offsets = check_output(check, ((size_t)c->experts + 1 + c->shared) * 4, "offsets");
    out.row_of = check_output(check, pairs * 4, "row_of");
    out.token_of =
        check_output(check, (pairs + (c->shared ? (size_t)c->tokens : 0)) * 4, "token_of");
    return out;
}

static void same_arrays(struct check *check, struct check_buffer *plain, struct check_buffer *fused)
{
    check_download(check, plain);
    check_download(check, fused);
    for (int side = 0; side < 2; side++)
        if (memcmp(plain->result[side], fused->result[side], plain->size) != 0)
            check_fail(check, "%s: not what the ops by themselves make on %s", fused->name,
                       side == CHECK_REFERENCE ? "the reference" : check->device_name);
}

static void compare(struct check *check, const struct case_of *c, const struct outputs *plain,
                    const struct outputs *fused)
{
    for (int p = 0; p < c->parts; p++)
        check_compare_same(check, plain->part[p], fused->part[p]);
    same_arrays(check, plain->ids, fused->ids);
    same_arrays(check, plain->weights, fused->weights);
    same_arrays(check, plain->offsets, fused->offsets);
    same_arrays(check, plain->row_of, fused->row_of);
    same_arrays(check, plain->token_of, fused->token_of);
    if (!check->exact) /* other logits may choose other experts */
        return;
    size_t pairs = (size_t)c->tokens * (size_t)c->k;
    for (int p = 0; p < c->parts; p++)
        check_compare(check, fused->part[p], NULL, 0);
    check_compare_array(check, fused->ids, RONDO_I32, (int64_t)pairs, NULL, 0);
    check_compare_array(check, fused->weights, RONDO_F32, (int64_t)pairs, NULL, 0);
}

/* Kernels that the tested device has run; 0 where it does not count them. */
static uint64_t kernels(struct check *check)
{
    struct rondo_device_counts counts = {0};
    rondo_device_count(check->device[CHECK_TESTED], &counts);
    return counts.kernels;
}

static void run_case(struct check *check, const struct case_of *c)
{
    static const char *const scale_names[] = {"", " block", " row"};
    check_case(check, "T=%d E=%d groups %d/%d K=%d %s, D=%d x %s, W %s%s, %d parts %s, %s%s%s",
               c->tokens, c->experts, c->topk_group, c->groups, c->k,
               c->score == RONDO_SCORE_SIGMOID ? "sigmoid" : "softmax", c->channels,
               rondo_dtype_name(c->x), rondo_dtype_name(c->weight), scale_names[c->scale], c->parts,
               rondo_dtype_name(c->beside), check_fill_name(c->fill),
               c->groups_too ? ", grouped" : "", c->shared ? ", shared" : "");
    struct rondo_limits limits = {.tokens = c->tokens,
                                  .experts = c->experts,
                                  .experts_per_token = c->k,
                                  .max_k = c->channels,
                                  .max_n = c->experts};
    check_reserve(check, &limits);
    struct check_tensor *x = check_tensor(
        check, c->x, c->tokens, c->channels, check_random_range(check, 0, 1) * 8,
        c->x == RONDO_F8_E4M3 ? CHECK_SCALE_ACTIVATION : CHECK_SCALE_NONE, c->fill, "x");
    struct check_tensor *weight[3];
    for (int p = 0; p < c->parts; p++)
        weight[p] = check_tensor(check, p ? c->beside : c->weight, p ? widths[p] : c->experts,
                                 c->channels, 0,
                                 !p                           ? c->scale
                                 : c->beside == RONDO_F8_E4M3 ? CHECK_SCALE_BLOCK
                                                              : CHECK_SCALE_NONE,
                                 c->fill, "W");
    struct check_buffer *bias = check_floats(check, c->experts, CHECK_UNIFORM, "bias");
    int32_t gap = check_random_range(check, 0, 3);
    struct outputs form[2] = {make_outputs(check, c, gap), make_outputs(check, c, gap)};
    struct rondo_op_gemm_router op[2][2];
    for (int f = 0; f < 2; f++)
        for (int side = 0; side < 2; side++) {
            struct rondo_op_gemm_router *o = &op[f][side];
            *o = (struct rondo_op_gemm_router){
                .gemm = {.x = x->side[side], .n_parts = c->parts},
                .router = {.logits = form[f].part[0]->side[side],
                           .bias = bias->data[side],
                           .ids = form[f].ids->data[side],
                           .weights = form[f].weights->data[side],
                           .experts_per_token = c->k,
                           .n_group = c->groups,
                           .topk_group = c->topk_group,
                           .score = c->score,
                           .normalize = true,
                           .scale = 2.5f},
                .group = {.ids = form[f].ids->data[side],
                          .n_tokens = c->tokens,
                          .experts_per_token = c->k,
                          .n_experts = c->experts,
                          .shared = c->shared,
                          .offsets = form[f].offsets->data[side],
                          .row_of = form[f].row_of->data[side],
                          .token_of = form[f].token_of->data[side]},
            };
            if (f == 1 && !c->groups_too)
                o->group.offsets = NULL;
            for (int p = 0; p < c->parts; p++) {
                o->gemm.part[p].weight = weight[p]->side[side];
                o->gemm.part[p].out = form[f].part[p]->side[side];
            }
        }
    uint64_t before = kernels(check);
    check_run(check, RONDO_OP_GEMM, &op[0][0].gemm, &op[0][1].gemm);
    uint64_t of_gemm = kernels(check) - before;
    check_run(check, RONDO_OP_ROUTER, &op[0][0].router, &op[0][1].router);
    before = kernels(check);
    if (c->groups_too)
        check_run(check, RONDO_OP_GROUP_TOKENS, &op[0][0].group, &op[0][1].group);
    uint64_t of_group = kernels(check) - before;
    if (c->groups_too && c->tokens <= 8 && c->tokens * c->k <= 128)
        of_group = 0; /* few rows: nothing of its own */
    before = kernels(check);
    check_run(check, RONDO_OP_GEMM_ROUTER, &op[1][0], &op[1][1]);
    uint64_t of_all = kernels(check) - before;
    bool one = c->tokens <= 64 && c->experts <= 256 && c->groups <= 32;
    if (one && of_all != of_gemm + of_group)
        check_fail(check, "%d launches, %d for gemm and %d for group_tokens", (int)of_all,
                   (int)of_gemm, (int)of_group);
    compare(check, c, &form[0], &form[1]);
}

void check_gemm_router(struct check *check)
{
    static const int32_t tokens[] = {0, 1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 47, 64, 65, 100};
    static const int32_t channels[] = {37, 64, 128, 136, 200, 264, 328};
    static const struct case_of shapes[] = {
        {.experts = 256, .groups = 8, .topk_group = 4, .k = 8, .score = RONDO_SCORE_SIGMOID},
        {.experts = 64, .groups = 8, .topk_group = 4, .k = 8, .score = RONDO_SCORE_SOFTMAX},
        {.experts = 16, .groups = 4, .topk_group = 2, .k = 3, .score = RONDO_SCORE_SIGMOID},
        {.experts = 33, .groups = 3, .topk_group = 2, .k = 5, .score = RONDO_SCORE_SOFTMAX},
        {.experts = 1, .groups = 1, .topk_group = 1, .k = 1, .score = RONDO_SCORE_SIGMOID},
        {.experts = 48, .groups = 2, .topk_group = 2, .k = 20, .score = RONDO_SCORE_SIGMOID},
        /* more experts or groups than a lane or a warp keeps */
        {.experts = 520, .groups = 1, .topk_group = 1, .k = 8, .score = RONDO_SCORE_SIGMOID},
        {.experts = 80, .groups = 40, .topk_group = 9, .k = 7, .score = RONDO_SCORE_SIGMOID},
    };
    static const struct {
        enum rondo_dtype x, weight, beside;
    } dtypes[] = {
        {RONDO_BF16, RONDO_BF16, RONDO_BF16},       {RONDO_F32, RONDO_BF16, RONDO_BF16},
        {RONDO_BF16, RONDO_F32, RONDO_F32},         {RONDO_BF16, RONDO_F8_E4M3, RONDO_BF16},
        {RONDO_F8_E4M3, RONDO_F8_E4M3, RONDO_BF16}, {RONDO_F32, RONDO_F8_E4M3, RONDO_F8_E4M3},
    };
    for (size_t d = 0; d < COUNT(dtypes); d++) {
        bool codes = dtypes[d].weight == RONDO_F8_E4M3;
        for (size_t i = 0; i < COUNT(tokens); i += codes ? 3 : 1) {
            struct case_of c = shapes[i % 3 ? check_random(check) % COUNT(shapes) : 0];
            c.tokens = tokens[i];
            c.channels = channels[check_random(check) % COUNT(channels)];
            c.x = dtypes[d].x;
            c.weight = dtypes[d].weight;
            c.beside = dtypes[d].beside;
            c.scale = !codes ? CHECK_SCALE_NONE : i % 2 ? CHECK_SCALE_BLOCK : CHECK_SCALE_ROW;
            c.parts = check_random_range(check, 1, 3);
            c.fill = check_random(check) % 4 ? CHECK_NORMAL : CHECK_ZEROS;
            c.groups_too = check_random(check) % 4;
            c.shared = check_random(check) % 2;
            run_case(check, &c);
        }
    }
    for (size_t s = 0; s < COUNT(shapes); s++) {
        struct case_of c = shapes[s];
        c.tokens = check_random_range(check, 1, s % 2 ? 40 : 8);
        c.channels = 136;
        c.groups_too = true;
        c.shared = check_random(check) % 2;
        c.x = c.weight = c.beside = RONDO_BF16;
        c.parts = 1;
        c.fill = CHECK_UNIFORM;
        run_case(check, &c);
    }
}
