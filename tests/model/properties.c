/* Runs the property tests on a few fixtures in every mode, bit for bit, from seeds that it prints.
 *
 *     properties FIXTURES [--seed N] [--device NAME] [--only PROPERTY] [VARIANT...]
 *
 * Exit code 77 when the device is not on this machine. */
#include "tests/model/properties.h"
#include "tests/model/accuracy.h"
#include "tests/model/expect.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int expect_count, expect_failures;

struct property {
    const char *name;
    void (*run)(struct lab *lab);
};

static const struct property properties[] = {
    {"split", property_split},     {"decode", property_decode},   {"batch", property_batch},
    {"reuse", property_reuse},     {"threads", property_threads}, {"fork", property_fork},
    {"save", property_save},       {"sync", property_sync},       {"boundary", property_boundary},
    {"tree", property_tree},       {"chain", property_chain},     {"refusals", property_refusals},
    {"fusions", property_fusions}, {"short", property_short},     {"best", property_best},
    {"sampled", property_sampled},
};

/* Linear and softmax layers, a ragged tail, odd head counts, FP8 with ragged blocks, mixed types, experts of mixed types,
 * softmax layers only. */
static const char *const variants[] = {"base-bf16", "ragged-tail",  "heads-12",
                                       "mixed",     "random-types", "softmax-only-fp8"};

/* Keys and values as codes: a model with linear layers, and those without. */
static const struct {
    const char *variant;
    enum rondo_mode mode;
} with_kv_fp8[] = {{"base-bf16", RONDO_MODE_BF16},
                   {"ragged-tail", RONDO_MODE_F32},
                   {"softmax-only-fp8", RONDO_MODE_FP8},
                   {"head-dim-128", RONDO_MODE_BF16}};

struct arguments {
    const char *root, *device, *only;
    uint64_t seed;
};

static void run_mode(struct lab *lab, const struct arguments *arguments)
{
    lab->property = "opening";
    struct rondo_context_options options = lab_options(lab);
    lab->plain = lab_context(lab, &options);
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++) {
        if (arguments->only && strcmp(arguments->only, properties[i].name))
            continue;
        int failures = expect_failures;
        lab->property = properties[i].name;
        lab->seed = lab->random = arguments->seed;
        properties[i].run(lab);
        printf("%-18s %-5s %-7s %-9s seed %" PRIu64 ": %s\n", lab->name, rondo_mode_name(lab->mode),
               lab->kv == RONDO_KV_FP8 ? "KV fp8" : "", lab->property, lab->seed,
               failures == expect_failures ? "ok" : "FAILED");
        fflush(stdout);
    }
    rondo_context_destroy(lab->plain);
}

static void run_variant(const char *name, const struct arguments *arguments)
{
    char directory[600];
    snprintf(directory, sizeof directory, "%.500s/%.63s", arguments->root, name);
    struct lab lab = {.name = name, .property = "opening"};
    struct rondo_device_options options = {.threads = 1}; /* others: property_threads */
    struct rondo_error no_device = {0};
    lab.device = rondo_device_open(arguments->device, &options, &no_device);
    if (!lab.device) {
        fprintf(stderr, "%s\n", no_device.message);
        exit(no_device.status);
    }
    MUST(&lab, lab.model = rondo_model_open(directory, NULL, &error));
    lab.vocab_size = (size_t)rondo_model_config(lab.model)->vocab_size;
    static const enum rondo_mode modes[] = {RONDO_MODE_F32, RONDO_MODE_BF16, RONDO_MODE_FP8};
    int n_modes =
        accuracy_has_fp8(lab.model) ? 3 : 2; /* without FP8 weights mode fp8 is mode bf16 */
    for (int i = 0; i < n_modes; i++) {
        lab.mode = modes[i];
        run_mode(&lab, arguments);
    }
    lab.kv = RONDO_KV_FP8;
    for (size_t i = 0; i < sizeof with_kv_fp8 / sizeof *with_kv_fp8; i++) {
        lab.mode = with_kv_fp8[i].mode;
        if (!strcmp(with_kv_fp8[i].variant, name))
            run_mode(&lab, arguments);
    }
    rondo_model_close(lab.model);
    rondo_device_close(lab.device);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: properties FIXTURES [--seed N] [--device NAME] [--only PROPERTY] "
                        "[VARIANT...]\n");
        return 2;
    }
    struct arguments arguments = {argv[1], "cpu", NULL, 1};
    int i = 2;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        if (!strcmp(argv[i], "--seed"))
            arguments.seed = strtoull(argv[i + 1], NULL, 0);
        else if (!strcmp(argv[i], "--device"))
            arguments.device = argv[i + 1];
        else
            arguments.only = argv[i + 1];
    }
    if (i < argc)
        for (; i < argc; i++)
            run_variant(argv[i], &arguments);
    else
        for (size_t j = 0; j < sizeof variants / sizeof *variants; j++)
            run_variant(variants[j], &arguments);
    fprintf(stderr, "%d expectations, %d failed\n", expect_count, expect_failures);
    return expect_failures || !expect_count;
}
