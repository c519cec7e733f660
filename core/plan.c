/* The plan builder: which steps a config becomes, over which values. */
#include "core/plan.h"
#include "core/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- values and steps ------------------------------------------------------------------------- */

struct builder {
    struct rondo_plan *plan;
    int32_t layer;
    const struct rondo_layer_weights *weights; /* of the layer */
    /* The last value that was quantised, and its codes: steps that share an input share them. */
    int32_t source, codes;
    struct rondo_step spare; /* written to when there is no memory; the plan is thrown away then */
};

static int32_t add_value(struct builder *b, const char *name, enum rondo_dtype dtype,
                         enum rondo_rows rows, int64_t columns)
{
    struct rondo_plan *plan = b->plan;
    if (plan->n_values == plan->values_capacity) {
        int32_t capacity = plan->values_capacity ? plan->values_capacity * 2 : 16;
        void *grown = realloc(plan->values, (size_t)capacity * sizeof *plan->values);
        if (!grown) {
            plan->out_of_memory = true;
            return 0;
        }
        plan->values = grown;
        plan->values_capacity = capacity;
    }
    plan->values[plan->n_values] = (struct rondo_value){.name = name,
                                                        .layer = b->layer,
                                                        .dtype = dtype,
                                                        .rows = rows,
                                                        .columns = columns,
                                                        .first = plan->n_steps,
                                                        .last = plan->n_steps};
    return plan->n_values++;
}

int32_t rondo_plan_label(struct rondo_plan *plan, const char *label)
{
    for (int32_t i = 0; i < plan->n_labels; i++) {
        if (strcmp(plan->labels[i], label) == 0)
            return i;
    }
    if (plan->n_labels == RONDO_MAX_LABELS) {
        plan->labels[RONDO_MAX_LABELS - 1] = "others";
        return RONDO_MAX_LABELS - 1;
    }
    plan->labels[plan->n_labels] = label;
    return plan->n_labels++;
}

/* The result is valid until the next add_step. */
static struct rondo_step *add_step(struct builder *b, enum rondo_op op, const char *label)
{
    struct rondo_plan *plan = b->plan;
    if (plan->n_steps == plan->steps_capacity) {
        int32_t capacity = plan->steps_capacity ? plan->steps_capacity * 2 : 16;
        void *grown = realloc(plan->steps, (size_t)capacity * sizeof *plan->steps);
        if (!grown) {
            plan->out_of_memory = true;
            b->spare = (struct rondo_step){0};
            return &b->spare;
        }
        plan->steps = grown;
        plan->steps_capacity = capacity;
    }
    struct rondo_step *step = &plan->steps[plan->n_steps++];
    *step = (struct rondo_step){.op = op, .layer = b->layer, .label = label, .fusion = -1};
    step->label_index = rondo_plan_label(plan, label);
    return step;
}

static struct rondo_binding *bind(struct builder *b, struct rondo_step *step, size_t field,
                                  int32_t value, enum rondo_use use)
{
    struct rondo_binding *binding = &step->binding[step->n_bindings++];
    *binding = (struct rondo_binding){.field = (uint32_t)field, .value = value, .use = use};
    if (!b->plan->out_of_memory) {
        b->plan->values[value].last = b->plan->n_steps - 1;
        /* What codes were made from lives as long as they do, so that compare mode can make them again. */
        if (b->source >= 0 && value == b->codes)
            b->plan->values[b->source].last = b->plan->n_steps - 1;
    }
    return binding;
}

static void bind_pointer(struct builder *b, struct rondo_step *step, size_t field, int32_t value,
                         enum rondo_use use)
{
    bind(b, step, field, value, use)->is_pointer = true;
}

#define FIELD(member) offsetof(union rondo_op_args, member)

/* ---- pieces shared by layers ------------------------------------------------------------------ */

static int32_t add_norm(struct builder *b, const char *label, const char *name, const float *weight)
{
    struct rondo_plan *plan = b->plan;
    int32_t out = add_value(b, name, plan->act, RONDO_ROWS_TOKENS, plan->config->hidden_size);
    struct rondo_step *step = add_step(b, RONDO_OP_RMSNORM, label);
    bind(b, step, FIELD(rmsnorm.x), plan->hidden, RONDO_USE_IN);
    bind(b, step, FIELD(rmsnorm.out), out, RONDO_USE_OUT);
    step->args.rmsnorm.weight = weight;
    step->args.rmsnorm.eps = (float)plan->config->rms_norm_eps;
    return out;
}

