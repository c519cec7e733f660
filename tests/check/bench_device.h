/* Times of ops on devices with memory of their own. bench_device.c has the memory and the clock, bench_cases.c the
 * ops and their shapes: run by rondo-check --bench. */
#ifndef RONDO_TESTS_CHECK_BENCH_DEVICE_H
#define RONDO_TESTS_CHECK_BENCH_DEVICE_H

#include "tests/check/check.h"
#include "tests/check/yardstick.h"

enum { BENCH_SETS = 32 }; /* arguments of one case, at most */

struct bench {
    struct check *check;
    struct rondo_device *device;
    char *pool; /* [size] on the device, every byte random and no dtype's NaN */
    size_t size, used;
    int shrink;                  /* divides tokens and depths: emulated devices are slow */
    double copy_bandwidth;       /* bytes a second that a copy on the device reads and writes */
    struct yardstick *yardstick; /* NULL: none */
};

/* Every byte random; false when there is no memory. */
bool bench_open(struct bench *bench, struct check *check);
void bench_close(struct bench *bench);

/* Begins a case: all of the pool is free. */
void bench_begin(struct bench *bench);
/* `size` bytes of the pool, aligned to 256; NULL when it is used up. */
void *bench_take(struct bench *bench, size_t size);
/* The same with a copy of host data. */
void *bench_put(struct bench *bench, const void *data, size_t size);
/* A tensor with whatever is there; with scales for f8_e4m3: 1x128 when `activation`, else 128x128. data NULL when
 * the pool is used up. */
struct rondo_tensor bench_tensor(struct bench *bench, enum rondo_dtype dtype, int64_t rows,
                                 int64_t columns, bool activation);

/* How many argument sets a case that takes `size` bytes of the pool should have, so that none is in a cache when its
 * turn comes. */
int bench_sets(const struct bench *bench, size_t size);

/* Times `op` with its argument structs in turns, `stride` bytes apart, and prints a row: microseconds of one call,
 * bytes and operations a second. Calls are recorded where the device can, so that what is timed is its work. */
void bench_time(struct bench *bench, enum rondo_op op, const void *sets, size_t stride, int n_sets,
                double bytes, double operations, const char *format, ...) RONDO_PRINTF(8, 9);

/* Prints such a row for a time taken elsewhere; `path`: what took it, or NULL. */
void bench_row(struct bench *bench, enum rondo_op op, const char *name, double time, double bytes,
               double operations, const char *path);

/* All cases whose op's name matches the pattern. */
void bench_cases(struct bench *bench, const char *pattern);

#endif
