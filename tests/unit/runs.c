/* What a context asks of a device beyond its ops: recordings of decoding runs, failures, checks of steps. The
 * device is a CPU whose ops are intercepted: it can record, fail and write NaN.
 *
 *     runs FIXTURES */
#include "core/context.h"
#include "core/dtype.h"
#include "core/error.h"
#include "scratch.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SESSIONS = 21, CONTEXT = 90, MOST_OPS = 4096 };

/* One call of an op, with a copy of its batch: a recording keeps what the arrays' sizes were. */
struct call {
    enum rondo_op op;
    union rondo_op_args args;
    struct rondo_batch batch;
};

struct rondo_recording {
    struct call *calls; /* [n] */
    int n;
};

static struct {
    struct rondo_ops ops; /* of the CPU, as the next two */
    void (*write)(struct rondo_device *d, void *to, const void *from, size_t size);
    void (*read)(struct rondo_device *d, void *to, const void *from, size_t size);
    bool on, broken; /* record; recordings can not be made */
    struct call *calls;
    int n_calls;
    int made, released, replayed,
        moved;  /* recordings; replays; replays that are refused, still to come */
    int run;    /* ops that were run */
    int called; /* those of them that were not replayed */
    bool replaying;
    int reads;            /* copies to the host */
    int fail_after;       /* ops until the device fails; 0: never */
    const void *poisoned; /* linear attention with this state writes a NaN */
} fake;

static struct rondo_model *model;
static struct rondo_device *device;
static struct rondo_error error;
static size_t V;

/* ---- the device ---------------------------------------------------------------------------------- */

static void keep(enum rondo_op op, const void *args, size_t size, const struct rondo_batch *batch)
{
    MUST(fake.n_calls < MOST_OPS);
    struct call *call = &fake.calls[fake.n_calls++];
    *call = (struct call){.op = op};
    memcpy(&call->args, args, size);
    if (batch)
        call->batch = *batch;
}

static void count_run(void)
{
    fake.run++;
    fake.called += !fake.replaying;
}

/* A GPU would read and write elsewhere for such a row. */
static void look_at_rmsnorm(const struct rondo_op_rmsnorm *op)
{
    for (int32_t i = 0; op->rows && i < op->n_rows; i++)
        EXPECT(op->rows[i] >= 0 && op->rows[i] < op->x.shape[0], "row %d of %d is %d of %d", i,
               op->n_rows, op->rows[i], (int)op->x.shape[0]);
}

/* A GPU would pass over the ids from max_seen on. */
static void look_at_penalize(const struct rondo_op_penalize *op)
{
    for (int64_t i = 0; i < op->x.shape[0]; i++) {
        int32_t n = op->sampling[i].n_seen;
        EXPECT(n >= 0 && n <= op->max_seen, "row %d has %d ids, at most %d are said", (int)i, n,
               op->max_seen);
    }
}

static void look_at_candidates(const struct rondo_op_candidates *op)
{
    for (int64_t i = 0; i < op->x.shape[0]; i++)
        EXPECT((op->sampling[i].wanted | 1) == 1, "row %d wants %d", (int)i,
               op->sampling[i].wanted);
}

/* An op that is kept while recording, else looked at and run. */
#define WATCHED_SLOT(name, op_name, batch)                                                         \
    static void run_##name(struct rondo_device *d, const struct rondo_op_##name *op)               \
    {                                                                                              \
        if (fake.on) {                                                                             \
            keep(op_name, op, sizeof *op, batch);                                                  \
            return;                                                                                \
        }                                                                                          \
        count_run();                                                                               \
        look_at_##name(op);                                                                        \
        fake.ops.name(d, op);                                                                      \
    }
#define SLOT(name, op_name, batch)                                                                 \
    static void look_at_##name(const struct rondo_op_##name *op)                                   \
    {                                                                                              \
        (void)op;                                                                                  \
    }                                                                                              \
    WATCHED_SLOT(name, op_name, batch)