/* In mode fp8 an FP8 weight takes its input quantised: of layers' products, the router's too, not of the head. */
static bool wants_codes(const struct rondo_plan *plan, const struct rondo_tensor *weight)
{
    return plan->mode == RONDO_MODE_FP8 && weight->dtype == RONDO_F8_E4M3;
}

/* The weights of one part of a layer's experts. They share an input: it is quantised when every one of them wants that. */
static bool experts_want_codes(const struct rondo_plan *plan, const struct rondo_tensor *weights)
{
    bool codes = true;
    for (int32_t e = 0; e < plan->config->num_experts; e++)
        codes = codes && wants_codes(plan, &weights[e]);
    return codes;
}

static bool are_mixed(const struct rondo_plan *plan, const struct rondo_tensor *weights)
{
    bool mixed = false;
    for (int32_t e = 1; e < plan->config->num_experts; e++)
        mixed = mixed || !rondo_tensor_stored_alike(&weights[0], &weights[e]);
    return mixed;
}

static int32_t quantized(struct builder *b, int32_t value)
{
    if (b->source == value)
        return b->codes;
    struct rondo_plan *plan = b->plan;
    struct rondo_value source = plan->values[value];
    int32_t codes = add_value(b, source.name, RONDO_F8_E4M3, source.rows, source.columns);
    struct rondo_step *step = add_step(b, RONDO_OP_QUANTIZE, "quantize");
    bind(b, step, FIELD(quantize.x), value, RONDO_USE_IN);
    bind(b, step, FIELD(quantize.out), codes, RONDO_USE_OUT);
    b->source = value;
    b->codes = codes;
    return codes;
}

/* One product of a step that may have several. */
struct product {
    const struct rondo_tensor *weight;
    const float *bias;
    int32_t out, first_column; /* of the value the result goes to */
};

static void count_product(struct rondo_plan *plan, struct rondo_step *step,
                          const struct rondo_tensor *weight, uint64_t times)
{
    step->weight_bytes += times * rondo_tensor_bytes(weight);
    step->macs += times * (uint64_t)weight->shape[0] * (uint64_t)weight->shape[1];
    if (weight->shape[0] > plan->limits.max_n)
        plan->limits.max_n = (int32_t)weight->shape[0];
    if (weight->shape[1] > plan->limits.max_k)
        plan->limits.max_k = (int32_t)weight->shape[1];
}

/* A token's K experts: of mixed ones, K times the mean. And the shared one where it is among them. */
static void count_experts(struct rondo_plan *plan, struct rondo_step *step,
                          const struct rondo_tensor *weights, bool shared)
{
    uint64_t bytes = 0, E = (uint64_t)plan->config->num_experts;
    uint64_t K = (uint64_t)plan->config->num_experts_per_tok, before = step->weight_bytes;
    for (uint64_t e = 0; e < E; e++)
        bytes += rondo_tensor_bytes(&weights[e]);
    count_product(plan, step, weights, K);
    step->weight_bytes = before + bytes * K / E;
    if (shared)
        count_product(plan, step, &weights[E], 1);
}

/* The products of `x` with several weights, in one step where their inputs are stored alike. */
static void add_gemm(struct builder *b, const char *label, int32_t x,
                     const struct product *products, int count, bool residual)
{
    for (int pass = 0; pass < 2; pass++) {
        bool codes = pass == 1;
        int n = 0;
        for (int i = 0; i < count; i++)
            n += wants_codes(b->plan, products[i].weight) == codes;
        if (!n)
            continue;
        int32_t input = codes ? quantized(b, x) : x;
        struct rondo_step *step = add_step(b, RONDO_OP_GEMM, label);
        struct rondo_op_gemm *gemm = &step->args.gemm;
        gemm->residual = residual;
        bind(b, step, FIELD(gemm.x), input, RONDO_USE_IN);
        for (int i = 0; i < count; i++) {
            if (wants_codes(b->plan, products[i].weight) != codes)
                continue;
            struct rondo_gemm_part *part = &gemm->part[gemm->n_parts];
            size_t field = FIELD(gemm.part) + (size_t)gemm->n_parts * sizeof *part +
                           offsetof(struct rondo_gemm_part, out);
            part->weight = *products[i].weight;
            part->bias = products[i].bias;
            struct rondo_binding *out =
                bind(b, step, field, products[i].out, residual ? RONDO_USE_IN_OUT : RONDO_USE_OUT);
            out->first_column = products[i].first_column;
            out->columns = part->weight.shape[0];
            count_product(b->plan, step, &part->weight, 1);
            gemm->n_parts++;
        }
    }
}

