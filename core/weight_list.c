/* The names and shapes of all weights of a config, and which field of struct rondo_weights each belongs to. */
#include "core/weight_list.h"
#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct walk {
    const struct rondo_config *config;
    rondo_weight_visitor *visit;
    void *user;
    int32_t layer;
    int status;
};

static void emit(struct walk *walk, enum rondo_weight_kind kind, int32_t expert, int64_t rows,
                 int64_t columns, void *target, const char *format, ...)
{
    if (walk->status)
        return;
    struct rondo_weight_entry entry = {
        .kind = kind, .layer = walk->layer, .expert = expert, .rows = rows, .columns = columns};
    int length = 0;
    if (walk->layer >= 0)
        length = snprintf(entry.name, sizeof entry.name, "model.layers.%d.", walk->layer);
    va_list args;
    va_start(args, format);
    vsnprintf(entry.name + length, sizeof entry.name - (size_t)length, format, args);
    va_end(args);
    walk->status = walk->visit(walk->user, &entry, target);
}

/* Targets of a walk without weights are NULL. */
#define TARGET(object, field) ((object) ? (void *)&(object)->field : NULL)

static void walk_attention(struct walk *walk, struct rondo_layer_weights *layer)
{
    const struct rondo_config *c = walk->config;
    bool linear = rondo_config_attention(c, walk->layer) == RONDO_ATTENTION_LINEAR;
    int64_t D = c->hidden_size, hd = c->head_dim, H = c->num_attention_heads;
    int64_t Hkv = linear ? H : c->num_key_value_heads, qkv = (H + 2 * Hkv) * hd;

    emit(walk, RONDO_WEIGHT_PROJECTION, -1, qkv, D, TARGET(layer, qkv),
         "attention.query_key_value.weight");
    if (c->use_qkv_bias)
        emit(walk, RONDO_WEIGHT_BIAS, -1, 1, qkv, TARGET(layer, qkv_bias),
             "attention.query_key_value.bias");
    if (c->use_qk_norm) {
        emit(walk, RONDO_WEIGHT_NORM, -1, 1, hd, TARGET(layer, query_norm),
             "attention.query_layernorm.weight");
        emit(walk, RONDO_WEIGHT_NORM, -1, 1, hd, TARGET(layer, key_norm),
             "attention.key_layernorm.weight");
    }
    if (linear) {
        emit(walk, RONDO_WEIGHT_PROJECTION, -1, H * hd, D, TARGET(layer, g_proj),
             "attention.g_proj.weight");
        emit(walk, RONDO_WEIGHT_NORM, -1, 1, H * hd, TARGET(layer, g_norm),
             "attention.g_norm.weight");
    }
    emit(walk, RONDO_WEIGHT_PROJECTION, -1, D, H * hd, TARGET(layer, dense),
         "attention.dense.weight");
    if (c->use_bias)
        emit(walk, RONDO_WEIGHT_BIAS, -1, 1, D, TARGET(layer, dense_bias), "attention.dense.bias");
}

/* `ffn` [3]: where gate, up and down are kept, NULL in a walk without weights. */
static void walk_ffn(struct walk *walk, int32_t expert, int64_t width,
                     struct rondo_tensor *const ffn[3], const char *prefix)
{
    int64_t D = walk->config->hidden_size;
    emit(walk, RONDO_WEIGHT_PROJECTION, expert, width, D, ffn[0], "%s.gate_proj.weight", prefix);
    emit(walk, RONDO_WEIGHT_PROJECTION, expert, width, D, ffn[1], "%s.up_proj.weight", prefix);
    emit(walk, RONDO_WEIGHT_PROJECTION, expert, D, width, ffn[2], "%s.down_proj.weight", prefix);
}

static void walk_dense(struct walk *walk, int64_t width, struct rondo_ffn_weights *ffn,
                       const char *prefix)
{
    struct rondo_tensor *const targets[3] = {TARGET(ffn, gate), TARGET(ffn, up), TARGET(ffn, down)};
    walk_ffn(walk, -1, width, targets, prefix);
}

