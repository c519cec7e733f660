/* config.json: defaults, values, aliases, options, and every kind of wrong field. */
#include "formats/config.h"
#include "formats/synth.h"

#include "tests/unit/test.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define LINEAR "\"architectures\": [\"BailingMoeLinearV2ForCausalLM\"]"
#define SOFTMAX "\"architectures\": [\"BailingMoeV2ForCausalLM\"]"

/* Ring-mini-linear-2.0's file. */
static const char mini[] =
    "{\"architectures\": [\"BailingMoeLinearV2ForCausalLM\"], \"attention_dropout\": 0.0,"
    "\"auto_map\": {\"AutoConfig\": "
    "\"configuration_bailing_moe_linear_v2.BailingMoeLinearV2Config\"},"
    "\"eos_token_id\": 156892, \"pad_token_id\": 156892, \"first_k_dense_replace\": 1, "
    "\"group_norm_size\": 4,"
    "\"head_dim\": 128, \"hidden_act\": \"silu\", \"hidden_size\": 2048, \"intermediate_size\": "
    "5120,"
    "\"layer_group_size\": 5, \"linear_silu\": false, \"max_position_embeddings\": 131072,"
    "\"model_type\": \"bailing_moe_linear\", \"moe_intermediate_size\": 512,"
    "\"moe_router_enable_expert_bias\": true, \"moe_shared_expert_intermediate_size\": 512, "
    "\"n_group\": 8,"
    "\"norm_topk_prob\": true, \"num_attention_heads\": 16, \"num_experts\": 256, "
    "\"num_experts_per_tok\": 8,"
    "\"num_hidden_layers\": 20, \"num_key_value_heads\": 4, \"num_nextn_predict_layers\": 0,"
    "\"num_shared_experts\": 1, \"output_dropout\": 0.0, \"partial_rotary_factor\": 0.5, "
    "\"rms_norm_eps\": 1e-06,"
    "\"rope_scaling\": null, \"rope_theta\": 1000000, \"routed_scaling_factor\": 2.5, "
    "\"router_dtype\": \"fp32\","
    "\"score_function\": \"sigmoid\", \"tie_word_embeddings\": false, \"topk_group\": 4,"
    "\"torch_dtype\": \"bfloat16\", \"transformers_version\": \"4.56.1\", \"use_bias\": false, "
    "\"use_cache\": true,"
    "\"use_qk_norm\": true, \"use_qkv_bias\": false, \"use_rmsnorm\": true, \"vocab_size\": "
    "157184}";

static struct rondo_error error;

static int parse(const char *text, const char *generation,
                 const struct rondo_model_options *options, struct rondo_config *config)
{
    error.message[0] = '\0';
    return rondo_config_parse("config.json", text, strlen(text), "generation_config.json",
                              generation, generation ? strlen(generation) : 0, options, config,
                              NULL, &error);
}

/* A config of an architecture and a few more fields. */
static int parse_fields(const char *architecture, const char *fields, struct rondo_config *config)
{
    char text[4096];
    snprintf(text, sizeof text, "{%s%s%s}", architecture, fields[0] ? ", " : "", fields);
    return parse(text, NULL, NULL, config);
}