static int32_t add_swiglu(struct builder *b, const char *label, int32_t gate_up, const char *name)
{
    struct rondo_value source = b->plan->values[gate_up];
    int32_t out = add_value(b, name, b->plan->act, source.rows, source.columns / 2);
    struct rondo_step *step = add_step(b, RONDO_OP_SWIGLU, label);
    bind(b, step, FIELD(swiglu.x), gate_up, RONDO_USE_IN);
    bind(b, step, FIELD(swiglu.out), out, RONDO_USE_OUT);
    return out;
}

/* ---- attention -------------------------------------------------------------------------------- */

static int32_t add_linear_attention(struct builder *b, int32_t q, int32_t k, int32_t v,
                                    int32_t gate)
{
    struct rondo_plan *plan = b->plan;
    const struct rondo_config *c = plan->config;
    int64_t width = (int64_t)c->num_attention_heads * c->head_dim;

    int32_t out = add_value(b, "attn_out", RONDO_F32, RONDO_ROWS_TOKENS, width);
    struct rondo_step *step = add_step(b, RONDO_OP_LINEAR_ATTENTION, "linear_attention");
    struct rondo_op_linear_attention *op = &step->args.linear_attention;
    op->batch = &plan->batch;
    op->scale = (float)(1.0 / sqrt(c->head_dim));
    op->heads = c->num_attention_heads;
    op->head_dim = c->head_dim;
    bind(b, step, FIELD(linear_attention.q), q, RONDO_USE_IN);
    bind(b, step, FIELD(linear_attention.k), k, RONDO_USE_IN);
    bind(b, step, FIELD(linear_attention.v), v, RONDO_USE_IN);
    bind(b, step, FIELD(linear_attention.out), out, RONDO_USE_OUT);

    int32_t gated = add_value(b, "attn_gated", plan->act, RONDO_ROWS_TOKENS, width);
    step = add_step(b, RONDO_OP_GROUP_NORM_GATE, "group_norm_gate");
    step->args.group_norm_gate.weight = b->weights->g_norm;
    step->args.group_norm_gate.n_groups = c->group_norm_size;
    step->args.group_norm_gate.eps = (float)c->rms_norm_eps;
    bind(b, step, FIELD(group_norm_gate.x), out, RONDO_USE_IN);
    bind(b, step, FIELD(group_norm_gate.gate), gate, RONDO_USE_IN);
    bind(b, step, FIELD(group_norm_gate.out), gated, RONDO_USE_OUT);
    return gated;
}

static int32_t add_softmax_attention(struct builder *b, int32_t q, int32_t k, int32_t v)
{
    struct rondo_plan *plan = b->plan;
    const struct rondo_config *c = plan->config;
    int64_t width = (int64_t)c->num_attention_heads * c->head_dim;
    int32_t out = add_value(b, "attn_out", plan->act, RONDO_ROWS_TOKENS, width);
    struct rondo_step *step = add_step(b, RONDO_OP_SOFTMAX_ATTENTION, "softmax_attention");
    struct rondo_op_softmax_attention *op = &step->args.softmax_attention;
    op->batch = &plan->batch;
    op->scale = (float)(1.0 / sqrt(c->head_dim));
    op->heads = c->num_attention_heads;
    op->kv_heads = c->num_key_value_heads;
    op->head_dim = c->head_dim;
    bind(b, step, FIELD(softmax_attention.q), q, RONDO_USE_IN);
    bind(b, step, FIELD(softmax_attention.k), k, RONDO_USE_IN);
    bind(b, step, FIELD(softmax_attention.v), v, RONDO_USE_IN);
    bind(b, step, FIELD(softmax_attention.out), out, RONDO_USE_OUT);
    return out;
}

