/* Forked, saved, loaded, truncated and synchronised sessions continue with the same bits as fresh ones. */
#include "tests/model/expect.h"
#include "tests/model/properties.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LONGEST = 260 };

/* Appends random tokens to `tokens` and to the session, and compares their logits with a fresh session's. */
static size_t go_on(struct lab *lab, struct rondo_context *context, struct rondo_session *session,
                    int32_t *tokens, size_t n, size_t more, const char *what)
{
    lab_random_tokens(lab, tokens + n, more);
    float *got = malloc((more + 1) * lab->vocab_size * sizeof *got);
    lab_run(lab, context, session, tokens + n, more, got);
    float *want = lab_logits(lab, tokens, n + more);
    lab_compare(lab, what, got, want + n * lab->vocab_size, more);
    EXPECT(rondo_session_length(session) == n + more, "%s", what);
    EXPECT(!memcmp(rondo_session_tokens(session), tokens, (n + more) * sizeof *tokens), "%s", what);
    free(want);
    free(got);
    return n + more;
}

void property_fork(struct lab *lab)
{
    int32_t a[LONGEST], b[LONGEST];
    struct rondo_context_options options = lab_options(lab);
    struct rondo_context *context = lab_context(lab, &options);
    for (int round = 0; round < 3; round++) {
        struct rondo_session *parent = lab_session(lab, context), *child;
        size_t n = go_on(lab, context, parent, a, 0, round ? 1 + lab_random(lab, 140) : 128,
                         "before a fork");
        MUST(lab, child = rondo_session_fork(parent, &error));
        memcpy(b, a, n * sizeof *a);
        size_t n_child = go_on(lab, context, child, b, n, 1 + lab_random(lab, 30), "the child");
        size_t n_parent = go_on(lab, context, parent, a, n, 1 + lab_random(lab, 50), "the parent");
        n_child =
            go_on(lab, context, child, b, n_child, 1 + lab_random(lab, 10), "the child again");
        if (round % 2) {
            rondo_session_destroy(child);
            go_on(lab, context, parent, a, n_parent, 5, "the parent alone");
            rondo_session_destroy(parent);
        } else {
            rondo_session_destroy(parent);
            go_on(lab, context, child, b, n_child, 5, "the child alone");
            rondo_session_destroy(child);
        }
    }
    rondo_context_destroy(context);
}

void property_save(struct lab *lab)
{
    int32_t tokens[LONGEST], garbage[LONGEST];
    char path[] = "/tmp/rondo-test-session-XXXXXX";
    int descriptor = mkstemp(path);
    EXPECT(descriptor >= 0, "mkstemp");
    close(descriptor);
    struct rondo_context_options options = lab_options(lab);
    struct rondo_context *context = lab_context(lab, &options);
    for (int round = 0; round < 3; round++) {
        struct rondo_session *session = lab_session(lab, context);
        size_t length = round ? lab_random(lab, 180) : 64;
        size_t n = go_on(lab, context, session, tokens, 0, length, "before saving");
        size_t kept = rondo_session_snapshot(session);
        n = go_on(lab, context, session, tokens, n, lab_random(lab, 40),
                  "before saving, past the snapshot");
        MUST(lab, !rondo_session_save(session, path, &error));
        rondo_session_destroy(session);

        struct rondo_context *other = lab_context(lab, &options);
        struct rondo_session *loaded = lab_session(lab, other);
        go_on(lab, other, loaded, garbage, 0, 1 + lab_random(lab, 100), "before loading");
        MUST(lab, !rondo_session_load(loaded, path, &error));
        EXPECT(rondo_session_length(loaded) == n, "loaded %zu, want %zu",
               rondo_session_length(loaded), n);
        EXPECT(!memcmp(rondo_session_tokens(loaded), tokens, n * sizeof *tokens), "loaded tokens");
        go_on(lab, other, loaded, tokens, n, 1 + lab_random(lab, 20), "after loading");
        size_t left = rondo_session_truncate(loaded, kept);
        EXPECT(left == kept, "truncated to %zu, snapshot at %zu", left, kept);
        go_on(lab, other, loaded, tokens, left, 3, "after returning to a loaded snapshot");
        rondo_session_destroy(loaded);
        rondo_context_destroy(other);
    }
    rondo_context_destroy(context);
    EXPECT(!unlink(path), "%s", path);
}