SLOT(embedding, RONDO_OP_EMBEDDING, op->batch)
SLOT(quantize, RONDO_OP_QUANTIZE, NULL)
SLOT(gemm, RONDO_OP_GEMM, NULL)
SLOT(grouped_gemm, RONDO_OP_GROUPED_GEMM, NULL)
SLOT(qkv, RONDO_OP_QKV, op->batch)
SLOT(softmax_attention, RONDO_OP_SOFTMAX_ATTENTION, op->batch)
SLOT(group_norm_gate, RONDO_OP_GROUP_NORM_GATE, NULL)
SLOT(router, RONDO_OP_ROUTER, NULL)
SLOT(gemm_router, RONDO_OP_GEMM_ROUTER, NULL)
SLOT(group_tokens, RONDO_OP_GROUP_TOKENS, NULL)
SLOT(swiglu, RONDO_OP_SWIGLU, NULL)
SLOT(combine, RONDO_OP_COMBINE, NULL)
SLOT(argmax, RONDO_OP_ARGMAX, NULL)
WATCHED_SLOT(rmsnorm, RONDO_OP_RMSNORM, NULL)
WATCHED_SLOT(penalize, RONDO_OP_PENALIZE, NULL)
WATCHED_SLOT(candidates, RONDO_OP_CANDIDATES, NULL)

static void run_linear_attention(struct rondo_device *d, const struct rondo_op_linear_attention *op)
{
    if (fake.on) {
        keep(RONDO_OP_LINEAR_ATTENTION, op, sizeof *op, op->batch);
        return;
    }
    count_run();
    fake.ops.linear_attention(d, op);
    if (fake.poisoned && op->cache.state == fake.poisoned)
        ((float *)rondo_tensor_row(&op->out, 2))[5] = NAN;
}

static const struct rondo_ops intercepted = {
    .embedding = run_embedding,
    .rmsnorm = run_rmsnorm,
    .quantize = run_quantize,
    .gemm = run_gemm,
    .grouped_gemm = run_grouped_gemm,
    .qkv = run_qkv,
    .linear_attention = run_linear_attention,
    .softmax_attention = run_softmax_attention,
    .group_norm_gate = run_group_norm_gate,
    .router = run_router,
    .gemm_router = run_gemm_router,
    .group_tokens = run_group_tokens,
    .swiglu = run_swiglu,
    .combine = run_combine,
    .argmax = run_argmax,
    .penalize = run_penalize,
    .candidates = run_candidates,
};

static void write_memory(struct rondo_device *d, void *to, const void *from, size_t size)
{
    EXPECT(!fake.on, "a write while recording");
    fake.write(d, to, from, size);
}

static void read_memory(struct rondo_device *d, void *to, const void *from, size_t size)
{
    EXPECT(!fake.on, "a read while recording");
    fake.reads++;
    fake.read(d, to, from, size);
}

static bool record_begin(struct rondo_device *d)
{
    fake.on = true;
    fake.n_calls = 0;
    return true;
}

static struct rondo_recording *record_end(struct rondo_device *d)
{
    fake.on = false;
    if (fake.broken)
        return NULL;
    struct rondo_recording *recording = malloc(sizeof *recording);
    *recording = (struct rondo_recording){.n = fake.n_calls};
    recording->calls = malloc((size_t)fake.n_calls * sizeof *recording->calls);
    memcpy(recording->calls, fake.calls, (size_t)fake.n_calls * sizeof *recording->calls);
    fake.made++;
    return recording;
}

static bool replay(struct rondo_device *d, struct rondo_recording *recording)
{
    if (fake.moved) {
        fake.moved--;
        return false;
    }
    fake.replaying = true;
    for (int i = 0; i < recording->n; i++) {
        struct rondo_step step = {.op = recording->calls[i].op, .args = recording->calls[i].args};
        const struct rondo_batch *batch = &recording->calls[i].batch;
        if (step.op == RONDO_OP_EMBEDDING)
            step.args.embedding.batch = batch;
        else if (step.op == RONDO_OP_QKV)
            step.args.qkv.batch = batch;
        else if (step.op == RONDO_OP_LINEAR_ATTENTION)
            step.args.linear_attention.batch = batch;
        else if (step.op == RONDO_OP_SOFTMAX_ATTENTION)
            step.args.softmax_attention.batch = batch;
        rondo_step_run(&step, d);
    }
    fake.replaying = false;
    fake.replayed++;
    return true;
}

