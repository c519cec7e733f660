/* Draft trees: tokens evaluated on top of a session without changing it, and their acceptance. */
#include "core/context.h"
#include "core/error.h"

#include <string.h>

static int check_tree(const struct rondo_session *session, const int32_t *tokens,
                      const int32_t *parents, size_t n, struct rondo_error *error)
{
    const struct rondo_context *context = session->context;
    if (session->length == 0)
        return rondo_fail(error, RONDO_USAGE,
                          "draft: the session is empty (want at least 1 token)");
    if (n == 0 || n > (size_t)context->settings.max_draft)
        return rondo_fail(error, RONDO_USAGE,
                          "draft: wrong number of nodes (got %zu, want 1 to %d)", n,
                          context->settings.max_draft);
    if (!parents)
        return rondo_fail(error, RONDO_USAGE, "draft: parents: NULL (want %zu nodes)", n);
    int32_t depth[4096]; /* max_draft is at most this */
    for (size_t i = 0; i < n; i++) {
        if (parents[i] < -1 || parents[i] >= (int32_t)i)
            return rondo_fail(
                error, RONDO_USAGE,
                "draft: node %zu: parent must come before it (got %d, want -1 to %zd)", i,
                parents[i], (ptrdiff_t)i - 1);
        depth[i] = parents[i] < 0 ? 0 : depth[parents[i]] + 1;
        if (session->length + depth[i] >= context->settings.max_context)
            return rondo_fail(
                error, RONDO_FAILED,
                "draft: node %zu: the context is full (got position %d, want below %d)", i,
                session->length + depth[i], context->settings.max_context);
    }
    return rondo_check_tokens(context, tokens, n, error);
}

int rondo_session_draft(struct rondo_session *session, const int32_t *tokens,
                        const int32_t *parents, size_t n, float *logits, struct rondo_error *error)
{
    struct rondo_context *context = session->context;
    int status = check_tree(session, tokens, parents, n, error);
    if (status)
        return status;
    size_t V = (size_t)context->model->config.vocab_size;
    rondo_run_begin(context);
    rondo_run_add(context, session, tokens, parents, (int32_t)n, logits ? (int32_t)n : 0);
    for (size_t i = 0; logits && i < n; i++)
        context->run.logit_targets[i] = (struct rondo_logit_target){.logits = logits + i * V};
    rondo_run_batch(context);
    if ((status = rondo_run_end(context, error))) {
        session->n_drafts = 0;
        return status;
    }
    memcpy(session->draft_tokens, tokens, n * sizeof *tokens);
    memcpy(session->draft_parents, parents, n * sizeof *parents);
    session->n_drafts = (int32_t)n;
    return RONDO_OK;
}

static int check_path(const struct rondo_session *session, const int32_t *nodes, size_t n,
                      struct rondo_error *error)
{
    if (n && !nodes)
        return rondo_fail(error, RONDO_USAGE, "accept: nodes: NULL (want %zu of them)", n);
    if (n && !session->n_drafts)
        return rondo_fail(error, RONDO_USAGE,
                          "accept: the session has no drafts (got %zu nodes, want 0)", n);
    for (size_t i = 0; i < n; i++) {
        if (nodes[i] < 0 || nodes[i] >= session->n_drafts)
            return rondo_fail(error, RONDO_USAGE,
                              "accept: node out of range (got %d, want 0 to %d of the last draft)",
                              nodes[i], session->n_drafts - 1);
        int32_t want = i == 0 ? -1 : nodes[i - 1];
        if (session->draft_parents[nodes[i]] != want)
            return rondo_fail(error, RONDO_USAGE,
                              "accept: node %d does not follow the path (got parent %d, want %d)",
                              nodes[i], session->draft_parents[nodes[i]], want);
    }
    int32_t pages = rondo_session_pages_needed(session, (int32_t)n),
            free_pages = session->context->cache.n_free_pages;
    if (pages > free_pages)
        return rondo_fail(error, RONDO_FAILED,
                          "the KV pool is full (want %d more pages of %d tokens, got %d)", pages,
                          RONDO_CHUNK, free_pages);
    return RONDO_OK;
}

/* Where the arrays of an acceptance stand in the memory of batches. */
struct accept_arrays {
    const int32_t *path, *page_table;
};

/* One copy: the path, then the page table. */
static struct accept_arrays upload_path(struct rondo_context *context,
                                        const struct rondo_session *session, const int32_t *nodes,
                                        size_t n)
{
    size_t first_page = (n + 3) / 4 * 4, n_pages = (size_t)session->n_pages;
    int32_t *packed = (int32_t *)(void *)context->run.packed; /* not in use between runs */
    memcpy(packed, nodes, n * sizeof *nodes);
    memset(packed + n, 0, (first_page - n) * sizeof *nodes);
    if (n_pages)
        memcpy(packed + first_page, session->page_table, n_pages * sizeof *session->page_table);
    context->device->write(context->device, context->batch_memory, packed,
                           (first_page + n_pages) * sizeof *packed);
    const int32_t *memory = context->batch_memory;
    return (struct accept_arrays){.path = memory, .page_table = memory + first_page};
}

static void accept_layer(struct rondo_context *context, const struct rondo_session *session,
                         int32_t layer, int32_t n, const struct accept_arrays *arrays,
                         const float *decay_power)
{
    struct rondo_op_accept op = {.slot = session->slot,
                                 .start = session->length,
                                 .n = n,
                                 .path = arrays->path,
                                 .page_table = arrays->page_table,
                                 .linear = context->cache.linear[layer],
                                 .kv = context->cache.kv[layer],
                                 .decay_power = decay_power,
                                 .heads =
                                     decay_power ? context->cache.heads : context->cache.kv_heads,
                                 .head_dim = context->cache.head_dim};
    context->device->ops.accept(context->device, &op);
}

int rondo_session_accept(struct rondo_session *session, const int32_t *nodes, size_t n,
                         struct rondo_error *error)
{
    struct rondo_context *context = session->context;
    int status = check_path(session, nodes, n, error);
    if (status)
        return status;
    if (n == 0) {
        session->n_drafts = 0;
        return RONDO_OK;
    }
    rondo_session_make_room(session, (int32_t)n);
    struct accept_arrays arrays = upload_path(context, session, nodes, n);
    const float *decay_power = context->plan.decay_power;
    for (int32_t l = 0; l < context->cache.n_layers; l++) {
        bool linear = context->cache.linear[l].state != NULL;
        accept_layer(context, session, l, (int32_t)n, &arrays, linear ? decay_power : NULL);
        if (linear)
            decay_power += (size_t)context->cache.heads * (RONDO_CHUNK + 1);
    }
    if ((status = rondo_run_end(context, error))) {
        session->length = 0;
        rondo_session_trim(session);
        return status;
    }
    int32_t *tokens = context->run.token; /* not in use between runs */
    for (size_t i = 0; i < n; i++)
        tokens[i] = session->draft_tokens[nodes[i]];
    rondo_session_append(session, tokens, (int32_t)n);
    return RONDO_OK;
}
