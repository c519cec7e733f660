/* NumPy's .npy files. The format: numpy/lib/format.py, "Format Version 1.0". */
#include "formats/npy.h"

#include "core/error.h"
#include "formats/file.h"
#include "formats/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "\x93NUMPY"

/* ---- reading ---------------------------------------------------------------------------------- */

/* What follows 'key': in the header's dictionary, NULL when there is none. */
static const char *find_key(const char *header, const char *key)
{
    const char *at = strstr(header, key);
    at = at ? strchr(at + strlen(key), ':') : NULL;
    return at ? at + 1 + strspn(at + 1, " ") : NULL;
}

/* "(3, 4)", "(3,)" or "()". */
static int read_shape(struct rondo_npy *array, const char *at, const char *path,
                      struct rondo_error *error)
{
    array->count = 1;
    for (int i = 0; i < 4; i++)
        array->shape[i] = 1;
    if (!at || *at != '(')
        return rondo_fail(error, RONDO_FAILED, "%s: shape: not a tuple", path);
    for (at++; *at != ')';) {
        char *end;
        unsigned long long n = strtoull(at, &end, 10);
        if (end == at || *at == '-' || array->n_dims == 4 || n > UINT32_MAX)
            return rondo_fail(error, RONDO_FAILED, "%s: shape: not up to 4 dimensions below 2^32",
                              path);
        if (n != 0 && array->count > SIZE_MAX / 16 / n)
            return rondo_fail(error, RONDO_FAILED, "%s: shape: the array is too large", path);
        array->shape[array->n_dims++] = (int64_t)n;
        array->count *= (size_t)n;
        at = end + strspn(end, " ,");
    }
    return RONDO_OK;
}

/* `bytes` is NUL-terminated past its end. */
static int parse(struct rondo_npy *array, char *bytes, size_t size, const char *path,
                 struct rondo_error *error)
{
    if (size < 12 || memcmp(bytes, MAGIC, 6) != 0 || bytes[6] < 1 || bytes[6] > 3)
        return rondo_fail(error, RONDO_FAILED, "%s: not a .npy file of version 1 to 3", path);
    const unsigned char *length_bytes = (const unsigned char *)bytes + 8;
    bool wide = bytes[6] > 1;
    size_t start = wide ? 12 : 10;
    size_t length = length_bytes[0] | (size_t)length_bytes[1] << 8;
    if (wide)
        length |= (size_t)length_bytes[2] << 16 | (size_t)length_bytes[3] << 24;
    if (length == 0 || length > size - start)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: the header is truncated (got %zu, want %zu bytes)", path,
                          size - start, length);
    char *header = strndup(bytes + start, length);
    if (!header)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory", path);
    const char *type = find_key(header, "'descr'"), *order = find_key(header, "'fortran_order'");
    int status = RONDO_OK;
    array->is_double = type && strncmp(type, "'<f8'", 5) == 0;
    if (!array->is_double && !(type && strncmp(type, "'<f4'", 5) == 0))
        status = rondo_fail(error, RONDO_FAILED,
                            "%s: descr: not supported (got %.8s, want '<f4' or '<f8')", path,
                            type ? type : "nothing");
    else if (!order || strncmp(order, "False", 5) != 0)
        status =
            rondo_fail(error, RONDO_FAILED, "%s: fortran_order: not supported (want False)", path);
    else
        status = read_shape(array, find_key(header, "'shape'"), path, error);
    free(header);
    size_t want = status ? 0 : array->count * (array->is_double ? 8 : 4),
           got = size - start - length;
    if (!status && got != want)
        status = rondo_fail(error, RONDO_FAILED,
                            "%s: wrong length (got %zu, want %zu bytes of data)", path, got, want);
    if (!status) {
        array->data = malloc(want + 1);
        if (!array->data)
            return rondo_fail(error, RONDO_FAILED, "%s: out of memory (%zu bytes)", path, want);
        memcpy(array->data, bytes + start + length, want);
    }
    return status;
}

