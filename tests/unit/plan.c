/* The plan: its constants against the values of the model's description, its layers, and its arena. */
#include "core/plan.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct rondo_config mini(void)
{
    return (struct rondo_config){
        .vocab_size = 157184,
        .hidden_size = 2048,
        .num_hidden_layers = 20,
        .num_attention_heads = 16,
        .num_key_value_heads = 4,
        .head_dim = 128,
        .intermediate_size = 5120,
        .moe_intermediate_size = 512,
        .shared_intermediate_size = 512,
        .num_experts = 256,
        .num_experts_per_tok = 8,
        .num_shared_experts = 1,
        .n_group = 8,
        .topk_group = 4,
        .first_k_dense_replace = 1,
        .layer_group_size = 5,
        .group_norm_size = 4,
        .rotary_dim = 64,
        .max_position_embeddings = 131072,
        .rope_theta = 1e6,
        .rms_norm_eps = 1e-6,
        .routed_scaling_factor = 2.5,
        .use_expert_bias = true,
        .use_qk_norm = true,
        .norm_topk_prob = true,
    };
}

static void expect_near(double got, double want, double tolerance, const char *what)
{
    EXPECT(fabs(got - want) <= tolerance * fabs(want), "%s: got %.9g, want %.9g", what, got, want);
}

/* Decays to seven digits as published with the model's description. */
static void test_decays(void)
{
    struct rondo_config config = mini();
    static float power[32 * (RONDO_CHUNK + 1)];
    const struct {
        int32_t layer, head, offset;
        double decay;
    } known[] = {
        {0, 0, 0, 0.4930652},   {0, 0, 1, 0.4750525},  {9, 0, 0, 0.6892381},
        {9, 0, 1, 0.6640587},   {18, 0, 0, 0.9634611}, {18, 0, 1, 0.9282638},
        {0, 15, 0, 0.9961013},  {0, 15, 1, 0.9958966}, {18, 15, 0, 0.9997944},
        {18, 15, 1, 0.9995889},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        config.decay_offset = known[i].offset;
        rondo_decay_powers(&config, known[i].layer, power);
        const float *row = power + known[i].head * (RONDO_CHUNK + 1);
        EXPECT(row[0] == 1.0f, "power 0 is 1");
        expect_near(row[1], known[i].decay, 2e-7, "decay");
        expect_near(row[RONDO_CHUNK], pow(known[i].decay, RONDO_CHUNK), 2e-5, "decay of a chunk");
    }
    /* Twelve heads: eight slopes of the power of two below, then every second one of sixteen. */
    const double slopes[12] = {0.5,        0.25,       0.125,      0.0625,
                               0.03125,    0.015625,   0.0078125,  0.00390625,
                               0.70710678, 0.35355339, 0.17677670, 0.08838835};
    config.decay_offset = 0;
    config.num_attention_heads = 12;
    rondo_decay_powers(&config, 0, power);
    for (int h = 0; h < 12; h++)
        expect_near(power[h * (RONDO_CHUNK + 1) + 1], exp(-slopes[h] * 1.00001), 2e-7,
                    "decay of 12 heads");
    config.num_hidden_layers = 1;
    rondo_decay_powers(&config, 0, power);
    expect_near(power[1], exp(-0.5 * 1.00001), 2e-7, "decay of a single layer");
}

static void test_rope(void)
{
    struct rondo_config config = mini();
    double frequency[64], plain[64];
    rondo_rope_frequencies(&config, plain);
    expect_near(plain[0], 1.0, 0, "pair 0");
    expect_near(plain[1], 0.64938163, 1e-7, "pair 1");
    expect_near(plain[31], 1.5399265e-06, 1e-7, "pair 31");
    config.yarn.enabled = true;
    config.yarn.factor = 4;
    config.yarn.beta_fast = 32;
    config.yarn.beta_slow = 1;
    config.yarn.original_max_position_embeddings = 131072;
    rondo_rope_frequencies(&config, frequency);
    for (int i = 0; i < 32; i++) {
        double ramp = fmin(fmax((i - 15) / 9.0, 0), 1); /* from pair 15 to pair 24 */
        expect_near(frequency[i], plain[i] * (1 - ramp + ramp / 4), 1e-12, "YaRN");
    }
}

