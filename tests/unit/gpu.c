/* A GPU backend on its host side, under emulation: listing and opening with what goes wrong there, memory and its
 * staging, failures in the middle of a run, running out of memory, recordings, sampling, several devices at once.
 *
 *     gpu FIXTURES */
#include "core/context.h"
#include "core/error.h"
#include "scratch.h"
#include "test.h"

#include <simt.h>
#include <stdlib.h>
#include <string.h>

static struct rondo_error error;
static char models[500];

static struct rondo_device *open_device(const char *name)
{
    struct rondo_device *device;
    MUST(device = rondo_device_open(name, NULL, &error));
    return device;
}

static struct rondo_model *open_model(const char *name)
{
    char directory[600];
    struct rondo_model *model;
    snprintf(directory, sizeof directory, "%s/%s", models, name);
    MUST(model = rondo_model_open(directory, NULL, &error));
    return model;
}

/* ---- listing and opening --------------------------------------------------------------------------- */

static void reason_of(char *text, size_t size)
{
    struct rondo_backend_info backends[8];
    size_t n = rondo_backend_list(backends, 8);
    text[0] = '\0';
    for (size_t i = 0; i < n && i < 8; i++)
        if (!strcmp(backends[i].name, "simt"))
            snprintf(text, size, "%zu %s", backends[i].n_devices, backends[i].reason);
}

static void expect_none(const char *what, const char *reason)
{
    char text[256];
    reason_of(text, sizeof text);
    EXPECT(text[0] == '0' && strstr(text, reason), "%s: %s", what, text);
    EXPECT(!rondo_device_open("simt:0", NULL, &error) && error.status == RONDO_NO_DEVICE &&
               strstr(error.message, reason) && strstr(error.message, "--device cpu"),
           "%s: %d %s", what, error.status, error.message);
    EXPECT(!strchr(error.message, '\n'), "%s", what);
}

static void test_list(void)
{
    char text[256];
    reason_of(text, sizeof text);
    EXPECT(!strcmp(text, "3 "), "%s", text);
    simt_fail_always("cudaGetDeviceCount", cudaErrorInsufficientDriver);
    expect_none("too old", "driver is too old");
    simt_fail_always("cudaDriverGetVersion", cudaErrorInsufficientDriver); /* leaves 0 */
    expect_none("no driver", "there is no GPU driver");
    simt_recover();
    simt_fail_always("cudaGetDeviceCount", cudaErrorNoDevice);
    expect_none("no device", "the driver shows no GPU");
    simt_recover();
    simt_fail_always("cudaGetDeviceCount", cudaErrorSystemNotReady);
    expect_none("not ready", "cudaErrorSystemNotReady");
    simt_recover();

    static const char *const wrong[] = {"simt:3", "simt:x", "simt:0x", "simt:-1",
                                        "simt:00000000009"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        EXPECT(!rondo_device_open(wrong[i], NULL, &error) && error.status == RONDO_NO_DEVICE &&
                   strstr(error.message, "simt:0, simt:1, simt:2"),
               "%s: %s", wrong[i], error.message);
    static const char *const options_of_names[][2] = {
        {"simt:0+cublaslt", "cuBLASLt is for NVIDIA GPUs"}, {"simt:0+x", "want +cublaslt"}};
    for (size_t i = 0; i < 2; i++)
        EXPECT(!rondo_device_open(options_of_names[i][0], NULL, &error) &&
                   error.status == RONDO_USAGE && strstr(error.message, options_of_names[i][1]) &&
                   !strchr(error.message, '\n'),
               "%s: %s", options_of_names[i][0], error.message);
    struct rondo_device *serial = open_device("simt:0+serial");
    rondo_device_close(serial);
    struct rondo_device_options options = {.cpu_mask = "avx2"};
    EXPECT(!rondo_device_open("simt", &options, &error) && error.status == RONDO_USAGE, "%s",
           error.message);
    struct rondo_device *device = open_device("simt");
    EXPECT(strstr(device->description, "(sm_90, 132 SMs") &&
               strstr(device->description, "driver 13."),
           "%s", device->description);
    rondo_device_close(device);
}

/* What fails while a device is being opened is said, and leaves nothing behind. */
static void test_opening_fails(void)
{
    static const char *const calls[] = {"cuDeviceGet",
                                        "cuDevicePrimaryCtxRetain",
                                        "cudaGetDriverEntryPointByVersion",
                                        "cuCtxPushCurrent",
                                        "cudaStreamCreateWithFlags",
                                        "cudaMallocHost",
                                        "cudaEventCreateWithFlags"};
    size_t before = simt_live_allocations();
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        simt_fail_next(calls[i], cudaErrorDevicesUnavailable);
        EXPECT(!rondo_device_open("simt:1", NULL, &error) && error.status == RONDO_FAILED &&
                   strstr(error.message, "cudaErrorDevicesUnavailable"),
               "%s: %s", calls[i], error.message);
        simt_recover();
    }
    EXPECT(simt_live_allocations() == before, "%zu allocations are left",
           simt_live_allocations() - before);
}

