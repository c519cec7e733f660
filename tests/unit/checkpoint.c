/* Checkpoint directories: files and shards, what may be wrong with them, the hash, the check for NaN. */
#include "core/dtype.h"
#include "core/error.h"
#include "core/model.h"
#include "formats/checkpoint.h"
#include "formats/safetensors_write.h"
#include "formats/synth.h"

#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#include <cjson/cJSON.h>
#include <math.h>

static struct rondo_error error;

static const char *make(const char *name, enum rondo_synth_dtype dtype, uint64_t shard_size)
{
    struct rondo_synth_options options = {
        .preset = "tiny", .dtype = dtype, .seed = 11, .shard_size = shard_size};
    const char *path = scratch_path(name);
    EXPECT(rondo_synth(&options, path, &error) == RONDO_OK, "%s", error.message);
    return path;
}

static const char *file_in(const char *directory, const char *name)
{
    static char path[2][800];
    static int next;
    next = !next;
    snprintf(path[next], sizeof path[next], "%s/%s", directory, name);
    return path[next];
}

static void expect_failure(const char *directory, const char *what, const char *more)
{
    error.message[0] = '\0';
    struct rondo_model *model = rondo_model_open(directory, NULL, &error);
    EXPECT(!model, "%s: opened", what);
    EXPECT(strstr(error.message, what) && strstr(error.message, more) &&
               !strchr(error.message, '\n'),
           "want %s, %s: got %s", what, more, error.message);
    rondo_model_close(model);
}

/* One file and shards of the same weights are the same model. */
static void test_open(void)
{
    const char *single = make("single", RONDO_SYNTH_FP8_BLOCK, 0);
    const char *sharded = make("sharded", RONDO_SYNTH_FP8_BLOCK, 300000);
    EXPECT(access(file_in(single, "model.safetensors"), F_OK) == 0, "not a single file");
    EXPECT(access(file_in(sharded, "model.safetensors.index.json"), F_OK) == 0, "no index");
    struct rondo_model *a = rondo_model_open(single, NULL, &error);
    struct rondo_model *b = rondo_model_open(sharded, NULL, &error);
    EXPECT(a && b, "%s", error.message);
    if (!a || !b)
        return;
    EXPECT(rondo_model_tensor_count(a) == rondo_model_tensor_count(b), "counts");
    for (size_t i = 0; i < rondo_model_tensor_count(a); i++) {
        struct rondo_tensor_info x, y;
        rondo_model_tensor(a, i, &x);
        rondo_model_tensor(b, i, &y);
        EXPECT(strcmp(x.name, y.name) == 0 && x.dtype == y.dtype && x.size == y.size &&
                   memcmp(x.shape, y.shape, sizeof x.shape) == 0 &&
                   memcmp(a->tensors[i].data, b->tensors[i].data, x.size) == 0,
               "%s and %s", x.name, y.name);
    }
    EXPECT(rondo_model_hash(a) == rondo_model_hash(b), "hashes of the same weights differ");
    EXPECT(strcmp(rondo_model_directory(a), single) == 0, "%s", rondo_model_directory(a));
    rondo_model_close(a);
    rondo_model_close(b);
}

static uint64_t hash_of(const char *directory, const struct rondo_model_options *options)
{
    struct rondo_model *model = rondo_model_open(directory, options, &error);
    EXPECT(model != NULL, "%s", error.message);
    uint64_t hash = model ? rondo_model_hash(model) : 0;
    rondo_model_close(model);
    return hash;
}

static void test_hash(void)
{
    const char *directory = scratch_path("single");
    uint64_t hash = hash_of(directory, NULL);
    struct rondo_model_options options = {.decay_offset = 1};
    EXPECT(hash_of(directory, &options) != hash, "the decay does not count");
    options = (struct rondo_model_options){.decay_offset = -1, .yarn_factor = 4};
    EXPECT(hash_of(directory, &options) != hash, "YaRN does not count");
    options.yarn_factor = 0;
    EXPECT(hash_of(directory, &options) == hash, "the defaults count");
    struct rondo_synth_options other = {
        .preset = "tiny", .dtype = RONDO_SYNTH_FP8_BLOCK, .seed = 12};
    EXPECT(rondo_synth(&other, scratch_path("other"), &error) == RONDO_OK, "%s", error.message);
    EXPECT(hash_of(scratch_path("other"), NULL) != hash, "the weights do not count");
}