static void add_attention(struct builder *b)
{
    struct rondo_plan *plan = b->plan;
    const struct rondo_config *c = plan->config;
    bool linear = rondo_config_attention(c, b->layer) == RONDO_ATTENTION_LINEAR;
    int64_t hd = c->head_dim, H = c->num_attention_heads, Hkv = linear ? H : c->num_key_value_heads;

    int32_t x = add_norm(b, "attn_norm", "attn_in", b->weights->input_norm);
    int32_t qkv = add_value(b, "qkv", plan->act, RONDO_ROWS_TOKENS, (H + 2 * Hkv) * hd);
    int32_t gate = linear ? add_value(b, "gate", plan->act, RONDO_ROWS_TOKENS, H * hd) : -1;
    struct product products[2] = {{&b->weights->qkv, b->weights->qkv_bias, qkv, 0},
                                  {&b->weights->g_proj, NULL, gate, 0}};
    add_gemm(b, "qkv_gemm", x, products, linear ? 2 : 1, false);

    int32_t q = add_value(b, "q", plan->act, RONDO_ROWS_TOKENS, H * hd);
    int32_t k = add_value(b, "k", plan->act, RONDO_ROWS_TOKENS, Hkv * hd);
    int32_t v = add_value(b, "v", plan->act, RONDO_ROWS_TOKENS, Hkv * hd);
    struct rondo_step *step = add_step(b, RONDO_OP_QKV, "qkv_split");
    struct rondo_op_qkv *op = &step->args.qkv;
    op->batch = &plan->batch;
    op->q_weight = b->weights->query_norm;
    op->k_weight = b->weights->key_norm;
    op->heads = (int32_t)H;
    op->kv_heads = (int32_t)Hkv;
    op->head_dim = (int32_t)hd;
    op->rotary_dim = c->rotary_dim;
    op->eps = (float)c->rms_norm_eps;
    op->silu = linear && c->linear_silu;
    bind(b, step, FIELD(qkv.qkv), qkv, RONDO_USE_IN);
    bind(b, step, FIELD(qkv.q), q, RONDO_USE_OUT);
    bind(b, step, FIELD(qkv.k), k, RONDO_USE_OUT);
    bind(b, step, FIELD(qkv.v), v, RONDO_USE_OUT);

    int32_t out =
        linear ? add_linear_attention(b, q, k, v, gate) : add_softmax_attention(b, q, k, v);
    struct product dense = {&b->weights->dense, b->weights->dense_bias, plan->hidden, 0};
    add_gemm(b, "dense_gemm", out, &dense, 1, true);
}

/* ---- feed-forward ----------------------------------------------------------------------------- */

/* A layer's routing: its values, and the rows of values that have one of each expert of a token. */
struct routing {
    int32_t weights, offsets, row_of, token_of;
    bool shared; /* the shared expert is the last of the grouped ones */
    enum rondo_rows rows;
};

static void add_dense_ffn(struct builder *b, int32_t x)
{
    const struct rondo_ffn_weights *mlp = &b->weights->mlp;
    int32_t width = (int32_t)mlp->gate.shape[0];
    int32_t gate_up = add_value(b, "gate_up", b->plan->act, RONDO_ROWS_TOKENS, 2 * (int64_t)width);
    struct product products[2] = {{&mlp->gate, NULL, gate_up, 0}, {&mlp->up, NULL, gate_up, width}};
    add_gemm(b, "gate_up_gemm", x, products, 2, false);
    int32_t inner = add_swiglu(b, "swiglu", gate_up, "ffn_inner");
    struct product down = {&mlp->down, NULL, b->plan->hidden, 0};
    add_gemm(b, "down_gemm", inner, &down, 1, true);
}

/* Whether the layer's shared expert is one of the grouped ones: the last, which every token goes to. It saves three
 * steps: the products with gate and up beside the router's, swiglu, and the product with down. */
static bool shares_groups(const struct rondo_plan *plan, const struct rondo_layer_weights *w)
{
    const struct rondo_config *c = plan->config;
    const struct rondo_tensor *experts[3] = {w->expert_gate, w->expert_up, w->expert_down};
    bool alike =
        c->shared_intermediate_size == c->moe_intermediate_size && c->num_experts < RONDO_GROUPS;
    for (int part = 0; part < 3 && alike; part++)
        alike = !are_mixed(plan, experts[part]) &&
                rondo_tensor_stored_alike(&experts[part][0], &experts[part][c->num_experts]);
    return alike;
}

