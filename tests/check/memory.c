/* Memory of a check: random numbers, buffers between guard zones on both devices, filled
 * tensors. */
#include "tests/check/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 0xff reads as NaN in every floating dtype: what is read outside of a tensor shows in the
 * results, too. */
#define GUARD_BYTE 0xff
#define GUARD_SIZE 256
#define ALIGNMENT 16 /* bytes, of tensors on devices */

/* ---- random numbers -------------------------------------------------------------------------- */

uint64_t check_random(struct check *check) /* splitmix64 */
{
    uint64_t z = check->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int32_t check_random_range(struct check *check, int32_t low, int32_t high)
{
    return low + (int32_t)(check_random(check) % (uint64_t)((int64_t)high - low + 1));
}

double check_random_uniform(struct check *check)
{
    return (double)(check_random(check) >> 11) * 0x1p-53;
}

/* Nearly: the sum of four uniform numbers, scaled; at most 3.46. A logarithm and a cosine of each would cost more than
 * most of the products that are checked. */
double check_random_normal(struct check *check)
{
    uint64_t bits = check_random(check);
    double sum = (double)(bits & 0xffff) + (double)(bits >> 16 & 0xffff) +
                 (double)(bits >> 32 & 0xffff) + (double)(bits >> 48);
    return (sum - 2 * 65535.0) * (0x1p-16 * 1.7320508075688772);
}

/* ---- buffers --------------------------------------------------------------------------------- */

/* Everything a case allocated, newest first. */
struct check_memory {
    struct check_memory *next;
    void *block;                /* malloc'ed, or NULL */
    struct check_buffer buffer; /* size and addresses, when block is NULL */
};

static void *must(void *memory)
{
    if (!memory) {
        fputs("rondo-check: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static struct check_memory *link_memory(struct check *check)
{
    struct check_memory *memory = must(calloc(1, sizeof *memory));
    memory->next = check->memory;
    check->memory = memory;
    return memory;
}

void *check_allocate(struct check *check, size_t size)
{
    struct check_memory *memory = link_memory(check);
    memory->block = must(calloc(1, size ? size : 1));
    return memory->block;
}

struct check_buffer *check_buffer(struct check *check, size_t size, const char *name)
{
    struct check_memory *memory = link_memory(check);
    struct check_buffer *buffer = &memory->buffer;
    *buffer = (struct check_buffer){.size = size, .name = name};
    buffer->host = check_allocate(check, size);
    char *guards = must(malloc(size + 2 * GUARD_SIZE));
    memset(guards, GUARD_BYTE, size + 2 * GUARD_SIZE);
    for (int side = 0; side < 2; side++) {
        struct rondo_device *device = check->device[side];
        char *data = must(device->allocate(device, size + 2 * GUARD_SIZE));
        device->write(device, data, guards, size + 2 * GUARD_SIZE);
        buffer->data[side] = data + GUARD_SIZE;
        buffer->result[side] = check_allocate(check, size);
    }
    free(guards);
    return buffer;
}

void check_upload(struct check *check, struct check_buffer *buffer)
{
    for (int side = 0; side < 2; side++)
        rondo_device_write_weight(check->device[side], buffer->weights ? RONDO_F8_E4M3 : RONDO_F32,
                                  buffer->data[side], buffer->host, buffer->size);
}

void check_download(struct check *check, struct check_buffer *buffer)
{
    for (int side = 0; side < 2; side++)
        check->device[side]->read(check->device[side], buffer->result[side], buffer->data[side],
                                  buffer->size);
}

struct check_buffer *check_input(struct check *check, const void *data, size_t size,
                                 const char *name)
{
    struct check_buffer *buffer = check_buffer(check, size, name);
    if (size)
        memcpy(buffer->host, data, size);
    buffer->constant = true;
    check_upload(check, buffer);
    return buffer;
}

struct check_buffer *check_output(struct check *check, size_t size, const char *name)
{
    struct check_buffer *buffer = check_buffer(check, size, name);
    memset(buffer->host, GUARD_BYTE, size);
    return buffer;
}

/* Looks at the guard zones of a buffer, and at its bytes when it is constant. */
static void check_intact(struct check *check, struct check_buffer *buffer, int side)
{
    struct rondo_device *device = check->device[side];
    unsigned char guard[2][GUARD_SIZE];
    char *data = buffer->data[side];
    device->read(device, guard[0], data - GUARD_SIZE, GUARD_SIZE);
    device->read(device, guard[1], data + buffer->size, GUARD_SIZE);
    const char *who = side == CHECK_REFERENCE ? "the reference" : check->device_name;
    for (int end = 0; end < 2; end++)
        for (int i = 0; i < GUARD_SIZE; i++)
            if (guard[end][i] != GUARD_BYTE) {
                check_fail(check, "%s: %s wrote %d bytes %s", buffer->name, who,
                           end ? i + 1 : GUARD_SIZE - i, end ? "past its end" : "before its begin");
                break;
            }
    if (!buffer->constant || !buffer->size)
        return;
    device->read(device, buffer->result[side], data, buffer->size);
    unsigned char *codes = buffer->result[side];
    for (size_t i = 0; buffer->weights && i < buffer->size; i++)
        if (!codes[i] && ((unsigned char *)buffer->host)[i] == 0x80)
            codes[i] = 0x80; /* write_codes may have made it 0 */
    if (memcmp(buffer->result[side], buffer->host, buffer->size) != 0)
        check_fail(check, "%s: %s changed an input", buffer->name, who);
}

void check_memory_release(struct check *check)
{
    for (struct check_memory *m = check->memory; m; m = m->next)
        for (int side = 0; side < 2 && !m->block; side++)
            check_intact(check, &m->buffer, side);
    while (check->memory) {
        struct check_memory *memory = check->memory;
        check->memory = memory->next;
        for (int side = 0; side < 2 && !memory->block; side++)
            check->device[side]->release(check->device[side],
                                         (char *)memory->buffer.data[side] - GUARD_SIZE);
        free(memory->block);
        free(memory);
    }
}

/* ---- fills ----------------------------------------------------------------------------------- */

const char *check_fill_name(enum check_fill fill)
{
    static const char *const names[CHECK_FILLS] = {"uniform", "normal",    "tiny", "huge",
                                                   "one-hot", "subnormal", "zeros"};
    return names[fill];
}

/* A random subnormal of the dtype, as f32. */
static float random_subnormal(struct check *check, enum rondo_dtype dtype)
{
    uint64_t bits = check_random(check);
    bool negative = bits >> 63;
    float value;
    switch (dtype) {
    case RONDO_F16:
        value = rondo_f16_to_f32(bits & 0x3ff);
        break;
    case RONDO_F8_E4M3:
        value = rondo_e4m3_to_f32(bits & 7);
        break;
    default: /* bf16 has the exponents of f32; rounding may give the smallest normal */
        value = rondo_bits_to_f32(bits & (dtype == RONDO_BF16 ? 0x7f0000 : 0x7fffff));
        break;
    }
    return negative ? -value : value;
}

static float random_value(struct check *check, enum rondo_dtype dtype, enum check_fill fill)
{
    bool f8 = dtype == RONDO_F8_E4M3;
    switch (fill) {
    case CHECK_UNIFORM:
        return (float)((2.0 * check_random_uniform(check) - 1.0) * (f8 ? 448 : 1));
    case CHECK_NORMAL:
        return (float)(check_random_normal(check) * (f8 ? 32 : 1));
    case CHECK_TINY:
        return (float)(check_random_normal(check) * (f8                   ? 0x1p-7
                                                     : dtype == RONDO_F16 ? 0x1p-12
                                                                          : 1e-18));
    case CHECK_HUGE:
        return (float)(check_random_normal(check) * (dtype == RONDO_F16 ? 1e3 : 1e15));
    case CHECK_SUBNORMAL:
        return random_subnormal(check, dtype);
    case CHECK_ZEROS:
        return check_random(check) & 1 ? -0.0f : 0.0f;
    default:
        return 0;
    }
}

static void fill_rows(struct check *check, const struct rondo_tensor *tensor, enum check_fill fill)
{
    int64_t columns = rondo_tensor_columns(tensor);
    for (int64_t row = 0; row < rondo_tensor_rows(tensor); row++) {
        void *data = rondo_tensor_row(tensor, row);
        for (int64_t i = 0; i < columns; i++)
            rondo_store(data, tensor->dtype, (size_t)i, random_value(check, tensor->dtype, fill));
        if (fill == CHECK_ONE_HOT && columns)
            rondo_store(data, tensor->dtype, (size_t)(check_random(check) % (uint64_t)columns),
                        1.0f);
    }
}

struct check_buffer *check_floats(struct check *check, int64_t n, enum check_fill fill,
                                  const char *name)
{
    struct check_buffer *buffer = check_buffer(check, (size_t)n * 4, name);
    struct rondo_tensor row = rondo_tensor_2d(buffer->host, RONDO_F32, 1, n, name);
    fill_rows(check, &row, fill);
    buffer->constant = true;
    check_upload(check, buffer);
    return buffer;
}

/* ---- tensors --------------------------------------------------------------------------------- */

/* The shape and scale shape of the host side; returns how many scales there are. */
static size_t set_shape(struct rondo_tensor *host, enum rondo_dtype dtype, int64_t rows,
                        int64_t columns, int64_t stride, enum check_scale scale, const char *name)
{
    *host = rondo_tensor_2d(NULL, dtype, rows, columns, name);
    host->row_stride = stride;
    if (scale == CHECK_SCALE_NONE)
        return 0;
    int64_t block_rows = scale == CHECK_SCALE_BLOCK ? RONDO_BLOCK : 1;
    int64_t block_columns = scale == CHECK_SCALE_ROW ? columns : RONDO_BLOCK;
    host->scale_rows = (int32_t)block_rows;
    host->scale_columns = (int32_t)block_columns;
    host->scale_stride = block_columns ? (columns + block_columns - 1) / block_columns : 1;
    return (size_t)((rows + block_rows - 1) / block_rows * host->scale_stride);
}

/* The addresses of a tensor that stands `at` bytes into its buffer, with its scales `scale_at` bytes into
 * theirs. */
static void set_sides(struct check_tensor *tensor, size_t at, size_t scale_at)
{
    tensor->host.data = (char *)tensor->buffer->host + at;
    if (tensor->scale)
        tensor->host.scale = (float *)tensor->scale->host + scale_at / sizeof(float);
    for (int side = 0; side < 2; side++) {
        tensor->side[side] = tensor->host;
        tensor->side[side].data = (char *)tensor->buffer->data[side] + at;
        if (tensor->scale)
            tensor->side[side].scale =
                (float *)tensor->scale->data[side] + scale_at / sizeof(float);
    }
}

/* Devices that do not take weights as a file has them have all their rows of 16 channels and more aligned. */
static int64_t row_stride(const struct check *check, enum rondo_dtype dtype, int64_t columns,
                          int64_t gap)
{
    int64_t unit = ALIGNMENT / (int64_t)rondo_dtype_size(dtype), stride = columns + gap;
    return check->in_place || columns % 16 ? stride : (stride + unit - 1) / unit * unit;
}

/* Codes whose scales are those of weights. */
static bool holds_weights(enum rondo_dtype dtype, enum check_scale scale)
{
    return dtype == RONDO_F8_E4M3 && (scale == CHECK_SCALE_BLOCK || scale == CHECK_SCALE_ROW);
}

static struct check_tensor *new_tensor(struct check *check, enum rondo_dtype dtype, int64_t rows,
                                       int64_t columns, int64_t gap, enum check_scale scale,
                                       const char *name)
{
    struct check_tensor *tensor = check_allocate(check, sizeof *tensor);
    int64_t stride = row_stride(check, dtype, columns, gap);
    size_t n_scales = set_shape(&tensor->host, dtype, rows, columns, stride, scale, name);
    tensor->buffer = check_output(check, (size_t)(rows * stride) * rondo_dtype_size(dtype), name);
    if (scale != CHECK_SCALE_NONE)
        tensor->scale = check_output(check, n_scales * sizeof(float), name);
    tensor->buffer->weights = holds_weights(dtype, scale);
    set_sides(tensor, 0, 0);
    return tensor;
}

static void fill_scales(struct check *check, struct check_buffer *scale, size_t first, size_t n)
{
    float *values = (float *)scale->host + first;
    for (size_t i = 0; i < n; i++)
        values[i] = (float)exp2(-10.0 + 8.0 * check_random_uniform(check));
}

struct check_tensor *check_tensor(struct check *check, enum rondo_dtype dtype, int64_t rows,
                                  int64_t columns, int64_t gap, enum check_scale scale,
                                  enum check_fill fill, const char *name)
{
    struct check_tensor *tensor = new_tensor(check, dtype, rows, columns, gap, scale, name);
    fill_rows(check, &tensor->host, fill);
    tensor->buffer->constant = true;
    check_upload(check, tensor->buffer);
    if (tensor->scale) {
        fill_scales(check, tensor->scale, 0, tensor->scale->size / sizeof(float));
        tensor->scale->constant = true;
        check_upload(check, tensor->scale);
    }
    return tensor;
}

struct check_tensor *check_tensor_output(struct check *check, enum rondo_dtype dtype, int64_t rows,
                                         int64_t columns, int64_t gap, enum check_scale scale,
                                         const char *name)
{
    return new_tensor(check, dtype, rows, columns, gap, scale, name);
}

/* Bytes from one array to the next where several stand evenly spaced, with guards between them. */
static size_t spacing(size_t size)
{
    return (size / ALIGNMENT + 2) * ALIGNMENT;
}

struct check_tensor *check_tensors(struct check *check, int32_t n, enum rondo_dtype dtype,
                                   int64_t rows, int64_t columns, enum check_scale scale,
                                   enum check_fill fill, const char *name)
{
    struct check_tensor *tensors = check_allocate(check, (size_t)n * sizeof *tensors);
    struct rondo_tensor shape;
    size_t n_scales = set_shape(&shape, dtype, rows, columns, columns, scale, name);
    size_t step = spacing((size_t)(rows * columns) * rondo_dtype_size(dtype));
    size_t scale_step = spacing(n_scales * sizeof(float));
    struct check_buffer *data = check_output(check, (size_t)n * step, name), *scales = NULL;
    data->weights = holds_weights(dtype, scale);
    if (scale != CHECK_SCALE_NONE)
        scales = check_output(check, (size_t)n * scale_step, name);
    for (size_t i = 0; i < (size_t)n; i++) {
        tensors[i] = (struct check_tensor){.buffer = data, .scale = scales, .host = shape};
        set_sides(&tensors[i], i * step, i * scale_step);
        fill_rows(check, &tensors[i].host, fill);
        if (scales)
            fill_scales(check, scales, i * scale_step / sizeof(float), n_scales);
    }
    data->constant = true;
    check_upload(check, data);
    if (scales) {
        scales->constant = true;
        check_upload(check, scales);
    }
    return tensors;
}

struct check_buffer *check_float_rows(struct check *check, int32_t n, int64_t columns,
                                      enum check_fill fill, const char *name, int64_t *stride)
{
    *stride = (int64_t)(spacing((size_t)columns * sizeof(float)) / sizeof(float));
    struct check_buffer *buffer =
        check_output(check, (size_t)n * (size_t)*stride * sizeof(float), name);
    struct rondo_tensor rows = rondo_tensor_2d(buffer->host, RONDO_F32, n, columns, name);
    rows.row_stride = *stride;
    fill_rows(check, &rows, fill);
    buffer->constant = true;
    check_upload(check, buffer);
    return buffer;
}