static void test_layers(void)
{
    struct rondo_config config = mini();
    for (int32_t l = 0; l < 20; l++) {
        bool softmax = l == 4 || l == 9 || l == 14 || l == 19;
        EXPECT((rondo_config_attention(&config, l) == RONDO_ATTENTION_SOFTMAX) == softmax,
               "layer %d", l);
        EXPECT((rondo_config_ffn(&config, l) == RONDO_FFN_DENSE) == (l == 0), "layer %d", l);
    }
    config.num_hidden_layers = 7; /* a ragged tail is softmax */
    EXPECT(rondo_config_attention(&config, 3) == RONDO_ATTENTION_LINEAR, "layer 3");
    EXPECT(rondo_config_attention(&config, 5) == RONDO_ATTENTION_SOFTMAX, "layer 5");
    EXPECT(rondo_config_attention(&config, 6) == RONDO_ATTENTION_SOFTMAX, "layer 6");
    config.layer_group_size = 0;
    EXPECT(rondo_config_attention(&config, 0) == RONDO_ATTENTION_SOFTMAX, "no linear layer");
}

/* Weights with shapes and dtypes and nothing behind them. */
static void view_weights(struct rondo_weights *weights, const struct rondo_config *c,
                         enum rondo_dtype dtype, enum rondo_dtype shared)
{
    int32_t L = c->num_hidden_layers, E = c->num_experts;
    int64_t D = c->hidden_size, hd = c->head_dim, H = c->num_attention_heads;
    *weights = (struct rondo_weights){.n_layers = L};
    weights->layers = calloc((size_t)L, sizeof *weights->layers);
    weights->expert_tensors = calloc((size_t)(3 * L * (E + 1)), sizeof *weights->expert_tensors);
    weights->embedding = rondo_tensor_2d(NULL, RONDO_BF16, c->vocab_size, D, "embedding");
    weights->lm_head = weights->embedding;
    for (int32_t l = 0; l < L; l++) {
        struct rondo_layer_weights *layer = &weights->layers[l];
        int64_t Hkv =
            rondo_config_attention(c, l) == RONDO_ATTENTION_LINEAR ? H : c->num_key_value_heads;
        layer->qkv = rondo_tensor_2d(NULL, dtype, (H + 2 * Hkv) * hd, D, "qkv");
        layer->g_proj = rondo_tensor_2d(NULL, RONDO_BF16, H * hd, D, "g_proj");
        layer->dense = rondo_tensor_2d(NULL, dtype, D, H * hd, "dense");
        layer->mlp.gate = layer->mlp.up =
            rondo_tensor_2d(NULL, dtype, c->intermediate_size, D, "gate");
        layer->mlp.down = rondo_tensor_2d(NULL, dtype, D, c->intermediate_size, "down");
        layer->shared.gate = layer->shared.up =
            rondo_tensor_2d(NULL, shared, c->shared_intermediate_size, D, "g");
        layer->shared.down = rondo_tensor_2d(NULL, shared, D, c->shared_intermediate_size, "d");
        layer->router = rondo_tensor_2d(NULL, RONDO_BF16, E, D, "router");
        layer->expert_gate = weights->expert_tensors + (3 * l + 0) * (E + 1);
        layer->expert_up = weights->expert_tensors + (3 * l + 1) * (E + 1);
        layer->expert_down = weights->expert_tensors + (3 * l + 2) * (E + 1);
        for (int32_t e = 0; e < E; e++) {
            layer->expert_gate[e] = layer->expert_up[e] =
                rondo_tensor_2d(NULL, dtype, c->moe_intermediate_size, D, "g");
            layer->expert_down[e] = rondo_tensor_2d(NULL, dtype, D, c->moe_intermediate_size, "d");
        }
        layer->expert_gate[E] = layer->expert_up[E] = layer->shared.gate;
        layer->expert_down[E] = layer->shared.down;
    }
}

