/* Quantising checkpoints: values, layouts, determinism, resuming, refusals. */
#include "core/dtype.h"
#include "core/model.h"
#include "core/weights.h"
#include "formats/quantize.h"
#include "formats/quantize_rows.h"
#include "formats/safetensors.h"
#include "formats/synth.h"

#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#include <float.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

static const char *make_source(const char *name, enum rondo_synth_dtype dtype)
{
    struct rondo_error error = {.status = RONDO_OK};
    struct rondo_synth_options options = {
        .preset = "tiny", .dtype = dtype, .seed = 3, .shard_size = 700000};
    const char *path = scratch_path(name);
    EXPECT(rondo_synth(&options, path, &error) == RONDO_OK, "%s", error.message);
    return path;
}

static int quantize(const char *source, const char *destination, enum rondo_quantization kind,
                    int threads, struct rondo_error *error)
{
    struct rondo_quantize_options options = {.kind = kind, .threads = threads};
    error->message[0] = '\0';
    return rondo_quantize(source, destination, &options, error);
}

/* ---- values ----------------------------------------------------------------------------------- */

/* Largest magnitude in a rectangle, the plain way. */
static float largest(const struct rondo_file_tensor *tensor, int64_t row, int64_t rows,
                     int64_t column, int64_t columns)
{
    const int64_t *shape = tensor->info.shape;
    float most = 0;
    for (int64_t r = row; r < row + rows && r < shape[0]; r++)
        for (int64_t c = column; c < column + columns && c < shape[1]; c++)
            most = fmaxf(most, fabsf(rondo_load(tensor->data, tensor->info.dtype,
                                                (size_t)(r * shape[1] + c))));
    return most;
}

static float round_up_to_power_of_two(float value)
{
    return exp2f(ceilf(log2f(value)));
}

/* Every scale and every code of one matrix. Returns the number of wrong ones. */
static int compare_matrix(const struct rondo_model *to, const struct rondo_file_tensor *before,
                          const struct rondo_file_tensor *after, bool block, bool power_of_two)
{
    char name[200];
    int64_t rows = before->info.shape[0], columns = before->info.shape[1], high = block ? 128 : 1;
    int64_t wide = block ? 128 : columns, across = (columns + wide - 1) / wide;
    int wrong = 0;
    snprintf(name, sizeof name, "%s_scale%s", before->info.name, block ? "_inv" : "");
    const struct rondo_file_tensor *scales = rondo_model_find(to, name);
    if (!scales || scales->info.n_dims != 2 || scales->info.shape[0] != (rows + high - 1) / high ||
        scales->info.shape[1] != across || scales->info.dtype != RONDO_F32)
        return 1;
    for (int64_t i = 0; i < scales->info.shape[0]; i++) {
        for (int64_t j = 0; j < across; j++) {
            float most = largest(before, i * high, high, j * wide, wide);
            float scale = block ? fmaxf(most, 1e-4f) / 448 : fmaxf(most / 448, FLT_EPSILON);
            scale = power_of_two ? round_up_to_power_of_two(scale) : scale;
            wrong += ((const float *)scales->data)[i * across + j] != scale;
            for (int64_t r = i * high; r < (i + 1) * high && r < rows; r++)
                for (int64_t c = j * wide; c < (j + 1) * wide && c < columns; c++) {
                    float value =
                        rondo_load(before->data, before->info.dtype, (size_t)(r * columns + c));
                    wrong += ((const uint8_t *)after->data)[r * columns + c] !=
                             rondo_f32_to_e4m3(value / scale);
                }
        }
    }
    return wrong;
}

/* Weights that the config lists are FP8 or unchanged, as they should be. */
static void compare_models(const char *source, const char *destination, bool block, bool lm_head,
                           bool power_of_two)
{
    struct rondo_error error = {.status = RONDO_OK};
    struct rondo_model *from = rondo_model_open(source, NULL, &error);
    struct rondo_model *to = rondo_model_open(destination, NULL, &error);
    EXPECT(from && to, "%s", error.message);
    size_t count = 0, quantised = 0;
    struct rondo_weight_entry *list = from && to ? rondo_weight_list(&from->config, &count) : NULL;
    for (size_t i = 0; i < count; i++) {
        const struct rondo_file_tensor *before = rondo_model_find(from, list[i].name);
        const struct rondo_file_tensor *after = rondo_model_find(to, list[i].name);
        bool want =
            list[i].kind == RONDO_WEIGHT_PROJECTION ||
            (list[i].kind == RONDO_WEIGHT_LM_HEAD && lm_head) ||
            (list[i].kind == RONDO_WEIGHT_EMBEDDING && lm_head && from->config.tie_word_embeddings);
        EXPECT((after->info.dtype == RONDO_F8_E4M3) == want, "%s", list[i].name);
        if (want)
            EXPECT(compare_matrix(to, before, after, block, power_of_two) == 0, "%s", list[i].name);
        else
            EXPECT(before->info.size == after->info.size &&
                       before->info.dtype == after->info.dtype &&
                       memcmp(before->data, after->data, before->info.size) == 0,
                   "%s", list[i].name);
        quantised += want;
    }
    EXPECT(quantised > 100, "%zu matrices", quantised);
    EXPECT(!to || rondo_model_check_weights(to, NULL, NULL, &error) == RONDO_OK, "%s",
           error.message);
    free(list);
    rondo_model_close(from);
    rondo_model_close(to);
}

