/* rondo info: what a checkpoint holds, what it needs, and which devices are here. */
#include "cli/commands.h"
#include "cli/engine.h"
#include "cli/input.h"
#include "cli/terminal.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct info_options {
    struct cli_model_options model;
    struct cli_device_options device;
    struct cli_message_options messages;
    int64_t ctx, batch;
    bool tensors, plan, check, json, devices;
    struct cli_texts arguments;
};

#define FIELD(name) offsetof(struct info_options, name)

static const struct cli_option table[] = {
    {.name = "--ctx",
     .kind = CLI_INTEGER,
     .offset = FIELD(ctx),
     .argument = "N",
     .group = "Output",
     .help = "tokens per session for the memory figures",
     .fallback = "0",
     .fallback_help = "4096, or the model's limit when that is less",
     .low = 1,
     .high = INT32_MAX},
    {.name = "--batch",
     .kind = CLI_INTEGER,
     .offset = FIELD(batch),
     .argument = "B",
     .group = "Output",
     .help = "sessions for the memory figures",
     .fallback = "1",
     .low = 1,
     .high = 4096},
    {.name = "--tensors",
     .kind = CLI_FLAG,
     .offset = FIELD(tensors),
     .group = "Output",
     .help = "list all tensors"},
    {.name = "--plan",
     .kind = CLI_FLAG,
     .offset = FIELD(plan),
     .group = "Output",
     .help = "print the plan: the steps of one run of the model"},
    {.name = "--check",
     .kind = CLI_FLAG,
     .offset = FIELD(check),
     .group = "Output",
     .help = "read all weights and scales and fail at the first NaN or infinity"},
    {.name = "--devices",
     .kind = CLI_FLAG,
     .offset = FIELD(devices),
     .group = "Output",
     .help = "list the devices of every backend, and why one has none; needs no model"},
    {.name = "--json",
     .kind = CLI_FLAG,
     .offset = FIELD(json),
     .group = "Output",
     .help = "print one JSON object"},
};

/* ---- config ----------------------------------------------------------------------------------- */

enum field_kind { FIELD_INT, FIELD_REAL, FIELD_BOOL };

static const struct config_field {
    const char *name;
    enum field_kind kind;
    size_t offset;
} config_fields[] = {
#define INT(name)                                                                                  \
    {                                                                                              \
#name, FIELD_INT, offsetof(struct rondo_config, name)                                      \
    }
#define REAL(name)                                                                                 \
    {                                                                                              \
#name, FIELD_REAL, offsetof(struct rondo_config, name)                                     \
    }
#define BOOL(name)                                                                                 \
    {                                                                                              \
#name, FIELD_BOOL, offsetof(struct rondo_config, name)                                     \
    }
    INT(vocab_size),
    INT(hidden_size),
    INT(num_hidden_layers),
    INT(num_attention_heads),
    INT(num_key_value_heads),
    INT(head_dim),
    INT(intermediate_size),
    INT(moe_intermediate_size),
    INT(shared_intermediate_size),
    INT(num_experts),
    INT(num_experts_per_tok),
    INT(num_shared_experts),
    INT(n_group),
    INT(topk_group),
    INT(first_k_dense_replace),
    INT(layer_group_size),
    INT(group_norm_size),
    INT(rotary_dim),
    INT(max_position_embeddings),
    INT(decay_offset),
    REAL(rope_theta),
    REAL(rms_norm_eps),
    REAL(routed_scaling_factor),
    BOOL(norm_topk_prob),
    BOOL(use_expert_bias),
    BOOL(use_qk_norm),
    BOOL(linear_silu),
    BOOL(use_qkv_bias),
    BOOL(use_bias),
    BOOL(tie_word_embeddings),
    {"yarn", FIELD_BOOL, offsetof(struct rondo_config, yarn.enabled)},
    {"yarn_factor", FIELD_REAL, offsetof(struct rondo_config, yarn.factor)},
    INT(bos_token_id),
    INT(pad_token_id),
#undef INT
#undef REAL
#undef BOOL
};