/* Products of the routing's rows with their experts' weights; with `gather` rows are those of the batch. */
static void add_grouped(struct builder *b, const char *label, int32_t x,
                        const struct routing *routing, bool gather,
                        struct rondo_tensor *const *weights, int count, int32_t out)
{
    struct rondo_plan *plan = b->plan;
    const struct rondo_config *c = plan->config;
    for (int pass = 0; pass < 2; pass++) {
        bool codes = pass == 1;
        int first = -1, n = 0;
        for (int i = 0; i < count; i++) {
            if (experts_want_codes(plan, weights[i]) == codes) {
                first = first < 0 ? i : first;
                n++;
            }
        }
        if (!n)
            continue;
        int32_t input = codes ? quantized(b, x) : x;
        struct rondo_step *step = add_step(b, RONDO_OP_GROUPED_GEMM, label);
        struct rondo_op_grouped_gemm *op = &step->args.grouped_gemm;
        op->n_experts = c->num_experts + routing->shared;
        for (int i = first; i < first + n; i++) {
            op->weight[op->n_parts++] = weights[i];
            op->mixed = op->mixed || are_mixed(plan, weights[i]);
            count_experts(plan, step, weights[i], routing->shared);
        }
        bind(b, step, FIELD(grouped_gemm.x), input, RONDO_USE_IN);
        bind_pointer(b, step, FIELD(grouped_gemm.offsets), routing->offsets, RONDO_USE_IN);
        if (gather)
            bind_pointer(b, step, FIELD(grouped_gemm.gather), routing->token_of, RONDO_USE_IN);
        struct rondo_binding *result = bind(b, step, FIELD(grouped_gemm.out), out, RONDO_USE_OUT);
        result->first_column = first * (int32_t)weights[0]->shape[0];
        result->columns = n * weights[0]->shape[0];
    }
}

static struct routing add_routing(struct builder *b, int32_t logits, bool shared)
{
    struct rondo_plan *plan = b->plan;
    const struct rondo_config *c = plan->config;
    struct routing routing = {.shared = shared,
                              .rows = shared ? RONDO_ROWS_EXPERTS : RONDO_ROWS_ROUTED};
    int32_t ids = add_value(b, "expert_ids", RONDO_I32, RONDO_ROWS_TOKENS, c->num_experts_per_tok);
    routing.weights =
        add_value(b, "expert_weights", RONDO_F32, RONDO_ROWS_TOKENS, c->num_experts_per_tok);
    struct rondo_step *step = add_step(b, RONDO_OP_ROUTER, "router");
    struct rondo_op_router *router = &step->args.router;
    router->bias = b->weights->expert_bias;
    router->experts_per_token = c->num_experts_per_tok;
    router->n_group = c->n_group;
    router->topk_group = c->topk_group;
    router->score = c->score_function;
    router->normalize = c->norm_topk_prob;
    router->scale = (float)c->routed_scaling_factor;
    bind(b, step, FIELD(router.logits), logits, RONDO_USE_IN);
    bind_pointer(b, step, FIELD(router.ids), ids, RONDO_USE_OUT);
    bind_pointer(b, step, FIELD(router.weights), routing.weights, RONDO_USE_OUT);

    routing.offsets =
        add_value(b, "expert_offsets", RONDO_I32, RONDO_ROWS_OFFSETS, c->num_experts + shared + 1);
    routing.row_of = add_value(b, "row_of", RONDO_I32, RONDO_ROWS_ROUTED, 1);
    routing.token_of = add_value(b, "token_of", RONDO_I32, routing.rows, 1);
    step = add_step(b, RONDO_OP_GROUP_TOKENS, "group_tokens");
    step->args.group_tokens.experts_per_token = c->num_experts_per_tok;
    step->args.group_tokens.n_experts = c->num_experts;
    step->args.group_tokens.shared = shared;
    bind_pointer(b, step, FIELD(group_tokens.ids), ids, RONDO_USE_IN);
    bind_pointer(b, step, FIELD(group_tokens.offsets), routing.offsets, RONDO_USE_OUT);
    bind_pointer(b, step, FIELD(group_tokens.row_of), routing.row_of, RONDO_USE_OUT);
    bind_pointer(b, step, FIELD(group_tokens.token_of), routing.token_of, RONDO_USE_OUT);
    return routing;
}

/* The experts' networks; gives what they make. */
static int32_t add_experts(struct builder *b, int32_t x, const struct routing *routing)
{
    struct rondo_plan *plan = b->plan;
    const struct rondo_config *c = plan->config;
    const struct rondo_layer_weights *w = b->weights;
    int32_t gate_up = add_value(b, "expert_gate_up", plan->act, routing->rows,
                                2 * (int64_t)c->moe_intermediate_size);
    struct rondo_tensor *up_weights[2] = {w->expert_gate, w->expert_up};
    add_grouped(b, "expert_up_gemm", x, routing, true, up_weights, 2, gate_up);
    int32_t inner = add_swiglu(b, "expert_swiglu", gate_up, "expert_inner");
    int32_t y = add_value(b, "expert_out", plan->act, routing->rows, c->hidden_size);
    struct rondo_tensor *down_weights[1] = {w->expert_down};
    add_grouped(b, "expert_down_gemm", inner, routing, false, down_weights, 1, y);
    return y;
}

