/* config.json of the supported model classes: defaults, ranges, consistency.
 *
 * Sources: the classes BailingMoeLinearV2Config and BailingMoeV2Config, and the modelling code that reads
 * them, as published with the models. */
#include "formats/config.h"

#include "formats/file.h"
#include "formats/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINEAR_ARCHITECTURE "BailingMoeLinearV2ForCausalLM"
#define SOFTMAX_ARCHITECTURE "BailingMoeV2ForCausalLM"
#define DEFAULT_EOS 156892

/* Files of this kind are a few KB; nobody needs more. */
#define CONFIG_LIMIT ((size_t)4 << 20)

/* ---- helpers ---------------------------------------------------------------------------------- */

static bool is_null(const struct rondo_json_reader *reader, const char *key)
{
    return reader->object && cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(reader->object, key));
}

static int32_t get(struct rondo_json_reader *reader, const char *key, int64_t low, int64_t high,
                   int32_t fallback)
{
    return (int32_t)rondo_json_int(reader, key, low, high, fallback);
}

/* A count whose null means "none of this". */
static int32_t get_count(struct rondo_json_reader *reader, const char *key, int64_t high,
                         int32_t fallback)
{
    return is_null(reader, key) ? 0 : get(reader, key, 0, high, fallback);
}

/* A switch that only has its usual value here. */
static void want_bool(struct rondo_json_reader *reader, const char *key, bool want,
                      const char *what)
{
    if (rondo_json_bool(reader, key, want) != want)
        rondo_json_fail(reader, key, "%s is not supported (got %s, want %s)", what,
                        want ? "false" : "true", want ? "true" : "false");
}

/* A key of another model family, whose presence changes the arithmetic. */
static void want_absent(struct rondo_json_reader *reader, const char *key, const char *what)
{
    if (rondo_json_has(reader, key))
        rondo_json_fail(reader, key, "%s is not supported (got %s, want the key absent or null)",
                        what, rondo_json_kind(rondo_json_get(reader, key)));
}

/* ---- parts of the file ------------------------------------------------------------------------ */

/* Sets config->architecture to the first supported entry of `architectures`. */
static void read_architecture(struct rondo_json_reader *reader, struct rondo_config *config)
{
    const cJSON *list = rondo_json_array(reader, "architectures");
    const char *first = NULL;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item))
            continue;
        if (!first)
            first = item->valuestring;
        if (strcmp(item->valuestring, LINEAR_ARCHITECTURE) == 0 ||
            strcmp(item->valuestring, SOFTMAX_ARCHITECTURE) == 0) {
            snprintf(config->architecture, sizeof config->architecture, "%s", item->valuestring);
            return;
        }
    }
    rondo_json_fail(reader, "architectures",
                    "this kind of model is not supported (got %.100s, want " LINEAR_ARCHITECTURE
                    " or " SOFTMAX_ARCHITECTURE ")",
                    first ? first : "nothing");
}

