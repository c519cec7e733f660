/* A device with cuBLASLt, under emulation, by a library that stands in for it: products of every kind it is asked for,
 * whole models with recordings, and each of its functions failing: the device's own kernels multiply then, with one
 * line in the log, or with --strict the device says why not.
 *
 *     gpu_cublaslt FIXTURES FAKE */
#include "core/context.h"
#include "core/dtype.h"
#include "core/error.h"
#include "cublaslt_fake.h"
#include "test.h"

#include <dlfcn.h>
#include <math.h>
#include <simt.h>
#include <stdlib.h>
#include <string.h>

static struct rondo_error error;
static cublaslt_fake_fail_function *fail;
static cublaslt_fake_count_function *products, *alive;
static int n_lines; /* of the log about cuBLASLt */
static char last_line[300];

static void count_line(void *user, enum rondo_log_level level, const char *line)
{
    (void)user;
    if (level > RONDO_LOG_WARNING || !strstr(line, "gemm falls back"))
        return;
    n_lines++;
    snprintf(last_line, sizeof last_line, "%s", line);
}

static int launch(void *stream, void (*run)(void *data), void *data)
{
    return cudaLaunchHostFunc(stream, run, data) != cudaSuccess;
}

static struct rondo_device *open_device(const char *name, bool strict)
{
    struct rondo_device *device;
    struct rondo_device_options options = {.strict = strict};
    MUST(device = rondo_device_open(name, &options, &error));
    return device;
}

/* ---- products ------------------------------------------------------------------------------------ */

enum { M = 13 + 5, N = 48, K = 160, PARTS = 2 };

/* One product of m rows on a device: [PARTS, m, N] of out, which has something before. */
static void multiply(struct rondo_device *device, int m, enum rondo_dtype dtype, bool residual,
                     float *out)
{
    enum { X = 256, W = 16384, OUT = W + 2 * 32768, SIZE = OUT + 2 * 16384 };
    static unsigned char image[SIZE];
    struct rondo_op_gemm op = {.n_parts = PARTS, .residual = residual};
    char *memory = device->allocate(device, SIZE);
    MUST(memory);
    for (int i = 0; i < M * K; i++)
        rondo_store(image + X, RONDO_BF16, (size_t)i, sinf((float)i));
    for (int i = 0; i < 2 * 16384; i++)
        rondo_store(image + W, RONDO_BF16, (size_t)i, cosf((float)i * 1.7f));
    for (int i = 0; i < M * N; i++)
        for (int p = 0; p < PARTS; p++)
            rondo_store(image + OUT + p * 16384, dtype, (size_t)i, (float)(i % 5));
    device->write(device, memory, image, SIZE);
    op.x = rondo_tensor_2d(memory + X + 16, RONDO_BF16, m, K, "x"); /* aligned to 16 and no more */
    for (int p = 0; p < PARTS; p++) {
        op.part[p].weight = rondo_tensor_2d(memory + W + p * 32768, RONDO_BF16, N, K, "W");
        op.part[p].out = rondo_tensor_2d(memory + OUT + p * 16384, dtype, m, N, "out");
    }
    MUST(!rondo_op_check(RONDO_OP_GEMM, &op, "test", &error));
    device->ops.gemm(device, &op);
    device->read(device, image, memory, SIZE);
    for (int i = 0; i < PARTS * m * N; i++)
        out[i] = rondo_load(image + OUT + i / (m * N) * 16384, dtype, (size_t)(i % (m * N)));
    device->release(device, memory);
}

static double nmse(const float *a, const float *b, size_t n)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return size > 0 && isfinite(difference) ? difference / size : INFINITY;
}

static float want[PARTS * M * N], got[PARTS * M * N];

