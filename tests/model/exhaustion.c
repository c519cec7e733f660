/* Host memory that runs out: opening a context, its sessions and a comparison, with each of their allocations
 * failing in turn. Every one ends in a message, nothing is lost, and the next try succeeds.
 *
 * Replaces malloc and its kin; see allocation.c for where that can not be done (exit 77). */
#include "core/rondo.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define SANITIZED 1
#endif

#ifdef SANITIZED

int main(void)
{
    puts("skipped: allocations can not be counted in this build");
    return 77;
}

#else

static atomic_long calls, live, fail_at = -1; /* fail_at: the call that finds no memory; -1: none */
static atomic_bool for_good;                  /* and so do all after it */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *memory);

static int fails(void)
{
    long call = atomic_fetch_add(&calls, 1), first = atomic_load(&fail_at);
    if (first < 0 || call < first || (call > first && !atomic_load(&for_good)))
        return 0;
    errno = ENOMEM;
    return 1;
}

static void *count(void *memory)
{
    if (memory)
        atomic_fetch_add(&live, 1);
    return memory;
}

void *malloc(size_t size)
{
    return fails() ? NULL : count(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : count(__libc_calloc(n, size));
}

void *realloc(void *memory, size_t size)
{
    if (fails())
        return NULL;
    return memory ? __libc_realloc(memory, size) : count(__libc_realloc(NULL, size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : count(__libc_memalign(alignment, size));
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    *memory = fails() ? NULL : count(__libc_memalign(alignment, size));
    return *memory ? 0 : ENOMEM;
}

void free(void *memory)
{
    if (memory)
        atomic_fetch_sub(&live, 1);
    __libc_free(memory);
}

static void ignore_row(void *user, const struct rondo_compare_row *row)
{
}

/* Returns 0 when all of it succeeded. */
static int try_all(struct rondo_model *model, struct rondo_device *device,
                   struct rondo_error *error)
{
    static const int32_t tokens[3] = {1, 2, 3};
    struct rondo_context_options options = {
        .mode = RONDO_MODE_FP8, .max_context = 70, .max_sessions = 2, .max_batch_tokens = 4};
    struct rondo_memory memory;
    struct rondo_context *a = NULL, *b = NULL;
    struct rondo_session *session;
    int status = rondo_context_memory(model, device, &options, &memory, error);
    if (!status && !(a = rondo_context_create(model, device, &options, error)))
        status = 1;
    if (!status && !(session = rondo_session_create(a, error)))
        status = 1;
    if (!status && !rondo_session_fork(session, error))
        status = 1;
    options.max_sessions = 1;
    if (!status && !(b = rondo_context_create(model, device, &options, error)))
        status = 1;
    if (!status) {
        rondo_session_destroy(session);
        status = rondo_compare(a, b, tokens, 3, RONDO_COMPARE_FREE, 0, 0, ignore_row, NULL, error);
    }
    rondo_context_destroy(b);
    rondo_context_destroy(a);
    return status;
}

/* Lets one allocation after the other fail, alone or with all that come after it. */
static int fail_each(struct rondo_model *model, struct rondo_device *device)
{
    long before = atomic_load(&live), n = 0, refused = 0;
    int failed = 0;
    for (bool reached = true; reached; n++) {
        struct rondo_error error = {0};
        atomic_store(&calls, 0);
        atomic_store(&fail_at, n);
        int status = try_all(model, device, &error);
        atomic_store(&fail_at, -1);
        long left = atomic_load(&live) - before;
        if ((status && !error.message[0]) || strchr(error.message, '\n') || left) {
            printf("allocation %ld: status %d, \"%s\", %ld blocks left\n", n, status, error.message,
                   left);
            failed = 1;
        }
        refused += status != 0;
        reached = atomic_load(&calls) > n;
    }
    printf("%ld allocations, %ld refused\n", n, refused);
    return failed || refused < 50;
}

int main(int argc, char **argv)
{
    struct rondo_error error = {0};
    struct rondo_device_options one = {.threads = 1};
    struct rondo_model *model = argc > 1 ? rondo_model_open(argv[1], NULL, &error) : NULL;
    struct rondo_device *device = rondo_device_open("cpu", &one, &error);
    /* the device's workspace stays */
    if (!model || !device || try_all(model, device, &error)) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    int failed = fail_each(model, device);
    atomic_store(&for_good, true);
    failed |= fail_each(model, device);
    failed |= try_all(model, device, &error) != 0;
    rondo_device_close(device);
    rondo_model_close(model);
    return failed;
}

#endif