static void test_values(void)
{
    struct rondo_error error = {.status = RONDO_OK};
    const char *source[3] = {make_source("bf16", RONDO_SYNTH_BF16),
                             make_source("f16", RONDO_SYNTH_F16),
                             make_source("f32", RONDO_SYNTH_F32)};
    char config[600];
    scratch_write_text(scratch_path("bf16/tokenizer.json"), "{}\n");
    for (int i = 0; i < 6; i++) {
        bool block = i % 2 == 0;
        char name[32];
        snprintf(name, sizeof name, "values-%d", i);
        const char *to = scratch_path(name);
        struct rondo_quantize_options options = {.kind = block ? RONDO_QUANTIZATION_BLOCK
                                                               : RONDO_QUANTIZATION_ROW,
                                                 .lm_head = i >= 2,
                                                 .power_of_two = i >= 4};
        EXPECT(rondo_quantize(source[i / 2], to, &options, &error) == RONDO_OK, "%s",
               error.message);
        compare_models(source[i / 2], to, block, i >= 2, i >= 4);
        enum rondo_quantization kind = RONDO_QUANTIZATION_NONE;
        struct rondo_config c;
        EXPECT(rondo_config_read(to, NULL, &c, &kind, &error) == RONDO_OK && kind == options.kind,
               "%s", error.message);
        /* sources have an index, no state file; the result has as many files */
        EXPECT(scratch_count(to) == scratch_count(source[i / 2]), "%d files", scratch_count(to));
    }
    snprintf(config, sizeof config, "%s/tokenizer.json", scratch_path("values-0"));
    EXPECT(scratch_same_file(config, scratch_path("bf16/tokenizer.json")), "%s", config);
}

/* The fast rounding is the scalar one, on every code's neighbourhood and on a sweep of all magnitudes. */
static void test_rounding(void)
{
    float values[4099];
    uint8_t codes[4099];
    long wrong = 0;
    for (uint32_t base = 0, step = 1021; base < UINT32_MAX - 4099 * step; base += 4099 * step) {
        for (uint32_t i = 0; i < 4099; i++)
            values[i] = rondo_bits_to_f32(base + i * step);
        rondo_f32_to_e4m3_row(values, 1.0f, codes, 4099);
        for (int i = 0; i < 4099; i++)
            wrong += codes[i] != rondo_f32_to_e4m3(values[i]);
    }
    for (int code = 0; code < 255; code++) {
        if (rondo_e4m3_is_nan((uint8_t)code) || rondo_e4m3_is_nan((uint8_t)(code + 1)))
            continue;
        float middle =
            (rondo_e4m3_to_f32((uint8_t)code) + rondo_e4m3_to_f32((uint8_t)(code + 1))) / 2;
        values[0] = middle;
        values[1] = nextafterf(middle, INFINITY);
        values[2] = nextafterf(middle, -INFINITY);
        rondo_f32_to_e4m3_row(values, 1.0f, codes, 3);
        for (int i = 0; i < 3; i++)
            wrong += codes[i] != rondo_f32_to_e4m3(values[i]);
    }
    EXPECT(wrong == 0, "%ld codes differ", wrong);
}

