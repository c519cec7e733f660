/* Random checkpoints: sizes, statistics, determinism, routing, refusals. */
#include "core/dtype.h"
#include "core/model.h"
#include "formats/output.h"
#include "formats/synth.h"
#include "formats/synth_fill.h"

#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#include <math.h>
#include <sys/resource.h>
#include <signal.h>

static int synth(const char *preset, enum rondo_synth_dtype dtype, uint64_t seed, int threads,
                 uint64_t shard_size, const char *directory, struct rondo_error *error)
{
    struct rondo_synth_options options = {.preset = preset,
                                          .dtype = dtype,
                                          .seed = seed,
                                          .threads = threads,
                                          .shard_size = shard_size,
                                          .lm_head_fp8 = dtype >= RONDO_SYNTH_FP8_BLOCK};
    error->message[0] = '\0';
    return rondo_synth(&options, directory, error);
}

static uint64_t size_of(const char *preset, enum rondo_synth_dtype dtype)
{
    struct rondo_synth_options options = {.preset = preset, .dtype = dtype};
    uint64_t bytes = 0;
    EXPECT(rondo_synth_size(&options, &bytes, NULL) == RONDO_OK, "%s", preset);
    return bytes;
}

/* Parameters as published; expert_bias is float32, two bytes more each than the bfloat16 rest. */
static void test_sizes(void)
{
    EXPECT(size_of("ring-mini-linear-2.0", RONDO_SYNTH_BF16) ==
               2 * UINT64_C(16423448320) + 2 * 19 * 256,
           "got %llu", (unsigned long long)size_of("ring-mini-linear-2.0", RONDO_SYNTH_BF16));
    EXPECT(size_of("ring-flash-linear-2.0", RONDO_SYNTH_BF16) ==
               2 * UINT64_C(104181665536) + 2 * 31 * 256,
           "got %llu", (unsigned long long)size_of("ring-flash-linear-2.0", RONDO_SYNTH_BF16));
    /* without g_proj and g_norm, and with key/value heads shared */
    uint64_t less = 16 * ((uint64_t)2048 * 2048 + 2048 + 2 * 12 * 128 * 2048);
    EXPECT(size_of("ling-mini-2.0", RONDO_SYNTH_BF16) ==
               2 * (UINT64_C(16423448320) - less) + 2 * 19 * 256,
           "got %llu", (unsigned long long)size_of("ling-mini-2.0", RONDO_SYNTH_BF16));
    /* qkv, dense, the FFN and four norms a layer; embedding, head and last norm */
    uint64_t layer = (uint64_t)4096 * (128 * 48 + 4096 + 3 * 12288 + 2) + 2 * 128;
    EXPECT(size_of("dense-8b", RONDO_SYNTH_BF16) ==
               2 * (36 * layer + (2 * UINT64_C(157184) + 1) * 4096),
           "got %llu", (unsigned long long)size_of("dense-8b", RONDO_SYNTH_BF16));
    uint64_t fp8 = size_of("ring-mini-linear-2.0", RONDO_SYNTH_FP8_BLOCK);
    EXPECT(fp8 > UINT64_C(16900000000) && fp8 < UINT64_C(17200000000), "got %llu",
           (unsigned long long)fp8);
}

/* Value of element `index` with its scale. */
static double value_of(const struct rondo_model *model, const struct rondo_file_tensor *tensor,
                       int64_t index)
{
    double value = rondo_load(tensor->data, tensor->info.dtype, (size_t)index);
    char name[200];
    int64_t columns = tensor->info.shape[1], row = index / columns, column = index % columns;
    if (tensor->info.dtype != RONDO_F8_E4M3)
        return value;
    snprintf(name, sizeof name, "%s_scale_inv", tensor->info.name);
    const struct rondo_file_tensor *scale = rondo_model_find(model, name);
    if (scale)
        return value *
               ((const float *)scale->data)[row / 128 * scale->info.shape[1] + column / 128];
    snprintf(name, sizeof name, "%s_scale", tensor->info.name);
    scale = rondo_model_find(model, name);
    EXPECT(scale != NULL, "%s has no scale", tensor->info.name);
    return scale ? value * ((const float *)scale->data)[row] : NAN;
}

static void expect_moments(const struct rondo_model *model, const char *name, double mean,
                           double deviation, double margin)
{
    const struct rondo_file_tensor *tensor = rondo_model_find(model, name);
    double sum = 0, squares = 0;
    int64_t n = 1;
    EXPECT(tensor != NULL, "%s", name);
    if (!tensor)
        return;
    for (int i = 0; i < tensor->info.n_dims; i++)
        n *= tensor->info.shape[i];
    for (int64_t i = 0; i < n; i++) {
        double value = value_of(model, tensor, i);
        sum += value;
        squares += value * value;
    }
    double got_mean = sum / n, got = sqrt(squares / n - got_mean * got_mean);
    margin += 5 / sqrt((double)n);
    EXPECT(fabs(got_mean - mean) < 6 * deviation / sqrt((double)n), "%s: mean %g", name, got_mean);
    EXPECT(fabs(got / deviation - 1) < margin, "%s: deviation %g, want %g", name, got, deviation);
}

