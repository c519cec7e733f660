/* Read bandwidth of the machine, as benchmarks compare with: all threads sum a buffer once. */
#include "backend_cpu/bandwidth.h"

#include "backend_cpu/cpu.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define PIECE ((size_t)1 << 20) /* bytes a thread claims at a time */

typedef uint64_t sum_function(const void *data, size_t size);

struct job {
    struct rondo_pool *pool;
    const char *data;
    size_t size;
    sum_function *sum;
    atomic_uint_least64_t total; /* keeps the loads from being optimised away */
};

static uint64_t sum_portable(const void *data, size_t size)
{
    const uint64_t *word = data;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < size / 8; i += 8) {
        __builtin_prefetch(word + i + 512);
        for (int j = 0; j < 8; j++)
            sum[j] += word[i + (size_t)j];
    }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

static sum_function *sum_of(enum rondo_cpu_level level)
{
#if defined(__x86_64__)
    if (level == RONDO_CPU_AVX512 || level == RONDO_CPU_AVX512BF16)
        return rondo_bandwidth_sum_avx512;
    if (level == RONDO_CPU_AVX2)
        return rondo_bandwidth_sum_avx2;
#endif
    return sum_portable;
}

static void read_task(void *user, int thread, int threads)
{
    struct job *job = user;
    uint64_t sum = 0;
    for (;;) {
        size_t first = (size_t)rondo_pool_next(job->pool) * PIECE;
        if (first >= job->size)
            break;
        sum += job->sum(job->data + first, PIECE);
    }
    atomic_fetch_add(&job->total, sum);
}

/* Writes every page: pages nobody wrote are all the same page of zeros. */
static void touch_task(void *user, int thread, int threads)
{
    struct job *job = user;
    int64_t first, end;
    rondo_split((int64_t)job->size, (int64_t)PIECE, thread, threads, &first, &end);
    memset((char *)job->data + first, 1, (size_t)(end - first));
}

static double seconds_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

double rondo_cpu_read_bandwidth(struct rondo_cpu_device *device, size_t size, int repeats)
{
    size = (size + PIECE - 1) / PIECE * PIECE;
    char *data = device->base.allocate(&device->base, size);
    if (!data)
        return 0;
    struct job job = {
        .pool = device->pool, .data = data, .size = size, .sum = sum_of(device->level)};
    rondo_pool_run(device->pool, touch_task, &job);
    double best = 0;
    for (int i = 0; i < repeats; i++) {
        double start = seconds_now();
        rondo_pool_run(device->pool, read_task, &job);
        double rate = (double)size / (seconds_now() - start);
        best = rate > best ? rate : best;
    }
    device->base.release(&device->base, data);
    return best;
}
