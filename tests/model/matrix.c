/* Every device against every other and against the float64 reference, on the fixtures, in every mode and, some of them, with keys
 * and values as codes (kv8). Variants that are named run in every mode that is wanted.
 *
 * Prints, for each mode and pair of devices, the median and the largest NMSE and the largest KL over the fixtures.
 * What must hold: in mode f32 every device is within NMSE 1e-10 of the reference; in the others the median over
 * the fixtures is at most twice that of the first device, and so is the largest. (One fixture alone says little
 * in these modes: rounding that falls differently sends a token to another expert.)
 *
 *     matrix FIXTURES DEVICE,DEVICE,... [--modes f32,bf16,fp8,kv8] [--generated N] [VARIANT...]
 *
 * Devices that are not on this machine are left out and named. Exit code 77 when fewer than two are left. */
#include "tests/model/accuracy.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define F32_NMSE 1e-10
#define FACTOR 2.0

enum { MAX_DEVICES = 12, N_MODES = 4 };
/* kv8: bf16 with keys and values as codes */
static const char *const mode_names[N_MODES] = {"f32", "bf16", "fp8", "kv8"};
static const enum rondo_mode modes[N_MODES] = {RONDO_MODE_F32, RONDO_MODE_BF16, RONDO_MODE_FP8,
                                               RONDO_MODE_BF16};
enum { BF16 = 1, FP8, KV8 };
/* Fixtures of that mode where none are named. */
static const char *const kv8_fixtures[] = {"base-bf16",    "ragged-tail",  "no-qk-norm",
                                           "head-dim-128", "softmax-only", "softmax-only-fp8"};

struct matrix {
    struct rondo_device *device[MAX_DEVICES];
    char name[MAX_DEVICES][32];
    double seconds[MAX_DEVICES];
    int n_devices;
    bool wanted[N_MODES];
    size_t n_generated;
    /* Of the pair (i, j), against the reference where i == j; by fixture. */
    double nmse[MAX_DEVICES][MAX_DEVICES][FIXTURE_MAX], kl[MAX_DEVICES][MAX_DEVICES][FIXTURE_MAX];
    size_t n_fixtures;
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, size_t n)
{
    double sorted[FIXTURE_MAX];
    memcpy(sorted, values, n * sizeof *values);
    qsort(sorted, n, sizeof *sorted, ascending);
    return sorted[n / 2];
}

static double largest(const double *values, size_t n)
{
    double result = 0;
    for (size_t i = 0; i < n; i++)
        result = values[i] > result || isnan(values[i]) ? values[i] : result;
    return result;
}

static void open_devices(struct matrix *m, char *list)
{
    for (char *name = strtok(list, ","); name && m->n_devices < MAX_DEVICES;
         name = strtok(NULL, ",")) {
        struct rondo_error error = {0};
        struct rondo_device_options options = {.threads = 1};
        struct rondo_device *device = rondo_device_open(name, &options, &error);
        EXPECT(device || error.status == RONDO_NO_DEVICE, "%s: %s", name, error.message);
        if (device) {
            snprintf(m->name[m->n_devices], sizeof m->name[0], "%s", name);
            m->device[m->n_devices++] = device;
            printf("%-14s %s\n", name, rondo_device_description(device));
        } else {
            printf("%-14s not here: %s\n", name, error.message);
        }
    }
}

/* Without FP8 weights mode fp8 is mode bf16, the mode before, whose numbers stay; one fixture shows that it is. */
static void run_fixture(struct matrix *m, const struct fixture *f, int mode)
{
    size_t n_generated = m->n_generated < f->n_generated ? m->n_generated : f->n_generated;
    size_t rows = f->n_tokens + n_generated, count = rows * (size_t)f->vocab_size;
    float *logits[MAX_DEVICES], *reference = accuracy_reference(f, n_generated);
    struct rondo_error error = {0};
    struct rondo_model *model = rondo_model_open(f->directory, NULL, &error);
    EXPECT(model, "%s: %s", f->name, error.message);
    bool repeats = mode == FP8 && m->wanted[BF16] && model && !accuracy_has_fp8(model);
    bool is_run = !repeats || !strcmp(f->name, "base-bf16");
    for (int i = 0; is_run && i < m->n_devices; i++) {
        double start = now();
        logits[i] = malloc(count * sizeof(float));
        bool done =
            model && accuracy_run(f, n_generated, model, m->device[i], modes[mode],
                                  mode == KV8 ? RONDO_KV_FP8 : RONDO_KV_AUTO, logits[i], &error);
        EXPECT(done, "%s in mode %s on %s: %s", f->name, mode_names[mode], m->name[i],
               error.message);
        for (size_t k = 0; !done && k < count; k++)
            logits[i][k] = NAN;
        m->seconds[i] += now() - start;
        double before = m->nmse[i][i][m->n_fixtures];
        for (int j = 0; j <= i; j++) {
            const float *want = i == j ? reference : logits[j];
            m->nmse[i][j][m->n_fixtures] = accuracy_nmse(logits[i], want, count);
            m->kl[i][j][m->n_fixtures] = accuracy_divergence(logits[i], want, rows, f->vocab_size);
        }
        EXPECT(!repeats || m->nmse[i][i][m->n_fixtures] == before,
               "%s on %s: NMSE %.2e in mode fp8 without FP8 weights, %.2e in mode bf16", f->name,
               m->name[i], m->nmse[i][i][m->n_fixtures], before);
    }
    for (int i = 0; is_run && i < m->n_devices; i++)
        free(logits[i]);
    free(reference);
    rondo_model_close(model);
    m->n_fixtures++;
}

