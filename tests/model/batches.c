/* A session's logits do not depend on how its tokens are cut into calls, what else is in the batch, which
 * slot it has, or the number of threads. */
#include "core/context.h"
#include "tests/model/expect.h"
#include "tests/model/properties.h"

#include <stdlib.h>
#include <string.h>

/* A length that favours the neighbourhood of chunk boundaries. */
static size_t random_length(struct lab *lab, size_t limit)
{
    size_t n = 1 + lab_random(lab, limit);
    if (lab_random(lab, 3) == 0)
        n = n / 64 * 64 + lab_random(lab, 3);
    return n < 1 ? 1 : n > limit ? limit : n;
}

void property_split(struct lab *lab)
{
    static const int32_t batch_sizes[] = {1, 7, 33, 64, 512};
    static const size_t largest[] = {3, 20, 65, 130};
    int32_t tokens[200];
    size_t n = 66 + lab_random(lab, 134);
    lab_random_tokens(lab, tokens, n);
    float *want = lab_logits(lab, tokens, n), *got = malloc(n * lab->vocab_size * sizeof *got);
    for (int round = 0; round < 5; round++) {
        struct rondo_context_options options = lab_options(lab);
        options.max_batch_tokens = batch_sizes[round];
        struct rondo_context *context = lab_context(lab, &options);
        struct rondo_session *session = lab_session(lab, context);
        for (size_t done = 0, piece; done < n; done += piece) {
            piece = 1 + lab_random(lab, largest[lab_random(lab, 4)]);
            piece = piece > n - done ? n - done : piece;
            enum rondo_logits kind = (enum rondo_logits)lab_random(lab, 3);
            struct rondo_run_item item = {session,           tokens + done, piece, kind,
                                          kind ? got : NULL, NULL,          NULL};
            MUST(lab, !rondo_context_run(context, &item, 1, &error));
            if (kind == RONDO_LOGITS_ALL)
                lab_compare(lab, "all rows of a piece", got, want + done * lab->vocab_size, piece);
            else if (kind == RONDO_LOGITS_LAST)
                lab_compare(lab, "last row of a piece", got,
                            want + (done + piece - 1) * lab->vocab_size, 1);
        }
        EXPECT(rondo_session_length(session) == n, "seed %ju", (uintmax_t)lab->seed);
        rondo_session_destroy(session);
        rondo_context_destroy(context);
    }
    free(want);
    free(got);
}

void property_decode(struct lab *lab)
{
    int32_t tokens[140];
    size_t n = 130 + lab_random(lab, 10);
    lab_random_tokens(lab, tokens, n);
    float *want = lab_logits(lab, tokens, n), *got = malloc(n * lab->vocab_size * sizeof *got);
    struct rondo_context_options options = lab_options(lab);
    struct rondo_context *context = lab_context(lab, &options);
    struct rondo_session *session = lab_session(lab, context);
    for (size_t i = 0; i < n; i++)
        lab_run(lab, context, session, tokens + i, 1, got + i * lab->vocab_size);
    lab_compare(lab, "token by token", got, want, n);
    rondo_session_destroy(session);
    rondo_context_destroy(context);
    free(want);
    free(got);
}

enum { SESSIONS = 5, LONGEST = 150 };

struct batch_item {
    struct rondo_session *session;
    int32_t tokens[LONGEST];
    size_t n, done;
    float *want, *got; /* [n, V] */
};