static void test_published(void)
{
    struct rondo_config c, preset;
    struct rondo_synth_options options = {.preset = "ring-mini-linear-2.0"};
    EXPECT(parse(mini, NULL, NULL, &c) == RONDO_OK, "%s", error.message);
    EXPECT(c.layer_group_size == 5 && c.group_norm_size == 4 && c.rotary_dim == 64 &&
               c.rope_theta == 1e6 && c.routed_scaling_factor == 2.5 &&
               c.shared_intermediate_size == 512 && c.n_eos_token_ids == 1 &&
               c.eos_token_ids[0] == 156892 && c.pad_token_id == 156892 && c.bos_token_id == -1 &&
               c.decay_offset == 0 && !c.yarn.enabled && c.max_position_embeddings == 131072,
           "a field of the published file");
    /* the preset is the published file, its tokens aside */
    EXPECT(rondo_synth_config(&options, &preset, &error) == RONDO_OK, "%s", error.message);
    c.n_eos_token_ids = c.eos_token_ids[0] = 0;
    c.pad_token_id = -1;
    EXPECT(memcmp(c.architecture, preset.architecture, sizeof c.architecture) == 0, "architecture");
    EXPECT(memcmp(&c, &preset, offsetof(struct rondo_config, decay_offset)) == 0, "sizes");
    EXPECT(c.rms_norm_eps == preset.rms_norm_eps && c.norm_topk_prob == preset.norm_topk_prob &&
               c.use_expert_bias == preset.use_expert_bias && c.use_qk_norm == preset.use_qk_norm,
           "switches");
}

static void test_defaults(void)
{
    struct rondo_config c;
    EXPECT(parse_fields(LINEAR, "", &c) == RONDO_OK, "%s", error.message);
    EXPECT(c.vocab_size == 157184 && c.hidden_size == 2048 && c.intermediate_size == 5120 &&
               c.num_hidden_layers == 20 && c.num_attention_heads == 16 &&
               c.num_key_value_heads == 4 && c.head_dim == 128 &&
               c.max_position_embeddings == 32768 && c.rope_theta == 600000 &&
               c.num_experts == 256 && c.num_experts_per_tok == 8 && c.n_group == 8 &&
               c.topk_group == 4 && c.moe_intermediate_size == 512 && c.num_shared_experts == 1 &&
               c.first_k_dense_replace == 1 && c.routed_scaling_factor == 1 &&
               c.layer_group_size == 1 && c.group_norm_size == 1 && c.rotary_dim == 128 &&
               c.use_qk_norm && c.norm_topk_prob && c.use_expert_bias && !c.linear_silu &&
               !c.tie_word_embeddings && c.rms_norm_eps == 1e-6 &&
               c.score_function == RONDO_SCORE_SIGMOID,
           "a default of the class");
    EXPECT(c.n_eos_token_ids == 1 && c.eos_token_ids[0] == 156892 && c.pad_token_id == 156892,
           "tokens");
    /* the softmax class has no linear layers, whatever the file says */
    EXPECT(parse_fields(SOFTMAX, "\"layer_group_size\": 5, \"model_type\": \"bailing_moe_linear\"",
                        &c) == RONDO_OK,
           "%s", error.message);
    EXPECT(c.layer_group_size == 0 && rondo_config_attention(&c, 0) == RONDO_ATTENTION_SOFTMAX,
           "linear layers");
}

static void test_layers(void)
{
    struct rondo_config c = {
        .num_hidden_layers = 12, .layer_group_size = 5, .first_k_dense_replace = 2};
    for (int i = 0; i < 12; i++)
        EXPECT((rondo_config_attention(&c, i) == RONDO_ATTENTION_SOFTMAX) ==
                   (i == 4 || i == 9 || i >= 10),
               "layer %d", i);
    EXPECT(rondo_config_ffn(&c, 1) == RONDO_FFN_DENSE && rondo_config_ffn(&c, 2) == RONDO_FFN_MOE,
           "ffn");
}

