/* One short scenario with everything in it, for devices on which the other properties take too long: an emulated
 * GPU needs a second for what a CPU does in a millisecond. */
#include "tests/model/expect.h"
#include "tests/model/properties.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT = 72, NODES = 7, SESSIONS = 3, ROUNDS = 7, LOGIT_ROUNDS = 4 };

/* A prompt in pieces, across the end of a chunk. */
static void check_pieces(struct lab *lab, struct rondo_context *context, const int32_t *tokens,
                         const float *want, float *got)
{
    static const size_t pieces[] = {1, 60, 2, 2, 7};
    struct rondo_session *session = lab_session(lab, context);
    size_t n = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        lab_run(lab, context, session, tokens + n, pieces[i], got + n * lab->vocab_size);
        n += pieces[i];
    }
    lab_compare(lab, "a prompt in pieces", got, want, n);
    rondo_session_destroy(session);
}

/* Sessions at different lengths of the same text decode together, so that each has rows of `want`, then the ids that
 * are best in them; where the device records, the later rounds of both are replayed. */
static void check_decoding(struct lab *lab, struct rondo_context *context, const int32_t *tokens,
                           const float *want, float *got)
{
    static const size_t lengths[SESSIONS] = {TEXT - ROUNDS, 3, 61};
    struct rondo_session *sessions[SESSIONS];
    for (size_t s = 0; s < SESSIONS; s++) {
        sessions[s] = lab_session(lab, context);
        lab_run(lab, context, sessions[s], tokens, lengths[s], NULL);
    }
    for (size_t round = 0; round < ROUNDS; round++) {
        struct rondo_run_item items[SESSIONS];
        int32_t best[SESSIONS];
        bool ids = round >= LOGIT_ROUNDS;
        for (size_t s = 0; s < SESSIONS; s++)
            items[s] = (struct rondo_run_item){sessions[s],
                                               tokens + lengths[s] + round,
                                               1,
                                               RONDO_LOGITS_LAST,
                                               ids ? NULL : got + s * lab->vocab_size,
                                               ids ? &best[s] : NULL,
                                               NULL};
        MUST(lab, !rondo_context_run(context, items, SESSIONS, &error));
        for (size_t s = 0; s < SESSIONS; s++) {
            const float *row = want + (lengths[s] + round) * lab->vocab_size;
            if (ids)
                lab_compare_best(lab, "ids of a batch", &best[s], row, 1);
            else
                lab_compare(lab, "decoding in a batch", got + s * lab->vocab_size, row, 1);
        }
    }
    for (size_t s = 0; s < SESSIONS; s++)
        rondo_session_destroy(sessions[s]);
}

/* A tree whose longest path is the text's next tokens, across the end of a chunk; then that path is accepted. */
static void check_drafts(struct lab *lab, struct rondo_context *context, const int32_t *tokens,
                         const float *want, float *got)
{
    static const int32_t parents[NODES] = {-1, 0, -1, 1, 1, 3, 5}, path[] = {0, 1, 3, 5, 6};
    enum { DEPTH = sizeof path / sizeof *path, START = 61 };
    struct rondo_session *session = lab_session(lab, context);
    int32_t nodes[NODES];
    lab_random_tokens(lab, nodes, NODES);
    for (int i = 0; i < DEPTH; i++)
        nodes[path[i]] = tokens[START + i];
    lab_run(lab, context, session, tokens, START, NULL);
    MUST(lab, !rondo_session_draft(session, nodes, parents, NODES, got, &error));
    for (int i = 0; i < DEPTH; i++)
        lab_compare(lab, "a node of a tree", got + (size_t)path[i] * lab->vocab_size,
                    want + (size_t)(START + i) * lab->vocab_size, 1);
    MUST(lab, !rondo_session_accept(session, path, DEPTH, &error));
    size_t n = START + DEPTH;
    lab_run(lab, context, session, tokens + n, TEXT - n, got);
    lab_compare(lab, "after accepting", got, want + n * lab->vocab_size, TEXT - n);
    rondo_session_destroy(session);
}

void property_short(struct lab *lab)
{
    int32_t tokens[TEXT];
    lab_random_tokens(lab, tokens, TEXT);
    float *want = lab_logits(lab, tokens, TEXT),
          *got = malloc(TEXT * lab->vocab_size * sizeof *got);
    struct rondo_context_options options = lab_options(lab);
    options.max_batch_tokens = 64; /* the text as a whole takes two runs */
    struct rondo_context *context = lab_context(lab, &options);
    check_pieces(lab, context, tokens, want, got);
    check_decoding(lab, context, tokens, want, got);
    check_drafts(lab, context, tokens, want, got);
    rondo_context_destroy(context);
    free(want);
    free(got);
}
