/* FP8 checkpoints with codes of -0 (0x80), which fixtures lack and e4m3fnuz, the format of one family of devices, takes as NaN:
 * on every device and in every mode they give the bits of the same checkpoints with +0 in those places, and on GPUs
 * about what the CPU gives.
 *
 *     negative_zero FIXTURES DEVICE,DEVICE,...
 *
 * The first device is what the others are compared with. Exit code 77 when one is not on this machine. */
#include "core/error.h"
#include "formats/safetensors.h"
#include "tests/model/accuracy.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#include <math.h>

enum { N_MODES = 3, MAX_DEVICES = 8, GENERATED = 1 };
static const char *const mode_names[N_MODES] = {"f32", "bf16", "fp8"};
static const enum rondo_mode modes[N_MODES] = {RONDO_MODE_F32, RONDO_MODE_BF16, RONDO_MODE_FP8};
/* Of bf16 and fp8 for hardware, whose products have another order; emulated devices come far nearer. A code that is NaN
 * makes everything NaN. */
static const double tolerances[N_MODES] = {1e-10, 1e-2, 1e-1};
/* Scales of blocks, in the output head too, and of rows; the table, routers and some of a layer's experts. */
static const char *const names[] = {"fp8-block", "fp8-head", "fp8-row", "random-types"};

static void stop(const char *what, const struct rondo_error *error)
{
    fprintf(stderr, "%s: %s\n", what, error->message);
    exit(1);
}

/* Writes a fixture's weights to scratch/NAME with `code` in one of five codes of every FP8 tensor, and in all of a row. */
static void write_weights(const struct fixture *f, const char *name, uint8_t code)
{
    struct rondo_safetensors file;
    struct rondo_error error;
    size_t size = 0, changed = 0;
    char path[600];
    snprintf(path, sizeof path, "%s/config.json", f->directory);
    char *config = scratch_read(path, &size);
    mkdir(scratch_path(name), 0777);
    snprintf(path, sizeof path, "%s/config.json", scratch_path(name));
    scratch_write(path, config, size);
    snprintf(path, sizeof path, "%s/model.safetensors", f->directory);
    char *bytes = scratch_read(path, &size);
    if (!bytes || rondo_safetensors_parse(&file, path, bytes, size, &error) != RONDO_OK)
        stop(path, &error);
    for (size_t t = 0; t < file.n_tensors; t++) {
        const struct rondo_safetensors_tensor *tensor = &file.tensors[t];
        uint8_t *codes = (uint8_t *)bytes + ((const char *)tensor->data - bytes);
        for (size_t i = 0; tensor->dtype == RONDO_F8_E4M3 && i < tensor->size; i++)
            if ((uint32_t)(i * 2654435761u) >> 16 < 65536 / 5 ||
                i / (size_t)tensor->shape[1] == 3) {
                codes[i] = code;
                changed++;
            }
    }
    EXPECT(changed > 10000, "%s: only %zu codes", f->name, changed);
    snprintf(path, sizeof path, "%s/model.safetensors", scratch_path(name));
    scratch_write(path, bytes, size);
    rondo_safetensors_close(&file);
    free(bytes);
    free(config);
}

/* Logits of a checkpoint in scratch. */
static float *run(const struct fixture *f, const char *name, struct rondo_device *device,
                  enum rondo_mode mode, size_t count)
{
    struct rondo_error error;
    float *logits = malloc(count * sizeof *logits);
    struct rondo_model *model = rondo_model_open(scratch_path(name), NULL, &error);
    if (!model || !accuracy_run(f, GENERATED, model, device, mode, RONDO_KV_AUTO, logits, &error))
        stop(f->name, &error);
    rondo_model_close(model);
    return logits;
}

static struct rondo_device *device[MAX_DEVICES];
static const char *device_name[MAX_DEVICES];
static int n_devices;

static void check_fixture(const struct fixture *f)
{
    size_t count = (f->n_tokens + GENERATED) * (size_t)f->vocab_size;
    write_weights(f, "negative", 0x80);
    write_weights(f, "positive", 0x00);
    for (int mode = 0; mode < N_MODES; mode++) {
        float *first = NULL;
        for (int i = 0; i < n_devices; i++) {
            float *negative = run(f, "negative", device[i], modes[mode], count);
            float *positive = run(f, "positive", device[i], modes[mode], count);
            first = i == 0 ? negative : first;
            double nmse = accuracy_nmse(negative, first, count);
            printf("%-9s %-4s %-14s NMSE %.1e\n", f->name, mode_names[mode], device_name[i], nmse);
            EXPECT(memcmp(negative, positive, count * sizeof *negative) == 0,
                   "%s in mode %s on %s: -0 and +0 give different bits", f->name, mode_names[mode],
                   device_name[i]);
            EXPECT(nmse <= tolerances[mode], "%s in mode %s on %s: NMSE %.2e", f->name,
                   mode_names[mode], device_name[i], nmse);
            free(positive);
            if (negative != first)
                free(negative);
        }
        free(first);
    }
}

int main(int argc, char **argv)
{
    struct rondo_error error;
    struct rondo_device_options options = {.threads = 1};
    if (argc != 3) {
        fprintf(stderr, "usage: negative_zero FIXTURES DEVICE,...\n");
        return 2;
    }
    for (char *name = strtok(argv[2], ","); name && n_devices < MAX_DEVICES;
         name = strtok(NULL, ",")) {
        device_name[n_devices] = name;
        device[n_devices] = rondo_device_open(name, &options, &error);
        if (!device[n_devices++]) {
            fprintf(stderr, "%s\n", error.message);
            return error.status == RONDO_NO_DEVICE ? 77 : 1;
        }
    }
    scratch_begin();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct fixture fixture;
        fixture_open(&fixture, argv[1], names[i]);
        check_fixture(&fixture);
        fixture_close(&fixture);
    }
    scratch_end();
    for (int i = 0; i < n_devices; i++)
        rondo_device_close(device[i]);
    return test_result();
}
