/* cuBLASLt, and the CUDA driver by dlopen. Types and numbers are those of cublasLt.h of CUDA 13 (block scales: 12.9 and
 * newer) and cuda.h, which need not be installed. cuBLAS counts columns first: y[M, N] row by row is its D[N, M], the
 * weights are A, transposed, and x is B. */
#include "tests/check/yardstick.h"
#include "backend_cuda/cublaslt.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- the libraries' types -------------------------------------------------------------------- */

enum { /* cublasLtMatmulDescAttributes_t */
       SCALE_POINTER_A = 17,
       SCALE_POINTER_B = 18,
       FAST_ACCUMULATION = 25,
       SCALE_MODE_A = 31,
       SCALE_MODE_B = 32,
};
enum { SCALE_SCALAR = 0, SCALE_128 = 4, SCALE_128X128 = 5 }; /* cublasLtMatmulMatrixScale_t */
enum { STREAM_NON_BLOCKING = 1, CAPTURE_THREAD_LOCAL = 1 };  /* cuda.h */

struct yardstick {
    struct cublaslt *blas;
    void *driver, *stream, *context;

    int (*device_get)(int *device, int ordinal);
    int (*context_retain)(void **context, int device);
    int (*context_push)(void *context);
    int (*context_pop)(void **context);
    int (*stream_create)(void **stream, unsigned flags);
    int (*stream_destroy)(void *stream);
    int (*stream_synchronize)(void *stream);
    int (*capture_begin)(void *stream, int mode);
    int (*capture_end)(void *stream, void **graph);
    int (*graph_instantiate)(void **executable, void *graph, unsigned long long flags);
    int (*graph_launch)(void *executable, void *stream);
    int (*graph_destroy)(void *graph);
    int (*executable_destroy)(void *executable);
};

/* ---- loading --------------------------------------------------------------------------------- */

