/* What an embedding program has current in CUDA (its device, its context, or none) is the same after every call of the
 * library, also after one that failed, on devices of the CUDA kind (driver's contexts) and of the HIP kind; and listing
 * devices makes no context.
 *
 *     gpu_current FIXTURES */
#include "core/context.h"
#include "core/error.h"
#include "scratch.h"
#include "test.h"

#include <cuda.h>
#include <simt.h>
#include <stdlib.h>
#include <string.h>

static struct rondo_error error;
static struct rondo_model *model;

/* What the caller has. */
static CUcontext own_context;
static int own_device;

static void remember(void)
{
    cuCtxGetCurrent(&own_context);
    cudaGetDevice(&own_device);
}

static void expect_kept(const char *what)
{
    CUcontext context;
    int device = -1;
    cuCtxGetCurrent(&context);
    cudaGetDevice(&device);
    EXPECT(context == own_context && device == own_device,
           "%s: device %d is current, was %d; context %p, was %p", what, device, own_device,
           (void *)context, (void *)own_context);
    own_context = context; /* one omission is reported once */
    own_device = device;
}

#define KEPT(call)                                                                                 \
    do {                                                                                           \
        call;                                                                                      \
        expect_kept(#call);                                                                        \
    } while (0)

static int cancel(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    expect_kept("progress");
    return user && 2 * done > total;
}

static void ignore(void *user, const struct rondo_compare_row *row)
{
    (void)user;
    (void)row;
    expect_kept("row");
}

static struct rondo_context *make(struct rondo_device *device, void *cancelled)
{
    struct rondo_context_options options = {.mode = RONDO_MODE_BF16,
                                            .max_context = 192,
                                            .max_batch_tokens = 32,
                                            .max_sessions = 3,
                                            .progress = cancel,
                                            .progress_user = cancelled};
    return rondo_context_create(model, device, &options, &error);
}

/* Every function that a device has to do with. */
static void use(struct rondo_context *context, struct rondo_session *session)
{
    enum { N = 70 };
    static int32_t tokens[N], best;
    static const int32_t parents[2] = {-1, 0}, nodes[1] = {0};
    static float logits[N * 640];
    char path[700];
    struct rondo_sampler_options options = {.temperature = 1, .top_p = 0.9f};
    for (int32_t i = 0; i < N; i++)
        tokens[i] = i * 7 % 90;
    struct rondo_run_item item = {.session = session, .tokens = tokens, .n = N};
    KEPT(rondo_context_run(context, &item, 1, &error));
    item = (struct rondo_run_item){session, tokens, 1, RONDO_LOGITS_LAST, logits, NULL, NULL};
    for (int i = 0; i < 5; i++) /* recorded, and replayed */
        KEPT(rondo_context_run(context, &item, 1, &error));
    struct rondo_sampler *sampler =
        rondo_sampler_create(model->config.vocab_size, &options, &error);
    item.out = NULL;
    item.best = &best;
    item.sampler = sampler;
    KEPT(rondo_context_run(context, &item, 1, &error));
    rondo_sampler_destroy(sampler);
    item.sampler = NULL;
    KEPT(rondo_session_sync_item(&item, NULL, &error));
    KEPT(rondo_session_sync(session, tokens, N, logits, NULL, &error));
    KEPT(rondo_session_snapshot(session));
    KEPT(rondo_session_truncate(session, 64));
    KEPT(rondo_session_repeat(session, 128, &error));
    KEPT(rondo_session_draft(session, tokens, parents, 2, logits, &error));
    KEPT(rondo_session_accept(session, nodes, 1, &error));
    struct rondo_session *fork;
    KEPT(fork = rondo_session_fork(session, &error));
    snprintf(path, sizeof path, "%s", scratch_path("session"));
    KEPT(rondo_session_save(session, path, &error));
    KEPT(rondo_session_load(session, path, &error));
    KEPT(rondo_session_destroy(fork));
    KEPT(rondo_context_timing(context, true));
    KEPT(rondo_context_check_steps(context, true, &error));
    item = (struct rondo_run_item){session, tokens, 3, RONDO_LOGITS_ALL, logits, NULL, NULL};
    KEPT(rondo_context_run(context, &item, 1, &error));
    KEPT(rondo_context_timing(context, false));
    KEPT(rondo_context_check_steps(context, false, &error));
}

static void test_calls(const char *name)
{
    struct rondo_device *device, *host = rondo_device_open("cpu", NULL, &error);
    struct rondo_memory memory;
    struct rondo_device_counts counts;
    struct rondo_context *context, *other;
    struct rondo_session *session;
    KEPT(device = rondo_device_open(name, NULL, &error));
    EXPECT(device, "%s: %s", name, error.message);
    KEPT(rondo_device_count(device, &counts));
    KEPT(rondo_context_memory(model, device, NULL, &memory, &error));
    KEPT(context = make(device, &error));
    EXPECT(!context && strstr(error.message, "interrupted"), "%s", error.message);
    KEPT(context = make(device, NULL));
    EXPECT(context, "%s", error.message);
    KEPT(session = rondo_session_create(context, &error));
    use(context, session);
    EXPECT(!rondo_device_status(device, &error), "%s", error.message);
    other = make(host, NULL);
    static const int32_t tokens[] = {1, 2, 3};
    KEPT(rondo_compare(other, context, tokens, 3, RONDO_COMPARE_FORCED, -1, 1, ignore, NULL,
                       &error));
    KEPT(rondo_compare(context, other, tokens, 3, RONDO_COMPARE_STEPS, 1, 1, ignore, NULL, &error));
    KEPT(rondo_session_destroy(session));
    KEPT(rondo_context_destroy(context));
    KEPT(rondo_device_close(device));
    rondo_context_destroy(other);
    rondo_device_close(host);
}

/* The same where one call of CUDA fails, each in its turn; `every`: of so many. */
static void test_faults(const char *name, const char *call, int every, cudaError_t failure)
{
    bool over = false;
    for (int skip = 0; !over; skip += every) {
        struct rondo_context *context = NULL;
        struct rondo_session *session = NULL;
        simt_fail_after(call, skip, failure);
        struct rondo_device *device = rondo_device_open(name, NULL, &error);
        if (device && (context = make(device, NULL)) &&
            (session = rondo_session_create(context, &error))) {
            int32_t tokens[] = {1, 2, 3};
            float *logits = malloc((size_t)model->config.vocab_size * sizeof *logits);
            struct rondo_run_item item = {session, tokens, 3,   RONDO_LOGITS_LAST,
                                          logits,  NULL,   NULL};
            for (int i = 0; i < 4; i++, item.n = 1)
                over = !rondo_context_run(context, &item, 1, &error);
            free(logits);
        }
        rondo_context_destroy(context);
        rondo_device_close(device);
        simt_recover();
        char what[100];
        snprintf(what, sizeof what, "call %d of %s fails", skip, call);
        expect_kept(what);
        EXPECT(skip < 100000, "no end");
    }
}

static void test_all_faults(const char *name)
{
    static const struct {
        const char *call;
        int every;
        cudaError_t failure;
    } faults[] = {
        {"cuCtxPushCurrent", 397, cudaErrorUnknown}, /* not called by HIP's devices */
        {"cudaMemGetInfo", 1, cudaErrorUnknown},
        {"cudaMalloc", 53, cudaErrorMemoryAllocation},
        {"cudaMemsetAsync", 53, cudaErrorUnknown},
        {"cudaFree", 59, cudaErrorUnknown},
        {"cudaMemcpyAsync", 71, cudaErrorLaunchFailure},
        {"cudaEventRecord", 1, cudaErrorUnknown},
        {"cudaLaunchKernel", 113, cudaErrorIllegalAddress},
        {"cudaStreamSynchronize", 5, cudaErrorIllegalAddress},
        {"cudaStreamBeginCapture", 1, cudaErrorUnknown},
        {"cudaStreamEndCapture", 1, cudaErrorUnknown},
        {"cudaGraphInstantiate", 1, cudaErrorMemoryAllocation},
        {"cudaGraphLaunch", 1, cudaErrorUnknown},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        test_faults(name, faults[i].call, faults[i].every, faults[i].failure);
}

/* Listing, and asking for what is not there. */
static void test_no_context(void)
{
    struct rondo_device_info devices[32];
    struct rondo_backend_info backends[8];
    size_t n = rondo_device_list(devices, 32), gpus = 0;
    rondo_backend_list(backends, 8);
    EXPECT(!rondo_device_open("simt:7", NULL, &error), "no such device");
    EXPECT(!rondo_device_open("nothing:7", NULL, &error), "no such backend");
    for (size_t i = 0; i < n && i < 32; i++) {
        bool gpu = !strncmp(devices[i].name, "simt", 4);
        gpus += gpu;
        EXPECT(devices[i].memory_total > 0 && (devices[i].memory_available > 0) == !gpu,
               "%s: %llu of %llu bytes", devices[i].name,
               (unsigned long long)devices[i].memory_available,
               (unsigned long long)devices[i].memory_total);
    }
    EXPECT(gpus >= 3, "%zu GPUs", gpus);
    for (int i = 0; i < 3; i++)
        EXPECT(!simt_has_context(i), "device %d has a context", i);
}

int main(int argc, char **argv)
{
    char directory[600];
    if (argc != 2) {
        fprintf(stderr, "usage: gpu_current FIXTURES\n");
        return 2;
    }
    simt_set_quiet(1);
    scratch_begin();
    test_no_context();
    snprintf(directory, sizeof directory, "%s/base-bf16", argv[1]);
    model = rondo_model_open(directory, NULL, &error);
    EXPECT(model, "%s", error.message);

    /* Who has nothing current still has nothing, and no other device has a context. */
    remember();
    EXPECT(!own_context, "a context is current");
    test_calls("simt:1");
    test_all_faults("simt:1");
    EXPECT(simt_has_context(1) && !simt_has_context(0) && !simt_has_context(2),
           "contexts: %d %d %d", simt_has_context(0), simt_has_context(1), simt_has_context(2));

    cudaSetDevice(2);
    remember();
    test_calls("simt:0");
    test_calls("simt:2");
    test_calls("simt_hip32:0");
    test_all_faults("simt_hip32:0");
    test_calls("simt_hip32:2");

    /* A context that the caller has pushed over that of its device. */
    CUcontext context;
    cuDevicePrimaryCtxRetain(&context, 1);
    cuCtxPushCurrent(context);
    remember();
    test_calls("simt:0");
    cuCtxPopCurrent(&context);
    cudaGetDevice(&own_device);
    EXPECT(own_device == 2, "under it is %d", own_device);
    rondo_model_close(model);
    scratch_end();
    return test_result();
}