/* ---- broken directories ----------------------------------------------------------------------- */

/* Changes the first `from` of a text file into `to`. */
static void edit(const char *path, const char *from, const char *to)
{
    size_t size = 0;
    char *text = scratch_read(path, &size), *at = text ? strstr(text, from) : NULL;
    EXPECT(at != NULL, "%s: %s", path, from);
    char *changed = malloc(size + strlen(to) + 1);
    size_t before = at ? (size_t)(at - text) : 0;
    memcpy(changed, text, before);
    strcpy(changed + before, to);
    if (at)
        strcat(changed, at + strlen(from));
    scratch_write_text(path, changed);
    free(changed);
    free(text);
}

static void test_directories(void)
{
    expect_failure(scratch_path("nowhere"), "nowhere/config.json", "cannot open");
    mkdir(scratch_path("bare"), 0777);
    scratch_write_text(scratch_path("bare/config.json"),
                       "{\"architectures\": [\"BailingMoeV2ForCausalLM\"]}");
    expect_failure(scratch_path("bare"), "no weights", "model.safetensors.index.json");
    /* a config that asks for other weights */
    const char *directory = make("wider", RONDO_SYNTH_BF16, 0);
    edit(file_in(directory, "config.json"), "\"intermediate_size\":\t256",
         "\"intermediate_size\":\t384");
    expect_failure(directory, "mlp.gate_proj.weight", "want [384, 128]");
    edit(file_in(directory, "config.json"), "\"intermediate_size\":\t384",
         "\"intermediate_size\":\t256");
    edit(file_in(directory, "config.json"), "\"use_bias\":\tfalse", "\"use_bias\":\ttrue");
    expect_failure(directory, "missing", "model.layers.0.attention.dense.bias");
    edit(file_in(directory, "config.json"), "\"num_experts\":\t16", "\"num_experts\":\t32");
    expect_failure(directory, "mlp.gate.weight", "want [32, 128]");
}

static void test_index(void)
{
    const char *directory = make("index", RONDO_SYNTH_BF16, 800000);
    const char *index = file_in(directory, "model.safetensors.index.json");
    static const struct {
        const char *from, *to, *what, *more;
    } cases[] = {
        {"model-00002", "model-00009", "model-00009", "missing"},
        {"\"model-00002", "\"../index/model-00002", "weight_map", "../index/model-00002"},
        {"\"model-00002", "\"/etc/model-00002", "weight_map", "/etc"},
        {"\"model-00002", "\".model-00002", "weight_map", ".model-00002"},
        {".safetensors\"", ".bin\"", "weight_map", ".bin"},
        {"\"model-00002-of", "17, \"x\": \"model-00002-of", "weight_map", "a number"},
        {"\"model.norm.weight\"", "\"model.norm.weights\"", "model.norm.weights", "does not hold"},
        {"\"weight_map\"", "\"weights\"", "weight_map", "names no tensor"},
        {"{\n    \"", "{}, \"x\": {\n    \"", "weight_map", "names no tensor"},
        {"\"model.norm.weight\"", "\"lm_head.weight\"", "lm_head.weight", "twice"},
        {"}\n}", "}\n", "line", "JSON"},
    };
    size_t size = 0;
    char *good = scratch_read(index, &size), path[800];
    snprintf(path, sizeof path, "%s", index);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        edit(path, cases[i].from, cases[i].to);
        expect_failure(directory, cases[i].what, cases[i].more);
        scratch_write_text(path, good);
    }
    struct rondo_model *model = rondo_model_open(directory, NULL, &error);
    EXPECT(model != NULL, "%s", error.message);
    rondo_model_close(model);
    free(good);
    /* a shard that is cut off */
    const char *shard = file_in(directory, "model-00002-of-00005.safetensors");
    struct stat info;
    EXPECT(stat(shard, &info) == 0 && truncate(shard, info.st_size - 1000) == 0, "%s", shard);
    expect_failure(directory, "model-00002", "1000 bytes are missing");
}