/* ---- memory ---------------------------------------------------------------------------------------- */

static void test_memory(struct rondo_device *device)
{
    enum { SIZE = (24 << 20) + 12345 }; /* three halves of the staging memory */
    unsigned char *from = malloc(SIZE), *to = malloc(SIZE);
    unsigned char *a = device->allocate(device, SIZE), *b = device->allocate(device, SIZE);
    MUST(from && to && a && b);
    EXPECT((uintptr_t)a % 256 == 0 && (uintptr_t)b % 256 == 0, "%p %p", (void *)a, (void *)b);
    device->read(device, to, a, SIZE);
    int any = 0;
    for (int i = 0; i < SIZE; i++)
        any |= to[i];
    EXPECT(!any, "fresh memory is not zero");
    for (int round = 0; round < 2; round++) {
        simt_set_lazy_streams(round);
        for (int i = 0; i < SIZE; i++)
            from[i] = (unsigned char)(i * 7 + i / 4096 + round);
        device->write(device, a, from, SIZE);
        memset(from, 0xee, SIZE); /* write has taken it */
        device->copy(device, b, a, SIZE);
        for (int i = 0; i < 200; i++) { /* small writes are in order, too */
            unsigned char small[3] = {(unsigned char)i, 1, 2};
            device->write(device, b + i, small, sizeof small);
        }
        device->read(device, to, b, SIZE);
        int wrong = 0;
        for (int i = 202; i < SIZE; i++)
            wrong += to[i] != (unsigned char)(i * 7 + i / 4096 + round);
        for (int i = 0; i < 200; i++)
            wrong += to[i] != i;
        EXPECT(!wrong && to[200] == 1 && to[201] == 2, "round %d: %d bytes are wrong", round,
               wrong);
    }
    simt_set_lazy_streams(0);
    struct rondo_device_counts counts;
    EXPECT(rondo_device_count(device, &counts) && counts.submissions > 400 && counts.kernels == 0,
           "%llu copies", (unsigned long long)counts.submissions);
    void *nothing = device->allocate(device, 0);
    EXPECT(nothing, "no bytes at all");
    device->release(device, nothing);
    EXPECT(!device->allocate(device, SIZE_MAX - 5) && !device->allocate(device, (size_t)1 << 45),
           "more than there is");
    EXPECT(!rondo_device_status(device, &error), "running out of memory is no failure: %s",
           error.message);
    device->release(device, a);
    device->release(device, b);
    device->release(device, NULL);
    free(from);
    free(to);
}

