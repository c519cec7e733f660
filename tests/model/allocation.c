/* Nothing allocates while a context runs: this program counts every allocation of the process over a prompt,
 * decoding across chunks, drafts and their acceptance, and sampling.
 *
 * Replaces malloc and its kin with counting ones over glibc's own. Sanitizers do the same, so there is nothing to
 * test under them (exit 77), nor without glibc. */
#include "core/rondo.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

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

static atomic_long allocations;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    *memory = __libc_memalign(alignment, size);
    return *memory ? 0 : ENOMEM;
}

static struct rondo_error error;

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s: %s\n", what, error.message);
    exit(1);
}

/* Everything a server does once its sessions exist. */
static long count_run(struct rondo_context *context, struct rondo_session *session,
                      struct rondo_sampler *sampler, float *logits, int32_t vocab_size)
{
    int32_t tokens[100], parents[8] = {-1, 0, 1, 2, -1, 4, 4, 6}, path[3] = {4, 6, 7};
    for (int i = 0; i < 100; i++)
        tokens[i] = i * 7 % vocab_size;
    long before = atomic_load(&allocations);
    must(!rondo_session_sync(session, tokens, 100, logits, NULL, &error), "sync");
    for (int i = 0; i < 100; i++) {
        int32_t picked, next = rondo_sampler_pick(sampler, logits, rondo_session_tokens(session),
                                                  rondo_session_length(session));
        struct rondo_run_item item = {session,
                                      &next,
                                      1,
                                      RONDO_LOGITS_LAST,
                                      logits,
                                      i % 2 ? &picked : NULL,
                                      i % 2 ? sampler : NULL};
        must(!rondo_context_run(context, &item, 1, &error), "run");
    }
    for (int i = 0; i < 25; i++) {
        must(!rondo_session_draft(session, tokens, parents, 8, logits, &error), "draft");
        must(!rondo_session_accept(session, path, 3, &error), "accept");
    }
    rondo_session_snapshot(session);
    rondo_session_truncate(session, 150);
    return atomic_load(&allocations) - before;
}

int main(int argc, char **argv)
{
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        struct rondo_model *model = rondo_model_open(argv[i], NULL, &error);
        must(model != NULL, argv[i]);
        int32_t vocab_size = rondo_model_config(model)->vocab_size;
        for (int mode = RONDO_MODE_F32; mode <= RONDO_MODE_FP8; mode++) {
            struct rondo_context_options options = {.mode = (enum rondo_mode)mode,
                                                    .max_batch_tokens = 64};
            struct rondo_sampler_options sampling;
            rondo_sampler_defaults(&sampling);
            sampling.temperature = 1;
            sampling.top_p = 0.9f;
            struct rondo_device *device = rondo_device_open("cpu", NULL, &error);
            must(device != NULL, "device");
            struct rondo_context *context = rondo_context_create(model, device, &options, &error);
            must(context != NULL, "context");
            struct rondo_session *session = rondo_session_create(context, &error);
            struct rondo_sampler *sampler = rondo_sampler_create(vocab_size, &sampling, &error);
            float *logits = malloc(8 * (size_t)vocab_size * sizeof *logits);
            must(session && sampler && logits, "session");
            long count = count_run(context, session, sampler, logits, vocab_size);
            printf("%s, mode %s: %ld allocations\n", argv[i],
                   rondo_mode_name((enum rondo_mode)mode), count);
            failed |= count != 0;
            free(logits);
            rondo_sampler_destroy(sampler);
            rondo_context_destroy(context);
            rondo_device_close(device);
        }
        rondo_model_close(model);
    }
    if (atomic_load(&allocations) == 0) {
        puts("nothing was counted at all");
        failed = 1;
    }
    return failed;
}

#endif
