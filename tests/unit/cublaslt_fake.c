/* A library with cuBLASLt's functions, on the CPU: matrices by columns, as NVIDIA's manual says. It refuses whatever it
 * has not been told of: attributes, types, sizes, alignments that are not those of the pointers, a workspace that is
 * not there, an algorithm of another product. Its version is 13.0.2. */
#include "tests/unit/cublaslt_fake.h"
#include "backend_cuda/cublaslt.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { ALLOC_FAILED = 3, INVALID_VALUE = 7, NOT_SUPPORTED = 15 }; /* cublasStatus_t */
enum { /* attributes of products, beside cublaslt.h's */
       SCALE_POINTER_A = 17,
       SCALE_POINTER_B = 18,
       FAST_ACCUMULATION = 25,
       SCALE_MODE_A = 31,
       SCALE_MODE_B = 32,
};

/* ---- what tests ask of it -------------------------------------------------------------------- */

static char failing[64];
static int failing_status;
static cublaslt_fake_launch *launch_on;
static size_t n_products, n_alive;

EXPORT cublaslt_fake_fail_function cublaslt_fake_fail;
EXPORT void cublaslt_fake_fail(const char *name, int status)
{
    strncpy(failing, name, sizeof failing - 1);
    failing_status = status;
}

EXPORT cublaslt_fake_set_launch_function cublaslt_fake_set_launch;
EXPORT void cublaslt_fake_set_launch(cublaslt_fake_launch *launch)
{
    launch_on = launch;
}

EXPORT cublaslt_fake_count_function cublaslt_fake_products, cublaslt_fake_alive;
EXPORT size_t cublaslt_fake_products(void)
{
    return n_products;
}

EXPORT size_t cublaslt_fake_alive(void)
{
    return n_alive;
}

static int planted(const char *name)
{
    const char *variable = getenv("CUBLASLT_FAKE_FAIL");
    size_t length = strlen(name);
    if (variable && !strncmp(variable, name, length) && variable[length] == ':')
        return atoi(variable + length + 1);
    return strcmp(failing, name) == 0 ? failing_status : 0;
}

/* ---- objects --------------------------------------------------------------------------------- */

enum kind { HANDLE = 0x48414e44, DESCRIPTION, LAYOUT, PREFERENCE };

struct object {
    enum kind kind;
    /* of a layout */
    int type;
    uint64_t rows, columns;
    int64_t ld;
    /* of a description */
    int compute, scale_type, transpose_a, scale_mode_a, scale_mode_b;
    int8_t fast;
    const float *scale_a, *scale_b;
    /* of a preference */
    size_t workspace;
    uint32_t alignment[4]; /* of A, B, C, D */
};

static int make(void **out, enum kind kind)
{
    struct object *object = calloc(1, sizeof *object);
    if (!object)
        return ALLOC_FAILED;
    object->kind = kind;
    for (int i = 0; i < 4; i++)
        object->alignment[i] = 256;
    *out = object;
    n_alive++;
    return 0;
}

static int drop(void *what, enum kind kind)
{
    struct object *object = what;
    if (!object || object->kind != kind)
        return INVALID_VALUE;
    object->kind = 0;
    free(object);
    n_alive--;
    return 0;
}

static bool is_a(const void *what, enum kind kind)
{
    return what && ((const struct object *)what)->kind == kind;
}

/* ---- numbers --------------------------------------------------------------------------------- */