static void test_products(void)
{
    struct rondo_device *plain = open_device("simt:0", false);
    struct rondo_device *device = open_device("simt:0+cublaslt", true);
    EXPECT(strstr(device->description, "cuBLASLt 13.0.2"), "%s", device->description);
    static const int rows[] = {1, 5, 16, M};
    for (int c = 0; c < 4 * 3 * 2; c++) {
        int m = rows[c % 4], kind = c / 4 % 3;
        enum rondo_dtype dtype = kind == 0 ? RONDO_BF16 : RONDO_F32;
        size_t before = products();
        simt_set_lazy_streams(c / 12);
        multiply(plain, m, dtype, kind == 2, want);
        multiply(device, m, dtype, kind == 2, got);
        double off = nmse(got, want, (size_t)(PARTS * m * N));
        EXPECT(off <= (kind == 0 ? 1e-5 : 1e-10), "%d rows, kind %d: NMSE %g", m, kind, off);
        EXPECT(products() == before + PARTS, "%d rows: %zu products", m, products() - before);
    }
    simt_set_lazy_streams(0);
    EXPECT(!rondo_device_status(device, &error), "%s", error.message);
    rondo_device_close(device);
    rondo_device_close(plain);
    EXPECT(alive() == 0, "%zu objects are alive", alive());
}

/* ---- models -------------------------------------------------------------------------------------- */

/* Logits after a prompt and some tokens, which are recorded. */
static int decode(struct rondo_model *model, struct rondo_device *device, float *out)
{
    struct rondo_context_options options = {
        .mode = RONDO_MODE_BF16, .max_context = 128, .max_batch_tokens = 32};
    struct rondo_context *context;
    MUST(context = rondo_context_create(model, device, &options, &error));
    struct rondo_session *session = rondo_session_create(context, &error);
    int32_t tokens[40];
    for (int i = 0; i < 40; i++)
        tokens[i] = i * 11 % 90;
    struct rondo_run_item item = {session, tokens, 40, RONDO_LOGITS_LAST, out, NULL, NULL};
    int status = rondo_context_run(context, &item, 1, &error);
    item.n = 1;
    for (int i = 0; i < 6 && !status; i++)
        status = rondo_context_run(context, &item, 1, &error);
    rondo_context_destroy(context);
    return status;
}

static void test_model(struct rondo_model *model)
{
    size_t V = (size_t)model->config.vocab_size;
    float *plain = malloc(V * sizeof *plain), *fast = malloc(V * sizeof *fast);
    struct rondo_device *device = open_device("simt:0", false);
    MUST(!decode(model, device, plain));
    rondo_device_close(device);
    for (int lazy = 0; lazy < 2; lazy++) {
        simt_set_lazy_streams(lazy);
        device = open_device("simt:0+cublaslt", false);
        size_t before = products();
        n_lines = 0;
        MUST(!decode(model, device, fast));
        EXPECT(products() > before + 40, "%zu products", products() - before);
        EXPECT(nmse(fast, plain, V) < 1e-3, "lazy %d: NMSE %g", lazy, nmse(fast, plain, V));
        EXPECT(n_lines == 0, "%s", last_line);
        rondo_device_close(device);
    }
    simt_set_lazy_streams(0);
    free(plain);
    free(fast);
}

/* ---- failures ------------------------------------------------------------------------------------ */

/* Of products: the device's own kernels do them, bit for bit. */
static void test_failing(struct rondo_model *model, const char *call)
{
    struct rondo_device *plain = open_device("simt:0", false);
    struct rondo_device *device = open_device("simt:0+cublaslt", false);
    struct rondo_device *strict = open_device("simt:0+cublaslt", true);
    size_t before = products(), V = (size_t)model->config.vocab_size;
    float *logits[2] = {malloc(V * sizeof(float)), malloc(V * sizeof(float))};
    n_lines = 0;
    fail(call, 14);
    for (int residual = 0; residual < 2; residual++) {
        multiply(plain, M, RONDO_F32, residual, want);
        multiply(device, M, RONDO_F32, residual, got);
        EXPECT(!memcmp(got, want, sizeof want), "%s fails: NMSE %g", call,
               nmse(got, want, PARTS * M * N));
    }
    MUST(!decode(model, plain, logits[0]) && !decode(model, device, logits[1]));
    EXPECT(!memcmp(logits[0], logits[1], V * sizeof(float)), "%s fails: other logits", call);
    EXPECT(n_lines == 1 && strstr(last_line, "simt:0: gemm falls back") &&
               strstr(last_line, "error 14 at [18, 160] by [48, 160]"),
           "%s fails: %d lines, the last: %s", call, n_lines, last_line);
    EXPECT(products() == before, "%s fails, and there are products", call);

    multiply(strict, M, RONDO_F32, false, got);
    EXPECT(rondo_device_status(strict, &error) && strstr(error.message, "error 14") &&
               strstr(error.message, "without --strict") && !strchr(error.message, '\n'),
           "%s fails, strict: %s", call, error.message);
    fail(call, 0);
    rondo_device_close(plain);
    rondo_device_close(device);
    rondo_device_close(strict);
    EXPECT(alive() == 0, "%s fails: %zu objects are alive", call, alive());
    free(logits[0]);
    free(logits[1]);
}

