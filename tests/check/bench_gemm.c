/* Times of the GEMMs. Weights stand in one region far larger than the caches and every call takes the next
 * ones, as layers do. Products of few rows are told in bytes per second and as a share of the bandwidth this
 * device reads memory with; products of many rows in operations per second and as a share of what OpenBLAS
 * reaches at 2048^3 in f32 with as many threads, when the program was built with it. */
#include "tests/check/bench_gemm.h"

#include "backend_cpu/cpu.h"
#include "tests/check/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef RONDO_HAVE_OPENBLAS
#include <cblas.h>
#endif

#define REGION ((size_t)512 << 20)
#define SAMPLES 64 /* calls that are timed, one by one */
#define EXPERTS 256

struct bench_weight {
    const char *name;
    enum rondo_dtype dtype;
    int scale_rows; /* 128: blocks; 1: rows; 0: none */
};

static const struct bench_weight bench_f8_block = {"f8 block", RONDO_F8_E4M3, RONDO_BLOCK};
static const struct bench_weight bench_f8_row = {"f8 row", RONDO_F8_E4M3, 1};
static const struct bench_weight bench_bf16 = {"bf16", RONDO_BF16, 0};
static const struct bench_weight bench_f16 = {"f16", RONDO_F16, 0};
static const struct bench_weight bench_f32 = {"f32", RONDO_F32, 0};

struct bench_case {
    const struct bench_weight *weight;
    int rows, n, k;
    bool fp8_input;
};

struct bench_memory {
    char *region;  /* [REGION] weights */
    float *scales; /* ones */
    void *x;       /* any dtype, small numbers */
    float *out;
    double yardstick; /* bytes or operations a second */
};

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static struct rondo_device *device_of(struct check *check)
{
    return check->device[CHECK_TESTED];
}

/* Normal numbers in every dtype's own codes: 1024 of them, repeated with a prime period. */
static void fill_region(struct check *check, char *region, enum rondo_dtype dtype)
{
    enum { PERIOD = 65521 };
    size_t size = rondo_dtype_size(dtype);
    char *codes = check_allocate(check, PERIOD * size);
    for (size_t i = 0; i < PERIOD; i++)
        rondo_store(codes, dtype, i,
                    (float)check_random_normal(check) * (dtype == RONDO_F8_E4M3 ? 100.0f : 0.1f));
    for (size_t at = 0; at < REGION; at += PERIOD * size)
        memcpy(region + at, codes, REGION - at < PERIOD * size ? REGION - at : PERIOD * size);
}

static bool bench_open(struct check *check, struct bench_memory *memory)
{
    struct rondo_device *device = device_of(check);
    const size_t inputs = 4096 * 2048, outputs = 4096 * 2048;
    memory->region = device->allocate(device, REGION);
    memory->scales = device->allocate(device, inputs * sizeof(float) / RONDO_BLOCK);
    memory->x = device->allocate(device, inputs * sizeof(float));
    memory->out = device->allocate(device, outputs * sizeof(float));
    if (!memory->region || !memory->scales || !memory->x || !memory->out) {
        check_fail(check, "no memory for the benchmark");
        return false;
    }
    for (size_t i = 0; i < inputs / RONDO_BLOCK; i++)
        memory->scales[i] = 1.0f;
    return true;
}

static void bench_close(struct check *check, struct bench_memory *memory)
{
    struct rondo_device *device = device_of(check);
    device->release(device, memory->region);
    device->release(device, memory->scales);
    device->release(device, memory->x);
    device->release(device, memory->out);
}

static struct rondo_tensor weight_tensor(const struct bench_memory *memory,
                                         const struct bench_case *c, size_t index)
{
    size_t bytes = (size_t)c->n * (size_t)c->k * rondo_dtype_size(c->weight->dtype);
    struct rondo_tensor tensor = rondo_tensor_2d(
        memory->region + index * bytes % (REGION - bytes + 1), c->weight->dtype, c->n, c->k, "W");
    if (c->weight->scale_rows) {
        tensor.scale = memory->scales;
        tensor.scale_rows = c->weight->scale_rows;
        tensor.scale_columns = c->weight->scale_rows == 1 ? c->k : RONDO_BLOCK;
        tensor.scale_stride =
            c->weight->scale_rows == 1 ? 1 : (c->k + RONDO_BLOCK - 1) / RONDO_BLOCK;
    }
    return tensor;
}

static struct rondo_tensor input_tensor(const struct bench_memory *memory,
                                        const struct bench_case *c, int rows)
{
    enum rondo_dtype dtype = c->fp8_input ? RONDO_F8_E4M3 : RONDO_BF16;
    struct rondo_tensor x = rondo_tensor_2d(memory->x, dtype, rows, c->k, "x");
    for (int64_t i = 0; i < (int64_t)rows * c->k; i++)
        rondo_store(memory->x, dtype, (size_t)i, (float)(i % 13 - 6) * 0.25f);
    if (c->fp8_input) {
        x.scale = memory->scales;
        x.scale_rows = 1;
        x.scale_columns = RONDO_BLOCK;
        x.scale_stride = (c->k + RONDO_BLOCK - 1) / RONDO_BLOCK;
    }
    return x;
}

