/* Independent pieces of work on a few threads. */
#include "core/parallel.h"

#include "core/error.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

struct run {
    rondo_parallel_task *task;
    void *user;
    size_t n;
    atomic_size_t next;
    atomic_int status; /* of the first failure */
    struct rondo_error *error;
};

struct worker {
    pthread_t thread;
    struct run *run;
    int index;
};

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct run *run = worker->run;
    while (atomic_load(&run->status) == RONDO_OK) {
        size_t index = atomic_fetch_add(&run->next, 1);
        if (index >= run->n)
            break;
        struct rondo_error error = {.status = RONDO_OK};
        int status = run->task(run->user, index, worker->index, &error), none = RONDO_OK;
        if (status != RONDO_OK && atomic_compare_exchange_strong(&run->status, &none, status) &&
            run->error)
            *run->error = error;
    }
    return NULL;
}

int rondo_parallel_threads(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > RONDO_PARALLEL_LIMIT ? RONDO_PARALLEL_LIMIT : n;
}

int rondo_parallel_run(size_t n, int threads, rondo_parallel_task *task, void *user,
                       struct rondo_error *error)
{
    struct run run = {.task = task, .user = user, .n = n, .error = error};
    struct worker workers[RONDO_PARALLEL_LIMIT];
    int started = 1;
    if (threads > RONDO_PARALLEL_LIMIT)
        threads = RONDO_PARALLEL_LIMIT;
    for (int i = 0; i < threads; i++)
        workers[i] = (struct worker){.run = &run, .index = i};
    workers[0] = (struct worker){.run = &run};
    /* The work gets done with fewer threads, too. */
    while (started < threads && (size_t)started < n &&
           pthread_create(&workers[started].thread, NULL, work, &workers[started]) == 0)
        started++;
    work(&workers[0]);
    for (int i = 1; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    return atomic_load(&run.status);
}