static void print_row(const struct matrix *m, int mode, int i, int j)
{
    size_t n = m->n_fixtures;
    printf("%-5s %-14s %-14s  %.2e  %.2e  %.2e  %.2e\n", mode_names[mode], m->name[i],
           i == j ? "reference" : m->name[j], median(m->nmse[i][j], n), largest(m->nmse[i][j], n),
           median(m->kl[i][j], n), largest(m->kl[i][j], n));
}

static void check_device(const struct matrix *m, int mode, int i)
{
    size_t n = m->n_fixtures;
    double middle = median(m->nmse[i][i], n), most = largest(m->nmse[i][i], n);
    if (modes[mode] == RONDO_MODE_F32) {
        EXPECT(most <= F32_NMSE, "%s in mode f32: NMSE %.2e", m->name[i], most);
        return;
    }
    double first = median(m->nmse[0][0], n), first_most = largest(m->nmse[0][0], n);
    EXPECT(middle <= FACTOR * first, "%s in mode %s: median NMSE %.2e, %s has %.2e", m->name[i],
           mode_names[mode], middle, m->name[0], first);
    EXPECT(most <= FACTOR * first_most, "%s in mode %s: largest NMSE %.2e, %s has %.2e", m->name[i],
           mode_names[mode], most, m->name[0], first_most);
}

/* Of those that are named, if any is. */
static bool is_wanted(const char *fixture, int mode, char **variants, int n_variants)
{
    bool wanted = n_variants == 0 && mode != KV8;
    for (int i = 0; !wanted && i < n_variants; i++)
        wanted = !strcmp(fixture, variants[i]);
    size_t n_kv8 = n_variants == 0 ? sizeof kv8_fixtures / sizeof *kv8_fixtures : 0;
    for (size_t i = 0; !wanted && i < n_kv8; i++)
        wanted = !strcmp(fixture, kv8_fixtures[i]);
    return wanted;
}

static void run_mode(struct matrix *m, int mode, const char *root, char **variants, int n_variants)
{
    char names[FIXTURE_MAX][64];
    size_t n_names = fixture_list(root, names);
    m->n_fixtures = 0;
    for (size_t i = 0; i < n_names; i++) {
        if (!is_wanted(names[i], mode, variants, n_variants))
            continue;
        struct fixture fixture;
        fixture_open(&fixture, root, names[i]);
        run_fixture(m, &fixture, mode);
        fixture_close(&fixture);
    }
    EXPECT(m->n_fixtures, "mode %s: no fixtures of these names", mode_names[mode]);
    for (int i = 0; i < m->n_devices && m->n_fixtures; i++) {
        for (int j = 0; j <= i; j++)
            print_row(m, mode, i, j);
        check_device(m, mode, i);
    }
    fflush(stdout);
}

static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at++)
        if ((at == list || at[-1] == ',') && (!at[length] || at[length] == ','))
            return true;
    return false;
}

int main(int argc, char **argv)
{
    static struct matrix m = {.wanted = {true, true, true, true}, .n_generated = 4};
    int first = 3;
    if (argc < 3) {
        fprintf(stderr,
                "usage: matrix FIXTURES DEVICE,... [--modes f32,bf16,fp8,kv8] [--generated N] "
                "[VARIANT...]\n");
        return 2;
    }
    for (; first + 1 < argc && !strncmp(argv[first], "--", 2); first += 2) {
        for (int i = 0; !strcmp(argv[first], "--modes") && i < N_MODES; i++)
            m.wanted[i] = has_word(argv[first + 1], mode_names[i]);
        if (!strcmp(argv[first], "--generated"))
            m.n_generated = strtoul(argv[first + 1], NULL, 10);
    }
    open_devices(&m, argv[2]);
    if (m.n_devices < 2) {
        fprintf(stderr, "fewer than two of these devices are here\n");
        return test_failures ? 1 : 77;
    }
    printf("                                     NMSE                KL, nats per row\n"
           "mode  device         against         median    largest   median    largest\n");
    for (int mode = 0; mode < N_MODES; mode++)
        if (m.wanted[mode])
            run_mode(&m, mode, argv[1], argv + first, argc - first);
    for (int i = 0; i < m.n_devices; i++) {
        printf("%-14s %6.1f s\n", m.name[i], m.seconds[i]);
        rondo_device_close(m.device[i]);
    }
    fprintf(stderr, "%d expectations, %d failed\n", test_expectations, test_failures);
    return test_failures || !test_expectations;
}
