/* Checkpoints whose tensors have types of their own, made from a fixture: what is wrong with single tensors is named, and
 * an FP8 table with scales of rows, which is the output head too, gives what the same numbers give as f32.
 *
 *     types FIXTURES DEVICE,DEVICE,...
 *
 * Exit code 77 when a device is not on this machine. */
#include "core/dtype.h"
#include "core/error.h"
#include "formats/safetensors.h"
#include "formats/safetensors_write.h"
#include "tests/model/accuracy.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#define FIXTURE "random-types"
#define TABLE "model.word_embeddings.weight" /* in blocks; so is ROUTER(1), and ROUTER(2) in rows */
#define ROUTER(layer) "model.layers." #layer ".mlp.gate.weight"
#define EXPERT(layer, e, part) "model.layers." #layer ".mlp.experts." #e "." part "_proj.weight"
#define GATED_NORM "model.layers.0.attention.g_norm.weight"
#define EXPERT_BIAS "model.layers.1.mlp.gate.expert_bias"
#define NOT_FP8 "got F8_E4M3, want f32, bf16 or f16)"

/* One tensor that is not as in the fixture. */
struct change {
    const char *name;
    enum rondo_dtype dtype;
    int64_t shape[2]; /* 0 columns: a vector; 0 rows: left out */
    const void *data; /* NULL: zeros */
};
#define ABSENT(name)                                                                               \
    {                                                                                              \
        name, RONDO_F32, {0, 0}, NULL                                                              \
    }
#define ZEROS(name, dtype, rows, columns)                                                          \
    {                                                                                              \
        name, dtype, {rows, columns}, NULL                                                         \
    }

static struct rondo_safetensors file; /* of the fixture */
static struct rondo_error error;

static void stop(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, error.message);
    exit(1);
}

static void write_item(struct rondo_safetensors_writer *writer, size_t index,
                       const struct rondo_safetensors_item *item, const void *data)
{
    size_t size = (size_t)rondo_safetensors_item_size(item);
    void *zeros = data ? NULL : calloc(1, size);
    if (rondo_safetensors_write(writer, index, 0, data ? data : zeros, size, &error))
        stop(item->name);
    free(zeros);
}

/* The fixture with changed, added and missing tensors as scratch/NAME. */
static const char *make(const struct fixture *f, const char *name, const struct change *changes,
                        size_t n_changes)
{
    struct rondo_safetensors_item *items = calloc(file.n_tensors + n_changes, sizeof *items);
    const void **data = calloc(file.n_tensors + n_changes, sizeof *data);
    size_t n = 0, size = 0;
    for (size_t bytes = 4; bytes; bytes /= 2) { /* large elements first */
        for (size_t i = 0; i < file.n_tensors; i++) {
            const struct rondo_safetensors_tensor *tensor = &file.tensors[i];
            bool changed = false;
            for (size_t j = 0; j < n_changes; j++)
                changed = changed || !strcmp(changes[j].name, tensor->name);
            if (changed || rondo_dtype_size(tensor->dtype) != bytes)
                continue;
            items[n] =
                (struct rondo_safetensors_item){tensor->name, tensor->dtype, tensor->n_dims, {0}};
            memcpy(items[n].shape, tensor->shape, sizeof items[n].shape);
            data[n++] = tensor->data;
        }
        for (size_t j = 0; j < n_changes; j++) {
            const struct change *c = &changes[j];
            if (!c->shape[0] || rondo_dtype_size(c->dtype) != bytes)
                continue;
            items[n] =
                (struct rondo_safetensors_item){c->name,
                                                c->dtype,
                                                c->shape[1] ? 2 : 1,
                                                {c->shape[0], c->shape[1] ? c->shape[1] : 1}};
            data[n++] = c->data;
        }
    }
    char path[600];
    mkdir(scratch_path(name), 0777);
    snprintf(path, sizeof path, "%s/config.json", f->directory);
    char *config = scratch_read(path, &size);
    snprintf(path, sizeof path, "%s/config.json", scratch_path(name));
    scratch_write(path, config, size);
    snprintf(path, sizeof path, "%s/model.safetensors", scratch_path(name));
    struct rondo_safetensors_writer *writer = rondo_safetensors_create(path, items, n, &error);
    if (!writer)
        stop(path);
    for (size_t i = 0; i < n; i++)
        write_item(writer, i, &items[i], data[i]);
    if (rondo_safetensors_finish(writer, &error))
        stop(path);
    free(config);
    free(items);
    free(data);
    return scratch_path(name);
}