#define N_CONFIG_FIELDS (sizeof config_fields / sizeof config_fields[0])

static cJSON *config_json(const struct rondo_config *config)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "architecture", config->architecture);
    for (size_t i = 0; i < N_CONFIG_FIELDS; i++) {
        const struct config_field *field = &config_fields[i];
        const char *at = (const char *)config + field->offset;
        if (field->kind == FIELD_INT)
            cJSON_AddNumberToObject(object, field->name, *(const int32_t *)at);
        else if (field->kind == FIELD_REAL)
            cJSON_AddNumberToObject(object, field->name, *(const double *)at);
        else
            cJSON_AddBoolToObject(object, field->name, *(const bool *)at);
    }
    cJSON_AddStringToObject(object, "score_function",
                            config->score_function == RONDO_SCORE_SIGMOID ? "sigmoid" : "softmax");
    cJSON_AddItemToObject(object, "eos_token_ids",
                          cJSON_CreateIntArray(config->eos_token_ids, config->n_eos_token_ids));
    return object;
}

/* One value as a line of the table. */
static void print_value(const cJSON *value)
{
    if (cJSON_IsArray(value)) {
        char *text = cJSON_PrintUnformatted(value);
        printf("  %-26s %s\n", value->string, text ? text : "");
        cJSON_free(text);
    } else if (cJSON_IsNumber(value)) {
        printf("  %-26s %.10g\n", value->string, value->valuedouble);
    } else {
        printf("  %-26s %s\n", value->string,
               cJSON_IsString(value) ? value->valuestring
               : cJSON_IsTrue(value) ? "true"
                                     : "false");
    }
}

/* ---- layers and tensors ------------------------------------------------------------------------ */

/* Layers of one kind as ranges, "0-3, 5-8". */
static void layer_ranges(const struct rondo_config *config,
                         bool (*is)(const struct rondo_config *, int32_t), char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (int32_t l = 0; l < config->num_hidden_layers && used < size; l++) {
        if (!is(config, l))
            continue;
        int32_t first = l;
        while (l + 1 < config->num_hidden_layers && is(config, l + 1))
            l++;
        int n = first == l
                    ? snprintf(out + used, size - used, "%s%d", used ? ", " : "", l)
                    : snprintf(out + used, size - used, "%s%d-%d", used ? ", " : "", first, l);
        used += (size_t)n;
    }
    if (!out[0])
        snprintf(out, size, "none");
}

static bool is_linear(const struct rondo_config *config, int32_t layer)
{
    return rondo_config_attention(config, layer) == RONDO_ATTENTION_LINEAR;
}

static bool is_softmax(const struct rondo_config *config, int32_t layer)
{
    return rondo_config_attention(config, layer) == RONDO_ATTENTION_SOFTMAX;
}

static bool is_dense(const struct rondo_config *config, int32_t layer)
{
    return rondo_config_ffn(config, layer) == RONDO_FFN_DENSE;
}

static bool is_moe(const struct rondo_config *config, int32_t layer)
{
    return rondo_config_ffn(config, layer) == RONDO_FFN_MOE;
}

static cJSON *layers_json(const struct rondo_config *config)
{
    char text[1024];
    static const struct {
        const char *name;
        bool (*is)(const struct rondo_config *, int32_t);
    } kinds[] = {{"linear_attention", is_linear},
                 {"softmax_attention", is_softmax},
                 {"dense_ffn", is_dense},
                 {"moe_ffn", is_moe}};
    cJSON *object = cJSON_CreateObject();
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        layer_ranges(config, kinds[i].is, text, sizeof text);
        cJSON_AddStringToObject(object, kinds[i].name, text);
    }
    return object;
}

struct dtype_sum {
    uint64_t count, elements, bytes;
};

