/* gemm and grouped_gemm of GPUs, under emulation: a row has the same bits however many rows stand beside it, whatever
 * tiles the device's size asks for, and as an expert's row. rondo-check has the dtypes, shapes and ends of rows. */
#include "backend_cuda/gpu.h"
#include "core/dtype.h"
#include "core/error.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum scale { NONE, BLOCK, ROW, ACTIVATION };

static const struct kind {
    const char *name;
    enum rondo_dtype x, w;
    enum scale scale;
} kinds[] = {
    {"bf16 x bf16", RONDO_BF16, RONDO_BF16, NONE},
    {"bf16 x e4m3 block", RONDO_BF16, RONDO_F8_E4M3, BLOCK},
    {"bf16 x e4m3 row", RONDO_BF16, RONDO_F8_E4M3, ROW},
    {"e4m3 x e4m3 block", RONDO_F8_E4M3, RONDO_F8_E4M3, BLOCK},
    {"e4m3 x e4m3 row", RONDO_F8_E4M3, RONDO_F8_E4M3, ROW},
    {"e4m3 x bf16", RONDO_F8_E4M3, RONDO_BF16, NONE},
    {"f32 x bf16", RONDO_F32, RONDO_BF16, NONE},
};

static struct rondo_device *reference, *device;
static const char *device_name;
static uint64_t state = 7;

static _Noreturn void die(const char *what, const char *message)
{
    fprintf(stderr, "%s: %s\n", what, message);
    exit(1);
}

static uint32_t random_bits(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static int random_below(int n)
{
    return (int)(random_bits() % (uint32_t)n);
}

static float random_value(void)
{
    return (float)random_bits() * 0x1p-30f - 1.0f;
}

/* ---- memory on both devices -------------------------------------------------------------------------- */

struct both {
    void *host, *device;
    size_t size;
};

static struct both allocate(size_t size)
{
    struct both memory = {calloc(1, size), device->allocate(device, size), size};
    if (!memory.host || !memory.device)
        die("memory", "there is none left");
    return memory;
}

static void upload(const struct both *memory)
{
    device->write(device, memory->device, memory->host, memory->size);
}

static void release(struct both *memory)
{
    free(memory->host);
    device->release(device, memory->device);
}

struct matrix {
    struct both data, scale;
    struct rondo_tensor host, device;
};

/* `copies` matrices of rows x columns, one after the other, evenly spaced; the tensors are of the first. */
static struct matrix make_matrix(int copies, int rows, int columns, enum rondo_dtype dtype,
                                 enum scale kind)
{
    struct matrix m = {0};
    int blocks = (columns + RONDO_BLOCK - 1) / RONDO_BLOCK;
    int scale_rows = kind == BLOCK ? (rows + RONDO_BLOCK - 1) / RONDO_BLOCK : rows;
    int scale_columns = kind == ROW ? 1 : blocks;
    size_t n = (size_t)copies * (size_t)rows * (size_t)columns;
    size_t n_scales = (size_t)copies * (size_t)scale_rows * (size_t)scale_columns;
    m.data = allocate(n * rondo_dtype_size(dtype) + 1);
    m.scale = allocate(n_scales * sizeof(float) + 1);
    for (size_t i = 0; i < n; i++)
        rondo_store(m.data.host, dtype, i, random_value() * (dtype == RONDO_F8_E4M3 ? 8 : 1));
    for (size_t i = 0; i < n_scales; i++)
        ((float *)m.scale.host)[i] = 0.25f + fabsf(random_value());
    upload(&m.data);
    upload(&m.scale);
    m.host = rondo_tensor_2d(m.data.host, dtype, rows, columns, "matrix");
    if (kind != NONE) {
        m.host.scale = m.scale.host;
        m.host.scale_stride = scale_columns;
        m.host.scale_rows = kind == BLOCK ? RONDO_BLOCK : 1;
        m.host.scale_columns = kind == ROW ? columns : RONDO_BLOCK;
    }
    m.device = m.host;
    m.device.data = m.data.device;
    m.device.scale = kind == NONE ? NULL : m.scale.device;
    return m;
}

static void release_matrix(struct matrix *m)
{
    release(&m->data);
    release(&m->scale);
}

/* Rows first .. first + n of an input. */
static struct rondo_tensor take_rows(struct rondo_tensor x, int first, int n)
{
    x.data = rondo_tensor_row(&x, first);
    x.shape[0] = n;
    if (x.scale)
        x.scale += first * x.scale_stride;
    return x;
}

static struct rondo_tensor take_copy(struct rondo_tensor weight, int copy)
{
    int64_t blocks = (weight.shape[0] + RONDO_BLOCK - 1) / RONDO_BLOCK;
    weight.data = rondo_tensor_row(&weight, copy * weight.shape[0]);
    if (weight.scale)
        weight.scale +=
            copy * weight.scale_stride * (weight.scale_rows == 1 ? weight.shape[0] : blocks);
    return weight;
}

/* ---- running -------------------------------------------------------------------------------------------- */

/* Makes the device look as if it had so many multiprocessors: tiles are chosen to fill them. */
static void set_size(int multiprocessors)
{
    ((struct gpu_device *)device)->multiprocessors = multiprocessors;
}

/* out [rows, n] f32 of the device, read back. */
static void run_dense(float *out, struct rondo_tensor x, struct rondo_tensor weight,
                      const float *bias)
{
    int64_t rows = x.shape[0], n = weight.shape[0];
    struct both result = allocate((size_t)(rows * n) * sizeof(float) + 4);
    struct rondo_op_gemm op = {.x = x, .n_parts = 1};
    op.part[0].weight = weight;
    op.part[0].bias = bias;
    op.part[0].out = rondo_tensor_2d(result.device, RONDO_F32, rows, n, "out");
    device->ops.gemm(device, &op);
    device->synchronize(device);
    device->read(device, out, result.device, (size_t)(rows * n) * sizeof(float));
    release(&result);
}

static void expect_near(const char *what, const float *got, const float *want, size_t n)
{
    double difference = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        square += (double)want[i] * want[i];
    }
    EXPECT(difference <= 1e-11 * square, "%s: %s: NMSE %g", device_name, what, difference / square);
}