static void record_release(struct rondo_device *d, struct rondo_recording *recording)
{
    if (!recording)
        return;
    fake.released++;
    free(recording->calls);
    free(recording);
}

static int fake_status(struct rondo_device *d, struct rondo_error *e)
{
    if (fake.fail_after && fake.run >= fake.fail_after)
        return rondo_fail(e, RONDO_FAILED, "fake: the device is gone");
    return RONDO_OK;
}

static void set_recording(bool on)
{
    device->record_begin = on ? record_begin : NULL;
    device->record_end = record_end;
    device->replay = replay;
    device->record_release = record_release;
}

/* ---- recordings ---------------------------------------------------------------------------------- */

static struct rondo_context *make(void)
{
    struct rondo_context_options options = {.mode = RONDO_MODE_BF16,
                                            .max_context = CONTEXT,
                                            .max_sessions = SESSIONS,
                                            .max_batch_tokens = 128};
    struct rondo_context *context;
    MUST(context = rondo_context_create(model, device, &options, &error));
    return context;
}

/* Prompts of different lengths, then decoding with a number of sessions that changes; all logits go to out,
 * [rounds, SESSIONS, V]. */
static void decode(struct rondo_context *context, int rounds, float *out)
{
    struct rondo_session *sessions[SESSIONS];
    struct rondo_run_item items[SESSIONS];
    int32_t tokens[CONTEXT];
    for (int i = 0; i < CONTEXT; i++)
        tokens[i] = (i * 31 + 7) % (int)V;
    for (int s = 0; s < SESSIONS; s++) {
        MUST(sessions[s] = rondo_session_create(context, &error));
        items[s] = (struct rondo_run_item){
            .session = sessions[s], .tokens = tokens + s, .n = (size_t)(s * 3 + 1)};
        MUST(!rondo_context_run(context, &items[s], 1, &error));
    }
    memset(out, 0, (size_t)rounds * SESSIONS * V * sizeof *out);
    for (int round = 0; round < rounds; round++) {
        int n = round % 3 == 0 ? SESSIONS : round % 3 == 1 ? 17 : 1 + round % 4;
        for (int s = 0; s < n; s++)
            items[s] = (struct rondo_run_item){
                .session = sessions[s],
                .tokens = tokens + (round * 5 + s) % CONTEXT,
                .n = 1,
                .logits = s % 2 ? RONDO_LOGITS_NONE : RONDO_LOGITS_LAST,
                .out = out + (size_t)(round * SESSIONS + s) * V,
            };
        MUST(!rondo_context_run(context, items, (size_t)n, &error));
    }
    for (int s = 0; s < SESSIONS; s++)
        rondo_session_destroy(sessions[s]);
}

static void test_recordings(void)
{
    enum { ROUNDS = 16 };
    size_t size = (size_t)ROUNDS * SESSIONS * V * sizeof(float);
    float *plain = malloc(size), *replayed = malloc(size);
    struct rondo_context *context = make();
    set_recording(false);
    decode(context, ROUNDS, plain);
    EXPECT(!fake.made, "recorded without being able to");

    set_recording(true);
    decode(context, ROUNDS, replayed);
    EXPECT(!memcmp(plain, replayed, size), "replayed decoding gives other bits");
    EXPECT(fake.made >= 3 && fake.replayed >= 6, "%d recordings, %d replays", fake.made,
           fake.replayed);
    EXPECT(context->classes[0].rows == 1, "the class of a single token has %d rows",
           context->classes[0].rows);
    bool padded = false;
    for (int32_t i = 0; i < context->n_classes; i++)
        padded |= context->classes[i].rows == 20;
    EXPECT(padded, "17 sessions were not padded to 20");

    int made = fake.made;
    fake.moved = 2;
    decode(context, ROUNDS, replayed);
    EXPECT(!memcmp(plain, replayed, size), "after a recording that does not hold any more");
    EXPECT(fake.made >= made + 2 && fake.released == 2, "%d made, %d released", fake.made - made,
           fake.released);
    made = fake.made;
    fake.broken = true;
    rondo_context_destroy(context);
    EXPECT(fake.released == made, "%d of %d recordings released", fake.released, made);

    context = make();
    decode(context, ROUNDS, replayed);
    EXPECT(!memcmp(plain, replayed, size), "where nothing can be recorded");
    EXPECT(context->no_recordings && fake.made == made, "no recording can be made");
    fake.broken = false;
    rondo_context_destroy(context);
    free(plain);
    free(replayed);
}