static double get(const void *data, const struct object *l, uint64_t row, uint64_t column)
{
    size_t at = (size_t)column * (size_t)l->ld + (size_t)row;
    uint32_t bits;
    float value;
    if (l->type == CUBLASLT_F8_E4M3) {
        uint8_t code = ((const uint8_t *)data)[at];
        int exponent = code >> 3 & 15, mantissa = code & 7;
        double size =
            exponent ? (8 + mantissa) * (double)(1u << exponent) / 1024 : mantissa / 512.0;
        return code & 0x80 ? -size : size;
    }
    if (l->type == CUBLASLT_BF16)
        bits = (uint32_t)((const uint16_t *)data)[at] << 16;
    else
        bits = ((const uint32_t *)data)[at];
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

/* To nearest even. */
static void set(void *data, const struct object *l, uint64_t row, uint64_t column, double value)
{
    size_t at = (size_t)column * (size_t)l->ld + (size_t)row;
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    if (l->type == CUBLASLT_F32)
        ((uint32_t *)data)[at] = bits;
    else
        ((uint16_t *)data)[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- functions ------------------------------------------------------------------------------- */

#define FUNCTION(name, ...)                                                                        \
    EXPORT int name(__VA_ARGS__);                                                                  \
    EXPORT int name(__VA_ARGS__)
#define PLANTED(name)                                                                              \
    do {                                                                                           \
        int planted_status = planted(name);                                                        \
        if (planted_status)                                                                        \
            return planted_status;                                                                 \
    } while (0)

EXPORT size_t cublasLtGetVersion(void);
EXPORT size_t cublasLtGetVersion(void)
{
    return 130002;
}

FUNCTION(cublasLtCreate, void **handle)
{
    PLANTED("cublasLtCreate");
    return make(handle, HANDLE);
}

FUNCTION(cublasLtDestroy, void *handle)
{
    return drop(handle, HANDLE);
}

FUNCTION(cublasLtMatmulDescCreate, void **out, int compute, int scale_type)
{
    PLANTED("cublasLtMatmulDescCreate");
    if (compute != CUBLASLT_COMPUTE_F32 || scale_type != CUBLASLT_F32)
        return NOT_SUPPORTED;
    int status = make(out, DESCRIPTION);
    if (!status) {
        ((struct object *)*out)->compute = compute;
        ((struct object *)*out)->scale_type = scale_type;
    }
    return status;
}

FUNCTION(cublasLtMatmulDescDestroy, void *description)
{
    return drop(description, DESCRIPTION);
}

FUNCTION(cublasLtMatmulDescSetAttribute, void *description, int attribute, const void *value,
         size_t size)
{
    PLANTED("cublasLtMatmulDescSetAttribute");
    struct object *o = description;
    const struct {
        int attribute;
        void *to;
        size_t size;
    } attributes[] = {
        {CUBLASLT_TRANSPOSE_A, &o->transpose_a, sizeof o->transpose_a},
        {SCALE_POINTER_A, &o->scale_a, sizeof o->scale_a},
        {SCALE_POINTER_B, &o->scale_b, sizeof o->scale_b},
        {FAST_ACCUMULATION, &o->fast, sizeof o->fast},
        {SCALE_MODE_A, &o->scale_mode_a, sizeof o->scale_mode_a},
        {SCALE_MODE_B, &o->scale_mode_b, sizeof o->scale_mode_b},
    };
    for (size_t i = 0; is_a(o, DESCRIPTION) && i < sizeof attributes / sizeof *attributes; i++)
        if (attributes[i].attribute == attribute && attributes[i].size == size) {
            memcpy(attributes[i].to, value, size);
            return 0;
        }
    return INVALID_VALUE;
}

FUNCTION(cublasLtMatrixLayoutCreate, void **out, int type, uint64_t rows, uint64_t columns,
         int64_t ld)
{
    PLANTED("cublasLtMatrixLayoutCreate");
    bool known = type == CUBLASLT_F32 || type == CUBLASLT_BF16 || type == CUBLASLT_F8_E4M3;
    if (!known || !rows || !columns || ld < (int64_t)rows)
        return INVALID_VALUE;
    int status = make(out, LAYOUT);
    if (!status) {
        struct object *layout = *out;
        layout->type = type;
        layout->rows = rows;
        layout->columns = columns;
        layout->ld = ld;
    }
    return status;
}

FUNCTION(cublasLtMatrixLayoutDestroy, void *layout)
{
    return drop(layout, LAYOUT);
}

FUNCTION(cublasLtMatmulPreferenceCreate, void **out)
{
    PLANTED("cublasLtMatmulPreferenceCreate");
    return make(out, PREFERENCE);
}

FUNCTION(cublasLtMatmulPreferenceDestroy, void *preference)
{
    return drop(preference, PREFERENCE);
}

FUNCTION(cublasLtMatmulPreferenceSetAttribute, void *preference, int attribute, const void *value,
         size_t size)
{
    PLANTED("cublasLtMatmulPreferenceSetAttribute");
    struct object *o = preference;
    if (!is_a(o, PREFERENCE))
        return INVALID_VALUE;
    if (attribute == CUBLASLT_WORKSPACE_BYTES && size == sizeof o->workspace) {
        memcpy(&o->workspace, value, size);
        return 0;
    }
    int which = attribute - CUBLASLT_ALIGNMENT_A;
    if (which < 0 || which > 3 || size != sizeof o->alignment[which])
        return INVALID_VALUE;
    memcpy(&o->alignment[which], value, size);
    return 0;
}

/* What is asked for is a product of weights [n, k] and x [m, k], row by row: A is k x n, transposed, B is k x m, and C
 * and D are n x m. */
static int check(const struct object *op, const struct object *a, const struct object *b,
                 const struct object *c, const struct object *d)
{
    if (!is_a(op, DESCRIPTION) || !is_a(a, LAYOUT) || !is_a(b, LAYOUT) || !is_a(c, LAYOUT) ||
        !is_a(d, LAYOUT))
        return INVALID_VALUE;
    bool fp8 = a->type == CUBLASLT_F8_E4M3;
    if (op->transpose_a != CUBLASLT_OPERATION_T || a->rows != b->rows || a->columns != d->rows ||
        b->columns != d->columns || c->rows != d->rows || c->columns != d->columns ||
        c->type != d->type || c->ld != d->ld || b->type != a->type)
        return INVALID_VALUE;
    if (fp8 ? d->type != CUBLASLT_BF16 : a->type != CUBLASLT_BF16 || d->type == CUBLASLT_F8_E4M3)
        return NOT_SUPPORTED;
    bool scales = op->scale_a && op->scale_b;
    bool modes = (op->scale_mode_a == 0 && op->scale_mode_b == 0) ||
                 (op->scale_mode_a == 5 && op->scale_mode_b == 4);
    if (fp8 ? !scales || !modes || a->rows % 16 : op->scale_a || op->scale_b || op->fast)
        return NOT_SUPPORTED;
    return 0;
}

enum { MARK, ROWS, COLUMNS, DEPTH, ALIGNMENTS, WORKSPACE }; /* what an algorithm's data are */

FUNCTION(cublasLtMatmulAlgoGetHeuristic, void *handle, void *description, void *a, void *b, void *c,
         void *d, void *preference, int wanted, struct cublaslt_proposal *proposals, int *n)
{
    PLANTED("cublasLtMatmulAlgoGetHeuristic");
    const struct object *A = a, *D = d, *prefer = preference;
    *n = 0;
    if (!is_a(handle, HANDLE) || !is_a(prefer, PREFERENCE) || wanted < 1)
        return INVALID_VALUE;
    int status = check(description, a, b, c, d);
    if (status)
        return status;
    if (D->columns == 13) /* none for so many rows */
        return NOT_SUPPORTED;
    size_t workspace = prefer->workspace < 4096 ? 0 : 4096;
    uint64_t alignments = 0;
    for (int i = 0; i < 4; i++)
        alignments = alignments << 16 | prefer->alignment[i];
    for (; *n < wanted && *n < 3; ++*n)
        proposals[*n] = (struct cublaslt_proposal){
            .algorithm = {{42, D->rows, D->columns, A->rows, alignments, workspace}},
            .workspace_size = workspace,
            .status = *n == 1 ? NOT_SUPPORTED : 0, /* the second is no good */
            .waves = 1,
        };
    return 0;
}

struct job {
    struct object a, b, d;
    const void *A, *B;
    void *D;
    float alpha, beta;
    struct job *next;
};

/* All that were ever made: a graph may come back to one. */
static struct job *jobs;

static void run(void *data)
{
    const struct job *job = data;
    for (uint64_t column = 0; column < job->d.columns; column++)
        for (uint64_t row = 0; row < job->d.rows; row++) {
            double sum = 0;
            for (uint64_t l = 0; l < job->a.rows; l++)
                sum += get(job->A, &job->a, l, row) * get(job->B, &job->b, l, column);
            sum *= (double)job->alpha;
            if (job->beta != 0)
                sum += (double)job->beta * get(job->D, &job->d, row, column);
            set(job->D, &job->d, row, column, sum);
        }
}

static bool aligned(const void *pointer, uint64_t alignments, int which)
{
    uint64_t alignment = alignments >> 16 * (3 - which) & 0xffff;
    return alignment && (uintptr_t)pointer % alignment == 0;
}

FUNCTION(cublasLtMatmul, void *handle, void *description, const void *alpha, const void *a,
         void *a_layout, const void *b, void *b_layout, const void *beta, const void *c,
         void *c_layout, void *d, void *d_layout, const struct cublaslt_algorithm *algorithm,
         void *workspace, size_t workspace_size, void *stream)
{
    PLANTED("cublasLtMatmul");
    const struct object *A = a_layout, *D = d_layout;
    int status = is_a(handle, HANDLE) ? check(description, a_layout, b_layout, c_layout, d_layout)
                                      : INVALID_VALUE;
    if (status)
        return status;
    const uint64_t *data = algorithm->data;
    if (data[MARK] != 42 || data[ROWS] != D->rows || data[COLUMNS] != D->columns ||
        data[DEPTH] != A->rows || c != d || !aligned(a, data[ALIGNMENTS], 0) ||
        !aligned(b, data[ALIGNMENTS], 1) || !aligned(c, data[ALIGNMENTS], 2) ||
        !aligned(d, data[ALIGNMENTS], 3) || workspace_size < data[WORKSPACE] ||
        (data[WORKSPACE] && !workspace))
        return INVALID_VALUE;
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return ALLOC_FAILED;
    *job = (struct job){*A,
                        *(const struct object *)b_layout,
                        *D,
                        a,
                        b,
                        d,
                        *(const float *)alpha,
                        *(const float *)beta,
                        jobs};
    jobs = job;
    n_products++;
    if (cuda_fake_submit(stream, run, job))
        return 0;
    if (launch_on && stream)
        return launch_on(stream, run, job) ? 13 /* execution failed */ : 0;
    run(job);
    return 0;
}
