/* The thread pool under stress; meant to be run under TSan, too. */
#include "backend_cpu/cpu.h"
#include "tests/unit/test.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_THREADS 8

struct state {
    struct rondo_pool *pool;
    int calls[MAX_THREADS]; /* by thread, plain: runs and barriers must order the accesses */
    int64_t rounds;
    long cell[MAX_THREADS];
    long sum[MAX_THREADS];
    int64_t items;
    unsigned char *claimed; /* [items] */
    atomic_int bad_threads;
};

static void count_task(void *user, int thread, int threads)
{
    struct state *state = user;
    if (threads != rondo_pool_threads(state->pool) || thread < 0 || thread >= threads)
        atomic_fetch_add(&state->bad_threads, 1);
    else
        state->calls[thread]++;
}

/* Every thread runs every task once, and the caller sees what they wrote. */
static void test_runs(int threads, int runs)
{
    struct state state = {.pool = rondo_pool_create(threads, NULL)};
    for (int i = 0; i < runs; i++) {
        if (i % 100 == 99) { /* let the workers fall asleep now and then */
            struct timespec pause = {0, 300000};
            nanosleep(&pause, NULL);
        }
        rondo_pool_run(state.pool, count_task, &state);
    }
    for (int i = 0; i < threads; i++)
        EXPECT(state.calls[i] == runs, "thread %d of %d ran %d times of %d", i, threads,
               state.calls[i], runs);
    EXPECT(atomic_load(&state.bad_threads) == 0, "thread numbers");
    rondo_pool_destroy(state.pool);
}

/* Between two barriers all threads see what all wrote before the first. */
static void barrier_task(void *user, int thread, int threads)
{
    struct state *state = user;
    for (int64_t round = 0; round < state->rounds; round++) {
        state->cell[thread] = round * (thread + 1);
        rondo_pool_barrier(state->pool);
        long sum = 0;
        for (int i = 0; i < threads; i++)
            sum += state->cell[i];
        state->sum[thread] += sum;
        rondo_pool_barrier(state->pool);
    }
}

static void test_barrier(int threads, int rounds)
{
    struct state state = {.pool = rondo_pool_create(threads, NULL), .rounds = rounds};
    long want = (long)rounds * (rounds - 1) / 2 * threads * (threads + 1) / 2;
    rondo_pool_run(state.pool, barrier_task, &state);
    for (int i = 0; i < threads; i++)
        EXPECT(state.sum[i] == want, "thread %d of %d saw %ld, want %ld", i, threads, state.sum[i],
               want);
    rondo_pool_destroy(state.pool);
}

/* Each index is given once, again after a barrier, and again in the next run. */
static void claim_task(void *user, int thread, int threads)
{
    struct state *state = user;
    for (int phase = 0; phase < 2; phase++) {
        for (int64_t i; (i = rondo_pool_next(state->pool)) < state->items;)
            state->claimed[i]++;
        rondo_pool_barrier(state->pool);
    }
}

static void test_next(int threads, int runs)
{
    struct state state = {.pool = rondo_pool_create(threads, NULL), .items = 257};
    state.claimed = calloc((size_t)state.items, 1);
    for (int run = 0; run < runs; run++)
        rondo_pool_run(state.pool, claim_task, &state);
    for (int64_t i = 0; i < state.items; i++)
        EXPECT(state.claimed[i] == 2 * runs, "%d threads: index %d was given %d times, want %d",
               threads, (int)i, state.claimed[i], 2 * runs);
    free(state.claimed);
    rondo_pool_destroy(state.pool);
}

static void test_split(void)
{
    for (int64_t n = 0; n < 70; n += 3)
        for (int64_t grain = 1; grain < 20; grain += 6)
            for (int threads = 1; threads < 9; threads++) {
                int64_t next = 0, first, end;
                for (int i = 0; i < threads; i++) {
                    rondo_split(n, grain, i, threads, &first, &end);
                    EXPECT(first == next && end >= first && (end % grain == 0 || end == n),
                           "%d items by %d, thread %d of %d: %d to %d", (int)n, (int)grain, i,
                           threads, (int)first, (int)end);
                    next = end;
                }
                EXPECT(next == n, "%d items by %d over %d threads end at %d", (int)n, (int)grain,
                       threads, (int)next);
            }
}

static void test_errors(void)
{
    struct rondo_error error = {0};
    EXPECT(!rondo_pool_create(0, &error) && error.status == RONDO_USAGE, "no threads");
    rondo_pool_destroy(NULL);
    for (int i = 0; i < 20; i++) /* created and never used */
        rondo_pool_destroy(rondo_pool_create(1 + i % MAX_THREADS, NULL));
}

int main(void)
{
    for (int threads = 1; threads <= MAX_THREADS;
         threads = threads < 4 ? threads + 1 : threads * 2) {
        test_runs(threads, threads <= 2 ? 5000 : 1000);
        test_barrier(threads, threads <= 2 ? 2000 : 300);
        test_next(threads, 100);
    }
    test_split();
    test_errors();
    return test_result();
}
