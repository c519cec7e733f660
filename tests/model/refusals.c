/* Wrong calls, full pools and damaged session files are refused with a message, and change nothing. */
#include "tests/model/expect.h"
#include "tests/model/properties.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* `call` uses `error` and must give `wanted` with one line of message. */
#define REFUSED(wanted, call)                                                                      \
    do {                                                                                           \
        struct rondo_error error = {0};                                                            \
        int status = (call);                                                                       \
        EXPECT(status == (wanted), "got %d: %s", status, error.message);                           \
        EXPECT(error.status == (wanted), "status in the error is %d", error.status);               \
        EXPECT(error.message[0] && !strchr(error.message, '\n'), "message \"%s\"", error.message); \
    } while (0)

/* The session still holds these tokens, and goes on as a fresh one would. */
static void check_intact(struct lab *lab, struct rondo_context *context,
                         struct rondo_session *session, const int32_t *tokens, size_t n,
                         const char *what)
{
    int32_t more[LAB_CONTEXT];
    EXPECT(rondo_session_length(session) == n, "%s: length %zu, want %zu", what,
           rondo_session_length(session), n);
    EXPECT(!memcmp(rondo_session_tokens(session), tokens, n * sizeof *tokens), "%s: tokens", what);
    memcpy(more, tokens, n * sizeof *more);
    more[n] = 1;
    float *got = malloc(lab->vocab_size * sizeof *got), *want = lab_logits(lab, more, n + 1);
    struct rondo_session *copy;
    MUST(lab, copy = rondo_session_fork(session, &error));
    lab_run(lab, context, copy, more + n, 1, got);
    lab_compare(lab, what, got, want + n * lab->vocab_size, 1);
    rondo_session_destroy(copy);
    free(want);
    free(got);
}

static void refuse_options(struct lab *lab)
{
    struct rondo_error error = {0};
    for (int field = 0; field < 7; field++) {
        struct rondo_context_options options = lab_options(lab);
        int32_t *fields[] = {&options.max_context, &options.max_sessions, &options.max_batch_tokens,
                             &options.max_draft};
        if (field < 4)
            *fields[field] = -5;
        else if (field == 4)
            options.mode = (enum rondo_mode)77;
        else if (field == 5)
            options.kv_tokens = -1;
        else
            options.kv = (enum rondo_kv)77;
        struct rondo_context *context =
            rondo_context_create(lab->model, lab->device, &options, &error);
        EXPECT(!context && error.message[0], "option %d was accepted", field);
        rondo_context_destroy(context);
    }
    struct rondo_context_options options = lab_options(lab);
    options.max_context = rondo_model_config(lab->model)->max_position_embeddings + 1;
    struct rondo_context *context = rondo_context_create(lab->model, lab->device, &options, &error);
    EXPECT(!context && error.message[0], "a context longer than the model's was accepted");
    rondo_context_destroy(context);
    options = lab_options(lab);
    options.max_sessions = 1 << 30;
    context = rondo_context_create(lab->model, lab->device, &options, &error);
    EXPECT(!context && error.message[0], "2^30 sessions were accepted");
    rondo_context_destroy(context);
}

static void refuse_devices(void)
{
    struct rondo_error error = {0};
    EXPECT(!rondo_device_open("toaster", NULL, &error) && error.status == RONDO_NO_DEVICE, "%s",
           error.message);
    EXPECT(!rondo_device_open("cpu:toaster", NULL, &error) && error.message[0], "%s",
           error.message);
    struct rondo_device_options options = {.threads = -1};
    EXPECT(!rondo_device_open("cpu", &options, &error) && error.message[0], "%s", error.message);
}

static int run_one(struct rondo_context *context, struct rondo_session *session,
                   const int32_t *tokens, size_t n, enum rondo_logits logits, float *out,
                   struct rondo_error *error)
{
    struct rondo_run_item item = {session, tokens, n, logits, out, NULL, NULL};
    return rondo_context_run(context, &item, 1, error);
}

