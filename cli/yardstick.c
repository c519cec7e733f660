/* Yardsticks: read bandwidth through the CPU backend or by a copy on the device, matrix products through
 * OpenBLAS. */
#include "cli/yardstick.h"
#include "backend_cpu/cpu.h"
#include "cli/terminal.h"
#include "core/model.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef RONDO_HAVE_OPENBLAS
#include <cblas.h>
#endif

#define LARGE_BUFFER ((uint64_t)512 << 20) /* far beyond any cache */
#define SMALL_BUFFER ((uint64_t)64 << 20)  /* still beyond most, when memory is short */

static bool is_cpu(const struct rondo_device *device)
{
    return !strcmp(device->backend->name, "cpu");
}

int cli_yardstick_threads(struct rondo_device *device)
{
    return is_cpu(device) ? rondo_pool_threads(rondo_cpu(device)->pool) : 1;
}

void cli_yardstick_touch(struct rondo_device *device, const struct rondo_model *model)
{
    const uint64_t page = 4096, progress_step = (uint64_t)256 << 20;
    uint64_t total = rondo_model_bytes(model), done = 0, shown = 0;
    volatile uint8_t sum = 0;
    if (!is_cpu(device))
        return;
    for (size_t i = 0; i < model->n_tensors; i++) {
        const uint8_t *data = model->tensors[i].data;
        for (uint64_t at = 0; at < model->tensors[i].info.size; at += page)
            sum = (uint8_t)(sum + data[at]);
        done += model->tensors[i].info.size;
        if (done - shown >= progress_step &&
            cli_progress(NULL, "reading weights", shown = done, total))
            break;
    }
    cli_progress_clear();
}

/* Half of what a copy on the device moves is read. */
static double copy_bandwidth(struct rondo_device *device)
{
    uint64_t size = device->memory_available(device) / 8;
    size = size > LARGE_BUFFER / 2 ? LARGE_BUFFER / 2 : size;
    void *from = device->allocate(device, size), *to = device->allocate(device, size);
    double seconds = 0;
    for (int i = 0; i < 2 && from && to; i++) { /* the first warms up */
        device->synchronize(device);
        double start = cli_time();
        device->copy(device, to, from, size);
        device->synchronize(device);
        seconds = cli_time() - start;
    }
    device->release(device, from);
    device->release(device, to);
    return seconds > 0 ? 2.0 * (double)size / seconds : 0;
}

double cli_yardstick_read_bandwidth(struct rondo_device *device)
{
    if (!is_cpu(device))
        return copy_bandwidth(device);
    uint64_t size = device->memory_available(device) / 4;
    size = size > LARGE_BUFFER ? LARGE_BUFFER : size < SMALL_BUFFER ? SMALL_BUFFER : size;
    return rondo_cpu_read_bandwidth(rondo_cpu(device), size, 1);
}

#ifdef RONDO_HAVE_OPENBLAS

#define SIDE 2048

double cli_yardstick_sgemm(const struct rondo_device *device, int threads)
{
    static float
        *matrices; /* three of SIDE x SIDE; kept, so that only the first call touches new pages */
    const size_t count = (size_t)SIDE * SIDE;
    if (!is_cpu(device))
        return 0;
    if (!matrices) {
        matrices = malloc(3 * count * sizeof *matrices);
        if (!matrices)
            return 0;
        for (size_t i = 0; i < 3 * count; i++)
            matrices[i] = (float)(i % 251) / 251.0f - 0.5f;
        cli_yardstick_sgemm(device, threads);
    }
    openblas_set_num_threads(threads);
    double start = cli_time();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, SIDE, SIDE, SIDE, 1.0f, matrices, SIDE,
                matrices + count, SIDE, 0.0f, matrices + 2 * count, SIDE);
    double seconds = cli_time() - start;
    /* OpenBLAS' threads spin for some 100 ms before they sleep; they would disturb what comes next. */
    nanosleep(&(struct timespec){.tv_nsec = 200 * 1000 * 1000}, NULL);
    return 2.0 * SIDE * SIDE * SIDE / seconds;
}

#else

double cli_yardstick_sgemm(const struct rondo_device *device, int threads)
{
    (void)device;
    (void)threads;
    return 0;
}

#endif