/* An error that a program's own calls have left behind is not the device's. */
static void test_errors_of_others(struct rondo_device *device)
{
    float values[4] = {1, 3, 2, 0};
    int32_t best = -1;
    char *memory = device->allocate(device, 256);
    MUST(memory);
    device->write(device, memory, values, sizeof values);
    EXPECT(cudaSetDevice(1000) != cudaSuccess && cudaPeekAtLastError() != cudaSuccess, "no error");
    struct rondo_limits limits = {.tokens = 1};
    MUST(!device->reserve(device, &limits, &error));
    EXPECT(cudaSetDevice(1000) != cudaSuccess, "no error");
    struct rondo_op_argmax op = {.x = rondo_tensor_2d(memory, RONDO_F32, 1, 4, "x"),
                                 .ids = (int32_t *)(void *)(memory + 128)};
    device->ops.argmax(device, &op);
    device->read(device, &best, op.ids, sizeof best);
    EXPECT(!rondo_device_status(device, &error) && best == 1, "%d: %s", best, error.message);
    device->release(device, memory);
}

/* ---- models ---------------------------------------------------------------------------------------- */

static struct rondo_context *make(struct rondo_model *model, struct rondo_device *device)
{
    struct rondo_context_options options = {
        .mode = RONDO_MODE_BF16, .max_context = 128, .max_batch_tokens = 32, .max_sessions = 2};
    return rondo_context_create(model, device, &options, &error);
}

static int decode(struct rondo_session *session, int n, float *out)
{
    int32_t tokens[3] = {1, 2, 3};
    struct rondo_run_item item = {session, tokens, 3, RONDO_LOGITS_LAST, out, NULL, NULL};
    int status = rondo_context_run(session->context, &item, 1, &error);
    for (int i = 0; i < n && !status; i++) {
        item.n = 1;
        status = rondo_context_run(session->context, &item, 1, &error);
    }
    return status;
}

/* What one more token takes, by ops that are called and by a recording: the item is run once so, then until it is
 * replayed. The same ids come of it, by the same kernels. */
static void expect_calls(const char *what, struct rondo_run_item item,
                         struct rondo_sampler *sampler, struct rondo_sampler *same, uint64_t calls)
{
    struct rondo_context *context = item.session->context;
    struct rondo_device_counts before, after;
    uint64_t kernels = 0;
    int32_t ids[4];
    size_t length = rondo_session_length(item.session);
    for (int i = 0; i < 8; i++) {
        int token = i % 4; /* twice the same four */
        int32_t id = -1;
        if (token == 0)
            MUST(rondo_session_truncate(item.session, length) == length);
        context->no_recordings = i < 4;
        item.best = &id;
        item.sampler = i < 4 ? sampler : same;
        rondo_device_count(context->device, &before);
        MUST(!rondo_context_run(context, &item, 1, &error));
        rondo_device_count(context->device, &after);
        if (i < 4)
            ids[token] = id;
        if (i == 3)
            kernels = after.kernels - before.kernels;
        EXPECT(id == ids[token] && id >= 0, "%s: token %d is %d, %d without a recording", what,
               token, id, ids[token]);
    }
    EXPECT(after.submissions - before.submissions == calls, "%s: a token takes %llu calls", what,
           (unsigned long long)(after.submissions - before.submissions));
    EXPECT(after.kernels - before.kernels == kernels && kernels > 20,
           "%s: %llu kernels, %llu without a recording", what,
           (unsigned long long)(after.kernels - before.kernels), (unsigned long long)kernels);
}

/* The batch is written, the recording started, what was chosen is read; a sampler's wishes are written too. Where ids
 * were seen, these are found between the layers' recording and the tail's. */
static void test_calls(struct rondo_session *session)
{
    static const struct {
        const char *what;
        struct rondo_sampler_options options;
        uint64_t calls;
    } ways[] = {
        {"greedy", {.top_p = 1, .repetition_penalty = 1}, 3},
        {"sampled", {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1}, 4},
        {"penalised", {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1.2f}, 5},
        {"greedy again", {.top_p = 1, .repetition_penalty = 1}, 3},
    };
    int32_t V = session->context->model->config.vocab_size, token = 1;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct rondo_sampler *samplers[2];
        for (int j = 0; j < 2; j++)
            MUST(samplers[j] = rondo_sampler_create(V, &ways[i].options, &error));
        struct rondo_run_item item = {
            .session = session, .tokens = &token, .n = 1, .logits = RONDO_LOGITS_LAST};
        expect_calls(ways[i].what, item, samplers[0], samplers[1], ways[i].calls);
        for (int j = 0; j < 2; j++) {
            EXPECT(rondo_sampler_rows_read(samplers[j]) == 0, "%s: it takes the row", ways[i].what);
            rondo_sampler_destroy(samplers[j]);
        }
    }
}