/* Load of each expert when unit-RMS embeddings go through a layer's router, group-limited as in the model. */
static void test_routing(const struct rondo_model *model)
{
    const struct rondo_config *c = rondo_model_config(model);
    const struct rondo_file_tensor *embedding =
        rondo_model_find(model, "model.word_embeddings.weight");
    const struct rondo_file_tensor *router =
        rondo_model_find(model, "model.layers.2.mlp.gate.weight");
    const struct rondo_file_tensor *bias =
        rondo_model_find(model, "model.layers.2.mlp.gate.expert_bias");
    int E = c->num_experts, per_group = E / c->n_group,
        tokens = c->vocab_size < 1024 ? c->vocab_size : 1024;
    int load[256] = {0};
    for (int t = 0; t < tokens; t++) {
        double score[256], group[64];
        bool open[64] = {false};
        for (int e = 0; e < E; e++) {
            double dot = 0;
            for (int d = 0; d < c->hidden_size; d++)
                dot += value_of(model, embedding, (int64_t)t * c->hidden_size + d) *
                       value_of(model, router, (int64_t)e * c->hidden_size + d);
            score[e] = 1 / (1 + exp(-dot)) + ((const float *)bias->data)[e];
        }
        for (int g = 0; g < c->n_group; g++) {
            double first = -1, second = -1;
            for (int e = g * per_group; e < (g + 1) * per_group; e++) {
                if (score[e] > first)
                    second = first, first = score[e];
                else if (score[e] > second)
                    second = score[e];
            }
            group[g] = first + second;
        }
        for (int i = 0; i < c->topk_group; i++) {
            int best = -1;
            for (int g = 0; g < c->n_group; g++)
                if (!open[g] && (best < 0 || group[g] > group[best]))
                    best = g;
            open[best] = true;
        }
        for (int k = 0; k < c->num_experts_per_tok; k++) {
            int best = -1;
            for (int e = 0; e < E; e++)
                if (open[e / per_group] && (best < 0 || score[e] > score[best]))
                    best = e;
            load[best]++;
            score[best] = -9;
        }
    }
    int least = load[0], most = load[0];
    for (int e = 1; e < E; e++) {
        least = load[e] < least ? load[e] : least;
        most = load[e] > most ? load[e] : most;
    }
    double mean = (double)tokens * c->num_experts_per_tok / E;
    EXPECT(least > 0.3 * mean && most < 2.2 * mean, "loads from %d to %d round %g", least, most,
           mean);
}

static void test_contents(void)
{
    static const char *const names[] = {"bf16", "f16", "f32", "block", "row"};
    struct rondo_error error;
    for (int dtype = RONDO_SYNTH_BF16; dtype <= RONDO_SYNTH_FP8_ROW; dtype++) {
        const char *directory = scratch_path(names[dtype]);
        EXPECT(synth("tiny", dtype, 7, 2, 0, directory, &error) == RONDO_OK, "%s", error.message);
        struct rondo_model *model = rondo_model_open(directory, NULL, &error);
        EXPECT(model != NULL, "%s", error.message);
        if (!model)
            continue;
        EXPECT(rondo_model_check_weights(model, NULL, NULL, &error) == RONDO_OK, "%s",
               error.message);
        /* scales are 0.75 to 1.25 times their mean, and some tensors here have two blocks */
        double margin = dtype == RONDO_SYNTH_FP8_BLOCK ? 0.26 : 0.05;
        expect_moments(model, "model.word_embeddings.weight", 0, 1, margin);
        expect_moments(model, "lm_head.weight", 0, 3 / sqrt(128), margin);
        expect_moments(model, "model.layers.0.attention.query_key_value.weight", 0, 1 / sqrt(128),
                       margin);
        expect_moments(model, "model.layers.0.mlp.down_proj.weight", 0, 1 / sqrt(256), margin);
        expect_moments(model, "model.layers.3.mlp.experts.15.down_proj.weight", 0, 1 / sqrt(64),
                       margin);
        expect_moments(model, "model.layers.1.input_layernorm.weight", 1, 0.1, margin);
        expect_moments(model, "model.layers.1.mlp.gate.expert_bias", 0, 0.02, margin);
        EXPECT(rondo_model_config(model)->n_eos_token_ids > 0, "no end token");
        if (dtype == RONDO_SYNTH_BF16)
            test_routing(model);
        rondo_model_close(model);
    }
}