/* Syncs to the first `shared` tokens and `more` random ones. */
static size_t sync_once(struct lab *lab, struct rondo_session *session, int32_t *tokens, size_t n,
                        size_t shared, size_t more, size_t kept)
{
    /* what the session holds may agree with the new tokens further than `shared` by chance */
    int32_t held[LONGEST];
    memcpy(held, tokens, n * sizeof *held);
    lab_random_tokens(lab, tokens + shared, more);
    size_t wanted = shared + more, common = 0;
    while (common < n && common < wanted - 1 && held[common] == tokens[common])
        common++;
    float *got = malloc(lab->vocab_size * sizeof *got);
    struct rondo_sync_result result;
    MUST(lab, !rondo_session_sync(session, tokens, wanted, got, &result, &error));
    float *want = lab_logits(lab, tokens, wanted);
    lab_compare(lab, "sync", got, want + (wanted - 1) * lab->vocab_size, 1);
    EXPECT(result.reused + result.computed == wanted && result.reused <= common,
           "%zu + %zu of %zu, %zu in common", result.reused, result.computed, wanted, common);
    EXPECT(common < n / 64 * 64 || result.reused == common, "reused %zu of %zu in the open chunk",
           result.reused, common);
    EXPECT(common < kept || result.reused >= kept, "reused %zu of %zu, snapshot at %zu",
           result.reused, common, kept);
    EXPECT(result.reason && result.reason[0], "no reason");
    EXPECT(rondo_session_length(session) == wanted &&
               !memcmp(rondo_session_tokens(session), tokens, wanted * sizeof *tokens),
           "tokens after sync");
    free(want);
    free(got);
    return wanted;
}

void property_sync(struct lab *lab)
{
    int32_t tokens[LONGEST];
    struct rondo_context_options options = lab_options(lab);
    struct rondo_context *context = lab_context(lab, &options);
    struct rondo_session *session = lab_session(lab, context);
    size_t n = go_on(lab, context, session, tokens, 0, 60 + lab_random(lab, 100), "before sync"),
           kept = 0;
    for (int round = 0; round < 10; round++) {
        size_t shared = lab_random(lab, n + 1), more = 1 + lab_random(lab, 40);
        if (lab_random(lab, 2)) /* in the open chunk */
            shared = n / 64 * 64 + lab_random(lab, n % 64 + 1);
        if (shared > 200)
            shared = 200;
        if (round % 3 == 0) {
            kept = rondo_session_snapshot(session);
            EXPECT(kept == n / 64 * 64, "snapshot at %zu of %zu", kept, n);
        }
        if (kept > shared)
            kept = 0; /* a sync below a snapshot may drop it */
        n = sync_once(lab, session, tokens, n, shared, more, kept);
        size_t cut = n - lab_random(lab, n % 64 + 1), left = rondo_session_truncate(session, cut);
        EXPECT(left == cut, "truncated %zu to %zu, want %zu, in the open chunk", n, left, cut);
        n = go_on(lab, context, session, tokens, left, 1 + lab_random(lab, 8), "after truncate");
    }
    size_t left = rondo_session_truncate(session, lab_random(lab, n));
    EXPECT(left <= n, "%zu", left);
    go_on(lab, context, session, tokens, left, 20, "after a far truncate");
    rondo_session_destroy(session);
    rondo_context_destroy(context);
}

/* Returns next to a chunk boundary, and past a snapshot that other tokens have made stale. */
void property_boundary(struct lab *lab)
{
    int32_t tokens[LONGEST];
    struct rondo_context_options options = lab_options(lab);
    struct rondo_context *context = lab_context(lab, &options);
    for (size_t target = 126; target <= 129; target++) {
        struct rondo_session *session = lab_session(lab, context);
        go_on(lab, context, session, tokens, 0, 128 + lab_random(lab, 20) + 1, "to go back from");
        size_t left = rondo_session_truncate(session, target);
        EXPECT(left <= target, "truncated to %zu, want at most %zu", left, target);
        go_on(lab, context, session, tokens, left, 5, "after going back to a boundary");
        rondo_session_destroy(session);
    }
    struct rondo_session *session = lab_session(lab, context);
    size_t n = go_on(lab, context, session, tokens, 0, 70, "before the first snapshot");
    EXPECT(rondo_session_snapshot(session) == 64, "no snapshot");
    n = go_on(lab, context, session, tokens, n, 60, "before the second snapshot");
    EXPECT(rondo_session_snapshot(session) == 128, "no snapshot");
    n = rondo_session_truncate(session, 100);
    EXPECT(n == 64 || n == 100, "truncated to %zu", n); /* 100 without linear layers */
    n = go_on(lab, context, session, tokens, n, 200 - n, "other tokens under the snapshot");
    n = rondo_session_truncate(session, 150);
    go_on(lab, context, session, tokens, n, 5, "past the stale snapshot");
    rondo_session_destroy(session);
    rondo_context_destroy(context);
}
