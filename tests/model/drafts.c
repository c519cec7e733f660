/* Draft trees give the logits of their paths run separately, leave the session as it was, and accepting a
 * path is the same as having run it. */
#include "tests/model/expect.h"
#include "tests/model/properties.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_NODES = 100, LONGEST = LAB_CONTEXT };

struct tree {
    int32_t tokens[MAX_NODES], parents[MAX_NODES];
    size_t n;
};

/* Chains with branches: parents are mostly the node before. */
static void grow_tree(struct lab *lab, struct tree *tree, size_t n, size_t branching)
{
    tree->n = n;
    lab_random_tokens(lab, tree->tokens, n);
    for (size_t i = 0; i < n; i++) {
        tree->parents[i] = (int32_t)i - 1;
        if (lab_random(lab, branching) == 0)
            tree->parents[i] = (int32_t)lab_random(lab, i + 1) - 1;
    }
}

/* Nodes from the root to `node`; returns their number. */
static size_t path_to(const struct tree *tree, int32_t node, int32_t path[MAX_NODES])
{
    size_t n = 0;
    for (int32_t i = node; i >= 0; i = tree->parents[i])
        n++;
    size_t depth = n;
    for (int32_t i = node; i >= 0; i = tree->parents[i])
        path[--depth] = i;
    return n;
}

/* Every node against the session's tokens followed by the path to it. */
static void check_tree(struct lab *lab, const struct tree *tree, const float *got,
                       const int32_t *base, size_t n_base)
{
    int32_t tokens[LONGEST + MAX_NODES], path[MAX_NODES];
    bool inner[MAX_NODES] = {false};
    for (size_t i = 0; i < tree->n; i++)
        if (tree->parents[i] >= 0)
            inner[tree->parents[i]] = true;
    memcpy(tokens, base, n_base * sizeof *tokens);
    for (size_t leaf = 0; leaf < tree->n; leaf++) {
        if (inner[leaf])
            continue;
        size_t depth = path_to(tree, (int32_t)leaf, path);
        for (size_t i = 0; i < depth; i++)
            tokens[n_base + i] = tree->tokens[path[i]];
        float *want = lab_logits(lab, tokens, n_base + depth);
        for (size_t i = 0; i < depth; i++)
            lab_compare(lab, "a node of a tree", got + (size_t)path[i] * lab->vocab_size,
                        want + (n_base + i) * lab->vocab_size, 1);
        free(want);
    }
}

static void draft(struct lab *lab, struct rondo_session *session, const struct tree *tree,
                  float *got)
{
    MUST(lab, !rondo_session_draft(session, tree->tokens, tree->parents, tree->n, got, &error));
}

/* Runs a few tokens more and compares; appends them to `tokens`. */
static size_t go_on(struct lab *lab, struct rondo_context *context, struct rondo_session *session,
                    int32_t *tokens, size_t n, size_t more, const char *what)
{
    float *got = malloc(more * lab->vocab_size * sizeof *got);
    lab_random_tokens(lab, tokens + n, more);
    lab_run(lab, context, session, tokens + n, more, got);
    float *want = lab_logits(lab, tokens, n + more);
    lab_compare(lab, what, got, want + n * lab->vocab_size, more);
    free(want);
    free(got);
    return n + more;
}

void property_tree(struct lab *lab)
{
    int32_t tokens[LONGEST], path[MAX_NODES];
    struct tree *tree = malloc(sizeof *tree);
    float *got = malloc(MAX_NODES * lab->vocab_size * sizeof *got);
    struct rondo_context_options options = lab_options(lab);
    options.max_batch_tokens = lab_random(lab, 2) ? 8 : 512;
    struct rondo_context *context = lab_context(lab, &options);
    struct rondo_session *session = lab_session(lab, context);
    size_t n = 40 + lab_random(lab, 30);
    lab_random_tokens(lab, tokens, n);
    lab_run(lab, context, session, tokens, n, NULL);
    for (int round = 0; round < 6; round++) {
        grow_tree(lab, tree, 1 + lab_random(lab, 24), 2 + lab_random(lab, 4));
        draft(lab, session, tree, got);
        check_tree(lab, tree, got, tokens, n);
        EXPECT(rondo_session_length(session) == n, "a draft changed the session's length");
        if (round == 2) /* a run drops the drafts */
            n = go_on(lab, context, session, tokens, n, 2, "a run after a draft");
        else {
            size_t accepted = path_to(tree, (int32_t)lab_random(lab, tree->n), path);
            accepted = lab_random(lab, 4) ? accepted : 0;
            MUST(lab, !rondo_session_accept(session, path, accepted, &error));
            for (size_t i = 0; i < accepted; i++)
                tokens[n++] = tree->tokens[path[i]];
            EXPECT(rondo_session_length(session) == n, "after accepting %zu", accepted);
            EXPECT(!memcmp(rondo_session_tokens(session), tokens, n * sizeof *tokens),
                   "accepted tokens");
        }
        if (lab_random(lab, 2))
            n = go_on(lab, context, session, tokens, n, 1 + lab_random(lab, 12), "after accepting");
    }
    go_on(lab, context, session, tokens, n, 3, "after all trees");
    rondo_session_destroy(session);
    rondo_context_destroy(context);
    free(got);
    free(tree);
}

void property_chain(struct lab *lab)
{
    int32_t tokens[LONGEST], path[MAX_NODES];
    struct tree *tree = malloc(sizeof *tree);
    float *got = malloc(MAX_NODES * lab->vocab_size * sizeof *got);
    struct rondo_context_options options = lab_options(lab);
    options.max_draft = MAX_NODES;
    options.max_batch_tokens = 128;
    struct rondo_context *context = lab_context(lab, &options);
    for (int round = 0; round < 3; round++) {
        struct rondo_session *session = lab_session(lab, context);
        size_t n = round ? 1 + lab_random(lab, 130) : 64;
        lab_random_tokens(lab, tokens, n);
        lab_run(lab, context, session, tokens, n, NULL);
        grow_tree(lab, tree, MAX_NODES, 25);
        draft(lab, session, tree, got);
        check_tree(lab, tree, got, tokens, n);
        size_t accepted = path_to(tree, MAX_NODES - 1, path);
        MUST(lab, !rondo_session_accept(session, path, accepted, &error));
        for (size_t i = 0; i < accepted; i++)
            tokens[n++] = tree->tokens[path[i]];
        go_on(lab, context, session, tokens, n, 5, "after a long path");
        rondo_session_destroy(session);
    }
    rondo_context_destroy(context);
    free(got);
    free(tree);
}
