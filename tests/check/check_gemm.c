/* Checks of gemm and grouped_gemm: every pair of dtypes, ragged sizes, every fill, several parts, experts
 * without rows, and weights that end where their mapping ends. */
#include "tests/check/bench_gemm.h"
#include "tests/check/internal.h"

#include "core/dtype.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const struct {
    enum rondo_dtype dtype;
    enum check_scale scale;
} weights[] = {
    {RONDO_F32, CHECK_SCALE_NONE},    {RONDO_BF16, CHECK_SCALE_NONE},
    {RONDO_F16, CHECK_SCALE_NONE},    {RONDO_F8_E4M3, CHECK_SCALE_BLOCK},
    {RONDO_F8_E4M3, CHECK_SCALE_ROW},
};
static const char *const scale_names[] = {"", " block", " row", ""};

static const struct {
    enum rondo_dtype dtype;
    enum check_scale scale;
} inputs[] = {{RONDO_F32, CHECK_SCALE_NONE},
              {RONDO_BF16, CHECK_SCALE_NONE},
              {RONDO_F8_E4M3, CHECK_SCALE_ACTIVATION}};

static const int32_t row_counts[] = {0, 1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 14, 15, 16, 29, 31, 64};
static const int32_t widths[] = {1,   2,   3,   5,   15,  16,  17,  31,  63,  64,  65,  100,
                                 127, 128, 129, 130, 191, 255, 256, 257, 300, 517, 640, 1030};
static const int32_t channels[] = {1,  3,  7,  8,  15,  16,  17,  31, 32,
                                   33, 63, 64, 65, 127, 128, 129, 200};

/* One bf16 value may be half a unit of its last place from the exact one: 2^-16 in squares. */
#define ROUNDED 1.6e-5

/* FP8 tensor cores keep about 14 bits of a sum; the emulator's, and a CPU, all of it. */
static double tolerance(const struct check *check, const struct check_tensor *x,
                        const struct check_tensor *out)
{
    bool emulated =
        strncmp(check->device_name, "cpu", 3) == 0 || strncmp(check->device_name, "simt", 4) == 0;
    bool loose = out->host.dtype == RONDO_BF16 || (x->host.dtype == RONDO_F8_E4M3 && !emulated);
    return loose ? 1e-5 : 1e-11;
}

#define PICK(check, array) (array)[check_random(check) % COUNT(array)]

struct shape {
    int32_t rows, n, k;
    int input, weight; /* indices into inputs and weights */
    enum check_fill fill;
    int32_t parts;
    bool residual, outliers;
    enum { VANISHES_NOT, VANISHING_X, VANISHING_W } vanishing; /* products are subnormal */
};

/* The part of an output before residual and rounding, in double. The squares of what it sums are added to
 * *energy. */
static double dot_double(const struct rondo_tensor *x, int64_t row,
                         const struct rondo_tensor *weight, int64_t n, const float *bias,
                         double *energy)
{
    double sum = bias ? bias[n] : 0;
    *energy += sum * sum;
    for (int64_t k = 0; k < rondo_tensor_columns(x); k++) {
        double a = rondo_load(rondo_tensor_row(x, row), x->dtype, (size_t)k);
        double b = rondo_load(rondo_tensor_row(weight, n), weight->dtype, (size_t)k);
        if (x->scale)
            a *= x->scale[row * x->scale_stride + k / x->scale_columns];
        if (weight->scale)
            b *= weight->scale[n / weight->scale_rows * weight->scale_stride +
                               k / weight->scale_columns];
        sum += a * b;
        *energy += a * b * a * b;
    }
    return sum;
}

/* Whether single precision is near double: no product falls out of its range, and the error is not that of
 * one large output. */
static bool comparable(const struct shape *s)
{
    return !s->outliers && !s->vanishing && (s->fill == CHECK_UNIFORM || s->fill == CHECK_NORMAL);
}