/* ---- contents --------------------------------------------------------------------------------- */

static void test_find_nan(void)
{
    uint8_t codes[9000];
    for (size_t i = 0; i < sizeof codes; i++)
        codes[i] =
            (uint8_t)(i % 254 % 127 + (i % 254 >= 127 ? 128 : 0)); /* all codes but the NaNs */
    EXPECT(rondo_e4m3_find_nan(codes, sizeof codes) == sizeof codes, "found one where none is");
    EXPECT(rondo_e4m3_find_nan(codes, 0) == 0, "found one in nothing");
    static const size_t places[] = {0, 1, 4095, 4096, 8191, 8192, 8999};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        uint8_t old = codes[places[i]];
        codes[places[i]] = i % 2 ? 0x7f : 0xff;
        EXPECT(rondo_e4m3_find_nan(codes, sizeof codes) == places[i], "place %zu", places[i]);
        EXPECT(rondo_e4m3_find_nan(codes, places[i]) == places[i], "looked past the end at %zu",
               places[i]);
        codes[places[i]] = old;
    }
}

/* As long as a block but one: a sanitizer sees a read past the end. */
static void test_find_nan_end(void)
{
    uint8_t *codes = calloc(4095, 1);
    EXPECT(rondo_e4m3_find_nan(codes, 4095) == 4095, "found one in zeros");
    codes[4094] = 0x7f;
    EXPECT(rondo_e4m3_find_nan(codes, 4095) == 4094, "not found at the end");
    free(codes);
}

/* A NaN or an infinity alone among all other patterns of bits, with and without whole blocks before it. */
static void test_find_not_finite(void)
{
    static const size_t places[] = {0, 1, 4095, 4096, 5000, 8999};
    static const struct {
        enum rondo_dtype dtype;
        float value;
    } cases[] = {{RONDO_F32, NAN},        {RONDO_F32, INFINITY}, {RONDO_BF16, NAN},
                 {RONDO_BF16, -INFINITY}, {RONDO_F16, INFINITY}, {RONDO_F16, -NAN},
                 {RONDO_F32, -INFINITY},  {RONDO_F8_E4M3, NAN}};
    static uint32_t bytes[9000]; /* as large as the largest dtype */
    static const float ordinary[] = {0.0f, -0.0f, 448.0f, -65504.0f, 1e-7f, 3.0f, -1.5f};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        enum rondo_dtype dtype = cases[c].dtype;
        for (size_t i = 0; i < 9000; i++)
            rondo_store(bytes, dtype, i, ordinary[i % 7]);
        EXPECT(rondo_find_not_finite(bytes, dtype, 9000) == 9000, "found one where none is");
        for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
            float before = rondo_load(bytes, dtype, places[i]);
            rondo_store(bytes, dtype, places[i], cases[c].value);
            EXPECT(rondo_find_not_finite(bytes, dtype, 9000) == places[i], "%s at %zu",
                   rondo_dtype_name(dtype), places[i]);
            EXPECT(rondo_find_not_finite(bytes, dtype, places[i]) == places[i], "past the end");
            rondo_store(bytes, dtype, places[i], before);
        }
    }
}

static int count_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    *(uint64_t *)user = done == total ? total : 0;
    return 0;
}

static int cancel(void *user, const char *what, uint64_t done, uint64_t total)
{
    return 1;
}

/* Writes n bytes into a tensor of a file. */
static void plant(const char *path, const char *name, size_t at, const void *value, size_t n)
{
    size_t size = 0;
    struct rondo_safetensors file;
    char *bytes = scratch_read(path, &size);
    EXPECT(rondo_safetensors_parse(&file, path, bytes, size, &error) == RONDO_OK, "%s",
           error.message);
    memcpy((char *)(uintptr_t)rondo_safetensors_find(&file, name)->data + at, value, n);
    rondo_safetensors_close(&file);
    scratch_write(path, bytes, size);
    free(bytes);
}

