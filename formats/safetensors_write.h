/* Writing safetensors files: atomically, and from any number of threads. */
#ifndef RONDO_FORMATS_SAFETENSORS_WRITE_H
#define RONDO_FORMATS_SAFETENSORS_WRITE_H

#include "core/rondo.h"

/* A tensor to be written. Its bytes come later, in any order. */
struct rondo_safetensors_item {
    const char *name;
    enum rondo_dtype dtype;
    int n_dims; /* 0 to 4 */
    int64_t shape[4];
};

uint64_t rondo_safetensors_item_size(const struct rondo_safetensors_item *item);

/* The header of these items in this order, its 8 bytes of length included, padded so that data begins at a
 * multiple of 64; malloc'ed. */
char *rondo_safetensors_header(const struct rondo_safetensors_item *items, size_t n_items,
                               size_t *size, struct rondo_error *error);

struct rondo_safetensors_writer;

/* Begins a file under a temporary name beside `path`, with its header and its full size. Tensors follow each
 * other in the order of the items: put large dtypes first to keep all of them aligned. */
struct rondo_safetensors_writer *
rondo_safetensors_create(const char *path, const struct rondo_safetensors_item *items,
                         size_t n_items, struct rondo_error *error);
/* Writes bytes [offset, offset + size) of item `index`. May be called from several threads at once. */
int rondo_safetensors_write(struct rondo_safetensors_writer *writer, size_t index, uint64_t offset,
                            const void *bytes, size_t size, struct rondo_error *error);
/* Syncs and renames; releases the writer, whether or not it succeeds. On failure nothing stays behind. */
int rondo_safetensors_finish(struct rondo_safetensors_writer *writer, struct rondo_error *error);
/* Removes the temporary file and releases the writer. Accepts NULL. */
void rondo_safetensors_abort(struct rondo_safetensors_writer *writer);

#endif