/* Floors of the scales, exact powers of two, and blocks that stick out of the matrix. */
static void test_scales(void)
{
    static float values[3 * 130];
    static uint8_t codes[3 * 130];
    float scales[2] = {0}, workspace[130];
    int64_t row, column;
    struct rondo_quantize_matrix matrix = {
        .data = values, .dtype = RONDO_F32, .rows = 3, .columns = 130};
    values[1] = -1e-6f;
    values[2 * 130 + 129] = 56; /* 448 / 8 */
    EXPECT(rondo_quantize_block_panel(&matrix, 0, codes, scales, &row, &column), "not finite");
    EXPECT(scales[0] == 1e-4f / 448 && scales[1] == 0.125f, "scales %g, %g", scales[0], scales[1]);
    EXPECT(codes[1] == rondo_f32_to_e4m3(-1e-6f / scales[0]) && codes[2 * 130 + 129] == 0x7e &&
               codes[0] == 0,
           "codes");
    matrix.power_of_two = true;
    EXPECT(rondo_quantize_block_panel(&matrix, 0, codes, scales, &row, &column), "not finite");
    EXPECT(scales[0] == exp2f(ceilf(log2f(1e-4f / 448))) && scales[1] == 0.125f, "scales %g, %g",
           scales[0], scales[1]);
    EXPECT(rondo_quantize_row(&matrix, 2, workspace, codes, scales, &column) && scales[0] == 0.125f,
           "scale %g", scales[0]);
    EXPECT(rondo_quantize_row(&matrix, 1, workspace, codes, scales, &column) &&
               scales[0] == FLT_EPSILON,
           "scale %g of zeros", scales[0]);
}

/* Matrices of several blocks both ways. */
static void test_large(void)
{
    struct rondo_error error = {.status = RONDO_OK};
    struct rondo_synth_options large = {.preset = "small", .layers = 1};
    const char *source = scratch_path("large"), *to = scratch_path("large-block");
    struct rondo_quantize_options options = {.kind = RONDO_QUANTIZATION_BLOCK};
    EXPECT(rondo_synth(&large, source, &error) == RONDO_OK, "%s", error.message);
    EXPECT(rondo_quantize(source, to, &options, &error) == RONDO_OK, "%s", error.message);
    struct rondo_model *from = rondo_model_open(source, NULL, &error),
                       *after = rondo_model_open(to, NULL, &error);
    static const char *const names[] = {"model.layers.0.mlp.gate_proj.weight",
                                        "model.layers.0.mlp.down_proj.weight",
                                        "model.layers.0.attention.query_key_value.weight"};
    EXPECT(from && after, "%s", error.message);
    for (size_t i = 0; from && after && i < 3; i++)
        EXPECT(compare_matrix(after, rondo_model_find(from, names[i]),
                              rondo_model_find(after, names[i]), true, false) == 0,
               "%s", names[i]);
    rondo_model_close(from);
    rondo_model_close(after);
}

/* ---- interrupted runs ------------------------------------------------------------------------- */

static int kill_at(void *user, const char *what, uint64_t done, uint64_t total)
{
    if (done * 100 > total * *(const uint64_t *)user)
        raise(SIGKILL);
    return 0;
}

static int stop_at_half(void *user, const char *what, uint64_t done, uint64_t total)
{
    return done > total / 2;
}

/* All shards under their final names are whole. */
static void expect_whole_shards(const char *directory)
{
    for (int i = 1; i <= 9; i++) {
        char path[700];
        struct rondo_safetensors file;
        struct rondo_error error = {.status = RONDO_OK};
        snprintf(path, sizeof path, "%s/model-%05d-of-00006.safetensors", directory, i);
        if (access(path, F_OK) != 0)
            continue;
        EXPECT(rondo_safetensors_open(&file, path, &error) == RONDO_OK, "%s", error.message);
        rondo_safetensors_close(&file);
    }
}

