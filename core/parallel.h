/* Independent pieces of work on a few threads. */
#ifndef RONDO_CORE_PARALLEL_H
#define RONDO_CORE_PARALLEL_H

#include "core/rondo.h"

#define RONDO_PARALLEL_LIMIT 64

/* `thread` is below the number of threads, and 0 on the caller's. Nonzero stops the whole run. */
typedef int rondo_parallel_task(void *user, size_t index, int thread, struct rondo_error *error);

/* Cores this process may use, 1 to RONDO_PARALLEL_LIMIT. */
int rondo_parallel_threads(void);

/* Runs the task once for each index below n, on up to `threads` threads. Returns the first failure, with its
 * error; tasks that have begun by then still end. */
int rondo_parallel_run(size_t n, int threads, rondo_parallel_task *task, void *user,
                       struct rondo_error *error);

#endif