/* Whether a context can be made. */
static bool runs(struct rondo_model *model, bool unchecked, rondo_progress_function *progress,
                 void *user)
{
    struct rondo_device *device = rondo_device_open("cpu", NULL, &error);
    EXPECT(device, "%s", error.message);
    struct rondo_context_options options = {
        .max_context = 64, .unchecked = unchecked, .progress = progress, .progress_user = user};
    struct rondo_context *context =
        device ? rondo_context_create(model, device, &options, &error) : NULL;
    bool made = context != NULL;
    rondo_context_destroy(context);
    rondo_device_close(device);
    return made;
}

static void expect_damage(const char *directory, const char *name, const char *place,
                          const char *got)
{
    struct rondo_model *model = rondo_model_open(directory, NULL, &error);
    EXPECT(model && rondo_model_check_weights(model, NULL, NULL, &error) == RONDO_FAILED,
           "damage of %s not found", name);
    EXPECT(strstr(error.message, name) && strstr(error.message, place) &&
               strstr(error.message, got),
           "%s", error.message);
    error.message[0] = 0;
    EXPECT(!runs(model, false, NULL, NULL), "a context with damage in %s", name);
    EXPECT(strstr(error.message, name) && strstr(error.message, place), "%s", error.message);
    EXPECT(runs(model, true, NULL, NULL), "%s", error.message);
    rondo_model_close(model);
}

static int sum_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    *(uint64_t *)user += done;
    return 0;
}

/* A model's first context reads the weights in use, in pieces of many; others do not read them again. */
static void test_check_at_load(void)
{
    const char *directory = make("load", RONDO_SYNTH_FP8_BLOCK, 0);
    uint64_t first = 0, again = 0;
    struct rondo_model *model = rondo_model_open(directory, NULL, &error);
    EXPECT(model && !runs(model, false, cancel, NULL), "not cancelled");
    EXPECT(strstr(error.message, "interrupted"), "%s", error.message);
    EXPECT(model && runs(model, false, sum_progress, &first), "%s", error.message);
    EXPECT(model && first == rondo_model_bytes(model), "%llu bytes checked",
           (unsigned long long)first);
    EXPECT(model && runs(model, false, sum_progress, &again) && !again, "checked twice");
    rondo_model_close(model);
}

static void test_nan(void)
{
    const char *directory = make("nan", RONDO_SYNTH_FP8_ROW, 0);
    const char *name = "model.layers.2.mlp.experts.5.down_proj.weight";
    char path[800];
    uint64_t done = 0;
    float not_a_number = NAN, one = 1;
    snprintf(path, sizeof path, "%s", file_in(directory, "model.safetensors"));
    struct rondo_model *model = rondo_model_open(directory, NULL, &error);
    EXPECT(model && rondo_model_check_weights(model, count_progress, &done, &error) == RONDO_OK &&
               done > 1000000,
           "%s", error.message);
    EXPECT(rondo_model_check_weights(model, cancel, NULL, &error) == RONDO_FAILED &&
               strstr(error.message, "interrupted"),
           "%s", error.message);
    rondo_model_close(model);
    plant(path, "model.layers.2.mlp.experts.5.down_proj.weight_scale", 7 * 4, &not_a_number, 4);
    expect_damage(directory, "down_proj.weight_scale:", "row 7, column 0", "got nan");
    plant(path, "model.layers.2.mlp.experts.5.down_proj.weight_scale", 7 * 4, &one, 4);
    plant(path, "model.layers.1.input_layernorm.weight", 5 * 2, "\x80\xff", 2);
    expect_damage(directory, "model.layers.1.input_layernorm.weight:", "column 5", "got -inf");
    plant(path, "model.layers.1.input_layernorm.weight", 5 * 2, "\x80\x3f", 2);
    plant(path, name, 100 * 64 + 63, "\xff", 1);
    expect_damage(directory, name, "row 100, column 63", "0xff");
}

