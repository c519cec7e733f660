/* NumPy's .npy files: matrices of float32 out, float32 and float64 arrays in. */
#ifndef RONDO_FORMATS_NPY_H
#define RONDO_FORMATS_NPY_H

#include "core/rondo.h"

/* An array read whole; C order. */
struct rondo_npy {
    void *data; /* [count] float or double, as `is_double` says; malloc'ed */
    bool is_double;
    int n_dims;       /* 0 to 4 */
    int64_t shape[4]; /* unused ones are 1 */
    size_t count;
};

/* Little-endian '<f4' and '<f8', versions 1.0 to 3.0, up to `limit` bytes of file. */
int rondo_npy_read(struct rondo_npy *array, const char *path, size_t limit,
                   struct rondo_error *error);
void rondo_npy_free(struct rondo_npy *array);

/* Bytes before the first value of what is written. */
#define RONDO_NPY_HEADER 128

/* The header of a float32 matrix, for who writes the rows behind it himself. Fails when the array is too large;
 * `name` stands in the message. */
int rondo_npy_header(char header[RONDO_NPY_HEADER], const char *name, uint64_t rows,
                     uint64_t columns, struct rondo_error *error);

struct rondo_npy_writer;

/* Begins a float32 file of shape [rows, columns] under a temporary name. */
struct rondo_npy_writer *rondo_npy_create(const char *path, uint64_t rows, uint64_t columns,
                                          struct rondo_error *error);
/* Appends n rows [n, columns]. */
int rondo_npy_append(struct rondo_npy_writer *writer, const float *values, uint64_t n,
                     struct rondo_error *error);
/* Fails unless exactly `rows` rows were appended. Releases the writer in any case. */
int rondo_npy_finish(struct rondo_npy_writer *writer, struct rondo_error *error);
void rondo_npy_abort(struct rondo_npy_writer *writer);

#endif
