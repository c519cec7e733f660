/* Sessions where pages, snapshots and the context run out, or stand exactly at their end.
 *
 *     session FIXTURES */
#include "core/context.h"
#include "scratch.h"
#include "test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { V = 96, LONGEST = 200 };

static struct rondo_model *model;
static struct rondo_device *device;
static int32_t tokens[LONGEST]; /* the sequence of all sessions here */
static float *expected;         /* [LONGEST, V] its logits */
static struct rondo_error error;

static struct rondo_context *make(const struct rondo_context_options *options)
{
    struct rondo_context *context;
    MUST(context = rondo_context_create(model, device, options, &error));
    return context;
}

static struct rondo_session *begin(struct rondo_context *context)
{
    struct rondo_session *session;
    MUST(session = rondo_session_create(context, &error));
    return session;
}

static struct rondo_session *fork_of(struct rondo_session *session)
{
    struct rondo_session *fork;
    MUST(fork = rondo_session_fork(session, &error));
    return fork;
}

/* Appends the next n tokens of the sequence and compares the last logits. */
static void go_on(struct rondo_session *session, size_t n)
{
    float out[V];
    size_t length = rondo_session_length(session);
    struct rondo_run_item item = {session, tokens + length, n, RONDO_LOGITS_LAST, out, NULL, NULL};
    MUST(!rondo_context_run(session->context, &item, 1, &error));
    EXPECT(!memcmp(out, expected + (length + n - 1) * V, sizeof out), "logits after %zu tokens",
           length + n);
}

static void make_expected(void)
{
    struct rondo_context_options options = {.max_context = LONGEST};
    struct rondo_context *context = make(&options);
    for (int i = 0; i < LONGEST; i++)
        tokens[i] = i * 37 % 89;
    expected = malloc((size_t)LONGEST * V * sizeof *expected);
    struct rondo_run_item item = {begin(context), tokens, LONGEST, RONDO_LOGITS_ALL,
                                  expected,       NULL,   NULL};
    MUST(!rondo_context_run(context, &item, 1, &error));
    rondo_context_destroy(context); /* with a session alive */
}

/* No page is lost or held twice. */
static void check_pages(const struct rondo_context *context, const char *what)
{
    const struct rondo_cache *cache = &context->cache;
    int32_t held = 0;
    int32_t *references = calloc((size_t)cache->n_pages, sizeof *references);
    for (int32_t i = 0; i < context->settings.max_sessions; i++) {
        const struct rondo_session *session = context->sessions[i];
        for (int32_t p = 0; session && p < session->n_pages; p++)
            references[session->page_table[p]]++;
    }
    for (int32_t p = 0; p < cache->n_pages; p++) {
        EXPECT(references[p] == cache->page_references[p], "%s: page %d: %d references, want %d",
               what, p, cache->page_references[p], references[p]);
        held += references[p] > 0;
    }
    EXPECT(held + cache->n_free_pages == cache->n_pages, "%s: %d pages held, %d free of %d", what,
           held, cache->n_free_pages, cache->n_pages);
    free(references);
}

/* Forks that share an open page go on in one run: of three holders two copy it, and the third keeps it. The
 * pool has just these pages. */