/* The end of a shared expert that is none of the grouped ones; gives what it makes. */
static int32_t add_shared(struct builder *b, int32_t gate_up)
{
    struct rondo_plan *plan = b->plan;
    int32_t inner = add_swiglu(b, "shared_swiglu", gate_up, "shared_inner");
    int32_t out =
        add_value(b, "shared_out", plan->act, RONDO_ROWS_TOKENS, plan->config->hidden_size);
    struct product down = {&b->weights->shared.down, NULL, out, 0};
    add_gemm(b, "shared_down_gemm", inner, &down, 1, false);
    return out;
}

static void add_moe(struct builder *b, int32_t x)
{
    struct rondo_plan *plan = b->plan;
    const struct rondo_config *c = plan->config;
    const struct rondo_layer_weights *w = b->weights;
    bool grouped = shares_groups(plan, w);
    int32_t width = grouped ? 0 : c->shared_intermediate_size; /* of an expert beside the groups */

    int32_t logits = add_value(b, "router_logits", RONDO_F32, RONDO_ROWS_TOKENS, c->num_experts);
    int32_t gate_up =
        width ? add_value(b, "shared_gate_up", plan->act, RONDO_ROWS_TOKENS, 2 * (int64_t)width)
              : -1;
    struct product products[3] = {{&w->router, NULL, logits, 0},
                                  {&w->shared.gate, NULL, gate_up, 0},
                                  {&w->shared.up, NULL, gate_up, width}};
    add_gemm(b, "router_gemm", x, products, width ? 3 : 1, false);
    struct routing routing = add_routing(b, logits, grouped);
    int32_t y = add_experts(b, x, &routing), shared = width ? add_shared(b, gate_up) : y;

    struct rondo_step *step = add_step(b, RONDO_OP_COMBINE, "combine");
    step->args.combine.experts_per_token = c->num_experts_per_tok;
    struct rondo_binding *routed = bind(b, step, FIELD(combine.y), y, RONDO_USE_IN);
    routed->piece = grouped ? RONDO_PIECE_ROUTED : RONDO_PIECE_ALL;
    if (grouped || width) {
        struct rondo_binding *others = bind(b, step, FIELD(combine.shared), shared, RONDO_USE_IN);
        others->piece = grouped ? RONDO_PIECE_SHARED : RONDO_PIECE_ALL;
    }
    bind_pointer(b, step, FIELD(combine.row_of), routing.row_of, RONDO_USE_IN);
    bind_pointer(b, step, FIELD(combine.weights), routing.weights, RONDO_USE_IN);
    bind(b, step, FIELD(combine.h), plan->hidden, RONDO_USE_IN_OUT);
}

/* ---- the whole -------------------------------------------------------------------------------- */

static void add_embedding(struct builder *b)
{
    struct rondo_plan *plan = b->plan;
    plan->hidden = add_value(b, "hidden", RONDO_F32, RONDO_ROWS_TOKENS, plan->config->hidden_size);
    struct rondo_step *step = add_step(b, RONDO_OP_EMBEDDING, "embedding");
    step->args.embedding.batch = &plan->batch;
    step->args.embedding.table = plan->weights->embedding;
    struct rondo_tensor row = plan->weights->embedding; /* what a token reads */
    row.shape[0] = 1;
    step->weight_bytes = rondo_tensor_bytes(&row);
    bind(b, step, FIELD(embedding.out), plan->hidden, RONDO_USE_OUT);
}

/* What may be wanted of logits instead of themselves. Each of these steps runs only where it is asked for, and what
 * one has made is read after the last. */