static void refuse_runs(struct lab *lab, struct rondo_context *context,
                        struct rondo_session *session, const int32_t *tokens, size_t n)
{
    float *out = malloc(LAB_CONTEXT * lab->vocab_size * sizeof *out);
    int32_t many[LAB_CONTEXT + 1] = {0}, vocab_size = (int32_t)lab->vocab_size;
    int32_t below[] = {1, -1}, above[] = {1, vocab_size};
    REFUSED(RONDO_USAGE, run_one(context, session, below, 2, RONDO_LOGITS_NONE, NULL, &error));
    REFUSED(RONDO_USAGE, run_one(context, session, above, 2, RONDO_LOGITS_NONE, NULL, &error));
    REFUSED(RONDO_USAGE, run_one(context, session, many, 2, RONDO_LOGITS_ALL, NULL, &error));
    REFUSED(RONDO_USAGE, run_one(context, session, NULL, 2, RONDO_LOGITS_ALL, out, &error));
    REFUSED(RONDO_USAGE, run_one(context, NULL, many, 2, RONDO_LOGITS_ALL, out, &error));
    REFUSED(RONDO_USAGE, run_one(context, session, many, 2, (enum rondo_logits)9, out, &error));
    REFUSED(RONDO_FAILED,
            run_one(context, session, many, LAB_CONTEXT - n + 1, RONDO_LOGITS_NONE, NULL, &error));
    REFUSED(RONDO_FAILED,
            run_one(context, session, many, SIZE_MAX / 2, RONDO_LOGITS_NONE, NULL, &error));
    struct rondo_run_item twice[2] = {{session, many, 1, RONDO_LOGITS_NONE, NULL, NULL, NULL},
                                      {session, many, 1, RONDO_LOGITS_NONE, NULL, NULL, NULL}};
    REFUSED(RONDO_USAGE, rondo_context_run(context, twice, 2, &error));
    REFUSED(RONDO_USAGE, run_one(lab->plain, session, many, 1, RONDO_LOGITS_NONE, NULL, &error));
    MUST(lab, !run_one(context, session, NULL, 0, RONDO_LOGITS_NONE, NULL, &error));
    MUST(lab, !rondo_context_run(context, NULL, 0, &error));
    struct rondo_sampler_options sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    struct rondo_sampler *sampler = rondo_sampler_create(vocab_size, &sampling, NULL),
                         *other = rondo_sampler_create(vocab_size + 1, &sampling, NULL);
    struct rondo_run_item item = {session, many, 2, RONDO_LOGITS_ALL, out, many, sampler};
    REFUSED(RONDO_USAGE, rondo_context_run(context, &item, 1, &error)); /* of all rows */
    item.logits = RONDO_LOGITS_LAST;
    item.best = NULL;
    REFUSED(RONDO_USAGE, rondo_context_run(context, &item, 1, &error)); /* nowhere to go */
    item.best = many;
    item.sampler = other;
    REFUSED(RONDO_USAGE, rondo_context_run(context, &item, 1, &error));
    REFUSED(RONDO_USAGE, rondo_session_sync_item(&item, NULL, &error));
    item.sampler = NULL;
    item.logits = RONDO_LOGITS_ALL;
    REFUSED(RONDO_USAGE, rondo_session_sync_item(&item, NULL, &error));
    rondo_sampler_destroy(sampler);
    rondo_sampler_destroy(other);
    REFUSED(RONDO_USAGE, rondo_session_sync(session, many, 0, out, NULL, &error));
    REFUSED(RONDO_USAGE, rondo_session_sync(session, above, 2, out, NULL, &error));
    REFUSED(RONDO_FAILED, rondo_session_sync(session, many, LAB_CONTEXT + 1, out, NULL, &error));
    check_intact(lab, context, session, tokens, n, "after refused runs");
    free(out);
}

