/* rondo-check: options, the loop over devices and ops, timing. */
#include "tests/check/bench_device.h"
#include "tests/check/internal.h"

#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_PRINTED 5 /* failures of one op on one device that are printed */

/* One line for each check_FAMILY.c. */
static const struct check_family *const families[] = {
    &check_family_attention, &check_family_basic, &check_family_gemm,
    &check_family_moe,       &check_family_norm,  &check_family_sampling,
};
#define FAMILIES (sizeof families / sizeof families[0])

struct options {
    const char *op, *backend, *reference;
    uint64_t seed;
    int threads;
    bool bench, only_bench, csv, list, layouts;
};

static const char help[] =
    "usage: rondo-check [options]\n"
    "Runs every op of every device against the plain C reference.\n"
    "  --op PATTERN       ops or families to run, a shell pattern (default: all)\n"
    "  --backend PATTERN  devices to run, a shell pattern: cpu:ref, cpu:avx2, ... (default: all);\n"
    "                     what follows a '+' is an option of them: 'cuda:*+cublaslt'\n"
    "                     cpu:ref is compared with double precision where that is cheap\n"
    "  --reference DEVICE what they are compared with (default: cpu:ref). 'cpu', the fast code\n"
    "                     of this machine, is ten times as fast; it says the same where cpu:ref\n"
    "                     is compared with it, too\n"
    "  --seed N           seed of the inputs (default: from the clock)\n"
    "  --threads N        threads of the device (default: one per core, at least 2)\n"
    "  --bench            also time the ops: median, GB/s, GFLOP/s\n"
    "  --only-bench       only time them, on GPUs\n"
    "  --csv              times as comma-separated values\n"
    "  --list             list ops and devices\n"
    "  --layouts          instead, compare the instructions of GPUs with their documented layouts\n"
    "Exit code: 0 all agree, 1 some do not, 2 wrong usage, 77 no such device.\n";

/* ---- cases ----------------------------------------------------------------------------------- */