static void report(struct check *check, const char *op, const struct bench_case *c,
                   const char *what, double time, double amount, const char *unit, double yardstick)
{
    double rate = amount / time;
    check_case(check, "%s %s%s", what, c->weight->name, c->fp8_input ? ", x f8" : "");
    if (check->csv)
        printf("%s,%s,\"%s\",%.3f,%.3f,%.3f,,\n", check->device_name, op, check->case_name,
               time * 1e6, *unit == 'B' ? rate * 1e-9 : 0, *unit == 'B' ? 0 : rate * 1e-9);
    else
        printf("%-11s %-13s %-44s %10.1f us %8.2f G%s/s  %5.1f %%\n", check->device_name, op,
               check->case_name, time * 1e6, rate * 1e-9, unit,
               yardstick > 0 ? rate / yardstick * 100 : 0);
    fflush(stdout);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *samples, int n)
{
    qsort(samples, (size_t)n, sizeof *samples, by_value);
    return samples[n / 2];
}

/* ---- yardsticks ------------------------------------------------------------------------------ */

static double read_bandwidth(struct check *check)
{
    return check->in_place ? rondo_cpu_read_bandwidth(rondo_cpu(device_of(check)), REGION, 3) : 0;
}

static double sgemm_rate(struct check *check)
{
#ifdef RONDO_HAVE_OPENBLAS
    enum { N = 2048 };
    float *a = calloc((size_t)3 * N * N, sizeof *a);
    double best = 0;
    if (!a || !check->in_place) {
        free(a);
        return 0;
    }
    openblas_set_num_threads(rondo_pool_threads(rondo_cpu(device_of(check))->pool));
    for (int i = 0; i < 3; i++) {
        double start = seconds();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N, N, N, 1.0f, a, N, a + N * N, N,
                    0.0f, a + 2 * N * N, N);
        double rate = 2.0 * N * N * N / (seconds() - start);
        best = rate > best ? rate : best;
    }
    free(a);
    return best;
#else
    return 0;
#endif
}

/* ---- gemm ------------------------------------------------------------------------------------ */

static void time_gemm(struct check *check, struct bench_memory *memory, const struct bench_case *c)
{
    struct rondo_device *device = device_of(check);
    struct rondo_op_gemm op = {.x = input_tensor(memory, c, c->rows), .n_parts = 1};
    double bytes = (double)c->n * c->k * (double)rondo_dtype_size(c->weight->dtype),
           sample[SAMPLES];
    bool few = c->rows < 4;
    int samples = few ? SAMPLES : 5;
    op.part[0].out = rondo_tensor_2d(memory->out, RONDO_F32, c->rows, c->n, "out");
    for (int i = 0; i < samples; i++) {
        op.part[0].weight = weight_tensor(memory, c, (size_t)i);
        double start = seconds();
        device->ops.gemm(device, &op);
        device->synchronize(device);
        sample[i] = seconds() - start;
    }
    char what[80];
    snprintf(what, sizeof what, "M=%d N=%d K=%d", c->rows, c->n, c->k);
    if (few)
        report(check, "gemm", c, what, median(sample, samples), bytes, "B", memory->yardstick);
    else
        report(check, "gemm", c, what, median(sample, samples), 2.0 * c->rows * c->n * c->k, "FLOP",
               memory->yardstick);
}

void bench_gemm(struct check *check)
{
    static const struct bench_case cases[] = {
        {&bench_f8_block, 1, 6144, 2048, false}, {&bench_f8_block, 1, 2048, 2048, false},
        {&bench_f8_block, 1, 2048, 2048, true},  {&bench_f8_block, 3, 2048, 2048, true},
        {&bench_f8_row, 1, 2048, 2048, false},   {&bench_f8_block, 512, 2048, 2048, true},
        {&bench_f8_block, 64, 6144, 2048, true}, {&bench_f8_row, 512, 2048, 2048, true},
        {&bench_bf16, 1, 6144, 2048, false},     {&bench_bf16, 1, 65536, 2048, false},
        {&bench_bf16, 512, 2048, 2048, false},   {&bench_bf16, 32, 2048, 2048, false},
        {&bench_f16, 1, 2048, 2048, false},      {&bench_f16, 512, 2048, 2048, false},
        {&bench_f32, 1, 2048, 2048, false},      {&bench_f32, 512, 2048, 2048, false},
    };
    struct bench_memory memory = {0};
    struct rondo_limits limits = {.tokens = 512, .max_k = 2048, .max_n = 65536};
    check_reserve(check, &limits);
    if (bench_open(check, &memory)) {
        double bandwidth = read_bandwidth(check), rate = sgemm_rate(check);
        printf("%-11s reads %.1f GB/s; OpenBLAS sgemm 2048^3 %.1f GFLOP/s\n", check->device_name,
               bandwidth * 1e-9, rate * 1e-9);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            if (i == 0 || cases[i].weight->dtype != cases[i - 1].weight->dtype)
                fill_region(check, memory.region, cases[i].weight->dtype);
            memory.yardstick = cases[i].rows < 4 ? bandwidth : rate;
            time_gemm(check, &memory, &cases[i]);
        }
    }
    bench_close(check, &memory);
}