/* No value is written over while a later step still reads it, and every input was made before. */
static void test_arena(enum rondo_mode mode, enum rondo_dtype shared)
{
    struct rondo_config config = mini();
    struct rondo_weights weights;
    struct rondo_plan plan;
    struct rondo_limits limits = {
        .tokens = 100, .experts = 256, .experts_per_token = 8, .context = 1000};
    view_weights(&weights, &config, RONDO_F8_E4M3, shared);
    EXPECT(rondo_plan_build(&plan, &config, &weights, mode, &limits, NULL) == RONDO_OK, "build");
    uint64_t bytes = rondo_plan_bytes(&plan), sum = 0;
    int32_t *made = calloc((size_t)plan.n_values, sizeof *made);
    int overlaps = 0, early = 0, outlived = 0;
    for (int32_t i = 0; i < plan.n_steps; i++) {
        const struct rondo_step *step = &plan.steps[i];
        for (int32_t j = 0; j < step->n_bindings; j++) {
            const struct rondo_value *value = &plan.values[step->binding[j].value];
            if (step->binding[j].use == RONDO_USE_OUT)
                made[step->binding[j].value] = 1;
            else
                early += !made[step->binding[j].value];
            outlived += i < value->first || i > value->last;
        }
    }
    for (int32_t i = 0; i < plan.n_values; i++) {
        const struct rondo_value *a = &plan.values[i];
        sum += a->size;
        for (int32_t j = 0; j < i; j++) {
            const struct rondo_value *b = &plan.values[j];
            overlaps += a->first <= b->last && b->first <= a->last &&
                        a->offset < b->offset + b->size && b->offset < a->offset + a->size;
        }
    }
    for (int32_t i = 0; i < plan.n_fusions; i++) { /* what runs at the first of its steps */
        const struct rondo_fusion *fusion = &plan.fusions[i];
        for (int32_t j = 0; j < fusion->step.n_bindings; j++) {
            const struct rondo_value *value = &plan.values[fusion->step.binding[j].value];
            outlived += fusion->steps[0] < value->first || fusion->steps[0] > value->last;
        }
    }
    EXPECT(overlaps == 0, "%d pairs of values alive at once share memory", overlaps);
    EXPECT(early == 0, "%d inputs are read before they are made", early);
    EXPECT(outlived == 0, "%d uses lie outside of a value's life", outlived);
    EXPECT(bytes < sum / 4, "%llu bytes for values of %llu together", (unsigned long long)bytes,
           (unsigned long long)sum);
    /* The last steps repeat for every slice of logits. */
    EXPECT(plan.values[plan.hidden].last == plan.n_steps - 1,
           "the hidden state outlives the logits");
    EXPECT(plan.values[plan.best].last == plan.n_steps - 1, "ids are read after the last step");
    EXPECT(plan.limits.max_k == 5120 && plan.limits.max_n == 157184, "widths %d, %d",
           plan.limits.max_k, plan.limits.max_n);
    int32_t quantizes = 0;
    for (int32_t i = 0; i < plan.n_steps; i++) {
        quantizes += plan.steps[i].op == RONDO_OP_QUANTIZE;
        char line[512];
        rondo_step_print(&plan, i, line, sizeof line);
        EXPECT(strstr(line, plan.steps[i].label) && strstr(line, "->"), "step %d prints: %s", i,
               line);
    }
    /* Per layer: qkv, dense, and the two inputs of the feed-forward network. */
    EXPECT(quantizes == (mode == RONDO_MODE_FP8 ? 20 * 4 : 0), "%d quantise steps", quantizes);
    /* Of codes: what two norms, the gated norm of a linear layer and swiglu give. Of combines: the norm after them. Of
     * routers: the product before them. */
    int32_t fusions = (mode == RONDO_MODE_FP8 ? 20 * 2 + 16 + 20 : 0) + 18 + 19;
    EXPECT(plan.n_fusions == fusions, "%d fusions, want %d", plan.n_fusions, fusions);
    free(made);
    rondo_plan_destroy(&plan);
    free(weights.layers);
    free(weights.expert_tensors);
}

/* The grouped products of a layer, 3 at most; returns how many. */
static int grouped_steps(const struct rondo_plan *plan, int32_t layer,
                         const struct rondo_step **steps)
{
    int n = 0;
    for (int32_t i = 0; i < plan->n_steps; i++)
        if (plan->steps[i].layer == layer && plan->steps[i].op == RONDO_OP_GROUPED_GEMM && n < 3)
            steps[n++] = &plan->steps[i];
    return n;
}

