/* Contexts of models that no file holds: what they say they take against what a device gives, creation that
 * fails at every allocation, sizes at the limits, and ops that fall back. */
#include "core/context.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

static struct rondo_error error;
static struct rondo_weight_entry *entries; /* of the model there is, whose names they hold */

/* ---- models ----------------------------------------------------------------------------------- */

static struct rondo_config small(void)
{
    return (struct rondo_config){
        .vocab_size = 50,
        .hidden_size = 32,
        .num_hidden_layers = 3,
        .num_attention_heads = 2,
        .num_key_value_heads = 1,
        .head_dim = 16,
        .intermediate_size = 48,
        .moe_intermediate_size = 16,
        .shared_intermediate_size = 16,
        .num_experts = 4,
        .num_experts_per_tok = 2,
        .num_shared_experts = 1,
        .n_group = 1,
        .topk_group = 1,
        .first_k_dense_replace = 1,
        .layer_group_size = 3,
        .group_norm_size = 2,
        .rotary_dim = 8,
        .max_position_embeddings = 4096,
        .rope_theta = 1e4,
        .rms_norm_eps = 1e-6,
        .routed_scaling_factor = 1,
        .use_expert_bias = true,
        .use_qk_norm = true,
        .norm_topk_prob = true,
    };
}

static int by_name(const void *a, const void *b)
{
    const struct rondo_file_tensor *x = a, *y = b;
    return strcmp(x->info.name, y->info.name);
}

/* A model whose tensors are all the same zeros; `dtype` is that of its matrices, its vectors are bf16. */
static struct rondo_model *make_model(struct rondo_config config, enum rondo_dtype dtype)
{
    size_t count = 0, largest = 0;
    entries = rondo_weight_list(&config, &count);
    struct rondo_model *model = calloc(1, sizeof *model);
    *model = (struct rondo_model){.config = config, .n_tensors = count, .directory = "zeros"};
    model->tensors = calloc(count, sizeof *model->tensors);
    for (size_t i = 0; i < count; i++) {
        bool vector = rondo_weight_is_vector(entries[i].kind);
        struct rondo_tensor_info *info = &model->tensors[i].info;
        info->name = entries[i].name;
        info->file = "zeros";
        info->dtype = vector ? RONDO_BF16 : dtype;
        info->n_dims = vector ? 1 : 2;
        info->shape[0] = vector ? entries[i].columns : entries[i].rows;
        info->shape[1] = vector ? 1 : entries[i].columns;
        info->size =
            (uint64_t)info->shape[0] * (uint64_t)info->shape[1] * rondo_dtype_size(info->dtype);
        largest = info->size > largest ? (size_t)info->size : largest;
    }
    model->mappings = calloc(1, largest); /* never touched where weights are used in place */
    for (size_t i = 0; i < count; i++)
        model->tensors[i].data = model->mappings;
    qsort(model->tensors, count, sizeof *model->tensors, by_name);
    model->block_rows = model->block_columns = RONDO_BLOCK;
    return model;
}

static void free_model(struct rondo_model *model)
{
    free(entries);
    free(model->mappings);
    free(model->tensors);
    free(model);
}

/* ---- a device that counts --------------------------------------------------------------------- */

static struct {
    void *(*allocate)(struct rondo_device *device, size_t size);
    void (*release)(struct rondo_device *device, void *memory);
    long calls, live, fail_at; /* fail_at: the call that finds no memory; -1: none */
    uint64_t bytes;
} counted;

static void *count_allocate(struct rondo_device *device, size_t size)
{
    if (counted.calls++ == counted.fail_at)
        return NULL;
    counted.live++;
    counted.bytes += (size + 255) & ~(uint64_t)255;
    return counted.allocate(device, size);
}

static void count_release(struct rondo_device *device, void *memory)
{
    counted.live--;
    counted.release(device, memory);
}

static struct rondo_device *open_device(const char *name, bool strict)
{
    struct rondo_device_options options = {.threads = 1, .strict = strict};
    struct rondo_device *device = rondo_device_open(name, &options, &error);
    if (!device) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    counted.allocate = device->allocate;
    counted.release = device->release;
    counted.calls = counted.live = 0;
    counted.bytes = 0;
    counted.fail_at = -1;
    device->allocate = count_allocate;
    device->release = count_release;
    return device;
}

/* ---- tests ------------------------------------------------------------------------------------ */

/* What rondo_context_memory says is what is taken: exactly, but for the rounding of single blocks. With
 * weights in place the vectors, which are not f32, are copies. */