static void test_forks_fill_the_pool(void)
{
    struct rondo_context_options options = {.max_context = 64, .max_sessions = 3};
    struct rondo_context *context = make(&options);
    EXPECT(context->cache.n_pages == 3, "%d pages", context->cache.n_pages);
    for (int order = 0; order < 2; order++) {
        struct rondo_session *sessions[3];
        struct rondo_run_item items[3];
        float out[3][V];
        sessions[0] = begin(context);
        go_on(sessions[0], 10);
        sessions[1] = fork_of(sessions[0]);
        sessions[2] = fork_of(sessions[1]);
        for (int i = 0; i < 3; i++)
            items[i] = (struct rondo_run_item){
                sessions[order ? 2 - i : i], tokens + 10, 3, RONDO_LOGITS_LAST, out[i], NULL, NULL};
        MUST(!rondo_context_run(context, items, 3, &error));
        for (int i = 0; i < 3; i++)
            EXPECT(!memcmp(out[i], expected + 12 * V, sizeof out[i]), "fork %d", i);
        check_pages(context, "forks");
        for (int i = 0; i < 3; i++)
            go_on(sessions[i], 51); /* to the very end of the context */
        for (int i = 0; i < 3; i++)
            rondo_session_destroy(sessions[order ? i : 2 - i]);
        check_pages(context, "after the forks");
    }
    /* Two of three holders run, and there is a page for one. */
    struct rondo_session *a = begin(context), *other = begin(context);
    go_on(a, 10);
    go_on(other, 1);
    struct rondo_session *b = fork_of(a);
    struct rondo_run_item items[2] = {{a, tokens + 10, 1, RONDO_LOGITS_NONE, NULL, NULL, NULL},
                                      {b, tokens + 10, 1, RONDO_LOGITS_NONE, NULL, NULL, NULL}};
    MUST(!rondo_context_run(context, items, 2, &error));
    check_pages(context, "two forks");
    rondo_session_destroy(other);
    rondo_session_destroy(b);
    b = fork_of(a);
    struct rondo_session *c = fork_of(a);
    int32_t pages = context->cache.n_free_pages;
    EXPECT(pages == 2, "%d pages free", pages);
    items[1].session = c;
    items[0].tokens = items[1].tokens = tokens + 11;
    MUST(!rondo_context_run(context, items, 2, &error));
    EXPECT(context->cache.n_free_pages == 0, "%d pages free", context->cache.n_free_pages);
    go_on(b, 5);
    check_pages(context, "two of three forks");
    rondo_context_destroy(context);
}

/* A page that is shared, cut in its middle and written again belongs to the writer alone. */
static void test_cut_into_a_shared_page(void)
{
    struct rondo_context_options options = {.max_context = LONGEST, .max_sessions = 3};
    struct rondo_context *context = make(&options);
    struct rondo_session *a = begin(context);
    go_on(a, 100);
    struct rondo_session *b = fork_of(a);
    EXPECT(rondo_session_truncate(b, 70) == 70, "in the open chunk");
    int32_t wrong[40];
    for (int i = 0; i < 40; i++)
        wrong[i] = 90 - i;
    struct rondo_run_item item = {b, wrong, 40, RONDO_LOGITS_NONE, NULL, NULL, NULL};
    MUST(!rondo_context_run(context, &item, 1, &error));
    check_pages(context, "a cut into a shared page");
    go_on(a, 28); /* its rows are its own */
    EXPECT(rondo_session_snapshot(a) == 128, "snapshot");
    struct rondo_session *c = fork_of(a);
    rondo_session_destroy(a);
    go_on(c, 30);
    EXPECT(rondo_session_truncate(c, 129) == 129, "in the open chunk");
    go_on(c, 6);
    EXPECT(rondo_session_truncate(c, 128) == 128, "to the boundary");
    go_on(c, 5);
    check_pages(context, "a fork of a snapshot");
    rondo_session_destroy(b);
    rondo_session_destroy(c);
    check_pages(context, "nobody");
    EXPECT(context->cache.n_free_snapshots == context->cache.n_snapshots, "%d snapshots free of %d",
           context->cache.n_free_snapshots, context->cache.n_snapshots);
    EXPECT(context->cache.n_free_slots == context->cache.n_slots, "slots");
    rondo_context_destroy(context);
}