/* Experts that differ: one product per part whose input they share, which is codes where all of them are FP8. */
static void test_mixed_experts(enum rondo_mode mode)
{
    struct rondo_config config = mini();
    struct rondo_weights weights;
    struct rondo_plan plan;
    struct rondo_limits limits = {
        .tokens = 100, .experts = 256, .experts_per_token = 8, .context = 1000};
    const struct rondo_step *steps[3];
    bool fp8 = mode == RONDO_MODE_FP8;
    char line[512];
    view_weights(&weights, &config, RONDO_F8_E4M3, RONDO_BF16);
    weights.layers[2].expert_gate[255].dtype = RONDO_BF16;
    weights.layers[3].expert_down[0].dtype = RONDO_F32;
    weights.layers[4].expert_up[7].scale_rows = 1; /* else none */
    EXPECT(rondo_plan_build(&plan, &config, &weights, mode, &limits, NULL) == RONDO_OK, "build");
    int n = grouped_steps(&plan, 1, steps);
    EXPECT(n == 2 && !steps[0]->args.grouped_gemm.mixed && !steps[1]->args.grouped_gemm.mixed &&
               steps[0]->args.grouped_gemm.n_parts == 2,
           "%d products of like experts", n);
    uint64_t alike = n == 2 ? steps[0]->weight_bytes : 0;
    EXPECT(alike == 8 * 2 * 512 * 2048, "%llu bytes", (unsigned long long)alike);

    n = grouped_steps(&plan, 2, steps);
    EXPECT(n == (fp8 ? 3 : 2), "%d products with a gate that is not FP8", n);
    const struct rondo_op_grouped_gemm *first = &steps[0]->args.grouped_gemm;
    EXPECT(first->mixed && first->weight[0] == weights.layers[2].expert_gate, "the gate's product");
    EXPECT(plan.values[steps[0]->binding[0].value].dtype == plan.act, "its input is quantised");
    EXPECT(steps[0]->weight_bytes == alike / (fp8 ? 2 : 1) + 8 * 512 * 2048 / 256, "%llu bytes",
           (unsigned long long)steps[0]->weight_bytes);
    if (fp8 && n == 3) {
        const struct rondo_op_grouped_gemm *second = &steps[1]->args.grouped_gemm;
        EXPECT(!second->mixed && second->weight[0] == weights.layers[2].expert_up, "up's product");
        EXPECT(plan.values[steps[1]->binding[0].value].dtype == RONDO_F8_E4M3, "not quantised");
    }
    n = grouped_steps(&plan, 3, steps);
    EXPECT(n == 2 && !steps[0]->args.grouped_gemm.mixed && steps[1]->args.grouped_gemm.mixed &&
               plan.values[steps[1]->binding[0].value].dtype == plan.act,
           "%d products with another down", n);
    n = grouped_steps(&plan, 4, steps);
    EXPECT(n == 2 && steps[0]->args.grouped_gemm.mixed &&
               (plan.values[steps[0]->binding[0].value].dtype == RONDO_F8_E4M3) == fp8,
           "%d products with scales of another kind", n);
    rondo_step_print(&plan, (int32_t)(steps[0] - plan.steps), line, sizeof line);
    EXPECT(strstr(line, "* mixed[512,2048] mixed[512,2048] ->"), "%s", line);
    rondo_plan_destroy(&plan);
    free(weights.layers);
    free(weights.expert_tensors);
}

/* Of layer 1: the last of its steps of an op; NULL: none. */
static const struct rondo_step *find_step(const struct rondo_plan *plan, enum rondo_op op)
{
    const struct rondo_step *found = NULL;
    for (int32_t i = plan->layer_first[1]; i < plan->layer_first[2]; i++)
        found = plan->steps[i].op == op ? &plan->steps[i] : found;
    return found;
}

