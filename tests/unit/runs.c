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
    struct rondo_ops ops; /* of the CPU */
    bool on, broken;      /* record; recordings can not be made */
    struct call *calls;
    int n_calls;
    int made, released, replayed,
        moved;            /* recordings; replays; replays that are refused, still to come */
    int run;              /* ops that were run */
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

#define SLOT(name, op_name, batch)                                                                 \
    static void run_##name(struct rondo_device *d, const struct rondo_op_##name *op)               \
    {                                                                                              \
        if (fake.on) {                                                                             \
            keep(op_name, op, sizeof *op, batch);                                                  \
            return;                                                                                \
        }                                                                                          \
        fake.run++;                                                                                \
        fake.ops.name(d, op);                                                                      \
    }
SLOT(embedding, RONDO_OP_EMBEDDING, op->batch)
SLOT(rmsnorm, RONDO_OP_RMSNORM, NULL)
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

static void run_linear_attention(struct rondo_device *d, const struct rondo_op_linear_attention *op)
{
    if (fake.on) {
        keep(RONDO_OP_LINEAR_ATTENTION, op, sizeof *op, op->batch);
        return;
    }
    fake.run++;
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
};

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
    device->status = fake_status;
    test_recordings();
    set_recording(false);
    test_failures_of_runs();
    test_checks();
    rondo_model_close(model);
    rondo_device_close(device);
    free(fake.calls);
    return test_result();
}