/* ---- tails: what is chosen from logits --------------------------------------------------------- */

/* What the sessions of a round want. */
enum want {
    GREEDY,
    SAMPLED,
    PENALIZED,
    MIXED,  /* one after the other of those; some histories have more ids than there is room for */
    READ,   /* as GREEDY; the last one's logits too */
    PARTLY, /* as SAMPLED; nothing of the first one */
    WANTS
};

enum { LAYERS = RONDO_RUN_LAYERS, LOGITS = RONDO_RUN_LOGITS, PICKS = RONDO_RUN_CANDIDATES };

/* Parts of a round that are recorded as one; the others have no second recording. */
static const unsigned recorded_parts[WANTS][2] = {
    [GREEDY] = {LAYERS | LOGITS | RONDO_RUN_BEST},
    [SAMPLED] = {LAYERS | LOGITS | PICKS},
    [PENALIZED] = {LAYERS, LOGITS | RONDO_RUN_PENALIZE | PICKS},
    [MIXED] = {LAYERS, LOGITS | RONDO_RUN_BEST | RONDO_RUN_PENALIZE | PICKS},
    [READ] = {LAYERS},
    [PARTLY] = {LAYERS},
};

enum { TAIL_ROUNDS = 4, PADDED_TO = 20 };

/* Sessions of a round: all of a class, the one that is recorded with the fewest. Of three the numbers of seen ids
 * grow. */
static int sessions_of(int round, enum want want)
{
    static const int sessions[TAIL_ROUNDS] = {18, 17, 20, 19};
    return want == PENALIZED ? 3 : sessions[round];
}

/* What came of all rounds, and what each took. */
struct outcome {
    int32_t ids[TAIL_ROUNDS][WANTS][SESSIONS];
    int called[TAIL_ROUNDS][WANTS], reads[TAIL_ROUNDS][WANTS];
    uint64_t rows_read;
    float *logits; /* [TAIL_ROUNDS, V] of READ */
};

/* What nothing has written is neither a row nor a number of ids. */
static void spoil(struct rondo_context *context)
{
    size_t T = (size_t)context->settings.max_batch_tokens;
    size_t size = rondo_run_bytes(&context->settings),
           sampling = rondo_sampling_bytes(&context->settings);
    memset(context->run.packed, 0x7f, size);
    memset(context->batch_memory, 0x7f, size);
    memset(context->run.logit_row, 0x7f, T * sizeof *context->run.logit_row);
    memset(context->sampling.rows, 0x7f, sampling);
    memset(context->sampling.memory, 0x7f, sampling);
}

static struct rondo_sampler *sampler_of(enum want want, int s, struct rondo_sampler *const *plain,
                                        struct rondo_sampler *const *penalizing)
{
    switch (want) {
    case SAMPLED:
    case PARTLY:
        return plain[s];
    case PENALIZED:
        return penalizing[s];
    case MIXED:
        return s % 3 == 0 ? NULL : s % 3 == 1 ? plain[s] : penalizing[s];
    default:
        return NULL;
    }
}

