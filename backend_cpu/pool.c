/* The threads of a CPU device: a fork-join pool that spins for a short while before it sleeps,
 * because a decoded token is several hundred runs with a few microseconds between them. */
#include "backend_cpu/cpu.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SPIN_NANOSECONDS 50000
#define CACHE_LINE 64

struct worker {
    struct rondo_pool *pool;
    int index;
    pthread_t thread;
};

struct rondo_pool {
    int threads;
    int64_t spin;           /* nanoseconds; 0 when there are more threads than cores */
    struct worker *workers; /* [threads], 0 unused */
    rondo_pool_task *task;
    void *user;
    pthread_mutex_t mutex;
    pthread_cond_t start, done;
    bool stop; /* written before `generation` grows */

    _Alignas(CACHE_LINE) atomic_uint generation; /* grows when a task starts */
    atomic_int sleeping;                         /* workers that wait on `start` */
    _Alignas(CACHE_LINE) atomic_int running;     /* workers still in the task */
    atomic_int caller_sleeps;                    /* the caller waits on `done` */
    _Alignas(CACHE_LINE) atomic_int arrived;     /* threads in the barrier */
    atomic_uint barrier_generation;
    _Alignas(CACHE_LINE) atomic_int_least64_t next;
};

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Waits at most the pool's spin time for *value to differ from `old`; true when it does. Looks
 * at the clock only now and then; a pause takes 10 to 50 ns depending on the machine. */
static bool spin_while_equal(const struct rondo_pool *pool, const atomic_uint *value, unsigned old)
{
    if (pool->spin == 0) {
        for (int i = 0; i < 4; i++) {
            if (atomic_load_explicit(value, memory_order_acquire) != old)
                return true;
            sched_yield();
        }
        return false;
    }
    for (int64_t end = now() + pool->spin;;) {
        for (int i = 0; i < 16; i++) {
            if (atomic_load_explicit(value, memory_order_acquire) != old)
                return true;
            pause_briefly();
        }
        if (now() >= end)
            return false;
    }
}

static bool spin_until_done(struct rondo_pool *pool)
{
    for (int64_t end = now() + pool->spin;;) {
        for (int i = 0; i < 16; i++) {
            if (atomic_load_explicit(&pool->running, memory_order_acquire) == 0)
                return true;
            pause_briefly();
        }
        if (now() >= end)
            return false;
    }
}

/* Sleeping and waking pair up as in Dekker's algorithm: the sleeper announces itself and then
 * looks at the value again, the waker changes the value and then looks for sleepers, all
 * sequentially consistent; the mutex closes the gap between the sleeper's last look and its
 * wait. */
static unsigned wait_for_task(struct rondo_pool *pool, unsigned seen)
{
    if (!spin_while_equal(pool, &pool->generation, seen)) {
        pthread_mutex_lock(&pool->mutex);
        atomic_fetch_add(&pool->sleeping, 1);
        while (atomic_load(&pool->generation) == seen)
            pthread_cond_wait(&pool->start, &pool->mutex);
        atomic_fetch_sub(&pool->sleeping, 1);
        pthread_mutex_unlock(&pool->mutex);
    }
    return atomic_load_explicit(&pool->generation, memory_order_acquire);
}

static void start_workers(struct rondo_pool *pool)
{
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->sleeping) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->start);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct rondo_pool *pool = worker->pool;
    for (unsigned seen = 0;;) {
        seen = wait_for_task(pool, seen);
        if (pool->stop)
            return NULL;
        pool->task(pool->user, worker->index, pool->threads);
        if (atomic_fetch_sub(&pool->running, 1) == 1 && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static int usable_cores(void)
{
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (int)count : 1;
}

struct rondo_pool *rondo_pool_create(int threads, struct rondo_error *error)
{
    if (threads < 1) {
        rondo_fail(error, RONDO_USAGE, "threads: out of range (got %d, want 1 or more)", threads);
        return NULL;
    }
    struct rondo_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!pool || !workers) {
        free(pool);
        free(workers);
        rondo_fail(error, RONDO_FAILED, "threads: no memory for %d threads", threads);
        return NULL;
    }
    *pool = (struct rondo_pool){.threads = 1, .workers = workers};
    pool->spin = threads > usable_cores() ? 0 : SPIN_NANOSECONDS;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->start, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (int i = 1; i < threads; i++) {
        workers[i] = (struct worker){.pool = pool, .index = i};
        if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) != 0) {
            rondo_pool_destroy(pool);
            rondo_fail(error, RONDO_FAILED, "threads: could not start thread %d of %d", i, threads);
            return NULL;
        }
        pool->threads = i + 1; /* no worker reads it before the first task starts */
    }
    return pool;
}

void rondo_pool_destroy(struct rondo_pool *pool)
{
    if (!pool)
        return;
    pool->stop = true;
    start_workers(pool);
    for (int i = 1; i < pool->threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->start);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool);
}

int rondo_pool_threads(const struct rondo_pool *pool)
{
    return pool->threads;
}

void rondo_pool_run(struct rondo_pool *pool, rondo_pool_task *task, void *user)
{
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    if (pool->threads == 1) {
        task(user, 0, 1);
        return;
    }
    pool->task = task;
    pool->user = user;
    atomic_store_explicit(&pool->running, pool->threads - 1, memory_order_relaxed);
    start_workers(pool);
    task(user, 0, pool->threads);
    if (spin_until_done(pool))
        return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, 1);
    while (atomic_load(&pool->running) != 0)
        pthread_cond_wait(&pool->done, &pool->mutex);
    atomic_store(&pool->caller_sleeps, 0);
    pthread_mutex_unlock(&pool->mutex);
}

void rondo_pool_barrier(struct rondo_pool *pool)
{
    unsigned seen = atomic_load_explicit(&pool->barrier_generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) == pool->threads - 1) {
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
        atomic_store_explicit(&pool->barrier_generation, seen + 1, memory_order_release);
        return;
    }
    if (spin_while_equal(pool, &pool->barrier_generation, seen))
        return;
    while (atomic_load_explicit(&pool->barrier_generation, memory_order_acquire) == seen)
        sched_yield();
}

int64_t rondo_pool_next(struct rondo_pool *pool)
{
    return atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
}