static void test_recordings(struct rondo_model *model, struct rondo_device *device)
{
    size_t V = (size_t)model->config.vocab_size;
    float *plain = malloc(V * sizeof *plain), *recorded = malloc(V * sizeof *recorded);
    struct rondo_context *context, *larger;
    MUST(context = make(model, device));
    context->no_recordings = true;
    struct rondo_session *session = rondo_session_create(context, &error);
    MUST(!decode(session, 6, plain));
    context->no_recordings = false;
    rondo_session_truncate(session, 0);
    MUST(!decode(session, 6, recorded));
    EXPECT(!memcmp(plain, recorded, V * sizeof *plain), "recorded decoding gives other bits");
    EXPECT(context->n_classes == 1 && context->classes[0].recording, "nothing was recorded");
    test_calls(session);

    /* A context that needs more workspace moves it. */
    struct rondo_context_options options = {.mode = RONDO_MODE_BF16, .max_batch_tokens = 2048};
    MUST(larger = rondo_context_create(model, device, &options, &error));
    rondo_session_truncate(session, 0);
    MUST(!decode(session, 6, recorded));
    EXPECT(!memcmp(plain, recorded, V * sizeof *plain), "with the workspace elsewhere");
    rondo_context_destroy(larger);

    /* Where instantiating fails, the ops are called. */
    rondo_run_release(context);
    simt_fail_next("cudaGraphInstantiate", cudaErrorMemoryAllocation);
    rondo_session_truncate(session, 0);
    MUST(!decode(session, 6, recorded));
    EXPECT(!memcmp(plain, recorded, V * sizeof *plain), "without a recording");
    EXPECT(context->no_recordings, "it could not be recorded");
    rondo_context_destroy(context);
    free(plain);
    free(recorded);
}

/* Seventeen sessions, in a class of twenty, take the best, sample and penalise in turn. */
static void test_padding(struct rondo_model *model, struct rondo_device *device)
{
    enum { N = 17, ROUNDS = 4 };
    struct rondo_context_options options = {
        .mode = RONDO_MODE_BF16, .max_context = 64, .max_batch_tokens = 32, .max_sessions = 20};
    int32_t ids[2][ROUNDS][N], token[N];
    for (int on = 0; on < 2; on++) {
        struct rondo_sampler *samplers[N];
        struct rondo_run_item items[N];
        struct rondo_context *context = rondo_context_create(model, device, &options, &error);
        MUST(context);
        context->no_recordings = !on;
        for (int s = 0; s < N; s++) {
            struct rondo_sampler_options way = {.top_p = 1, .repetition_penalty = 1, .seed = 8};
            way.seed += (uint64_t)s;
            way.temperature = s % 3 ? 1.0f : 0.0f;
            way.repetition_penalty = s % 3 == 2 ? 2.0f : 1.0f;
            token[s] = s * 5;
            MUST(samplers[s] = rondo_sampler_create(model->config.vocab_size, &way, &error));
            items[s] = (struct rondo_run_item){.session = rondo_session_create(context, &error),
                                               .tokens = &token[s],
                                               .n = 1,
                                               .logits = RONDO_LOGITS_LAST,
                                               .sampler = samplers[s]};
        }
        for (int round = 0; round < ROUNDS; round++) {
            for (int s = 0; s < N; s++)
                items[s].best = &ids[on][round][s];
            MUST(!rondo_context_run(context, items, N, &error));
        }
        int recordings = 0;
        for (int32_t i = 0; i < context->n_classes; i++)
            recordings += context->classes[i].rows == 20 && context->classes[i].recording;
        EXPECT(recordings == 2 * on, "%d recordings", recordings);
        for (int s = 0; s < N; s++) {
            rondo_session_destroy(items[s].session);
            rondo_sampler_destroy(samplers[s]);
        }
        rondo_context_destroy(context);
    }
    EXPECT(!memcmp(ids[0], ids[1], sizeof ids[0]), "padding changes ids");
}