static void sum_tensors(const struct rondo_model *model, struct dtype_sum sums[RONDO_DTYPE_COUNT])
{
    memset(sums, 0, RONDO_DTYPE_COUNT * sizeof *sums);
    for (size_t i = 0; i < rondo_model_tensor_count(model); i++) {
        struct rondo_tensor_info info;
        rondo_model_tensor(model, i, &info);
        sums[info.dtype].count++;
        sums[info.dtype].elements += info.size / rondo_dtype_size(info.dtype);
        sums[info.dtype].bytes += info.size;
    }
}

static void shape_text(const struct rondo_tensor_info *info, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (int d = 0; d < info->n_dims; d++)
        used +=
            (size_t)snprintf(out + used, size - used, "%s%" PRId64, d ? ", " : "", info->shape[d]);
    snprintf(out + used, size - used, "]");
}

static void print_tensors(const struct rondo_model *model)
{
    printf("\ntensors\n");
    for (size_t i = 0; i < rondo_model_tensor_count(model); i++) {
        struct rondo_tensor_info info;
        char shape[128], size[24];
        rondo_model_tensor(model, i, &info);
        shape_text(&info, shape, sizeof shape);
        printf("  %-64s %-8s %-20s %12s  %s\n", info.name, rondo_dtype_name(info.dtype), shape,
               cli_format_size(info.size, size), info.file);
    }
}

static cJSON *tensors_json(const struct rondo_model *model)
{
    cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; i < rondo_model_tensor_count(model); i++) {
        struct rondo_tensor_info info;
        rondo_model_tensor(model, i, &info);
        cJSON *object = cJSON_CreateObject(), *shape = cJSON_CreateArray();
        cJSON_AddStringToObject(object, "name", info.name);
        cJSON_AddStringToObject(object, "dtype", rondo_dtype_name(info.dtype));
        for (int d = 0; d < info.n_dims; d++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)info.shape[d]));
        cJSON_AddItemToObject(object, "shape", shape);
        cJSON_AddNumberToObject(object, "bytes", (double)info.size);
        cJSON_AddStringToObject(object, "file", info.file);
        cJSON_AddItemToArray(array, object);
    }
    return array;
}

/* ---- plan -------------------------------------------------------------------------------------- */

static void print_plan_line(void *user, const char *line)
{
    (void)user;
    printf("  %s\n", line);
}

static void add_plan_line(void *user, const char *line)
{
    cJSON_AddItemToArray(user, cJSON_CreateString(line));
}

/* Builds the plan; one session of the smallest size will do. */
static int walk_plan(const struct info_options *options, const struct cli_engine *engine,
                     void (*line)(void *, const char *), void *user, struct rondo_error *error)
{
    struct rondo_context_options settings = {
        .mode = (enum rondo_mode)options->device.mode,
        .kv = (enum rondo_kv)options->device.kv,
        .max_context = 64,
        .max_batch_tokens = 64,
        .snapshots = -1,
        .unchecked = true,
    };
    struct rondo_context *context =
        rondo_context_create(engine->model, engine->device, &settings, error);
    if (!context)
        return error->status;
    rondo_context_print_plan(context, line, user);
    rondo_context_destroy(context);
    return RONDO_OK;
}

/* ---- the command ------------------------------------------------------------------------------- */

static int memory_for(const struct info_options *options, const struct cli_engine *engine,
                      enum rondo_kv kv, struct rondo_memory *memory, struct rondo_error *error)
{
    struct rondo_context_options settings = {
        .mode = (enum rondo_mode)options->device.mode,
        .kv = kv,
        .max_context = (int32_t)options->ctx,
        .max_sessions = (int32_t)options->batch,
    };
    return rondo_context_memory(engine->model, engine->device, &settings, memory, error);
}

/* KV pages that the sessions would take if every layer were softmax attention: what linear layers save. 0 when
 * none is, and there is nothing to compare with. */
