/* Sessions: one sequence of tokens each, what of its caches can be reused, and where it can go back to. */
#include "core/context.h"
#include "core/error.h"

#include <stdlib.h>
#include <string.h>

/* ---- making ----------------------------------------------------------------------------------- */

struct rondo_session *rondo_session_create(struct rondo_context *context, struct rondo_error *error)
{
    const struct rondo_context_options *settings = &context->settings;
    int32_t slot = rondo_cache_take_slot(&context->cache);
    if (slot < 0) {
        rondo_fail(error, RONDO_FAILED,
                   "no session is free (got %d in use, want at most %d); raise max_sessions",
                   settings->max_sessions, settings->max_sessions);
        return NULL;
    }
    struct rondo_session *session = calloc(1, sizeof *session);
    if (session) {
        session->context = context;
        session->slot = slot;
        session->tokens = calloc((size_t)settings->max_context, sizeof *session->tokens);
        session->page_table = calloc((size_t)context->page_stride, sizeof *session->page_table);
        session->snapshots =
            calloc((size_t)rondo_snapshots_per_session(settings) + 1, sizeof *session->snapshots);
        session->draft_tokens = calloc((size_t)settings->max_draft, sizeof *session->draft_tokens);
        session->draft_parents =
            calloc((size_t)settings->max_draft, sizeof *session->draft_parents);
    }
    context->sessions[slot] = session;
    if (!session || !session->tokens || !session->page_table || !session->snapshots ||
        !session->draft_tokens || !session->draft_parents) {
        if (session)
            rondo_session_destroy(session);
        else
            rondo_cache_release_slot(&context->cache, slot);
        rondo_fail(error, RONDO_FAILED, "out of memory for a session of %d tokens",
                   settings->max_context);
        return NULL;
    }
    return session;
}

void rondo_session_destroy(struct rondo_session *session)
{
    if (!session)
        return;
    struct rondo_context *context = session->context;
    session->length = 0;
    rondo_session_trim(session);
    rondo_cache_release_slot(&context->cache, session->slot);
    context->sessions[session->slot] = NULL;
    free(session->tokens);
    free(session->page_table);
    free(session->snapshots);
    free(session->draft_tokens);
    free(session->draft_parents);
    free(session);
}

size_t rondo_session_length(const struct rondo_session *session)
{
    return (size_t)session->length;
}

const int32_t *rondo_session_tokens(const struct rondo_session *session)
{
    return session->tokens;
}

/* ---- pages ------------------------------------------------------------------------------------ */

/* Pages that hold n tokens. Models without softmax layers hold none. */
static int32_t pages_of(const struct rondo_session *session, int32_t n)
{
    return session->context->cache.n_softmax ? (n + RONDO_CHUNK - 1) / RONDO_CHUNK : 0;
}

/* Only the first page that appending writes to can be held already. */
int32_t rondo_session_shared_page(const struct rondo_session *session, int32_t n)
{
    int32_t index = session->length / RONDO_CHUNK;
    if (n <= 0 || index >= session->n_pages)
        return -1;
    int32_t page = session->page_table[index];
    return session->context->cache.page_references[page] > 1 ? page : -1;
}

int32_t rondo_session_pages_needed(const struct rondo_session *session, int32_t n)
{
    int32_t more = pages_of(session, session->length + n) - session->n_pages;
    return (more > 0 ? more : 0) + (rondo_session_shared_page(session, n) >= 0);
}

void rondo_session_make_room(struct rondo_session *session, int32_t n)
{
    struct rondo_cache *cache = &session->context->cache;
    int32_t shared = rondo_session_shared_page(session, n);
    if (shared >= 0) {
        int32_t copy = rondo_cache_take_page(cache);
        rondo_cache_copy_page(cache, copy, shared);
        rondo_cache_release_page(cache, shared);
        session->page_table[session->length / RONDO_CHUNK] = copy;
    }
    int32_t pages = pages_of(session, session->length + n);
    while (session->n_pages < pages)
        session->page_table[session->n_pages++] = rondo_cache_take_page(cache);
}

void rondo_session_append(struct rondo_session *session, const int32_t *tokens, int32_t n)
{
    if (n <= 0)
        return;
    memcpy(session->tokens + session->length, tokens, (size_t)n * sizeof *tokens);
    session->length += n;
    session->n_drafts = 0;
}

