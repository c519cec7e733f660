/* Memory and clock of the benchmarks of devices with memory of their own. */
#include "tests/check/bench_device.h"
#include "tests/check/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define POOL ((size_t)4 << 30)
#define SMALL_POOL ((size_t)48 << 20) /* of emulated devices */
#define CACHE ((size_t)160 << 20)     /* beyond any device's L2 */
#define ALIGN(size) (((size) + 255) / 256 * 256)

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* ---- memory ---------------------------------------------------------------------------------------- */

/* Pairs of bytes that are small numbers as bf16 and f32, and numbers as E4M3. */
static void fill_pool(struct bench *bench)
{
    enum { BLOCK = 8 << 20 };
    uint16_t *block = malloc(BLOCK);
    for (size_t i = 0; block && i < BLOCK / sizeof *block; i++) {
        uint16_t bits = rondo_f32_to_bf16((float)check_random_normal(bench->check) * 0.1f);
        block[i] = (bits & 0x7f) == 0x7f ? (uint16_t)(bits ^ 1) : bits;
    }
    for (size_t at = 0; block && at < bench->size; at += BLOCK)
        bench->device->write(bench->device, bench->pool + at, block,
                             bench->size - at < BLOCK ? bench->size - at : BLOCK);
    free(block);
}

static double measure_copy(struct bench *bench)
{
    size_t size = bench->size / 4;
    double best = 0;
    for (int i = 0; i < 5; i++) {
        bench->device->synchronize(bench->device);
        double start = seconds();
        for (int j = 0; j < 4; j++)
            bench->device->copy(bench->device, bench->pool + (size_t)(j & 1) * size,
                                bench->pool + 2 * size, size);
        bench->device->synchronize(bench->device);
        double rate = 8.0 * (double)size / (seconds() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

bool bench_open(struct bench *bench, struct check *check)
{
    bool emulated = strncmp(check->device_name, "simt", 4) == 0;
    struct rondo_device *device = check->device[CHECK_TESTED];
    *bench = (struct bench){.check = check, .device = device, .shrink = emulated ? 64 : 1};
    bench->size = emulated ? SMALL_POOL : POOL;
    uint64_t available = device->memory_available(device);
    if (available && available / 2 < bench->size)
        bench->size = (size_t)(available / 2) / 1024 * 1024;
    bench->pool = device->allocate(device, bench->size);
    if (!bench->pool)
        return false;
    fill_pool(bench);
    bench->copy_bandwidth = measure_copy(bench);
    char why[100] = "it is NVIDIA's";
    const char *ordinal = strchr(check->device_name, ':');
    bool stands_in = strncmp(check->device_name, "simt:", 5) == 0 && getenv("RONDO_CHECK_DRIVER");
    if (strncmp(check->device_name, "cuda", 4) == 0 || stands_in)
        bench->yardstick = yardstick_open(ordinal ? atoi(ordinal + 1) : 0, why, sizeof why);
    if (!check->csv)
        printf("%-11s copies %.1f GB/s (bytes read and written)\n", check->device_name,
               bench->copy_bandwidth * 1e-9);
    if (!check->csv)
        printf("%-11s cuBLASLt %s%s\n", check->device_name,
               bench->yardstick ? yardstick_version(bench->yardstick) : "is not a yardstick: ",
               bench->yardstick ? "" : why);
    return true;
}

void bench_close(struct bench *bench)
{
    yardstick_close(bench->yardstick);
    bench->device->release(bench->device, bench->pool);
    bench->pool = NULL;
}

void bench_begin(struct bench *bench)
{
    bench->used = 0;
}

void *bench_take(struct bench *bench, size_t size)
{
    if (ALIGN(size) > bench->size - bench->used)
        return NULL;
    void *at = bench->pool + bench->used;
    bench->used += ALIGN(size);
    return at;
}

void *bench_put(struct bench *bench, const void *data, size_t size)
{
    void *at = bench_take(bench, size);
    if (at)
        bench->device->write(bench->device, at, data, size);
    return at;
}

struct rondo_tensor bench_tensor(struct bench *bench, enum rondo_dtype dtype, int64_t rows,
                                 int64_t columns, bool activation)
{
    size_t size = (size_t)(rows * columns) * rondo_dtype_size(dtype);
    struct rondo_tensor tensor =
        rondo_tensor_2d(bench_take(bench, size), dtype, rows, columns, "bench");
    if (dtype != RONDO_F8_E4M3)
        return tensor;
    tensor.scale_rows = activation ? 1 : RONDO_BLOCK;
    tensor.scale_columns = RONDO_BLOCK;
    tensor.scale_stride = (columns + RONDO_BLOCK - 1) / RONDO_BLOCK;
    int64_t scale_rows = (rows + tensor.scale_rows - 1) / tensor.scale_rows;
    tensor.scale = bench_take(bench, (size_t)(scale_rows * tensor.scale_stride) * sizeof(float));
    if (!tensor.scale)
        tensor.data = NULL;
    return tensor;
}

int bench_sets(const struct bench *bench, size_t size)
{
    size_t wanted = bench->shrink > 1 ? 2 : CACHE / (size + 1) + 2;
    size_t room = bench->size / (size + (1 << 16));
    wanted = wanted < room ? wanted : room;
    return wanted < 1 ? 1 : wanted > BENCH_SETS ? BENCH_SETS : (int)wanted;
}

/* ---- clock ----------------------------------------------------------------------------------------- */

static void call_all(struct bench *bench, enum rondo_op op, const char *sets, size_t stride,
                     int n_sets, int calls)
{
    for (int i = 0; i < calls; i++)
        check_call(bench->device, op, sets + (size_t)(i % n_sets) * stride);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of one call. */
static double time_calls(struct bench *bench, enum rondo_op op, const void *sets, size_t stride,
                         int n_sets)
{
    enum { SAMPLES = 7 };
    struct rondo_device *device = bench->device;
    struct rondo_recording *recording = NULL;
    int calls = n_sets, samples = bench->shrink > 1 ? 1 : SAMPLES;
    double sample[SAMPLES];
    call_all(bench, op, sets, stride, n_sets, 1); /* whatever is set up once */
    device->synchronize(device);
    while (bench->shrink == 1 && calls < 16)
        calls += n_sets;
    if (device->record_begin && device->record_begin(device)) {
        call_all(bench, op, sets, stride, n_sets, calls);
        recording = device->record_end(device);
    }
    for (int i = -1; i < samples; i++) { /* the first only warms up */
        double start = seconds();
        if (!recording || !device->replay(device, recording))
            call_all(bench, op, sets, stride, n_sets, calls);
        device->synchronize(device);
        if (i >= 0)
            sample[i] = (seconds() - start) / calls;
    }
    if (recording)
        device->record_release(device, recording);
    qsort(sample, (size_t)samples, sizeof *sample, by_value);
    return sample[samples / 2];
}

void bench_time(struct bench *bench, enum rondo_op op, const void *sets, size_t stride, int n_sets,
                double bytes, double operations, const char *format, ...)
{
    struct check *check = bench->check;
    struct rondo_error error;
    char name[120];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    const char *reason = bench->device->supports(bench->device, op, sets);
    const char *path = bench->device->path ? bench->device->path(bench->device, op, sets) : NULL;
    if (rondo_op_check(op, sets, name, &error) != RONDO_OK)
        reason = error.message;
    if (reason) {
        check_fail(check, "benchmark of %s: %s: %s", rondo_op_name(op), name, reason);
        return;
    }
    double time = time_calls(bench, op, sets, stride, n_sets);
    if (rondo_device_status(bench->device, &error) != RONDO_OK) {
        check_fail(check, "benchmark of %s: %s: %s", rondo_op_name(op), name, error.message);
        return;
    }
    bench_row(bench, op, name, time, bytes, operations, path);
}

void bench_row(struct bench *bench, enum rondo_op op, const char *name, double time, double bytes,
               double operations, const char *path)
{
    struct check *check = bench->check;
    double share = bytes / time / bench->copy_bandwidth;
    if (check->csv)
        printf("%s,%s,\"%s\",%.3f,%.3f,%.3f,%.4f,\"%s\"\n", check->device_name, rondo_op_name(op),
               name, time * 1e6, bytes / time * 1e-9, operations / time * 1e-9, share,
               path ? path : "");
    else
        printf("%-8s %-18s %-44s %10.2f us %8.1f GB/s %5.1f %% %10.1f GFLOP/s  %s\n",
               check->device_name, rondo_op_name(op), name, time * 1e6, bytes / time * 1e-9,
               100 * share, operations / time * 1e-9, path ? path : "");
    fflush(stdout);
}