/* The name of the first symbol that is missing, or NULL. */
static const char *load_driver(struct yardstick *library)
{
    const struct {
        const char *name;
        void *to;
    } symbols[] = {
        {"cuDeviceGet", &library->device_get},
        {"cuDevicePrimaryCtxRetain", &library->context_retain},
        {"cuCtxPushCurrent_v2", &library->context_push},
        {"cuCtxPopCurrent_v2", &library->context_pop},
        {"cuStreamCreate", &library->stream_create},
        {"cuStreamDestroy_v2", &library->stream_destroy},
        {"cuStreamSynchronize", &library->stream_synchronize},
        {"cuStreamBeginCapture_v2", &library->capture_begin},
        {"cuStreamEndCapture", &library->capture_end},
        {"cuGraphInstantiateWithFlags", &library->graph_instantiate},
        {"cuGraphLaunch", &library->graph_launch},
        {"cuGraphDestroy", &library->graph_destroy},
        {"cuGraphExecDestroy", &library->executable_destroy},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        if (!(*(void **)symbols[i].to = dlsym(library->driver, symbols[i].name)))
            return symbols[i].name;
    return NULL;
}

/* Between these two the device's context is the thread's current one. */
static int enter(struct yardstick *library)
{
    return library->context_push(library->context);
}

static void leave(struct yardstick *library)
{
    void *own;
    library->context_pop(&own);
}

/* The device's context, which the runtime uses, too. */
static int find_context(struct yardstick *library, int ordinal)
{
    int device = 0, status = library->device_get(&device, ordinal);
    return status ? status : library->context_retain(&library->context, device);
}

static bool start(struct yardstick *library, char *why, size_t size)
{
    int status = enter(library);
    if (status) {
        snprintf(why, size, "cuCtxPushCurrent: error %d", status);
        return false;
    }
    library->blas = rondo_cublaslt_open(NULL, why, size, NULL);
    if (library->blas &&
        (status = library->stream_create(&library->stream, STREAM_NON_BLOCKING)) != 0)
        snprintf(why, size, "cuStreamCreate: error %d", status);
    leave(library);
    return library->blas && !status;
}

struct yardstick *yardstick_open(int ordinal, char *why, size_t size)
{
    struct yardstick *library = calloc(1, sizeof *library);
    const char *missing = NULL;
    if (!library)
        return NULL;
    const char *driver = getenv("RONDO_CHECK_DRIVER");
    driver = driver ? driver : "libcuda.so.1";
    library->driver = dlopen(driver, RTLD_NOW | RTLD_LOCAL);
    if (!library->driver)
        snprintf(why, size, "%s is not installed", driver);
    else if ((missing = load_driver(library)))
        snprintf(why, size, "the driver has no %s", missing);
    else if (find_context(library, ordinal))
        snprintf(why, size, "the driver has no context of device %d", ordinal);
    else if (start(library, why, size))
        return library;
    yardstick_close(library);
    return NULL;
}

/* Libraries of NVIDIA's stay loaded once they have run. */
void yardstick_close(struct yardstick *library)
{
    if (!library)
        return;
    if (library->context && !enter(library)) {
        if (library->stream)
            library->stream_destroy(library->stream);
        rondo_cublaslt_close(library->blas);
        leave(library);
    }
    free(library);
}

const char *yardstick_version(const struct yardstick *library)
{
    return library->blas->version;
}

/* ---- one product ----------------------------------------------------------------------------- */

struct product {
    const struct yardstick_gemm *gemm;
    void *description, *a, *b, *d, *preference; /* d is c's, too */
};

/* Weights may be taken in turns: all of them count. */
static int set_alignments(struct yardstick *library, struct product *p)
{
    const struct yardstick_gemm *g = p->gemm;
    uint32_t weight = 256, x = rondo_cublaslt_alignment(g->x),
             out = rondo_cublaslt_alignment(g->out);
    for (int i = 0; i < g->n_weights; i++) {
        uint32_t one = rondo_cublaslt_alignment(g->weight[i]);
        weight = one < weight ? one : weight;
    }
    const struct {
        int attribute;
        uint32_t alignment;
    } all[] = {{CUBLASLT_ALIGNMENT_A, weight},
               {CUBLASLT_ALIGNMENT_B, x},
               {CUBLASLT_ALIGNMENT_C, out},
               {CUBLASLT_ALIGNMENT_D, out}};
    int status = 0;
    for (int i = 0; i < 4 && !status; i++)
        status = library->blas->preference_set(p->preference, all[i].attribute, &all[i].alignment,
                                               sizeof all[i].alignment);
    return status;
}

static int describe(struct yardstick *library, struct product *p)
{
    const struct yardstick_gemm *g = p->gemm;
    bool fp8 = g->kind != YARDSTICK_BF16;
    int type = fp8 ? CUBLASLT_F8_E4M3 : CUBLASLT_BF16, transpose = CUBLASLT_OPERATION_T, status;
    if ((status = library->blas->description_create(&p->description, CUBLASLT_COMPUTE_F32,
                                                    CUBLASLT_F32)) ||
        (status = library->blas->description_set(p->description, CUBLASLT_TRANSPOSE_A, &transpose,
                                                 sizeof transpose)) ||
        (status =
             library->blas->layout_create(&p->a, type, (uint64_t)g->k, (uint64_t)g->n, g->k)) ||
        (status =
             library->blas->layout_create(&p->b, type, (uint64_t)g->k, (uint64_t)g->m, g->k)) ||
        (status = library->blas->layout_create(&p->d, CUBLASLT_BF16, (uint64_t)g->n, (uint64_t)g->m,
                                               g->n)) ||
        (status = library->blas->preference_create(&p->preference)) ||
        (status = library->blas->preference_set(p->preference, CUBLASLT_WORKSPACE_BYTES,
                                                &g->workspace_size, sizeof g->workspace_size)) ||
        (status = set_alignments(library, p)) || !fp8)
        return status;
    int8_t fast = g->kind == YARDSTICK_F8_TENSOR;
    int a_mode = fast ? SCALE_SCALAR : SCALE_128X128, b_mode = fast ? SCALE_SCALAR : SCALE_128;
    if ((status = library->blas->description_set(p->description, SCALE_POINTER_A, &g->weight_scale,
                                                 sizeof g->weight_scale)) ||
        (status = library->blas->description_set(p->description, SCALE_POINTER_B, &g->x_scale,
                                                 sizeof g->x_scale)) ||
        (status =
             library->blas->description_set(p->description, FAST_ACCUMULATION, &fast, sizeof fast)))
        return status;
    if (fast) /* what is there by default, and the only one before 12.8 */
        return 0;
    status = library->blas->description_set(p->description, SCALE_MODE_A, &a_mode, sizeof a_mode);
    return status ? status
                  : library->blas->description_set(p->description, SCALE_MODE_B, &b_mode,
                                                   sizeof b_mode);
}

static void release(struct yardstick *library, struct product *p)
{
    if (p->preference)
        library->blas->preference_destroy(p->preference);
    void *const layouts[] = {p->a, p->b, p->d};
    for (int i = 0; i < 3; i++)
        if (layouts[i])
            library->blas->layout_destroy(layouts[i]);
    if (p->description)
        library->blas->description_destroy(p->description);
}

static int launch(struct yardstick *library, const struct product *p,
                  const struct cublaslt_proposal *with, int calls)
{
    const struct yardstick_gemm *g = p->gemm;
    const float one = 1, zero = 0;
    int status = 0;
    for (int i = 0; i < calls && !status; i++)
        status = library->blas->multiply(library->blas->handle, p->description, &one,
                                         g->weight[i % g->n_weights], p->a, g->x, p->b, &zero,
                                         g->out, p->d, g->out, p->d, &with->algorithm, g->workspace,
                                         g->workspace_size, library->stream);
    return status;
}

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of one call of `calls`, replayed as a graph; 0 with *status when that fails. */
static double time_proposal(struct yardstick *library, const struct product *p,
                            const struct cublaslt_proposal *with, int calls, int *status)
{
    enum { SAMPLES = 7 };
    double sample[SAMPLES], time = 0;
    void *graph = NULL, *executable = NULL;
    if ((*status = launch(library, p, with, 1)) || /* whatever is set up once */
        (*status = library->stream_synchronize(library->stream)) ||
        (*status = library->capture_begin(library->stream, CAPTURE_THREAD_LOCAL)))
        return 0;
    int launched = launch(library, p, with, calls);
    *status = library->capture_end(library->stream, &graph);
    if (launched)
        *status = launched;
    if (!*status)
        *status = library->graph_instantiate(&executable, graph, 0);
    for (int i = -1; i < SAMPLES && !*status; i++) { /* the first only warms up */
        double start = seconds();
        *status = library->graph_launch(executable, library->stream);
        if (!*status)
            *status = library->stream_synchronize(library->stream);
        if (i >= 0)
            sample[i] = (seconds() - start) / calls;
    }
    if (!*status) {
        qsort(sample, SAMPLES, sizeof *sample, by_value);
        time = sample[SAMPLES / 2];
    }
    if (executable)
        library->executable_destroy(executable);
    if (graph)
        library->graph_destroy(graph);
    return time;
}

/* In the device's context. */
static double time_best(struct yardstick *library, const struct yardstick_gemm *gemm, char *why,
                        size_t size)
{
    enum { PROPOSALS = 8 };
    struct product product = {.gemm = gemm};
    struct cublaslt_proposal proposals[PROPOSALS];
    int n = 0, calls = gemm->n_weights, failure = 0;
    double best = 0;
    while (calls < 16)
        calls += gemm->n_weights;
    int status = describe(library, &product);
    if (!status)
        status = library->blas->propose(library->blas->handle, product.description, product.a,
                                        product.b, product.d, product.d, product.preference,
                                        PROPOSALS, proposals, &n);
    for (int i = 0; i < n && !status; i++) {
        double time = proposals[i].status
                          ? 0
                          : time_proposal(library, &product, &proposals[i], calls, &failure);
        if (time > 0 && (best == 0 || time < best))
            best = time;
    }
    if (best == 0)
        snprintf(why, size, "error %d", status ? status : failure);
    release(library, &product);
    return best;
}

double yardstick_time(struct yardstick *library, const struct yardstick_gemm *gemm, char *why,
                      size_t size)
{
    int status = enter(library);
    if (status) {
        snprintf(why, size, "cuCtxPushCurrent: error %d", status);
        return 0;
    }
    double time = time_best(library, gemm, why, size);
    leave(library);
    return time;
}