/* A NaN in a layer that the config leaves out hinders nobody, but is found in a check of everything. */
static void test_nan_unused(void)
{
    const char *directory = make("unused", RONDO_SYNTH_FP8_ROW, 0);
    const char *config = file_in(directory, "config.json"), *key = "\"num_hidden_layers\":\t";
    size_t size = 0;
    plant(file_in(directory, "model.safetensors"), "model.layers.3.mlp.experts.5.up_proj.weight", 3,
          "\x7f", 1);
    expect_damage(directory, "experts.5.up_proj.weight", "row 0, column 3", "0x7f");
    char *text = scratch_read(config, &size), *value = strstr(text, key);
    EXPECT(value && value[strlen(key)] == '4', "%s", text);
    if (value)
        value[strlen(key)] = '2';
    scratch_write(config, text, size);
    free(text);
    struct rondo_model *model = rondo_model_open(directory, NULL, &error);
    EXPECT(model && runs(model, false, NULL, NULL), "%s", error.message);
    EXPECT(model && rondo_model_check_weights(model, NULL, NULL, &error), "not found");
    rondo_model_close(model);
}

/* Data at odd addresses, as no good writer leaves it: copied, with the same values. */
static void test_unaligned(void)
{
    const char *directory = make("odd", RONDO_SYNTH_BF16, 0);
    uint64_t hash = hash_of(directory, NULL);
    char path[800];
    size_t size = 0;
    snprintf(path, sizeof path, "%s", file_in(directory, "model.safetensors"));
    char *bytes = scratch_read(path, &size), *longer = malloc(size + 1);
    size_t header = (unsigned char)bytes[0] | (size_t)(unsigned char)bytes[1] << 8 |
                    (size_t)(unsigned char)bytes[2] << 16;
    memcpy(longer, bytes, 8 + header);
    longer[8 + header] = ' ';
    memcpy(longer + 9 + header, bytes + 8 + header, size - 8 - header);
    for (int i = 0; i < 3; i++)
        longer[i] = (char)((header + 1) >> (8 * i));
    scratch_write(path, longer, size + 1);
    free(bytes);
    free(longer);
    struct rondo_model *model = rondo_model_open(directory, NULL, &error);
    EXPECT(model != NULL, "%s", error.message);
    for (size_t i = 0; model && i < model->n_tensors; i++)
        EXPECT((uintptr_t)model->tensors[i].data % rondo_dtype_size(model->tensors[i].info.dtype) ==
                   0,
               "%s", model->tensors[i].info.name);
    EXPECT(!model || rondo_model_hash(model) == hash, "other values");
    rondo_model_close(model);
}

/* FP8 without scales, and a dtype that nothing computes with. */
static void test_dtypes(void)
{
    const char *directory = make("dtypes", RONDO_SYNTH_FP8_BLOCK, 0);
    char path[800];
    size_t size = 0;
    snprintf(path, sizeof path, "%s", file_in(directory, "model.safetensors"));
    char *bytes = scratch_read(path, &size);
    static const struct {
        const char *from, *to, *what, *more;
    } cases[] = {
        {"0.mlp.up_proj.weight_scale_inv\"", "0.mlp.up_proj.weight_scale_xyz\"",
         "0.mlp.up_proj.weight", "scale"},
        {"0.mlp.up_proj.weight_scale_inv\":{\"dtype\":\"F32\"",
         "0.mlp.up_proj.weight_scale_inv\":{\"dtype\":\"I32\"", "0.mlp.up_proj.weight_scale_inv",
         "dtype"},
        {"model.norm.weight\":{\"dtype\":\"BF16\"", "model.norm.weight\":{\"dtype\":\"I16\" ",
         "model.norm.weight", "dtype"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *at = memmem(bytes, size, cases[i].from, strlen(cases[i].from));
        EXPECT(at != NULL, "%s", cases[i].from);
        if (!at)
            continue;
        memcpy(at, cases[i].to, strlen(cases[i].to));
        scratch_write(path, bytes, size);
        memcpy(at, cases[i].from, strlen(cases[i].from));
        expect_failure(directory, cases[i].what, cases[i].more);
    }
    free(bytes);
}

static void ignore(void *user, enum rondo_log_level level, const char *line)
{
}

int main(void)
{
    rondo_log_set(ignore, NULL); /* of unaligned data and the like */
    scratch_begin();
    test_open();
    test_hash();
    test_directories();
    test_index();
    test_find_nan();
    test_find_nan_end();
    test_find_not_finite();
    test_check_at_load();
    test_nan();
    test_nan_unused();
    test_unaligned();
    test_dtypes();
    scratch_end();
    return test_result();
}