/* Aliases, nulls and unusual but legal values. */
static void test_values(void)
{
    struct rondo_config c;
    EXPECT(parse_fields(LINEAR, "\"linear_silu\": true, \"use_linear_silu\": false", &c) ==
                   RONDO_OK &&
               !c.linear_silu,
           "use_linear_silu does not win: %s", error.message);
    EXPECT(parse_fields(LINEAR, "\"rotary_dim\": 32, \"partial_rotary_factor\": 0.5", &c) ==
                   RONDO_OK &&
               c.rotary_dim == 32,
           "rotary_dim does not win: %s", error.message);
    EXPECT(parse_fields(LINEAR, "\"num_shared_experts\": null", &c) == RONDO_OK &&
               c.num_shared_experts == 0 && c.shared_intermediate_size == 0,
           "%s", error.message);
    EXPECT(parse_fields(LINEAR,
                        "\"num_shared_experts\": 3, \"moe_shared_expert_intermediate_size\": 100",
                        &c) == RONDO_OK &&
               c.shared_intermediate_size == 300,
           "%s", error.message);
    EXPECT(parse_fields(LINEAR, "\"num_experts\": null", &c) == RONDO_OK && c.num_experts == 0 &&
               c.first_k_dense_replace == 20 && c.n_group == 1,
           "%s", error.message);
    EXPECT(parse_fields(LINEAR, "\"n_group\": null, \"topk_group\": null", &c) == RONDO_OK &&
               c.n_group == 1 && c.topk_group == 1,
           "%s", error.message);
    EXPECT(parse_fields(LINEAR, "\"head_dim\": null, \"num_key_value_heads\": null", &c) ==
                   RONDO_OK &&
               c.head_dim == 128 && c.num_key_value_heads == 16,
           "%s", error.message);
    EXPECT(parse_fields(LINEAR, "\"pad_token_id\": null, \"eos_token_id\": null", &c) == RONDO_OK &&
               c.pad_token_id == -1 && c.n_eos_token_ids == 0,
           "%s", error.message);
    EXPECT(parse_fields(LINEAR, "\"vocab_size\": 1000", &c) == RONDO_OK && c.n_eos_token_ids == 0 &&
               c.pad_token_id == -1,
           "a default end token outside the vocabulary: %s", error.message);
    EXPECT(parse_fields(LINEAR, "\"decay_offset\": 1, \"score_function\": \"softmax\"", &c) ==
                   RONDO_OK &&
               c.decay_offset == 1 && c.score_function == RONDO_SCORE_SOFTMAX,
           "%s", error.message);
    EXPECT(parse_fields("\"architectures\": [\"Other\", \"BailingMoeV2ForCausalLM\"]", "", &c) ==
               RONDO_OK,
           "%s", error.message);
    EXPECT(parse_fields(LINEAR,
                        "\"num_hidden_layers\": 2, \"layer_group_size\": 2,"
                        "\"layer_types\": [\"linear_attention\", \"full_attention\"]",
                        &c) == RONDO_OK,
           "%s", error.message);
}