static uint64_t all_softmax_pages(const struct rondo_config *config,
                                  const struct rondo_memory *memory)
{
    uint64_t layers = (uint64_t)config->num_hidden_layers, softmax = 0;
    for (int32_t i = 0; i < config->num_hidden_layers; i++)
        softmax += rondo_config_attention(config, i) == RONDO_ATTENTION_SOFTMAX;
    return softmax ? memory->kv_pages / softmax * layers : 0;
}

/* The name of the chat template, or why there is none. malloc'ed. */
static char *template_name(const struct rondo_model *model)
{
    struct rondo_error error = {0};
    struct rondo_chat_template *chat =
        rondo_chat_template_open(rondo_model_directory(model), &error);
    char *name = strdup(chat ? rondo_chat_template_name(chat) : error.message);
    rondo_chat_template_close(chat);
    return name;
}

/* Whether a device belongs to a backend: "cuda:0" to "cuda". */
static bool is_of(const char *device, const char *backend)
{
    size_t length = strlen(backend);
    return !strncmp(device, backend, length) && (!device[length] || device[length] == ':');
}

static void print_devices(void)
{
    char size[24];
    struct rondo_device_info devices[32];
    struct rondo_backend_info backends[8];
    size_t n = rondo_device_list(devices, 32), n_backends = rondo_backend_list(backends, 8);
    printf("devices\n");
    for (size_t b = 0; b < n_backends && b < 8; b++) {
        for (size_t i = 0; i < n && i < 32; i++)
            if (is_of(devices[i].name, backends[b].name)) {
                uint64_t available = devices[i].memory_available;
                printf("  %-14s %s; ", devices[i].name, devices[i].description);
                if (available)
                    printf("%s of memory available\n", cli_format_size(available, size));
                else
                    printf("%s of memory, free: not known\n",
                           cli_format_size(devices[i].memory_total, size));
            }
        if (*backends[b].reason)
            printf("  %-14s %s%s\n", backends[b].name,
                   backends[b].n_devices ? "not all GPUs: " : "no device: ", backends[b].reason);
    }
}

static cJSON *devices_json(void)
{
    struct rondo_device_info devices[32];
    struct rondo_backend_info backends[8];
    size_t n = rondo_device_list(devices, 32), n_backends = rondo_backend_list(backends, 8);
    cJSON *array = cJSON_CreateArray();
    for (size_t b = 0; b < n_backends && b < 8; b++) {
        cJSON *backend = cJSON_CreateObject(), *list;
        cJSON_AddStringToObject(backend, "backend", backends[b].name);
        cJSON_AddStringToObject(backend, "reason", backends[b].reason);
        list = cJSON_AddArrayToObject(backend, "devices");
        for (size_t i = 0; i < n && i < 32; i++) {
            if (!is_of(devices[i].name, backends[b].name))
                continue;
            cJSON *device = cJSON_CreateObject();
            cJSON_AddStringToObject(device, "name", devices[i].name);
            cJSON_AddStringToObject(device, "description", devices[i].description);
            cJSON_AddNumberToObject(device, "memory_total", (double)devices[i].memory_total);
            uint64_t available = devices[i].memory_available;
            cJSON_AddItemToObject(device, "memory_available",
                                  available ? cJSON_CreateNumber((double)available)
                                            : cJSON_CreateNull());
            cJSON_AddItemToArray(list, device);
        }
        cJSON_AddItemToArray(array, backend);
    }
    return array;
}