/* Values in some blocks of x that leave the range in which weights may stay scaled. */
static void add_outliers(struct check *check, struct check_tensor *x)
{
    int64_t rows = rondo_tensor_rows(&x->host), columns = rondo_tensor_columns(&x->host);
    for (int64_t i = 0; i < rows * columns / 100 + 1 && rows > 0; i++)
        rondo_store(rondo_tensor_row(&x->host, check_random_range(check, 0, (int32_t)rows - 1)),
                    x->host.dtype, check_random(check) % (uint64_t)columns,
                    (float)check_random_range(check, 200, 400));
    check_upload(check, x->buffer);
}

/* A tensor that is bf16 becomes numbers from 2^-125 to 2^-124, of its signs. */
static void make_vanish(struct check *check, struct check_tensor *x)
{
    int64_t rows = rondo_tensor_rows(&x->host), columns = rondo_tensor_columns(&x->host);
    for (int64_t i = 0; i < rows * columns && x->host.dtype == RONDO_BF16; i++) {
        void *row = rondo_tensor_row(&x->host, i / columns);
        float value = rondo_load(row, RONDO_BF16, (size_t)(i % columns));
        float magnitude = (1.0f + (float)(i % 127) / 128.0f) * 0x1p-125f;
        rondo_store(row, RONDO_BF16, (size_t)(i % columns), value < 0 ? -magnitude : magnitude);
    }
    check_upload(check, x->buffer);
}

static struct check_tensor *output(struct check *check, enum rondo_dtype dtype, int64_t rows,
                                   int64_t n, bool residual)
{
    int64_t gap = check_random_range(check, 0, 3);
    if (!residual)
        return check_tensor_output(check, dtype, rows, n, gap, CHECK_SCALE_NONE, "out");
    struct check_tensor *out =
        check_tensor(check, dtype, rows, n, gap, CHECK_SCALE_NONE, CHECK_NORMAL, "out");
    out->buffer->constant = false;
    return out;
}

/* ---- gemm ------------------------------------------------------------------------------------ */

static void gemm_double(struct check *check, const struct shape *s, const struct check_tensor *x,
                        const struct check_tensor *weight, const struct check_buffer *bias,
                        struct check_tensor *out)
{
    double energy = 0;
    double *expected =
        check_allocate(check, ((size_t)s->rows * (size_t)s->n + 1) * sizeof *expected);
    for (int64_t m = 0; m < s->rows; m++)
        for (int64_t n = 0; n < s->n; n++) {
            double y = dot_double(&x->host, m, &weight->host, n, bias ? bias->host : NULL, &energy);
            if (s->residual)
                y += rondo_tensor_at(&out->host, m, n);
            expected[m * s->n + n] = y;
        }
    check_energy(check, energy);
    check_compare_double(check, out, expected, NULL,
                         out->host.dtype == RONDO_BF16 ? ROUNDED : 1e-11);
}

/* Errors of a few outputs, whose sums may all nearly cancel, are measured against what is summed. */
static void measure_few(struct check *check, const struct check_tensor *x,
                        const struct check_tensor *weight, const struct check_buffer *bias)
{
    double energy = 0;
    int64_t rows = rondo_tensor_rows(&x->host), n_channels = rondo_tensor_rows(&weight->host);
    if (rows * n_channels > 16)
        return;
    for (int64_t m = 0; m < rows; m++)
        for (int64_t n = 0; n < n_channels; n++)
            dot_double(&x->host, m, &weight->host, n, bias ? bias->host : NULL, &energy);
    check_energy(check, energy);
}