/* The largest read from the device since it was last set. */
static size_t largest_read;
static void (*read_of_device)(struct rondo_device *device, void *to_host, const void *from,
                              size_t size);

static void watched_read(struct rondo_device *device, void *to_host, const void *from, size_t size)
{
    largest_read = size > largest_read ? size : largest_read;
    read_of_device(device, to_host, from, size);
}

enum { PROMPT = 4, GENERATED = 4 };

/* Continues a prompt of 4 tokens: the first id is of the row that reading the prompt leaves. */
static void generate(struct rondo_model *model, struct rondo_device *device, int32_t *tokens)
{
    static const struct rondo_sampler_options sampling = {
        .temperature = 1, .top_p = 0.8f, .repetition_penalty = 1.3f, .seed = 4};
    struct rondo_context_options options = {
        .mode = RONDO_MODE_F32, .max_context = 64, .max_batch_tokens = 8, .max_sessions = 1};
    struct rondo_context *context = rondo_context_create(model, device, &options, &error);
    MUST(context);
    struct rondo_session *session = rondo_session_create(context, &error);
    struct rondo_sampler *sampler =
        rondo_sampler_create(model->config.vocab_size, &sampling, &error);
    MUST(session && sampler);
    largest_read = 0;
    struct rondo_run_item item = {.session = session,
                                  .tokens = tokens,
                                  .n = PROMPT,
                                  .logits = RONDO_LOGITS_LAST,
                                  .best = tokens + PROMPT,
                                  .sampler = sampler};
    MUST(!rondo_session_sync_item(&item, NULL, &error));
    item.n = 1;
    for (int i = 0; i + 1 < GENERATED; i++) {
        item.tokens = item.best++;
        MUST(!rondo_context_run(context, &item, 1, &error));
    }
    EXPECT(rondo_sampler_rows_read(sampler) == 0, "rows were read");
    rondo_sampler_destroy(sampler);
    rondo_context_destroy(context);
}

/* Sampling reads less than a row of logits from the device, for the first token after a prompt as for others. */
static void test_sampling(void)
{
    int32_t want[PROMPT + GENERATED] = {5, 9, 11, 5}, got[PROMPT + GENERATED] = {5, 9, 11, 5};
    struct rondo_model *model = open_model("../demo-model");
    struct rondo_device *host = open_device("cpu"), *device = open_device("simt:0");
    generate(model, host, want);
    read_of_device = device->read;
    device->read = watched_read;
    generate(model, device, got);
    size_t row = (size_t)model->config.vocab_size * sizeof(float);
    EXPECT(largest_read && largest_read < row, "%zu bytes were read at once, a row has %zu",
           largest_read, row);
    EXPECT(!memcmp(got, want, sizeof got), "%d %d %d %d, on the CPU %d %d %d %d", got[4], got[5],
           got[6], got[7], want[4], want[5], want[6], want[7]);
    rondo_device_close(host);
    rondo_device_close(device);
    rondo_model_close(model);
}

