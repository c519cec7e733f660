/* Writing a config.json: the inverse of config.c. */
#include "formats/config.h"
#include "formats/json.h"

#include <stdlib.h>
#include <string.h>

static void add_number(cJSON *object, const char *key, double value)
{
    cJSON_AddNumberToObject(object, key, value);
}

static void add_attention(cJSON *root, const struct rondo_config *c)
{
    add_number(root, "num_attention_heads", c->num_attention_heads);
    add_number(root, "num_key_value_heads", c->num_key_value_heads);
    add_number(root, "head_dim", c->head_dim);
    cJSON_AddBoolToObject(root, "use_qk_norm", c->use_qk_norm);
    cJSON_AddBoolToObject(root, "use_bias", c->use_bias);
    cJSON_AddBoolToObject(root, "use_qkv_bias", c->use_qkv_bias);
    add_number(root, "rope_theta", c->rope_theta);
    add_number(root, "partial_rotary_factor", (double)c->rotary_dim / c->head_dim);
    add_number(root, "rotary_dim", c->rotary_dim);
    cJSON *scaling = c->yarn.enabled ? cJSON_AddObjectToObject(root, "rope_scaling")
                                     : (cJSON_AddNullToObject(root, "rope_scaling"), NULL);
    if (scaling) {
        cJSON_AddStringToObject(scaling, "rope_type", "yarn");
        add_number(scaling, "factor", c->yarn.factor);
        add_number(scaling, "beta_fast", c->yarn.beta_fast);
        add_number(scaling, "beta_slow", c->yarn.beta_slow);
        add_number(scaling, "attention_factor", c->yarn.attention_factor);
        add_number(scaling, "original_max_position_embeddings",
                   c->yarn.original_max_position_embeddings);
    }
    add_number(root, "max_position_embeddings", c->max_position_embeddings);
    if (strstr(c->architecture, "Linear")) {
        add_number(root, "layer_group_size", c->layer_group_size);
        add_number(root, "group_norm_size", c->group_norm_size);
        cJSON_AddBoolToObject(root, "linear_silu", c->linear_silu);
        if (c->decay_offset)
            add_number(root, "decay_offset", c->decay_offset);
    }
}

static void add_experts(cJSON *root, const struct rondo_config *c)
{
    add_number(root, "num_experts", c->num_experts);
    add_number(root, "first_k_dense_replace", c->first_k_dense_replace);
    if (c->num_experts == 0)
        return;
    add_number(root, "num_experts_per_tok", c->num_experts_per_tok);
    add_number(root, "num_shared_experts", c->num_shared_experts);
    add_number(root, "moe_intermediate_size", c->moe_intermediate_size);
    if (c->num_shared_experts > 0)
        add_number(root, "moe_shared_expert_intermediate_size",
                   c->shared_intermediate_size / c->num_shared_experts);
    add_number(root, "n_group", c->n_group);
    add_number(root, "topk_group", c->topk_group);
    cJSON_AddBoolToObject(root, "norm_topk_prob", c->norm_topk_prob);
    cJSON_AddBoolToObject(root, "moe_router_enable_expert_bias", c->use_expert_bias);
    add_number(root, "routed_scaling_factor", c->routed_scaling_factor);
    cJSON_AddStringToObject(root, "score_function",
                            c->score_function == RONDO_SCORE_SOFTMAX ? "softmax" : "sigmoid");
    cJSON_AddStringToObject(root, "router_dtype", "fp32");
}

static void add_tokens(cJSON *root, const struct rondo_config *c)
{
    if (c->bos_token_id >= 0)
        add_number(root, "bos_token_id", c->bos_token_id);
    if (c->pad_token_id >= 0)
        add_number(root, "pad_token_id", c->pad_token_id);
    else
        cJSON_AddNullToObject(root, "pad_token_id");
    if (c->n_eos_token_ids == 0)
        cJSON_AddNullToObject(root, "eos_token_id");
    else if (c->n_eos_token_ids == 1)
        add_number(root, "eos_token_id", c->eos_token_ids[0]);
    else
        cJSON_AddItemToObject(root, "eos_token_id",
                              cJSON_CreateIntArray(c->eos_token_ids, c->n_eos_token_ids));
}