static void add_choices(struct builder *b)
{
    struct rondo_plan *plan = b->plan;
    plan->best = add_value(b, "best", RONDO_I32, RONDO_ROWS_LOGITS, 1);
    plan->argmax_step = plan->n_steps;
    struct rondo_step *step = add_step(b, RONDO_OP_ARGMAX, "argmax");
    bind(b, step, FIELD(argmax.x), plan->logits, RONDO_USE_IN);
    bind_pointer(b, step, FIELD(argmax.ids), plan->best, RONDO_USE_OUT);

    plan->penalize_step = plan->n_steps;
    step = add_step(b, RONDO_OP_PENALIZE, "penalize");
    bind(b, step, FIELD(penalize.x), plan->logits, RONDO_USE_IN_OUT);

    plan->candidates = add_value(b, "candidates", RONDO_I32, RONDO_ROWS_LOGITS,
                                 (int64_t)(sizeof(struct rondo_candidates) / sizeof(int32_t)));
    plan->candidates_step = plan->n_steps;
    step = add_step(b, RONDO_OP_CANDIDATES, "candidates");
    bind(b, step, FIELD(candidates.x), plan->logits, RONDO_USE_IN);
    bind_pointer(b, step, FIELD(candidates.out), plan->candidates, RONDO_USE_OUT);
    if (!plan->out_of_memory)
        plan->values[plan->best].last = plan->n_steps - 1;
}

/* The last norm and the head run on chosen rows only. The head's input is never quantised. */
static void add_logits(struct builder *b)
{
    struct rondo_plan *plan = b->plan;
    int32_t final = add_value(b, "final", plan->act, RONDO_ROWS_LOGITS, plan->config->hidden_size);
    struct rondo_step *step = add_step(b, RONDO_OP_RMSNORM, "final_norm");
    step->args.rmsnorm.weight = plan->weights->norm;
    step->args.rmsnorm.eps = (float)plan->config->rms_norm_eps;
    bind(b, step, FIELD(rmsnorm.x), plan->hidden, RONDO_USE_IN);
    bind(b, step, FIELD(rmsnorm.out), final, RONDO_USE_OUT);

    plan->logits = add_value(b, "logits", RONDO_F32, RONDO_ROWS_LOGITS, plan->config->vocab_size);
    step = add_step(b, RONDO_OP_GEMM, "lm_head");
    step->args.gemm.n_parts = 1;
    step->args.gemm.part[0].weight = plan->weights->lm_head;
    bind(b, step, FIELD(gemm.x), final, RONDO_USE_IN);
    bind(b, step, FIELD(gemm.part) + offsetof(struct rondo_gemm_part, out), plan->logits,
         RONDO_USE_OUT);
    count_product(plan, step, &plan->weights->lm_head, 1);

    add_choices(b);
    /* These steps run once for every slice of rows: what they read outlives what they write. */
    if (!plan->out_of_memory)
        plan->values[plan->hidden].last = plan->n_steps - 1;
}

int rondo_plan_build(struct rondo_plan *plan, const struct rondo_config *config,
                     const struct rondo_weights *weights, enum rondo_mode mode,
                     const struct rondo_limits *limits, struct rondo_error *error)
{
    *plan = (struct rondo_plan){.config = config,
                                .weights = weights,
                                .mode = mode,
                                .act = mode == RONDO_MODE_F32 ? RONDO_F32 : RONDO_BF16,
                                .limits = *limits};
    plan->logit_rows = limits->tokens < RONDO_LOGIT_ROWS ? limits->tokens : RONDO_LOGIT_ROWS;
    plan->layer_first = calloc((size_t)config->num_hidden_layers + 1, sizeof *plan->layer_first);
    if (!plan->layer_first)
        plan->out_of_memory = true;

    struct builder b = {.plan = plan, .layer = -1, .source = -1};
    add_embedding(&b);
    for (int32_t l = 0; l < config->num_hidden_layers && !plan->out_of_memory; l++) {
        b.layer = l;
        b.weights = &weights->layers[l];
        plan->layer_first[l] = plan->n_steps;
        add_attention(&b);
        int32_t x = add_norm(&b, "ffn_norm", "ffn_in", b.weights->post_norm);
        if (rondo_config_ffn(config, l) == RONDO_FFN_DENSE)
            add_dense_ffn(&b, x);
        else
            add_moe(&b, x);
    }
    b.layer = -1;
    if (!plan->out_of_memory) {
        plan->layer_first[config->num_hidden_layers] = plan->n_steps;
        add_logits(&b);
        rondo_plan_fuse(plan);
    }
    if (plan->out_of_memory) {
        rondo_plan_destroy(plan);
        return rondo_fail(error, RONDO_FAILED, "out of memory for the plan");
    }
    return RONDO_OK;
}