static void gemm_case(struct check *check, const struct shape *s)
{
    check_case(check, "M=%d N=%d K=%d x %s, W %s%s, %d parts, %s%s%s", s->rows, s->n, s->k,
               rondo_dtype_name(inputs[s->input].dtype), rondo_dtype_name(weights[s->weight].dtype),
               scale_names[weights[s->weight].scale], s->parts, check_fill_name(s->fill),
               s->residual ? ", residual" : "",
               s->outliers                   ? ", outliers"
               : s->vanishing == VANISHING_X ? ", vanishing x"
               : s->vanishing == VANISHING_W ? ", vanishing W"
                                             : "");
    struct check_tensor *x =
        check_tensor(check, inputs[s->input].dtype, s->rows, s->k, check_random_range(check, 0, 3),
                     inputs[s->input].scale, s->fill, "x");
    if (s->outliers)
        add_outliers(check, x);
    if (s->vanishing == VANISHING_X)
        make_vanish(check, x);
    struct check_tensor *weight[4], *out[4];
    struct check_buffer *bias[4];
    struct rondo_op_gemm op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_gemm){
            .x = x->side[side], .n_parts = s->parts, .residual = s->residual};
    for (int p = 0; p < s->parts; p++) {
        /* The first part is as the case says, the others are whatever may stand beside it. */
        int w = p ? (int)(check_random(check) % COUNT(weights)) : s->weight;
        int32_t n = p ? PICK(check, channels) : s->n;
        bool half = !s->residual && check_random(check) & 1;
        weight[p] =
            check_tensor(check, weights[w].dtype, n, s->k, 0, weights[w].scale, s->fill, "W");
        if (s->vanishing == VANISHING_W)
            make_vanish(check, weight[p]);
        bias[p] = check_random(check) & 1 ? check_floats(check, n, CHECK_NORMAL, "bias") : NULL;
        out[p] = output(check, half ? RONDO_BF16 : RONDO_F32, s->rows, n, s->residual);
        for (int side = 0; side < 2; side++)
            op[side].part[p] = (struct rondo_gemm_part){
                .weight = weight[p]->side[side],
                .bias = bias[p] ? bias[p]->data[side] : NULL,
                .out = out[p]->side[side],
            };
    }
    check_run(check, RONDO_OP_GEMM, &op[0], &op[1]);
    for (int p = 0; p < s->parts; p++) {
        measure_few(check, x, weight[p], bias[p]);
        check_compare(check, out[p], NULL, tolerance(check, x, out[p]));
    }
    if (check->is_reference && comparable(s))
        gemm_double(check, s, x, weight[0], bias[0], out[0]);
}

/* A weight whose last byte is the last one that may be read: as at the end of a mapped file. */
static void mapped_case(struct check *check, const struct shape *s)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = (size_t)s->n * (size_t)s->k * rondo_dtype_size(weights[s->weight].dtype);
    size_t size = (bytes + page - 1) / page * page;
    check_case(check, "M=%d N=%d K=%d W %s%s, at the end of a mapping", s->rows, s->n, s->k,
               rondo_dtype_name(weights[s->weight].dtype), scale_names[weights[s->weight].scale]);
    struct check_tensor *x =
        check_tensor(check, RONDO_F32, s->rows, s->k, 0, CHECK_SCALE_NONE, CHECK_NORMAL, "x");
    struct check_tensor *weight = check_tensor(check, weights[s->weight].dtype, s->n, s->k, 0,
                                               weights[s->weight].scale, CHECK_NORMAL, "W");
    struct check_tensor *out =
        check_tensor_output(check, RONDO_F32, s->rows, s->n, 0, CHECK_SCALE_NONE, "out");
    char *mapping =
        mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED || mprotect(mapping + size, page, PROT_NONE) != 0) {
        check_fail(check, "no memory for a mapping of %zu bytes", size + page);
        return;
    }
    memcpy(mapping + size - bytes, weight->buffer->host, bytes);
    struct rondo_op_gemm op[2];
    for (int side = 0; side < 2; side++) {
        op[side] = (struct rondo_op_gemm){.x = x->side[side], .n_parts = 1};
        op[side].part[0].weight = weight->side[side];
        op[side].part[0].out = out->side[side];
    }
    op[CHECK_TESTED].part[0].weight.data = mapping + size - bytes;
    check_run(check, RONDO_OP_GEMM, &op[0], &op[1]);
    check_compare(check, out, NULL, 1e-11);
    munmap(mapping, size + page);
}