static void test_rows(const struct kind *kind, int n, int k)
{
    static const int sizes[] = {1, 132};
    static const int counts[] = {1, 8, 9, 17, 33, 64};
    enum { M = 80 };
    struct matrix x = make_matrix(1, M, k, kind->x, kind->x == RONDO_F8_E4M3 ? ACTIVATION : NONE);
    struct matrix weight = make_matrix(1, n, k, kind->w, kind->scale);
    struct matrix bias = make_matrix(1, 1, n, RONDO_F32, NONE);
    size_t total = (size_t)M * (size_t)n;
    float *whole = calloc(total, sizeof *whole), *part = calloc(total, sizeof *part);
    struct rondo_op_gemm op = {.x = x.host, .n_parts = 1};
    op.part[0].weight = weight.host;
    op.part[0].bias = bias.host.data;
    op.part[0].out = rondo_tensor_2d(part, RONDO_F32, M, n, "out");
    reference->ops.gemm(reference, &op);
    for (size_t s = 0; s < COUNT(sizes); s++) {
        set_size(sizes[s]);
        if (s == 0) {
            run_dense(whole, x.device, weight.device, bias.device.data);
            expect_near(kind->name, whole, part, total);
        }
        for (size_t i = 0; i < COUNT(counts); i++) {
            int first = random_below(M - counts[i] + 1);
            run_dense(part, take_rows(x.device, first, counts[i]), weight.device, bias.device.data);
            EXPECT(!memcmp(part, whole + (size_t)first * (size_t)n,
                           (size_t)counts[i] * (size_t)n * sizeof *part),
                   "%s: %s N=%d K=%d: rows %d to %d of %d differ alone, %d multiprocessors",
                   device_name, kind->name, n, k, first, first + counts[i], M, sizes[s]);
        }
    }
    free(whole);
    free(part);
    release_matrix(&x);
    release_matrix(&weight);
    release_matrix(&bias);
}

static const int32_t offsets[] = {0, 0, 3, 12, 12, 85, 86, 106}; /* rows of 7 experts */
enum { E = COUNT(offsets) - 1, R = 106, TOKENS = 40 };

