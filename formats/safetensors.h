/* safetensors files: 8 bytes of header length, a JSON header, then the tensors' bytes. Read through a mapping. */
#ifndef RONDO_FORMATS_SAFETENSORS_H
#define RONDO_FORMATS_SAFETENSORS_H

#include "formats/mapping.h"

#define RONDO_SAFETENSORS_HEADER_LIMIT                                                             \
    ((uint64_t)100 << 20) /* bytes; the limit of the format's own library */

struct rondo_safetensors_tensor {
    const char *name;
    enum rondo_dtype dtype; /* RONDO_DTYPE_COUNT: one this library has no name for */
    char dtype_name[16];    /* as the file spells it, cut where it is longer */
    int n_dims;       /* at most 4; a tensor of an unnamed dtype is flattened when it has more */
    int64_t shape[4]; /* unused ones are 1 */
    uint64_t size;    /* bytes */
    const void *data; /* [size], aligned as the file has it */
};

struct rondo_safetensors {
    char *path;
    struct rondo_safetensors_tensor *tensors; /* [n_tensors], ascending by strcmp of the name */
    size_t n_tensors;
    char *names;                  /* what the tensors' names point into */
    struct rondo_mapping mapping; /* empty when the bytes are someone else's */
};

/* Maps a file and checks its header: offsets inside the file, in agreement with shape and dtype, without
 * overlap and without a gap at the end, no name twice. On failure *file is empty. */
int rondo_safetensors_open(struct rondo_safetensors *file, const char *path,
                           struct rondo_error *error);
/* The same over bytes in memory, which must outlive *file. */
int rondo_safetensors_parse(struct rondo_safetensors *file, const char *path, const void *bytes,
                            size_t size, struct rondo_error *error);
void rondo_safetensors_close(struct rondo_safetensors *file);

const struct rondo_safetensors_tensor *rondo_safetensors_find(const struct rondo_safetensors *file,
                                                              const char *name);

#endif