/* Sets a matrix of zeros of both signs up: code first + r, unless it is `but`, in row r and in that column. The last
 * row is of ones. */
static struct check_tensor *diagonal(struct check *check, int32_t rows, int first, int but,
                                     enum check_scale scale, const char *name)
{
    struct check_tensor *tensor =
        check_tensor(check, RONDO_F8_E4M3, rows + 1, 256, 0, scale, CHECK_ZEROS, name);
    uint8_t *codes = tensor->buffer->host;
    for (int r = 0; r < rows; r++)
        if (((first + r) & 0x7f) != but)
            codes[r * tensor->host.row_stride + first + r] = (uint8_t)(first + r);
    for (int i = 0; i < 256; i++)
        rondo_store(codes + rows * tensor->host.row_stride, RONDO_F8_E4M3, (size_t)i, 1.0f);
    check_upload(check, tensor->buffer);
    return tensor;
}

/* Codes first .. first + rows of x, and all codes of W that are not NaN: each sum has one product that is not zero
 * (or 256, in the last row), so that nothing hides behind larger values. */
static void codes_case(struct check *check, int32_t rows, int first)
{
    check_case(check, "codes %d .. %d of x, all of W", first, first + rows - 1);
    struct check_tensor *x = diagonal(check, rows, first, -1, CHECK_SCALE_ACTIVATION, "x");
    struct check_tensor *weight = diagonal(check, 256, 0, 0x7f, CHECK_SCALE_BLOCK, "W");
    struct check_tensor *out =
        check_tensor_output(check, RONDO_F32, rows + 1, 257, 0, CHECK_SCALE_NONE, "out");
    struct rondo_op_gemm op[2];
    for (int side = 0; side < 2; side++) {
        op[side] = (struct rondo_op_gemm){.x = x->side[side], .n_parts = 1};
        op[side].part[0].weight = weight->side[side];
        op[side].part[0].out = out->side[side];
    }
    check_run(check, RONDO_OP_GEMM, &op[0], &op[1]);
    check_compare(check, out, NULL, 1e-11);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t n = 0; n < 257; n++) {
            int64_t at = r * out->host.row_stride + n;
            float want = ((float *)out->buffer->result[CHECK_REFERENCE])[at];
            float got = ((float *)out->buffer->result[CHECK_TESTED])[at];
            bool nan = rondo_e4m3_is_nan((uint8_t)(first + r));
            if (nan != isnan(want) || nan != isnan(got) || (!nan && got != want)) {
                check_fail(check, "code %d of x by row %d of W: got %.9g, want %.9g",
                           first + (int)r, (int)n, (double)got, (double)want);
                return;
            }
        }
}

static struct shape random_shape(struct check *check)
{
    return (struct shape){
        .rows = PICK(check, row_counts),
        .n = PICK(check, channels),
        .k = PICK(check, widths),
        .input = (int)(check_random(check) % COUNT(inputs)),
        .weight = (int)(check_random(check) % COUNT(weights)),
        .fill = (enum check_fill)(check_random(check) % CHECK_FILLS),
        .parts = 1,
        .residual = check_random(check) & 1,
        .outliers = check_random(check) % 4 == 0,
    };
}

/* Few rows, and a weight that streams on a CPU: see backend_cpu/gemm_internal.h. */
static struct shape streamed_shape(struct check *check, int i)
{
    static const int32_t k[] = {128, 384, 512, 640, 1152, 2048, 2560}, n[] = {32, 64, 96, 128, 160};
    struct shape s = random_shape(check);
    s.weight = i % (int)COUNT(weights);
    s.rows = 1 + i / (int)COUNT(weights) % 3;
    s.fill = (enum check_fill)(i / (int)COUNT(weights) / 3 % CHECK_FILLS);
    s.k = PICK(check, k);
    s.n = PICK(check, n);
    s.parts = check_random_range(check, 1, 4);
    bool vanishes = check->in_place && s.input == 1 && i % 2 == 0;
    s.vanishing = !vanishes ? VANISHES_NOT : i % 4 ? VANISHING_W : VANISHING_X;
    s.residual = s.residual && !s.vanishing;
    return s;
}

