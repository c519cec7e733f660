/* Every fixture against the float64 reference, on every CPU level of this machine.
 *
 * Mode f32: NMSE of the logits, prompt and generated rows (fed with the reference's tokens), at most 1e-10,
 * and the greedy choice is the reference's. Modes bf16, fp8, and kv8, which is bf16 with keys and values as
 * codes: NMSE and KL(reference || rondo) within a factor of 2 of the committed table, in both directions, so that the table stays what it claims to be.
 * All levels of a mode must give the same bits; without FP8 weights mode fp8 those of mode bf16, on the best level.
 *
 *     golden FIXTURES TABLE [--print] [VARIANT...]     --print writes the table to stdout instead */
#include "tests/model/accuracy.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define F32_NMSE 1e-10
#define TABLE_FACTOR 2.0
#define TABLE_HEADER                                                                               \
    "# Error of modes bf16 and fp8, and of bf16 with --kv-dtype fp8 (kv8), against the float64 "   \
    "reference, over all\n# rows of a fixture: "                                                   \
    "NMSE of the logits, and KL(reference || rondo) in nats per row. Large numbers are "           \
    "routing\n"                                                                                    \
    "# decisions that moved. Made by test-model-golden --print.\n"                                 \
    "# variant          bf16 NMSE     bf16 KL  fp8 NMSE    fp8 KL  kv8 NMSE    kv8 KL\n"

enum { BF16 = 1, FP8, N_MODES = 4, N_LEVELS = 5 };
static const struct {
    const char *name;
    enum rondo_mode mode;
    enum rondo_kv kv;
} modes[N_MODES] = {{"f32", RONDO_MODE_F32, RONDO_KV_AUTO},
                    {"bf16", RONDO_MODE_BF16, RONDO_KV_AUTO},
                    {"fp8", RONDO_MODE_FP8, RONDO_KV_AUTO},
                    {"kv8", RONDO_MODE_BF16, RONDO_KV_FP8}};
static const char *const levels[N_LEVELS] = {"cpu:ref", "cpu:avx2", "cpu:avx512", "cpu:avx512bf16",
                                             "cpu:neon"};
static struct rondo_device *devices[N_LEVELS]; /* NULL: not on this machine */

struct table_row {
    char name[64];
    struct accuracy modes[N_MODES];
};