/* A tree may reach the last position and no further; wide trees always fit. */
static void test_drafts_at_the_end(void)
{
    struct rondo_context_options options = {
        .max_context = 100, .max_sessions = 2, .max_draft = 8, .max_batch_tokens = 3};
    struct rondo_context *context = make(&options);
    struct rondo_session *session = begin(context);
    float out[8][V];
    int32_t chain[3] = {-1, 0, 1}, wide[8] = {-1, -1, -1, -1, -1, -1, -1, -1}, path[2] = {0, 1};
    go_on(session, 98);
    EXPECT(rondo_session_draft(session, tokens + 98, chain, 3, out[0], &error) == RONDO_FAILED,
           "a chain past the end");
    EXPECT(rondo_session_accept(session, path, 1, &error) == RONDO_USAGE, "a refused draft");
    MUST(!rondo_session_draft(session, tokens + 90, wide, 8, out[0], &error));
    MUST(!rondo_session_draft(session, tokens + 98, chain, 2, out[0], &error));
    EXPECT(!memcmp(out, expected + 98 * V, 2 * sizeof *out), "logits of the chain");
    struct rondo_session *fork = fork_of(session);
    EXPECT(rondo_session_accept(fork, path, 1, &error) == RONDO_USAGE, "a fork has no draft");
    rondo_session_snapshot(session); /* leaves the draft alone */
    MUST(!rondo_session_accept(session, path, 2, &error));
    EXPECT(rondo_session_length(session) == 100, "%zu", rondo_session_length(session));
    EXPECT(rondo_session_draft(session, tokens, chain, 1, out[0], &error) == RONDO_FAILED, "full");
    MUST(!rondo_session_accept(session, NULL, 0, &error));
    go_on(fork, 2);
    check_pages(context, "drafts at the end");
    /* back, and the same again; a cut drops the draft */
    EXPECT(rondo_session_truncate(session, 98) == 98, "truncate");
    go_on(session, 1);
    MUST(!rondo_session_draft(session, tokens + 99, chain, 1, out[0], &error));
    EXPECT(!memcmp(out[0], expected + 99 * V, sizeof out[0]), "logits of the last position");
    EXPECT(rondo_session_truncate(session, 98) == 98, "truncate");
    EXPECT(rondo_session_accept(session, path, 1, &error) == RONDO_USAGE, "a draft of a cut tail");
    go_on(session, 2);
    EXPECT(rondo_session_truncate(fork, 99) == 99, "truncate");
    EXPECT(rondo_session_draft(fork, NULL, chain, 1, out[0], &error) == RONDO_USAGE, "NULL");
    EXPECT(rondo_session_draft(fork, tokens, NULL, 1, out[0], &error) == RONDO_USAGE, "NULL");
    EXPECT(rondo_session_accept(fork, NULL, 1, &error) == RONDO_USAGE, "NULL");
    rondo_context_destroy(context);
}

/* A prompt that is sent again keeps all but its last chunk, wherever it ends. What is wanted of its last row, the row
 * itself or a pick from it, is the same then. */
static void test_same_prompt_again(void)
{
    static const struct rondo_sampler_options sampling = {
        .temperature = 2, .top_p = 1, .repetition_penalty = 1.5f, .seed = 4};
    struct rondo_sampler *sampler = rondo_sampler_create(V, &sampling, NULL),
                         *on_host = rondo_sampler_create(V, &sampling, NULL);
    struct rondo_context_options options = {.max_context = LONGEST, .max_batch_tokens = 50};
    struct rondo_context *context = make(&options);
    for (size_t n = 126; n <= 130; n++) {
        struct rondo_session *session = begin(context);
        struct rondo_sync_result result;
        float out[V];
        MUST(!rondo_session_sync(session, tokens, n, out, &result, &error));
        EXPECT(!memcmp(out, expected + (n - 1) * V, sizeof out), "prompt of %zu", n);
        EXPECT(result.reused == 0 && result.computed == n, "%zu + %zu of %zu", result.reused,
               result.computed, n);
        go_on(session, 70);
        MUST(!rondo_session_sync(session, tokens, n, out, &result, &error));
        EXPECT(!memcmp(out, expected + (n - 1) * V, sizeof out), "prompt of %zu again", n);
        EXPECT(result.reused >= (n - 1) / 64 * 64, "prompt of %zu: %zu reused", n, result.reused);
        EXPECT(rondo_session_length(session) == n, "%zu", rondo_session_length(session));
        for (int again = 0; again < 2; again++) {
            int32_t best = -1,
                    want = rondo_sampler_pick(on_host, expected + (n - 1) * V, tokens, n);
            struct rondo_run_item item = {session, tokens, n,      RONDO_LOGITS_LAST,
                                          NULL,    &best,  sampler};
            MUST(!rondo_session_sync_item(&item, &result, &error));
            EXPECT(best == want, "prompt of %zu: picked %d, want %d", n, best, want);
            if (!again)
                rondo_session_truncate(session, 0);
        }
        rondo_session_destroy(session);
    }
    EXPECT(rondo_sampler_rows_read(sampler) == 0, "of %d logits", (int)V);
    rondo_sampler_destroy(sampler);
    rondo_sampler_destroy(on_host);
    rondo_context_destroy(context);
}