static void test_memory(bool in_place, bool tied, enum rondo_mode mode)
{
    struct rondo_config config = small();
    config.tie_word_embeddings = tied;
    struct rondo_model *model = make_model(config, RONDO_BF16);
    struct rondo_device *device = open_device("cpu", false);
    if (!in_place)
        device->uses_host_memory = NULL;
    struct rondo_context_options options = {
        .mode = mode, .max_context = 300, .max_sessions = 3, .max_batch_tokens = 20};
    struct rondo_memory memory;
    EXPECT(!rondo_context_memory(model, device, &options, &memory, &error), "%s", error.message);
    EXPECT(memory.total == memory.weights + memory.kv_pages + memory.states + memory.activations,
           "total");
    EXPECT(counted.calls == 0, "sizes are told without taking memory");
    struct rondo_context *context = rondo_context_create(model, device, &options, &error);
    EXPECT(context, "%s", error.message);
    uint64_t workspace = device->workspace_size(device, &context->plan.limits);
    uint64_t want = memory.total - workspace - (in_place ? rondo_model_bytes(model) : 0);
    uint64_t slack = 256 * (uint64_t)counted.calls;
    EXPECT(counted.bytes + slack >= want && counted.bytes <= want + slack,
           "%llu bytes taken, %llu promised", (unsigned long long)counted.bytes,
           (unsigned long long)want);
    EXPECT(context->weights.owned_bytes == rondo_weights_device_bytes(model, in_place),
           "%llu bytes of weights owned", (unsigned long long)context->weights.owned_bytes);
    EXPECT(!tied || context->weights.lm_head.data == context->weights.embedding.data,
           "the tied head is a second copy");
    rondo_context_destroy(context);
    EXPECT(counted.live == 0, "%ld blocks left", counted.live);
    rondo_device_close(device);
    free_model(model);
}

/* Creation that finds no device memory at any of its allocations says so and gives everything back. */
static void test_failing_creation(void)
{
    struct rondo_model *model = make_model(small(), RONDO_BF16);
    struct rondo_device *device = open_device("cpu", false);
    device->uses_host_memory = NULL;
    struct rondo_context_options options = {.max_context = 100, .max_batch_tokens = 4};
    struct rondo_context *context = NULL;
    long n = 0;
    for (; !context && n < 1000; n++) {
        counted.calls = 0;
        counted.fail_at = n;
        error = (struct rondo_error){0};
        context = rondo_context_create(model, device, &options, &error);
        EXPECT(context || (error.status == RONDO_FAILED && error.message[0]), "allocation %ld", n);
        EXPECT(context || counted.live == 0, "allocation %ld: %ld blocks left", n, counted.live);
        EXPECT(!strchr(error.message, '\n'), "%s", error.message);
    }
    EXPECT(context && n > 50, "%ld allocations", n);
    rondo_context_destroy(context);
    EXPECT(counted.live == 0, "%ld blocks left", counted.live);
    rondo_device_close(device);
    free_model(model);
}

static uint64_t no_memory(struct rondo_device *device)
{
    return 1000;
}

/* A model of many layers and a context of a million tokens: numbers that are computed, and refused by. */
static void test_large(void)
{
    struct rondo_config config = small();
    config.vocab_size = 157184;
    config.hidden_size = 64;
    config.num_hidden_layers = 512;
    config.num_attention_heads = 64;
    config.num_key_value_heads = 8;
    config.head_dim = 128;
    config.layer_group_size = 8;
    config.max_position_embeddings = 1 << 20;
    struct rondo_model *model = make_model(config, RONDO_BF16);
    struct rondo_device *device = open_device("cpu", false);
    device->memory_available = no_memory;
    struct rondo_context_options options = {.max_sessions = 64};
    struct rondo_memory memory;
    EXPECT(!rondo_context_memory(model, device, &options, &memory, &error), "%s", error.message);
    uint64_t softmax = 64, linear = 448, slots = 64, snapshots = 128, drafts = 64;
    uint64_t pages = 2 * softmax * ((slots << 20) + slots * drafts) * 8 * 128 * 4;
    uint64_t states = linear * (64 * 128 * 128 * 4 * (slots + snapshots) +
                                2 * slots * (64 + drafts) * 64 * 128 * 4);
    EXPECT(memory.kv_pages == pages, "%llu bytes of pages, want %llu",
           (unsigned long long)memory.kv_pages, (unsigned long long)pages);
    EXPECT(memory.states == states, "%llu bytes of states, want %llu",
           (unsigned long long)memory.states, (unsigned long long)states);
    struct rondo_context *context = rondo_context_create(model, device, &options, &error);
    EXPECT(!context, "a context of %llu bytes", (unsigned long long)memory.total);
    char total[32];
    snprintf(total, sizeof total, "want %.2f GB", (double)memory.total / 1e9);
    EXPECT(strstr(error.message, total) && strstr(error.message, "got 0.00 GB"), "%s",
           error.message);
    EXPECT(counted.calls == 0, "%ld allocations before it was refused", counted.calls);
    rondo_context_destroy(context);
    rondo_device_close(device);
    free_model(model);
}

