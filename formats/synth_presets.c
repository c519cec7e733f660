/* The presets of rondo_synth. Sizes of the published models are from their config.json; where the config of
 * ring-flash-linear-2.0 could not be seen (group_norm_size, rope_theta), its siblings' values stand. */
#include "formats/synth.h"

#include "core/error.h"
#include "formats/config.h"

#include <stdio.h>
#include <string.h>

/* What all presets have in common. */
#define FAMILY                                                                                     \
    .rms_norm_eps = 1e-6, .routed_scaling_factor = 2.5, .score_function = RONDO_SCORE_SIGMOID,     \
    .norm_topk_prob = true, .use_expert_bias = true, .use_qk_norm = true, .num_shared_experts = 1, \
    .first_k_dense_replace = 1, .bos_token_id = -1, .pad_token_id = -1
#define LINEAR .architecture = "BailingMoeLinearV2ForCausalLM"
#define SOFTMAX                                                                                    \
    .architecture = "BailingMoeV2ForCausalLM", .layer_group_size = 0, .group_norm_size = 1

static const struct rondo_synth_preset presets[] = {
    {"ring-mini-linear-2.0",
     "16.4 G parameters, 0.96 G active; 20 layers, every 5th softmax attention"},
    {"ring-flash-linear-2.0",
     "104.2 G parameters, 6.2 G active; 32 layers, every 8th softmax attention"},
    {"ling-mini-2.0", "16.3 G parameters; ring-mini's sizes with softmax attention in all layers"},
    {"dense-8b",
     "8.2 G parameters, all active: 36 softmax layers, no experts; what hybrids replace"},
    {"small", "93 M parameters: 10 layers, every 5th softmax attention, 64 experts, heads of 128"},
    {"tiny", "1.8 M parameters: 4 layers, every 2nd softmax attention, 16 experts; for tests"},
    {NULL, NULL},
};

static const struct rondo_config configs[] = {
    {FAMILY,
     LINEAR,
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
     .n_group = 8,
     .topk_group = 4,
     .layer_group_size = 5,
     .group_norm_size = 4,
     .rotary_dim = 64,
     .max_position_embeddings = 131072,
     .rope_theta = 1e6},
    {FAMILY,
     LINEAR,
     .vocab_size = 157184,
     .hidden_size = 4096,
     .num_hidden_layers = 32,
     .num_attention_heads = 32,
     .num_key_value_heads = 4,
     .head_dim = 128,
     .intermediate_size = 9216,
     .moe_intermediate_size = 1024,
     .shared_intermediate_size = 1024,
     .num_experts = 256,
     .num_experts_per_tok = 8,
     .n_group = 8,
     .topk_group = 4,
     .layer_group_size = 8,
     .group_norm_size = 4,
     .rotary_dim = 64,
     .max_position_embeddings = 131072,
     .rope_theta = 6e5},
    {FAMILY, SOFTMAX, .vocab_size = 157184, .hidden_size = 2048, .num_hidden_layers = 20,
     .num_attention_heads = 16, .num_key_value_heads = 4, .head_dim = 128,
     .intermediate_size = 5120, .moe_intermediate_size = 512, .shared_intermediate_size = 512,
     .num_experts = 256, .num_experts_per_tok = 8, .n_group = 8, .topk_group = 4, .rotary_dim = 64,
     .max_position_embeddings = 32768, .rope_theta = 6e5},
    {SOFTMAX,
     .rms_norm_eps = 1e-6,
     .routed_scaling_factor = 1,
     .score_function = RONDO_SCORE_SIGMOID,
     .use_qk_norm = true,
     .first_k_dense_replace = 36,
     .bos_token_id = -1,
     .pad_token_id = -1,
     .vocab_size = 157184,
     .hidden_size = 4096,
     .num_hidden_layers = 36,
     .num_attention_heads = 32,
     .num_key_value_heads = 8,
     .head_dim = 128,
     .intermediate_size = 12288,
     .moe_intermediate_size = 128,
     .num_experts = 1,
     .num_experts_per_tok = 1,
     .n_group = 1,
     .topk_group = 1,
     .rotary_dim = 64,
     .max_position_embeddings = 131072,
     .rope_theta = 1e6},
    {FAMILY,
     LINEAR,
     .vocab_size = 8192,
     .hidden_size = 384,
     .num_hidden_layers = 10,
     .num_attention_heads = 4,
     .num_key_value_heads = 2,
     .head_dim = 128,
     .intermediate_size = 1024,
     .moe_intermediate_size = 128,
     .shared_intermediate_size = 128,
     .num_experts = 64,
     .num_experts_per_tok = 8,
     .n_group = 8,
     .topk_group = 4,
     .layer_group_size = 5,
     .group_norm_size = 4,
     .rotary_dim = 64,
     .max_position_embeddings = 131072,
     .rope_theta = 1e6},
    {FAMILY,
     LINEAR,
     .vocab_size = 512,
     .hidden_size = 128,
     .num_hidden_layers = 4,
     .num_attention_heads = 4,
     .num_key_value_heads = 2,
     .head_dim = 32,
     .intermediate_size = 256,
     .moe_intermediate_size = 64,
     .shared_intermediate_size = 64,
     .num_experts = 16,
     .num_experts_per_tok = 4,
     .n_group = 4,
     .topk_group = 2,
     .layer_group_size = 2,
     .group_norm_size = 2,
     .rotary_dim = 16,
     .max_position_embeddings = 32768,
     .rope_theta = 1e6},
};

const struct rondo_synth_preset *rondo_synth_presets(void)
{
    return presets;
}

int rondo_synth_config(const struct rondo_synth_options *options, struct rondo_config *config,
                       struct rondo_error *error)
{
    char names[256] = "";
    size_t length = 0;
    for (size_t i = 0; presets[i].name; i++) {
        if (strcmp(presets[i].name, options->preset) != 0) {
            length += (size_t)snprintf(names + length, sizeof names - length, "%s%s", i ? ", " : "",
                                       presets[i].name);
            continue;
        }
        *config = configs[i];
        if (options->layers < 0 || options->layers > RONDO_MAX_LAYERS)
            return rondo_fail(error, RONDO_USAGE, "layers: out of range (got %d, want 1 to %d)",
                              options->layers, RONDO_MAX_LAYERS);
        if (options->layers)
            config->num_hidden_layers = options->layers;
        if (config->first_k_dense_replace > config->num_hidden_layers)
            config->first_k_dense_replace = config->num_hidden_layers;
        return RONDO_OK;
    }
    return rondo_fail(error, RONDO_USAGE, "preset: not known (got \"%.60s\", want one of %s)",
                      options->preset, names);
}