/* All wants in turn, so that runs of one class that want different things alternate. */
static void choose(struct rondo_context *context, struct outcome *out)
{
    struct rondo_session *sessions[SESSIONS];
    struct rondo_sampler *plain[SESSIONS], *penalizing[SESSIONS];
    struct rondo_run_item items[SESSIONS];
    int32_t tokens[CONTEXT];
    memset(out->ids, 0xff, sizeof out->ids);
    context->sampling.seen_capacity = 40;
    for (int i = 0; i < CONTEXT; i++)
        tokens[i] = (i * 31 + 7) % (int)V;
    for (int s = 0; s < SESSIONS; s++) {
        struct rondo_sampler_options options = {
            .temperature = 2, .top_k = 30, .top_p = 1, .repetition_penalty = 1, .seed = 5};
        options.seed += (uint64_t)s;
        MUST(plain[s] = rondo_sampler_create((int32_t)V, &options, &error));
        options.repetition_penalty = 3;
        MUST(penalizing[s] = rondo_sampler_create((int32_t)V, &options, &error));
        MUST(sessions[s] = rondo_session_create(context, &error));
        items[s] = (struct rondo_run_item){
            .session = sessions[s], .tokens = tokens + s, .n = (size_t)(s * 3 + 1)};
        MUST(!rondo_context_run(context, &items[s], 1, &error));
    }
    for (int turn = 0; turn < TAIL_ROUNDS * WANTS; turn++) {
        int round = turn / WANTS;
        enum want want = (enum want)(turn % WANTS);
        int n = sessions_of(round, want);
        for (int s = 0; s < n; s++)
            items[s] = (struct rondo_run_item){
                .session = sessions[s],
                .tokens = tokens + (turn * 5 + s) % CONTEXT,
                .n = 1,
                .logits = want == PARTLY && s == 0 ? RONDO_LOGITS_NONE : RONDO_LOGITS_LAST,
                .best = &out->ids[round][want][s],
                .out = want == READ && s == n - 1 ? out->logits + (size_t)round * V : NULL,
                .sampler = want == PARTLY && s == 0 ? NULL : sampler_of(want, s, plain, penalizing),
            };
        spoil(context);
        int called = fake.called, reads = fake.reads;
        MUST(!rondo_context_run(context, items, (size_t)n, &error));
        out->called[round][want] = fake.called - called;
        out->reads[round][want] = fake.reads - reads;
    }
    out->rows_read = 0;
    for (int s = 0; s < SESSIONS; s++) {
        out->rows_read +=
            rondo_sampler_rows_read(plain[s]) + rondo_sampler_rows_read(penalizing[s]);
        rondo_sampler_destroy(plain[s]);
        rondo_sampler_destroy(penalizing[s]);
        rondo_session_destroy(sessions[s]);
    }
}

/* What the recording of these parts of a class holds: its ops; 0 when there is none. */
static int recorded_ops(const struct rondo_context *context, int32_t rows, unsigned parts)
{
    for (int32_t i = 0; i < context->n_classes; i++) {
        const struct rondo_decode_class *class = &context->classes[i];
        if (class->rows == rows && class->parts == parts)
            return class->recording ? class->recording->n : 0;
    }
    return 0;
}

static void expect_recorded(const struct rondo_context *context)
{
    int n = 0;
    for (int want = 0; want < WANTS; want++) {
        int32_t rows = want == PENALIZED ? sessions_of(0, want) : PADDED_TO;
        for (int i = 0; i < 2 && recorded_parts[want][i]; i++)
            EXPECT(recorded_ops(context, rows, recorded_parts[want][i]),
                   "parts %#x of %d rows are not recorded", recorded_parts[want][i], rows);
    }
    for (int32_t i = 0; i < context->n_classes; i++)
        n += context->classes[i].recording != NULL;
    EXPECT(n == 6, "%d recordings: classes do not share their layers", n);
    int layers = recorded_ops(context, PADDED_TO, LAYERS),
        greedy = recorded_ops(context, PADDED_TO, LAYERS | LOGITS | RONDO_RUN_BEST);
    EXPECT(greedy == layers + 3, "the tail of %d ops is not norm, head and argmax",
           greedy - layers);
}