static void refuse_drafts(struct lab *lab, struct rondo_context *context,
                          struct rondo_session *session, const int32_t *tokens, size_t n)
{
    float *out = malloc(65 * lab->vocab_size * sizeof *out);
    int32_t draft[65] = {0}, parents[65], later[] = {-1, 1}, low[] = {-2},
            outside[] = {(int32_t)lab->vocab_size};
    for (int i = 0; i < 65; i++)
        parents[i] = i - 1;
    REFUSED(RONDO_USAGE, rondo_session_draft(session, draft, later, 2, out, &error));
    REFUSED(RONDO_USAGE, rondo_session_draft(session, draft, low, 1, out, &error));
    REFUSED(RONDO_USAGE, rondo_session_draft(session, outside, parents, 1, out, &error));
    REFUSED(RONDO_USAGE, rondo_session_draft(session, draft, parents, 65, out, &error));
    int32_t tree[] = {-1, 0, 0, 2}, second[] = {1}, skip[] = {0, 3}, beyond[] = {0, 4},
            good[] = {0, 2, 3};
    REFUSED(RONDO_USAGE, rondo_session_accept(session, good, 3, &error)); /* there is no draft */
    MUST(lab, !rondo_session_draft(session, draft, tree, 4, out, &error));
    REFUSED(RONDO_USAGE, rondo_session_accept(session, second, 1, &error));
    REFUSED(RONDO_USAGE, rondo_session_accept(session, skip, 2, &error));
    REFUSED(RONDO_USAGE, rondo_session_accept(session, beyond, 2, &error));
    check_intact(lab, context, session, tokens, n, "after refused drafts");
    MUST(lab, !rondo_session_accept(session, good, 0, &error));
    check_intact(lab, context, session, tokens, n, "after dropped drafts");
    free(out);
}

static void refuse_when_full(struct lab *lab)
{
    int32_t tokens[130];
    lab_random_tokens(lab, tokens, 130);
    struct rondo_context_options options = lab_options(lab);
    options.max_sessions = 3;
    options.kv_tokens = 256; /* 4 pages: 2 and 1 in use, 1 to check with */
    struct rondo_context *context = lab_context(lab, &options);
    struct rondo_session *sessions[3];
    for (int i = 0; i < 2; i++)
        sessions[i] = lab_session(lab, context);
    lab_run(lab, context, sessions[0], tokens, 128, NULL);
    lab_run(lab, context, sessions[1], tokens, 60, NULL);
    REFUSED(RONDO_FAILED,
            run_one(context, sessions[1], tokens, 70, RONDO_LOGITS_NONE, NULL, &error));
    check_intact(lab, context, sessions[1], tokens, 60, "after a run that found no page");
    sessions[2] = lab_session(lab, context);
    struct rondo_error error = {0};
    EXPECT(!rondo_session_create(context, &error) && error.message[0], "a fourth session of three");
    EXPECT(!rondo_session_fork(sessions[0], &error) && error.message[0],
           "a fourth session of three");
    rondo_session_destroy(sessions[2]);
    rondo_session_destroy(sessions[0]);
    lab_run(lab, context, sessions[1], tokens + 60, 70, NULL);
    check_intact(lab, context, sessions[1], tokens, 130, "after pages came free");
    rondo_session_destroy(sessions[1]);
    rondo_context_destroy(context);
}

static long read_all(const char *path, unsigned char **data)
{
    FILE *file = fopen(path, "rb");
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    *data = malloc((size_t)size + 1);
    EXPECT(fread(*data, 1, (size_t)size, file) == (size_t)size, "%s", path);
    fclose(file);
    return size;
}

static void write_all(const char *path, const unsigned char *data, long size)
{
    FILE *file = fopen(path, "wb");
    EXPECT(fwrite(data, 1, (size_t)size, file) == (size_t)size, "%s", path);
    fclose(file);
}

/* Truncated at, or with a bit turned at, random places; and longer than it should be. */
static void refuse_damaged_files(struct lab *lab, struct rondo_session *session, const char *path)
{
    unsigned char *data;
    long size = read_all(path, &data);
    for (int i = 0; i < 40; i++) {
        long place = i < 20 ? i * 5 : (long)lab_random(lab, (size_t)size);
        place = place < size ? place : size - 1;
        write_all(path, data, place);
        REFUSED(RONDO_FAILED, rondo_session_load(session, path, &error));
        unsigned char bit = (unsigned char)(1u << lab_random(lab, 8));
        data[place] ^= bit;
        write_all(path, data, size);
        REFUSED(RONDO_FAILED, rondo_session_load(session, path, &error));
        data[place] ^= bit;
    }
    data[size] = 0;
    write_all(path, data, size + 1);
    REFUSED(RONDO_FAILED, rondo_session_load(session, path, &error));
    write_all(path, data, size);
    free(data);
}