/* Fails the n-th call of `call` from now on; the run must say so, and no later one give numbers. */
static void expect_lost(struct rondo_model *model, const char *call, int skip, cudaError_t failure,
                        const char *words)
{
    struct rondo_device *device = open_device("simt:0");
    size_t V = (size_t)model->config.vocab_size;
    float *out = malloc(V * sizeof *out);
    struct rondo_context *context;
    MUST(context = make(model, device));
    struct rondo_session *session = rondo_session_create(context, &error);
    MUST(!decode(session, 0, out));
    simt_fail_after(call, skip, failure);
    for (int i = 0; i < 2; i++) {
        error.message[0] = '\0';
        EXPECT(decode(session, 3, out) == RONDO_FAILED && strstr(error.message, "simt:0: ") &&
                   strstr(error.message, words) && strstr(error.message, "--device cpu"),
               "%s fails: %s", call, error.message);
        EXPECT(!strchr(error.message, '\n'), "%s", call);
        EXPECT(rondo_session_length(session) == 0, "%s: %zu tokens", call,
               rondo_session_length(session));
    }
    EXPECT(!rondo_context_create(model, device, NULL, &error) && strstr(error.message, words),
           "a context on a lost device: %s", error.message);
    simt_recover(); /* so that memory can be given back */
    rondo_context_destroy(context);
    rondo_device_close(device);
    free(out);
}

static void test_faults(void)
{
    struct rondo_model *model = open_model("base-bf16");
    expect_lost(model, "cudaLaunchKernel", 7, cudaErrorIllegalAddress, "cudaErrorIllegalAddress");
    expect_lost(model, "cudaStreamSynchronize", 0, cudaErrorECCUncorrectable,
                "cudaErrorECCUncorrectable");
    expect_lost(model, "cudaMemcpyAsync", 0, cudaErrorLaunchFailure, "copy to the device");
    expect_lost(model, "cudaGraphLaunch", 0, cudaErrorLaunchTimeout, "recorded ops");
    expect_lost(model, "cudaLaunchKernel", 3, cudaErrorMemoryAllocation, "GB free)");
    expect_lost(model, "cudaLaunchKernel", 0, cudaErrorNoKernelImageForDevice, "gpu_arch");
    rondo_model_close(model);
}

/* A device that is full: refused with numbers before anything is loaded, or at whatever allocation meets it. */
static void test_full(void)
{
    struct rondo_model *model = open_model("fp8-block");
    struct rondo_device *device = open_device("simt:2");
    size_t before = simt_live_allocations();
    simt_set_memory(2, (size_t)1 << 18);
    EXPECT(!make(model, device) && strstr(error.message, "does not fit") &&
               strstr(error.message, "--device cpu"),
           "%s", error.message);
    simt_set_memory(2, (size_t)1 << 30);
    for (int skip = 0; skip < 400; skip++) {
        simt_fail_after("cudaMalloc", skip, cudaErrorMemoryAllocation);
        struct rondo_context *context = make(model, device);
        simt_recover();
        if (context) {
            EXPECT(skip > 20, "only %d allocations", skip);
            rondo_context_destroy(context);
            break;
        }
        EXPECT(error.message[0] && !rondo_device_status(device, NULL), "allocation %d: %s", skip,
               error.message);
        EXPECT(simt_live_allocations() <= before + 1, "allocation %d: %zu are left", skip,
               simt_live_allocations() - before); /* the workspace may stay */
    }
    rondo_device_close(device);
    simt_set_memory(2, (size_t)4 << 30);
    rondo_model_close(model);
}

static int cancel(void *user, const char *what, uint64_t done, uint64_t total)
{
    int *calls = user;
    EXPECT(done < total, "%s: %llu of %llu", what, (unsigned long long)done,
           (unsigned long long)total);
    return ++*calls == 5;
}

/* Where a device runs code that was compiled for an older one, products are those that the code has. */
static void test_old_code(void)
{
    static const struct {
        const char *device;
        int code;
        const char *path;
    } cases[] = {
        {"simt:2", 0, "mma e4m3"},    {"simt:2", 80, "mma bf16, both widened"},
        {"simt:2", 89, "mma e4m3"},   {"simt:1", 0, "mma bf16, both widened"},
        {"simt:0", 80, "wgmma e4m3"}, /* always compiled for its device */
    };
    static _Alignas(16) uint8_t codes[16 * 128];
    static float scales[16], out[16 * 16];
    struct rondo_op_gemm op = {.n_parts = 1};
    op.x = rondo_tensor_2d(codes, RONDO_F8_E4M3, 16, 128, "x");
    op.x.scale = scales;
    op.x.scale_rows = op.x.scale_stride = 1;
    op.x.scale_columns = RONDO_BLOCK;
    op.part[0].weight = rondo_tensor_2d(codes, RONDO_F8_E4M3, 16, 128, "W");
    op.part[0].out = rondo_tensor_2d(out, RONDO_F32, 16, 16, "out");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        simt_set_code(cases[i].code);
        struct rondo_device *device = open_device(cases[i].device);
        const char *path = device->path(device, RONDO_OP_GEMM, &op);
        EXPECT(!strcmp(path, cases[i].path), "%s, code of %d: %s", cases[i].device, cases[i].code,
               path);
        rondo_device_close(device);
    }
    simt_set_code(0);
}