static void test_determinism(void)
{
    struct rondo_error error;
    const char *one = scratch_path("one"), *three = scratch_path("three"),
               *other = scratch_path("other");
    EXPECT(synth("tiny", RONDO_SYNTH_FP8_BLOCK, 1, 1, 400000, one, &error) == RONDO_OK, "%s",
           error.message);
    EXPECT(synth("tiny", RONDO_SYNTH_FP8_BLOCK, 1, 3, 400000, three, &error) == RONDO_OK, "%s",
           error.message);
    EXPECT(synth("tiny", RONDO_SYNTH_FP8_BLOCK, 2, 3, 400000, other, &error) == RONDO_OK, "%s",
           error.message);
    EXPECT(scratch_count(one) > 5, "%d files: not in shards", scratch_count(one));
    EXPECT(scratch_same_directory(one, three), "1 and 3 threads");
    EXPECT(!scratch_same_directory(one, other), "seeds 1 and 2");
}

static void test_tokenizer(void)
{
    struct rondo_error error = {.status = RONDO_OK};
    struct rondo_tokenizer *tokenizer = rondo_tokenizer_open(scratch_path("bf16"), &error);
    int32_t *ids = NULL;
    EXPECT(tokenizer != NULL, "%s", error.message);
    EXPECT(tokenizer && rondo_tokenizer_encode(tokenizer, "Ab", 2, false, &ids, &error) == 2 &&
               ids[0] == 'A' && ids[1] == 'b',
           "%s", error.message);
    free(ids);
    rondo_tokenizer_close(tokenizer);
}

/* Any part of a tensor, made alone, is that part of the whole. */
static void test_parts(void)
{
    static struct rondo_synth_tables tables;
    static const enum rondo_dtype dtypes[] = {RONDO_BF16, RONDO_F16, RONDO_F8_E4M3, RONDO_F32};
    static char whole[1000 * 4], part[1000 * 4];
    rondo_synth_tables_fill(&tables);
    for (int fill = RONDO_SYNTH_NORMAL; fill <= RONDO_SYNTH_SCALES; fill++) {
        enum rondo_dtype dtype = dtypes[fill];
        size_t element = rondo_dtype_size(dtype), first = 504, n = 491;
        rondo_synth_elements(&tables, fill, 99, 0.5f, dtype, 0, 1000, whole);
        rondo_synth_elements(&tables, fill, 99, 0.5f, dtype, first, n, part);
        EXPECT(memcmp(whole + first * element, part, n * element) == 0, "fill %d", fill);
        EXPECT(memcmp(whole, part, n * element) != 0, "fill %d repeats itself", fill);
    }
}

static int stop_halfway(void *user, const char *what, uint64_t done, uint64_t total)
{
    return done > total / 2;
}

static void test_refusals(void)
{
    struct rondo_error error = {.status = RONDO_OK};
    struct rondo_synth_options options = {.preset = "tiny", .progress = stop_halfway, .threads = 1};
    const char *directory = scratch_path("refused");
    EXPECT(synth("huge", RONDO_SYNTH_BF16, 0, 1, 0, directory, &error) == RONDO_USAGE &&
               strstr(error.message, "tiny"),
           "%s", error.message);
    EXPECT(synth("tiny", RONDO_SYNTH_BF16, 0, 1, 0, scratch, &error) == RONDO_FAILED &&
               strstr(error.message, "not empty"),
           "%s", error.message);
    EXPECT(rondo_synth(&options, directory, &error) == RONDO_FAILED &&
               strstr(error.message, "interrupted"),
           "%s", error.message);
    EXPECT(access(directory, F_OK) != 0, "a cancelled run left its directory");
    uint64_t room = 0, want = size_of("ring-flash-linear-2.0", RONDO_SYNTH_F32); /* 417 GB */
    EXPECT(rondo_disk_free(scratch, &room, &error) == RONDO_OK, "%s", error.message);
    if (room < want)
        EXPECT(synth("ring-flash-linear-2.0", RONDO_SYNTH_F32, 0, 1, 0, directory, &error) ==
                       RONDO_FAILED &&
                   strstr(error.message, "too little room"),
               "%s", error.message);
    /* a file that may not grow stands for a disk that is full */
    struct rlimit old, small = {.rlim_cur = 100000};
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int status = synth("tiny", RONDO_SYNTH_BF16, 0, 2, 0, directory, &error);
    setrlimit(RLIMIT_FSIZE, &old);
    EXPECT(status == RONDO_FAILED && strstr(error.message, "cannot write"), "%s", error.message);
    EXPECT(access(directory, F_OK) != 0, "a failed run left its directory");
}

int main(void)
{
    scratch_begin();
    test_sizes();
    test_contents();
    test_tokenizer();
    test_parts();
    test_determinism();
    test_refusals();
    scratch_end();
    return test_result();
}