static void check_gemm(struct check *check)
{
    struct rondo_limits limits = {.tokens = 320, .max_k = 2560, .max_n = 8192};
    check_reserve(check, &limits);
    for (int i = 0; i < (int)(COUNT(inputs) * COUNT(weights)) * CHECK_FILLS; i++) {
        struct shape s = random_shape(check);
        s.input = i % (int)COUNT(inputs);
        s.weight = i / (int)COUNT(inputs) % (int)COUNT(weights);
        s.fill = (enum check_fill)(i / (int)(COUNT(inputs) * COUNT(weights)));
        for (int part = 0; part < 2; part++) { /* few rows, many rows */
            s.rows = part ? check_random_range(check, 4, 20) : check_random_range(check, 1, 3);
            s.k = PICK(check, widths);
            gemm_case(check, &s);
        }
    }
    for (size_t i = 0; i < COUNT(row_counts) + COUNT(widths) + COUNT(channels); i++) {
        struct shape s = random_shape(check);
        if (i < COUNT(row_counts))
            s.rows = row_counts[i];
        else if (i < COUNT(row_counts) + COUNT(widths))
            s.k = widths[i - COUNT(row_counts)];
        else
            s.n = channels[i - COUNT(row_counts) - COUNT(widths)];
        s.parts = check_random_range(check, 1, 4);
        gemm_case(check, &s);
    }
    for (int i = 0; i < (int)COUNT(weights) * 3 * CHECK_FILLS; i++) {
        struct shape s = streamed_shape(check, i);
        if (check->in_place || i % 4 == 0)
            gemm_case(check, &s);
    }
    for (int i = 0; i < (int)COUNT(weights) * 4 && check->in_place; i++) {
        struct shape s = streamed_shape(check, i);
        s.rows = check_random_range(check, 4, 20); /* in pairs of bf16, where those are taken */
        s.input = 1;
        s.vanishing = i / (int)COUNT(weights) % 3;
        s.residual = s.residual && !s.vanishing;
        gemm_case(check, &s);
    }
    static const int32_t streamed[] = {128, 384, 512};
    for (int i = 0; i < (int)COUNT(weights) * 8 && check->in_place; i++) {
        struct shape s = random_shape(check);
        s.rows = i & 1 ? check_random_range(check, 1, 3) : check_random_range(check, 4, 9);
        s.weight = i / 8;
        if (i % 4 == 3) {
            s.n =
                i % 8 == 3 ? 32 : 45; /* one streams, the other would if its last tile were whole */
            s.k = PICK(check, streamed);
        }
        mapped_case(check, &s);
    }
    for (int first = 0; first < 256; first += 64) { /* tiles, strips of several heights */
        codes_case(check, 63, first);
        codes_case(check, 15, first + 49);
    }
    codes_case(check, 256, 0);
    /* More rows, channels and columns than one block of the work holds. */
    for (int i = 0; i < 6; i++) {
        struct shape s = random_shape(check);
        s.rows = i < 3 ? 3 + 2 * (i & 1) : 300;
        s.n = i < 3 ? 4500 : 70;
        s.k = i < 3 ? 40 : 1100;
        s.weight = i % (int)COUNT(weights);
        gemm_case(check, &s);
    }
    if (check->bench)
        bench_gemm(check);
}

/* ---- grouped_gemm ---------------------------------------------------------------------------- */

struct groups {
    struct shape shape;
    int32_t experts, tokens; /* tokens: rows of x when the rows are gathered, else 0 */
    int32_t most;            /* rows of an expert at most */
    bool mixed;              /* runs of experts differ in dtype or scales */
};