void check_case(struct check *check, const char *format, ...)
{
    check_memory_release(check);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(check->case_name, sizeof check->case_name, format, arguments);
    va_end(arguments);
    uint64_t hash =
        0xcbf29ce484222325u; /* FNV-1a: a case's inputs do not depend on the other ops run */
    for (const char *c = check->op_name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    check->random = check->seed ^ (hash + (uint64_t)check->n_cases * 0x9e3779b97f4a7c15u);
    check->energy = 0;
    check->n_cases++;
}

void check_fail(struct check *check, const char *format, ...)
{
    char message[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (check->n_failures++ < MAX_PRINTED)
        printf("FAIL %s %s [case %d: %s] %s; --op %s --backend %s --seed %llu\n",
               check->device_name, check->op_name, check->n_cases - 1, check->case_name, message,
               check->op_name, check->device_name, (unsigned long long)check->seed);
}

void check_reserve(struct check *check, const struct rondo_limits *limits)
{
    for (int side = 0; side < 2; side++) {
        struct rondo_error error;
        if (check->device[side]->reserve(check->device[side], limits, &error) != RONDO_OK) {
            fprintf(stderr, "rondo-check: %s\n", error.message);
            exit(error.status);
        }
    }
}

void check_call(struct rondo_device *device, enum rondo_op op, const void *arguments)
{
    const struct rondo_ops *ops = &device->ops;
    switch (op) {
    case RONDO_OP_EMBEDDING:
        ops->embedding(device, arguments);
        break;
    case RONDO_OP_RMSNORM:
        ops->rmsnorm(device, arguments);
        break;
    case RONDO_OP_QUANTIZE:
        ops->quantize(device, arguments);
        break;
    case RONDO_OP_GEMM:
        ops->gemm(device, arguments);
        break;
    case RONDO_OP_GROUPED_GEMM:
        ops->grouped_gemm(device, arguments);
        break;
    case RONDO_OP_QKV:
        ops->qkv(device, arguments);
        break;
    case RONDO_OP_LINEAR_ATTENTION:
        ops->linear_attention(device, arguments);
        break;
    case RONDO_OP_SOFTMAX_ATTENTION:
        ops->softmax_attention(device, arguments);
        break;
    case RONDO_OP_ACCEPT:
        ops->accept(device, arguments);
        break;
    case RONDO_OP_GROUP_NORM_GATE:
        ops->group_norm_gate(device, arguments);
        break;
    case RONDO_OP_ROUTER:
        ops->router(device, arguments);
        break;
    case RONDO_OP_GEMM_ROUTER:
        ops->gemm_router(device, arguments);
        break;
    case RONDO_OP_GROUP_TOKENS:
        ops->group_tokens(device, arguments);
        break;
    case RONDO_OP_SWIGLU:
        ops->swiglu(device, arguments);
        break;
    case RONDO_OP_COMBINE:
        ops->combine(device, arguments);
        break;
    case RONDO_OP_ARGMAX:
        ops->argmax(device, arguments);
        break;
    case RONDO_OP_PENALIZE:
        ops->penalize(device, arguments);
        break;
    case RONDO_OP_CANDIDATES:
        ops->candidates(device, arguments);
        break;
    case RONDO_OP_COUNT:
        break;
    }
}

/* Ops whose results have the reference's bits on every device: those without products, and all of them while
 * activations are f32. Products of bf16 and FP8 go to tensor cores, which have an order of their own. */
static bool has_fixed_order(enum rondo_op op, const void *arguments)
{
    switch (op) {
    case RONDO_OP_GEMM:
        return ((const struct rondo_op_gemm *)arguments)->x.dtype == RONDO_F32;
    case RONDO_OP_GEMM_ROUTER:
        return ((const struct rondo_op_gemm_router *)arguments)->gemm.x.dtype == RONDO_F32;
    case RONDO_OP_GROUPED_GEMM:
        return ((const struct rondo_op_grouped_gemm *)arguments)->x.dtype == RONDO_F32;
    case RONDO_OP_LINEAR_ATTENTION:
        return ((const struct rondo_op_linear_attention *)arguments)->q.dtype == RONDO_F32;
    case RONDO_OP_SOFTMAX_ATTENTION:
        return ((const struct rondo_op_softmax_attention *)arguments)->q.dtype == RONDO_F32;
    case RONDO_OP_ACCEPT: { /* folds whole chunks of linear layers */
        const struct rondo_op_accept *op_accept = arguments;
        return !op_accept->linear.state || op_accept->linear.dtype == RONDO_F32;
    }
    default:
        return true;
    }
}

void check_run(struct check *check, enum rondo_op op, const void *reference, const void *tested)
{
    check->exact = check->in_place || has_fixed_order(op, tested);
    const void *const arguments[2] = {reference, tested};
    struct rondo_error error;
    if (rondo_op_check(op, tested, check->op_name, &error) != RONDO_OK)
        check_fail(check, "%s", error.message);
    const char *reason =
        check->device[CHECK_TESTED]->supports
            ? check->device[CHECK_TESTED]->supports(check->device[CHECK_TESTED], op, tested)
            : NULL;
    if (reason)
        check_fail(check, "can not be done: %s", reason);
    for (int side = 0; side < 2; side++) {
        check_call(check->device[side], op, arguments[side]);
        check->device[side]->synchronize(check->device[side]);
        if (rondo_device_status(check->device[side], &error) != RONDO_OK)
            check_fail(check, "%s", error.message);
    }
}

/* ---- timing ---------------------------------------------------------------------------------- */

static double seconds_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double time_calls(struct rondo_device *device, enum rondo_op op, const void *arguments,
                         int calls)
{
    double start = seconds_now();
    for (int i = 0; i < calls; i++)
        check_call(device, op, arguments);
    device->synchronize(device);
    return (seconds_now() - start) / calls;
}

/* Median of samples of some milliseconds each. */
void check_bench(struct check *check, enum rondo_op op, const void *tested, double bytes,
                 double operations)
{
    enum { SAMPLES = 11 };
    double sample[SAMPLES];
    struct rondo_device *device = check->device[CHECK_TESTED];
    if (!check->bench)
        return;
    double once = time_calls(device, op, tested, 3);
    int calls = once > 2e-3 ? 1 : once > 1e-8 ? (int)(2e-3 / once) : 1000000;
    for (int i = 0; i < SAMPLES; i++)
        sample[i] = time_calls(device, op, tested, calls + 1);
    qsort(sample, SAMPLES, sizeof sample[0], compare_doubles);
    double median = sample[SAMPLES / 2];
    if (check->csv)
        printf("%s,%s,\"%s\",%.3f,%.3f,%.3f,,\n", check->device_name, check->op_name,
               check->case_name, median * 1e6, bytes / median * 1e-9, operations / median * 1e-9);
    else
        printf("%-11s %-18s %-44s %10.2f us %8.2f GB/s %8.2f GFLOP/s\n", check->device_name,
               check->op_name, check->case_name, median * 1e6, bytes / median * 1e-9,
               operations / median * 1e-9);
    fflush(stdout);
}

/* ---- runs ------------------------------------------------------------------------------------ */

static bool op_matches(const struct options *options, const struct check_family *family,
                       const struct check_op *op)
{
    return fnmatch(options->op, family->name, 0) == 0 || fnmatch(options->op, op->name, 0) == 0;
}

/* Times of a device with memory of its own; returns how many could not be taken. */
static int bench_device(const struct options *options, struct rondo_device *reference,
                        struct rondo_device *device, const char *name)
{
    struct check check = {.device = {reference, device},
                          .device_name = name,
                          .csv = options->csv,
                          .seed = options->seed,
                          .random = options->seed,
                          .op_name = "benchmark"};
    struct bench bench;
    if (!bench_open(&bench, &check)) {
        check_fail(&check, "no memory");
        return 1;
    }
    bench_cases(&bench, options->op);
    bench_close(&bench);
    check_memory_release(&check);
    return check.n_failures > 0;
}

/* Runs the matching ops of one device; returns how many failed. */
static int run_device(const struct options *options, struct rondo_device *reference,
                      const char *name)
{
    struct rondo_error error;
    struct rondo_device_options device_options = {.threads = options->threads};
    if (options->threads == 0 && sysconf(_SC_NPROCESSORS_ONLN) < 2)
        device_options.threads = 2; /* one thread would test little */
    struct rondo_device *device = rondo_device_open(name, &device_options, &error);
    if (!device) {
        fprintf(stderr, "rondo-check: %s\n", error.message);
        return 1;
    }
    bool in_place = device->uses_host_memory && device->uses_host_memory(device);
    int failed = 0;
    for (size_t f = 0; f < FAMILIES && !options->only_bench; f++)
        for (const struct check_op *op = families[f]->ops; op->name; op++) {
            if (!op_matches(options, families[f], op))
                continue;
            struct check check = {
                .device = {reference, device},
                .device_name = name,
                .in_place = in_place,
                .is_reference = strcmp(name, "cpu:ref") == 0,
                .bench = options->bench && in_place,
                .csv = options->csv,
                .seed = options->seed,
                .random = options->seed,
                .op_name = op->name,
            };
            op->body(&check);
            check_memory_release(&check);
            failed += check.n_failures > 0;
            if (!options->csv)
                printf("%-11s %-18s %5d cases, %d failures\n", name, op->name, check.n_cases,
                       check.n_failures);
            fflush(stdout);
        }
    if (options->bench && !in_place)
        failed += bench_device(options, reference, device, name);
    rondo_device_close(device);
    return failed;
}

static void list(void)
{
    struct rondo_device_info devices[32];
    size_t n = rondo_device_list(devices, 32);
    for (size_t i = 0; i < n && i < 32; i++)
        printf("device %-14s %s\n", devices[i].name, devices[i].description);
    for (size_t f = 0; f < FAMILIES; f++)
        for (const struct check_op *op = families[f]->ops; op->name; op++)
            printf("op %-18s of family %s\n", op->name, families[f]->name);
}

static int usage(const char *option, const char *problem)
{
    fprintf(stderr, "rondo-check: %s: %s; see --help\n", option, problem);
    return RONDO_USAGE;
}

static int run(const struct options *options)
{
    struct rondo_device_info devices[32];
    struct rondo_error error;
    size_t n = rondo_device_list(devices, 32);
    int n_devices = 0, failed = 0;
    struct rondo_device_options one = {.threads = 1};
    struct rondo_device *reference = rondo_device_open(options->reference, &one, &error);
    if (!reference) {
        fprintf(stderr, "rondo-check: %s\n", error.message);
        return error.status;
    }
    if (!reference->uses_host_memory || !reference->uses_host_memory(reference)) {
        rondo_device_close(reference);
        return usage("--reference", "want a CPU device");
    }
    if (options->csv)
        puts("device,op,case,median_us,gb_s,gflop_s,copy_share,path");
    else
        printf("seed %llu\n", (unsigned long long)options->seed);
    const char *plus = strchrnul(options->backend, '+');
    char pattern[64], name[128];
    snprintf(pattern, sizeof pattern, "%.*s", (int)(plus - options->backend), options->backend);
    for (size_t i = 0; i < n && i < 32; i++) {
        if (strcmp(devices[i].name, "cpu") == 0) /* is one of the levels that follow */
            continue;
        if (fnmatch(pattern, devices[i].name, 0) != 0)
            continue;
        n_devices++;
        snprintf(name, sizeof name, "%.31s%.64s", devices[i].name, plus);
        failed += run_device(options, reference, name);
    }
    rondo_device_close(reference);
    if (n_devices == 0) {
        fprintf(stderr, "rondo-check: --backend: no device of this machine matches (got \"%s\")\n",
                options->backend);
        return RONDO_NO_DEVICE;
    }
    return failed ? RONDO_FAILED : RONDO_OK;
}

static bool parse_number(const char *text, uint64_t limit, uint64_t *value)
{
    char *end;
    *value = strtoull(text, &end, 0);
    return *text >= '0' && *text <= '9' && *end == 0 && *value <= limit;
}

static bool any_op(const struct options *options)
{
    for (size_t f = 0; f < FAMILIES; f++)
        for (const struct check_op *op = families[f]->ops; op->name; op++)
            if (op_matches(options, families[f], op))
                return true;
    return false;
}

int main(int argc, char **argv)
{
    struct options options = {
        .op = "*", .backend = "*", .reference = "cpu:ref", .seed = (uint64_t)time(NULL)};
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        uint64_t number = 0;
        if (strcmp(option, "--help") == 0) {
            fputs(help, stdout);
            return 0;
        } else if (strcmp(option, "--bench") == 0) {
            options.bench = true;
        } else if (strcmp(option, "--only-bench") == 0) {
            options.bench = options.only_bench = true;
        } else if (strcmp(option, "--csv") == 0) {
            options.csv = true;
        } else if (strcmp(option, "--list") == 0) {
            options.list = true;
        } else if (strcmp(option, "--layouts") == 0) {
            options.layouts = true;
        } else if (strcmp(option, "--op") == 0 || strcmp(option, "--backend") == 0 ||
                   strcmp(option, "--reference") == 0) {
            if (!value)
                return usage(option, "a value is missing");
            *(option[2] == 'o'   ? &options.op
              : option[2] == 'b' ? &options.backend
                                 : &options.reference) = value;
            i++;
        } else if (strcmp(option, "--seed") == 0 || strcmp(option, "--threads") == 0) {
            bool seed = option[2] == 's';
            if (!value || !parse_number(value, seed ? UINT64_MAX : 4096, &number))
                return usage(option, "a number is missing or out of range");
            if (seed)
                options.seed = number;
            else
                options.threads = (int)number;
            i++;
        } else {
            return usage(option, "unknown option");
        }
    }
    if (options.list) {
        list();
        return 0;
    }
    if (options.layouts)
        return check_layouts(options.backend);
    if (!any_op(&options))
        return usage("--op", "no op or family matches");
    return run(&options);
}