static void read_attention(struct rondo_json_reader *reader, bool linear,
                           struct rondo_config *config)
{
    config->num_attention_heads = get(reader, "num_attention_heads", 1, RONDO_MAX_HEADS, 16);
    config->num_key_value_heads =
        get(reader, "num_key_value_heads", 1, RONDO_MAX_HEADS,
            is_null(reader, "num_key_value_heads") ? config->num_attention_heads : 4);
    config->head_dim =
        get(reader, "head_dim", 2, RONDO_MAX_HEAD_DIM,
            is_null(reader, "head_dim") ? config->hidden_size / config->num_attention_heads : 128);
    config->use_qk_norm = rondo_json_bool(reader, "use_qk_norm", true);
    config->use_qkv_bias = rondo_json_bool(reader, "use_qkv_bias", false);
    config->use_bias = rondo_json_bool(reader, "use_bias", false);
    if (config->head_dim < 2 || config->head_dim > RONDO_MAX_HEAD_DIM)
        rondo_json_fail(reader, "head_dim",
                        "null stands for hidden_size / num_attention_heads, which is out of range "
                        "(got %d, want 2 to %d)",
                        config->head_dim, RONDO_MAX_HEAD_DIM);
    if (config->num_key_value_heads > 0 &&
        config->num_attention_heads % config->num_key_value_heads != 0)
        rondo_json_fail(reader, "num_key_value_heads",
                        "num_attention_heads is no multiple of it (got %d, want a divisor of %d)",
                        config->num_key_value_heads, config->num_attention_heads);
    want_absent(reader, "q_lora_rank", "multi-head latent attention");
    want_absent(reader, "kv_lora_rank", "multi-head latent attention");
    want_absent(reader, "moba_block_size", "sparse attention");
    want_bool(reader, "use_sliding_window", false, "sliding-window attention");
    if (!linear)
        return;
    config->layer_group_size = get(reader, "layer_group_size", 0, RONDO_MAX_LAYERS, 1);
    config->group_norm_size =
        get(reader, "group_norm_size", 1, (int64_t)RONDO_MAX_HEADS * RONDO_MAX_HEAD_DIM, 1);
    config->linear_silu =
        rondo_json_bool(reader, "use_linear_silu", rondo_json_bool(reader, "linear_silu", false));
    config->decay_offset = get(reader, "decay_offset", 0, 1, 0);
    want_bool(reader, "use_linear_gqa", false, "grouped-query linear attention");
    want_bool(reader, "linear_rope", true, "linear attention without RoPE");
    int64_t width = (int64_t)config->num_attention_heads * config->head_dim;
    if (config->group_norm_size > 0 && width % config->group_norm_size != 0)
        rondo_json_fail(reader, "group_norm_size",
                        "the groups do not divide num_attention_heads * head_dim (got %d, want a "
                        "divisor of %lld)",
                        config->group_norm_size, (long long)width);
}

/* 0.1 ln(factor) + 1, times what DeepSeek's variant of the formula puts before the logarithm. */
static double yarn_magnitude(double factor, double scale)
{
    return factor <= 1 ? 1.0 : 0.1 * scale * log(factor) + 1.0;
}

static void read_yarn(struct rondo_json_reader *scaling, struct rondo_config *config)
{
    config->yarn.enabled = true;
    config->yarn.factor = rondo_json_require_number(scaling, "factor", 1, 1024);
    config->yarn.beta_fast = rondo_json_number(scaling, "beta_fast", 1e-3, 1e6, 32);
    config->yarn.beta_slow = rondo_json_number(scaling, "beta_slow", 1e-3, 1e6, 1);
    config->yarn.original_max_position_embeddings =
        get(scaling, "original_max_position_embeddings", 1, RONDO_MAX_POSITIONS,
            config->max_position_embeddings);
    double scale = rondo_json_number(scaling, "mscale", 0, 100, 0);
    double scale_all = rondo_json_number(scaling, "mscale_all_dim", 0, 100, 0);
    double magnitude = yarn_magnitude(config->yarn.factor, 1);
    if (scale > 0 && scale_all > 0)
        magnitude = yarn_magnitude(config->yarn.factor, scale) /
                    yarn_magnitude(config->yarn.factor, scale_all);
    config->yarn.attention_factor =
        rondo_json_number(scaling, "attention_factor", 1e-3, 1e3, magnitude);
    want_bool(scaling, "truncate", true, "YaRN with untruncated correction range");
    if (config->yarn.beta_fast <= config->yarn.beta_slow)
        rondo_json_fail(scaling, "beta_fast",
                        "must be larger than beta_slow (got %g, want above %g)",
                        config->yarn.beta_fast, config->yarn.beta_slow);
}