/* A file of another mode, and of a model with other weights: the same directory with another decay. */
static void refuse_foreign_files(struct lab *lab, const char *path)
{
    struct rondo_context_options options = lab_options(lab);
    options.mode = lab->mode == RONDO_MODE_F32 ? RONDO_MODE_BF16 : RONDO_MODE_F32;
    struct rondo_context *context = lab_context(lab, &options);
    struct rondo_session *session = lab_session(lab, context);
    REFUSED(RONDO_FAILED, rondo_session_load(session, path, &error));
    EXPECT(rondo_session_length(session) == 0, "%zu", rondo_session_length(session));
    rondo_session_destroy(session);
    rondo_context_destroy(context);

    options = lab_options(lab);
    options.kv = lab->kv == RONDO_KV_FP8 ? RONDO_KV_AUTO : RONDO_KV_FP8;
    context = lab_context(lab, &options);
    session = lab_session(lab, context);
    REFUSED(RONDO_FAILED, rondo_session_load(session, path, &error));
    rondo_session_destroy(session);
    rondo_context_destroy(context);

    options = lab_options(lab);
    options.max_context = 64;
    context = lab_context(lab, &options);
    session = lab_session(lab, context);
    REFUSED(RONDO_FAILED, rondo_session_load(session, path, &error)); /* 100 tokens */
    rondo_session_destroy(session);
    rondo_context_destroy(context);

    struct rondo_model *model, *own = lab->model;
    struct rondo_model_options model_options = {.decay_offset =
                                                    !rondo_model_config(own)->decay_offset};
    MUST(lab, model = rondo_model_open(rondo_model_directory(own), &model_options, &error));
    EXPECT(rondo_model_hash(model) != rondo_model_hash(own),
           "the hash does not depend on decay_offset");
    lab->model = model;
    options = lab_options(lab);
    context = lab_context(lab, &options);
    session = lab_session(lab, context);
    REFUSED(RONDO_FAILED, rondo_session_load(session, path, &error));
    rondo_session_destroy(session);
    rondo_context_destroy(context);
    lab->model = own;
    rondo_model_close(model);
}

static void refuse_files(struct lab *lab, struct rondo_context *context,
                         struct rondo_session *session, const int32_t *tokens, size_t n)
{
    char path[] = "/tmp/rondo-test-session-XXXXXX";
    int descriptor = mkstemp(path);
    EXPECT(descriptor >= 0, "mkstemp");
    close(descriptor);
    MUST(lab, !rondo_session_save(session, path, &error));
    refuse_damaged_files(lab, session, path);
    REFUSED(RONDO_FAILED, rondo_session_load(session, "/nonexistent/file", &error));
    REFUSED(RONDO_FAILED, rondo_session_load(session, "/tmp", &error));
    REFUSED(RONDO_FAILED, rondo_session_save(session, "/nonexistent/file", &error));
    check_intact(lab, context, session, tokens, n, "after refused files");
    refuse_foreign_files(lab, path);
    MUST(lab, !rondo_session_load(session, path, &error));
    check_intact(lab, context, session, tokens, n, "after its own file");
    EXPECT(!unlink(path), "%s", path);
}

void property_refusals(struct lab *lab)
{
    int32_t tokens[100];
    lab_random_tokens(lab, tokens, 100);
    struct rondo_context_options options = lab_options(lab);
    struct rondo_context *context = lab_context(lab, &options);
    struct rondo_session *session = lab_session(lab, context);
    lab_run(lab, context, session, tokens, 100, NULL);
    refuse_devices();
    refuse_options(lab);
    refuse_runs(lab, context, session, tokens, 100);
    refuse_drafts(lab, context, session, tokens, 100);
    refuse_files(lab, context, session, tokens, 100);
    refuse_when_full(lab);
    rondo_session_destroy(session);
    rondo_context_destroy(context);
}