void rondo_config_add_quantization(cJSON *root, enum rondo_quantization kind,
                                   bool lm_head_quantized)
{
    const char *left_out[] = {"re:.*mlp\\.gate$", "lm_head"};
    cJSON_DeleteItemFromObjectCaseSensitive(root, "quantization_config");
    if (kind == RONDO_QUANTIZATION_NONE)
        return;
    cJSON *object = cJSON_AddObjectToObject(root, "quantization_config");
    if (kind == RONDO_QUANTIZATION_BLOCK) {
        const int block[2] = {128, 128};
        cJSON_AddStringToObject(object, "quant_method", "fp8");
        cJSON_AddStringToObject(object, "fmt", "e4m3");
        cJSON_AddStringToObject(object, "activation_scheme", "dynamic");
        cJSON_AddItemToObject(object, "weight_block_size", cJSON_CreateIntArray(block, 2));
        return;
    }
    cJSON_AddStringToObject(object, "quant_method", "compressed-tensors");
    cJSON_AddStringToObject(object, "format", "float-quantized");
    cJSON_AddStringToObject(object, "quantization_status", "compressed");
    cJSON *group =
        cJSON_AddObjectToObject(cJSON_AddObjectToObject(object, "config_groups"), "group_0");
    const char *target = "Linear";
    cJSON_AddItemToObject(group, "targets", cJSON_CreateStringArray(&target, 1));
    cJSON *weights = cJSON_AddObjectToObject(group, "weights");
    add_number(weights, "num_bits", 8);
    cJSON_AddStringToObject(weights, "type", "float");
    cJSON_AddStringToObject(weights, "strategy", "channel");
    cJSON_AddBoolToObject(weights, "symmetric", true);
    cJSON_AddBoolToObject(weights, "dynamic", false);
    cJSON *activations = cJSON_AddObjectToObject(group, "input_activations");
    add_number(activations, "num_bits", 8);
    cJSON_AddStringToObject(activations, "type", "float");
    cJSON_AddStringToObject(activations, "strategy", "token");
    cJSON_AddBoolToObject(activations, "symmetric", true);
    cJSON_AddBoolToObject(activations, "dynamic", true);
    cJSON_AddItemToObject(object, "ignore",
                          cJSON_CreateStringArray(left_out, lm_head_quantized ? 1 : 2));
}

char *rondo_config_print(const struct rondo_config *config, const char *torch_dtype,
                         enum rondo_quantization quantization, bool lm_head_quantized)
{
    cJSON *root = cJSON_CreateObject();
    const char *architecture = config->architecture;
    bool linear = strstr(architecture, "Linear") != NULL;
    cJSON_AddItemToObject(root, "architectures", cJSON_CreateStringArray(&architecture, 1));
    cJSON_AddStringToObject(root, "model_type", linear ? "bailing_moe_linear" : "bailing_moe");
    cJSON_AddStringToObject(root, "torch_dtype", torch_dtype);
    add_number(root, "vocab_size", config->vocab_size);
    add_number(root, "hidden_size", config->hidden_size);
    add_number(root, "num_hidden_layers", config->num_hidden_layers);
    add_number(root, "intermediate_size", config->intermediate_size);
    add_number(root, "rms_norm_eps", config->rms_norm_eps);
    cJSON_AddStringToObject(root, "hidden_act", "silu");
    cJSON_AddBoolToObject(root, "use_rmsnorm", true);
    cJSON_AddBoolToObject(root, "tie_word_embeddings", config->tie_word_embeddings);
    add_attention(root, config);
    add_experts(root, config);
    add_tokens(root, config);
    rondo_config_add_quantization(root, quantization, lm_head_quantized);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    return text;
}