/* ---- what is wrong ---------------------------------------------------------------------------- */

static void test_refused(const struct fixture *f)
{
    static const struct {
        struct change change;
        const char *what, *more;
    } cases[] = {
        {ABSENT(TABLE "_scale_inv"), TABLE ": FP8 tensor without scales", TABLE "_scale_inv"},
        {ZEROS(TABLE "_scale_inv", RONDO_F32, 1, 4), "weight_scale_inv: shape",
         "[1, 4], want [2, 2]"},
        {ZEROS(TABLE "_scale_inv", RONDO_F32, 2, 1), "weight_scale_inv: shape",
         "[2, 1], want [2, 2]"},
        {ZEROS(TABLE "_scale_inv", RONDO_F8_E4M3, 2, 2), "weight_scale_inv: dtype", "F8_E4M3"},
        {ZEROS(TABLE, RONDO_F8_E4M3, 135, 144), TABLE ": shape", "[135, 144], want [136, 144]"},
        {ZEROS(TABLE, RONDO_U8, 136, 144), TABLE, "got U8, want f32, bf16, f16 or f8_e4m3"},
        {ABSENT(ROUTER(1) "_scale_inv"), ROUTER(1) ": FP8 tensor without scales", "of rows"},
        {ZEROS(ROUTER(2) "_scale", RONDO_BF16, 4, 1), ROUTER(2) "_scale: shape", "want [8, 1]"},
        {ABSENT(EXPERT(1, 4, "down") "_scale"), EXPERT(1, 4, "down") ": FP8 tensor without", ""},
        {ZEROS(EXPERT(2, 7, "up") "_scale_inv", RONDO_F32, 2, 2), "7.up_proj", "want [1, 2]"},
        {ZEROS(EXPERT(2, 2, "up"), RONDO_F32, 144, 12), "2.up_proj.weight: shape",
         "want [12, 144]"},
        {ABSENT(EXPERT(2, 2, "up")), "missing", EXPERT(2, 2, "up")},
        {ZEROS("model.norm.weight", RONDO_F8_E4M3, 144, 0), "model.norm.weight: dtype", NOT_FP8},
        {ZEROS(GATED_NORM, RONDO_F8_E4M3, 64, 0), GATED_NORM ": dtype", NOT_FP8},
        {ZEROS(EXPERT_BIAS, RONDO_F8_E4M3, 8, 0), EXPERT_BIAS ": dtype", NOT_FP8},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *directory = make(f, "refused", &cases[i].change, 1);
        error.message[0] = 0;
        struct rondo_model *model = rondo_model_open(directory, NULL, &error);
        EXPECT(!model, "case %zu: %s was taken", i, cases[i].change.name);
        EXPECT(strstr(error.message, cases[i].what) && strstr(error.message, cases[i].more) &&
                   !strchr(error.message, '\n'),
               "want %s, %s: got %s", cases[i].what, cases[i].more, error.message);
        rondo_model_close(model);
    }
    /* A norm's scales do not make it FP8. */
    const struct change norm[2] = {{"model.norm.weight", RONDO_F8_E4M3, {144, 0}, NULL},
                                   {"model.norm.weight_scale", RONDO_F32, {1, 0}, NULL}};
    EXPECT(!rondo_model_open(make(f, "refused", norm, 2), NULL, &error), "an FP8 norm");
    EXPECT(strstr(error.message, "model.norm.weight"), "%s", error.message);
}