static void test_kill(void)
{
    struct rondo_error error = {.status = RONDO_OK};
    const char *source = scratch_path("bf16"), *whole = scratch_path("values-0");
    for (uint64_t percent = 5; percent < 100; percent += 30) {
        char name[32], path[700];
        snprintf(name, sizeof name, "killed-%d", (int)percent);
        const char *to = scratch_path(name);
        struct rondo_quantize_options options = {.kind = RONDO_QUANTIZATION_BLOCK, .threads = 2};
        pid_t child = fork();
        if (child == 0) {
            options.progress = kill_at;
            options.progress_user = &percent;
            rondo_quantize(source, to, &options, NULL);
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the child ended by itself");
        snprintf(path, sizeof path, "%s/config.json", to);
        EXPECT(access(path, F_OK) != 0, "config.json is there before the weights are");
        expect_whole_shards(to);
        struct stat before, after;
        snprintf(path, sizeof path, "%s/model-00001-of-00006.safetensors", to);
        bool first = stat(path, &before) == 0;
        EXPECT(first == (percent > 30), "first shard after %d percent", (int)percent);
        EXPECT(rondo_quantize(source, to, &options, &error) == RONDO_OK, "%s", error.message);
        EXPECT(scratch_same_directory(to, whole), "resumed after %d percent", (int)percent);
        EXPECT(scratch_count(to) == scratch_count(whole), "%d files", scratch_count(to));
        EXPECT(!first || (stat(path, &after) == 0 && after.st_ino == before.st_ino),
               "written twice");
    }
}

static void test_interruptions(void)
{
    struct rondo_error error = {.status = RONDO_OK};
    const char *source = scratch_path("bf16"), *whole = scratch_path("values-0"),
               *to = scratch_path("stopped");
    struct rondo_quantize_options options = {
        .kind = RONDO_QUANTIZATION_BLOCK, .threads = 1, .progress = stop_at_half};
    EXPECT(rondo_quantize(source, to, &options, &error) == RONDO_FAILED &&
               strstr(error.message, "interrupted"),
           "%s", error.message);
    expect_whole_shards(to);
    /* a file that may not grow stands for a disk that is full */
    struct rlimit old, small = {.rlim_cur = 100000};
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    EXPECT(quantize(source, to, RONDO_QUANTIZATION_BLOCK, 2, &error) == RONDO_FAILED &&
               strstr(error.message, "cannot write"),
           "%s", error.message);
    setrlimit(RLIMIT_FSIZE, &old);
    EXPECT(quantize(source, to, RONDO_QUANTIZATION_ROW, 2, &error) == RONDO_FAILED &&
               strstr(error.message, "other options"),
           "%s", error.message);
    /* something else under the name of a finished shard */
    char path[700];
    snprintf(path, sizeof path, "%s/model-00001-of-00006.safetensors", to);
    EXPECT(access(path, F_OK) == 0, "%s", path);
    scratch_write_text(path, "not a shard");
    EXPECT(quantize(source, to, RONDO_QUANTIZATION_BLOCK, 3, &error) == RONDO_OK, "%s",
           error.message);
    EXPECT(scratch_same_directory(to, whole), "resumed after a cancelled and a failed run");
}

static int fill_disk(void *user, const char *what, uint64_t done, uint64_t total)
{
    static const char zeros[65536];
    FILE *ballast = fopen(user, "ab");
    while (ballast && fwrite(zeros, sizeof zeros, 1, ballast) == 1 && fflush(ballast) == 0)
        continue;
    if (ballast)
        fclose(ballast);
    return 0;
}

static bool write_line(const char *path, const char *line)
{
    FILE *file = fopen(path, "w");
    bool good = file && fputs(line, file) >= 0;
    return file && fclose(file) == 0 && good;
}

/* Mounts are this process's own from here on: as root, or as root of a user namespace. */
static bool isolate_mounts(void)
{
    char line[64];
    int user = (int)getuid(), group = (int)getgid();
    if (unshare(CLONE_NEWNS) == 0)
        return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 || !write_line("/proc/self/setgroups", "deny"))
        return false;
    snprintf(line, sizeof line, "0 %d 1", user);
    if (!write_line("/proc/self/uid_map", line))
        return false;
    snprintf(line, sizeof line, "0 %d 1", group);
    return write_line("/proc/self/gid_map", line);
}

/* In a child with a disk of its own. 77: not allowed here. */
static int run_on_small_disk(const char *disk)
{
    struct rondo_error error = {.status = RONDO_OK};
    char ballast[600], inside[600];
    snprintf(ballast, sizeof ballast, "%s/ballast", disk);
    snprintf(inside, sizeof inside, "%s/out", disk);
    if (!isolate_mounts() || mount("none", disk, "tmpfs", 0, "size=80m") != 0)
        return 77;
    struct rondo_quantize_options options = {.kind = RONDO_QUANTIZATION_BLOCK,
                                             .threads = 1,
                                             .progress = fill_disk,
                                             .progress_user = ballast};
    const char *source = scratch_path("bf16");
    if (rondo_quantize(source, inside, &options, &error) != RONDO_FAILED ||
        !strstr(error.message, "the disk is full")) {
        fprintf(stderr, "got: %s\n", error.message);
        return 1;
    }
    DIR *stream = opendir(inside);
    for (struct dirent *entry; (entry = readdir(stream));)
        if (strstr(entry->d_name, ".partial"))
            return 2;
    closedir(stream);
    unlink(ballast);
    options.progress = NULL;
    if (rondo_quantize(source, inside, &options, &error) != RONDO_OK)
        return 3;
    return scratch_same_directory(inside, scratch_path("values-0")) ? 0 : 4;
}

/* A disk that is really full: a small tmpfs, where the machine lets users have one. */
static void test_full_disk(void)
{
    const char *disk = scratch_path("mount");
    mkdir(disk, 0777);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(run_on_small_disk(disk));
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77),
           "status %d", status);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        printf("no tmpfs allowed here: the full disk was not tested\n");
}