void rondo_session_trim(struct rondo_session *session)
{
    struct rondo_cache *cache = &session->context->cache;
    int32_t pages = pages_of(session, session->length);
    while (session->n_pages > pages)
        rondo_cache_release_page(cache, session->page_table[--session->n_pages]);
    int32_t kept = 0;
    for (int32_t i = 0; i < session->n_snapshots; i++) {
        if (session->snapshots[i].position <= session->length)
            session->snapshots[kept++] = session->snapshots[i];
        else
            rondo_cache_release_snapshot(cache, session->snapshots[i].slot);
    }
    session->n_snapshots = kept;
    session->n_drafts = 0;
}

/* ---- going back ------------------------------------------------------------------------------- */

static const struct rondo_snapshot *best_snapshot(const struct rondo_session *session, int32_t n)
{
    const struct rondo_snapshot *best = NULL;
    for (int32_t i = 0; i < session->n_snapshots; i++) {
        const struct rondo_snapshot *snapshot = &session->snapshots[i];
        if (snapshot->position <= n && (!best || snapshot->position > best->position))
            best = snapshot;
    }
    return best;
}

size_t rondo_session_truncate(struct rondo_session *session, size_t n)
{
    struct rondo_cache *cache = &session->context->cache;
    if (n >= (size_t)session->length)
        return (size_t)session->length;
    int32_t boundary = session->length / RONDO_CHUNK * RONDO_CHUNK;
    if (cache->n_linear == 0 || (int32_t)n >= boundary) {
        session->length = (int32_t)n;
    } else {
        const struct rondo_snapshot *snapshot = best_snapshot(session, (int32_t)n);
        if (snapshot)
            rondo_cache_copy_state(cache, session->slot, snapshot->slot);
        session->length = snapshot ? snapshot->position : 0;
    }
    rondo_session_trim(session);
    return (size_t)session->length;
}

size_t rondo_session_snapshot(struct rondo_session *session)
{
    struct rondo_cache *cache = &session->context->cache;
    int32_t position = session->length / RONDO_CHUNK * RONDO_CHUNK;
    if (cache->n_linear == 0 || position == 0)
        return (size_t)position;
    for (int32_t i = 0; i < session->n_snapshots; i++) {
        if (session->snapshots[i].position == position)
            return (size_t)position;
    }
    int32_t most = rondo_snapshots_per_session(&session->context->settings);
    if (most == 0)
        return 0;
    int32_t slot;
    if (session->n_snapshots == most) {
        slot = session->snapshots[0].slot;
        memmove(session->snapshots, session->snapshots + 1,
                (size_t)--session->n_snapshots * sizeof *session->snapshots);
    } else {
        slot = rondo_cache_take_snapshot(cache);
    }
    rondo_cache_copy_state(cache, slot, session->slot);
    session->snapshots[session->n_snapshots++] =
        (struct rondo_snapshot){.position = position, .slot = slot};
    return (size_t)position;
}

/* ---- sync ------------------------------------------------------------------------------------- */

/* Appends the tokens of an item from `from` on. A prompt is likely to be edited near its end, or sent again as it is:
 * the state at the last boundary before its last token is kept, unless little was computed since the one before. */
static int run_and_keep(const struct rondo_run_item *wanted, size_t from, struct rondo_error *error)
{
    struct rondo_session *session = wanted->session;
    const int32_t *tokens = wanted->tokens + from;
    size_t n = wanted->n - from;
    bool keeps = n >= RONDO_CHUNK;
    size_t first = 0;
    /* The last token would complete a chunk, and the boundary before it be gone. */
    if (keeps && ((size_t)session->length + n) % RONDO_CHUNK == 0)
        first = n - 1;
    struct rondo_run_item item = {.session = session, .tokens = tokens, .n = first};
    int status = rondo_context_run(session->context, &item, 1, error);
    if (!status && first)
        rondo_session_snapshot(session);
    item = *wanted;
    item.tokens = tokens + first;
    item.n = n - first;
    if (!status)
        status = rondo_context_run(session->context, &item, 1, error);
    if (!status && keeps && !first)
        rondo_session_snapshot(session);
    return status;
}

int rondo_session_sync(struct rondo_session *session, const int32_t *tokens, size_t n,
                       float *logits, struct rondo_sync_result *result, struct rondo_error *error)
{
    struct rondo_run_item item = {.session = session,
                                  .tokens = tokens,
                                  .n = n,
                                  .logits = logits ? RONDO_LOGITS_LAST : RONDO_LOGITS_NONE,
                                  .out = logits};
    return rondo_session_sync_item(&item, result, error);
}