static void walk_expert(struct walk *walk, int32_t e, struct rondo_layer_weights *layer,
                        const char *prefix)
{
    struct rondo_tensor *const targets[3] = {layer ? &layer->expert_gate[e] : NULL,
                                             layer ? &layer->expert_up[e] : NULL,
                                             layer ? &layer->expert_down[e] : NULL};
    walk_ffn(walk, e, walk->config->moe_intermediate_size, targets, prefix);
}

static void walk_moe(struct walk *walk, struct rondo_layer_weights *layer)
{
    const struct rondo_config *c = walk->config;
    int64_t D = c->hidden_size;

    emit(walk, RONDO_WEIGHT_ROUTER, -1, c->num_experts, D, TARGET(layer, router),
         "mlp.gate.weight");
    if (c->use_expert_bias)
        emit(walk, RONDO_WEIGHT_EXPERT_BIAS, -1, 1, c->num_experts, TARGET(layer, expert_bias),
             "mlp.gate.expert_bias");
    for (int32_t e = 0; e < c->num_experts; e++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "mlp.experts.%d", e);
        walk_expert(walk, e, layer, prefix);
    }
    if (c->shared_intermediate_size == c->moe_intermediate_size)
        walk_expert(walk, c->num_experts, layer, "mlp.shared_experts");
    else if (c->shared_intermediate_size > 0)
        walk_dense(walk, c->shared_intermediate_size, layer ? &layer->shared : NULL,
                   "mlp.shared_experts");
}

int rondo_weight_walk(const struct rondo_config *config, struct rondo_weights *weights,
                      rondo_weight_visitor *visit, void *user)
{
    struct walk walk = {.config = config, .visit = visit, .user = user, .layer = -1};
    int64_t D = config->hidden_size, V = config->vocab_size;

    emit(&walk, RONDO_WEIGHT_EMBEDDING, -1, V, D, TARGET(weights, embedding),
         "model.word_embeddings.weight");
    for (int32_t l = 0; l < config->num_hidden_layers; l++) {
        struct rondo_layer_weights *layer = weights ? &weights->layers[l] : NULL;
        walk.layer = l;
        emit(&walk, RONDO_WEIGHT_NORM, -1, 1, D, TARGET(layer, input_norm),
             "input_layernorm.weight");
        walk_attention(&walk, layer);
        emit(&walk, RONDO_WEIGHT_NORM, -1, 1, D, TARGET(layer, post_norm),
             "post_attention_layernorm.weight");
        if (rondo_config_ffn(config, l) == RONDO_FFN_DENSE)
            walk_dense(&walk, config->intermediate_size, layer ? &layer->mlp : NULL, "mlp");
        else
            walk_moe(&walk, layer);
    }
    walk.layer = -1;
    emit(&walk, RONDO_WEIGHT_NORM, -1, 1, D, TARGET(weights, norm), "model.norm.weight");
    if (!config->tie_word_embeddings)
        emit(&walk, RONDO_WEIGHT_LM_HEAD, -1, V, D, TARGET(weights, lm_head), "lm_head.weight");
    return walk.status;
}

struct list {
    struct rondo_weight_entry *entries; /* [capacity] */
    size_t count, capacity;
};

static int append(void *user, const struct rondo_weight_entry *entry, void *target)
{
    struct list *list = user;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 256;
        void *grown = realloc(list->entries, capacity * sizeof *list->entries);
        if (!grown)
            return 1;
        list->entries = grown;
        list->capacity = capacity;
    }
    list->entries[list->count++] = *entry;
    return 0;
}

struct rondo_weight_entry *rondo_weight_list(const struct rondo_config *config, size_t *count)
{
    struct list list = {0};
    if (rondo_weight_walk(config, NULL, append, &list)) {
        free(list.entries);
        return NULL;
    }
    *count = list.count;
    return list.entries;
}