static int32_t argmax(const float *logits, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* Mode f32 of one level. */
static void check_f32(const struct fixture *f, const char *level, const float *logits)
{
    size_t vocab_size = (size_t)f->vocab_size;
    const float *generated = logits + f->n_tokens * vocab_size;
    double prompt_error = accuracy_nmse(logits, f->logits, f->n_tokens * vocab_size);
    double generated_error =
        accuracy_nmse(generated, f->generated_logits, f->n_generated * vocab_size);
    EXPECT(prompt_error <= F32_NMSE, "%s on %s: NMSE %.2e of the prompt's logits", f->name, level,
           prompt_error);
    EXPECT(generated_error <= F32_NMSE, "%s on %s: NMSE %.2e of generated logits", f->name, level,
           generated_error);
    for (size_t i = 0; i < f->n_generated; i++) {
        int32_t choice = argmax(generated + (i * vocab_size) - vocab_size, f->vocab_size);
        EXPECT(choice == f->generated[i], "%s on %s: generated token %zu is %d, want %d", f->name,
               level, i, choice, f->generated[i]);
    }
}

static struct accuracy measure(const struct fixture *f, const float *logits)
{
    size_t rows = f->n_tokens + f->n_generated;
    float *want = accuracy_reference(f, f->n_generated);
    struct accuracy a = {accuracy_nmse(logits, want, rows * (size_t)f->vocab_size),
                         accuracy_divergence(logits, want, rows, f->vocab_size)};
    free(want);
    return a;
}

static int last_level(void)
{
    int level = N_LEVELS - 1;
    while (level > 0 && !devices[level])
        level--;
    return level;
}

/* All levels of one mode, which must give the same bits; of a mode whose bits are known, `want`, the last level. Gives
 * the accuracy of that one, and the bits in *result, malloc'ed. */
static struct accuracy check_mode(const struct fixture *f, struct rondo_model *model, int mode,
                                  const float *want, float **result)
{
    size_t size = (f->n_tokens + f->n_generated) * (size_t)f->vocab_size * sizeof(float);
    float *first = NULL, *logits = malloc(size);
    struct accuracy accuracy = {NAN, NAN};
    for (int level = want ? last_level() : 0; level < N_LEVELS; level++) {
        struct rondo_error error = {0};
        if (!devices[level])
            continue;
        bool done = accuracy_run(f, f->n_generated, model, devices[level], modes[mode].mode,
                                 modes[mode].kv, logits, &error);
        EXPECT(done, "%s in mode %s on %s: %s", f->name, modes[mode].name, levels[level],
               error.message);
        if (!done)
            continue;
        accuracy = measure(f, logits);
        if (mode == 0)
            check_f32(f, levels[level], logits);
        if (!first) {
            first = malloc(size);
            memcpy(first, want ? want : logits, size);
        }
        EXPECT(!memcmp(first, logits, size), "%s in mode %s: %s gives other bits", f->name,
               modes[mode].name, levels[level]);
    }
    EXPECT(first, "%s in mode %s: no CPU level at all", f->name, modes[mode].name);
    free(logits);
    *result = first;
    return accuracy;
}

static size_t read_table(const char *path, struct table_row rows[FIXTURE_MAX])
{
    FILE *file = fopen(path, "r");
    size_t count = 0;
    char line[256];
    while (file && count < FIXTURE_MAX && fgets(line, sizeof line, file)) {
        struct table_row *row = &rows[count];
        struct accuracy *bf16 = &row->modes[1], *fp8 = &row->modes[2], *kv8 = &row->modes[3];
        if (line[0] != '#' && sscanf(line, "%63s %lf %lf %lf %lf %lf %lf", row->name, &bf16->nmse,
                                     &bf16->kl, &fp8->nmse, &fp8->kl, &kv8->nmse, &kv8->kl) == 7)
            count++;
    }
    if (file)
        fclose(file);
    return count;
}

static bool near(double measured, double recorded)
{
    return measured <= recorded * TABLE_FACTOR && measured >= recorded / TABLE_FACTOR;
}

static void check_table(const char *name, const struct accuracy measured[N_MODES],
                        const struct table_row *rows, size_t n_rows)
{
    for (size_t i = 0; i < n_rows; i++) {
        if (strcmp(rows[i].name, name))
            continue;
        for (int mode = 1; mode < N_MODES; mode++) {
            const struct accuracy *want = &rows[i].modes[mode], *got = &measured[mode];
            EXPECT(near(got->nmse, want->nmse) && near(got->kl, want->kl),
                   "%s in mode %s: NMSE %.2e, KL %.2e; the table has %.2e, %.2e (--print makes it "
                   "afresh)",
                   name, modes[mode].name, got->nmse, got->kl, want->nmse, want->kl);
        }
        return;
    }
    EXPECT(false, "%s: not in the table of accuracies", name);
}

static void check_fixture(const char *root, const char *name, bool print,
                          const struct table_row *rows, size_t n_rows)
{
    struct fixture fixture;
    struct rondo_error error = {0};
    fixture_open(&fixture, root, name);
    struct rondo_model *model = rondo_model_open(fixture.directory, NULL, &error);
    EXPECT(model, "%s: %s", name, error.message);
    if (model) {
        struct accuracy measured[N_MODES];
        float *logits[N_MODES];
        bool has_fp8 = accuracy_has_fp8(model);
        EXPECT(rondo_model_config(model)->vocab_size == fixture.vocab_size, "%s", name);
        for (int mode = 0; mode < N_MODES; mode++) {
            bool known = mode == FP8 && !has_fp8;
            measured[mode] =
                check_mode(&fixture, model, mode, known ? logits[BF16] : NULL, &logits[mode]);
        }
        for (int mode = 0; mode < N_MODES; mode++)
            free(logits[mode]);
        printf("%-18s", name);
        for (int mode = print ? 1 : 0; mode < N_MODES; mode++)
            printf("  %.2e  %.2e", measured[mode].nmse, measured[mode].kl);
        printf("\n");
        if (!print)
            check_table(name, measured, rows, n_rows);
    }
    rondo_model_close(model);
    fixture_close(&fixture);
}

/* One thread: the models are tiny, and other numbers of threads are for the property tests. */
static void open_devices(void)
{
    for (int level = 0; level < N_LEVELS; level++) {
        struct rondo_error error = {0};
        struct rondo_device_options options = {.threads = 1};
        devices[level] = rondo_device_open(levels[level], &options, &error);
        EXPECT(devices[level] || error.status == RONDO_NO_DEVICE, "%s: %s", levels[level],
               error.message);
        fprintf(stderr, "%s: %s\n", levels[level],
                devices[level] ? rondo_device_description(devices[level]) : "not here");
    }
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: golden FIXTURES TABLE [--print] [VARIANT...]\n");
        return 2;
    }
    bool print = argc > 3 && !strcmp(argv[3], "--print");
    int first = print ? 4 : 3;
    open_devices();
    struct table_row rows[FIXTURE_MAX];
    size_t n_rows = read_table(argv[2], rows);
    char names[FIXTURE_MAX][64];
    size_t n_names = fixture_list(argv[1], names);
    if (print)
        printf("%s", TABLE_HEADER);
    else
        printf("NMSE and KL of each fixture in modes f32, bf16, fp8 and kv8\n");
    for (size_t i = 0; i < n_names; i++) {
        bool wanted = argc == first;
        for (int j = first; j < argc; j++)
            wanted = wanted || !strcmp(argv[j], names[i]);
        if (wanted)
            check_fixture(argv[1], names[i], print, rows, n_rows);
    }
    for (int level = 0; level < N_LEVELS; level++)
        rondo_device_close(devices[level]);
    int result = test_failures || !test_expectations;
    fprintf(stderr, "%d expectations, %d failed\n", test_expectations, test_failures);
    return result;
}