static void test_nan(const struct fixture *f)
{
    static uint8_t codes[136 * 144];
    codes[3 * 144 + 5] = 0x7f;
    const struct change nan = {TABLE, RONDO_F8_E4M3, {136, 144}, codes};
    struct rondo_model *model = rondo_model_open(make(f, "nan", &nan, 1), NULL, &error);
    EXPECT(model && rondo_model_check_weights(model, NULL, NULL, &error) == RONDO_FAILED,
           "a NaN in the table");
    EXPECT(strstr(error.message, TABLE ": not a number at row 3, column 5"), "%s", error.message);
    rondo_model_close(model);
}

/* ---- a table with scales of rows -------------------------------------------------------------- */

static float *run(const struct fixture *f, const char *name, struct rondo_device *device,
                  enum rondo_mode mode, size_t count)
{
    float *logits = malloc(count * sizeof *logits);
    struct rondo_model *model = rondo_model_open(scratch_path(name), NULL, &error);
    if (!model || !accuracy_run(f, 1, model, device, mode, RONDO_KV_AUTO, logits, &error))
        stop(name);
    rondo_model_close(model);
    return logits;
}

static void test_rows(const struct fixture *f, struct rondo_device *device, const char *name)
{
    static float scales[136], expanded[136 * 144];
    const struct rondo_safetensors_tensor *table = rondo_safetensors_find(&file, TABLE);
    size_t count = (f->n_tokens + 1) * (size_t)f->vocab_size;
    for (int row = 0; row < 136; row++) {
        scales[row] = (1.0f + (float)(row * 37 % 64) / 64) * 0x1p-9f;
        for (int i = 0; i < 144; i++)
            expanded[row * 144 + i] =
                rondo_load(table->data, RONDO_F8_E4M3, (size_t)(row * 144 + i)) * scales[row];
    }
    const struct change rows[2] = {{TABLE "_scale_inv", RONDO_F32, {0, 0}, NULL},
                                   {TABLE "_scale", RONDO_F32, {136, 1}, scales}};
    const struct change whole[2] = {{TABLE "_scale_inv", RONDO_F32, {0, 0}, NULL},
                                    {TABLE, RONDO_F32, {136, 144}, expanded}};
    make(f, "rows", rows, 2);
    make(f, "expanded", whole, 2);
    float *got = run(f, "rows", device, RONDO_MODE_F32, count);
    float *want = run(f, "expanded", device, RONDO_MODE_F32, count);
    double nmse = accuracy_nmse(got, want, count);
    EXPECT(nmse <= 1e-11, "%s: NMSE %.2e between a table with scales of rows and its numbers", name,
           nmse);
    free(got);
    free(want);
}

int main(int argc, char **argv)
{
    struct fixture fixture;
    if (argc != 3) {
        fprintf(stderr, "usage: types FIXTURES DEVICE,...\n");
        return 2;
    }
    char path[600];
    fixture_open(&fixture, argv[1], FIXTURE);
    snprintf(path, sizeof path, "%s/model.safetensors", fixture.directory);
    if (rondo_safetensors_open(&file, path, &error))
        stop(path);
    scratch_begin();
    test_refused(&fixture);
    test_nan(&fixture);
    for (char *name = strtok(argv[2], ","); name; name = strtok(NULL, ",")) {
        struct rondo_device *device = rondo_device_open(name, NULL, &error);
        if (!device) {
            fprintf(stderr, "%s\n", error.message);
            scratch_end();
            return error.status == RONDO_NO_DEVICE ? 77 : 1;
        }
        test_rows(&fixture, device, name);
        rondo_device_close(device);
    }
    scratch_end();
    rondo_safetensors_close(&file);
    fixture_close(&fixture);
    return test_result();
}