static void test_tails(void)
{
    struct outcome *plain = calloc(1, sizeof *plain), *replayed = calloc(1, sizeof *replayed);
    size_t logits = TAIL_ROUNDS * V * sizeof(float);
    plain->logits = calloc(1, logits);
    replayed->logits = calloc(1, logits);
    set_recording(false);
    struct rondo_context *context = make();
    choose(context, plain);
    rondo_context_destroy(context);
    set_recording(true);
    context = make();
    choose(context, replayed);
    expect_recorded(context);

    for (int round = 0; round < TAIL_ROUNDS; round++) {
        for (int want = 0; want < WANTS; want++) {
            int n = sessions_of(round, (enum want)want);
            int by_call = want == READ || want == PARTLY ? 3 : 0; /* the tail */
            EXPECT(!memcmp(plain->ids[round][want], replayed->ids[round][want],
                           (size_t)n * sizeof(int32_t)),
                   "round %d of want %d gives other ids", round, want);
            EXPECT(round < 2 || replayed->called[round][want] == by_call,
                   "round %d of want %d: %d ops were called, not recorded", round, want,
                   replayed->called[round][want]);
            EXPECT(replayed->reads[round][want] == plain->reads[round][want],
                   "round %d of want %d: %d reads, %d without recordings", round, want,
                   replayed->reads[round][want], plain->reads[round][want]);
        }
        EXPECT(replayed->reads[round][GREEDY] == 1 && replayed->reads[round][SAMPLED] == 1 &&
                   replayed->reads[round][PENALIZED] == 1,
               "round %d: more is read than what was chosen", round);
    }
    EXPECT(!memcmp(plain->logits, replayed->logits, logits), "logits are other bits");
    EXPECT(replayed->rows_read == plain->rows_read && plain->rows_read > 0, "%d rows read, %d",
           (int)replayed->rows_read, (int)plain->rows_read);

    fake.moved = 3;
    choose(context, replayed);
    EXPECT(!memcmp(plain->ids, replayed->ids, sizeof plain->ids) && !fake.moved,
           "after recordings that do not hold any more");
    rondo_context_destroy(context);
    context = make();
    fake.broken = true;
    choose(context, replayed);
    EXPECT(!memcmp(plain->ids, replayed->ids, sizeof plain->ids), "where nothing can be recorded");
    fake.broken = false;
    rondo_context_destroy(context);
    free(plain->logits);
    free(replayed->logits);
    free(plain);
    free(replayed);
}

/* More rows than a slice of logits has: of these only the layers are recorded. While steps are timed or
 * checked, nothing is. */
static void test_long_tails(void)
{
    enum { MANY = RONDO_LOGIT_ROWS + 1, LONG_ROUNDS = 5 };
    struct rondo_context_options options = {
        .mode = RONDO_MODE_BF16, .max_context = 8, .max_sessions = MANY, .max_batch_tokens = 128};
    struct rondo_run_item items[MANY];
    int32_t ids[LONG_ROUNDS][MANY], wanted[LONG_ROUNDS][MANY], tokens[MANY];
    for (int s = 0; s < MANY; s++)
        tokens[s] = s * 7 % (int)V;
    for (int on = 0; on < 2; on++) {
        struct rondo_context *context;
        set_recording(on);
        MUST(context = rondo_context_create(model, device, &options, &error));
        for (int s = 0; s < MANY; s++)
            items[s] = (struct rondo_run_item){
                .session = rondo_session_create(context, &error), .tokens = &tokens[s], .n = 1};
        for (int round = 0; round < LONG_ROUNDS; round++) {
            for (int s = 0; s < MANY; s++) {
                items[s].logits = RONDO_LOGITS_LAST;
                items[s].best = on ? &ids[round][s] : &wanted[round][s];
            }
            spoil(context);
            rondo_context_timing(context, round == 3);
            MUST(!rondo_context_check_steps(context, round == 4, &error));
            int called = fake.called;
            MUST(!rondo_context_run(context, items, MANY, &error));
            called = fake.called - called;
            EXPECT(!on || round != 2 || called == 6, "%d ops of two tails were called", called);
            EXPECT(!on || round < 3 || called > 20, "%d ops were timed or checked", called);
        }
        EXPECT(!on || (context->n_classes == 1 && context->classes[0].parts == LAYERS),
               "more is recorded than layers");
        rondo_context_destroy(context);
    }
    EXPECT(!memcmp(ids, wanted, sizeof ids), "other ids");
}

/* ---- failures ------------------------------------------------------------------------------------ */