static int n_lines;
static char last_line[1024];

static void keep_line(void *user, enum rondo_log_level level, const char *line)
{
    if (level > RONDO_LOG_WARNING)
        return;
    n_lines++;
    snprintf(last_line, sizeof last_line, "%s", line);
}

/* Heads that no kernel takes: one warning per op, an error with strict, nothing on the reference. */
static void test_fallback(void)
{
    struct rondo_config config = small();
    config.head_dim = 24;
    struct rondo_model *model = make_model(config, RONDO_BF16);
    struct rondo_context_options options = {.max_context = 100};
    struct rondo_device *device = open_device("cpu", false);
    bool is_ref = strstr(rondo_device_description(device), "(ref") != NULL;
    rondo_log_set(keep_line, NULL);
    struct rondo_context *context = rondo_context_create(model, device, &options, &error);
    EXPECT(context, "%s", error.message);
    EXPECT(is_ref || (n_lines == 2 && strstr(last_line, "falls back")), "%d lines: %s", n_lines,
           last_line);
    rondo_context_destroy(context);
    rondo_device_close(device);

    device = open_device("cpu", true);
    context = rondo_context_create(model, device, &options, &error);
    EXPECT(is_ref || (!context && strstr(error.message, "falls back")), "%s", error.message);
    rondo_context_destroy(context);
    rondo_device_close(device);

    n_lines = 0;
    device = open_device("cpu:ref", true);
    context = rondo_context_create(model, device, &options, &error);
    EXPECT(context && n_lines == 0, "%s, %s", error.message, last_line);
    rondo_context_destroy(context);
    rondo_device_close(device);
    rondo_log_set(NULL, NULL);
    free_model(model);
}

/* A list of tensors ends in dots only when it is cut. */
static void test_messages(void)
{
    struct rondo_model *model = make_model(small(), RONDO_BF16);
    rondo_log_set(keep_line, NULL);
    const char *first = model->tensors[0].info.name, *second = model->tensors[1].info.name;
    model->tensors[0].info.name = "aaa.unknown";
    model->tensors[1].info.name = "bbb.unknown";
    EXPECT(rondo_weights_check(model, &error) == RONDO_FAILED, "two tensors are missing");
    EXPECT(strstr(error.message, "2 tensors are missing: ") && !strstr(error.message, "..."), "%s",
           error.message);
    EXPECT(strstr(error.message, first) && strstr(error.message, second), "%s", error.message);
    model->tensors[0].info.name = first;
    model->tensors[1].info.name = second;

    struct rondo_file_tensor *more =
        calloc(model->n_tensors + 20, sizeof *more); /* names that sort last */
    char names[20][64];
    memcpy(more, model->tensors, model->n_tensors * sizeof *more);
    for (int i = 0; i < 20; i++) {
        snprintf(names[i], sizeof names[i], "zzz.%d.a.name.of.nothing.that.is.known.here", i);
        more[model->n_tensors + (size_t)i] = more[0];
        more[model->n_tensors + (size_t)i].info.name = names[i];
    }
    free(model->tensors);
    model->tensors = more;
    size_t count = model->n_tensors;
    for (size_t extra = 1; extra <= 20; extra += extra == 2 ? 18 : 1) {
        model->n_tensors = count + extra;
        n_lines = 0;
        EXPECT(!rondo_weights_check(model, &error), "%s", error.message);
        EXPECT(n_lines == 1 && strstr(last_line, names[0]), "%d lines: %s", n_lines, last_line);
        EXPECT((strstr(last_line, " ...") != NULL) == (extra == 20), "%s", last_line);
    }
    model->n_tensors = count;
    rondo_log_set(NULL, NULL);
    free_model(model);
}

int main(void)
{
    for (int i = 0; i < 6; i++)
        test_memory(i & 1, i & 2, i / 2 == 1 ? RONDO_MODE_F32 : RONDO_MODE_BF16);
    test_failing_creation();
    test_large();
    test_fallback();
    test_messages();
    return test_result();
}