/* The settings of a context make another one like it; without snapshots there is none to return to, and a file
 * with one is loaded without it. */
/* Repetition takes pages and copies them, and gives them back like any others. */
static void test_repeat(void)
{
    struct rondo_context_options options = {
        .max_context = LONGEST, .max_sessions = 2, .snapshots = 1};
    struct rondo_context *context = make(&options);
    struct rondo_session *session = begin(context);
    int32_t free = context->cache.n_free_pages;
    EXPECT(rondo_session_repeat(session, 64, &error) == RONDO_USAGE, "%s", error.message);
    go_on(session, 63);
    EXPECT(rondo_session_repeat(session, 128, &error) == RONDO_USAGE, "%s", error.message);
    go_on(session, 1);
    EXPECT(rondo_session_repeat(session, 63, &error) == RONDO_USAGE, "%s", error.message);
    EXPECT(rondo_session_repeat(session, LONGEST + 1, &error) == RONDO_USAGE, "%s", error.message);
    MUST(!rondo_session_repeat(session, 64, &error));
    go_on(session, 1); /* nothing has changed */
    EXPECT(rondo_session_truncate(session, 64) == 64, "length %zu", rondo_session_length(session));
    rondo_session_snapshot(session);
    MUST(!rondo_session_repeat(session, 150, &error));
    EXPECT(rondo_session_length(session) == 150, "length %zu", rondo_session_length(session));
    EXPECT(context->cache.n_free_pages == free - 3, "%d pages", free - context->cache.n_free_pages);
    for (int i = 0; i < 150; i++)
        EXPECT(rondo_session_tokens(session)[i] == tokens[i % 64], "token %d", i);
    for (int32_t l = 0; l < context->cache.n_layers; l++) {
        size_t size = rondo_cache_page_bytes(&context->cache);
        const char *k = context->cache.kv[l].k, *v = context->cache.kv[l].v;
        for (int i = 1; k && i < 3; i++) {
            size_t at = (size_t)session->page_table[i] * size,
                   from = (size_t)session->page_table[0] * size;
            EXPECT(at != from && !memcmp(k + at, k + from, size) && !memcmp(v + at, v + from, size),
                   "layer %d, page %d", l, i);
        }
    }
    float out[V];
    struct rondo_run_item item = {session, tokens, 10, RONDO_LOGITS_LAST, out, NULL, NULL};
    MUST(!rondo_context_run(context, &item, 1, &error));
    EXPECT(rondo_session_truncate(session, 64) == 64, "length %zu", rondo_session_length(session));
    go_on(session, LONGEST - 64); /* the first tokens are as they were */
    rondo_session_destroy(session);
    EXPECT(context->cache.n_free_pages == free, "%d pages are lost",
           free - context->cache.n_free_pages);
    rondo_context_destroy(context);
}

static void test_settings(void)
{
    char path[] = "/tmp/rondo-test-session-XXXXXX";
    int descriptor = mkstemp(path);
    EXPECT(descriptor >= 0, "mkstemp");
    close(descriptor);
    struct rondo_context_options options = {.max_context = 130, .snapshots = -1};
    struct rondo_context *first = make(&options), *second = make(rondo_context_settings(first));
    EXPECT(!memcmp(rondo_context_settings(first), rondo_context_settings(second), sizeof options),
           "settings");
    bool is_linear = first->cache.n_linear > 0;
    EXPECT(first->cache.n_snapshots == 0 && second->cache.n_snapshots == 0, "%d and %d snapshots",
           first->cache.n_snapshots, second->cache.n_snapshots);
    rondo_context_destroy(first);
    options.snapshots = 3;
    first = make(&options);
    struct rondo_session *a = begin(first), *b = begin(second);
    go_on(a, 64);
    EXPECT(rondo_session_snapshot(a) == 64, "snapshot");
    go_on(a, 64);
    EXPECT(rondo_session_snapshot(a) == 128, "snapshot");
    MUST(!rondo_session_save(a, path, &error));
    MUST(!rondo_session_load(b, path, &error));
    go_on(b, 2); /* to the end of the context */
    EXPECT(rondo_session_snapshot(b) == (is_linear ? 0 : 128), "a snapshot where there are none");
    size_t left = rondo_session_truncate(b, 127);
    EXPECT(left == (is_linear ? 0 : 127), "truncated to %zu", left);
    go_on(b, 3);
    MUST(!rondo_session_load(a, path, &error));
    EXPECT(rondo_session_truncate(a, 127) == (is_linear ? 64 : 127), "a loaded snapshot");
    go_on(a, 3);
    unlink(path);
    rondo_context_destroy(second);
    rondo_context_destroy(first);
}