static void test_failures_of_runs(void)
{
    int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8}, parents[2] = {-1, 0}, node = 0;
    float *out = malloc(8 * V * sizeof *out);
    struct rondo_context *context = make();
    struct rondo_session *session, *other;
    MUST(session = rondo_session_create(context, &error));
    MUST(other = rondo_session_create(context, &error));
    struct rondo_run_item item = {session, tokens, 8, RONDO_LOGITS_LAST, out, NULL, NULL};
    MUST(!rondo_context_run(context, &item, 1, &error));
    item.session = other;
    MUST(!rondo_context_run(context, &item, 1, &error));

    fake.fail_after = fake.run + 5;
    EXPECT(rondo_context_run(context, &item, 1, &error) == RONDO_FAILED &&
               strstr(error.message, "the device is gone"),
           "%s", error.message);
    EXPECT(rondo_session_length(other) == 0 && rondo_session_length(session) == 8,
           "%zu and %zu tokens", rondo_session_length(other), rondo_session_length(session));
    EXPECT(rondo_session_draft(session, tokens, parents, 2, out, &error) == RONDO_FAILED, "draft");
    EXPECT(rondo_session_accept(session, &node, 1, &error) == RONDO_USAGE, "no draft to accept");
    scratch_begin();
    const char *path = scratch_path("session");
    EXPECT(rondo_session_save(session, path, &error) == RONDO_FAILED, "save");
    EXPECT(rondo_session_load(session, path, &error) == RONDO_FAILED, "nothing was saved");
    EXPECT(!rondo_context_create(model, device, NULL, &error) &&
               strstr(error.message, "the device is gone"),
           "%s", error.message);
    scratch_end();
    fake.fail_after = 0;
    rondo_context_destroy(context);
    free(out);
}

static void test_checks(void)
{
    int32_t tokens[4] = {1, 2, 3, 4};
    float *out = malloc(V * sizeof *out);
    struct rondo_context *context = make();
    struct rondo_session *session;
    MUST(session = rondo_session_create(context, &error));
    MUST(!rondo_context_check_steps(context, true, &error));
    struct rondo_run_item item = {session, tokens, 4, RONDO_LOGITS_LAST, out, NULL, NULL};
    EXPECT(!rondo_context_run(context, &item, 1, &error), "%s", error.message);
    int32_t layer = 0;
    while (!context->cache.linear[layer].state || layer == 0)
        layer++;
    char want[128];
    fake.poisoned = context->cache.linear[layer].state;
    snprintf(want, sizeof want,
             "linear_attention of layer %d: attn_out[2, 5] is NaN (token 3 at position 6,", layer);
    EXPECT(rondo_context_run(context, &item, 1, &error) == RONDO_FAILED &&
               strstr(error.message, want),
           "%s", error.message);
    EXPECT(rondo_session_length(session) == 0, "%zu tokens", rondo_session_length(session));
    fake.poisoned = NULL;
    EXPECT(!rondo_context_run(context, &item, 1, &error), "%s", error.message);
    MUST(!rondo_context_check_steps(context, false, &error));
    fake.poisoned = context->cache.linear[layer].state;
    EXPECT(!rondo_context_run(context, &item, 1, &error), "%s", error.message);
    fake.poisoned = NULL;
    rondo_context_destroy(context);
    free(out);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: runs FIXTURES\n");
        return 2;
    }
    char directory[600];
    snprintf(directory, sizeof directory, "%.500s/base-bf16", argv[1]);
    struct rondo_device_options options = {.threads = 2};
    MUST(device = rondo_device_open("cpu", &options, &error));
    MUST(model = rondo_model_open(directory, NULL, &error));
    V = (size_t)model->config.vocab_size;
    fake.calls = malloc(MOST_OPS * sizeof *fake.calls);
    fake.ops = device->ops;
    device->ops = intercepted;
    device->ops.accept = fake.ops.accept;
    fake.write = device->write;
    fake.read = device->read;
    device->write = write_memory;
    device->read = read_memory;
    device->status = fake_status;
    test_recordings();
    test_tails();
    test_long_tails();
    set_recording(false);
    test_failures_of_runs();
    test_checks();
    rondo_model_close(model);
    rondo_device_close(device);
    free(fake.calls);
    return test_result();
}