int rondo_npy_read(struct rondo_npy *array, const char *path, size_t limit,
                   struct rondo_error *error)
{
    size_t size;
    *array = (struct rondo_npy){0};
    char *bytes = rondo_file_read(path, limit, &size, error);
    if (!bytes)
        return RONDO_FAILED;
    int status = parse(array, bytes, size, path, error);
    free(bytes);
    return status;
}

void rondo_npy_free(struct rondo_npy *array)
{
    free(array->data);
    *array = (struct rondo_npy){0};
}

/* ---- writing ---------------------------------------------------------------------------------- */

struct rondo_npy_writer {
    struct rondo_output *output;
    char *path;
    uint64_t rows, columns, written;
};

int rondo_npy_header(char header[RONDO_NPY_HEADER], const char *name, uint64_t rows,
                     uint64_t columns, struct rondo_error *error)
{
    if (columns != 0 && rows > (UINT64_C(1) << 60) / 4 / columns)
        return rondo_fail(error, RONDO_FAILED, "%s: the array is too large (%llu by %llu)", name,
                          (unsigned long long)rows, (unsigned long long)columns);
    memset(header, ' ', RONDO_NPY_HEADER); /* a multiple of 64, as the format asks */
    memcpy(header, MAGIC "\x01\x00", 8);
    header[8] = (char)(RONDO_NPY_HEADER - 10);
    header[9] = 0;
    int n = snprintf(header + 10, RONDO_NPY_HEADER - 10,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%llu, %llu), }",
                     (unsigned long long)rows, (unsigned long long)columns);
    header[10 + n] = ' '; /* the terminating NUL */
    header[RONDO_NPY_HEADER - 1] = '\n';
    return RONDO_OK;
}

struct rondo_npy_writer *rondo_npy_create(const char *path, uint64_t rows, uint64_t columns,
                                          struct rondo_error *error)
{
    char header[RONDO_NPY_HEADER];
    if (rondo_npy_header(header, path, rows, columns, error))
        return NULL;
    struct rondo_npy_writer *writer = calloc(1, sizeof *writer);
    if (!writer || !(writer->path = strdup(path))) {
        rondo_fail(error, RONDO_FAILED, "%s: out of memory", path);
        free(writer);
        return NULL;
    }
    writer->rows = rows;
    writer->columns = columns;
    char *target = rondo_file_target(path, error);
    writer->output = target ? rondo_output_open(target, error) : NULL;
    free(target);
    if (!writer->output ||
        rondo_output_reserve(writer->output, RONDO_NPY_HEADER + rows * columns * 4, error) ||
        rondo_output_write(writer->output, 0, header, RONDO_NPY_HEADER, error)) {
        rondo_npy_abort(writer);
        return NULL;
    }
    return writer;
}

int rondo_npy_append(struct rondo_npy_writer *writer, const float *values, uint64_t n,
                     struct rondo_error *error)
{
    uint64_t row = writer->columns * sizeof *values;
    if (n > writer->rows - writer->written)
        return rondo_fail(error, RONDO_USAGE, "%s: too many rows (got %llu, want %llu)",
                          writer->path, (unsigned long long)(writer->written + n),
                          (unsigned long long)writer->rows);
    int status = rondo_output_write(writer->output, RONDO_NPY_HEADER + writer->written * row,
                                    values, (size_t)(n * row), error);
    if (!status)
        writer->written += n;
    return status;
}

int rondo_npy_finish(struct rondo_npy_writer *writer, struct rondo_error *error)
{
    int status = RONDO_OK;
    if (writer->written != writer->rows)
        status = rondo_fail(error, RONDO_USAGE, "%s: rows are missing (got %llu, want %llu)",
                            writer->path, (unsigned long long)writer->written,
                            (unsigned long long)writer->rows);
    if (!status) {
        status = rondo_output_finish(writer->output, error);
        writer->output = NULL;
    }
    rondo_npy_abort(writer);
    return status;
}

void rondo_npy_abort(struct rondo_npy_writer *writer)
{
    if (!writer)
        return;
    rondo_output_abort(writer->output);
    free(writer->path);
    free(writer);
}