/* ---- refusals --------------------------------------------------------------------------------- */

static void test_refusals(void)
{
    struct rondo_error error = {.status = RONDO_OK};
    const char *source = scratch_path("bf16"), *to = scratch_path("new");
    EXPECT(quantize(source, source, RONDO_QUANTIZATION_BLOCK, 1, &error) == RONDO_FAILED &&
               strstr(error.message, "same directory"),
           "%s", error.message);
    EXPECT(quantize(source, scratch, RONDO_QUANTIZATION_BLOCK, 1, &error) == RONDO_FAILED &&
               strstr(error.message, "not empty"),
           "%s", error.message);
    EXPECT(quantize(scratch_path("values-0"), to, RONDO_QUANTIZATION_ROW, 1, &error) ==
                   RONDO_FAILED &&
               strstr(error.message, "already quantised"),
           "%s", error.message);
    EXPECT(quantize(source, to, RONDO_QUANTIZATION_NONE, 1, &error) == RONDO_USAGE, "%s",
           error.message);
    EXPECT(quantize(scratch_path("nowhere"), to, RONDO_QUANTIZATION_ROW, 1, &error) ==
                   RONDO_FAILED &&
               strstr(error.message, "config.json"),
           "%s", error.message);
    EXPECT(access(to, F_OK) != 0, "a refused run made its directory");
}

/* One value that is no number, in the last shard. */
static void test_bad_value(enum rondo_quantization kind, uint16_t bits, const char *name)
{
    struct rondo_error error = {.status = RONDO_OK};
    const char *source = make_source(name, RONDO_SYNTH_BF16);
    const char *tensor = "model.layers.3.mlp.experts.9.up_proj.weight";
    struct rondo_model *model = rondo_model_open(source, NULL, &error);
    const struct rondo_file_tensor *found = rondo_model_find(model, tensor);
    char path[600], to[600];
    size_t size = 0;
    snprintf(path, sizeof path, "%s", found->info.file);
    snprintf(to, sizeof to, "%s-out", source);
    char *bytes = scratch_read(path, &size);
    struct rondo_safetensors file;
    EXPECT(rondo_safetensors_parse(&file, path, bytes, size, &error) == RONDO_OK, "%s",
           error.message);
    char *data = (char *)(uintptr_t)rondo_safetensors_find(&file, tensor)->data;
    memcpy(data + 2 * (37 * 128 + 101), &bits, 2);
    rondo_safetensors_close(&file);
    rondo_model_close(model);
    scratch_write(path, bytes, size);
    free(bytes);
    EXPECT(quantize(source, to, kind, 2, &error) == RONDO_FAILED && strstr(error.message, tensor) &&
               strstr(error.message, "row 37, column 101"),
           "%s", error.message);
}

/* A model whose head is its embedding table: the table is quantised with the head, and left alone without. */
static void test_tied(void)
{
    struct rondo_error error = {.status = RONDO_OK};
    const char *source = make_source("tied", RONDO_SYNTH_BF16);
    char path[600];
    size_t size = 0;
    snprintf(path, sizeof path, "%s/config.json", source);
    char *config = scratch_read(path, &size);
    char *at = config ? strstr(config, "\"tie_word_embeddings\":\tfalse") : NULL;
    EXPECT(at != NULL, "%s", path);
    if (at)
        memcpy(strchr(at, '\t'), "\ttrue ", strlen("\tfalse"));
    scratch_write(path, config, size);
    free(config);
    for (int i = 0; i < 4; i++) {
        char name[32];
        snprintf(name, sizeof name, "tied-%d", i);
        struct rondo_quantize_options options = {
            .kind = i % 2 ? RONDO_QUANTIZATION_ROW : RONDO_QUANTIZATION_BLOCK, .lm_head = i >= 2};
        EXPECT(rondo_quantize(source, scratch_path(name), &options, &error) == RONDO_OK, "%s",
               error.message);
        compare_models(source, scratch_path(name), i % 2 == 0, i >= 2, false);
    }
}

int main(void)
{
    scratch_begin();
    test_rounding();
    test_scales();
    test_values();
    test_tied();
    test_large();
    test_kill();
    test_interruptions();
    test_full_disk();
    test_refusals();
    test_bad_value(RONDO_QUANTIZATION_BLOCK, 0x7fc0, "nan");
    test_bad_value(RONDO_QUANTIZATION_ROW, 0xff80, "infinity");
    scratch_end();
    return test_result();
}