/* other: with keys and values kept the other way. */
static void print_text(const struct info_options *options, const struct rondo_model *model,
                       const struct rondo_memory *memory, const struct rondo_memory *other)
{
    const struct rondo_config *config = rondo_model_config(model);
    struct dtype_sum sums[RONDO_DTYPE_COUNT];
    char a[32], b[24];
    cJSON *value, *object = config_json(config);
    printf("model %s\n\nconfig\n", rondo_model_directory(model));
    cJSON_ArrayForEach(value, object) print_value(value);
    cJSON_Delete(object);

    printf("\nlayers\n");
    object = layers_json(config);
    cJSON_ArrayForEach(value, object) print_value(value);
    cJSON_Delete(object);
    char *template = template_name(model);
    printf("\nchat template\n  %s\n", template ? template : "");
    free(template);

    printf("\nweights                tensors          elements        size\n");
    sum_tensors(model, sums);
    for (int d = 0; d < RONDO_DTYPE_COUNT; d++)
        if (sums[d].count)
            printf("  %-16s %11" PRIu64 " %17s %11s\n", rondo_dtype_name((enum rondo_dtype)d),
                   sums[d].count, cli_format_count(sums[d].elements, a),
                   cli_format_size(sums[d].bytes, b));
    if (options->tensors)
        print_tensors(model);

    printf("\nmemory of %" PRId64 " session%s of %" PRId64 " tokens, mode %s\n", options->batch,
           options->batch > 1 ? "s" : "", options->ctx,
           cli_mode_label(options->device.mode, options->device.kv));
    printf("  weights       %12s\n", cli_format_size(memory->weights, b));
    printf("  KV pages      %12s", cli_format_size(memory->kv_pages, b));
    printf("   (%s if every layer were softmax attention;",
           cli_format_size(all_softmax_pages(config, memory), b));
    printf(" %s with --kv-dtype %s)\n", cli_format_size(other->kv_pages, b),
           cli_kv_names[!options->device.kv]);
    printf("  linear states %12s\n", cli_format_size(memory->states, b));
    printf("  activations   %12s\n", cli_format_size(memory->activations, b));
    printf("  total         %12s\n", cli_format_size(memory->total, b));
    putchar('\n');
    print_devices();
}

static cJSON *info_json(const struct info_options *options, const struct rondo_model *model,
                        const struct rondo_memory *memory)
{
    struct dtype_sum sums[RONDO_DTYPE_COUNT];
    char hash[24];
    cJSON *root = cJSON_CreateObject(), *object;
    cJSON_AddStringToObject(root, "directory", rondo_model_directory(model));
    snprintf(hash, sizeof hash, "%016" PRIx64, rondo_model_hash(model));
    cJSON_AddStringToObject(root, "hash", hash);
    cJSON_AddItemToObject(root, "config", config_json(rondo_model_config(model)));
    cJSON_AddItemToObject(root, "layers", layers_json(rondo_model_config(model)));
    char *template = template_name(model);
    cJSON_AddStringToObject(root, "chat_template", template ? template : "");
    free(template);
    object = cJSON_AddObjectToObject(root, "weights");
    sum_tensors(model, sums);
    for (int d = 0; d < RONDO_DTYPE_COUNT; d++) {
        if (!sums[d].count)
            continue;
        cJSON *sum = cJSON_AddObjectToObject(object, rondo_dtype_name((enum rondo_dtype)d));
        cJSON_AddNumberToObject(sum, "tensors", (double)sums[d].count);
        cJSON_AddNumberToObject(sum, "elements", (double)sums[d].elements);
        cJSON_AddNumberToObject(sum, "bytes", (double)sums[d].bytes);
    }
    object = cJSON_AddObjectToObject(root, "memory");
    cJSON_AddNumberToObject(object, "ctx", (double)options->ctx);
    cJSON_AddNumberToObject(object, "batch", (double)options->batch);
    cJSON_AddStringToObject(object, "mode",
                            cli_mode_label(options->device.mode, options->device.kv));
    cJSON_AddNumberToObject(object, "weights", (double)memory->weights);
    cJSON_AddNumberToObject(object, "kv_pages", (double)memory->kv_pages);
    cJSON_AddNumberToObject(object, "kv_pages_all_softmax",
                            (double)all_softmax_pages(rondo_model_config(model), memory));
    cJSON_AddNumberToObject(object, "states", (double)memory->states);
    cJSON_AddNumberToObject(object, "activations", (double)memory->activations);
    cJSON_AddNumberToObject(object, "total", (double)memory->total);
    if (options->tensors)
        cJSON_AddItemToObject(root, "tensors", tensors_json(model));
    if (options->devices)
        cJSON_AddItemToObject(root, "devices", devices_json());
    return root;
}