static void test_generation(void)
{
    struct rondo_config c;
    EXPECT(parse(mini, "{\"eos_token_id\": [156892, 156895], \"bos_token_id\": 156891}", NULL,
                 &c) == RONDO_OK,
           "%s", error.message);
    EXPECT(c.n_eos_token_ids == 2 && c.eos_token_ids[0] == 156892 && c.eos_token_ids[1] == 156895 &&
               c.bos_token_id == 156891,
           "union of the end tokens");
    EXPECT(parse(mini, "{\"eos_token_id\": 7}", NULL, &c) == RONDO_OK && c.n_eos_token_ids == 2 &&
               c.eos_token_ids[1] == 7,
           "%s", error.message);
    EXPECT(parse(mini, "{}", NULL, &c) == RONDO_OK && c.n_eos_token_ids == 1, "%s", error.message);
    static const char *const wrong[] = {"{\"eos_token_id\": 157184}",
                                        "{\"eos_token_id\": -1}",
                                        "{\"eos_token_id\": 1.5}",
                                        "{\"eos_token_id\": [\"a\"]}",
                                        "{\"eos_token_id\": [1,2,3,4,5,6,7,8]}",
                                        "{\"bos_token_id\": 1e9}",
                                        "[]",
                                        "{"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        EXPECT(parse(mini, wrong[i], NULL, &c) == RONDO_FAILED &&
                   strstr(error.message, "config.json"),
               "%s: %s", wrong[i], error.message);
}

static void test_yarn(void)
{
    struct rondo_config c;
    EXPECT(parse_fields(LINEAR,
                        "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0,"
                        "\"original_max_position_embeddings\": 32768}",
                        &c) == RONDO_OK,
           "%s", error.message);
    EXPECT(c.yarn.enabled && c.yarn.factor == 4 && c.yarn.beta_fast == 32 &&
               c.yarn.beta_slow == 1 && fabs(c.yarn.attention_factor - 1.138629436) < 1e-9 &&
               c.yarn.original_max_position_embeddings == 32768 &&
               c.max_position_embeddings == 131072,
           "yarn of the file: %g", c.yarn.attention_factor);
    EXPECT(
        parse_fields(LINEAR,
                     "\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 2, \"mscale\": 1,"
                     "\"mscale_all_dim\": 1, \"rope_theta\": 5e5, \"partial_rotary_factor\": 0.25}",
                     &c) == RONDO_OK &&
            c.yarn.attention_factor == 1 && c.rope_theta == 5e5 && c.rotary_dim == 32,
        "%s", error.message);
    EXPECT(parse_fields(LINEAR, "\"rope_scaling\": {\"rope_type\": \"default\"}", &c) == RONDO_OK &&
               !c.yarn.enabled,
           "%s", error.message);
    struct rondo_model_options options = {.decay_offset = -1, .yarn_factor = 4};
    EXPECT(parse(mini, NULL, &options, &c) == RONDO_OK && c.yarn.enabled && c.yarn.factor == 4 &&
               c.yarn.original_max_position_embeddings == 131072 &&
               c.max_position_embeddings == 524288,
           "yarn by option: %s", error.message);
    options.decay_offset = 1;
    EXPECT(parse(mini, NULL, &options, &c) == RONDO_OK && c.decay_offset == 1, "%s", error.message);
    options.decay_offset = 2;
    EXPECT(parse(mini, NULL, &options, &c) == RONDO_USAGE, "%s", error.message);
    options = (struct rondo_model_options){.yarn_factor = 0.5};
    EXPECT(parse(mini, NULL, &options, &c) == RONDO_USAGE, "%s", error.message);
    options.yarn_factor = NAN;
    EXPECT(parse(mini, NULL, &options, &c) == RONDO_USAGE, "%s", error.message);
    options.yarn_factor = 1000;
    EXPECT(parse(mini, NULL, &options, &c) == RONDO_FAILED && strstr(error.message, "too long"),
           "%s", error.message);
}

/* The field that is wrong, and what the message must have beside its name. */
static void test_wrong_fields(void)
{
    static const struct {
        const char *fields, *name, *what;
    } cases[] = {
        {"\"vocab_size\": 0", "vocab_size", "want 1 to"},
        {"\"vocab_size\": 1e18", "vocab_size", "got"},
        {"\"vocab_size\": \"many\"", "vocab_size", "a string"},
        {"\"hidden_size\": -2048", "hidden_size", "got -2048"},
        {"\"hidden_size\": 2048.5", "hidden_size", "integer"},
        {"\"num_hidden_layers\": 0", "num_hidden_layers", "got 0"},
        {"\"num_hidden_layers\": 100000", "num_hidden_layers", "want 1 to"},
        {"\"num_attention_heads\": 0", "num_attention_heads", "got 0"},
        {"\"num_key_value_heads\": 0", "num_key_value_heads", "got 0"},
        {"\"num_key_value_heads\": 5", "num_key_value_heads", "divisor of 16"},
        {"\"head_dim\": 1", "head_dim", "got 1"},
        {"\"head_dim\": 100000", "head_dim", "got 100000"},
        {"\"head_dim\": null, \"hidden_size\": 8", "head_dim", "null"},
        {"\"intermediate_size\": 0", "intermediate_size", "got 0"},
        {"\"rms_norm_eps\": -1", "rms_norm_eps", "got -1"},
        {"\"rms_norm_eps\": 1e999", "rms_norm_eps", "got"},
        {"\"tie_word_embeddings\": 1", "tie_word_embeddings", "a number"},
        {"\"layer_group_size\": -1", "layer_group_size", "got -1"},
        {"\"group_norm_size\": 0", "group_norm_size", "got 0"},
        {"\"group_norm_size\": 7", "group_norm_size", "divisor of 2048"},
        {"\"decay_offset\": 2", "decay_offset", "got 2"},
        {"\"use_linear_gqa\": true", "use_linear_gqa", "not supported"},
        {"\"linear_rope\": false", "linear_rope", "not supported"},
        {"\"max_position_embeddings\": 0", "max_position_embeddings", "got 0"},
        {"\"rope_theta\": 0", "rope_theta", "got 0"},
        {"\"rope_theta\": \"1e6\"", "rope_theta", "a string"},
        {"\"rotary_dim\": 63", "rotary_dim", "got 63"},
        {"\"rotary_dim\": 130", "rotary_dim", "got 130"},
        {"\"partial_rotary_factor\": 0", "partial_rotary_factor", "got 0"},
        {"\"partial_rotary_factor\": 1.5", "partial_rotary_factor", "got 1.5"},
        {"\"rope_interleave\": true", "rope_interleave", "not supported"},
        {"\"rope_scaling\": \"yarn\"", "rope_scaling", "a string"},
        {"\"rope_scaling\": {\"type\": \"dynamic\"}", "rope_scaling.rope_type", "dynamic"},
        {"\"rope_scaling\": {\"type\": \"yarn\"}", "rope_scaling.factor", "missing"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 0}", "rope_scaling.factor", "got 0"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, \"beta_fast\": 1}",
         "rope_scaling.beta_fast", "larger"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 1000}", "rope_scaling.factor",
         "too long"},
        {"\"num_experts\": -1", "num_experts", "got -1"},
        {"\"num_experts\": 100000", "num_experts", "got 100000"},
        {"\"num_experts\": 4096, \"num_hidden_layers\": 1000", "num_experts", "too many"},
        {"\"num_experts\": 255", "n_group", "divisor of 255"},
        {"\"num_experts_per_tok\": 0", "num_experts_per_tok", "got 0"},
        {"\"num_experts_per_tok\": 9, \"num_experts\": 16", "num_experts_per_tok", "at most 8"},
        {"\"topk_group\": 9", "topk_group", "1 to 8"},
        {"\"n_group\": 0", "n_group", "got 0"},
        {"\"first_k_dense_replace\": 21", "first_k_dense_replace", "0 to 20"},
        {"\"num_shared_experts\": 1000, \"moe_shared_expert_intermediate_size\": 100000",
         "num_shared_experts", "wide"},
        {"\"moe_intermediate_size\": 0", "moe_intermediate_size", "got 0"},
        {"\"score_function\": \"tanh\"", "score_function", "tanh"},
        {"\"routed_scaling_factor\": null, \"multi_gate\": true", "multi_gate", "not supported"},
        {"\"hidden_act\": \"gelu\"", "hidden_act", "gelu"},
        {"\"use_rmsnorm\": false", "use_rmsnorm", "not supported"},
        {"\"norm_head\": true", "norm_head", "not supported"},
        {"\"norm_softmax\": true", "norm_softmax", "not supported"},
        {"\"use_sliding_window\": true", "use_sliding_window", "not supported"},
        {"\"kv_lora_rank\": 512", "kv_lora_rank", "latent"},
        {"\"moba_block_size\": 1024", "moba_block_size", "sparse"},
        {"\"layer_types\": [\"sliding_attention\"]", "layer_types", "sliding_attention"},
        {"\"num_nextn_predict_layers\": -1", "num_nextn_predict_layers", "got -1"},
        {"\"eos_token_id\": 157184", "eos_token_id", "got 157184"},
        {"\"pad_token_id\": -2", "pad_token_id", "got -2"},
        {"\"quantization_config\": {}", "quantization_config.quant_method", "missing"},
        {"\"quantization_config\": {\"quant_method\": \"gptq\"}",
         "quantization_config.quant_method", "gptq"},
        {"\"quantization_config\": {\"quant_method\": \"fp8\"}",
         "quantization_config.weight_block_size", "128"},
        {"\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128, 64]}",
         "quantization_config.weight_block_size", "64"},
        {"\"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e5m2\", "
         "\"weight_block_size\": [128, 128]}",
         "quantization_config.fmt", "e5m2"},
        {"\"quantization_config\": {\"quant_method\": \"compressed-tensors\"}",
         "quantization_config.config_groups", "missing"},
        {"\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": "
         "{\"a\": {\"weights\": "
         "{\"type\": \"int\", \"strategy\": \"channel\", \"num_bits\": 8}}}}",
         "config_groups.a.weights.type", "int"},
        {"\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": "
         "{\"a\": {\"weights\": "
         "{\"type\": \"float\", \"strategy\": \"channel\", \"num_bits\": 4}}}}",
         "config_groups.a.weights.num_bits", "got 4"},
        {"\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": "
         "{\"a\": {\"weights\": "
         "{\"type\": \"float\", \"strategy\": \"tensor\", \"num_bits\": 8}}}}",
         "config_groups.a.weights.strategy", "tensor"},
    };
    struct rondo_config c;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        EXPECT(parse_fields(LINEAR, cases[i].fields, &c) == RONDO_FAILED &&
                   strncmp(error.message, "config.json: ", 13) == 0 &&
                   strstr(error.message, cases[i].name) && strstr(error.message, cases[i].what) &&
                   !strchr(error.message, '\n'),
               "%s: %s", cases[i].fields, error.message);
}