/* Each expert's rows against the same product alone. */
static void expect_dense(const struct kind *kind, const float *out, const struct matrix *x,
                         struct rondo_tensor experts[2][E], const int32_t *gather)
{
    int n = (int)experts[0][0].shape[0];
    float *row = calloc((size_t)n, sizeof *row);
    for (int e = 0; e < E; e++)
        for (int p = 0; p < 2; p++)
            for (int r = offsets[e]; r < offsets[e + 1]; r += 1 + random_below(12)) {
                run_dense(row, take_rows(x->device, gather[r], 1), experts[p][e], NULL);
                EXPECT(!memcmp(row, out + (r * 2 + p) * n, (size_t)n * sizeof *row),
                       "%s: %s: row %d of expert %d, part %d, differs from the row alone",
                       device_name, kind->name, r, e, p);
            }
    free(row);
}

/* Of so many kinds with one dtype of x: in runs, which differ between the two parts. */
static void test_experts(const struct kind *kind, int n_kinds, int n, int k)
{
    static const int pattern[2][E] = {{0, 0, 1, 1, 1, 2, 0}, {0, 1, 1, 1, 2, 2, 2}};

    struct matrix x =
        make_matrix(1, TOKENS, k, kind->x, kind->x == RONDO_F8_E4M3 ? ACTIVATION : NONE);
    struct matrix weight[2][3];
    struct rondo_tensor experts[2][E];
    struct both lists = allocate((E + 1 + R) * sizeof(int32_t));
    int32_t *gather = (int32_t *)lists.host + E + 1;
    memcpy(lists.host, offsets, sizeof offsets);
    for (int r = 0; r < R; r++)
        gather[r] = random_below(TOKENS);
    upload(&lists);
    for (int p = 0; p < 2; p++) {
        for (int i = 0; i < n_kinds; i++)
            weight[p][i] = make_matrix(E, n, k, kind[i].w, kind[i].scale);
        for (int e = 0; e < E; e++)
            experts[p][e] = take_copy(weight[p][pattern[p][e] % n_kinds].device, e);
    }
    struct both out = allocate((size_t)R * 2 * (size_t)n * sizeof(float));
    struct rondo_op_grouped_gemm op = {.x = x.device,
                                       .weight = {experts[0], experts[1]},
                                       .n_parts = 2,
                                       .n_experts = E,
                                       .mixed = n_kinds > 1,
                                       .offsets = lists.device,
                                       .gather = (const int32_t *)lists.device + E + 1,
                                       .n_rows = R};
    op.out = rondo_tensor_2d(out.device, RONDO_F32, R, 2 * n, "out");
    for (int size = 1; size <= 132; size += 131) {
        set_size(size);
        device->write(device, out.device, memset(out.host, 0xff, out.size), out.size);
        device->ops.grouped_gemm(device, &op);
        device->synchronize(device);
        device->read(device, out.host, out.device, out.size);
        expect_dense(kind, out.host, &x, experts, gather);
    }
    release(&lists);
    release(&out);
    release_matrix(&x);
    for (int i = 0; i < 2 * n_kinds; i++)
        release_matrix(&weight[i % 2][i / 2]);
}

static void test_device(const char *name)
{
    struct rondo_error error;
    device_name = name;
    device = rondo_device_open(name, NULL, &error);
    if (!device)
        die(name, error.message);
    struct rondo_limits limits = {.tokens = 256, .experts = E, .max_k = 2048, .max_n = 2048};
    if (device->reserve(device, &limits, &error) != RONDO_OK)
        die(name, error.message);
    for (size_t i = 0; i < COUNT(kinds); i++) {
        test_rows(&kinds[i], 72, 272);
        test_rows(&kinds[i], 35, 90);
        test_experts(&kinds[i], 1, 24, 144);
    }
    test_experts(&kinds[0], 3, 24, 144); /* x bf16 */
    test_experts(&kinds[3], 3, 24, 144); /* x e4m3 */
    rondo_device_close(device);
}

int main(void)
{
    static const char *const names[] = {"simt:0", "simt:1", "simt:2", "simt_hip64:0"};
    struct rondo_error error;
    reference = rondo_device_open("cpu:ref", NULL, &error);
    if (!reference)
        die("cpu:ref", error.message);
    for (size_t i = 0; i < COUNT(names); i++)
        test_device(names[i]);
    rondo_device_close(reference);
    return test_result();
}