static struct check_buffer *integers(struct check *check, const int32_t *values, int32_t n,
                                     const char *name)
{
    return check_input(check, values, (size_t)n * sizeof *values, name);
}

struct expert_weights {
    struct check_tensor *weight;  /* [E] */
    struct check_buffer *bias;    /* [E, bias_stride] or NULL */
    struct rondo_tensor *side[2]; /* [E] */
    const float **side_bias[2];   /* [E] or NULL */
    int64_t bias_stride;
};

/* Evenly spaced, as core/ops.h asks for devices without host memory in place; of mixed ones each run is so. */
static struct check_tensor *make_matrices(struct check *check, const struct groups *g)
{
    struct check_tensor *all = check_allocate(check, (size_t)g->experts * sizeof *all);
    int kind = g->shape.weight;
    for (int32_t first = 0, run = g->experts; first < g->experts; first += run) {
        if (g->mixed)
            run = check_random_range(check, 1, g->experts - first < 4 ? g->experts - first : 4);
        memcpy(all + first,
               check_tensors(check, run, weights[kind].dtype, g->shape.n, g->shape.k,
                             weights[kind].scale, g->shape.fill, "W"),
               (size_t)run * sizeof *all);
        kind = (kind + check_random_range(check, 1, COUNT(weights) - 1)) % (int)COUNT(weights);
    }
    return all;
}

static struct expert_weights make_experts(struct check *check, const struct groups *g, bool biased)
{
    struct expert_weights w = {0};
    size_t n = (size_t)g->experts;
    w.weight = make_matrices(check, g);
    if (biased)
        w.bias =
            check_float_rows(check, g->experts, g->shape.n, CHECK_NORMAL, "bias", &w.bias_stride);
    for (int side = 0; side < 2; side++) {
        w.side[side] = check_allocate(check, n * sizeof(struct rondo_tensor));
        w.side_bias[side] = biased ? check_allocate(check, n * sizeof(void *)) : NULL;
        for (size_t e = 0; e < n; e++) {
            w.side[side][e] = w.weight[e].side[side];
            if (biased)
                w.side_bias[side][e] =
                    (const float *)w.bias->data[side] + e * (size_t)w.bias_stride;
        }
    }
    return w;
}

static const float *expert_bias(const struct expert_weights *w, int32_t expert)
{
    return w->bias ? (const float *)w->bias->host + expert * w->bias_stride : NULL;
}

static void grouped_double(struct check *check, const struct groups *g,
                           const struct check_tensor *x, const struct expert_weights *experts,
                           const int32_t *offsets, const int32_t *gather, struct check_tensor *out)
{
    int64_t columns = rondo_tensor_columns(&out->host);
    double energy = 0;
    double *expected =
        check_allocate(check, ((size_t)g->shape.rows * (size_t)columns + 1) * sizeof *expected);
    for (int32_t p = 0; p < g->shape.parts; p++)
        for (int32_t e = 0; e < g->experts; e++)
            for (int32_t r = offsets[e]; r < offsets[e + 1]; r++)
                for (int32_t n = 0; n < g->shape.n; n++)
                    expected[r * columns + p * g->shape.n + n] =
                        dot_double(&x->host, gather ? gather[r] : r, &experts[p].weight[e].host, n,
                                   expert_bias(&experts[p], e), &energy);
    check_energy(check, energy);
    check_compare_double(check, out, expected, NULL,
                         out->host.dtype == RONDO_BF16 ? ROUNDED : 1e-11);
}