static void test_wrong_files(void)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "{}",
        "null",
        "{\"architectures\": []}",
        "{\"architectures\": \"BailingMoeV2ForCausalLM\"}",
        "{\"architectures\": [3]}",
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"bailing_moe\"}"};
    struct rondo_config c;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        EXPECT(parse(texts[i], NULL, NULL, &c) == RONDO_FAILED &&
                   strncmp(error.message, "config.json: ", 13) == 0,
               "%s: %s", texts[i], error.message);
    EXPECT(strstr(error.message, "LlamaForCausalLM") &&
               strstr(error.message, "BailingMoeLinearV2ForCausalLM") &&
               strstr(error.message, "BailingMoeV2ForCausalLM"),
           "%s", error.message);
}

/* What is printed reads back as it was. */
static void test_print(void)
{
    struct rondo_config before, after;
    static const char *const fields[] = {
        "", "\"tie_word_embeddings\": true, \"eos_token_id\": [1, 2]",
        "\"num_shared_experts\": null, \"rotary_dim\": 22, \"decay_offset\": 1",
        "\"num_experts\": 0, \"linear_silu\": true, \"layer_group_size\": 3",
        "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 3.3}"};
    for (size_t i = 0; i < 2 * sizeof fields / sizeof fields[0]; i++) {
        EXPECT(parse_fields(i % 2 ? SOFTMAX : LINEAR, fields[i / 2], &before) == RONDO_OK, "%s",
               error.message);
        enum rondo_quantization kind = i % 3 == 0   ? RONDO_QUANTIZATION_NONE
                                       : i % 3 == 1 ? RONDO_QUANTIZATION_BLOCK
                                                    : RONDO_QUANTIZATION_ROW;
        char *text = rondo_config_print(&before, "bfloat16", kind, i % 2);
        EXPECT(text && parse(text, NULL, NULL, &after) == RONDO_OK, "%s: %s", text, error.message);
        EXPECT(memcmp(&before, &after, sizeof before) == 0, "%s: changed: %s", fields[i / 2], text);
        free(text);
    }
}

int main(void)
{
    test_published();
    test_defaults();
    test_layers();
    test_values();
    test_generation();
    test_yarn();
    test_wrong_fields();
    test_wrong_files();
    test_print();
    return test_result();
}