/* A shared expert that is like the routed ones is one of the groups; any other has steps of its own. */
static void test_shared(const char *what, int32_t width, int32_t experts, enum rondo_dtype dtype,
                        enum rondo_dtype down, enum rondo_dtype one_up, bool want)
{
    struct rondo_config config = mini();
    struct rondo_weights weights;
    struct rondo_plan plan;
    struct rondo_limits limits = {.tokens = 10, .context = 1000};
    config.num_experts = experts;
    config.shared_intermediate_size = width;
    view_weights(&weights, &config, RONDO_BF16, dtype);
    weights.layers[1].shared.down.dtype = weights.layers[1].expert_down[experts].dtype = down;
    weights.layers[1].expert_up[experts / 2].dtype = one_up;
    EXPECT(!rondo_plan_build(&plan, &config, &weights, RONDO_MODE_BF16, &limits, NULL), "build");
    int32_t swiglus = 0, E = experts + want, K = 8 + want;
    for (int32_t i = plan.layer_first[1]; i < plan.layer_first[2]; i++)
        swiglus += plan.steps[i].op == RONDO_OP_SWIGLU;
    const struct rondo_step *group = find_step(&plan, RONDO_OP_GROUP_TOKENS),
                            *grouped = find_step(&plan, RONDO_OP_GROUPED_GEMM),
                            *combine = find_step(&plan, RONDO_OP_COMBINE);
    EXPECT(swiglus == (want || !width ? 1 : 2), "%s: %d swiglus", what, swiglus);
    EXPECT(group->args.group_tokens.shared == want && group->args.group_tokens.n_experts == experts,
           "%s: grouping", what);
    EXPECT(grouped->args.grouped_gemm.n_experts == E && grouped->macs == (uint64_t)K * 2048 * 512,
           "%s: %d experts in groups", what, grouped->args.grouped_gemm.n_experts);
    for (int32_t i = 0; i < combine->n_bindings && want; i++) {
        enum rondo_piece piece = i == 0   ? RONDO_PIECE_ROUTED
                                 : i == 1 ? RONDO_PIECE_SHARED
                                          : RONDO_PIECE_ALL;
        EXPECT(combine->binding[i].piece == piece, "%s: binding %d of combine", what, i);
    }
    int32_t y = combine->binding[0].value;
    EXPECT(rondo_plan_rows(&plan, plan.values[y].rows, 10, 0) == 10 * K, "%s: rows", what);
    rondo_plan_destroy(&plan);
    free(weights.layers);
    free(weights.expert_tensors);
}

/* Labels that find no place share the last one; nothing behind the places is written. */
static void test_labels(void)
{
    enum { LABELS = RONDO_MAX_LABELS + 3 };
    static char names[LABELS][8];
    struct rondo_plan plan = {.n_labels = 0};
    for (int32_t i = 0; i < LABELS; i++) {
        snprintf(names[i], sizeof names[i], "%d", i);
        int32_t want = i < RONDO_MAX_LABELS ? i : RONDO_MAX_LABELS - 1;
        int32_t place = rondo_plan_label(&plan, names[i]);
        EXPECT(place == want, "label %d has place %d", i, place);
    }
    EXPECT(plan.n_labels == RONDO_MAX_LABELS, "%d labels", plan.n_labels);
    EXPECT(!strcmp(plan.labels[RONDO_MAX_LABELS - 1], "others") && !strcmp(plan.labels[3], "3"),
           "the last is %s", plan.labels[RONDO_MAX_LABELS - 1]);
    EXPECT(rondo_plan_label(&plan, "3") == 3, "a label keeps its place");
}

int main(void)
{
    test_labels();
    test_decays();
    test_rope();
    test_layers();
    for (int i = 0; i < 2; i++) {
        enum rondo_dtype shared = i ? RONDO_F8_E4M3 : RONDO_BF16;
        test_arena(RONDO_MODE_F32, shared);
        test_arena(RONDO_MODE_BF16, shared);
        test_arena(RONDO_MODE_FP8, shared);
    }
    test_mixed_experts(RONDO_MODE_BF16);
    test_mixed_experts(RONDO_MODE_FP8);
    enum rondo_dtype bf16 = RONDO_BF16, f16 = RONDO_F16;
    test_shared("alike", 512, 256, bf16, bf16, bf16, true);
    test_shared("other dtype", 512, 256, f16, f16, bf16, false);
    test_shared("one part of another dtype", 512, 256, bf16, f16, bf16, false);
    test_shared("one expert of another dtype", 512, 256, bf16, bf16, f16, false);
    test_shared("twice as wide", 1024, 256, bf16, bf16, bf16, false);
    test_shared("none", 0, 256, bf16, bf16, bf16, false);
    test_shared("many experts", 512, 1024, bf16, bf16, bf16, false);
    return test_result();
}