static void grouped_case(struct check *check, struct groups *g)
{
    struct shape *s = &g->shape;
    check_case(check, "E=%d N=%d K=%d T=%d x %s, W %s%s%s, %d parts, %s", g->experts, s->n, s->k,
               g->tokens, rondo_dtype_name(inputs[s->input].dtype),
               rondo_dtype_name(weights[s->weight].dtype), scale_names[weights[s->weight].scale],
               g->mixed ? " and others" : "", s->parts, check_fill_name(s->fill));
    int32_t *offsets = check_allocate(check, ((size_t)g->experts + 1) * sizeof *offsets);
    for (int32_t e = 0; e < g->experts; e++) /* half of them have no rows */
        offsets[e + 1] =
            offsets[e] + (check_random(check) & 1 ? 0 : check_random_range(check, 0, g->most));
    s->rows = offsets[g->experts];
    int32_t *gather =
        g->tokens ? check_allocate(check, ((size_t)s->rows + 1) * sizeof *gather) : NULL;
    for (int32_t r = 0; r < s->rows && gather; r++)
        gather[r] = check_random_range(check, 0, g->tokens - 1);
    struct check_tensor *x =
        check_tensor(check, inputs[s->input].dtype, gather ? g->tokens : s->rows, s->k,
                     check_random_range(check, 0, 3), inputs[s->input].scale, s->fill, "x");
    if (s->outliers)
        add_outliers(check, x);
    struct check_tensor *out = output(check, check_random(check) & 1 ? RONDO_BF16 : RONDO_F32,
                                      s->rows, (int64_t)s->parts * s->n, false);
    struct check_buffer *offset_buffer = integers(check, offsets, g->experts + 1, "offsets");
    struct check_buffer *gather_buffer = gather ? integers(check, gather, s->rows, "gather") : NULL;
    struct expert_weights experts[2];
    struct rondo_op_grouped_gemm op[2];
    for (int p = 0; p < s->parts; p++)
        experts[p] = make_experts(check, g, check_random(check) & 1);
    for (int side = 0; side < 2; side++) {
        op[side] = (struct rondo_op_grouped_gemm){
            .x = x->side[side],
            .n_parts = s->parts,
            .n_experts = g->experts,
            .mixed = g->mixed,
            .offsets = offset_buffer->data[side],
            .gather = gather ? gather_buffer->data[side] : NULL,
            .n_rows = s->rows,
            .out = out->side[side],
        };
        for (int p = 0; p < s->parts; p++) {
            op[side].weight[p] = experts[p].side[side];
            op[side].bias[p] = experts[p].side_bias[side];
        }
    }
    check_run(check, RONDO_OP_GROUPED_GEMM, &op[0], &op[1]);
    check_compare(check, out, NULL, tolerance(check, x, out));
    if (check->is_reference && comparable(s))
        grouped_double(check, g, x, experts, offsets, gather, out);
}

static void check_grouped_gemm(struct check *check)
{
    struct rondo_limits limits = {
        .tokens = 64, .experts = 16, .experts_per_token = 8, .max_k = 2048, .max_n = 1024};
    check_reserve(check, &limits);
    for (int i = 0; i < (int)COUNT(weights) * 36; i++) {
        struct groups g = {.shape = random_shape(check),
                           .mixed = i >= (int)COUNT(weights) * 24,
                           .experts = check_random_range(check, 1, 9),
                           .tokens = check_random(check) & 1 ? check_random_range(check, 1, 20) : 0,
                           .most = i % 3 == 0   ? 1
                                   : i % 3 == 1 ? 6
                                                : 40};
        g.shape.weight = i % (int)COUNT(weights);
        g.shape.parts = check_random_range(check, 1, 2);
        if (check->in_place && i % 3 < 2 && i % 2 == 0) { /* weights that stream on a CPU */
            g.shape.n = 32 * check_random_range(check, 1, 3);
            g.shape.k = 512 * check_random_range(check, 1, 3);
        }
        grouped_case(check, &g);
    }
    if (check->bench)
        bench_grouped_gemm(check);
}

const struct check_family check_family_gemm = {
    .name = "gemm",
    .ops = {{"gemm", check_gemm}, {"grouped_gemm", check_grouped_gemm}},
};