int rondo_session_sync_item(const struct rondo_run_item *item, struct rondo_sync_result *result,
                            struct rondo_error *error)
{
    struct rondo_session *session = item->session;
    struct rondo_context *context = session->context;
    const int32_t *tokens = item->tokens;
    size_t n = item->n;
    if (n == 0)
        return rondo_fail(error, RONDO_USAGE, "tokens: none given (want at least 1)");
    if (n > (size_t)context->settings.max_context)
        return rondo_fail(error, RONDO_FAILED,
                          "tokens: more than the context holds (got %zu, want at most %d)", n,
                          context->settings.max_context);
    if (item->logits == RONDO_LOGITS_ALL)
        return rondo_fail(error, RONDO_USAGE,
                          "logits of all tokens are asked for (want those of the last, or none)");
    int status = rondo_check_wanted(context, item, 0, error);
    if (status || (status = rondo_check_tokens(context, tokens, n, error)))
        return status;

    size_t length = (size_t)session->length, common = 0;
    while (common < length && common < n && session->tokens[common] == tokens[common])
        common++;
    size_t wanted = common < n ? common : n - 1;
    size_t reused = rondo_session_truncate(session, wanted);
    const char *reason = reused < wanted
                             ? "the linear states go back only to the open chunk or a snapshot"
                         : common == n      ? "the last token is always run"
                         : common == length ? "all that the session held is reused"
                                            : "the tokens differ from here on";
    status = run_and_keep(item, reused, error);
    if (status)
        return status;
    if (result)
        *result =
            (struct rondo_sync_result){.reused = reused, .computed = n - reused, .reason = reason};
    return RONDO_OK;
}

/* ---- fork ------------------------------------------------------------------------------------- */

struct rondo_session *rondo_session_fork(struct rondo_session *session, struct rondo_error *error)
{
    struct rondo_cache *cache = &session->context->cache;
    struct rondo_session *fork = rondo_session_create(session->context, error);
    if (!fork)
        return NULL;
    memcpy(fork->tokens, session->tokens, (size_t)session->length * sizeof *fork->tokens);
    fork->length = session->length;
    for (int32_t i = 0; i < session->n_pages; i++) {
        fork->page_table[i] = session->page_table[i];
        cache->page_references[session->page_table[i]]++;
    }
    fork->n_pages = session->n_pages;
    if (cache->n_linear) {
        rondo_cache_copy_state(cache, fork->slot, session->slot);
        rondo_cache_copy_tail(cache, fork->slot, session->slot);
    }
    for (int32_t i = 0; i < session->n_snapshots; i++) {
        struct rondo_snapshot snapshot = {session->snapshots[i].position,
                                          rondo_cache_take_snapshot(cache)};
        rondo_cache_copy_state(cache, snapshot.slot, session->snapshots[i].slot);
        fork->snapshots[fork->n_snapshots++] = snapshot;
    }
    return fork;
}

/* ---- repetition ------------------------------------------------------------------------------- */

int rondo_session_repeat(struct rondo_session *session, size_t n, struct rondo_error *error)
{
    struct rondo_cache *cache = &session->context->cache;
    int32_t period = session->length, limit = session->context->settings.max_context;
    if (!period || period % RONDO_CHUNK)
        return rondo_fail(error, RONDO_USAGE,
                          "repeat: the session holds %d tokens (want a multiple of %d)", period,
                          RONDO_CHUNK);
    if (n < (size_t)period || n > (size_t)limit)
        return rondo_fail(error, RONDO_USAGE, "repeat: out of range (got %zu, want %d to %d)", n,
                          period, limit);
    int32_t more = (int32_t)n - period;
    if (rondo_session_pages_needed(session, more) > cache->n_free_pages)
        return rondo_fail(error, RONDO_FAILED, "repeat: too few KV pages (got %d free, want %d)",
                          cache->n_free_pages, rondo_session_pages_needed(session, more));
    rondo_session_make_room(session, more);
    for (int32_t i = period / RONDO_CHUNK; i < session->n_pages; i++)
        rondo_cache_copy_page(cache, session->page_table[i],
                              session->page_table[i % (period / RONDO_CHUNK)]);
    for (int32_t i = period; i < (int32_t)n; i++)
        session->tokens[i] = session->tokens[i - period];
    session->length = (int32_t)n;
    session->n_drafts = 0;
    cache->device->synchronize(cache->device);
    return rondo_device_status(cache->device, error);
}