static void test_not_starting(void)
{
    struct rondo_device_options options = {.strict = true};
    fail("cublasLtCreate", 1);
    n_lines = 0;
    EXPECT(!rondo_device_open("simt:0+cublaslt", &options, &error) &&
               error.status == RONDO_FAILED && strstr(error.message, "cublasLtCreate: error 1"),
           "%s", error.message);
    EXPECT(n_lines == 0, "%s", last_line);
    struct rondo_device *device = open_device("simt:0+cublaslt", false);
    EXPECT(n_lines == 1 && strstr(last_line, "cublasLtCreate: error 1"), "%d lines: %s", n_lines,
           last_line);
    multiply(device, 5, RONDO_F32, false, got);
    EXPECT(!rondo_device_status(device, &error) && !strstr(device->description, "cuBLASLt"), "%s",
           device->description);
    rondo_device_close(device);
    fail("cublasLtCreate", 0);

    setenv("RONDO_CUBLASLT", "/nowhere/libcublasLt.so", 1);
    EXPECT(!rondo_device_open("simt:0+cublaslt", NULL, &error) && error.status == RONDO_FAILED &&
               strstr(error.message, "/nowhere/libcublasLt.so can not be loaded"),
           "%s", error.message);
    unsetenv("RONDO_CUBLASLT");
    EXPECT(!rondo_device_open("simt:0+cublaslt", NULL, &error) && error.status == RONDO_USAGE, "%s",
           error.message);
}

static void find(void *library, const char *name, void *to)
{
    MUST((*(void **)to = dlsym(library, name)) != NULL);
}

int main(int argc, char **argv)
{
    static const char *const calls[] = {"cublasLtMatmulDescCreate",
                                        "cublasLtMatmulDescSetAttribute",
                                        "cublasLtMatrixLayoutCreate",
                                        "cublasLtMatmulPreferenceCreate",
                                        "cublasLtMatmulPreferenceSetAttribute",
                                        "cublasLtMatmulAlgoGetHeuristic",
                                        "cublasLtMatmul"};
    char directory[600];
    cublaslt_fake_set_launch_function *set_launch;
    void *library = argc == 3 ? dlopen(argv[2], RTLD_NOW) : NULL;
    if (!library) {
        fprintf(stderr, "usage: gpu_cublaslt FIXTURES FAKE\n");
        return 2;
    }
    find(library, "cublaslt_fake_fail", &fail);
    find(library, "cublaslt_fake_products", &products);
    find(library, "cublaslt_fake_alive", &alive);
    find(library, "cublaslt_fake_set_launch", &set_launch);
    setenv("RONDO_CUBLASLT", argv[2], 1);
    set_launch(launch);
    simt_set_quiet(1);
    rondo_log_set(count_line, NULL);
    test_products();
    snprintf(directory, sizeof directory, "%s/base-bf16", argv[1]);
    struct rondo_model *model;
    MUST(model = rondo_model_open(directory, NULL, &error));
    test_model(model);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        test_failing(model, calls[i]);
    rondo_model_close(model);
    test_not_starting();
    return test_result();
}