/* Two devices at once, in turns, each with a context of its own. */
static void test_two_devices(void)
{
    struct rondo_model *model = open_model("fp8-block");
    struct rondo_device *devices[2] = {open_device("simt:0"), open_device("simt:1")};
    size_t V = (size_t)model->config.vocab_size;
    float *out[2];
    struct rondo_context *contexts[2];
    struct rondo_session *sessions[2];
    for (int i = 0; i < 2; i++) {
        MUST(contexts[i] = make(model, devices[i]));
        MUST(sessions[i] = rondo_session_create(contexts[i], &error));
        out[i] = malloc(V * sizeof(float));
    }
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 2; i++)
            MUST(!decode(sessions[i], 1, out[i]));
    double difference = 0, size = 0;
    for (size_t i = 0; i < V; i++) {
        difference += ((double)out[0][i] - out[1][i]) * ((double)out[0][i] - out[1][i]);
        size += (double)out[1][i] * out[1][i];
    }
    EXPECT(difference <= 1e-4 * size, "NMSE %g between two devices", difference / size);
    int calls = 0;
    struct rondo_context_options options = {
        .max_context = 64, .progress = cancel, .progress_user = &calls};
    EXPECT(!rondo_context_create(model, devices[0], &options, &error) && calls == 5 &&
               strstr(error.message, "interrupted"),
           "%d calls: %s", calls, error.message);
    for (int i = 0; i < 2; i++) {
        rondo_context_destroy(contexts[i]);
        rondo_device_close(devices[i]);
        free(out[i]);
    }
    rondo_model_close(model);
}

/* Experts that are not stored alike: said, and forbidden by strict. Products of f32 have no other fallback. */
static void test_strict(void)
{
    static const struct {
        const char *model;
        bool good;
    } cases[] = {{"mixed", true}, {"random-types", false}};
    struct rondo_device_options options = {.strict = true};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rondo_model *model = open_model(cases[i].model);
        struct rondo_device *device;
        struct rondo_context_options f32 = {.max_context = 64};
        MUST(device = rondo_device_open("simt:1", &options, &error));
        error.message[0] = 0;
        struct rondo_context *context = rondo_context_create(model, device, &f32, &error);
        EXPECT(!context == !cases[i].good, "%s: %s", cases[i].model, error.message);
        EXPECT(cases[i].good || (strstr(error.message, "grouped_gemm falls back") &&
                                 strstr(error.message, "experts of a layer differ")),
               "%s", error.message);
        rondo_context_destroy(context);
        rondo_device_close(device);
        rondo_model_close(model);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: gpu FIXTURES\n");
        return 2;
    }
    snprintf(models, sizeof models, "%s", argv[1]);
    simt_set_quiet(1);
    test_list();
    test_opening_fails();
    struct rondo_device *device = open_device("simt:1");
    test_memory(device);
    test_errors_of_others(device);
    rondo_device_close(device);
    struct rondo_model *model = open_model("base-bf16");
    device = open_device("simt:1");
    test_recordings(model, device);
    test_padding(model, device);
    rondo_device_close(device);
    rondo_model_close(model);
    test_sampling();
    test_faults();
    test_full();
    test_old_code();
    test_two_devices();
    test_strict();
    EXPECT(simt_live_allocations() == 0, "%zu allocations are left", simt_live_allocations());
    return test_result();
}
