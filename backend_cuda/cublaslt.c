/* cuBLASLt by dlopen. It counts columns first: out[M, N] row by row is its D[N, M], the weights are A, transposed, and
 * x is B. */
#include "backend_cuda/cublaslt.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* The name of the first symbol that is missing, or NULL. */
static const char *load(struct cublaslt *library)
{
    const struct {
        const char *name;
        void *to;
    } symbols[] = {
        {"cublasLtCreate", &library->create},
        {"cublasLtDestroy", &library->destroy},
        {"cublasLtGetVersion", &library->get_version},
        {"cublasLtMatmulDescCreate", &library->description_create},
        {"cublasLtMatmulDescDestroy", &library->description_destroy},
        {"cublasLtMatmulDescSetAttribute", &library->description_set},
        {"cublasLtMatrixLayoutCreate", &library->layout_create},
        {"cublasLtMatrixLayoutDestroy", &library->layout_destroy},
        {"cublasLtMatmulPreferenceCreate", &library->preference_create},
        {"cublasLtMatmulPreferenceDestroy", &library->preference_destroy},
        {"cublasLtMatmulPreferenceSetAttribute", &library->preference_set},
        {"cublasLtMatmulAlgoGetHeuristic", &library->propose},
        {"cublasLtMatmul", &library->multiply},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        if (!(*(void **)symbols[i].to = dlsym(library->library, symbols[i].name)))
            return symbols[i].name;
    return NULL;
}

struct cublaslt *rondo_cublaslt_open(const char *path, char *why, size_t size, int *status)
{
    static const char *const places[] = {"libcublasLt.so.13", "libcublasLt.so.12",
                                         "/usr/local/cuda/lib64/libcublasLt.so", "libcublasLt.so"};
    struct cublaslt *library = calloc(1, sizeof *library);
    const char *missing = NULL, *named = getenv("RONDO_CUBLASLT");
    int ignored;
    status = status ? status : &ignored;
    *status = 0;
    if (!library) {
        snprintf(why, size, "out of memory");
        return NULL;
    }
    if (!path && named && *named)
        path = named;
    if (path)
        library->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < sizeof places / sizeof *places && !path && !library->library; i++)
        library->library = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
    if (!library->library && path) {
        snprintf(why, size, "%s can not be loaded", path);
    } else if (!library->library) {
        snprintf(why, size, "libcublasLt is not installed (RONDO_CUBLASLT may name it)");
    } else if ((missing = load(library))) {
        snprintf(why, size, "it has no %s", missing);
        dlclose(library->library); /* nothing of it has run */
    } else if ((*status = library->create(&library->handle))) {
        library->handle = NULL;
        snprintf(why, size, "cublasLtCreate: error %d", *status);
    } else {
        unsigned version = (unsigned)library->get_version(); /* 130002: 13.0.2 */
        snprintf(library->version, sizeof library->version, "%u.%u.%u", version / 10000,
                 version / 100 % 100, version % 100);
        return library;
    }
    rondo_cublaslt_close(library);
    return NULL;
}

void rondo_cublaslt_close(struct cublaslt *library)
{
    if (!library)
        return;
    if (library->handle)
        library->destroy(library->handle);
    free(library);
}

uint32_t rondo_cublaslt_alignment(const void *pointer)
{
    uint32_t alignment = 256;
    while ((uintptr_t)pointer % alignment)
        alignment /= 2;
    return alignment;
}

/* ---- one product ----------------------------------------------------------------------------- */

struct description {
    void *product, *a, *b, *d, *preference; /* d is c's, too */
};

static int describe(struct cublaslt *library, const struct cublaslt_product *p,
                    struct description *made)
{
    int transpose = CUBLASLT_OPERATION_T, status;
    uint64_t m = (uint64_t)p->m, n = (uint64_t)p->n, k = (uint64_t)p->k;
    if ((status =
             library->description_create(&made->product, CUBLASLT_COMPUTE_F32, CUBLASLT_F32)) ||
        (status = library->description_set(made->product, CUBLASLT_TRANSPOSE_A, &transpose,
                                           sizeof transpose)) ||
        (status = library->layout_create(&made->a, CUBLASLT_BF16, k, n, p->k)) ||
        (status = library->layout_create(&made->b, CUBLASLT_BF16, k, m, p->x_stride)) ||
        (status = library->layout_create(&made->d, p->out_type, n, m, p->out_stride)) ||
        (status = library->preference_create(&made->preference)))
        return status;
    const struct {
        int attribute;
        uint32_t alignment;
    } alignments[] = {
        {CUBLASLT_ALIGNMENT_A, rondo_cublaslt_alignment(p->weight)},
        {CUBLASLT_ALIGNMENT_B, rondo_cublaslt_alignment(p->x)},
        {CUBLASLT_ALIGNMENT_C, rondo_cublaslt_alignment(p->out)},
        {CUBLASLT_ALIGNMENT_D, rondo_cublaslt_alignment(p->out)},
    };
    status = library->preference_set(made->preference, CUBLASLT_WORKSPACE_BYTES, &p->workspace_size,
                                     sizeof p->workspace_size);
    for (int i = 0; i < 4 && !status; i++)
        status = library->preference_set(made->preference, alignments[i].attribute,
                                         &alignments[i].alignment, sizeof alignments[i].alignment);
    return status;
}

static void release(struct cublaslt *library, const struct description *made)
{
    void *const layouts[] = {made->a, made->b, made->d};
    if (made->preference)
        library->preference_destroy(made->preference);
    for (int i = 0; i < 3; i++)
        if (layouts[i])
            library->layout_destroy(layouts[i]);
    if (made->product)
        library->description_destroy(made->product);
}

int rondo_cublaslt_multiply(struct cublaslt *library, const struct cublaslt_product *p,
                            void *stream)
{
    enum { NOT_SUPPORTED = 15 }; /* cublasStatus_t */
    struct description made = {0};
    struct cublaslt_proposal proposal = {.status = NOT_SUPPORTED};
    const float alpha = 1, beta = p->add ? 1 : 0;
    int n = 0, status = describe(library, p, &made);
    if (!status)
        status = library->propose(library->handle, made.product, made.a, made.b, made.d, made.d,
                                  made.preference, 1, &proposal, &n);
    if (!status)
        status = n < 1 ? NOT_SUPPORTED : proposal.status;
    if (!status)
        status = library->multiply(library->handle, made.product, &alpha, p->weight, made.a, p->x,
                                   made.b, &beta, p->out, made.d, p->out, made.d,
                                   &proposal.algorithm, p->workspace, p->workspace_size, stream);
    release(library, &made);
    return status;
}