/* A session that is loaded over a fork gives back only what is its own. */
static void test_files(void)
{
    char path[] = "/tmp/rondo-test-session-XXXXXX";
    int descriptor = mkstemp(path);
    EXPECT(descriptor >= 0, "mkstemp");
    close(descriptor);
    struct rondo_context_options options = {
        .max_context = 128, .max_sessions = 2, .kv_tokens = 192};
    struct rondo_context *context = make(&options);
    struct rondo_session *a = begin(context);
    go_on(a, 100);
    MUST(!rondo_session_save(a, path, &error));
    struct rondo_session *b = fork_of(a);
    /* two of three pages are held by both: one is free, and b would give back none */
    EXPECT(rondo_session_load(b, path, &error) == RONDO_FAILED, "no room");
    EXPECT(rondo_session_length(b) == 100, "%zu", rondo_session_length(b));
    rondo_session_truncate(a, 0);
    MUST(!rondo_session_load(b, path, &error));
    go_on(b, 28);
    check_pages(context, "a loaded session");
    rondo_session_destroy(a);
    MUST(!rondo_session_load(b, path, &error));
    go_on(b, 5);
    check_pages(context, "a session loaded over itself");
    unlink(path);
    EXPECT(mkfifo(path, 0600) == 0, "mkfifo");
    alarm(20); /* a load that waits for a writer waits for ever */
    EXPECT(rondo_session_load(b, path, &error) == RONDO_FAILED, "a FIFO");
    alarm(0);
    EXPECT(rondo_session_length(b) == 105, "%zu", rondo_session_length(b));
    unlink(path);
    rondo_context_destroy(context);
}

/* A file holds nothing of a session that had the slot and the pages before: it is the same as one from a context
 * that never held another. */
static void test_files_keep_secrets(void)
{
    struct rondo_context_options options = {.max_context = 256, .max_sessions = 1};
    scratch_begin();
    for (int i = 0; i < 2; i++) {
        struct rondo_context *context = make(&options);
        struct rondo_session *session = begin(context);
        if (i == 0) {
            go_on(session, 200);
            rondo_session_destroy(session);
            session = begin(context);
        }
        go_on(session, 70);
        MUST(!rondo_session_save(session, scratch_path(i ? "fresh" : "reused"), &error));
        rondo_context_destroy(context);
    }
    EXPECT(scratch_same_file(scratch_path("fresh"), scratch_path("reused")),
           "files of a fresh and of a reused slot");
    scratch_end();
}

int main(int argc, char **argv)
{
    static const char *const variants[] = {"base-bf16", "softmax-only"};
    for (size_t i = 0; argc > 1 && i < sizeof variants / sizeof *variants; i++) {
        char directory[600];
        snprintf(directory, sizeof directory, "%.500s/%s", argv[1], variants[i]);
        struct rondo_device_options options = {.threads = 1};
        MUST(model = rondo_model_open(directory, NULL, &error));
        MUST(device = rondo_device_open("cpu", &options, &error));
        make_expected();
        test_forks_fill_the_pool();
        test_cut_into_a_shared_page();
        test_drafts_at_the_end();
        test_same_prompt_again();
        test_files();
        test_files_keep_secrets();
        test_repeat();
        test_settings();
        free(expected);
        rondo_device_close(device);
        rondo_model_close(model);
    }
    return test_result();
}