/* One run of a random choice of unfinished sessions in random order; returns the tokens still to go. */
static size_t run_some(struct lab *lab, struct rondo_context *context, struct batch_item *all)
{
    struct rondo_run_item items[SESSIONS];
    size_t order[SESSIONS], n_items = 0, left = 0;
    for (size_t i = 0; i < SESSIONS; i++) {
        size_t j = lab_random(lab, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (size_t i = 0; i < SESSIONS; i++) {
        struct batch_item *item = &all[order[i]];
        size_t piece = lab_random(lab, 4) ? lab_random(lab, 40) : 1;
        piece = piece > item->n - item->done ? item->n - item->done : piece;
        if (lab_random(lab, 3) == 0)
            continue;
        float *out = item->got + item->done * lab->vocab_size;
        items[n_items++] = (struct rondo_run_item){
            item->session, item->tokens + item->done, piece, RONDO_LOGITS_ALL, out, NULL, NULL};
        item->done += piece;
    }
    MUST(lab, !rondo_context_run(context, items, n_items, &error));
    for (size_t i = 0; i < SESSIONS; i++)
        left += all[i].n - all[i].done;
    return left;
}

void property_batch(struct lab *lab)
{
    struct rondo_context_options options = lab_options(lab);
    options.max_batch_tokens = lab_random(lab, 2) ? 48 : 512;
    struct rondo_context *context = lab_context(lab, &options);
    struct batch_item *all = calloc(SESSIONS, sizeof *all);
    for (size_t i = 0; i < SESSIONS; i++) {
        struct batch_item *item = &all[i];
        item->n = random_length(lab, LONGEST);
        lab_random_tokens(lab, item->tokens, item->n);
        item->session = lab_session(lab, context);
        item->want = lab_logits(lab, item->tokens, item->n);
        item->got = malloc(item->n * lab->vocab_size * sizeof *item->got);
    }
    while (run_some(lab, context, all) > 0)
        ;
    for (size_t i = 0; i < SESSIONS; i++) {
        lab_compare(lab, "a session of a batch", all[i].got, all[i].want, all[i].n);
        rondo_session_destroy(all[i].session);
        free(all[i].want);
        free(all[i].got);
    }
    free(all);
    rondo_context_destroy(context);
}

void property_reuse(struct lab *lab)
{
    int32_t tokens[200], parents[40];
    float *got = malloc(200 * lab->vocab_size * sizeof *got);
    struct rondo_context_options options = lab_options(lab);
    options.max_sessions = 1;
    struct rondo_context *context = lab_context(lab, &options);
    for (int round = 0; round < 4; round++) {
        struct rondo_session *session = lab_session(lab, context);
        size_t n = random_length(lab, 160);
        lab_random_tokens(lab, tokens, n);
        float *want = lab_logits(lab, tokens, n);
        lab_run(lab, context, session, tokens, n, got);
        lab_compare(lab, "a used slot", got, want, n);
        free(want);
        /* leave snapshots and drafts behind */
        rondo_session_snapshot(session);
        lab_random_tokens(lab, tokens, 40);
        for (int i = 0; i < 40; i++)
            parents[i] = i - 1;
        MUST(lab, !rondo_session_draft(session, tokens, parents, 40, got, &error));
        rondo_session_destroy(session);
    }
    rondo_context_destroy(context);
    free(got);
}

void property_threads(struct lab *lab)
{
    if (strncmp(rondo_device_description(lab->device), "cpu", 3))
        return; /* GPUs have none */
    int32_t tokens[150], parents[20];
    lab_random_tokens(lab, tokens, 150);
    for (int i = 0; i < 20; i++)
        parents[i] = i ? (int32_t)lab_random(lab, (size_t)i + 1) - 1 : -1;
    float *got[2];
    struct rondo_device *device = lab->device;
    for (int i = 0; i < 2; i++) {
        struct rondo_device_options device_options = {.threads = i == 0 ? 2 : 3};
        MUST(lab, lab->device = rondo_device_open("cpu", &device_options, &error));
        struct rondo_context_options options = lab_options(lab);
        struct rondo_context *context = lab_context(lab, &options);
        struct rondo_session *session = lab_session(lab, context);
        got[i] = malloc(150 * lab->vocab_size * sizeof(float));
        lab_run(lab, context, session, tokens, 125, got[i]);
        for (size_t j = 125; j < 130; j++)
            lab_run(lab, context, session, tokens + j, 1, got[i] + j * lab->vocab_size);
        MUST(lab, !rondo_session_draft(session, tokens + 130, parents, 20,
                                       got[i] + 130 * lab->vocab_size, &error));
        rondo_session_destroy(session);
        rondo_context_destroy(context);
        rondo_device_close(lab->device);
    }
    lab->device = device;
    float *want = lab_logits(lab, tokens, 130);
    lab_compare(lab, "two threads against one", got[0], want, 130);
    lab_compare(lab, "two threads against three", got[0], got[1], 150);
    for (int i = 0; i < 2; i++)
        free(got[i]);
    free(want);
}

/* Three sessions in one run: one wants logits, one ids, one both. More rows than a slice of logits has. */
void property_best(struct lab *lab)
{
    enum { N = 85 };
    int32_t tokens[3][N], best[3][N];
    struct rondo_context_options options = lab_options(lab);
    options.max_sessions = 3;
    struct rondo_context *context = lab_context(lab, &options);
    struct rondo_session *sessions[3];
    struct rondo_run_item items[3];
    float *got[3], *want[3];
    for (int i = 0; i < 3; i++) {
        lab_random_tokens(lab, tokens[i], N);
        want[i] = lab_logits(lab, tokens[i], N);
        got[i] = malloc(N * lab->vocab_size * sizeof *got[i]);
        sessions[i] = lab_session(lab, context);
        items[i] = (struct rondo_run_item){sessions[i],
                                           tokens[i],
                                           N,
                                           RONDO_LOGITS_ALL,
                                           i == 1 ? NULL : got[i],
                                           i == 0 ? NULL : best[i],
                                           NULL};
    }
    MUST(lab, !rondo_context_run(context, items, 3, &error));
    lab_compare(lab, "logits beside ids", got[0], want[0], N);
    lab_compare(lab, "logits with ids", got[2], want[2], N);
    lab_compare_best(lab, "ids alone", best[1], want[1], N);
    lab_compare_best(lab, "ids with logits", best[2], want[2], N);
    rondo_session_truncate(sessions[1], 0);
    items[1].logits = RONDO_LOGITS_LAST;
    MUST(lab, !rondo_context_run(context, &items[1], 1, &error));
    lab_compare_best(lab, "id of the last row", best[1], want[1] + (N - 1) * lab->vocab_size, 1);
    for (int i = 0; i < 3; i++) {
        rondo_session_destroy(sessions[i]);
        free(want[i]);
        free(got[i]);
    }
    rondo_context_destroy(context);
}

/* Five sessions in one run: one takes the best of all its rows, which fill more than a slice of logits; the others
 * sample in ways of their own, one of them with more ids to penalise than there is room for. Prompts, one of which is
 * cut, then tokens one by one. */
void property_sampled(struct lab *lab)
{
    enum { ROUNDS = 4, N = 80 };
    static const struct rondo_sampler_options ways[SESSIONS] = {
        {.top_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 3},
        {.temperature = 2,
         .top_k = 20,
         .top_p = 0.8f,
         .repetition_penalty = 0.2f,
         .repetition_window = 12},
        {.temperature = 3,
         .top_p = 1,
         .min_p = 0.1f,
         .repetition_penalty = 0.1f,
         .repetition_window = 5},
        {.top_p = 1, .repetition_penalty = 5},
    };
    static const uint64_t read[SESSIONS] = {0, 0, 0, 0, ROUNDS}; /* rows */
    int32_t tokens[SESSIONS][N + ROUNDS], best[N];
    size_t V = lab->vocab_size, prompt[SESSIONS];
    struct rondo_context_options options = lab_options(lab);
    options.max_sessions = SESSIONS;
    options.max_batch_tokens = 270; /* the fourth prompt is cut */
    struct rondo_context *context = lab_context(lab, &options);
    context->sampling.seen_capacity = 12;
    struct rondo_sampler *samplers[SESSIONS];
    struct rondo_run_item items[SESSIONS];
    float *beside = malloc(ROUNDS * V * sizeof *beside);
    for (int i = 0; i < SESSIONS; i++) {
        prompt[i] = N - 7 * (size_t)i;
        lab_random_tokens(lab, tokens[i], prompt[i]);
        samplers[i] = rondo_sampler_create((int32_t)V, &ways[i], NULL);
        items[i] = (struct rondo_run_item){.session = lab_session(lab, context),
                                           .tokens = tokens[i],
                                           .n = prompt[i],
                                           .logits = i ? RONDO_LOGITS_LAST : RONDO_LOGITS_ALL,
                                           .best = i ? &tokens[i][prompt[i]] : best,
                                           .sampler = i ? samplers[i] : NULL};
    }
    for (int round = 0; round < ROUNDS; round++) {
        items[2].out = beside + (size_t)round * V; /* before they are penalised */
        MUST(lab, !rondo_context_run(context, items, SESSIONS, &error));
        if (round == 0) {
            tokens[0][N] = best[N - 1];
            items[0].best = &tokens[0][N];
            items[0].logits = RONDO_LOGITS_LAST;
            items[0].sampler = samplers[0];
        }
        for (int i = 0; i < SESSIONS; i++) {
            items[i].tokens = items[i].best++;
            items[i].n = 1;
        }
    }
    for (int i = 0; i < SESSIONS; i++) {
        float *logits = lab_logits(lab, tokens[i], prompt[i] + ROUNDS - 1);
        float *last = logits + (prompt[i] - 1) * V;
        EXPECT(rondo_sampler_rows_read(samplers[i]) == read[i], "%s: session %d: %d rows read",
               lab->name, i, (int)rondo_sampler_rows_read(samplers[i]));
        if (i == 0)
            lab_compare_best(lab, "ids beside picks", best, logits, N);
        if (i == 2)
            lab_compare(lab, "logits beside picks", beside, last, ROUNDS);
        struct rondo_sampler *on_host = rondo_sampler_create((int32_t)V, &ways[i], NULL);
        for (size_t n = prompt[i]; n < prompt[i] + ROUNDS; n++, last += V) {
            int32_t want = rondo_sampler_pick(on_host, last, tokens[i], n);
            EXPECT(tokens[i][n] == want, "%s: session %d, token %zu: got %d, want %d; seed %ju",
                   lab->name, i, n, tokens[i][n], want, (uintmax_t)lab->seed);
        }
        rondo_sampler_destroy(on_host);
        free(logits);
        rondo_session_destroy(items[i].session);
        rondo_sampler_destroy(samplers[i]);
    }
    free(beside);
    rondo_context_destroy(context);
}