/* `rope_scaling`, or `rope_parameters` as newer versions of transformers write it, with theta inside. */
static void read_rope(struct rondo_json_reader *reader, struct rondo_config *config)
{
    const char *key =
        rondo_json_has(reader, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    struct rondo_json_reader scaling = rondo_json_child(reader, key);
    config->max_position_embeddings =
        get(reader, "max_position_embeddings", 1, RONDO_MAX_POSITIONS, 32768);
    config->rope_theta = rondo_json_number(reader, "rope_theta", 1.5, 1e15, 600000);
    config->rope_theta = rondo_json_number(&scaling, "rope_theta", 1.5, 1e15, config->rope_theta);
    double factor = rondo_json_number(reader, "partial_rotary_factor", 0, 1, 1);
    factor = rondo_json_number(&scaling, "partial_rotary_factor", 0, 1, factor);
    bool given = rondo_json_has(reader, "rotary_dim");
    config->rotary_dim =
        get(reader, "rotary_dim", 0, config->head_dim, (int32_t)(config->head_dim * factor));
    want_bool(reader, "rope_interleave", false, "interleaved RoPE");
    if (config->rotary_dim % 2 != 0 || config->rotary_dim < 2)
        rondo_json_fail(
            reader, given ? "rotary_dim" : "partial_rotary_factor",
            "the rotated part of a head must have an even number of channels (got %d of "
            "head_dim %d, want an even number from 2)",
            config->rotary_dim, config->head_dim);
    const char *type =
        rondo_json_string(&scaling, "rope_type",
                          rondo_json_string(&scaling, "type", scaling.object ? "default" : ""));
    if (strcmp(type, "yarn") == 0)
        read_yarn(&scaling, config);
    else if (type[0] && strcmp(type, "default") != 0)
        rondo_json_fail(
            &scaling, "rope_type",
            "this scaling is not supported (got \"%.40s\", want \"yarn\" or \"default\")", type);
    if (reader->status == RONDO_OK)
        reader->status = scaling.status;
}

static void check_routing(struct rondo_json_reader *reader, struct rondo_config *config)
{
    if (reader->status != RONDO_OK)
        return;
    if (config->num_experts % config->n_group != 0) {
        rondo_json_fail(reader, "n_group",
                        "does not divide num_experts (got %d, want a divisor of %d)",
                        config->n_group, config->num_experts);
        return;
    }
    int32_t reachable = config->num_experts / config->n_group * config->topk_group;
    if (config->topk_group > config->n_group)
        rondo_json_fail(reader, "topk_group", "more groups than there are (got %d, want 1 to %d)",
                        config->topk_group, config->n_group);
    else if (config->num_experts_per_tok > reachable)
        rondo_json_fail(reader, "num_experts_per_tok",
                        "more experts than topk_group groups have (got %d, want at most %d)",
                        config->num_experts_per_tok, reachable);
    if ((int64_t)config->num_experts * config->num_hidden_layers > RONDO_MAX_LAYER_EXPERTS)
        rondo_json_fail(
            reader, "num_experts", "too many experts in all layers (got %lld, want at most %d)",
            (long long)config->num_experts * config->num_hidden_layers, RONDO_MAX_LAYER_EXPERTS);
}

/* A config without experts has dense layers only. */
static void read_experts(struct rondo_json_reader *reader, struct rondo_config *config)
{
    config->num_experts = get_count(reader, "num_experts", RONDO_MAX_EXPERTS, 256);
    if (config->num_experts == 0) {
        config->first_k_dense_replace = config->num_hidden_layers;
        config->n_group = config->topk_group = 1;
        return;
    }
    config->first_k_dense_replace =
        get(reader, "first_k_dense_replace", 0, config->num_hidden_layers, 1);
    config->num_experts_per_tok =
        get(reader, "num_experts_per_tok", 1, RONDO_MAX_EXPERTS_PER_TOK, 8);
    config->num_shared_experts = get_count(reader, "num_shared_experts", 1024, 1);
    config->moe_intermediate_size =
        get(reader, "moe_intermediate_size", 1, RONDO_MAX_INTERMEDIATE, 512);
    /* The width of one shared expert; they are stored side by side as one network. */
    int64_t shared = config->num_shared_experts *
                     rondo_json_int(reader, "moe_shared_expert_intermediate_size", 0,
                                    RONDO_MAX_INTERMEDIATE, config->moe_intermediate_size);
    if (shared > RONDO_MAX_INTERMEDIATE)
        rondo_json_fail(reader, "num_shared_experts",
                        "the shared experts are too wide together (got %lld, want at most %d)",
                        (long long)shared, RONDO_MAX_INTERMEDIATE);
    else
        config->shared_intermediate_size = (int32_t)shared;
    bool no_groups = is_null(reader, "n_group");
    config->n_group = get(reader, "n_group", 1, RONDO_MAX_EXPERTS, no_groups ? 1 : 8);
    config->topk_group = get(reader, "topk_group", 1, RONDO_MAX_EXPERTS,
                             no_groups || is_null(reader, "topk_group") ? config->n_group : 4);
    config->norm_topk_prob = rondo_json_bool(reader, "norm_topk_prob", true);
    config->use_expert_bias = rondo_json_bool(reader, "moe_router_enable_expert_bias", true);
    config->routed_scaling_factor =
        rondo_json_number(reader, "routed_scaling_factor", -1e6, 1e6, 1.0);
    const char *score = rondo_json_string(reader, "score_function", "sigmoid");
    config->score_function =
        strcmp(score, "softmax") == 0 ? RONDO_SCORE_SOFTMAX : RONDO_SCORE_SIGMOID;
    if (strcmp(score, "sigmoid") != 0 && strcmp(score, "softmax") != 0)
        rondo_json_fail(reader, "score_function",
                        "not supported (got \"%.40s\", want \"sigmoid\" or \"softmax\")", score);
    want_bool(reader, "multi_gate", false, "more than one router");
    check_routing(reader, config);
}

/* Some exports list the kind of every layer; it must be what the class computes. */
static void check_layer_types(struct rondo_json_reader *reader, const struct rondo_config *config)
{
    const cJSON *types = rondo_json_array(reader, "layer_types"), *item;
    int32_t layer = 0;
    if (!types || reader->status != RONDO_OK)
        return;
    cJSON_ArrayForEach(item, types)
    {
        if (layer >= config->num_hidden_layers)
            break; /* layers for multi-token prediction may follow */
        bool softmax = rondo_config_attention(config, layer) == RONDO_ATTENTION_SOFTMAX;
        const char *want = softmax ? "full_attention" : "linear_attention";
        const char *type = cJSON_IsString(item) ? item->valuestring : rondo_json_kind(item);
        if (strcmp(type, want) != 0) {
            rondo_json_fail(
                reader, "layer_types",
                "layer %d is of another kind than the architecture has (got %.40s, want %s)", layer,
                type, want);
            return;
        }
        layer++;
    }
}

/* ---- tokens ----------------------------------------------------------------------------------- */

static void add_eos(struct rondo_json_reader *reader, struct rondo_config *config,
                    const cJSON *value)
{
    if (!cJSON_IsNumber(value) || value->valuedouble != floor(value->valuedouble) ||
        value->valuedouble < 0 || value->valuedouble >= config->vocab_size) {
        if (cJSON_IsNumber(value))
            rondo_json_fail(reader, "eos_token_id",
                            "not an id of the vocabulary (got %g, want 0 to %d)",
                            value->valuedouble, config->vocab_size - 1);
        else
            rondo_json_fail(reader, "eos_token_id", "wrong type (got %s, want ids)",
                            rondo_json_kind(value));
        return;
    }
    int32_t id = (int32_t)value->valuedouble;
    for (int i = 0; i < config->n_eos_token_ids; i++)
        if (config->eos_token_ids[i] == id)
            return;
    int capacity = sizeof config->eos_token_ids / sizeof config->eos_token_ids[0];
    if (config->n_eos_token_ids == capacity)
        rondo_json_fail(reader, "eos_token_id",
                        "too many end tokens (got more than %d, want at most %d)", capacity,
                        capacity);
    else
        config->eos_token_ids[config->n_eos_token_ids++] = id;
}

/* Adds one file's end tokens, a number or a list, to the config's. */
static void read_eos(struct rondo_json_reader *reader, struct rondo_config *config)
{
    const cJSON *value = rondo_json_get(reader, "eos_token_id"), *item;
    if (!value)
        return;
    if (!cJSON_IsArray(value)) {
        add_eos(reader, config, value);
        return;
    }
    cJSON_ArrayForEach(item, value) add_eos(reader, config, item);
}

static void read_tokens(struct rondo_json_reader *reader, struct rondo_json_reader *generation,
                        struct rondo_config *config)
{
    int32_t last = config->vocab_size - 1;
    int32_t default_end = DEFAULT_EOS <= last ? DEFAULT_EOS : -1;
    config->bos_token_id =
        get(reader, "bos_token_id", -1, last, get(generation, "bos_token_id", -1, last, -1));
    config->pad_token_id =
        get(reader, "pad_token_id", -1, last, is_null(reader, "pad_token_id") ? -1 : default_end);
    read_eos(reader, config);
    if (!cJSON_GetObjectItemCaseSensitive(reader->object, "eos_token_id") && default_end >= 0)
        config->eos_token_ids[config->n_eos_token_ids++] = default_end;
    read_eos(generation, config);
    if (reader->status == RONDO_OK)
        reader->status = generation->status;
}

/* ---- quantisation ----------------------------------------------------------------------------- */

static void check_block_size(struct rondo_json_reader *reader)
{
    const cJSON *block = rondo_json_array(reader, "weight_block_size");
    const cJSON *rows = block ? block->child : NULL, *columns = rows ? rows->next : NULL;
    if (reader->status != RONDO_OK)
        return;
    if (!rows || !columns || columns->next || !cJSON_IsNumber(rows) || !cJSON_IsNumber(columns) ||
        rows->valuedouble != 128 || columns->valuedouble != 128)
        rondo_json_fail(
            reader, "weight_block_size",
            "only blocks of 128 by 128 are supported (got %s of %g and %g, want [128, 128])",
            rondo_json_kind(block), rows && cJSON_IsNumber(rows) ? rows->valuedouble : 0,
            columns && cJSON_IsNumber(columns) ? columns->valuedouble : 0);
}

/* Every group of weights must be 8-bit float with one scale per row. */
static void check_compressed(struct rondo_json_reader *reader)
{
    struct rondo_json_reader groups = rondo_json_child(reader, "config_groups");
    const cJSON *item;
    if (!groups.object && groups.status == RONDO_OK)
        rondo_json_fail(&groups, NULL, "missing (want an object)");
    cJSON_ArrayForEach(item, groups.object)
    {
        if (groups.status != RONDO_OK)
            break;
        struct rondo_json_reader group = rondo_json_child(&groups, item->string);
        struct rondo_json_reader weights = rondo_json_child(&group, "weights");
        const char *type = rondo_json_require_string(&weights, "type");
        const char *strategy = rondo_json_require_string(&weights, "strategy");
        rondo_json_require_int(&weights, "num_bits", 8, 8);
        if (weights.status == RONDO_OK && strcmp(type, "float") != 0)
            rondo_json_fail(&weights, "type", "not supported (got \"%.40s\", want \"float\")",
                            type);
        if (weights.status == RONDO_OK && strcmp(strategy, "channel") != 0)
            rondo_json_fail(&weights, "strategy", "not supported (got \"%.40s\", want \"channel\")",
                            strategy);
        groups.status = weights.status;
    }
    if (reader->status == RONDO_OK)
        reader->status = groups.status;
}

static enum rondo_quantization read_quantization(struct rondo_json_reader *reader)
{
    enum rondo_quantization kind = RONDO_QUANTIZATION_NONE;
    struct rondo_json_reader quantization = rondo_json_child(reader, "quantization_config");
    if (!quantization.object) {
        if (reader->status == RONDO_OK)
            reader->status = quantization.status;
        return kind;
    }
    const char *method = rondo_json_require_string(&quantization, "quant_method");
    if (strcmp(method, "fp8") == 0) {
        kind = RONDO_QUANTIZATION_BLOCK;
        const char *format = rondo_json_string(&quantization, "fmt", "e4m3");
        if (strcmp(format, "e4m3") != 0)
            rondo_json_fail(&quantization, "fmt", "not supported (got \"%.40s\", want \"e4m3\")",
                            format);
        check_block_size(&quantization);
    } else if (strcmp(method, "compressed-tensors") == 0) {
        kind = RONDO_QUANTIZATION_ROW;
        check_compressed(&quantization);
    } else {
        rondo_json_fail(&quantization, "quant_method",
                        "not supported (got \"%.40s\", want \"fp8\" or \"compressed-tensors\")",
                        method);
    }
    if (reader->status == RONDO_OK)
        reader->status = quantization.status;
    return kind;
}

/* ---- the whole file --------------------------------------------------------------------------- */

static void check_fixed_features(struct rondo_json_reader *reader)
{
    const char *activation = rondo_json_string(reader, "hidden_act", "silu");
    if (strcmp(activation, "silu") != 0)
        rondo_json_fail(reader, "hidden_act", "not supported (got \"%.40s\", want \"silu\")",
                        activation);
    want_bool(reader, "use_rmsnorm", true, "a norm other than RMSNorm");
    want_bool(reader, "norm_head", false, "a normalised output head");
    want_bool(reader, "norm_softmax", false, "norm_softmax");
    int32_t extra = get_count(reader, "num_nextn_predict_layers", 64, 0);
    if (extra > 0 && reader->status == RONDO_OK)
        rondo_log(RONDO_LOG_INFO,
                  "%s: num_nextn_predict_layers: %d layers for multi-token prediction "
                  "are not used",
                  reader->file, extra);
}

static void read_config(struct rondo_json_reader *reader, struct rondo_json_reader *generation,
                        struct rondo_config *config)
{
    read_architecture(reader, config);
    if (reader->status != RONDO_OK)
        return;
    bool linear = strcmp(config->architecture, LINEAR_ARCHITECTURE) == 0;
    config->group_norm_size = 1;
    config->vocab_size = get(reader, "vocab_size", 1, RONDO_MAX_VOCAB, 157184);
    config->hidden_size = get(reader, "hidden_size", 1, RONDO_MAX_HIDDEN, 2048);
    config->num_hidden_layers = get(reader, "num_hidden_layers", 1, RONDO_MAX_LAYERS, 20);
    config->intermediate_size = get(reader, "intermediate_size", 1, RONDO_MAX_INTERMEDIATE, 5120);
    config->rms_norm_eps = rondo_json_number(reader, "rms_norm_eps", 0, 1, 1e-6);
    config->tie_word_embeddings = rondo_json_bool(reader, "tie_word_embeddings", false);
    read_attention(reader, linear, config);
    if (reader->status == RONDO_OK)
        read_rope(reader, config);
    if (reader->status == RONDO_OK)
        read_experts(reader, config);
    check_layer_types(reader, config);
    check_fixed_features(reader);
    if (reader->status == RONDO_OK)
        read_tokens(reader, generation, config);
}

/* What the caller asks for over what the file says, and what both imply. */
static int apply_options(const char *name, const struct rondo_model_options *options,
                         struct rondo_config *config, struct rondo_error *error)
{
    if (options && (options->decay_offset < -1 || options->decay_offset > 1))
        return rondo_fail(error, RONDO_USAGE,
                          "decay_offset: out of range (got %d, want -1, 0 or 1)",
                          options->decay_offset);
    if (options && options->decay_offset >= 0)
        config->decay_offset = options->decay_offset;
    if (options && options->yarn_factor != 0) {
        double factor = options->yarn_factor;
        if (!(factor > 1 && factor <= 1024))
            return rondo_fail(error, RONDO_USAGE,
                              "yarn_factor: out of range (got %g, want 0 or 1 to 1024)", factor);
        if (!config->yarn.enabled) {
            config->yarn.enabled = true;
            config->yarn.beta_fast = 32;
            config->yarn.beta_slow = 1;
            config->yarn.original_max_position_embeddings = config->max_position_embeddings;
        }
        config->yarn.factor = factor;
        config->yarn.attention_factor = yarn_magnitude(factor, 1);
        config->max_position_embeddings = 1;
    }
    if (config->yarn.enabled) {
        double reach = config->yarn.factor * config->yarn.original_max_position_embeddings;
        if (reach > RONDO_MAX_POSITIONS)
            return rondo_fail(
                error, RONDO_FAILED,
                "%s: rope_scaling.factor: the context is too long (got %.0f, want at most "
                "%d tokens)",
                name, reach, RONDO_MAX_POSITIONS);
        if (reach > config->max_position_embeddings)
            config->max_position_embeddings = (int32_t)reach;
    }
    return RONDO_OK;
}

int rondo_config_parse(const char *name, const char *text, size_t length,
                       const char *generation_name, const char *generation,
                       size_t generation_length, const struct rondo_model_options *options,
                       struct rondo_config *config, enum rondo_quantization *quantization,
                       struct rondo_error *error)
{
    memset(config, 0, sizeof *config);
    cJSON *root = rondo_json_parse(name, text, length, error), *generation_root = NULL;
    int status = root ? RONDO_OK : RONDO_FAILED;
    if (root && generation) {
        generation_root = rondo_json_parse(generation_name, generation, generation_length, error);
        status = generation_root ? RONDO_OK : RONDO_FAILED;
    }
    if (status == RONDO_OK) {
        struct rondo_json_reader reader = rondo_json_reader(root, name, error);
        struct rondo_json_reader generation_reader =
            rondo_json_reader(generation_root, generation_name, error);
        if (reader.status == RONDO_OK)
            reader.status = generation_reader.status;
        read_config(&reader, &generation_reader, config);
        enum rondo_quantization kind =
            reader.status == RONDO_OK ? read_quantization(&reader) : RONDO_QUANTIZATION_NONE;
        if (quantization)
            *quantization = kind;
        status = reader.status;
    }
    if (status == RONDO_OK)
        status = apply_options(name, options, config, error);
    cJSON_Delete(root);
    cJSON_Delete(generation_root);
    return status;
}

int rondo_config_read(const char *directory, const struct rondo_model_options *options,
                      struct rondo_config *config, enum rondo_quantization *quantization,
                      struct rondo_error *error)
{
    int status = RONDO_FAILED;
    char *path = rondo_path_join(directory, "config.json", error), *text = NULL, *generation = NULL;
    char *generation_path =
        path ? rondo_path_join(directory, "generation_config.json", error) : NULL;
    size_t length = 0, generation_length = 0;
    if (generation_path)
        text = rondo_file_read(path, CONFIG_LIMIT, &length, error);
    if (text) {
        bool there = access(generation_path, F_OK) == 0;
        if (there)
            generation = rondo_file_read(generation_path, CONFIG_LIMIT, &generation_length, error);
        if (generation || !there)
            status = rondo_config_parse(path, text, length, generation_path, generation,
                                        generation_length, options, config, quantization, error);
    }
    free(text);
    free(generation);
    free(path);
    free(generation_path);
    return status;
}