/* ---- grouped_gemm ---------------------------------------------------------------------------- */

/* Every token goes to 8 of 256 experts; call i of a decoded token to experts 8i .. 8i + 7. */
static int32_t route(int32_t *offsets, int tokens, size_t call)
{
    for (int e = 0; e < EXPERTS; e++) {
        int rows = tokens == 1 ? (size_t)e / 8 == call % (EXPERTS / 8)
                               : (int)((int64_t)tokens * 8 * (e + 1) / EXPERTS -
                                       (int64_t)tokens * 8 * e / EXPERTS);
        offsets[e + 1] = offsets[e] + rows;
    }
    return offsets[EXPERTS];
}

static void time_grouped(struct check *check, struct bench_memory *memory,
                         const struct bench_case *c, int parts)
{
    struct rondo_device *device = device_of(check);
    struct rondo_tensor *weight[2];
    int32_t *offsets = check_allocate(check, (EXPERTS + 1) * sizeof *offsets);
    int32_t *gather = check_allocate(check, (size_t)c->rows * 8 * sizeof *gather);
    double bytes = (double)c->n * c->k * (double)rondo_dtype_size(c->weight->dtype) * parts,
           sample[SAMPLES];
    for (int p = 0; p < 2; p++) {
        weight[p] = check_allocate(check, EXPERTS * sizeof *weight[p]);
        for (size_t e = 0; e < EXPERTS; e++)
            weight[p][e] = weight_tensor(memory, c, e * (size_t)parts + (size_t)p);
    }
    for (int i = 0; i < c->rows * 8; i++)
        gather[i] = i % c->rows;
    int32_t rows = route(offsets, c->rows, 0);
    struct rondo_op_grouped_gemm op = {
        .x = input_tensor(memory, c, c->rows * 8),
        .weight = {weight[0], weight[1]},
        .n_parts = parts,
        .n_experts = EXPERTS,
        .offsets = offsets,
        .gather = parts == 2 ? gather : NULL,
        .n_rows = rows,
        .out = rondo_tensor_2d(memory->out, RONDO_BF16, rows, c->n * parts, "out"),
    };
    int samples = c->rows == 1 ? SAMPLES : 5;
    for (int i = 0; i < samples; i++) {
        route(offsets, c->rows, (size_t)i);
        double start = seconds();
        device->ops.grouped_gemm(device, &op);
        device->synchronize(device);
        sample[i] = seconds() - start;
    }
    char what[80];
    snprintf(what, sizeof what, "T=%d K=8 E=256 %dx(N=%d K=%d)", c->rows, parts, c->n, c->k);
    if (c->rows == 1)
        report(check, "grouped_gemm", c, what, median(sample, samples), bytes * 8, "B",
               memory->yardstick);
    else
        report(check, "grouped_gemm", c, what, median(sample, samples),
               2.0 * rows * parts * c->n * c->k, "FLOP", memory->yardstick);
}

void bench_grouped_gemm(struct check *check)
{
    static const struct {
        struct bench_case bench;
        int parts;
    } cases[] = {
        {{&bench_f8_block, 1, 512, 2048, true}, 2},   {{&bench_f8_block, 1, 2048, 512, true}, 1},
        {{&bench_f8_block, 512, 512, 2048, true}, 2}, {{&bench_f8_block, 512, 2048, 512, true}, 1},
        {{&bench_f8_row, 512, 512, 2048, false}, 2},  {{&bench_f8_row, 128, 512, 2048, false}, 2},
        {{&bench_bf16, 1, 512, 2048, false}, 1},      {{&bench_bf16, 512, 512, 2048, false}, 1},
    };
    struct bench_memory memory = {0};
    struct rondo_limits limits = {
        .tokens = 512, .experts = EXPERTS, .experts_per_token = 8, .max_k = 2048, .max_n = 2048};
    check_reserve(check, &limits);
    if (bench_open(check, &memory)) {
        double bandwidth = read_bandwidth(check), rate = sgemm_rate(check);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            const struct bench_case *c = &cases[i].bench;
            if (i == 0 || c->weight->dtype != cases[i - 1].bench.weight->dtype)
                fill_region(check, memory.region, c->weight->dtype);
            memory.yardstick = c->rows < 4 ? bandwidth : rate;
            time_grouped(check, &memory, c, cases[i].parts);
        }
    }
    bench_close(check, &memory);
}