static int print_json(const struct info_options *options, const struct cli_engine *engine,
                      const struct rondo_memory *memory, struct rondo_error *error)
{
    cJSON *root = info_json(options, engine->model, memory);
    int result = RONDO_OK;
    if (options->plan)
        result =
            walk_plan(options, engine, add_plan_line, cJSON_AddArrayToObject(root, "plan"), error);
    char *text = result ? NULL : cJSON_Print(root);
    if (text)
        puts(text);
    else if (!result)
        result = rondo_fail(error, RONDO_FAILED, "out of memory");
    cJSON_free(text);
    cJSON_Delete(root);
    return result;
}

static int show(struct info_options *options, const struct cli_engine *engine,
                struct rondo_error *error)
{
    struct rondo_memory memory, other;
    enum rondo_kv kv = (enum rondo_kv)options->device.kv;
    int32_t limit = rondo_model_config(engine->model)->max_position_embeddings;
    if (!options->ctx)
        options->ctx = limit < 4096 ? limit : 4096;
    int result = memory_for(options, engine, kv, &memory, error);
    if (!result)
        result = memory_for(options, engine, kv == RONDO_KV_FP8 ? RONDO_KV_AUTO : RONDO_KV_FP8,
                            &other, error);
    if (!result && options->json) {
        result = print_json(options, engine, &memory, error);
    } else if (!result) {
        print_text(options, engine->model, &memory, &other);
        if (options->plan) {
            printf("\nplan\n");
            result = walk_plan(options, engine, print_plan_line, NULL, error);
        }
    }
    if (!result && options->check) {
        cli_interrupt_catch();
        result = rondo_model_check_weights(engine->model, cli_progress, NULL, error);
        cli_progress_clear();
        if (!result && !options->json)
            printf("\nchecked: no weight is NaN or infinite\n");
    }
    return result;
}

static int show_devices(bool json, struct rondo_error *error)
{
    if (!json) {
        print_devices();
        return RONDO_OK;
    }
    cJSON *array = devices_json();
    char *text = cJSON_Print(array);
    int result = text ? RONDO_OK : rondo_fail(error, RONDO_FAILED, "out of memory");
    if (text)
        puts(text);
    cJSON_free(text);
    cJSON_Delete(array);
    return result;
}

static int run(void *user)
{
    struct info_options *options = user;
    struct rondo_error error = {0};
    struct cli_engine engine;
    cli_messages(&options->messages);
    bool of_model = options->plan || options->tensors || options->check || options->ctx;
    if (!options->model.directory && of_model)
        return cli_usage("info: no model; give its directory with -m DIR");
    if (!options->model.directory && (options->devices || !options->json))
        return show_devices(options->json, &error) ? cli_report(&error) : RONDO_OK;
    int result = cli_engine_open(&engine, &options->model, &options->device, &error);
    if (!result)
        result = show(options, &engine, &error);
    cli_engine_close(&engine);
    return result ? cli_report(&error) : RONDO_OK;
}

static const struct cli_option_set sets[] = {
    CLI_SET(cli_model_table, FIELD(model)),
    CLI_SET(table, 0),
    CLI_SET(cli_device_table, FIELD(device)),
    CLI_SET(cli_message_table, FIELD(messages)),
};

const struct cli_command cli_info = {
    .name = "info",
    .summary = "show a checkpoint: config, tensors, plan, memory; and the devices here",
    .usage = "[-m DIR] [options]",
    .details =
        "  rondo info -m DIR --ctx 32768 --batch 4     what four sessions of 32768 tokens need\n"
        "  rondo info -m DIR --json | jq .config\n"
        "  rondo info --devices                        where models can run here, and why not\n",
    .sets = sets,
    .n_sets = sizeof sets / sizeof sets[0],
    .options_size = sizeof(struct info_options),
    .arguments_offset = FIELD(arguments),
    .max_arguments = 0,
    .run = run,
};
